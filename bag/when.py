"""Moments of a bag as people write them: from its start, from its end, on the wall clock, or at a mark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bag.errors import UsageError
from bag.storage.proven import ProvenBag
from bag.storage.topic_reader import TopicReader
from bag.times import to_bag_time

# a bare number this large is ns since the epoch, not seconds: they would be longer than a bag can be
FIRST_WALL_NS = 10**15
_DIGITS = re.compile("[0-9]{1,30}")


@dataclass(frozen=True, slots=True)
class Timeline:
    """From the first to the last message of a bag: `wall_ns` is the log time of the first one, the others are
    monotonic."""

    wall_ns: int
    first_ns: int
    last_ns: int
    empty: bool = False

    @classmethod
    def of(cls, bag: ProvenBag) -> Timeline:
        """The time line of a bag."""
        filled = [topic.summary for topic in bag.topics.values() if len(topic)]
        if not filled:
            return cls(0, 0, 0, True)
        first = min(filled, key=lambda row: int(row["first_mono_ns"]))
        last = max(int(row["last_mono_ns"]) for row in filled)
        return cls(int(first["first_log_ns"]), int(first["first_mono_ns"]), last)

    def mono_of(self, wall_ns: int) -> int:
        """A wall time on the bag's monotonic clock."""
        return self.first_ns + wall_ns - self.wall_ns

    def wall_of(self, mono_ns: int) -> int:
        """A monotonic time on the wall clock as it was at the start of the bag."""
        return self.wall_ns + mono_ns - self.first_ns

    @staticmethod
    def position(topic: TopicReader, mono_ns: int, low: int = 0) -> int:
        """Number of the first message, from `low` on, that arrived at or after a moment; reads a few index rows."""
        high = len(topic)
        while low < high:
            middle = (low + high) // 2
            if int(topic.index(middle, middle + 1)["log_mono_ns"][0]) < mono_ns:
                low = middle + 1
            else:
                high = middle
        return low


def parse_moment(text: str, timeline: Timeline, marks: Sequence[tuple[str, int]] = ()) -> int:
    """A moment on the bag's monotonic clock, ns.

    `12.5` and `12.5s` count from the start, `-5` and `-5s` from the end; ISO 8601 and ns since the epoch are wall
    times; `@braked` is the first mark of that name, and `@braked+2s` two seconds later.

    Raises:
        UsageError: the text is no moment.
    """
    stripped = text.strip()
    if stripped.startswith("@"):
        return _at_mark(stripped[1:], marks)
    try:
        if _DIGITS.fullmatch(stripped) and int(stripped) >= FIRST_WALL_NS:
            return timeline.mono_of(int(stripped))
        return to_bag_time(stripped, (timeline.wall_ns, timeline.first_ns, timeline.last_ns))
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text!r} is no moment ({error}); write seconds from the start (12.5), from the end (-5), "
            f"an ISO 8601 time, ns since 1970, or @MARK"
        ) from None


def _at_mark(text: str, marks: Sequence[tuple[str, int]]) -> int:
    known = dict(reversed(marks))
    if text in known:
        return known[text]
    for sign in "+-":
        name, found, offset = text.rpartition(sign)
        if found and name in known:
            try:
                return known[name] + to_bag_time(offset, (0, 0, 0)) * (1 if sign == "+" else -1)
            except (ValueError, OverflowError):
                break
    raise UsageError(f"there is no mark {text!r}; there are: {', '.join(known) or 'none'}")
