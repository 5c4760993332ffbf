"""Every crash point: the files after each single write of a run, and with that write torn, open and have lost nothing.

A run that adds topics midway, with small, large, ragged and dict messages, layouts that change, publishers that restart
and notes, is recorded write by write. From each state (and from that in the middle of each write) the bag is opened
again; so are the states that opening it goes through itself.
"""

import os
import shutil
from bisect import bisect_right
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from storage_kit import (
    MONO,
    WALL,
    Disk,
    channel_on,
    frames_of,
    images,
    lay_out,
    memory_directory,
    plain,
    row_of,
    stored,
)

from bag.bagset import BagSet
from bag.buffer import Skipped
from bag.options import RecordOptions
from bag.storage.disk import crc32
from bag.storage.reader import BagReader
from bag.storage.resume import roll_forward
from bag.storage.sidecars import Sidecars
from bag.storage.writer import BagWriter


@pytest.fixture
def tmp_path():
    yield from memory_directory()


NAME = "run.h5"


@dataclass
class Run:
    """A recorded run: what every topic should hold, and how much of it was promised after how many writes."""

    writer: BagWriter
    disk: Disk
    sent: dict[str, list] = field(default_factory=dict)
    # (writes so far, messages by topic) after each call that returned
    promised: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    committed: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    channels: dict[str, int] = field(default_factory=dict)
    clock: int = 0

    def add(self, topic, node="node"):
        self.channels[topic] = self.writer.add_channel(channel_on(topic, node=node)).id
        self.sent.setdefault(topic, [])
        self.promise()

    def append(self, topic, *messages):
        # what is sent may be there as soon as it is sent, it must be there once append returned
        self.sent[topic] += messages
        rows = [row_of(topic, frames, self.clock + k) for k, frames in enumerate(messages)]
        self.clock += len(rows)
        self.writer.append(self.channels[topic], rows)
        self.promise()

    def note(self, topic, first, last):
        self.writer.note(self.channels[topic], "lost_by_us", (first, last), last - first + 1, WALL + self.clock)
        self.promise()

    def commit(self):
        self.writer.note_clock(WALL + self.clock, MONO + self.clock)
        self.writer.commit()
        self.promise()
        self.committed.append(self.promised[-1])

    def promise(self):
        counts = {topic: len(messages) for topic, messages in self.sent.items()}
        self.promised.append((len(self.disk.operations), counts))


def small(k):
    return frames_of([1.5, np.arange(k, k + 10, dtype=np.float64)], k)


def large(k):
    return frames_of([k % 3, np.full((4, 100, 60, 3), k, np.uint8)], k)


def cloud(k, points):
    return frames_of([np.full((points, 4), k, np.float32)], k)


def words(k):
    return frames_of([{"k": k, "text": f"line {k}" * (k % 5)}], k)


def changing(k):
    return frames_of([np.zeros((2, 3) if k % 2 else (5,), np.float32 if k % 3 else np.int16)], k)


def record(directory):
    """The run; its writes are in `disk`."""
    disk = Disk()
    run = Run(BagWriter(directory / NAME, opener=disk), disk)
    start = len(disk.operations)
    for topic in ("/imu", "/camera/image", "/log"):
        run.add(topic)
    sequence = dict.fromkeys(["/imu", "/imu/raw", "/camera/image", "/lidar", "/log", "/odd"], 0)

    def send(topic, make, count):
        first = sequence[topic]
        run.append(topic, *[make(k) for k in range(first, first + count)])
        sequence[topic] = first + count

    for step in range(6):
        send("/imu", small, 12)
        if step % 2:
            send("/camera/image", large, 2)
        send("/log", words, 3)
        if step == 1:
            run.add("/lidar")
            run.add("/imu/raw")
        if step >= 1:
            send("/lidar", lambda k: cloud(k, (k * 7) % 5 * 1500), 2)
            send("/imu/raw", small, 1)
        if step == 2:
            run.add("/odd")
        if step >= 2:
            send("/odd", changing, 3)
        if step == 3:
            run.note("/imu", sequence["/imu"], sequence["/imu"] + 4)
            sequence["/imu"] += 5
        if step == 4:
            run.add("/imu", node="restarted")
            sequence["/imu"] = 3
        if step == 5:
            run.writer.mark("here", WALL)
        if step in (0, 2, 3, 5):
            run.commit()
    send("/camera/image", large, 2)
    run.writer.close()
    run.promise()
    return run, start


@pytest.fixture(scope="module")
def recorded():
    for directory in memory_directory():
        yield record(directory)


SLICES = 4


def at(marks, done):
    """What was promised after so many writes."""
    number = bisect_right([writes for writes, _counts in marks], done) - 1
    return marks[number][1] if number >= 0 else {}


def check_opens(directory, run, promised):
    """The bag opens, and holds all that was promised and nothing that was not sent."""
    with BagReader(directory / NAME, opener=Disk(keep=False)) as reader:
        assert reader.rolled_forward is None or not reader.rolled_forward.problem
        for topic, count in promised.items():
            messages = reader.raw(topic, 0, len(reader.topics[topic]))
            assert count <= len(messages)
            assert [plain(message.frames) for message in messages] == run.sent[topic][: len(messages)], topic
        assert sum(summary.messages for summary in reader.info().topics) == sum(map(len, reader.topics.values()))


def check_plain(path, promised):
    """Plain h5py opens the file and can read all of it."""
    with h5py.File(path, "r") as file:
        datasets = []
        file.visititems(lambda _name, node: datasets.append(node) if isinstance(node, h5py.Dataset) else None)
        for dataset in datasets:
            dataset[()]
        for topic, count in promised.items():
            assert not count or len(file[topic]["_index"]) >= count


def crash_points(run, start, directory, wanted):
    """Crash after each wanted write, open what is left, and give its number, what was promised, and if it was plain."""
    for number, (done, files) in enumerate(images(run.disk.operations)):
        if done < start or not wanted(number):
            continue
        lay_out(files, directory)
        # without a journal the last commit is whole in the file itself
        is_plain = not files.get(f"{NAME}.journal")
        if is_plain:
            shutil.copyfile(directory / NAME, directory / "plain.h5")
            check_plain(directory / "plain.h5", at(run.committed, done))
        promised = at(run.promised, done)
        check_opens(directory, run, promised)
        yield number, promised, is_plain


@pytest.mark.parametrize("part", range(SLICES))
def test_no_crash_point_loses_anything(recorded, tmp_path, part):
    points = plain_points = 0
    for number, promised, is_plain in crash_points(*recorded, tmp_path, lambda number: number % SLICES == part):
        points += 1
        plain_points += is_plain
        if number % 3 == 0:
            check_plain(tmp_path / NAME, promised)
    assert points > 100
    assert plain_points > 40
    print(f"{points} crash points, {plain_points} of them with an empty journal")


@pytest.mark.parametrize("part", range(SLICES))
def test_no_crash_point_of_the_recovery_loses_anything(recorded, tmp_path, part):
    run, start = recorded
    states = [
        (done, {name: bytes(content) for name, content in files.items()})
        for number, (done, files) in enumerate(images(run.disk.operations))
        if done >= start and number % 71 == 0 and files.get(f"{NAME}.tail")
    ]
    points = 0
    for done, files in states[part::SLICES]:
        promised = at(run.promised, done)
        lay_out(files, tmp_path)
        disk = Disk()
        roll_forward(tmp_path / NAME, disk)
        for number, (_done, again) in enumerate(images(disk.operations, files)):
            if number % 5 == part % 5:
                points += 1
                lay_out(again, tmp_path)
                check_opens(tmp_path, run, promised)
    assert points > 10
    print(f"{points} crash points in {len(states[part::SLICES])} recoveries")


def test_a_recovery_that_is_interrupted_again_and_again_keeps_large_frames(tmp_path):
    disk = Disk()
    run = Run(BagWriter(tmp_path / NAME, opener=disk), disk)
    for topic in ("/camera/image", "/lidar"):
        run.add(topic)
        run.append(topic, *[large(0)] if topic == "/camera/image" else [cloud(0, 100)])
    run.commit()
    # the reopened file has no room left for a new topic where this one had: the same frames come to lie elsewhere
    run.add("/late")
    # these lie in the bag file beyond its committed end; the tail only says where
    for k in range(1, 4):
        run.append("/camera/image", large(k))
        run.append("/lidar", cloud(k, 6000))
    run.writer.abort()
    start = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(start[f"{NAME}.tail"]) < 200_000 < 500_000 < len(start[NAME])
    promised = run.promised[-1][1]
    recovery = Disk()
    roll_forward(tmp_path / NAME, recovery)
    for _done, files in images(recovery.operations, start):
        lay_out(files, tmp_path)
        check_opens(tmp_path, run, promised)


# --- a series of files, with topics that come late


SERIES_SLICES = 3
LOST = (9, 11)


class Series(Run):
    """The same for a recording that is split: `writer` is the whole series."""

    def add(self, topic, node="node"):
        channel = replace(channel_on(topic, node=node), id=len(self.channels))
        self.writer.enter(channel, None)
        self.channels[topic] = channel.id
        self.sent[topic] = []
        self.promise()

    def note(self, topic, first, last):
        item = Skipped(self.channels[topic], "lost_by_us", first, last, WALL + self.clock, last - first + 1)
        self.writer.skip(item)
        self.promise()

    def commit(self):
        self.writer.commit(WALL + self.clock, MONO + self.clock)
        self.promise()


def record_series(directory, compression):
    """Two splits; of five topics two come late, one of them only in the last file."""
    disk = Disk(names=lambda path: path.name)
    with watched_names(disk, directory):
        options = RecordOptions(all_topics=True, compression=compression)
        run = Series(BagSet(directory / NAME, options, numbered=True, opener=disk), disk)
        run.writer.open(MONO)
        for topic in ("/imu", "/camera/image", "/log"):
            run.add(topic)
        sequence = dict.fromkeys(("/imu", "/camera/image", "/log", "/lidar", "/odd"), 0)

        def send(topic, make, count):
            first = sequence[topic]
            run.append(topic, *[make(k) for k in range(first, first + count)])
            sequence[topic] = first + count

        for step in range(6):
            send("/imu", small, 5)
            send("/log", words, 2)
            send("/camera/image", large, step % 2)
            if step == 1:
                run.add("/lidar")
                run.note("/imu", LOST[0] + 1, LOST[1])
                sequence["/imu"] = LOST[1] + 1
            if step >= 1:
                send("/lidar", lambda k: cloud(k, (k * 7) % 5 * 500), 2)
            if step == 4:
                run.add("/odd")
                send("/odd", changing, 3)
            if step in (0, 3):
                run.commit()
            if step in (2, 3):
                run.writer.split(MONO + run.clock)
                run.promise()
        run.writer.close()
        run.promise()
    return run


@contextmanager
def watched_names(disk, directory):
    """Files that are renamed and removed are among the operations, too."""
    replace_file, rename, unlink = os.replace, os.rename, Path.unlink

    def moving(call):
        def moved(source, target):
            if Path(target).parent == directory:
                disk.operations.append((Path(source).name, "rename", 0, Path(target).name.encode()))
            call(source, target)

        return moved

    def removed(path, missing_ok=False):
        if path.parent == directory and path.exists():
            disk.operations.append((path.name, "unlink", 0, b""))
        unlink(path, missing_ok=missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", moving(replace_file))
        patch.setattr(os, "rename", moving(rename))
        patch.setattr(Path, "unlink", removed)
        yield


@pytest.fixture(scope="module", params=[None, "gzip:1"], ids=["raw", "compressed"])
def recorded_series(request):
    for directory in memory_directory():
        yield record_series(directory, request.param)


def check_series(directory, run, promised, known):
    """Every file opens; together they hold all that was promised, once, and tell of no loss but the one told."""
    found, lost = {}, set()
    for path in sorted(directory.glob("run_*.h5")):
        key = (path.name, crc32(path.read_bytes()))
        alone = not Sidecars(path).exist()
        if not alone or key not in known:
            with BagReader(path, opener=Disk(keep=False)) as reader:
                assert reader.rolled_forward is None or not reader.rolled_forward.problem
                told = ({topic: stored(reader, topic) for topic in reader.topics}, gaps_of(reader))
            if alone:
                known[key] = told
        else:
            told = known[key]
        for topic, messages in told[0].items():
            found.setdefault(topic, []).extend(messages)
        lost |= told[1]
    for topic, messages in found.items():
        assert messages == run.sent[topic][: len(messages)], topic
    for topic, count in promised.items():
        assert len(found.get(topic, [])) >= count, topic
    # in the ledger of the file it happened in, never as a loss before us in a later one
    assert lost <= {("/imu", "lost_by_us", LOST[0] + 1, LOST[1])}
    if len(found.get("/imu", [])) > LOST[0] + 1:
        assert lost


def gaps_of(reader):
    told = ((topic, gap) for topic in reader.topics for gap in reader.gaps(topic))
    return {(topic, gap.kind, gap.first_sequence, gap.last_sequence) for topic, gap in told}


@pytest.mark.parametrize("part", range(SERIES_SLICES))
def test_no_crash_point_of_a_series_loses_anything(recorded_series, tmp_path, part):
    run, known, points = recorded_series, {}, 0
    compression = run.writer.compression
    assert compression is None or compression.packed > 0
    # so that the suite stays quick, one of three points of the compressed one
    stride = SERIES_SLICES if compression is None else 3 * SERIES_SLICES
    for number, (done, files) in enumerate(images(run.disk.operations)):
        if number % stride == part:
            points += 1
            lay_out(files, tmp_path)
            check_series(tmp_path, run, at(run.promised, done), known)
    assert points > (100 if compression is None else 30)
    assert len({name for name, _crc in known}) >= 2
    print(f"{points} crash points of a series")
