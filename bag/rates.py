"""Rates for people to look at: how much came per second over about the last second."""

from __future__ import annotations

WINDOW_NS = 1_000_000_000
STEP_NS = 100_000_000


class RateMeter:
    """Turns growing counts into rates, from whatever moments it is asked at."""

    def __init__(self) -> None:
        self._points: list[tuple[int, int, int]] = []

    def rates(self, now_ns: int, messages: int, nbytes: int) -> tuple[float, float]:
        """(messages, bytes) per second over about the last second."""
        points = self._points
        if not points or now_ns - points[-1][0] >= STEP_NS:
            points.append((now_ns, messages, nbytes))
        while len(points) > 2 and now_ns - points[1][0] >= WINDOW_NS:
            points.pop(0)
        since, first_messages, first_bytes = points[0]
        span = now_ns - since
        if span <= 0:
            return 0.0, 0.0
        return (messages - first_messages) / span * 1e9, (nbytes - first_bytes) / span * 1e9
