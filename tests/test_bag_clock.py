"""The clock of a replay, on imagined time: deadlines, rate, pause, step, jump, and no drift."""

import os
import signal
import threading

import pytest

from bag.clock import Bell, ManualClock, PlayerClock

S = 1_000_000_000
MS = 1_000_000


def test_deadlines_follow_the_rate():
    clock = ManualClock(rate=2.0, start_ns=5 * S)
    clock.jump(0)
    assert clock.deadline(4 * S) == 7 * S
    assert clock.sleep_until(4 * S) == 0
    assert clock.real_ns() == 7 * S


def test_late_is_reported_and_does_not_move_later_deadlines():
    clock = ManualClock()
    clock.jump(0)
    clock.sleep_until(1 * S)
    clock.advance(300 * MS)
    assert clock.sleep_until(1 * S + 100 * MS) == 200 * MS
    assert clock.sleep_until(2 * S) == 0
    assert clock.real_ns() == 2 * S


def test_ten_minutes_at_a_kilohertz_with_costly_sends_do_not_drift():
    clock = ManualClock(rate=0.7, start_ns=123_456_789)
    clock.jump(0)
    worst = 0
    for number in range(600_000):
        worst = max(worst, clock.sleep_until(number * MS))
        clock.advance(1_300_000 if number % 3 else 900_000)
    assert worst < 1_500_000
    assert clock.deadline(599_999 * MS) == 123_456_789 + round(599_999 * MS / 0.7)


def test_time_stands_still_while_paused():
    clock = ManualClock()
    clock.jump(0)
    clock.call_at(1 * S, clock.pause)
    clock.call_at(5 * S, clock.resume)
    assert clock.sleep_until(2 * S) == 0
    assert clock.real_ns() == 6 * S
    assert clock.now() == 2 * S


def test_a_changed_rate_goes_on_from_where_time_is():
    clock = ManualClock()
    clock.jump(0)
    clock.call_at(1 * S, lambda: clock.set_rate(4))
    clock.sleep_until(5 * S)
    assert clock.real_ns() == 2 * S


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_is_above_zero(rate):
    with pytest.raises(ValueError, match="above 0"):
        PlayerClock().set_rate(rate)


def test_a_step_lets_one_through_and_stands_at_its_time():
    clock = ManualClock()
    clock.jump(0)
    clock.pause()
    clock.step()
    assert clock.sleep_until(3 * S) == 0
    assert (clock.now(), clock.paused, clock.real_ns()) == (3 * S, True, 0)
    with pytest.raises(RuntimeError, match="paused"):
        clock.sleep_until(4 * S)


def test_steps_that_were_not_taken_are_forgotten_on_resume():
    clock = ManualClock()
    clock.jump(0)
    clock.step()
    clock.resume()
    clock.pause()
    with pytest.raises(RuntimeError, match="paused"):
        clock.sleep_until(1 * S)


def test_a_step_while_running_pauses():
    clock = ManualClock()
    clock.jump(0)
    clock.step()
    assert clock.paused


def test_an_interrupt_ends_one_wait_and_a_stop_all():
    clock = ManualClock()
    clock.jump(0)
    clock.call_at(1 * S, clock.interrupt)
    assert clock.sleep_until(2 * S) is None
    assert clock.held
    clock.clear_interrupt()
    assert clock.sleep_until(2 * S) == 0
    clock.stop()
    assert clock.sleep_until(1 * S) is None
    clock.clear_interrupt()
    assert clock.sleep_until(1 * S) is None


def test_a_jump_moves_the_time_line_and_keeps_the_pause():
    clock = ManualClock()
    clock.jump(0)
    clock.pause()
    clock.jump(9 * S)
    assert (clock.now(), clock.paused) == (9 * S, True)


def test_somebody_idle_is_called_during_long_waits_only():
    clock = ManualClock()
    clock.jump(0)
    calls = []
    clock.sleep_until(1 * MS, lambda: calls.append("short"))
    clock.sleep_until(10 * S, lambda: calls.append("long"))
    assert set(calls) == {"long"}


def test_a_real_clock_wakes_a_sleeper_that_is_stopped():
    clock = PlayerClock()
    clock.jump(0)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(clock.sleep_until(3600 * S)))
    thread.start()
    clock.stop()
    thread.join(10)
    assert answers == [None]


def test_a_real_clock_is_never_early():
    clock = PlayerClock()
    clock.jump(0)
    for at in range(0, 20 * MS, MS):
        assert clock.sleep_until(at) >= 0
        assert clock.real_ns() >= clock.deadline(at)


def test_a_bell_wakes_one_waiter_once_also_one_that_comes_later():
    bell = Bell()
    bell.ring()
    bell.ring()
    assert bell.wait(30)
    assert not bell.wait(0.001)
    bell.ring()
    assert bell.wait(30)


def test_a_signal_handler_may_stop_the_clock_at_any_moment():
    clock = PlayerClock()
    clock.jump(0)
    before = signal.signal(signal.SIGUSR1, lambda *_: clock.stop())
    sender = threading.Thread(target=lambda: [os.kill(os.getpid(), signal.SIGUSR1) for _ in range(50)])
    try:
        sender.start()
        assert clock.sleep_until(3600 * S) is None
        sender.join(30)
        assert not sender.is_alive()
    finally:
        signal.signal(signal.SIGUSR1, before)
