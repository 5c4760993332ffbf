"""When a replay's next message is due: deadlines counted from the start on the monotonic clock, slept out exactly."""

from __future__ import annotations

import threading
import time

# the system wakes a sleeper this late; the rest of the wait is spent looking at the clock
SPIN_NS = 300_000
# longest sleep before looking whether somebody wants to stop
SLICE_NS = 50_000_000


class PlayerClock:
    """Maps a time line to the monotonic clock at a rate; lateness never accumulates, since deadlines do not move.

    Args:
        rate: how much of the time line passes in a real second.
    """

    def __init__(self, rate: float = 1.0) -> None:
        self.rate = rate
        self._anchor_real = 0
        self._anchor_time = 0
        self._stopped = threading.Event()

    def start(self, at: int) -> None:
        """Now is time `at` (ns) of the time line."""
        self._anchor_time, self._anchor_real = at, time.monotonic_ns()

    def deadline(self, at: int) -> int:
        """Monotonic time (ns) at which time `at` of the time line comes."""
        return self._anchor_real + round((at - self._anchor_time) / self.rate)

    def sleep_until(self, at: int) -> int | None:
        """Wait for time `at`; returns how late it is then in ns, or None when the clock was stopped."""
        deadline = self.deadline(at)
        while not self._stopped.is_set():
            left = deadline - time.monotonic_ns()
            if left <= 0:
                return -left
            if left > SPIN_NS + SLICE_NS:
                self._stopped.wait(SLICE_NS / 1e9)
            elif left > SPIN_NS:
                time.sleep((left - SPIN_NS) / 1e9)
        return None

    def pause_for(self, duration_ns: int) -> None:
        """Wait in real time, or until the clock is stopped."""
        self._stopped.wait(duration_ns / 1e9)

    def stop(self) -> None:
        """End every wait, now and later."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()
