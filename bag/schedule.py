"""The timetable of a replay: messages of all lanes in one stable order, merged a batch at a time.

Equal times keep the order of the lanes, and within a lane the order of the recording. Batches are merged by numpy, so
that a message costs less to find than to send.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bag.lanes import NOT_WANTED, Block, Lane
from bag.records import Frame

FIRST_ROWS = 64
MAX_ROWS = 1024


@dataclass(slots=True)
class Batch:
    """Messages in order: when each is due (ns on the time line), the number of its place, and its parts 1..N."""

    times: list[int]
    places: list[int]
    frames: list[list[Frame]]
    nbytes: int

    def __len__(self) -> int:
        return len(self.times)


class _Cursor:
    def __init__(self, lane: Lane, span: tuple[int | None, int | None], max_bytes: int, max_rows: int) -> None:
        self.lane = lane
        self.at, self.end = lane.rows(*span)
        self.block: Block | None = None
        self.taken = 0
        self._rows = FIRST_ROWS
        self._max_bytes = max_bytes
        self._max_rows = max_rows

    def fill(self) -> bool:
        """Have something to give, if there is anything left."""
        if self.block is None and self.at < self.end:
            stop = min(self.at + self._rows, self.end)
            self.block, self.taken = self.lane.block(self.at, stop, self._max_bytes), 0
            self.at += len(self.block.frames)
            self._rows = min(2 * self._rows, self._max_rows)
        return self.block is not None

    @property
    def horizon(self) -> int | None:
        """Up to where everything is known; None: to the end."""
        assert self.block is not None
        return None if self.at == self.end else int(self.block.times[-1])

    def take(self, horizon: int | None, *, included: bool) -> tuple[Block, int, int]:
        """What is due up to the horizon: rows of a block, from and to."""
        block, first = self.block, self.taken
        assert block is not None
        size = len(block.frames)
        last = size if horizon is None else int(np.searchsorted(block.times, horizon, "right" if included else "left"))
        self.taken = last
        if last == size:
            self.block = None
        return block, first, last


def timetable(
    lanes: Sequence[Lane], start: int | None, stop: int | None, block_bytes: int, *, max_rows: int = MAX_ROWS
) -> Iterator[Batch]:
    """All messages of a half open range of the time line, in order.

    Args:
        lanes: the topics of all bags.
        start, stop: ns on the time line; None: from the beginning, to the end.
        block_bytes: what all lanes together may hold in memory to merge.
        max_rows: messages of a lane that are read at once.
    """
    share = max(1, block_bytes // max(1, len(lanes)))
    cursors = [_Cursor(lane, (start, stop), share, max_rows) for lane in lanes]
    while cursors := [cursor for cursor in cursors if cursor.fill()]:
        horizons = [(at, lane) for lane, cursor in enumerate(cursors) if (at := cursor.horizon) is not None]
        horizon, last = min(horizons, default=(None, 0))
        # more of the same time may come in that lane, and lanes behind it must wait for it
        batch = _merge([cursor.take(horizon, included=lane <= last) for lane, cursor in enumerate(cursors)])
        if batch:
            yield batch


def _merge(parts: list[tuple[Block, int, int]]) -> Batch:
    parts = [part for part in parts if part[1] < part[2]]
    times = np.concatenate([block.times[first:last] for block, first, last in parts])
    places = np.concatenate([block.places[first:last] for block, first, last in parts])
    frames = [item for block, first, last in parts for item in block.frames[first:last]]
    nbytes = sum(block.nbytes * (last - first) // len(block.frames) for block, first, last in parts)
    if len(parts) == 1 and places.min() != NOT_WANTED:
        return Batch(times.tolist(), places.tolist(), frames, nbytes)
    order = np.argsort(times, kind="stable")
    order = order[places[order] != NOT_WANTED]
    return Batch(times[order].tolist(), places[order].tolist(), [frames[at] for at in order.tolist()], nbytes)
