"""Every crash point of a bag that is compressed while it is recorded: it opens and has lost nothing.

The run has what compression adds to a file: chunks that stand raw at one commit and packed at the next, room that is
used again, large frames that are packed, others that stand raw since the compressor lagged (the tail refers to them),
and a commit that did not wait for it. From the state after each write, and in the middle of it, the bag is opened.
"""

import threading

import h5py
import numpy as np
import pytest
from storage_kit import Disk, frames_of, images, lay_out, memory_directory
from test_bag_storage_crash import NAME, Run, at, changing, check_opens, crash_points, small, words

from bag.storage.compressor import Compressor
from bag.storage.filters import encoder_of
from bag.storage.resume import roll_forward
from bag.storage.verify import verify
from bag.storage.writer import BagWriter


@pytest.fixture
def tmp_path():
    yield from memory_directory()


def large(k):
    pixels = np.zeros((4, 100, 60, 3), np.uint8)
    pixels[:2] = np.random.default_rng(k).integers(0, 255, pixels[:2].shape)
    return frames_of([k, pixels], k)


def cloud(k):
    points = np.random.default_rng(k).integers(0, 99, ((k * 7 + 1) % 5 * 1500, 4))
    return frames_of([points.astype(np.float32)], k)


def record(directory):
    """The run; its writes are in `disk`."""
    disk, gate = Disk(), threading.Event()
    gate.set()

    def encoder(name, level, itemsize):
        encode = encoder_of(name, level, itemsize)
        return lambda data: encode(data) if gate.wait(60) else b""

    compressor = Compressor("gzip:1", encoder=encoder)
    run = Run(BagWriter(directory / NAME, opener=disk, compressor=compressor), disk)
    start = len(disk.operations)
    sequence = dict.fromkeys(["/imu", "/camera/image", "/log", "/lidar", "/odd"], 0)

    def send(topic, make, count):
        first = sequence[topic]
        run.append(topic, *[make(k) for k in range(first, first + count)])
        sequence[topic] = first + count

    # a single message each, then a commit: the chunks are small, and soon full
    for topic, make in (("/imu", small), ("/camera/image", large), ("/log", words), ("/lidar", cloud)):
        run.add(topic)
        send(topic, make, 1)
    run.commit()
    for step in range(5):
        # the next commit comes after two steps: what the tail refers to becomes full when the compressor keeps up again
        compressor.pressed = step == 1
        if step == 3:
            gate.clear()
        send("/imu", small, 45)
        send("/camera/image", large, 2)
        send("/log", words, 30)
        if step == 1:
            run.add("/odd")
        # one by one: the later ones find no room below the last commit, and lie where the tail can refer to them
        for _ in range(5 if compressor.pressed else 2):
            send("/lidar", cloud, 1)
        if step >= 1:
            send("/odd", changing, 3)
        if step != 1:
            run.commit()
        gate.set()
    send("/camera/image", large, 1)
    send("/lidar", cloud, 1)
    run.writer.close()
    run.promise()
    compressor.close()
    return run, start, compressor.statistics()


@pytest.fixture(scope="module")
def recorded():
    for directory in memory_directory():
        run, start, counts = record(directory)
        yield run, start, counts, verify(directory / NAME), chunks_of(directory / NAME)


def chunks_of(path):
    """(dataset, is packed) of every chunk of every compressed dataset."""
    found = []
    with h5py.File(path, "r") as file:

        def visit(name, node):
            if isinstance(node, h5py.Dataset) and node.id.get_create_plist().get_nfilters():
                node.id.chunk_iter(lambda info: found.append((name, info.filter_mask == 0)))

        file.visititems(visit)
    return found


def test_the_run_has_raw_and_packed_chunks_and_verify_finds_it_whole(recorded):
    _run, _start, counts, report, chunks = recorded
    assert report.whole, report
    assert counts.packed > counts.stored > 0
    assert counts.lagged > 0
    for name in ("imu/field1", "imu/_index", "camera/image/field1", "lidar/field0"):
        assert {packed for dataset, packed in chunks if dataset == name} == {True, False}, name


# so that the suite stays quick, four of seven points
SLICES, STRIDE = 4, 7


@pytest.mark.parametrize("part", range(SLICES))
def test_no_crash_point_loses_anything(recorded, tmp_path, part):
    points = plain_points = 0
    for number, _promised, is_plain in crash_points(*recorded[:2], tmp_path, lambda number: number % STRIDE == part):
        points += 1
        plain_points += is_plain
        if number % 5 == 0:
            report = verify(tmp_path / NAME)
            assert report.whole, report
    assert points > 50
    assert plain_points > 20
    print(f"{points} crash points, {plain_points} of them with an empty journal")


def test_no_crash_point_of_the_recovery_loses_anything(recorded, tmp_path):
    run, start, *_ = recorded
    states = [
        (done, {name: bytes(content) for name, content in files.items()})
        for number, (done, files) in enumerate(images(run.disk.operations))
        if done >= start and number % 83 == 0 and files.get(f"{NAME}.tail")
    ]
    points = 0
    for done, files in states:
        promised = at(run.promised, done)
        lay_out(files, tmp_path)
        disk = Disk()
        roll_forward(tmp_path / NAME, disk)
        for number, (_done, again) in enumerate(images(disk.operations, files)):
            if number % 11 == 0:
                points += 1
                lay_out(again, tmp_path)
                check_opens(tmp_path, run, promised)
    assert points > 10
    print(f"{points} crash points in {len(states)} recoveries")
