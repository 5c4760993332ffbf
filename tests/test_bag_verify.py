"""Verify: a whole bag passes, and each kind of damage or contradiction is told by its name."""

import shutil

import h5py
import numpy as np
import pytest
from made_bags import sample

from bag.errors import BagFormatError
from bag.storage.verify import verify


@pytest.fixture
def copy(tmp_path):
    def make(name="gaps"):
        return shutil.copy(sample(name), tmp_path / "run.h5")

    return make


@pytest.mark.parametrize("name", ["robot", "gaps", "custom"])
def test_a_whole_bag_is_whole(name):
    report = verify(sample(name))
    assert report.whole
    assert report.closed_cleanly
    assert report.chunks > 0


def _problems(path):
    report = verify(path)
    assert not report.whole
    return " ".join([*report.problems, *(problem for topic in report.topics for problem in topic.problems)])


def _change(path, table, change):
    with h5py.File(path, "r+") as file:
        rows = file[table][()]
        change(rows)
        file[table][...] = rows


def test_a_wrong_byte_of_a_message_is_found_and_placed(copy):
    path = copy()
    with h5py.File(path, "r+") as file:
        file["/counter/data"][3] = 0
    assert "chunk 0 of /counter/data" in _problems(path)
    assert "CRC" in _problems(path)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("messages", 30, "/counter"),
        ("bytes", 1, "summary says bytes = 1"),
        ("lost_before_us", 7, "lost_before_us = 7"),
        ("first_log_ns", 0, "first_log_ns = 0"),
    ],
)
def test_a_summary_that_the_messages_do_not_bear_out_is_found(copy, field, value, told):
    path = copy()
    _change(path, "/_bag/topics", lambda rows: rows.__setitem__(field, [value, rows[field][1]]))
    assert told.removeprefix("/counter") in _problems(path)


def test_a_ledger_without_its_checksum_is_found(copy):
    path = copy()
    _change(path, "/_bag/ledger", lambda rows: rows["count"].__setitem__(0, 1))
    assert "damaged" in _problems(path)


def test_a_ledger_that_hides_a_loss_is_found_though_its_checksum_is_right(copy):
    path = copy()
    with h5py.File(path, "r+") as file:
        rows = file["/_bag/ledger"][()]
        at = int(np.flatnonzero(rows["kind"] == 2)[0])
        rows["count"][at] = 1
        file["/_bag/ledger"][...] = rows
        _mend_checksum(file, "/_bag/ledger", 2)
    text = _problems(path)
    assert "the ledger lacks lost_before_us 15..19 (5)" in text
    assert "which the sequence numbers do not bear out" in text


def _mend_checksum(file, path, column):
    from bag.storage.disk import crc32

    table = file["/_bag/open_chunks"]
    rows = table[()]
    at = int(np.flatnonzero(rows["column"] == column)[0])
    rows["crc"][at] = crc32(file[path][()].tobytes())
    table[...] = rows


def test_a_chunk_without_a_checksum_is_found(copy):
    path = copy("robot")
    with h5py.File(path, "r+") as file:
        file["/_bag/checksums"].resize((0,))
        file["/_bag/open_chunks"].resize((3,))
    assert "/" in _problems(path)


def test_what_is_no_bag_cannot_be_checked(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"x" * 5000)
    with pytest.raises(BagFormatError):
        verify(tmp_path / "x.h5")


def test_a_bag_of_before_chunks_could_be_packed_is_whole(copy):
    path = copy()
    with h5py.File(path, "r+") as file:
        for name in ("_bag/checksums", "_bag/open_chunks"):
            rows = file[name][:]
            kept = np.empty(len(rows), [(field, rows.dtype[field]) for field in rows.dtype.names if field != "packed"])
            for field in kept.dtype.names:
                kept[field] = rows[field]
            del file[name]
            file.create_dataset(name, data=kept, maxshape=(None,), chunks=(16,))
    assert verify(path).whole
