"""Topics that must be heard: tells when one falls silent or slow, and when it is well again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

SECOND = 1_000_000_000
# a topic without a rate must be heard at least this often
SILENCE_NS = 5 * SECOND
# a rate is judged over this many expected messages, but over a second at least
MESSAGES = 5
# no live source keeps its rate exactly
TOLERANCE = 0.9


@dataclass(frozen=True, slots=True)
class Complaint:
    """A demand that is no longer met, or is met again (`over`). `hz` is the demanded rate, `found_hz` what came."""

    topic: str
    hz: float | None
    found_hz: float
    over: bool = False

    def __str__(self) -> str:
        if self.over:
            return f"{self.topic} is well again"
        if self.hz is None or self.found_hz == 0:
            return f"{self.topic} is silent"
        return f"{self.topic} comes at {self.found_hz:.1f} Hz, {self.hz:g} Hz are required"


class Demand:
    """Watches one topic.

    Args:
        topic: its name.
        hz: the least rate, or None for being heard at all.
        start_ns: monotonic time from which on it is demanded.
    """

    def __init__(self, topic: str, hz: float | None, start_ns: int) -> None:
        self.topic = topic
        self.hz = hz
        self.broken = False
        self._window_ns = SILENCE_NS if hz is None else max(SECOND, round(MESSAGES / hz * SECOND))
        self._seen: deque[tuple[int, int]] = deque([(start_ns, 0)])

    def judge(self, now_ns: int, messages: int) -> Complaint | None:
        """Take a new count of messages; an answer when the demand has just been broken, or is just met again."""
        seen = self._seen
        seen.append((now_ns, messages))
        while len(seen) > 2 and now_ns - seen[1][0] >= self._window_ns:
            seen.popleft()
        span = now_ns - seen[0][0]
        if span < self._window_ns:
            return None
        found = (messages - seen[0][1]) / span * SECOND
        bad = found == 0 if self.hz is None else found < self.hz * TOLERANCE
        news = bad != self.broken
        self.broken = bad
        return Complaint(self.topic, self.hz, found, over=not bad) if news else None
