"""A bag that is read while it is being recorded: every reader sees one commit, the same for as long as it is open.

What a reader sees must not depend on what the writer does later, so every single write that follows is watched: the
only bytes a reader may see change are those behind the rows that its commit has, which nothing it can reach refers to.
"""

import errno
import io
import os
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import spawn_python, wait_until
from kill_loads import COUNTS, check, files_of
from storage_kit import (
    Disk,
    channel_on,
    contents,
    frames_of,
    memory_directory,
    plain,
    rows_of,
    stored,
)

import bag
from bag.errors import BagBusyError, BagError
from bag.storage import commits, opening
from bag.storage.amend import amend
from bag.storage.disk import PAGE, RawFile
from bag.storage.journal import CommitFile
from bag.storage.reader import BagReader
from bag.storage.resume import roll_forward
from bag.storage.sidecars import Sidecars
from bag.storage.snapshot import FileObject, Snapshot, take_snapshot
from bag.storage.undo import MAGIC, records
from bag.storage.verify import verify
from bag.storage.writer import BagWriter

NAME = "run.h5"
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).resolve().parent)}


@pytest.fixture
def tmp_path():
    yield from memory_directory()


@pytest.fixture(autouse=True)
def few_topics_are_many(monkeypatch):
    monkeypatch.setattr(commits, "MANY_TOPICS", 2)


def small(k):
    return frames_of([1.5, np.arange(k, k + 10, dtype=np.float64)], k)


def large(k):
    return frames_of([k % 3, np.full((4, 100, 60, 3), k, np.uint8)], k)


def cloud(k):
    return frames_of([np.full(((k * 7) % 5 * 1500, 4), k, np.float32)], k)


def words(k):
    return frames_of([{"k": k, "text": f"line {k}" * (k % 5)}], k)


MAKERS = {"/imu": small, "/camera": large, "/lidar": cloud, "/log": words, "/late": small, "/late/too": words}


class Recording:
    """A writer whose topics come one after the other; `sent` is what was committed at last."""

    def __init__(self, path, disk):
        self.path, self.disk = path, disk
        self.writer = BagWriter(path, opener=disk)
        self.ids = {}
        self.counts = {}
        self.committed = {}

    def step(self, number):
        """Append a bit of everything; a new topic with every other step."""
        for topic in list(MAKERS)[: 2 + number // 2]:
            if topic not in self.ids:
                self.ids[topic] = self.writer.add_channel(channel_on(topic)).id
                self.counts[topic] = 0
            first = self.counts[topic]
            count = 2 if topic in ("/camera", "/lidar") else 9 + number
            messages = [MAKERS[topic](k) for k in range(first, first + count)]
            self.writer.append(self.ids[topic], rows_of(topic, messages, first))
            self.counts[topic] += count

    def commit(self, number):
        """Every other one is made a little at a time, while messages go on to arrive."""
        self.step(number)
        held = dict(self.counts)
        if number % 2:
            while not self.writer.commit_some(0):
                first = self.counts["/imu"]
                self.writer.append(self.ids["/imu"], rows_of("/imu", [small(first)], first))
                self.counts["/imu"] += 1
        else:
            self.writer.commit()
        self.committed = held


def check_holds(reader, counts):
    """Exactly so many messages of each topic, as they were sent."""
    assert {topic: len(found) for topic, found in reader.topics.items()} == counts
    for topic in counts:
        assert stored(reader, topic) == [MAKERS[topic](k) for k in range(counts[topic])], topic


def check_all_opens(path):
    with h5py.File(path, "r") as file:
        file.visititems(lambda _name, node: node[()] if isinstance(node, h5py.Dataset) else None)


def unreferred(root):
    """Which bytes of a file lie in chunks behind the rows of their datasets."""
    free = []

    def visit(_name, node):
        if not isinstance(node, h5py.Dataset) or not node.chunks:
            return
        row = node.dtype.itemsize * int(np.prod(node.shape[1:], dtype=np.int64))

        def chunk(info):
            rows = min(node.chunks[0], node.shape[0] - info.chunk_offset[0])
            free.append((info.byte_offset + rows * row, info.byte_offset + info.size))

        node.id.chunk_iter(chunk)

    root.visititems(visit)
    return free


class Watched:
    """A reader of a recording that is written again, write by write: which bytes it has seen change."""

    def __init__(self, data, log, counts):
        self.counts = counts
        self.snapshot = Snapshot(data, io.FileIO(data), io.FileIO(log))
        self.bytes = bytearray(self.snapshot.read(0, self.snapshot.size))
        with h5py.File(FileObject(self.snapshot), "r") as root:
            self.free = np.zeros(len(self.bytes), bool)
            for low, high in unreferred(root):
                self.free[low:high] = True

    def look(self, low, high):
        """Compare a range, all of whose bytes but the free ones must be as they were."""
        low, high = max(0, low), min(high, len(self.bytes))
        if low >= high:
            return
        now = np.frombuffer(self.snapshot.read(low, high - low), np.uint8)
        assert len(now) == high - low
        before = np.frombuffer(bytes(self.bytes[low:high]), np.uint8)
        assert not ((now != before) & ~self.free[low:high]).any()


def recorded(path, disk, end):
    """A run with a reader after each commit, none of which is closed: (writes done, counts, reader) of each."""
    run = Recording(path, disk)
    readers = []
    for number in range(9):
        run.commit(number)
        readers.append((len(disk.operations), dict(run.committed), BagReader(path)))
        # what is appended between the commits goes to the file, too
        run.step(number)
    if end == "close":
        run.writer.close()
    else:
        run.writer.abort()
        roll_forward(path, disk)
    return run, readers


@pytest.mark.parametrize("end", ["close", "death"])
def test_no_later_write_changes_what_a_reader_sees(tmp_path, end):
    disk = Disk()
    run, readers = recorded(tmp_path / NAME, disk, end)
    assert contents(tmp_path / NAME) == {t: [MAKERS[t](k) for k in range(n)] for t, n in run.counts.items()}
    for _done, counts, reader in readers:
        assert reader.live
        check_holds(reader, counts)
        reader.close()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    points = replay(disk.operations, readers, tmp_path)
    print(f"{len(disk.operations)} writes, {points} times one of {len(readers)} readers looked again")
    assert points > 1000


def replay(operations, readers, directory):
    """Write everything again; all readers look at what each write, or the half of it, may have changed."""
    data, watched, points = directory / "again.h5", [], 0
    data.touch()
    files = {NAME: RawFile(data)}
    opened = {done: counts for done, counts, _reader in readers}
    for done, (name, kind, at, content) in enumerate(operations):
        if done in opened:
            log = directory / f"again.undo.{len(watched) + 1}"
            log.write_bytes(MAGIC)
            files[f"{NAME}.undo.{len(watched) + 1}"] = RawFile(log)
            watched.append(Watched(data, log, opened[done]))
        if name not in files:
            continue
        if kind == "truncate":
            low, high = sorted((files[name].size(), at))
            files[name].truncate(at)
            pieces = [(low, high)]
        else:
            half = len(content) // 2
            pieces = [(at, at + half), (at + half, at + len(content))]
        for low, high in pieces:
            if kind == "write":
                files[name].write_at(low, content[low - at : high - at])
            for reader in watched:
                points += 1
                # a page of a log may lie anywhere
                reader.look(*((low, high) if name == NAME else (0, len(reader.bytes))))
    for reader in watched:
        with h5py.File(FileObject(reader.snapshot), "r") as root:
            assert {topic: len(root[topic]["_index"]) for topic in reader.counts} == reader.counts
        reader.snapshot.close()
    for file in files.values():
        file.close()
    return points


def test_a_reader_that_comes_at_any_moment_sees_a_commit_or_waits(tmp_path):
    path = tmp_path / NAME
    run, states, looks = None, [], {"taken": 0, "waits": 0}

    # called from within HDF5, which must not be asked anything then
    def before(name, kind, grows):
        now = take_snapshot(path) if run else None
        if now is None:
            looks["waits"] += 1
            return
        looks["taken"] += 1
        if states and now.size == states[-1].size and now.read(0, now.size) == states[-1].read(0, now.size):
            now.close()
        else:
            states.append(now)

    run = Recording(path, Disk(before, keep=False))
    commits = [{}]
    for number in range(8):
        run.commit(number)
        commits.append(dict(run.committed))
        run.step(number)
    run.writer.close()
    # closing commits once more
    commits.append(dict(run.counts))
    assert looks["taken"] > 50
    assert looks["waits"] > 50
    assert len(states) == len(commits)
    for state, counts in zip(states, commits, strict=True):
        with h5py.File(FileObject(state), "r") as root:
            assert {topic: len(root[topic]["_index"]) for topic in counts} == counts
        state.close()


class Stop(OSError):
    pass


def dying(number):
    """A disk that refuses from its write `number` on, once armed."""
    state = {"armed": False, "count": 0}

    def before(name, kind, grows):
        if state["armed"]:
            state["count"] += 1
            if state["count"] > number:
                raise Stop(errno.EIO, "the power of the process is gone")

    return Disk(before, keep=False), state


def test_a_writer_that_dies_anywhere_in_a_commit_harms_no_reader(tmp_path):
    number, deaths, half_done = 0, 0, 0
    while True:
        path = tmp_path / f"{number}.h5"
        disk, state = dying(number)
        run = Recording(path, disk)
        for step in (0, 1, 2):
            run.commit(step)
        early = BagReader(path)
        held = dict(run.committed)
        run.commit(3)
        late = BagReader(path)
        held_late = dict(run.committed)
        run.step(4)
        state["armed"] = True
        try:
            run.writer.commit()
        except Stop:
            deaths += 1
        run.writer.abort()
        if (tmp_path / f"{path.name}.journal").stat().st_size:
            assert take_snapshot(path, recorder=False) is None
            half_done += 1
        # a new one brings the bag to its last message while the others look on
        with BagReader(path) as fresh:
            check_holds(fresh, run.counts)
            assert not fresh.live
        with early, late:
            check_holds(early, held)
            check_holds(late, held_late)
        assert [file.name for file in tmp_path.iterdir()] == [path.name]
        path.unlink()
        if state["count"] <= number:
            break
        number += 1
    assert deaths == number > 5
    assert half_done > 2


def test_the_log_of_a_reader_does_not_grow_without_end(tmp_path):
    path = tmp_path / NAME
    run = Recording(path, Disk(keep=False))
    for number in range(4):
        run.commit(number)
    with BagReader(path) as reader:
        for _ in range(40):
            run.commit(3)
        log = (tmp_path / f"{NAME}.undo.1").read_bytes()
        kept = [page for numbers, _pages, _end in records(reading_from(log), len(MAGIC), len(log)) for page in numbers]
        # each page once, and none that the reader does not know of
        assert 10 < len(kept) == len(set(kept))
        assert max(kept) * PAGE < reader.snapshot.size
        check_holds(reader, reader_counts(reader))
    # the next commit finds that nobody reads it any more
    run.commit(3)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        NAME,
        f"{NAME}.journal",
        f"{NAME}.tail",
        f"{NAME}.undo",
    ]
    run.writer.close()


def reading_from(content):
    return lambda offset, size: content[offset : offset + size]


def reader_counts(reader):
    return {topic: len(found) for topic, found in reader.topics.items()}


def superblock(size):
    return (b"\x89HDF\r\n\x1a\n" + bytes(5) + b"\x08").ljust(40, b"\0") + size.to_bytes(8, "little") + bytes(16)


def test_what_hdf5_gives_up_at_the_end_stays_for_who_reads_it(tmp_path):
    path = tmp_path / NAME
    sidecars = Sidecars(path)
    assert sidecars.lock()
    sidecars.prepare()
    sidecars.begin()
    file = CommitFile(RawFile(path, create=True), sidecars.journal, undo=sidecars.undo)

    def write(at, content):
        file.seek(at)
        file.write(content)

    write(0, superblock(5000).ljust(5000, b"a"))
    file.commit()
    sidecars.undo.release()
    reader = take_snapshot(path)
    before = reader.read(0, 5000)
    assert before[-1:] == b"a"
    # the same as HDF5 does when it frees what lies at the end, and then needs more again
    write(0, superblock(2000))
    file.truncate(2000)
    file.commit()
    late = take_snapshot(path)
    assert late.size == 2000
    write(2000, b"b" * 9000)
    write(0, superblock(11000))
    file.commit()
    assert reader.read(0, 5000) == before
    write(0, superblock(1500))
    file.truncate(1500)
    file.commit()
    file.cut()
    assert path.stat().st_size == 1500
    assert reader.read(0, 5000) == before
    assert late.read(0, 2000) == superblock(2000) + before[64:2000]
    for opened in (reader, late, file.data, sidecars):
        opened.close()


def test_a_disk_without_room_for_the_log_ends_the_reader_and_not_the_writer(tmp_path):
    full = []

    def before(name, kind, grows):
        if full and ".undo" in name and kind == "write":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    path = tmp_path / NAME
    run = Recording(path, Disk(before, keep=False))
    run.commit(0)
    with BagReader(path) as reader:
        full.append(True)
        run.commit(1)
        with pytest.raises(BagError, match=r"is being recorded, and there is no room left .* open it again"):
            contents_of(reader)
    # for new readers there is no log now, so they wait for it
    assert take_snapshot(path) is None
    full.clear()
    run.commit(2)
    with BagReader(path) as reader:
        check_holds(reader, run.committed)
    run.writer.close()
    assert contents(path).keys() == run.counts.keys()


def contents_of(reader):
    return {topic: stored(reader, topic) for topic in reader.topics}


def test_what_changes_a_bag_refuses_one_that_is_being_recorded(tmp_path):
    path = tmp_path / NAME
    run = Recording(path, Disk(keep=False))
    run.commit(0)
    with pytest.raises(BagBusyError, match="is being written by another process"):
        amend(path, [("mark", {"text": "here", "log_time_ns": 1})])
    with pytest.raises(BagBusyError, match="is being written by another process"):
        BagWriter(path, force=True)
    run.commit(1)
    with BagReader(path) as reader:
        check_holds(reader, run.committed)
    run.writer.close()


def test_a_bag_that_another_process_mends_is_waited_for(tmp_path, monkeypatch):
    path = tmp_path / NAME
    run = Recording(path, Disk(keep=False))
    run.commit(0)
    run.step(1)
    run.writer.abort()
    # as a process does that has just found the bag and has not looked at it yet
    mending = Sidecars(path)
    assert mending.lock()
    assert take_snapshot(path) is None
    monkeypatch.setattr(opening, "PATIENCE_S", 0.05)
    with pytest.raises(BagBusyError):
        BagReader(path)
    monkeypatch.setattr(opening, "PATIENCE_S", 60)
    found = []
    waiting = threading.Thread(target=lambda: found.append(contents(path)))
    waiting.start()
    mending.close()
    waiting.join()
    assert {topic: len(messages) for topic, messages in found[0].items()} == run.counts


def test_a_reader_of_the_old_bag_is_spared_when_a_new_one_takes_its_name(tmp_path):
    path = tmp_path / NAME
    old = Recording(path, Disk(keep=False))
    old.commit(0)
    with BagReader(path) as reader:
        old.commit(1)
        old.writer.abort()
        replaced = BagWriter(path, force=True)
        channel = replaced.add_channel(channel_on("/other")).id
        for k in range(20):
            replaced.append(channel, rows_of("/other", [large(k)], k))
            replaced.commit()
        check_holds(reader, {"/imu": 9, "/camera": 2})
        with BagReader(path) as fresh:
            assert reader_counts(fresh) == {"/other": 20}
        replaced.close()
        check_holds(reader, {"/imu": 9, "/camera": 2})


def test_everything_that_reads_works_on_a_bag_that_is_being_recorded(tmp_path):
    path = tmp_path / NAME
    run = Recording(path, Disk(keep=False))
    for number in range(5):
        run.commit(number)
    with bag.open(path) as live:
        assert live.info().live
        assert live.info().to_json()["live"] is True
        assert not live.closed_cleanly
        assert live.info().size_bytes == live.reader.snapshot.size
        held = run.committed
        run.commit(5)
        assert {topic: len(live[topic]) for topic in live.topics} == held != run.committed
        assert [plain(message.frames) for message in live.messages(["/log"])] == [words(k) for k in range(13)]
        np.testing.assert_array_equal(live["/camera"]["field1"][3], np.full((4, 100, 60, 3), 3, np.uint8))
    report = verify(path)
    assert report.whole, report
    assert not report.closed_cleanly
    run.writer.close()
    with bag.open(path) as closed:
        assert not closed.info().live
        assert closed.closed_cleanly


# --- real recorders


@contextmanager
def speaking(load, cortex_dir, discovery):
    with spawn_python(["-m", "kill_loads", "send", load, str(cortex_dir), discovery.address], ENVIRONMENT):
        yield


@contextmanager
def recording(load, output, discovery):
    counter = output.with_name("counter")
    counter.write_bytes(bytes(COUNTS.size))
    words = ["-m", "kill_loads", "record", load, str(output), discovery.address, str(counter)]
    with spawn_python(words, ENVIRONMENT) as recorder:
        yield recorder


def read_all(paths):
    """(sequence, parts) of every topic over all files, and whether any was being recorded."""
    out, live = {}, False
    with ExitStack() as opened:
        # the last one first: it has nothing that those before lack
        readers = [opened.enter_context(BagReader(path)) for path in reversed(paths)]
        for reader in reversed(readers):
            live |= reader.live
            for topic, found in reader.topics.items():
                raw = reader.raw(topic, 0, len(found))
                out.setdefault(topic, []).extend((message.sequence, plain(message.frames)) for message in raw)
    return out, live


@pytest.mark.parametrize("load", ["small", "mixed"])
def test_what_is_read_while_a_recorder_works_is_right_to_the_last_byte(tmp_path, cortex_dir, discovery, load):
    output = tmp_path / NAME
    held, lengths, lives = None, {}, 0
    with speaking(load, cortex_dir, discovery), recording(load, output, discovery) as recorder:
        # with a number behind its name once there are several
        wait_until(lambda: files_of(output) or recorder.poll() is not None, 60, "a bag")
        opened = 0
        # for a while: a second or two of what is sent
        while opened < 12 or sum(lengths.values()) < 1500:
            opened += 1
            found, live = read_all(files_of(output))
            assert recorder.poll() is None, recorder.stderr.read()
            lives += live
            check(load, found)
            assert all(len(found[topic]) >= count for topic, count in lengths.items())
            lengths = {topic: len(messages) for topic, messages in found.items()}
            if held is None and lengths:
                held = BagReader(files_of(output)[-1])
                seen = contents_of(held)
        assert verify(files_of(output)[-1]).whole
        assert contents_of(held) == seen
        recorder.kill()
        recorder.wait(30)
        # somebody brings the bags to their last message under the eyes of the first reader
        found, live = read_all(files_of(output))
        assert not live
        check(load, found)
        assert all(len(found[topic]) >= count for topic, count in lengths.items())
        assert contents_of(held) == seen
        held.close()
    # a file of a series may be closed already when it is opened
    assert lives > 6


def test_the_commands_work_on_a_bag_that_is_being_recorded(tmp_path, cortex_dir, discovery):
    output = tmp_path / NAME
    with speaking("small", cortex_dir, discovery), recording("small", output, discovery) as recorder:
        wait_until(lambda: output.exists() and holds_messages(output), 60, "a commit")
        for words in (["info"], ["du"], ["cat", "-n", "5"], ["verify"], ["export", "--format", "npz"]):
            command, *options = words
            where = ["-o", str(tmp_path / "out.npz")] if command == "export" else []
            with spawn_python(["-m", "bag.cli", command, str(output), *options, *where]) as process:
                text, errors = process.communicate(timeout=60)
            assert process.returncode == 0, (words, errors)
            if command == "info":
                assert "it is being recorded" in text
        for words in (["mark", str(output), "here", "--at", "0.01"], ["record", "-a", "-f", "-o", str(output)]):
            with spawn_python(["-m", "bag.cli", *words]) as process:
                _text, errors = process.communicate(timeout=60)
            assert process.returncode == 1
            assert "is being" in errors
            assert "Traceback" not in errors
        assert recorder.poll() is None


def holds_messages(path):
    with BagReader(path) as reader:
        return any(map(len, reader.topics.values()))
