"""Files that are no bags, lie, or were tampered with: refused in one sentence, and never followed."""

import contextlib
import json
import shutil
import struct

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_kit import Disk, channel_on, contents, frames_of, memory_directory, rows_of, write_bag

from bag.errors import BagBusyError, BagError, BagExistsError, BagFormatError, IntegrityError
from bag.storage import layout as names
from bag.storage.definitions import parse_definitions
from bag.storage.disk import RawFile, crc32
from bag.storage.reader import BagReader
from bag.storage.redo import COMMIT as JOURNAL_MAGIC
from bag.storage.redo import HEAD as JOURNAL_HEAD
from bag.storage.redo import apply_journal
from bag.storage.superblock import committed_end
from bag.storage.tail import FIRST, HEAD, HEAD_SIZE, RECORD, RECORD_CRC, Tail, decode_batch, make_head, read_tail
from bag.storage.writer import BagWriter


@pytest.fixture
def tmp_path():
    yield from memory_directory()


def message(k):
    return frames_of([1.5, np.arange(k, k + 6, dtype=np.float64)], k)


def cloud(k):
    return frames_of([np.full((k % 3, 2), k, np.float32)], k)


def odd(k):
    return [*message(k), b"surplus"]


TOPICS = {
    "/a": [message(k) for k in range(9)],
    "/cloud": [cloud(k) for k in range(9)],
    "/odd": [odd(k) for k in range(3)],
}


@pytest.fixture
def bag(tmp_path):
    write_bag(tmp_path / "run.h5", TOPICS)
    return tmp_path / "run.h5"


@pytest.fixture
def dead(tmp_path):
    """A bag whose writer died with messages in the tail."""
    path = tmp_path / "dead.h5"
    writer = BagWriter(path)
    known = writer.add_channel(channel_on("/a"))
    writer.append(known.id, rows_of("/a", TOPICS["/a"][:5]))
    writer.commit()
    writer.append(known.id, rows_of("/a", TOPICS["/a"][5:], 5))
    writer.abort()
    return path


def read_everything(path):
    with BagReader(path) as reader:
        reader.info()
        for topic in reader.topics:
            reader.gaps(topic)
            reader.raw(topic, 0, len(reader.topics[topic]))
        for order in ("log", "publish"):
            list(reader.merged(list(reader.topics), order))


# --- what is no bag


def test_a_file_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no bag .*none\.h5"):
        BagReader(tmp_path / "none.h5")


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x89HDF\r\n\x1a\n", bytes(4096)])
def test_a_file_that_is_not_hdf5_is_refused(tmp_path, content):
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    with pytest.raises(BagFormatError, match=r"x\.h5 cannot be read as HDF5"):
        BagReader(path)
    (tmp_path / "x.h5.journal").touch()
    with pytest.raises(BagFormatError, match=r"x\.h5"):
        BagReader(path)
    assert path.read_bytes() == content


def test_hdf5_that_is_no_bag_is_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = [1, 2]
    with pytest.raises(BagFormatError, match="is an HDF5 file but not a bag"):
        BagReader(tmp_path / "x.h5")


def test_a_newer_format_is_refused_in_one_sentence(bag):
    with h5py.File(bag, "r+") as file:
        file.attrs["format_version"] = np.array([names.FORMAT_MAJOR + 1, 0], np.uint32)
    with pytest.raises(BagFormatError, match=r"has bag format 2, this version reads up to 1; upgrade"):
        BagReader(bag)


def test_a_newer_minor_version_is_read(bag):
    with h5py.File(bag, "r+") as file:
        file.attrs["format_version"] = np.array([names.FORMAT_MAJOR, 9], np.uint32)
        book = file[names.BOOK]
        text = book[names.DEFINITIONS][()].tobytes() + b'{"poem":{"text":"later"}}\n'
        del book[names.DEFINITIONS]
        book[names.DEFINITIONS] = np.frombuffer(text, np.uint8)
        rows = book[names.TOPICS][()]
        wider = np.zeros(len(rows), [("later", "<f8"), *names.TOPIC_DTYPE.descr])
        for name in rows.dtype.names:
            wider[name] = rows[name]
        del book[names.TOPICS]
        book[names.TOPICS] = wider
    assert contents(bag) == TOPICS


def test_a_bag_that_is_being_written_is_busy_for_other_writers(tmp_path):
    path = tmp_path / "run.h5"
    with BagWriter(path) as writer:
        writer.add_channel(channel_on("/a"))
        with pytest.raises(BagBusyError, match="is being written by another process"):
            BagWriter(path, force=True)
    assert contents(path) == {"/a": []}


def test_a_bag_is_not_overwritten_unless_told(bag):
    with pytest.raises(BagExistsError, match="is already there"):
        BagWriter(bag)
    assert contents(bag) == TOPICS
    with BagWriter(bag, force=True):
        pass
    assert contents(bag) == {}


# --- what would lead out of the file


def replace(file, path, make):
    parent, name = path.rsplit("/", 1)
    del file[path]
    make(file[parent or "/"], name)


def outside(bag):
    other = bag.with_name("other.h5")
    shutil.copyfile(bag, other)
    return other


LEADS = {
    "external link": lambda other, path: lambda group, name: group.__setitem__(name, h5py.ExternalLink(other, path)),
    "soft link": lambda other, path: lambda group, name: group.__setitem__(name, h5py.SoftLink("/cloud/field0")),
    "external storage": lambda other, path: (
        lambda group, name: group.create_dataset(name, (9, 6), "<f8", external=[(str(other), 0, h5py.h5f.UNLIMITED)])
    ),
    "virtual dataset": lambda other, path: lambda group, name: group.create_virtual_dataset(name, virtual(other)),
    "group": lambda other, path: lambda group, name: group.create_group(name),
    "nothing": lambda other, path: lambda group, name: None,
}


def virtual(other):
    layout = h5py.VirtualLayout((9, 6), "<f8")
    layout[...] = h5py.VirtualSource(str(other), "/a/field1", (9, 6))
    return layout


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("path", ["/a/field1", "/a/_index", "/a/_metadata", "/_bag/runs", "/_bag/definitions"])
def test_what_leads_out_of_the_file_is_refused(bag, lead, path):
    with h5py.File(bag, "r+") as file:
        replace(file, path, LEADS[lead](str(outside(bag)), path))
    with pytest.raises(IntegrityError, match=r"only a link|is not a dataset|has no"):
        read_everything(bag)


@pytest.mark.parametrize("path", ["/a", "/_bag"])
def test_a_group_elsewhere_is_refused_also_when_the_bag_is_rolled_forward(dead, path):
    other = outside(dead)
    before = other.read_bytes()
    with h5py.File(dead, "r+") as file:
        replace(file, path, LEADS["external link"](str(other), path))
    # the end of the file moved: let the tail still fit
    tail = dead.with_name("dead.h5.tail")
    end = committed_end(RawFile(dead))
    _magic, commits, _end, start = HEAD.unpack_from(tail.read_bytes())
    tail.write_bytes(make_head(commits, end, start) + tail.read_bytes()[HEAD_SIZE:])
    with pytest.raises(IntegrityError, match=r"only a link|has no"):
        read_everything(dead)
    assert other.read_bytes() == before


# --- tables that lie


def rewrite(bag, table, change):
    with h5py.File(bag, "r+") as file:
        dataset = file[f"{names.BOOK}/{table}"]
        rows = dataset[()]
        rows = change(rows)
        del file[f"{names.BOOK}/{table}"]
        file[f"{names.BOOK}/{table}"] = rows


def field(name, value, row=0):
    def change(rows):
        rows[name][row] = value
        return rows

    return change


LIES = [
    (names.RUNS, field("channel", 99)), (names.RUNS, field("layout", 99)), (names.RUNS, field("topic", 99)),
    (names.RUNS, field("first", 1)), (names.RUNS, field("first", 2**63)), (names.RUNS, lambda rows: rows[:0]),
    (names.RUNS, lambda rows: rows[::-1]), (names.TOPICS, lambda rows: rows[:1]),
    (names.TOPICS, field("messages", 2**62)), (names.TOPICS, field("messages", 10)), (names.TOPICS, field("bytes", 0)),
    (names.TOPICS, lambda rows: rows[["messages"]].copy()), (names.RUNS, lambda rows: np.zeros(3)),
    (names.DEFINITIONS, lambda rows: rows[:-5]), (names.DEFINITIONS, lambda rows: rows[:0]),
    (names.DEFINITIONS, lambda rows: np.frombuffer(rows.tobytes().replace(b'"fixed"', b'"loose"'), np.uint8)),
    (names.DEFINITIONS, lambda rows: np.frombuffer(rows.tobytes().replace(b'"<f8"', b'"|O"'), np.uint8)),
    (names.DEFINITIONS, lambda rows: np.frombuffer(rows.tobytes().replace(b'"shape":[6]', b'"shape":[5]'), np.uint8)),
    (names.DEFINITIONS, lambda rows: np.frombuffer(rows.tobytes().replace(b'"shape":[6]', b'"shape":[-1]'), np.uint8)),
    (names.DEFINITIONS, lambda rows: np.frombuffer(rows.tobytes().replace(b'"columns":[', b'"columns":[7,'), np.uint8)),
    (names.DEFINITIONS, lambda rows: np.frombuffer(rows.tobytes().replace(b'"channel"', b'"canal"'), np.uint8)),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(LIES)))
def test_a_table_that_lies_gives_one_sentence_or_what_is_right(bag, number):
    table, change = LIES[number]
    rewrite(bag, table, change)
    with contextlib.suppress(BagError):
        read_everything(bag)


@pytest.mark.parametrize("table", [names.RUNS, names.TOPICS, names.DEFINITIONS])
def test_a_table_that_claims_more_than_is_stored_is_refused_without_reading_it(bag, table):
    with h5py.File(bag, "r+") as file:
        dtype = file[f"{names.BOOK}/{table}"].dtype
        del file[f"{names.BOOK}/{table}"]
        file[names.BOOK].create_dataset(table, (2**40,), dtype, chunks=(1024,))
    with pytest.raises(IntegrityError, match="claims"):
        BagReader(bag)


def test_offsets_that_go_down_are_refused(bag):
    with h5py.File(bag, "r+") as file:
        file["/cloud/field0.offsets"][3] = 2**40
    with pytest.raises(IntegrityError, match="offsets"):
        read_everything(bag)


def test_parts_that_do_not_add_up_are_refused(bag):
    with h5py.File(bag, "r+") as file:
        file["/odd/_frames"][4:12] = 255
    with pytest.raises(IntegrityError, match="parts"):
        read_everything(bag)


# --- definitions, tail and journal against garbage

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    "id",
    "topic",
    "path",
    "kind",
    "name",
    "dtype",
    "shape",
    "columns",
    "fingerprint",
    "text",
    "log_time_ns",
    "fields",
]
lines = st.dictionaries(
    st.sampled_from(["topic", "channel", "schema", "column", "layout", "mark", "expected", "else"]),
    json_values | st.dictionaries(st.sampled_from(KEYS), json_values),
    max_size=2,
).map(lambda value: json.dumps(value).encode())


@settings(max_examples=200, deadline=None)
@given(text=st.lists(lines | st.binary(max_size=20), max_size=4).map(b"\n".join))
def test_definitions_are_understood_or_refused(text):
    with contextlib.suppress(BagFormatError):
        parse_definitions(text, "x.h5")


@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=120), data=st.data())
def test_a_batch_is_decoded_or_refused(payload, data):
    if data.draw(st.booleans()):
        payload = struct.pack("<III", 0, data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))) + payload
    with contextlib.suppress(ValueError, struct.error):
        decode_batch(payload, b"/t", lambda offset, size: bytes(min(size, 100)))


def test_a_tail_is_read_up_to_the_first_torn_record(tmp_path):
    file = RawFile(tmp_path / "tail", create=True)
    tail = Tail(file, 3, 1000)
    for number in range(4):
        tail.note({"mark": ["x" * number, number]})
    whole = (tmp_path / "tail").read_bytes()
    for size in range(len(whole) + 1):
        file.truncate(0)
        file.write_at(0, whole[:size])
        found = [json.loads(record.payload)["mark"][1] for record in read_tail(file, 3, 1000)]
        assert found == list(range(len(found)))
        assert (len(found) == 4) == (size == len(whole))
    assert list(read_tail(file, 4, 1000)) == []
    assert list(read_tail(file, 3, 1001)) == []


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_a_flipped_bit_in_the_tail_ends_it(dead, at):
    tail = dead.with_name("dead.h5.tail")
    content = bytearray(tail.read_bytes())
    content[FIRST + at] ^= 4
    tail.write_bytes(content)
    assert contents(dead) == {"/a": TOPICS["/a"][:5]}


def test_a_whole_record_that_cannot_be_understood_stays_in_the_tail_and_is_told_of(dead, caplog):
    tail = dead.with_name("dead.h5.tail")
    for payload in (b"{}[", b'{"note": 7}', b'{"channel": {"id": 1}}'):
        content = tail.read_bytes()
        head = RECORD.pack(len(payload), 0, 1)
        tail.write_bytes(content + RECORD_CRC.pack(crc32(payload, crc32(head))) + head + payload)
        with BagReader(dead) as reader:
            assert reader.rolled_forward.problem
            assert len(reader.topics["/a"]) == 5
        assert tail.exists()
        tail.write_bytes(content)
    assert "opens as of its last commit" in caplog.text
    assert contents(dead) == {"/a": TOPICS["/a"]}


def test_a_large_frame_that_did_not_reach_the_disk_is_accounted_for(tmp_path):
    path = tmp_path / "run.h5"
    large = [frames_of([np.full(70_000, k, np.uint8)], k) for k in range(4)]
    disk = Disk()
    writer = BagWriter(path, opener=disk)
    known = writer.add_channel(channel_on("/t"))
    writer.append(known.id, rows_of("/t", large[:1]))
    writer.commit()
    for k in (1, 2, 3):
        writer.append(known.id, rows_of("/t", [large[k]], k))
    writer.abort()
    # as after a power cut: the tail is on the disk, one of the frames is not
    place = path.read_bytes().index(large[2][2])
    file = RawFile(path)
    file.write_at(place + 5, bytes(3))
    file.close()
    assert contents(path) == {"/t": [large[0], large[1], large[3]]}
    with BagReader(path) as reader:
        assert [(gap.first_sequence, gap.kind) for gap in reader.gaps("/t")] == [(2, "lost_by_us")]


def test_a_journal_of_another_file_is_not_applied(bag):
    journal = bag.with_name("run.h5.journal")
    page = bytes(512)
    head = JOURNAL_HEAD.pack(JOURNAL_MAGIC, 123_456, 123_999, 1) + struct.pack("<Q", 0) + page
    journal.write_bytes(head + struct.pack("<I", crc32(head)))
    before = bag.read_bytes()
    with pytest.raises(BagFormatError, match=r"run\.h5\.journal does not belong to .*run\.h5"):
        BagReader(bag)
    assert bag.read_bytes() == before
    journal.unlink()
    assert contents(bag) == TOPICS


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=700))
def test_a_journal_that_is_garbage_is_ignored(tmp_path_factory, content):
    directory = tmp_path_factory.mktemp("journal")
    data, journal = RawFile(directory / "d", create=True), RawFile(directory / "j", create=True)
    data.write_at(0, b"data")
    journal.write_at(0, JOURNAL_MAGIC[: len(content) % 9] + content)
    assert apply_journal(data, journal) is False
    assert (data.read_at(0, 100), journal.size()) == (b"data", 0)


def test_stray_sidecars_of_a_closed_bag_are_cleared_away(bag):
    before = bag.read_bytes()
    bag.with_name("run.h5.journal").write_bytes(b"torn")
    bag.with_name("run.h5.tail").write_bytes(make_head(0, 0, 0) + bytes(40))
    assert contents(bag) == TOPICS
    assert bag.read_bytes() == before
    assert [path.name for path in bag.parent.iterdir()] == ["run.h5"]
