"""Arrays of bags as recorders leave them: compressed with some chunks raw, not closed, or still being written."""

import h5py
import numpy as np
import pytest
from storage_kit import channel_on, frames_of, rows_of

import bag
from bag.storage import BagWriter
from bag.storage.compressor import Compressor

SHAPE = (120, 160, 3)
FRAMES = [np.full(SHAPE, number, np.uint8) for number in range(24)]
ROWS = [np.arange(number, number + 10.0) for number in range(3000)]


def fill(writer, compressor=None):
    camera, imu = (writer.add_channel(channel_on(topic)).id for topic in ("/camera", "/imu"))
    for start in range(0, 24, 4):
        if compressor is not None:
            compressor.pressed = 8 <= start < 16
        numbers = range(start, start + 4)
        writer.append(camera, rows_of("/camera", [frames_of([FRAMES[n]], n) for n in numbers], start))
        rows = range(start * 125, start * 125 + 500)
        writer.append(imu, rows_of("/imu", [frames_of([ROWS[n]], n) for n in rows], rows[0]))
        writer.commit()


@pytest.fixture(params=["packed and raw", "interrupted", "being recorded"])
def recording(request, tmp_path):
    path = tmp_path / "run.h5"
    if request.param == "packed and raw":
        compressor = Compressor("gzip")
        with BagWriter(path, compressor=compressor) as writer:
            fill(writer, compressor)
        compressor.close()
        with h5py.File(path) as file:
            masks = []
            file["camera/field0"].id.chunk_iter(lambda info: masks.append(info.filter_mask))
        assert {mask == 0 for mask in masks} == {True, False}
        yield path
        return
    writer = BagWriter(path)
    fill(writer)
    if request.param == "interrupted":
        writer.abort()
        yield path
        return
    yield path
    writer.close()


def test_every_way_of_reading_gives_what_was_sent(recording):
    frames, rows = np.stack(FRAMES), np.stack(ROWS)
    with bag.open(recording) as run:
        camera, imu = run["/camera"]["field0"], run["/imu"]["field0"]
        assert np.array_equal(camera[:], frames)
        assert np.array_equal(imu[:], rows)
        for key in (
            np.s_[5:19],
            np.s_[::-3],
            np.s_[[3, 9, 10, 22]],
            np.s_[7],
            np.s_[2:20, 10:20, ::7],
            np.s_[:, :, :, 1],
            np.s_[4:, 5, 6],
            np.s_[..., 2],
            np.s_[3:9, 7:7],
        ):
            assert np.array_equal(camera[key], frames[key]), key
        for key in (np.s_[100:2000, 3], np.s_[::250], np.s_[-1], np.s_[700:1600, 2:9:3], np.s_[..., -1:]):
            assert np.array_equal(imu[key], rows[key]), key
        assert [frame[0, 0, 0] for frame in camera] == list(range(24))
        assert run["/imu"].sequence.tolist() == list(range(3000))
        assert len(run.between(0, None)["/imu"]) == 3000
