"""The writer's thread by itself: when it takes what was received, and what it does while more arrives."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator

import pytest
from helpers import wait_until
from talkers import ledger, marks, sequences

from bag import RecordOptions, bagset, writing
from bag.buffer import RecordBuffer, cost_of
from bag.records import Channel
from bag.storage import commits
from bag.writing import HANDED_ON_NS, Writing

HOUR_NS = 3_600_000_000_000
TOPICS = ("/a", "/b", "/c")


class Rig:
    """A writer that gathers for an hour once it has written, unless something wakes it."""

    def __init__(self, path, **options):
        chosen = RecordOptions(all_topics=True, **options)
        self.buffer = RecordBuffer(chosen.buffer_bytes)
        clocks = {"wall": time.time_ns, "mono": time.monotonic_ns}
        self.writing = Writing(path, chosen, self.buffer, due=self.buffer.close, **clocks)
        for number, topic in enumerate(TOPICS):
            channel = Channel(number, topic, "T", 1, "node", "ipc:///x")
            self.writing.ask(lambda channel=channel: self.writing.enter(channel))
        self.writing.start()
        self.sent = [0] * len(TOPICS)

    def put(self, channel=0, size=8):
        parts = [TOPICS[channel].encode(), struct.pack(">QQQ", 1, 2, self.sent[channel]), b"\x90", bytes(size)]
        one = (time.time_ns(), time.monotonic_ns(), parts)
        self.sent[channel] += 1
        self.buffer.put(channel, [one], cost_of(one))

    def wait_written(self, count):
        wait_until(lambda: self.writing.files.written == count)

    def wait_gathering(self):
        wait_until(lambda: self.buffer._awaited == self.writing._little)

    @property
    def waiting(self):
        return self.buffer.statistics().messages


@pytest.fixture
def rig(tmp_path, monkeypatch) -> Iterator[Rig]:
    monkeypatch.setattr(writing, "COALESCE_NS", HOUR_NS)
    rig = Rig(tmp_path / "run.h5", flush_interval_ns=HOUR_NS)
    yield rig
    rig.buffer.close()
    rig.writing.join()
    assert rig.writing.error is None
    assert rig.writing.files.written == sum(rig.sent)


def test_little_is_gathered_until_somebody_wishes_something(rig):
    rig.put()
    rig.wait_written(1)
    rig.wait_gathering()
    for channel in (0, 1, 0):
        rig.put(channel)
    assert rig.waiting == 3
    rig.wait_gathering()
    rig.writing.ask(lambda: None)
    rig.wait_written(4)


def test_a_wish_is_carried_out_though_nothing_more_comes(rig):
    rig.put()
    rig.wait_written(1)
    rig.wait_gathering()
    carried_out = threading.Event()
    rig.writing.ask(carried_out.set)
    assert carried_out.wait(10)


def test_what_was_written_takes_no_place_while_more_is_gathered(rig):
    rig.put(size=rig.writing._little // 2)
    rig.wait_written(1)
    rig.wait_gathering()
    assert rig.buffer.statistics().bytes == 0


def test_a_snapshot_holds_what_was_waiting_when_it_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "COALESCE_NS", HOUR_NS)
    rig = Rig(tmp_path / "run.h5", flush_interval_ns=HOUR_NS, snapshot=True)
    rig.put()
    rig.wait_gathering()
    for _ in range(3):
        rig.put()
    assert rig.waiting == 3
    now = time.monotonic_ns()
    rig.writing.ask(lambda: rig.writing.snapshot(now))
    wait_until(lambda: rig.writing.ring.snapshots == 1)
    rig.buffer.close()
    rig.writing.join()
    assert rig.writing.error is None
    assert sequences(tmp_path / "run_0.h5", "/a") == [0, 1, 2, 3]


def test_a_snapshot_holds_what_came_while_the_writer_had_other_things_in_hand(tmp_path):
    rig = Rig(tmp_path / "run.h5", flush_interval_ns=HOUR_NS, snapshot=True)
    rig.put()
    wait_until(lambda: rig.writing.ring.held_bytes)

    def ask():
        # this turn has taken what it writes already
        rig.put()
        rig.writing.snapshot(time.monotonic_ns())

    rig.writing.ask(ask)
    wait_until(lambda: rig.writing.ring.snapshots == 1)
    rig.buffer.close()
    rig.writing.join()
    assert rig.writing.error is None
    assert sequences(tmp_path / "run_0.h5", "/a") == [0, 1]


def test_a_snapshot_that_is_asked_for_last_is_made(tmp_path, monkeypatch):
    rig = Rig(tmp_path / "run.h5", flush_interval_ns=HOUR_NS, snapshot=True)
    take, waits = rig.buffer.take, []

    def take_and_ask(wait_s):
        waits.append(wait_s)
        items, closed = take(wait_s)
        if closed:
            rig.writing.ask(lambda: rig.writing.snapshot(time.monotonic_ns()))
        return items, closed

    monkeypatch.setattr(rig.buffer, "take", take_and_ask)
    rig.put()
    wait_until(lambda: waits)
    rig.buffer.close()
    rig.writing.join()
    assert rig.writing.error is None
    assert sequences(tmp_path / "run_0.h5", "/a") == [0]


def test_when_the_duration_is_over_the_end_is_asked_for_once_and_what_still_comes_is_written(tmp_path):
    rig = Rig(tmp_path / "run.h5", flush_interval_ns=1_000_000, duration_ns=1)
    asked = []
    rig.writing._due = lambda: asked.append(rig.put())
    rig.writing.ask(rig.writing.begin)
    wait_until(lambda: asked)
    rig.put()
    rig.wait_written(2)
    rig.buffer.close()
    rig.writing.join()
    assert (len(asked), rig.writing.error) == (1, None)


def test_a_duration_ends_though_nothing_comes(tmp_path):
    rig = Rig(tmp_path / "run.h5", flush_interval_ns=HOUR_NS, duration_ns=50_000_000)
    # the writer has nothing to do for an hour
    wait_until(lambda: rig.buffer._awaited == 0)
    rig.writing.begin()
    assert rig.writing.finished.wait(10)
    assert rig.writing.error is None


def test_a_post_roll_ends_though_nothing_comes(tmp_path):
    rig = Rig(tmp_path / "run.h5", flush_interval_ns=HOUR_NS, snapshot=True, post_roll_ns=50_000_000)
    rig.writing.ask(lambda: rig.writing.snapshot(time.monotonic_ns()))
    wait_until(lambda: rig.writing.ring.snapshots == 1 and not rig.writing.ring.writing)
    rig.buffer.close()
    rig.writing.join()
    assert rig.writing.error is None


def test_a_silence_is_complained_of_though_nothing_comes(tmp_path, monkeypatch):
    monkeypatch.setattr("bag.demands.SILENCE_NS", 1_000_000)
    rig = Rig(tmp_path / "run.h5", flush_interval_ns=HOUR_NS, require=((TOPICS[0], None),))
    wait_until(lambda: rig.buffer._awaited == 0)
    rig.writing.begin()
    wait_until(lambda: rig.writing.complaints)
    rig.buffer.close()
    rig.writing.join()
    assert rig.writing.error is None


@pytest.mark.parametrize("receive_interval_ns", [0, 100_000_000])
def test_a_post_roll_holds_what_was_received_in_it(receive_interval_ns, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "COALESCE_NS", 0)
    options = {"post_roll_ns": 200_000_000, "receive_interval_ns": receive_interval_ns}
    rig = Rig(tmp_path / "run.h5", flush_interval_ns=1_000_000, snapshot=True, **options)
    rig.put()
    now = time.monotonic_ns()
    rig.writing.ask(lambda: rig.writing.snapshot(now))
    ticks = []
    wait_until(lambda: rig.writing.ring.writing)
    tick = rig.writing.ring.tick
    monkeypatch.setattr(rig.writing.ring, "tick", lambda at: ticks.append((at, time.monotonic_ns())) or tick(at))
    wait_until(lambda: not rig.writing.ring.writing)
    rig.buffer.close()
    rig.writing.join()
    # not before all of it must have been handed on
    assert all(late - at >= HANDED_ON_NS + receive_interval_ns for at, late in ticks)


def test_much_is_written_at_once(rig):
    rig.put()
    rig.wait_written(1)
    rig.wait_gathering()
    rig.put(1, rig.writing._little)
    rig.wait_written(2)
    # after much, nothing is waited for
    wait_until(lambda: rig.buffer._awaited == 0)
    rig.put(2)
    rig.wait_written(3)


def test_a_commit_that_is_due_ends_the_gathering(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "COALESCE_NS", HOUR_NS)
    monkeypatch.setattr(writing, "LEAST_NS", 0)
    rig = Rig(tmp_path / "run.h5", flush_interval_ns=1_000_000)
    for number in range(1, 4):
        rig.put()
        wait_until(lambda number=number: rig.writing.files.committed == number)
    rig.buffer.close()
    rig.writing.join()
    assert rig.writing.error is None


def test_what_is_asked_for_until_the_end_is_done_also_when_a_limit_is_reached(tmp_path):
    rig = Rig(tmp_path / "run.h5", flush_interval_ns=HOUR_NS, limit=3)
    asked = []
    rig.writing._due = lambda: asked.append(True)
    for _ in range(5):
        rig.put()
    wait_until(lambda: asked)
    # what comes meanwhile is beyond the limit, also what is left out of it
    rig.put()
    rig.buffer.skip(0, "paused", (1, 1, [b"/a", struct.pack(">QQQ", 1, 2, 6)]))
    rig.writing.ask(lambda: rig.writing.mark("last", 1))
    rig.buffer.close()
    rig.writing.join()
    assert (len(asked), rig.writing.error) == (1, None)
    assert (sequences(tmp_path / "run.h5", "/a"), marks(tmp_path / "run.h5")) == ([0, 1, 2], ["last"])
    assert ledger(tmp_path / "run.h5", "/a") == []


def test_a_duration_that_is_over_ends_the_gathering(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "COALESCE_NS", HOUR_NS)
    monkeypatch.setattr(writing, "LEAST_NS", 0)
    rig = Rig(tmp_path / "run.h5", flush_interval_ns=HOUR_NS, duration_ns=200_000_000)
    rig.put()
    rig.writing.begin()
    assert rig.writing.finished.wait(10)
    assert (rig.writing.error, rig.writing.files.written) == (None, 1)


def test_a_commit_is_made_while_more_arrives(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "COALESCE_NS", HOUR_NS)
    monkeypatch.setattr(writing, "LEAST_NS", HOUR_NS)
    monkeypatch.setattr(commits, "MANY_TOPICS", 1)
    monkeypatch.setattr(bagset, "COMMIT_S", 0.0)
    parts = []
    go_on = bagset.BagSet.go_on
    monkeypatch.setattr(bagset.BagSet, "go_on", lambda files, now: parts.append(files.committing) or go_on(files, now))
    rig = Rig(tmp_path / "run.h5", flush_interval_ns=1)
    rig.put()
    wait_until(lambda: rig.writing.files.committed == 1)
    rig.wait_gathering()
    assert parts.count(True) > 5
    assert rig.writing.files.written == 1
    rig.buffer.close()
    rig.writing.join()
    assert rig.writing.error is None
