"""Runs a callback again and again, at full speed or at a fixed rate; a failing callback never ends the loop.

Rates follow a grid of deadlines counted from the start, so that lateness does not add up.  Late ticks are made up for,
but only `MAKE_UP_S` seconds of them (at least `MAKE_UP_TICKS`): after a long stall the grid moves instead of firing
everything that was missed at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from cortex.core.types import AsyncCallback

logger = logging.getLogger(__name__)

MAKE_UP_TICKS = 10
MAKE_UP_S = 0.5
_LONGEST_PAUSE_S = 0.1


class _Grid:
    """Deadlines at multiples of the interval, and how many of them had to be given up."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._limit = max(MAKE_UP_TICKS, round(MAKE_UP_S / interval))
        self._next = time.perf_counter()
        self.skipped = 0

    def advance(self) -> None:
        """Go on to the next deadline; done before the callback, so that a failing one cannot stop the clock."""
        self._next += self._interval

    def seconds_left(self) -> float:
        """Return the time until the deadline, 0 when it is over."""
        left = self._next - time.perf_counter()
        surplus = int(-left / self._interval) - self._limit
        if surplus > 0:
            self._next += surplus * self._interval
            self.skipped += surplus
            logger.warning("a timer of %.6g s fell behind: %d ticks skipped", self._interval, surplus)
        return max(0.0, left)


class BaseAsyncExecutor(ABC):
    """A callback in a loop on the event loop."""

    def __init__(self, func: AsyncCallback) -> None:
        """Keep the coroutine function `func`; `run()` calls it."""
        self.func = func
        self._running = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sleeper: asyncio.Future[None] | None = None

    @property
    def running(self) -> bool:
        """Whether the loop goes on."""
        return self._running

    def start(self) -> None:
        """Mark as running; `run()` does so itself."""
        self._running = True

    def stop(self) -> None:
        """End the loop after the current call, waking it when it sleeps; may be called from any thread."""
        self._running = False
        if self._loop is not None:
            # a loop that is closed meanwhile has nothing left to wake
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)

    async def run(self, *args: Any, **kwargs: Any) -> None:
        """Call the function with these arguments until `stop()`; cancellation ends it normally."""
        self._loop = asyncio.get_running_loop()
        self.start()
        try:
            await self._repeat(*args, **kwargs)
        except asyncio.CancelledError:
            logger.debug("%s was cancelled", _name(self.func))
        finally:
            self._running = False

    @abstractmethod
    async def _repeat(self, *args: Any, **kwargs: Any) -> None:
        """Call the function for as long as `running` says so."""

    async def _call(self, *args: Any, **kwargs: Any) -> bool:
        try:
            await self.func(*args, **kwargs)
        except Exception:
            logger.exception("%s failed; it is called again", _name(self.func))
            return False
        return True

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not beyond a `stop()`."""
        loop = asyncio.get_running_loop()
        self._sleeper = loop.create_future()
        timer = loop.call_later(seconds, self._wake)
        try:
            if self._running:
                await self._sleeper
        finally:
            timer.cancel()
            self._sleeper = None

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)


class AsyncExecutor(BaseAsyncExecutor):
    """Calls a coroutine function again as soon as it returns; while it keeps failing, ever less often."""

    async def _repeat(self, *args: Any, **kwargs: Any) -> None:
        failures = 0
        while self._running:
            if await self._call(*args, **kwargs):
                failures = 0
                await asyncio.sleep(0)
            else:
                failures += 1
                await self._sleep(min(failures / 1000, _LONGEST_PAUSE_S))


class RateExecutor(BaseAsyncExecutor):
    """Calls a coroutine function at a fixed rate; the first call is immediate.

    Attributes:
        interval: seconds between two calls.
    """

    def __init__(self, func: AsyncCallback, rate_hz: float) -> None:
        """Keep `func` and the rate in calls per second; ValueError unless it is positive."""
        super().__init__(func)
        self.rate_hz = rate_hz
        self.interval = _interval(rate_hz)

    async def _repeat(self, *args: Any, **kwargs: Any) -> None:
        grid = _Grid(self.interval)
        while self._running:
            grid.advance()
            await self._call(*args, **kwargs)
            left = grid.seconds_left()
            await (self._sleep(left) if left else asyncio.sleep(0))


class SyncRateExecutor:
    """Calls a plain function at a fixed rate in the thread that runs it; the first call is immediate.

    Attributes:
        interval: seconds between two calls.
    """

    def __init__(self, func: Callable[..., Any], rate_hz: float) -> None:
        """Keep `func` and the rate in calls per second; ValueError unless it is positive."""
        self.func = func
        self.rate_hz = rate_hz
        self.interval = _interval(rate_hz)
        self._stopped = threading.Event()
        self._stopped.set()

    @property
    def running(self) -> bool:
        """Whether the loop goes on."""
        return not self._stopped.is_set()

    def start(self) -> None:
        """Mark as running; `run()` does so itself."""
        self._stopped.clear()

    def stop(self) -> None:
        """End the loop after the current call, waking it when it sleeps; may be called from any thread."""
        self._stopped.set()

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Call the function with these arguments, blocking, until `stop()`; may be run again afterwards."""
        self.start()
        self.run_started(*args, **kwargs)

    def run_started(self, *args: Any, **kwargs: Any) -> None:
        """Do what `run()` does after `start()`: a `stop()` that came between the two is honoured."""
        grid = _Grid(self.interval)
        try:
            while not self._stopped.is_set():
                grid.advance()
                self._call(*args, **kwargs)
                self._stopped.wait(grid.seconds_left())
        finally:
            self._stopped.set()

    def _call(self, *args: Any, **kwargs: Any) -> None:
        try:
            self.func(*args, **kwargs)
        except Exception:
            logger.exception("%s failed; it is called again", _name(self.func))


def _interval(rate_hz: float) -> float:
    if not rate_hz > 0:
        raise ValueError(f"a rate must be more than 0 calls per second, not {rate_hz}.")
    return 1.0 / rate_hz


def _name(func: object) -> str:
    return getattr(func, "__qualname__", None) or repr(func)


__all__ = ["AsyncExecutor", "BaseAsyncExecutor", "RateExecutor", "SyncRateExecutor"]
