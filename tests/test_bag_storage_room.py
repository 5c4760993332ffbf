"""Room that is set aside ahead of a growing file: how much, when not, and that nothing of it stays."""

import os

import numpy as np
import pytest
from storage_kit import channel_on, frames_of, rows_of

import bag
from bag.storage.disk import RawFile
from bag.storage.room import LEAST_BYTES, MOST_BYTES, SHARE, Room
from bag.storage.writer import BagWriter

PLENTY = 1 << 40


class Told(RawFile):
    """Notes what it is asked to set aside, and has as much left as it is told."""

    free = PLENTY
    possible = True

    def __init__(self, path):
        super().__init__(path, create=True)
        self.asked = []

    def free_bytes(self):
        return self.free

    def reserve(self, offset, size):
        self.asked.append((offset, size))
        return self.possible


@pytest.fixture
def file(tmp_path):
    file = Told(tmp_path / "data")
    yield file
    file.close()


def test_room_is_asked_for_ahead_of_what_grows_and_never_more_than_there_is(file):
    room = Room(file)
    start, step = 0, 1 << 20
    while start < 5 * MOST_BYTES:
        room.prepare(start, step)
        start += step
    offsets, sizes = zip(*file.asked, strict=True)
    # each behind the one before
    assert list(offsets) == [sum(sizes[:number]) for number in range(len(sizes))]
    assert all(size <= min(offset + step, MOST_BYTES) for offset, size in file.asked)
    assert sizes[0] == step
    assert sizes[-1] == MOST_BYTES
    assert len(file.asked) < 12


def test_what_is_larger_than_that_has_all_its_room(file):
    Room(file).prepare(100, 3 * MOST_BYTES)
    assert file.asked == [(100, 3 * MOST_BYTES)]


def test_little_that_is_written_asks_for_none(file):
    Room(file).prepare(1 << 30, LEAST_BYTES - 1)
    assert file.asked == []


def test_what_was_given_back_is_asked_for_again(file):
    room = Room(file)
    room.prepare(MOST_BYTES, LEAST_BYTES)
    room.prepare(MOST_BYTES + LEAST_BYTES, LEAST_BYTES)
    assert len(file.asked) == 1
    room.given_back(MOST_BYTES + LEAST_BYTES)
    room.prepare(MOST_BYTES + LEAST_BYTES, LEAST_BYTES)
    assert len(file.asked) == 2


def test_where_little_is_free_none_is_taken_from_others(file):
    file.free = SHARE * MOST_BYTES - 1
    room = Room(file)
    room.prepare(MOST_BYTES, LEAST_BYTES)
    assert file.asked == []
    file.free += 1
    room.prepare(2 * MOST_BYTES, LEAST_BYTES)
    assert file.asked == [(2 * MOST_BYTES, MOST_BYTES)]


def test_a_disk_that_cannot_is_asked_once(file):
    file.possible = False
    room = Room(file)
    room.prepare(0, MOST_BYTES)
    room.prepare(MOST_BYTES, MOST_BYTES)
    assert len(file.asked) == 1


# --- on a real disk


def occupied(path):
    return os.stat(path).st_blocks * 512


@pytest.fixture
def able(tmp_path):
    """A path on a disk that can set room aside."""
    file = RawFile(tmp_path / "try", create=True)
    able = file.reserve(0, 1 << 20) and occupied(file.path) >= 1 << 20
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
