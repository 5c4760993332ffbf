"""How fast the messages of a topic came: the slowest, the usual and the fastest rate, from the intervals between
arrivals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bag.storage.damage import reading
from bag.storage.reader import BagReader
from bag.storage.topic_reader import TopicReader

BLOCK_ROWS = 1 << 16
# of more intervals than this every n-th is looked at for the median
MAX_INTERVALS = 1 << 21
NS = 1e9


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Rates in Hz: one over the longest, the median and the shortest interval. None: too few messages, or at once."""

    hz_min: float | None
    hz_median: float | None
    hz_max: float | None


def rhythms(path: str | Path) -> dict[str, Rhythm]:
    """The rhythm of every topic of a bag; reads times only.

    Raises:
        FileNotFoundError, BagFormatError, BagBusyError, IntegrityError: the bag cannot be read.
    """
    with reading(path), BagReader(path) as reader:
        return {name: rhythm_of(topic) for name, topic in reader.topics.items()}


def rhythm_of(topic: TopicReader) -> Rhythm:
    """The rhythm of one topic."""
    count = len(topic)
    if count < 2:
        return Rhythm(None, None, None)
    stride = max(1, count // MAX_INTERVALS)
    sample = []
    shortest, longest = np.iinfo(np.int64).max, 0
    for at in range(0, count - 1, BLOCK_ROWS):
        steps = np.diff(topic.index(at, min(at + BLOCK_ROWS + 1, count))["log_mono_ns"])
        shortest, longest = min(shortest, int(steps.min())), max(longest, int(steps.max()))
        sample.append(steps[::stride])
    median = float(np.median(np.concatenate(sample)))
    return Rhythm(_hz(longest), _hz(median), _hz(shortest))


def _hz(interval_ns: float) -> float | None:
    return NS / interval_ns if interval_ns > 0 else None
