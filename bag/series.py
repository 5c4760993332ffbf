"""Puts the files of one recording in order, on one time line, and knows what of a file stands in an earlier one too.

A split begins with the last message of each sticky topic once more, so that it can be used alone. In a series that
message is left out again. Files `run_0.h5`, `run_1.h5`... of one host whose monotonic times follow each other are one
recording whatever the wall clock did meanwhile; all others stand by wall time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from bag.storage import bulk

if TYPE_CHECKING:
    from bag.parts import Part

# clocks that differ by less belong to one boot of one machine, so that monotonic times compare
SAME_CLOCK_NS = 60_000_000_000
# the next file of a series begins this soon after the last one ended, if anything is being published
SOON_NS = 600_000_000_000
NUMBERED = re.compile(r"(.*?)(?:_(\d+))?(\.[^./]*)?")


def arrange(parts: list[Part]) -> None:
    """Sort the files by time, and set their `repeated`, `span` and `shift_ns`."""
    if len(parts) < 2:
        return
    if _is_series(parts):
        parts.sort(key=_number)
        _leave_out_repeated(parts)
        return
    parts.sort(key=lambda part: part.span[0] if part.span else 0)
    _leave_out_repeated(parts)
    filled = [part.span for part in parts if part.span]
    for part in parts:
        if part.span and filled:
            part.shift_ns = _shift(filled[0], part.span)


def _is_series(parts: Sequence[Part]) -> bool:
    stems = {_name(part)[::2] for part in parts}
    if len(stems) != 1 or len({part.reader.info().host for part in parts}) != 1:
        return False
    spans = [part.span for part in sorted(parts, key=_number) if part.span]
    # a repeated message may be much older than the file it begins
    return all(one[2] <= other[2] and other[1] - one[2] < SOON_NS for one, other in pairwise(spans))


def _name(part: Part) -> tuple[str, int, str]:
    found = NUMBERED.fullmatch(part.path)
    # a recording that was split by hand begins with run.h5
    return (found[1], int(found[2] or -1), found[3] or "") if found else (part.path, -1, "")


def _number(part: Part) -> int:
    return _name(part)[1]


def _shift(first: tuple[int, int, int], span: tuple[int, int, int]) -> int:
    drift = (span[0] - span[1]) - (first[0] - first[1])
    return 0 if abs(drift) < SAME_CLOCK_NS else drift


# only what is marked as repeated, and is the last message of that topic in the files before
def _leave_out_repeated(parts: Sequence[Part]) -> None:
    last: dict[str, Part] = {}
    for part in parts:
        again = {topic for topic in bulk.repeated_topics(part.reader) if topic in last}
        part.repeated = frozenset(topic for topic in again if _same(last[topic], part, topic))
        if part.repeated:
            part.span = _span_without(part)
        last |= {name: part for name, topic in part.reader.topics.items() if len(topic)}


def _same(earlier: Part, later: Part, topic: str) -> bool:
    before, after = earlier.reader.topics[topic], later.reader.topics[topic]
    one, other = before.index(len(before) - 1, len(before))[0], after.index(0, 1)[0]
    return all(one[name] == other[name] for name in ("sequence", "publish_time_ns", "log_mono_ns"))


def _span_without(part: Part) -> tuple[int, int, int] | None:
    firsts: list[tuple[int, int, int]] = []
    for name, topic in part.reader.topics.items():
        if len(topic) > (name in part.repeated):
            row = topic.index(1, 2)[0] if name in part.repeated else None
            wall = topic.summary["first_log_ns"] if row is None else row["log_time_ns"]
            mono = topic.summary["first_mono_ns"] if row is None else row["log_mono_ns"]
            firsts.append((int(mono), int(wall), int(topic.summary["last_mono_ns"])))
    if not firsts:
        return None
    mono, wall, _last = min(firsts)
    return wall, mono, max(last for _mono, _wall, last in firsts)
