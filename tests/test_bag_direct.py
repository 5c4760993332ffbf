"""Large rows read straight from the file are the rows that HDF5 reads; what is elsewhere is left to HDF5."""

import struct
from contextlib import closing

import h5py
import numpy as np
import pytest

from bag.direct import DirectColumn, DirectFile
from bag.edit import FilterOptions, filter_bag
from bag.records import Channel
from bag.storage import BagWriter
from bag.storage.reader import BagReader
from cortex.messages.standard import ArrayMessage

COUNT = 6


def write(path, shape):
    """Six arrays of one shape; their parts 1..N."""
    fingerprint, frames = ArrayMessage.fingerprint(), []
    with BagWriter(path) as writer:
        channel = writer.add_channel(Channel(0, "/a", "ArrayMessage", fingerprint, "n", "ipc:///d/topics/a.sock"))
        for number in range(COUNT):
            body = ArrayMessage(np.random.default_rng(number).integers(0, 4, shape, np.uint8)).to_frames(0)[1:]
            parts = [bytes(memoryview(part).cast("B")) for part in body]
            frames.append([struct.pack(">QQQ", fingerprint, 1000 + number, number), *parts])
            writer.append(channel.id, [(1000 + number, number, [b"/a", *frames[-1]])])
            writer.commit()
    return frames


@pytest.fixture
def opened(tmp_path):
    """Opens a bag of arrays of a shape with and without direct reading."""
    closing = []

    def opened(shape):
        path = tmp_path / "run.h5"
        frames = write(path, shape)
        reader, file = BagReader(path), DirectFile(path)
        closing.extend([reader, file])
        topic = reader.topics["/a"]
        file.improve(topic)
        return topic, frames

    yield opened
    for one in closing:
        one.close()


@pytest.mark.parametrize("shape", [(256, 300, 3), (70_000,)])
def test_large_rows_are_read_directly_and_are_the_same(shape, opened):
    topic, frames = opened(shape)
    assert isinstance(topic.column(topic.buffer_columns()[0].number), DirectColumn)
    assert [[bytes(part) for part in parts] for parts in topic.frames(0, COUNT)] == frames
    assert [[bytes(part) for part in parts] for parts in topic.frames(2, 4)] == frames[2:4]


@pytest.mark.parametrize("raw", [(), (0, 3), tuple(range(COUNT))])
def test_raw_rows_beside_compressed_ones_are_read_directly(raw, tmp_path, monkeypatch):
    frames = write(tmp_path / "run.h5", (256, 300, 3))
    filter_bag(tmp_path / "run.h5", tmp_path / "packed.h5", FilterOptions(compression="gzip"))
    with BagReader(tmp_path / "packed.h5") as reader:
        path = reader.topics["/a"].buffer_columns()[0].path
    with h5py.File(tmp_path / "packed.h5", "r+") as file:
        values = file[path].id
        passed_over = (1 << values.get_create_plist().get_nfilters()) - 1
        assert passed_over
        for row in raw:
            values.write_direct_chunk((row, 0, 0, 0), frames[row][-1], filter_mask=passed_over)
    direct = []
    read = DirectFile.read
    monkeypatch.setattr(DirectFile, "read", lambda *found: direct.append(found) or read(*found))
    with BagReader(tmp_path / "packed.h5") as reader, closing(DirectFile(tmp_path / "packed.h5")) as file:
        file.improve(reader.topics["/a"])
        assert [[bytes(part) for part in parts] for parts in reader.topics["/a"].frames(0, COUNT)] == frames
    assert len(direct) == len(raw)


def test_small_rows_are_read_as_ever(opened):
    topic, frames = opened((10,))
    assert not isinstance(topic.column(topic.buffer_columns()[0].number), DirectColumn)
    assert [[bytes(part) for part in parts] for parts in topic.frames(0, COUNT)] == frames


def test_what_cannot_be_read_directly_is_left_to_hdf5(opened, monkeypatch):
    topic, frames = opened((256, 300, 3))
    monkeypatch.setattr(DirectFile, "read", lambda self, offset, size: None)
    assert [[bytes(part) for part in parts] for parts in topic.frames(0, COUNT)] == frames
