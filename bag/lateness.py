"""How late every message was, however long it takes: exact values, folded into a histogram before they grow."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bag.statistics import Lateness

# so many values are kept as they are
FOLD = 1 << 16
# the histogram's bins are this much wider from one to the next
RATIO = 1.01
# bins reach from 100 ns to some hours
FIRST_NS = 100.0
EDGES: NDArray[Any] = FIRST_NS * RATIO ** np.arange(2500)


class LatenessLog:
    """Takes lateness values in ns; percentiles of long series are right to one percent."""

    def __init__(self) -> None:
        self._values = array("q")
        self._bins: NDArray[np.int64] | None = None
        self._max = 0
        self.append = self._values.append

    @property
    def count(self) -> int:
        """How many values were taken."""
        return len(self._values) + (0 if self._bins is None else int(self._bins.sum()))

    def fold(self) -> None:
        """Give back memory, if it is time to."""
        if len(self._values) >= FOLD:
            self._fold()

    def _fold(self) -> None:
        values = np.frombuffer(self._values, np.int64)
        if self._bins is None:
            self._bins = np.zeros(len(EDGES) + 1, np.int64)
        if len(values):
            self._max = max(self._max, int(values.max()))
            np.add.at(self._bins, np.searchsorted(EDGES, values), 1)
        self._values = array("q")
        self.append = self._values.append

    def add(self, other: LatenessLog) -> None:
        """Take over everything of another log."""
        if other._bins is None:
            self._values.extend(other._values)
            return
        self._fold()
        other._fold()
        assert self._bins is not None
        self._bins += other._bins
        self._max = max(self._max, other._max)

    def summary(self) -> Lateness:
        """Median, 99th percentile and maximum."""
        if self._bins is None:
            if not self._values:
                return Lateness()
            values = np.frombuffer(self._values, np.int64)
            p50, p99 = np.percentile(values, [50, 99])
            return Lateness(int(p50), int(p99), int(values.max()))
        self._fold()
        reached = np.cumsum(self._bins)
        total = int(reached[-1])
        if not total:
            return Lateness()
        bins = np.searchsorted(reached, [0.5 * total, 0.99 * total])
        p50, p99 = (min(self._max, int(EDGES[min(at, len(EDGES) - 1)])) for at in bins.tolist())
        return Lateness(p50, p99, self._max)
