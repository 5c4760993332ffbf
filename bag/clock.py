"""When a replay's next message is due: deadlines counted from one anchor on the monotonic clock, slept out exactly.

Rate, pause, steps and jumps live here and nowhere else. Only they move the anchor, so lateness never accumulates: a
message that was sent late leaves the deadlines of all others where they were.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

# the system wakes a sleeper this late; the rest of the wait is spent looking at the clock. More would make us a process
# that uses its share of a busy processor up, and then is woken late by far more
SPIN_NS = 80_000
# longest sleep before looking whether somebody wants something
SLICE_NS = 50_000_000


class Anchor(NamedTuple):
    """Time `at` of the time line comes at `real` on the monotonic clock, and from there it passes at `rate`."""

    at: int
    real: int
    rate: float


class Bell:
    """Wakes one waiter, also from a signal handler: unlike those of an Event, its steps cannot be interrupted."""

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        """End the present wait, or the next one."""
        with suppress(RuntimeError):
            self._silence.release()

    def wait(self, seconds: float) -> bool:
        """Wait for the bell, or so long; whether it rang."""
        return self._silence.acquire(timeout=seconds)


class PlayerClock:
    """Maps a time line (ns) to the monotonic clock. Everything but waiting may be called from any thread.

    Args:
        rate: how much of the time line passes in a real second.
    """

    def __init__(self, rate: float = 1.0) -> None:
        self._anchor = Anchor(0, 0, rate)
        self._lock = threading.RLock()
        self._bell = Bell()
        self._paused = False
        self._steps = 0
        self._interrupted = False
        self._stopped = False

    # --- real time; a clock for tests replaces these two

    def real_ns(self) -> int:
        """Now on the monotonic clock."""
        return time.monotonic_ns()

    def _rest(self, left_ns: int | None) -> None:
        """Let part of `left_ns` pass, all of it when it is short; None: until somebody calls, or a slice."""
        if left_ns is None or left_ns > SPIN_NS + SLICE_NS:
            self._bell.wait(SLICE_NS / 1e9)
        elif left_ns > SPIN_NS:
            time.sleep((left_ns - SPIN_NS) / 1e9)

    # --- where it is

    @property
    def rate(self) -> float:
        """How much of the time line passes in a real second."""
        return self._anchor.rate

    @property
    def paused(self) -> bool:
        """Whether time stands still."""
        return self._paused

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    @property
    def held(self) -> bool:
        """Whether the next message may not simply be sent: paused, stopped or interrupted."""
        return self._paused or self._stopped or self._interrupted

    def now(self) -> int:
        """Time of the time line."""
        with self._lock:
            anchor = self._anchor
            return anchor.at if self._paused else anchor.at + round((self.real_ns() - anchor.real) * anchor.rate)

    def deadline(self, at: int) -> int:
        """Monotonic time (ns) at which time `at` of the time line comes."""
        anchor = self._anchor
        return anchor.real + round((at - anchor.at) / anchor.rate)

    # --- moving it

    def jump(self, at: int) -> None:
        """Now is time `at` of the time line."""
        with self._lock:
            self._anchor = Anchor(at, self.real_ns(), self._anchor.rate)
            self._bell.ring()

    def set_rate(self, rate: float) -> None:
        """Pass at another rate from now on.

        Raises:
            ValueError: the rate is not above 0.
        """
        if not rate > 0:
            raise ValueError(f"the rate is {rate}; it must be above 0")
        with self._lock:
            self._anchor = Anchor(self.now(), self.real_ns(), rate)
            self._bell.ring()

    def pause(self) -> None:
        """Let time stand still; a second call does nothing."""
        with self._lock:
            if not self._paused:
                self._anchor = Anchor(self.now(), self.real_ns(), self._anchor.rate)
            self._paused = True

    def resume(self) -> None:
        """Let time pass again; a second call does nothing."""
        with self._lock:
            if self._paused:
                self._anchor = Anchor(self._anchor.at, self.real_ns(), self._anchor.rate)
            self._paused = False
            self._steps = 0
            self._bell.ring()

    def step(self) -> None:
        """Let the next waiter through at once and stand still at its time; pauses if need be."""
        with self._lock:
            self.pause()
            self._steps += 1
            self._bell.ring()

    def interrupt(self) -> None:
        """End the present wait, or the next one, with None."""
        self._interrupted = True
        self._bell.ring()

    def clear_interrupt(self) -> None:
        """Wait again as usual."""
        self._interrupted = False

    def stop(self) -> None:
        """End every wait, now and later, with None; a signal handler may do this."""
        self._stopped = True
        self._bell.ring()

    # --- waiting

    def sleep_until(self, at: int, idle: Callable[[], None] | None = None) -> int | None:
        """Wait for time `at`; returns how late it is then in ns, or None when the clock was stopped or interrupted.

        Args:
            at: time on the time line.
            idle: called between two slices of a long wait.
        """
        while not (self._stopped or self._interrupted):
            left = None if self._paused else self.deadline(at) - self.real_ns()
            if left is not None and left <= 0:
                return -left
            if left is None and self._take_step(at):
                return 0
            self._rest(left)
            if idle is not None and (left is None or left > SLICE_NS):
                idle()
        return None

    def pause_for(self, duration_ns: int) -> None:
        """Wait in real time, or until the clock is stopped."""
        end = self.real_ns() + duration_ns
        while not self._stopped and (left := end - self.real_ns()) > 0:
            self._rest(left)

    def _take_step(self, at: int) -> bool:
        with self._lock:
            if not self._paused or not self._steps:
                return False
            self._steps -= 1
            self._anchor = Anchor(max(at, self._anchor.at), self.real_ns(), self._anchor.rate)
            return True


class ManualClock(PlayerClock):
    """A clock for tests: nobody sleeps, time jumps to the end of every wait, and things happen when they are told to.

        clock = ManualClock()
        clock.call_at(2_000_000_000, player.pause)

    Args:
        rate: how much of the time line passes in a second.
        start_ns: its first monotonic time.
    """

    def __init__(self, rate: float = 1.0, start_ns: int = 0) -> None:
        super().__init__(rate)
        self._real = start_ns
        self._calls: list[tuple[int, int, Callable[[], object]]] = []

    def real_ns(self) -> int:
        """Now on the imagined monotonic clock."""
        return self._real

    def call_at(self, real_ns: int, call: Callable[[], object]) -> None:
        """Call something when monotonic time `real_ns` comes."""
        self._calls = sorted([*self._calls, (real_ns, len(self._calls), call)], key=lambda item: item[:2])

    def advance(self, duration_ns: int) -> None:
        """Let time pass, as work does that takes time."""
        self._pass_to(self._real + duration_ns)

    def _rest(self, left_ns: int | None) -> None:
        end = None if left_ns is None else self._real + left_ns
        if self._calls and (end is None or self._calls[0][0] <= end):
            self._pass_to(max(self._real, self._calls[0][0]))
        elif end is not None:
            self._real = end
        else:
            raise RuntimeError("the clock is paused and nothing is left that could resume it")

    def _pass_to(self, real_ns: int) -> None:
        while self._calls and self._calls[0][0] <= real_ns:
            at, _number, call = self._calls.pop(0)
            self._real = max(self._real, at)
            call()
        self._real = max(self._real, real_ns)
