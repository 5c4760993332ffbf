"""Snapshot mode without sockets: what the memory of the past holds, and what a trigger writes."""

from __future__ import annotations

import struct

import pytest
from talkers import gaps, ledger, marks, sequences, summary

from bag import RecordOptions
from bag.bagset import BagSet
from bag.buffer import Received, Skipped, cost_of
from bag.records import Channel
from bag.ring import Ring

MS = 1_000_000


def row(sequence, at_ms, size=8, topic=b"/t"):
    return (10**18 + at_ms * MS, at_ms * MS, [topic, struct.pack(">QQQ", 1, 2, sequence), b"\x90", bytes(size)])


@pytest.fixture
def make(tmp_path):
    rings = []

    def make_ring(**options):
        chosen = RecordOptions(all_topics=True, snapshot=True, **options)
        ring = Ring(BagSet(tmp_path / "run.h5", chosen, numbered=True), chosen)
        for number, topic in enumerate(("/t", "/u")):
            ring.enter(Channel(number, topic, "T", 1, "node", "ipc:///x"), None)
        rings.append(ring)
        return ring

    yield make_ring
    for ring in rings:
        ring.close()


def feed(ring, numbers, channel=0, step_ms=10, size=8):
    for number in numbers:
        one = row(number, number * step_ms, size, (b"/t", b"/u")[channel])
        ring.take(Received(channel, [one], cost_of(one)), number * step_ms * MS)


def test_a_trigger_writes_the_past_of_the_given_duration(make, tmp_path):
    ring = make(snapshot_duration_ns=200 * MS)
    feed(ring, range(100))
    ring.trigger(990 * MS)
    assert sequences(tmp_path / "run_0.h5") == list(range(79, 100))
    assert summary(tmp_path / "run_0.h5").published_before_join == 79
    assert ring.snapshots == 1
    assert not ring.writing


def test_the_past_is_bounded_in_bytes(make, tmp_path):
    one = cost_of(row(0, 0, 10_000))
    # the past has three eighths of the cache
    ring = make(max_cache_bytes=-(-60 * one * 8 // 3))
    feed(ring, range(300), size=10_000)
    assert ring.held_bytes <= 60 * one
    ring.trigger(3000 * MS)
    assert sequences(tmp_path / "run_0.h5") == list(range(240, 300))


# what came in time may have been stamped later by the interval
@pytest.mark.parametrize(("receive_interval_ms", "last"), [(0, 19), (100, 29)])
def test_the_post_roll_is_written_and_nothing_after_it(receive_interval_ms, last, make, tmp_path):
    ring = make(post_roll_ns=100 * MS, receive_interval_ns=receive_interval_ms * MS)
    feed(ring, range(10))
    ring.trigger(90 * MS)
    # one batch that reaches over the end of the post-roll
    rows = [row(number, number * 10) for number in range(10, 40)]
    ring.take(Received(0, rows, sum(map(cost_of, rows))), 390 * MS)
    ring.tick(390 * MS)
    assert sequences(tmp_path / "run_0.h5") == list(range(last + 1))


def test_without_a_post_roll_a_snapshot_ends_at_once_also_where_messages_gather(make, tmp_path):
    ring = make(receive_interval_ns=100 * MS)
    feed(ring, range(10))
    ring.trigger(90 * MS)
    assert not ring.writing


def test_a_trigger_during_the_post_roll_prolongs_it_and_repeats_nothing(make, tmp_path):
    ring = make(post_roll_ns=100 * MS)
    feed(ring, range(10))
    ring.trigger(90 * MS)
    feed(ring, range(10, 15))
    ring.trigger(140 * MS)
    feed(ring, range(15, 60))
    ring.tick(600 * MS)
    assert sequences(tmp_path / "run_0.h5") == list(range(25))
    assert not (tmp_path / "run_1.h5").exists()
    assert ring.snapshots == 1


def test_a_trigger_after_the_end_writes_another_file_that_overlaps(make, tmp_path):
    ring = make(snapshot_duration_ns=100 * MS)
    feed(ring, range(20))
    ring.trigger(190 * MS)
    feed(ring, range(20, 25))
    ring.trigger(240 * MS)
    assert sequences(tmp_path / "run_0.h5") == list(range(9, 20))
    assert sequences(tmp_path / "run_1.h5") == list(range(14, 25))


def test_only_the_wanted_number_of_snapshots_is_kept(make, tmp_path):
    ring = make(snapshot_duration_ns=50 * MS, max_bag_files=2)
    for number in range(5):
        feed(ring, range(number * 10, number * 10 + 10))
        ring.trigger((number * 10 + 9) * 10 * MS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run_3.h5", "run_4.h5"]


def test_losses_in_the_past_are_in_the_snapshot_and_counted_live(make, tmp_path):
    ring = make()
    feed(ring, range(10))
    ring.take(Skipped(0, "lost_by_us", 10, 14, 10**18, 5), 140 * MS)
    feed(ring, [15, 16, 20])
    ring.trigger(200 * MS)
    assert gaps(tmp_path / "run_0.h5") == [("lost_by_us", 10, 14), ("lost_before_us", 17, 19)]
    counts = ring.counts("/t")
    assert (counts["messages"], counts["lost_by_us"], counts["lost_before_us"]) == (13, 5, 3)


def test_a_sticky_topic_begins_a_snapshot_with_its_last_value_from_before(make, tmp_path):
    ring = make(snapshot_duration_ns=100 * MS, sticky=("/u",))
    feed(ring, range(3), channel=1)
    feed(ring, range(100))
    ring.take(Received(1, [row(7, 995, topic=b"/u")], 700), 995 * MS)
    ring.trigger(1000 * MS)
    path = tmp_path / "run_0.h5"
    assert sequences(path, "/u") == [2, 7]
    # what was not asked for is no loss
    assert ledger(path, "/u") == [("repeated", 2, 2), ("paused", 3, 6)]
    assert summary(path, "/u").lost_before_us == 0


def test_marks_of_the_past_come_with_it(make, tmp_path):
    ring = make(snapshot_duration_ns=100 * MS)
    ring.mark("long ago", 10**18, 10 * MS)
    feed(ring, range(100))
    ring.mark("bump", 10**18, 950 * MS)
    ring.trigger(990 * MS)
    assert marks(tmp_path / "run_0.h5") == ["bump"]


def test_a_snapshot_that_is_going_on_is_closed_at_the_end(make, tmp_path):
    ring = make(post_roll_ns=10_000 * MS)
    feed(ring, range(10))
    ring.trigger(90 * MS)
    ring.close()
    assert sequences(tmp_path / "run_0.h5") == list(range(10))


def test_a_topic_that_appears_during_a_snapshot_is_in_it(make, tmp_path):
    ring = make(post_roll_ns=1000 * MS)
    feed(ring, range(5))
    ring.trigger(40 * MS)
    ring.enter(Channel(2, "/late", "T", 1, "node", "ipc:///y"), None)
    one = row(0, 50, topic=b"/late")
    ring.take(Received(2, [one], cost_of(one)), 50 * MS)
    ring.close()
    assert sequences(tmp_path / "run_0.h5", "/late") == [0]


def test_garbage_in_the_past_is_counted_and_does_no_harm(make, tmp_path):
    ring = make(sticky=("/t",), snapshot_duration_ns=10 * MS)
    feed(ring, range(2))
    ring.take(Received(0, [(10**18, 20 * MS, [b"/t"]), (10**18, 20 * MS, [b"/t", b"x"])], 1300), 20 * MS)
    feed(ring, range(5, 9))
    ring.trigger(80 * MS)
    assert ring.counts("/t")["malformed"] == 2
    assert sequences(tmp_path / "run_0.h5")[-2:] == [7, 8]
