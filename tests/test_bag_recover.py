"""Recover: everything whose checksum still holds comes back, nothing is made up, and the damaged bag is left alone."""

import random

import h5py
import numpy as np
import pytest
from damaging import Holding, contents, damage, needs, proofs
from made_bags import sample

from bag.edit import FilterOptions, filter_bag
from bag.errors import BagBusyError, BagError, BagFormatError, UsageError
from bag.storage import BagWriter
from bag.storage.chunks import crc32, mended
from bag.storage.recover import recover
from bag.storage.verify import verify

NAMES = ("robot", "gaps", "custom")


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_bag_comes_back_whole(name, tmp_path):
    report = recover(sample(name), tmp_path / "new.h5")
    assert (report.lost, report.notes) == (0, ())
    assert report.verified.whole
    assert contents(tmp_path / "new.h5") == contents(sample(name))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "packed.h5"
    filter_bag(sample("robot"), path, FilterOptions(compression="gzip"))
    return path


@pytest.mark.parametrize("block", range(8))
def test_of_200_randomly_damaged_bags_everything_whose_crc_still_holds_comes_back(block, packed, tmp_path):
    paths = [*map(sample, NAMES), packed]
    known = [(path.read_bytes(), proofs(path), needs(path), contents(path)) for path in paths]
    bad, new = tmp_path / "bad.h5", tmp_path / "new.h5"
    owed = 0
    for number in range(block * 25, block * 25 + 25):
        data, rows, needed, truth = known[number % 4]
        broken, _where = damage(data, random.Random(number))
        bad.write_bytes(broken)
        try:
            recover(bad, new, force=True)
            found = contents(new)
        except BagFormatError:
            found = {}
        assert bad.read_bytes() == broken
        for topic, messages in found.items():
            assert set(messages) <= set(truth.get(topic, ())), f"case {number} made up messages of {topic}"
        holding = Holding(rows, data, broken)
        for topic, messages in truth.items() if holding.book else ():
            whole = {message for message, need in zip(messages, needed[topic], strict=True) if holding.all_of(need)}
            assert whole <= set(found.get(topic, ())), f"case {number} lost whole messages of {topic}"
            owed += len(whole)
    assert owed > 500


def test_a_wrong_byte_in_the_table_of_checksums_condemns_nothing(tmp_path):
    rows = [row for key, found in proofs(sample("robot")).items() if key[0] >= 16 for row in found]
    data = sample("robot").read_bytes()
    with h5py.File(sample("robot")) as file:
        table = file["/_bag/checksums"]
        start = table.id.get_chunk_info(0).byte_offset
        end = start + len(table) * table.dtype.itemsize
    # the table of full chunks, which has a checksum itself; the CRC, the size, the chunk, the offset of a row
    hurt = next(row for row in rows if start <= row.row[0] < end)
    for byte in (4, 8, 12, 20):
        at = hurt.row[0] + byte
        (tmp_path / "bad.h5").write_bytes(data[:at] + bytes([data[at] ^ 0x11]) + data[at + 1 :])
        assert recover(tmp_path / "bad.h5", tmp_path / "new.h5", force=True).lost == 0, byte
        assert contents(tmp_path / "new.h5") == contents(sample("robot"))


def test_what_was_lost_is_counted_and_blamed_on_us(tmp_path):
    bad = tmp_path / "bad.h5"
    data = bytearray(sample("robot").read_bytes())
    # the image of message 7
    column, chunk, _size = max(needs(sample("robot"))["/camera/image"][7], key=lambda need: need[2])
    start = proofs(sample("robot"))[column, chunk][0].start
    data[start : start + 64] = bytes(64) if any(data[start : start + 64]) else b"x" * 64
    bad.write_bytes(data)
    report = recover(bad, tmp_path / "new.h5")
    lost = {topic.topic: topic.lost for topic in report.topics}
    assert sum(lost.values()) == lost["/camera/image"] > 0
    assert not verify(bad).whole
    assert report.verified.whole


def test_a_single_wrong_byte_in_the_definitions_is_put_right(tmp_path):
    data = bytearray(sample("robot").read_bytes())
    at = data.index(b'{"topic":{"id":0')
    data[at + 20] ^= 0x10
    (tmp_path / "bad.h5").write_bytes(data)
    assert recover(tmp_path / "bad.h5", tmp_path / "new.h5").lost == 0
    assert contents(tmp_path / "new.h5") == contents(sample("robot"))


def test_mending_finds_the_byte_wherever_it_is():
    chance = random.Random(4)
    for size in (1, 2, 100, 4096):
        data = chance.randbytes(size)
        at = chance.randrange(size)
        wrong = data[:at] + bytes([data[at] ^ chance.randint(1, 255)]) + data[at + 1 :]
        assert mended(wrong, crc32(data)) == data
    assert mended(b"two wrong bytes", crc32(b"TWo wrong bytes")) is None


def test_without_any_of_hdf5s_structures_the_messages_are_still_found(tmp_path):
    data = bytearray(sample("robot").read_bytes())
    data[:96] = bytes(96)
    while (at := data.find(b"TREE")) >= 0:
        data[at : at + 4] = b"\0\0\0\0"
    (tmp_path / "bad.h5").write_bytes(data)
    with pytest.raises(BagFormatError):
        verify(tmp_path / "bad.h5")
    report = recover(tmp_path / "bad.h5", tmp_path / "new.h5")
    assert report.notes
    assert contents(tmp_path / "new.h5") == contents(sample("robot"))


def test_a_bag_whose_recorder_died_is_recovered_from_a_copy(tmp_path):
    path = tmp_path / "run.h5"
    writer = BagWriter(path)
    channel = writer.add_channel(_channel())
    rows = [(at, at, [b"/a", np.array([7, at, at], ">u8").tobytes(), b"\x90"]) for at in range(10)]
    writer.append(channel.id, rows[:5])
    writer.commit()
    writer.append(channel.id, rows[5:])
    with pytest.raises(BagBusyError):
        recover(path, tmp_path / "new.h5")
    writer.abort()
    before = {item.name: item.read_bytes() for item in tmp_path.iterdir()}
    report = recover(path, tmp_path / "new.h5")
    assert report.kept == 10
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir() if item.name != "new.h5"} == before


def test_the_output_is_never_the_input_and_nothing_is_left_of_a_failure(tmp_path):
    (tmp_path / "junk.h5").write_bytes(b"no bag at all" * 100)
    with pytest.raises(UsageError):
        recover(tmp_path / "junk.h5", tmp_path / "junk.h5")
    with pytest.raises(BagError, match="nothing of a bag"):
        recover(tmp_path / "junk.h5", tmp_path / "new.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["junk.h5"]


def _channel():
    from bag.records import Channel

    return Channel(0, "/a", "A", 7, "node", "ipc:///tmp/a.sock")
