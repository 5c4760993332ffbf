"""How fast the messages of a topic came: the slowest, the usual and the fastest rate, from the intervals between
arrivals, or between sendings where messages were received many at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bag.storage.reader import BagReader, sending_times
from bag.storage.topic_reader import TopicReader

BLOCK_ROWS = 1 << 16
# so many times are read of a whole bag: what is said of it takes as long for ten million messages as for a few
MAX_TIMES = 1 << 18
MIN_TIMES = 64
# a longer topic is looked at in so many places
PLACES = 4
# of more intervals than this every n-th is looked at for the median
MAX_INTERVALS = 1 << 21
NS = 1e9


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Rates in Hz: one over the longest, the median and the shortest interval. None: too few messages, or at once.

    `hz_sampled`: only a part of the intervals was looked at, so that there may be longer and shorter ones.
    """

    hz_min: float | None
    hz_median: float | None
    hz_max: float | None
    hz_sampled: bool = False


def rhythms(reader: BagReader, *, exact: bool = False) -> dict[str, Rhythm]:
    """The rhythm of every topic of a bag; reads times only.

    Args:
        reader: the open bag.
        exact: look at every interval, however long that takes; otherwise at a bounded number in all.

    Raises:
        IntegrityError: the times cannot be read.
    """
    share = max(MIN_TIMES, MAX_TIMES // max(1, len(reader.topics)))
    most = None if exact else share
    return {name: rhythm_of(topic, most, sent=reader.gathered) for name, topic in reader.topics.items()}


def rhythm_of(topic: TopicReader, most: int | None = None, *, sent: bool = False) -> Rhythm:
    """The rhythm of one topic, from about `most` of its messages, or from all; `sent`: by their publish times."""
    count = len(topic)
    if count < 2:
        return Rhythm(None, None, None)
    sampled = most is not None and count > most
    stride = max(1, count // MAX_INTERVALS) if not sampled else 1
    sample = []
    shortest, longest = np.iinfo(np.int64).max, 0
    for rows in _stretches(topic, most if sampled else None):
        times = sending_times(rows, gathered=True) if sent else rows["log_mono_ns"]
        steps = times[1:] - times[:-1]
        shortest, longest = min(shortest, int(steps.min())), max(longest, int(steps.max()))
        sample.append(steps[::stride])
    return Rhythm(_hz(longest), _hz(_median(np.concatenate(sample))), _hz(shortest), sampled)


# np.median takes longer than all the rest
def _median(values: NDArray[np.int64]) -> float:
    low, high = (len(values) - 1) // 2, len(values) // 2
    return float(np.partition(values, (low, high))[[low, high]].mean())


# neighbours share one row, so that no interval is passed over
def _stretches(topic: TopicReader, most: int | None) -> Iterator[NDArray[Any]]:
    count = len(topic)
    if most is None:
        bounds = [(at, min(at + BLOCK_ROWS + 1, count)) for at in range(0, count - 1, BLOCK_ROWS)]
    else:
        length = max(2, most // PLACES)
        starts = [place * (count - length) // (PLACES - 1) for place in range(PLACES)]
        bounds = [(at, at + length) for at in starts]
    for start, stop in bounds:
        yield topic.index(start, stop)


def _hz(interval_ns: float) -> float | None:
    return NS / interval_ns if interval_ns > 0 else None
