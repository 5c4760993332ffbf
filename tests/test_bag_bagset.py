"""The files of a recording: splits without a gap, the account over all of them, old files, and files that are taken."""

from __future__ import annotations

import errno
import struct
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import wait_until
from talkers import gaps, ledger, sequences, summary

import bag
from bag import BagError, BagExistsError, LossyError, RecordOptions
from bag.bagset import BagSet
from bag.buffer import Skipped
from bag.due import SyncDue
from bag.options import PlayOptions
from bag.programme import Programme
from bag.records import Channel
from bag.storage.commits import MANY_TOPICS
from bag.storage.disk import CAREFUL_BYTES, RawFile, writeback_begins
from bag.storage.reader import BagReader
from bag.storage.snapshot import take_snapshot

MS = 1_000_000


def row(sequence, size=8, topic=b"/t"):
    return (10**18 + sequence * MS, sequence * MS, [topic, struct.pack(">QQQ", 1, 2, sequence), b"\x90", bytes(size)])


class Gate:
    """Stops one operation on one file from when it is shut until it is opened; `opener` opens files that heed it."""

    def __init__(self, operation: str, name: str) -> None:
        self.reached, self._opened = threading.Event(), threading.Event()
        self._opened.set()

        def heed(file, *arguments):
            if file.path.name == name and not self._opened.is_set():
                self.reached.set()
                assert self._opened.wait(10)
            return getattr(RawFile, operation)(file, *arguments)

        self.opener = type("Gated", (RawFile,), {operation: heed})

    def shut(self) -> None:
        self._opened.clear()

    def open(self) -> None:
        self._opened.set()

    def wait(self) -> None:
        """Until somebody stands before it."""
        assert self.reached.wait(10)


def rows(first, stop, **options):
    return [row(number, **options) for number in range(first, stop)]


def opened(tmp_path, topics=("/t",), opener=RawFile, **options):
    files = BagSet(tmp_path / "run.h5", RecordOptions(all_topics=True, **options), opener=opener)
    files.open(0)
    for number, topic in enumerate(topics):
        files.enter(Channel(number, topic, "T", 1, "node", "ipc:///x"), None)
    return files


def telling(syncs):
    """Opens files that tell of every sync, by their name."""

    class Told(RawFile):
        def sync(self):
            syncs.append(self.path.name)
            super().sync()

    return Told


def split_before(gate, tmp_path):
    """A series whose first file cannot be closed, since the gate is shut: 0 to 2 are in it, 3 and 4 in the second."""
    files = opened(tmp_path, opener=gate.opener)
    files.append(0, rows(0, 3))
    gate.shut()
    files.split(1)
    files.append(0, rows(3, 5))
    gate.wait()
    return files


def names(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


def test_without_limits_it_is_one_file_of_the_given_name(tmp_path):
    files = opened(tmp_path)
    files.append(0, rows(0, 5))
    files.close()
    assert names(tmp_path) == ["run.h5"]
    assert files.paths == [tmp_path / "run.h5"]


def test_a_split_has_no_gap_and_carries_the_account_on(tmp_path):
    files = opened(tmp_path)
    files.append(0, rows(3, 5))
    files.split(0)
    files.append(0, rows(5, 8))
    files.split(0)
    files.append(0, rows(10, 12))
    files.close()
    assert names(tmp_path) == ["run.h5", "run_1.h5", "run_2.h5"]
    assert [sequences(path) for path in files.paths] == [[3, 4], [5, 6, 7], [10, 11]]
    assert [gaps(path) for path in files.paths] == [[("before_join", 0, 2)], [], [("lost_before_us", 8, 9)]]
    counts = files.counts("/t")
    assert (counts["messages"], counts["published_before_join"], counts["lost_before_us"]) == (7, 3, 2)
    assert files.written == 7


def test_each_file_of_a_series_is_whole_in_itself(tmp_path):
    files = opened(tmp_path, topics=("/t", "/quiet"), description="a test", custom_data=(("robot", "7"),))
    files.append(0, rows(0, 5))
    files.split(0)
    files.append(0, rows(5, 9))
    files.close()
    for path in files.paths:
        with bag.open(path) as run:
            info = run.info()
            assert run.topics == ("/t", "/quiet")
            assert info.closed_cleanly
            assert info.description == "a test"
            assert info.custom_data == {"robot": "7"}
            assert run["/t"].channel.node == "node"
    assert summary(files.paths[1]).first_sequence == 5


def test_losses_that_straddle_a_split_are_counted_once(tmp_path):
    files = opened(tmp_path)
    files.append(0, rows(0, 5))
    files.skip(Skipped(0, "lost_by_us", 5, 9, 10**18, 5))
    files.split(0)
    files.append(0, rows(10, 12))
    files.skip(Skipped(0, "throttled", 12, 14, 10**18, 3))
    files.split(0)
    files.append(0, rows(15, 16))
    files.close()
    counts = files.counts("/t")
    assert (counts["messages"], counts["lost_by_us"], counts["throttled"], counts["lost_before_us"]) == (8, 5, 3, 0)


def test_the_last_value_of_sticky_topics_begins_each_further_file_and_is_marked(tmp_path):
    files = opened(tmp_path, topics=("/t", "/map"), sticky=("/map",))
    maps = rows(0, 3, topic=b"/map")
    files.append(1, maps)
    files.remember(1, maps)
    files.append(0, rows(0, 5))
    files.split(0)
    files.append(0, rows(5, 9))
    files.split(0)
    files.append(1, [row(3, topic=b"/map")])
    files.close()
    assert [sequences(path, "/map") for path in files.paths] == [[0, 1, 2], [2], [2, 3]]
    assert ledger(files.paths[1], "/map") == [("repeated", 2, 2)]
    assert ledger(files.paths[2], "/map") == [("repeated", 2, 2)]
    # repeated messages are in the files, but count as recorded once
    counts = files.counts("/map")
    assert (counts["messages"], counts["restarts"], counts["lost_before_us"]) == (4, 0, 0)
    assert files.written == 4 + 9


def test_garbage_is_never_what_is_repeated(tmp_path):
    files = opened(tmp_path, sticky=("/t",))
    mixed = [row(0), (10**18, 5, [b"/t"]), (10**18, 5, [b"/t", b"short"])]
    files.append(0, mixed)
    files.remember(0, mixed)
    files.split(0)
    files.close()
    assert [sequences(path) for path in files.paths] == [[0], [0]]
    assert files.counts("/t")["malformed"] == 2


def test_a_file_splits_by_size_and_no_message_is_cut_or_missing(tmp_path):
    files = opened(tmp_path, max_bag_bytes=1 << 20)
    for number in range(60):
        files.append(0, [row(number, 100_000)])
        files.split_when_due(0)
    files.close()
    assert len(files.paths) >= 4
    assert [number for path in files.paths for number in sequences(path)] == list(range(60))
    # a last chunk may be allocated in full
    assert all(path.stat().st_size < 5 << 19 for path in files.paths)
    assert files.paths[0].name == "run_0.h5"


def test_a_file_splits_by_duration_on_the_monotonic_clock_and_never_while_empty(tmp_path):
    files = opened(tmp_path, max_bag_duration_ns=1000 * MS)
    files.split_when_due(5000 * MS)
    assert len(files.paths) == 1
    files.append(0, rows(0, 3))
    files.split_when_due(999 * MS)
    assert len(files.paths) == 1
    files.split_when_due(1000 * MS)
    assert len(files.paths) == 2
    files.split_when_due(9000 * MS)
    assert len(files.paths) == 2
    files.close()


def test_a_limit_below_the_size_of_an_empty_bag_still_makes_progress(tmp_path):
    files = opened(tmp_path, max_bag_bytes=1)
    for number in range(5):
        files.append(0, [row(number)])
        files.split_when_due(0)
    files.close()
    assert [number for path in files.paths for number in sequences(path)] == list(range(5))
    assert len(files.paths) == 6


@pytest.mark.parametrize("keep", [1, 3])
def test_only_the_latest_files_are_kept(tmp_path, keep):
    files = opened(tmp_path, max_bag_files=keep, max_bag_duration_ns=1)
    for number in range(10):
        files.append(0, [row(number)])
        files.split(0)
    files.close()
    assert names(tmp_path) == sorted(path.name for path in files.paths)
    assert len(files.paths) == keep
    # what was thrown away was recorded all the same
    assert files.counts("/t")["messages"] == 10


def test_a_channel_that_comes_late_is_in_all_further_files(tmp_path):
    files = opened(tmp_path)
    files.append(0, rows(0, 2))
    files.enter(Channel(1, "/late", "T", 1, "node", "ipc:///y"), None)
    files.append(1, rows(0, 2, topic=b"/late"))
    files.split(0)
    files.append(1, rows(2, 4, topic=b"/late"))
    files.close()
    assert [sequences(path, "/late") for path in files.paths] == [[0, 1], [2, 3]]


def test_an_existing_bag_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "run.h5").write_bytes(b"precious")
    with pytest.raises(BagExistsError, match=r"run\.h5 is already there.*-f"):
        opened(tmp_path)
    assert (tmp_path / "run.h5").read_bytes() == b"precious"


def test_an_older_series_is_refused_before_it_is_mixed_in(tmp_path):
    (tmp_path / "run_7.h5").write_bytes(b"precious")
    with pytest.raises(BagExistsError, match=r"run_7\.h5.*series"):
        opened(tmp_path, max_bag_bytes=1 << 20)
    assert names(tmp_path) == ["run_7.h5"]
    files = opened(tmp_path, max_bag_bytes=1 << 20, force=True)
    files.close()
    assert names(tmp_path) == ["run_0.h5", "run_7.h5"]


def test_a_name_that_is_taken_is_passed_over_by_a_split(tmp_path):
    files = opened(tmp_path)
    (tmp_path / "run_1.h5").write_bytes(b"precious")
    files.append(0, rows(0, 2))
    files.split(0)
    files.append(0, rows(2, 4))
    files.close()
    assert (tmp_path / "run_1.h5").read_bytes() == b"precious"
    assert [path.name for path in files.paths] == ["run.h5", "run_2.h5"]


def test_a_full_disk_at_a_split_leaves_what_was_written(tmp_path):
    class Full(RawFile):
        full = False

        def __init__(self, path: Path, *, create: bool = False) -> None:
            if Full.full and create:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            super().__init__(path, create=create)

    files = opened(tmp_path, opener=Full)
    files.append(0, rows(0, 100))
    Full.full = True
    with pytest.raises(OSError, match="No space"):
        files.split(0)
    files.abort()
    assert sequences(tmp_path / "run.h5") == list(range(100))


def test_too_little_space_ends_a_recording_with_a_sentence(tmp_path):
    files = opened(tmp_path, min_free_bytes=1 << 60)
    files.append(0, rows(0, 3))
    with pytest.raises(LossyError, match=r"run\.h5 has only \d+ MB left, less than --min-free-space"):
        files.commit(0, 0)
    files.close()
    assert sequences(tmp_path / "run.h5") == [0, 1, 2]


@pytest.mark.parametrize("replace", [False, True])
def test_a_bag_that_vanishes_ends_a_recording_with_a_sentence(tmp_path, replace):
    files = opened(tmp_path)
    (tmp_path / "run.h5").unlink()
    if replace:
        (tmp_path / "run.h5").write_bytes(b"another")
    files.append(0, rows(0, 3))
    with pytest.raises(LossyError, match=r"run\.h5 was deleted or replaced"):
        files.commit(0, 0)
    files.close()
    assert names(tmp_path) == (["run.h5"] if replace else [])


def test_a_file_that_cannot_be_closed_ends_the_recording_later(tmp_path):
    class Broken(RawFile):
        broken = False

        def sync(self) -> None:
            if Broken.broken and self.path.name == "run.h5":
                raise OSError(errno.EIO, "Input/output error")
            super().sync()

    files = opened(tmp_path, opener=Broken)
    files.append(0, rows(0, 5))
    Broken.broken = True
    files.split(0)
    files.append(0, rows(5, 9))
    with pytest.raises(OSError, match="Input/output"):
        files.close()
    Broken.broken = False
    assert [sequences(path) for path in files.paths] == [list(range(5)), list(range(5, 9))]


def test_the_device_is_waited_for_by_nobody_and_commits_wait_for_it(tmp_path):
    gate = Gate("sync", "run.h5")
    files = opened(tmp_path, opener=gate.opener, sync_interval_ns=1)
    files.append(0, rows(0, 3))
    gate.shut()
    files.commit(0, 10)
    gate.wait()
    files.append(0, rows(3, 5))
    # a commit now would change what the device is taking in
    files.commit(0, 20)
    assert (files.committed, files.writer.syncing) == (3, True)
    gate.open()
    wait_until(lambda: not files.writer.syncing)
    files.commit(0, 30)
    assert files.committed == 5
    files.close()
    assert sequences(tmp_path / "run.h5") == list(range(5))


def test_a_device_that_fails_ends_the_recording_at_the_next_commit(tmp_path):
    class Broken(RawFile):
        broken = False

        def sync(self) -> None:
            if Broken.broken:
                raise OSError(errno.EIO, "Input/output error")
            super().sync()

    files = opened(tmp_path, opener=Broken, sync_interval_ns=1)
    Broken.broken = True
    files.append(0, rows(0, 3))
    files.commit(0, 10)
    wait_until(lambda: not files.writer.syncing)
    with pytest.raises(OSError, match="Input/output"):
        files.commit(0, 20)
    files.abort()
    Broken.broken = False
    assert sequences(tmp_path / "run.h5") == list(range(3))


def test_the_columns_of_many_new_topics_are_created_a_few_at_a_time_and_nothing_waits_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr("bag.storage.new_topics.HOLD_S", 0.0)
    monkeypatch.setattr("bag.bagset.PREPARE_S", 1e-6)
    topics = [f"/t{number}" for number in range(20)]
    files = opened(tmp_path, topics)
    for channel in range(len(topics)):
        files.append(channel, rows(0, 3))
    second = 1_000_000_000
    files.go_on(0)
    files.commit(0, second)
    assert (files.new_topics, files.committed) == (20, 0)
    monkeypatch.setattr("bag.bagset.PREPARE_S", 10.0)
    files.go_on(0)
    files.commit(0, 2 * second)
    assert (files.new_topics, files.committed) == (0, 60)
    for channel in range(len(topics)):
        files.append(channel, rows(3, 4))
    files.commit(0, 3 * second)
    files.close()
    assert all(sequences(tmp_path / "run.h5", topic) == list(range(4)) for topic in topics)


def test_commits_do_not_wait_for_ever_for_new_topics(tmp_path, monkeypatch):
    monkeypatch.setattr("bag.bagset.PREPARE_S", 0.0)
    topics = [f"/t{number}" for number in range(20)]
    files = opened(tmp_path, topics)
    for channel in range(len(topics)):
        files.append(channel, rows(0, 3))
    files.go_on(0)
    files.commit(0, 6_000_000_000)
    assert (files.new_topics, files.committed) == (20, 60)
    files.close()


def test_a_split_shows_nothing_before_all_that_came_before_it_can_be_read(tmp_path):
    gate = Gate("write_at", "run.h5.journal")
    files = split_before(gate, tmp_path)
    files.commit(0, 2)
    files.split(3)
    files.append(0, rows(5, 6))
    files.commit(0, 4)
    for name in ("run_2.h5", "run_1.h5"):
        with BagReader(tmp_path / name) as reader:
            assert not any(len(topic) for topic in reader.topics.values())
    assert files.committed == 0
    gate.open()
    wait_until(lambda: files.commit(0, 5) or files.committed == 6)
    files.close()
    assert [sequences(path) for path in files.paths] == [[0, 1, 2], [3, 4], [5]]


@pytest.mark.parametrize("way", ["bag.parts", "bag.programme"])
def test_who_opens_a_series_while_it_is_recorded_sees_no_gap(tmp_path, monkeypatch, way):
    gate = Gate("write_at", "run.h5.journal")
    files = split_before(gate, tmp_path)

    class Meanwhile(BagReader):
        """Between the first file that is opened and the second, the recorder goes on."""

        def __init__(self, path, **options):
            super().__init__(path, **options)
            gate.open()
            wait_until(lambda: files.commit(0, 5) or files.committed == 5)

    monkeypatch.setattr(f"{way}.BagReader", Meanwhile)
    paths = [str(tmp_path / "run.h5"), str(tmp_path / "run_1.h5")]
    if way == "bag.parts":
        with bag.open(paths) as run:
            found = run["/t"].sequence.tolist()
    else:
        programme = Programme(paths, PlayOptions(immediate=True))
        found = [int(n) for lane in programme.lanes for n in lane.index(0, len(lane))["sequence"]]
        programme.close()
    files.close()
    assert found == [0, 1, 2]


def test_the_last_file_is_closed_after_those_before_it(tmp_path):
    gate, last = Gate("write_at", "run.h5.journal"), Gate("write_at", "run_1.h5.journal")
    files = opened(
        tmp_path, opener=lambda path, *, create=False: (last if "_1" in path.name else gate).opener(path, create=create)
    )
    files.append(0, rows(0, 3))
    gate.shut()
    files.split(1)
    gate.wait()
    files.append(0, rows(3, 5))
    last.shut()
    closing = threading.Thread(target=files.close)
    closing.start()
    # that something does not happen can only be waited for
    early = last.reached.wait(0.2)
    gate.open()
    last.wait()
    last.open()
    closing.join(10)
    assert not early


@pytest.mark.parametrize("why", ["full", "deleted"])
def test_the_disk_is_looked_after_while_commits_wait(tmp_path, why):
    gate = Gate("sync", "run.h5")
    files = opened(tmp_path, opener=gate.opener, sync_interval_ns=1)
    files.append(0, rows(0, 3))
    gate.shut()
    files.commit(0, 10)
    if why == "full":
        files._options = replace(files._options, min_free_bytes=1 << 60)
    else:
        (tmp_path / "run.h5").unlink()
    with pytest.raises(LossyError, match="min-free-space" if why == "full" else "deleted or replaced"):
        files.commit(0, 20)
    gate.open()
    files.close()


def test_a_reader_may_come_while_a_commit_is_on_its_way_to_the_device(tmp_path):
    gate = Gate("sync", "run.h5")
    files = opened(tmp_path, opener=gate.opener, sync_interval_ns=1)
    files.append(0, rows(0, 3))
    gate.shut()
    files.commit(0, 10)
    gate.wait()
    # what changed stands in the journal meanwhile
    assert (tmp_path / "run.h5.journal").stat().st_size
    assert take_snapshot(tmp_path / "run.h5") is not None
    assert sequences(tmp_path / "run.h5") == [0, 1, 2]
    gate.open()
    files.close()


def test_a_file_that_no_thread_can_close_is_left_to_the_next_opening(tmp_path, monkeypatch):
    files = opened(tmp_path)
    files.append(0, rows(0, 3))
    finished = files.writer

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("bag.closing.threading.Thread.start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            files.split(1)
    with pytest.raises(BagError, match="was closed"):
        finished.commit()
    files.close()
    assert [sequences(path) for path in files.paths] == [[0, 1, 2], []]


def test_a_commit_of_many_topics_goes_on_while_messages_arrive_and_counts_only_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("bag.bagset.COMMIT_S", 0.0)
    topics = [f"/t{number}" for number in range(MANY_TOPICS)]
    files = opened(tmp_path, topics)
    for channel in range(len(topics)):
        files.append(channel, rows(0, 3))
    files.commit(0, 6_000_000_000)
    turns = 0
    while files.committing:
        assert files.committed == 0
        # nor is another one begun
        files.commit(0, 7_000_000_000 + turns)
        files.append(0, [row(3 + turns)])
        turns += 1
        files.go_on(turns)
    assert turns > len(topics)
    assert (files.committed, files.written) == (3 * len(topics), 3 * len(topics) + turns)
    assert files.counts("/t0")["messages"] == 3 + turns
    files.close()
    assert files.committed == files.written
    assert sequences(tmp_path / "run.h5", "/t0") == list(range(3 + turns))
    assert sequences(tmp_path / "run.h5", topics[-1]) == [0, 1, 2]


def test_a_split_while_a_commit_is_under_way_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("bag.bagset.COMMIT_S", 0.0)
    topics = [f"/t{number}" for number in range(MANY_TOPICS)]
    files = opened(tmp_path, topics, max_bag_bytes=1 << 30)
    for channel in range(len(topics)):
        files.append(channel, rows(0, 2))
    files.commit(0, 6_000_000_000)
    files.append(0, rows(2, 4))
    assert files.committing
    files.split(7_000_000_000)
    assert not files.committing
    files.append(0, rows(4, 6))
    files.close()
    assert [sequences(path, "/t0") for path in files.paths] == [[0, 1, 2, 3], [4, 5]]
    assert all(gaps(path, "/t0") == [] for path in files.paths)


def test_much_is_brought_to_the_device_before_the_kernel_begins_to_write_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("bag.due.writeback_begins", lambda: 2_000_000)
    syncs = []

    files = opened(tmp_path, opener=telling(syncs), sync_interval_ns=10**18)
    written = []
    for step in range(12):
        files.append(0, [row(step, size=400_000)])
        files.writer.file.finish_sync()
        before = syncs.count("run.h5")
        files.commit(0, step)
        files.writer.file.finish_sync()
        if syncs.count("run.h5") > before:
            written.append(step)
    # a commit is of 0.4 MB, half of what the kernel lets wait is 1 MB
    assert 3 <= len(written) <= 6
    files.close()


def test_each_file_is_brought_to_the_device_by_its_own_time_and_size(monkeypatch):
    monkeypatch.setattr("bag.due.writeback_begins", lambda: 2000)
    due = SyncDue(100)
    due.begin(0)
    assert [due.is_now(mono_ns, size) for mono_ns, size in ((10, 999), (11, 1000), (12, 1999), (13, 2000))] == [
        False,
        True,
        False,
        True,
    ]
    assert not due.is_now(112, 2001)
    assert due.is_now(113, 2002)
    due.begin(200)
    assert not due.is_now(299, 999)
    assert due.is_now(299, 1000)
    assert due.is_now(399, 1001)


@pytest.mark.parametrize(
    ("stated", "ratio", "meminfo", "expected"),
    [
        ("0", "10", "MemTotal: 9 kB\nMemAvailable:    1000 kB\n", 102_400),
        ("5000", "10", "MemAvailable: 1000 kB\n", 5000),
        ("0", "x", "MemAvailable: 1000 kB\n", CAREFUL_BYTES),
        ("0", "10", "MemTotal: 1000 kB\n", CAREFUL_BYTES),
        (None, None, None, CAREFUL_BYTES),
    ],
)
def test_when_the_kernel_begins_to_write_is_asked_where_it_can_be(tmp_path, stated, ratio, meminfo, expected):
    (tmp_path / "sys/vm").mkdir(parents=True)
    told = {"sys/vm/dirty_background_bytes": stated, "sys/vm/dirty_background_ratio": ratio, "meminfo": meminfo}
    for name, text in told.items():
        if text is not None:
            (tmp_path / name).write_text(text)
    assert writeback_begins(tmp_path) == expected


def test_a_commit_that_much_brought_to_its_end_is_synced_and_counted_like_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr("bag.bagset.COMMIT_S", 0.0)
    monkeypatch.setattr("bag.storage.commits.MOST_BEHIND", 100_000)
    syncs = []

    topics = [f"/t{number}" for number in range(MANY_TOPICS)]
    files = opened(tmp_path, topics, opener=telling(syncs), sync_interval_ns=1)
    for channel in range(len(topics)):
        files.append(channel, rows(0, 3))
    before = syncs.count("run.h5")
    files.commit(0, 10)
    files.append(0, rows(3, 5, size=80_000))
    assert not files.committing
    files.append(0, rows(5, 7, size=80_000))
    files.go_on(20)
    files.writer.file.finish_sync()
    assert syncs.count("run.h5") == before + 1
    assert files.committed == 3 * len(topics)
    # the size of the file counts what came since that commit began
    assert files._bytes_here > 4 * 80_000
    files.commit(0, 30)
    while files.committing:
        files.go_on(30)
    files.close()
    assert sequences(tmp_path / "run.h5", "/t0") == list(range(7))
