"""Rate, spread, bandwidth and loss of a topic over a window of time; pure arithmetic on arrival times."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """What one measurement saw.

    Attributes:
        duration_s: its length in seconds.
        messages: how many arrived.
        bytes: their size without the topic.
        hz: messages per second, between first and last where there are two or more.
        min_s, max_s, std_s: intervals between arrivals in seconds, or None with fewer than two messages.
        lost: sequence numbers missing.
        smallest, largest: sizes in bytes, or None without messages.
    """

    duration_s: float
    messages: int
    bytes: int
    hz: float
    min_s: float | None
    max_s: float | None
    std_s: float | None
    lost: int
    smallest: int | None
    largest: int | None

    @property
    def bytes_per_s(self) -> float:
        """Bandwidth in bytes per second."""
        return self.bytes / self.duration_s


class Meter:
    """Takes arrivals and closes windows; a message between two windows counts for the interval across them."""

    def __init__(self) -> None:
        self._times: list[int] = []
        self._sizes: list[int] = []
        self._before: int | None = None
        self._last_sequence: int | None = None
        self._lost = 0

    def add(self, arrival_ns: int, size: int, sequence: int) -> None:
        """Count one message by its monotonic arrival time, its size in bytes and its sequence number."""
        self._times.append(arrival_ns)
        self._sizes.append(size)
        # a sequence that goes down is a restarted publisher, not a loss
        if self._last_sequence is not None and sequence > self._last_sequence + 1:
            self._lost += sequence - self._last_sequence - 1
        self._last_sequence = sequence

    def close(self, duration_s: float) -> Window:
        """End the window that lasted `duration_s` seconds and begin the next one."""
        times = self._times if self._before is None else [self._before, *self._times]
        gaps = [(late - early) / 1e9 for early, late in itertools.pairwise(times)]
        total = sum(gaps)
        window = Window(
            duration_s=duration_s,
            messages=len(self._times),
            bytes=sum(self._sizes),
            hz=len(gaps) / total if total > 0 else len(self._times) / duration_s,
            min_s=min(gaps, default=None),
            max_s=max(gaps, default=None),
            std_s=_deviation(gaps),
            lost=self._lost,
            smallest=min(self._sizes, default=None),
            largest=max(self._sizes, default=None),
        )
        self._before = self._times[-1] if self._times else None
        self._times, self._sizes, self._lost = [], [], 0
        return window


def _deviation(values: Sequence[float]) -> float | None:
    if not values:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


def bytes_text(count: float) -> str:
    """Return a size with a decimal unit, such as ``12.3 MB``."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


__all__ = ["Meter", "Window", "bytes_text"]
