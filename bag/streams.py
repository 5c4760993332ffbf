"""The messages of several files as one stream in order of time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

from bag.parts import Part
from bag.records import RawMessage
from bag.storage.reader import SANE_LATENCY_NS

Limits: TypeAlias = "tuple[int | None, int | None]"


def merged(parts: Sequence[Part], names: Sequence[str], order: str, limits: Limits) -> Iterator[tuple[int, RawMessage]]:
    """(time, message) of several files by time; files that follow each other are opened one after the other.

    Args:
        parts: the files, in order.
        names: topics.
        order: `log` or `publish`.
        limits: half open range of times in ns on the time line of the whole bag, None: open.
    """
    chosen = [part for part in parts if part.span and not _outside(part, limits)]
    apart = all(
        one.span and other.span and one.span[2] + one.shift_ns <= other.span[1] + other.shift_ns
        for one, other in pairwise(chosen)
    )
    if apart:
        for part in chosen:
            yield from _part_messages(part, names, order, limits)
        return
    streams = [_part_messages(part, names, order, limits) for part in chosen]
    yield from heapq.merge(*streams, key=lambda item: item[0])


def _outside(part: Part, limits: Limits) -> bool:
    assert part.span is not None
    low, high = limits
    first, last = part.span[1] + part.shift_ns, part.span[2] + part.shift_ns
    # a message may be sent well before it arrives, so only arrival after the range rules a file out for sure
    return (low is not None and last < low) or (high is not None and first > high + SANE_LATENCY_NS)


def _part_messages(part: Part, names: Sequence[str], order: str, limits: Limits) -> Iterator[tuple[int, RawMessage]]:
    present = [name for name in names if name in part.reader.topics]
    low, high = (None if limit is None else limit - part.shift_ns for limit in limits)
    again = {name: int(part.reader.topics[name].index(0, 1)["log_mono_ns"][0]) for name in part.repeated}
    for time, message in part.reader.merged(present, order, low, high):
        if again and again.get(message.topic) == message.log_mono_ns:
            # a topic's repeated message is its first, so that later ones of the same moment stay
            del again[message.topic]
            continue
        yield time + part.shift_ns, message
