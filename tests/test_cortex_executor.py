"""Executors: calling again, keeping to a grid of deadlines, and ending when told to."""

import asyncio
import threading
import time

import pytest
from helpers import wait_until
from peers import until

from cortex.core import executor as module
from cortex.core.executor import AsyncExecutor, BaseAsyncExecutor, RateExecutor, SyncRateExecutor

ASYNCHRONOUS = [AsyncExecutor, lambda func: RateExecutor(func, 1000)]


class Clock:
    """A clock that only a callback or a sleep moves."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


async def _nothing():
    """Do nothing."""


async def _ended(task):
    done, _ = await asyncio.wait({task}, timeout=10)
    assert done, "it did not end"
    return await task


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError):
        BaseAsyncExecutor(_nothing)


@pytest.mark.parametrize("make", ASYNCHRONOUS)
def test_it_calls_again_and_again_with_the_arguments_of_run(make):
    calls = []

    async def func(*args, **kwargs):
        calls.append((args, kwargs))

    async def main():
        executor = make(func)
        assert not executor.running
        running = asyncio.create_task(executor.run(1, two=2))
        await until(lambda: len(calls) > 100)
        assert executor.running
        executor.stop()
        await _ended(running)
        assert not executor.running

    asyncio.run(main())
    assert all(call == ((1,), {"two": 2}) for call in calls)


@pytest.mark.parametrize("make", ASYNCHRONOUS)
def test_a_failing_callback_is_logged_and_called_again(make, caplog):
    calls = []

    async def func():
        calls.append(1)
        raise ValueError("not today")

    async def main():
        executor = make(func)
        running = asyncio.create_task(executor.run())
        await until(lambda: len(calls) > 3)
        executor.stop()
        await _ended(running)

    asyncio.run(main())
    assert "not today" in caplog.text


@pytest.mark.parametrize("make", ASYNCHRONOUS)
def test_cancellation_ends_it_normally(make):
    async def main():
        executor = make(lambda: asyncio.sleep(3600))
        running = asyncio.create_task(executor.run())
        await until(lambda: executor.running)
        running.cancel()
        assert await _ended(running) is None
        assert not executor.running

    asyncio.run(main())


def test_stop_from_another_thread_wakes_a_sleeping_loop():
    async def main():
        executor = RateExecutor(_nothing, 0.001)
        running = asyncio.create_task(executor.run())
        await until(lambda: executor._sleeper is not None, what="the sleep")
        threading.Thread(target=executor.stop).start()
        await _ended(running)

    asyncio.run(main())


def test_start_and_stop_only_mark():
    for executor in (AsyncExecutor(_nothing), RateExecutor(_nothing, 10), SyncRateExecutor(print, 10)):
        executor.start()
        assert executor.running
        executor.stop()
        assert not executor.running


def test_an_executor_that_keeps_failing_is_called_ever_less_often(monkeypatch):
    pauses = []

    async def sleep(self, seconds):
        pauses.append(seconds)
        if len(pauses) == 200:
            self.stop()

    async def fail():
        raise ValueError("always")

    monkeypatch.setattr(BaseAsyncExecutor, "_sleep", sleep)
    asyncio.run(AsyncExecutor(fail).run())
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.001, 0.1)


# -- rates


@pytest.mark.parametrize("make", [RateExecutor, SyncRateExecutor])
def test_the_interval_is_the_inverse_of_the_rate(make):
    assert make(_nothing, 50).interval == pytest.approx(0.02)
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="more than 0 calls per second"):
            make(_nothing, wrong)


def _ticks(monkeypatch, rate, calls, costs):
    """Return the times of `calls` ticks of a synchronous timer whose k-th call costs `costs[k]` seconds."""
    clock, times = Clock(), []

    def func():
        times.append(round(clock.now - 100.0, 6))
        clock.now += costs.get(len(times) - 1, 0)
        if len(times) == calls:
            executor.stop()

    executor = SyncRateExecutor(func, rate)
    monkeypatch.setattr(module.time, "perf_counter", clock.perf_counter)
    monkeypatch.setattr(executor._stopped, "wait", lambda seconds: setattr(clock, "now", clock.now + seconds))
    executor.run()
    return times


def test_ticks_keep_to_the_grid(monkeypatch):
    assert _ticks(monkeypatch, 10, 4, {0: 0.03, 1: 0.05}) == [0.0, 0.1, 0.2, 0.3]


def test_late_ticks_are_made_up_for(monkeypatch):
    assert _ticks(monkeypatch, 10, 6, {1: 0.35}) == [0.0, 0.1, 0.45, 0.45, 0.45, 0.5]


def test_after_a_long_stall_the_grid_moves_on(monkeypatch, caplog):
    times = _ticks(monkeypatch, 10, 20, {1: 50.0})
    late = times.count(50.1)
    # give or take one: 0.1 has no exact binary form
    assert abs(late - module.MAKE_UP_TICKS) <= 2
    assert times[-1] == pytest.approx(50.1 + 0.1 * (20 - 2 - late), abs=0.11)
    assert "ticks skipped" in caplog.text


def test_fast_timers_make_up_for_half_a_second(monkeypatch):
    times = _ticks(monkeypatch, 1000, 700, {0: 60.0})
    assert abs(times.count(60.0) - 1000 * module.MAKE_UP_S) <= 2


def test_a_failing_rate_executor_keeps_its_rate(monkeypatch):
    clock, times = Clock(), []

    async def fail():
        times.append(round(clock.now - 100.0, 6))
        if len(times) == 4:
            executor.stop()
        raise ValueError("always")

    async def sleep(self, seconds):
        clock.now += seconds

    monkeypatch.setattr(BaseAsyncExecutor, "_sleep", sleep)
    monkeypatch.setattr(module.time, "perf_counter", clock.perf_counter)
    executor = RateExecutor(fail, 10)
    asyncio.run(executor.run())
    assert times == [0.0, 0.1, 0.2, 0.3]


def test_real_clocks_do_not_run_ahead():
    times = []
    executor = SyncRateExecutor(lambda: times.append(time.perf_counter()), 200)
    thread = threading.Thread(target=executor.run)
    thread.start()
    wait_until(lambda: len(times) >= 20)
    executor.stop()
    thread.join(10)
    # the grid begins just before the first call
    assert all(moment - times[0] > 0.005 * k - 0.002 for k, moment in enumerate(times))


# -- in threads


def test_a_synchronous_executor_passes_arguments_and_survives_errors(caplog):
    calls = []

    def func(*args, **kwargs):
        calls.append((args, kwargs))
        raise ValueError("not today")

    executor = SyncRateExecutor(func, 1000)
    thread = threading.Thread(target=executor.run, args=(1,), kwargs={"two": 2})
    thread.start()
    wait_until(lambda: len(calls) > 3)
    assert executor.running
    executor.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert calls[0] == ((1,), {"two": 2})
    assert "not today" in caplog.text


def test_stop_wakes_a_sleeping_thread_and_it_may_run_again():
    calls = []
    executor = SyncRateExecutor(lambda: calls.append(1), 0.001)
    for count in (1, 2):
        thread = threading.Thread(target=executor.run)
        thread.start()
        wait_until(lambda: len(calls) == count)
        executor.stop()
        thread.join(10)
        assert not thread.is_alive()
        assert not executor.running


def test_a_stop_between_start_and_the_loop_is_honoured():
    calls = []
    executor = SyncRateExecutor(lambda: calls.append(1), 1000)
    executor.start()
    executor.stop()
    executor.run_started()
    assert calls == []
