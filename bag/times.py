"""Times as people write them, turned into the bag's own time line."""

from __future__ import annotations

from datetime import datetime, timezone

from bag.units import parse_duration

# seconds from the start (negative: from the end), "20ms", "1.5s", or ISO 8601
Moment = float | int | str


def to_bag_time(moment: Moment, span: tuple[int, int, int]) -> int:
    """A moment on the recorder's monotonic clock in ns.

    Args:
        moment: seconds from the start of the bag, or from its end when negative; a duration with a unit; or ISO 8601.
        span: wall time of the first message, monotonic time of the first and of the last message, all ns.

    Raises:
        ValueError: the text is no time.
    """
    wall, first, last = span
    if isinstance(moment, str):
        text = moment.strip()
        if "T" in text or ":" in text or text.count("-") >= 2:
            return first + iso_to_ns(text) - wall
        offset = -parse_duration(text[1:]) if text.startswith("-") else parse_duration(text)
        return (last if text.startswith("-") else first) + offset
    offset = round(moment * 1_000_000_000)
    return last + offset if offset < 0 else first + offset


def iso_to_ns(text: str) -> int:
    """Wall ns of an ISO 8601 time; without a zone it is local time.

    Raises:
        ValueError: the text is no ISO 8601 time.
    """
    moment = datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)
    whole = moment.replace(microsecond=0)
    return int(whole.timestamp()) * 1_000_000_000 + moment.microsecond * 1000


def to_ns(duration: float | int | str) -> int:
    """A duration in ns: a number is seconds, text has a unit (`"20ms"`).

    Raises:
        ValueError: the text is no duration.
    """
    return parse_duration(duration) if isinstance(duration, str) else round(duration * 1_000_000_000)
