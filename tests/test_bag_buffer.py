"""The hand-over: bounded, exact about what it refuses, and of bounded size whatever it is asked to note."""

from __future__ import annotations

import struct
import threading

import pytest
from helpers import wait_until

from bag.buffer import Received, RecordBuffer, Skipped, cost_of
from bag.storage.batch import MESSAGE_OVERHEAD


def row(sequence, size=0, log=5):
    return (log, log, [b"/t", struct.pack(">QQQ", 1, 2, sequence), bytes(size)])


def received(channel, rows):
    return Received(channel, rows, sum(map(cost_of, rows)))


def drain(buffer):
    return buffer.take(0)[0]


def test_what_fits_is_kept_and_the_rest_is_refused_with_its_numbers():
    rows = [row(number, 1000) for number in range(10)]
    buffer = RecordBuffer(4 * cost_of(rows[0]) + 10)
    buffer.put(*received(0, rows))
    taken, refused = drain(buffer)
    assert [item[1] for item in taken.rows] == [5] * 4
    assert refused == Skipped(0, "lost_by_us", 4, 9, 5, 6)
    assert buffer.statistics().refused == 6


def test_what_is_being_written_still_counts():
    one = row(0, 1000)
    buffer = RecordBuffer(2 * cost_of(one))
    buffer.put(*received(0, [one, row(1, 1000)]))
    drain(buffer)
    buffer.put(*received(0, [row(2, 1000)]))
    assert buffer.statistics().refused == 1
    drain(buffer)
    buffer.put(*received(0, [row(3, 1000)]))
    assert buffer.statistics().refused == 1


def test_refusals_of_many_topics_in_turn_do_not_grow_without_bound():
    buffer = RecordBuffer(1 << 20)
    for number in range(1000):
        for channel in range(5):
            buffer.skip(channel, "lost_by_us", row(number))
    items = drain(buffer)
    assert items == [Skipped(channel, "lost_by_us", 0, 999, 5, 1000) for channel in range(5)]


def test_runs_break_at_gaps_and_at_messages_that_are_kept():
    buffer = RecordBuffer(1 << 20)
    buffer.skip(0, "throttled", row(1))
    buffer.skip(0, "throttled", row(2))
    buffer.put(*received(0, [row(3)]))
    buffer.skip(0, "throttled", row(4))
    buffer.skip(0, "throttled", row(6))
    buffer.skip(0, "paused", row(7))
    kinds = [item[1:4] if isinstance(item, Skipped) else "kept" for item in drain(buffer)]
    assert kinds == [
        ("throttled", 1, 2),
        "kept",
        ("throttled", 4, 4),
        ("throttled", 6, 6),
        ("paused", 7, 7),
    ]


def test_garbage_that_is_not_kept_is_counted_as_such():
    buffer = RecordBuffer(1 << 20)
    for parts in ([b"/t"], [b"/t", b"short"], [b"/t", b""]):
        buffer.skip(3, "paused", (9, 9, parts))
    assert drain(buffer) == [Skipped(3, "malformed", 0, 0, 9, 3)]


def test_memory_of_the_parts_is_what_counts():
    assert cost_of((0, 0, [b"ab", b"c"])) == MESSAGE_OVERHEAD + 3


def test_after_the_end_nothing_is_kept_and_nothing_is_called_lost():
    buffer = RecordBuffer(1 << 20)
    buffer.put(*received(0, [row(0), row(1)]))
    assert buffer.end() == 2
    buffer.put(*received(0, [row(2)]))
    buffer.skip(0, "paused", row(3))
    assert buffer.take(0) == ([], True)
    assert (buffer.statistics().messages, buffer.statistics().bytes, buffer.statistics().refused) == (0, 0, 0)


def test_who_waits_for_messages_is_woken_by_the_first():
    buffer = RecordBuffer(1 << 20)
    taken = []
    waiting = threading.Thread(target=lambda: taken.append(buffer.take(30)))
    waiting.start()
    wait_until(lambda: buffer._awaited == 0)
    buffer.put(*received(0, [row(0)]))
    waiting.join(10)
    assert not waiting.is_alive()
    assert len(taken[0][0]) == 1


def resting(buffer: RecordBuffer, enough: int) -> threading.Thread:
    """Somebody who rests until so many bytes are held."""
    thread = threading.Thread(target=lambda: buffer.rest(30, enough))
    thread.start()
    wait_until(lambda: buffer._awaited == enough)
    return thread


def test_who_rests_is_woken_by_much_and_not_by_little():
    buffer = RecordBuffer(1 << 20)
    one = cost_of(row(0))
    thread = resting(buffer, 3 * one)
    for number in range(2):
        buffer.put(*received(0, [row(number)]))
    assert not buffer.holds(3 * one)
    thread.join(0.05)
    assert thread.is_alive()
    buffer.put(*received(1, [row(2)]))
    thread.join(10)
    assert not thread.is_alive()
    assert buffer.holds(3 * one)
    # and does not rest at all while much is held
    buffer.rest(30, 3 * one)


@pytest.mark.parametrize("why", ["wake", "close"])
def test_who_rests_is_woken_by_a_wish_and_by_the_end(why):
    buffer = RecordBuffer(1 << 20)
    thread = resting(buffer, 1000)
    getattr(buffer, why)()
    thread.join(10)
    assert not thread.is_alive()
    buffer.close()
    buffer.rest(30, 1000)


@pytest.mark.parametrize("wait", [lambda buffer: buffer.take(3600), lambda buffer: buffer.rest(3600, 1000)])
def test_who_is_woken_just_before_does_not_wait(wait):
    buffer = RecordBuffer(1 << 20)
    buffer.wake()
    wait(buffer)
    # but only once
    waiting = threading.Thread(target=wait, args=(buffer,))
    waiting.start()
    wait_until(lambda: buffer._awaited in (0, 1000))
    buffer.wake()
    waiting.join(10)
    assert not waiting.is_alive()


def test_what_came_never_grows_less_whatever_becomes_of_it():
    rows = [row(number, 1000) for number in range(3)]
    buffer = RecordBuffer(2 * cost_of(rows[0]))
    buffer.put(*received(0, rows))
    came = sum(len(part) for one in rows for part in one[2])
    assert buffer.statistics().received == came
    drain(buffer)
    buffer.give_back()
    assert (buffer.statistics().bytes, buffer.statistics().received) == (0, came)


def test_what_was_handed_out_takes_its_place_until_it_is_given_back():
    buffer = RecordBuffer(cost_of(row(0)))
    buffer.put(*received(0, [row(0)]))
    assert len(drain(buffer)) == 1
    buffer.put(*received(0, [row(1)]))
    assert buffer.statistics().refused == 1
    buffer.give_back()
    buffer.put(*received(0, [row(2)]))
    assert (buffer.statistics().refused, buffer.statistics().messages) == (1, 1)


def test_messages_of_a_channel_come_as_one_whatever_came_between_them_but_not_over_what_was_skipped():
    buffer = RecordBuffer(1 << 20)
    rows = [row(number) for number in range(5)]
    for number, channel in enumerate((0, 1, 0)):
        buffer.put(*received(channel, [rows[number]]))
    buffer.skip(0, "paused", rows[3])
    buffer.put(*received(0, [rows[4]]))
    assert drain(buffer) == [
        received(0, [rows[0], rows[2]]),
        received(1, [rows[1]]),
        Skipped(0, "paused", 3, 3, 5, 1),
        received(0, [rows[4]]),
    ]
    buffer.put(*received(0, [rows[0]]))
    assert drain(buffer) == [received(0, [rows[0]])]
