"""Room that is set aside ahead of a growing file: how much, when not, and that nothing of it stays."""

import os
from itertools import pairwise

import numpy as np
import pytest
from storage_kit import channel_on, frames_of, rows_of

import bag
from bag.storage.disk import RawFile
from bag.storage.room import LEAST_BYTES, MOST_BYTES, SHARE, Room
from bag.storage.writer import BagWriter

PLENTY = 1 << 40
MB = 1 << 20


class Told(RawFile):
    """Notes what it is asked to set aside, and has as much left as it is told."""

    free = PLENTY
    possible = True
    on_disk = True

    def __init__(self, path, *, create=True):
        super().__init__(path, create=create)
        self.asked = []

    def free_bytes(self):
        if isinstance(self.free, Exception):
            raise self.free
        return self.free

    def reserve(self, offset, size):
        self.asked.append((offset, size))
        return self.possible


@pytest.fixture
def file(tmp_path):
    file = Told(tmp_path / "data")
    yield file
    file.close()


def grow(room, start, end, step=MB):
    for at in range(start, end, step):
        room.prepare(at, step)


def test_as_much_is_asked_for_as_has_come_and_each_time_behind_what_was(file):
    room = Room(file)
    grow(room, 0, 5 * MOST_BYTES)
    assert file.asked[0] == (LEAST_BYTES - MB, MB + LEAST_BYTES)
    for (offset, size), (following, _size) in pairwise(file.asked):
        assert following == offset + size
    # what it is told to set aside holds the message at hand, too
    assert all(size - MB <= min(offset + MB, MOST_BYTES) for offset, size in file.asked)
    assert file.asked[-1][1] == MOST_BYTES + MB
    assert len(file.asked) < 12


def test_where_little_comes_between_two_cuts_nothing_is_asked_for(file):
    room = Room(file)
    for start in range(0, 100 * MB, 3 * MB):
        grow(room, start, start + 3 * MB)
        room.given_back(start + 3 * MB)
    assert file.asked == []


def test_what_was_given_back_is_asked_for_again(file):
    room = Room(file)
    grow(room, 0, 8 * MB)
    asked = len(file.asked)
    room.given_back(8 * MB)
    grow(room, 8 * MB, 12 * MB)
    assert file.asked[asked:] == [(11 * MB, MB + LEAST_BYTES)]


def test_where_little_is_free_none_is_taken_from_others(file):
    file.free = SHARE * MOST_BYTES - 1
    room = Room(file)
    room.prepare(0, MOST_BYTES)
    assert file.asked == []
    file.free += 1
    room.prepare(2 * MOST_BYTES, MB)
    assert file.asked == [(2 * MOST_BYTES, MB + MOST_BYTES)]


@pytest.mark.parametrize("why", ["refused", "on no device", OSError(38, "not implemented"), ImportError("no ctypes")])
def test_where_it_is_not_possible_the_bag_goes_on_without(why, tmp_path):
    class Unable(Told):
        possible = why != "refused"
        on_disk = why != "on no device"
        free = why if isinstance(why, Exception) else PLENTY

    files = []

    def opener(path, *, create=False):
        files.append(Unable(path, create=create))
        return files[-1]

    with BagWriter(tmp_path / "run.h5", opener=opener) as writer:
        for _ in images(writer, 0, 20):
            pass
    assert sum(len(file.asked) for file in files) == (1 if why == "refused" else 0)
    with bag.open(tmp_path / "run.h5") as run:
        assert len(run["/image"]) == 20


# --- on a real disk


def occupied(path):
    return os.stat(path).st_blocks * 512


@pytest.fixture
def able(tmp_path):
    """A path on a disk that can set room aside."""
    file = RawFile(tmp_path / "try", create=True)
    able = file.on_disk and file.reserve(0, 1 << 20) and occupied(file.path) >= 1 << 20
    assert file.size() == 0
    file.truncate(0)
    assert not able or occupied(file.path) < 1 << 20
    file.close()
    if not able:
        pytest.skip("this file system cannot set room aside")
    return tmp_path / "run.h5"


def images(writer, first, last):
    """Append images of 1 MB, and yield after each."""
    channel = next(iter(writer.channels), None) or writer.add_channel(channel_on("/image"))
    for number in range(first, last):
        image = np.zeros(1_000_000, np.uint8)
        writer.append(channel.id, rows_of("/image", [frames_of([image], number)]))
        yield


def ahead_of(path):
    return occupied(path) - path.stat().st_size


def test_while_a_bag_grows_the_disk_is_ahead_of_it_and_afterwards_not(able):
    with BagWriter(able) as writer:
        assert max(ahead_of(able) for _ in images(writer, 0, 20)) > 4_000_000
        writer.commit()
        # HDF5 cuts it with every commit
        assert ahead_of(able) < 1 << 20
        assert max(ahead_of(able) for _ in images(writer, 20, 30)) > 4_000_000
    assert ahead_of(able) < 1 << 20


def test_what_a_killed_writer_left_set_aside_is_given_back_when_its_bag_is_opened(able):
    writer = BagWriter(able)
    for _ in images(writer, 0, 5):
        pass
    writer.commit()
    for _ in images(writer, 5, 20):
        pass
    assert ahead_of(able) > 1 << 21
    writer.abort()
    with bag.open(able) as run:
        assert len(run["/image"]) == 20
    assert ahead_of(able) < 1 << 20


def test_it_is_given_back_also_while_somebody_reads_an_earlier_commit(able):
    writer = BagWriter(able, keep_tail=False)
    for _ in images(writer, 0, 5):
        pass
    writer.commit()
    with bag.open(able) as reader:
        for _ in images(writer, 5, 20):
            pass
        assert ahead_of(able) > 1 << 21
        writer.abort()
        with bag.open(able) as run:
            assert len(run["/image"]) == len(reader["/image"]) == 5
        assert ahead_of(able) < 1 << 20
