"""Power cuts: while a commit is brought to the device, any part of what was not synced may be missing, in any order.

A run is recorded write by write and sync by sync. The power is cut before, in and after every sync: of what was written
to a file since it was synced last, a random part of the pages has reached the device. The bag must open, and hold what
had been synced before.
"""

import errno
import os
import random
from dataclasses import dataclass

import numpy as np
import pytest
from helpers import spawn_python, wait_until
from storage_kit import (
    Disk,
    channel_on,
    contents,
    frames_of,
    header,
    lay_out,
    memory_directory,
    plain,
    row_of,
    write_bag,
)

from bag.storage import commits
from bag.storage import layout as names
from bag.storage.compressor import Compressor
from bag.storage.disk import PAGE, RawFile
from bag.storage.reader import BagReader
from bag.storage.redo import SYNC
from bag.storage.tree import table
from bag.storage.writer import BagWriter

NAME = "run.h5"
TOPICS = ("/imu", "/camera")


@pytest.fixture
def tmp_path():
    yield from memory_directory()


@pytest.fixture(autouse=True)
def few_topics_are_many(monkeypatch):
    monkeypatch.setattr(commits, "MANY_TOPICS", 2)


class PowerDisk(Disk):
    """Also tells of every sync."""

    def __call__(self, path, *, create=False):
        return _Synced(self, path, create=create)


class _Synced(RawFile):
    def __init__(self, disk, path, *, create=False):
        super().__init__(path, create=create)
        self._disk = disk

    def write_at(self, offset, data):
        self._disk.note(self, "write", offset, bytes(data))
        super().write_at(offset, data)

    def write_pieces_at(self, offset, pieces):
        self._disk.note(self, "write", offset, b"".join(pieces))
        return super().write_pieces_at(offset, pieces)

    def truncate(self, size):
        self._disk.note(self, "truncate", size, b"")
        super().truncate(size)

    def sync(self):
        self._disk.note(self, "sync", 0, b"")


@dataclass
class Device:
    """One file: what the kernel has of it, and what the device has for sure."""

    now: bytearray
    safe: bytes = b""

    def apply(self, kind, at, data):
        if kind == "sync":
            self.safe = bytes(self.now)
        elif kind == "truncate":
            del self.now[at:]
            self.now.extend(bytes(at - len(self.now)))
        else:
            self.now.extend(bytes(max(0, at + len(data) - len(self.now))))
            self.now[at : at + len(data)] = data

    def after_cut(self, dice):
        """The file when only a part of its pages has come to the device, and perhaps not its length."""
        share = dice.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        out = bytearray(self.now if dice.random() < 0.5 else self.safe)
        for at in range(0, len(out), PAGE):
            source = self.now if dice.random() < share else self.safe
            piece = source[at : min(at + PAGE, len(out))]
            out[at : at + PAGE] = piece.ljust(min(PAGE, len(out) - at), b"\0")
        return out


NOTHING = Device(bytearray())


def message(k):
    return frames_of([1.5, np.arange(k, k + 10, dtype=np.float64)], k)


def image(k):
    return frames_of([np.full((20, 30, 3), k % 250, np.uint8)], k)


def record(directory, compressor):
    """The operations of a run, what was sent, and (operations, messages by topic) after each sync that is through."""
    disk = PowerDisk()
    writer = BagWriter(directory / NAME, opener=disk, compressor=compressor)
    channels = {topic: writer.add_channel(channel_on(topic)).id for topic in TOPICS}
    sent = {topic: [] for topic in TOPICS}
    synced = [(len(disk.operations), dict.fromkeys(TOPICS, 0))]
    for step in range(8):
        for number in range(3):
            for topic, make, count in (("/imu", message, 40), ("/camera", image, 13)):
                frames = [make(len(sent[topic]) + k) for k in range(count)]
                sent[topic] += frames
                writer.append(channels[topic], [row_of(topic, one, len(sent[topic])) for one in frames])
            counts = {topic: len(messages) for topic, messages in sent.items()}
            # now and then a little at a time, while more comes
            while not (writer.commit_some(0) if number == 2 and step % 3 else (writer.commit() or True)):
                writer.append(channels["/imu"], [row_of("/imu", message(len(sent["/imu"])), 1)])
                sent["/imu"].append(message(len(sent["/imu"])))
        writer.sync_behind()
        if step % 2:
            # what comes meanwhile stands in the tail, and in chunks that are not full
            writer.append(channels["/imu"], [row_of("/imu", message(len(sent["/imu"])), 1)])
            sent["/imu"].append(message(len(sent["/imu"])))
        writer.file.finish_sync()
        synced.append((len(disk.operations), counts))
    writer.close()
    synced.append((len(disk.operations), {topic: len(messages) for topic, messages in sent.items()}))
    return disk.operations, sent, synced


@pytest.mark.parametrize("kind", [None, "gzip"])
def test_a_power_cut_before_in_or_after_a_sync_costs_nothing_that_was_synced_before(tmp_path, kind):
    (tmp_path / "live").mkdir()
    compressor = Compressor(kind) if kind else None
    operations, sent, synced = record(tmp_path / "live", compressor)
    if compressor is not None:
        assert compressor.statistics().packed
        compressor.close()
    scene = tmp_path / "after"
    scene.mkdir()
    dice = random.Random(1)
    devices = {}
    cuts = mended = 0
    for done, (name, kind, at, data) in enumerate(operations):
        device = devices.setdefault(name, Device(bytearray()))
        begun = [counts for end, counts in synced if end <= done]
        if kind == "sync" and begun:
            for _variant in range(6):
                # what is being synced is torn; of what is not, the kernel has written nothing, or all
                files = {
                    other: one.after_cut(dice) if other == name else bytearray(dice.choice((one.now, one.safe)))
                    for other, one in devices.items()
                    if other != NAME
                }
                main = devices[NAME]
                files[NAME] = main.after_cut(dice) if name == NAME else bytearray(main.safe)
                mended += bytes(files[f"{NAME}.journal"][:8]) == SYNC
                check(scene, files, sent, begun[-1])
                cuts += 1
        device.apply(kind, at, data)
    assert cuts > 100
    assert mended > 20


def check(scene, files, sent, counts):
    lay_out(files, scene)
    with BagReader(scene / NAME) as reader:
        for topic, count in counts.items():
            if count:
                found = [plain(one.frames) for one in reader.raw(topic, 0, count)]
                assert found == [plain(frames) for frames in sent[topic][:count]], topic


@pytest.mark.parametrize("rebooted", [False, True])
def test_only_a_power_cut_in_a_sync_is_told_of(tmp_path, caplog, rebooted):
    (tmp_path / "live").mkdir()
    operations, _sent, _synced = record(tmp_path / "live", None)
    files, before = {}, {}
    for name, kind, at, data in operations:
        if (name, kind) == (NAME, "sync") and files.get(f"{NAME}.journal", NOTHING).now[:8] == SYNC:
            break
        files.setdefault(name, Device(bytearray())).apply(kind, at, data)
        before[name] = bytes(files[name].safe)
    scene = tmp_path / "after"
    scene.mkdir()
    now = {name: bytes(file.now) for name, file in files.items()}
    # the process died, or the machine before the device had anything of the last commits
    lay_out(now | ({NAME: before[NAME]} if rebooted else {}), scene)
    if rebooted:
        os.utime(scene / f"{NAME}.journal", (0, 0))
    with BagReader(scene / NAME):
        pass
    assert ("the power failed" in caplog.text) is rebooted


def test_a_bag_stays_what_it_was_when_its_successor_does_not_reach_the_device(tmp_path):
    path = tmp_path / NAME
    write_bag(path, {"/imu": [message(k) for k in range(50)]})

    class Failing(RawFile):
        def sync(self):
            if self.path.name.endswith(".new"):
                raise OSError(errno.EIO, "Input/output error")
            super().sync()

    with pytest.raises(OSError, match="Input/output"):
        BagWriter(path, force=True, opener=Failing)
    assert [one.name for one in tmp_path.iterdir()] == [NAME]
    assert contents(path) == {"/imu": [plain(message(k)) for k in range(50)]}


def test_a_commit_at_the_border_of_a_chunk_is_one(tmp_path):
    with BagWriter(tmp_path / NAME) as writer:
        channel = writer.add_channel(channel_on("/imu")).id
        count = 0
        # the last ones fill whole chunks
        for more in (64, 1984, 2048, 2048):
            writer.append(channel, [row_of("/imu", message(k), k) for k in range(count, count + more)])
            count += more
            writer.commit(sync=True)
            with BagReader(tmp_path / NAME) as reader:
                assert len(reader.topics["/imu"]) == count


def test_a_bag_that_cannot_be_created_does_not_crash_the_process_at_its_end(tmp_path):
    program = f"""
import errno
from bag.storage.disk import RawFile
from bag.storage.writer import BagWriter

class Failing(RawFile):
    def sync(self):
        raise OSError(errno.EIO, "Input/output error")

try:
    BagWriter({str(tmp_path / NAME)!r}, opener=Failing)
except OSError as error:
    kept = error
"""
    with spawn_python(program) as process:
        assert process.wait(30) == 0, process.stderr.read()


def test_few_messages_are_stored_as_many_are(tmp_path, monkeypatch):
    def write(few):
        monkeypatch.setattr("bag.storage.batch.FEW", few)
        path = tmp_path / f"few{few}.h5"
        with BagWriter(path) as writer:
            channel = writer.add_channel(channel_on("/t")).id
            at = 0
            for size in (1, 2, 31, 32, 33, 5):
                # numbers at the ends of what they can be, gaps, a restart, two types, a frame of another kind
                rows = [row_of("/t", message(k), k) for k in range(at, at + size)]
                rows[-1] = row_of("/t", message(2**64 - 2 if size == 31 else at + size + 3), at)
                rows[0][2][1] = header(7, fingerprint=9, publish=2**64 - 5) if size == 5 else rows[0][2][1]
                writer.append(channel, rows)
                at += size
        with BagReader(path) as reader:
            topic = reader.topics["/t"]
            ledger = table(reader._h5, names.LEDGER, names.LEDGER_DTYPE)
            return contents(path), topic.index(0, len(topic)).tolist(), topic.summary.tolist(), ledger.tolist()

    assert write(0) == write(32) == write(1000)


def test_a_sync_that_ran_out_of_memory_keeps_no_file_open(tmp_path, monkeypatch):
    def fail(data, numbers):
        raise MemoryError

    monkeypatch.setattr("bag.storage.redo._read_pages", fail)
    writer = BagWriter(tmp_path / NAME)
    channel = writer.add_channel(channel_on("/imu")).id
    writer.append(channel, [row_of("/imu", message(0), 0)])
    writer.commit()
    writer.sync_behind()
    wait_until(lambda: not writer.syncing)
    writer.append(channel, [row_of("/imu", message(1), 1)])
    with pytest.raises(MemoryError):
        writer.commit()
    writer.abort()
    monkeypatch.undo()
    assert contents(tmp_path / NAME) == {"/imu": [plain(message(0)), plain(message(1))]}
