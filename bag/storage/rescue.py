"""Which messages of a carved bag are whole: every byte of theirs, from index row to last array, is proven.

A message needs its index row, its metadata, its rows in every column of its layout and, where rows vary in number,
both of its offsets. All of that is worked out on ranges, so that millions of messages cost no more than their index
rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bag.errors import IntegrityError
from bag.storage import layout as names
from bag.storage.chunks import ColumnBytes
from bag.storage.proven import ProvenBag
from bag.storage.topic_reader import Segment, TopicReader

BLOCK_ROWS = 1 << 16
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rescued:
    """A topic of a carved bag: `ranges` of whole messages among the `messages` whose number is known."""

    topic: TopicReader
    messages: int
    ranges: list[tuple[int, int]]

    @property
    def kept(self) -> int:
        """How many messages are whole."""
        return sum(stop - start for start, stop in self.ranges)


class Proof:
    """The byte ranges of one column that are proven, merged across chunks."""

    def __init__(self, column: ColumnBytes) -> None:
        spans: list[tuple[int, int]] = []
        for _number, (low, high) in column.proven():
            if spans and spans[-1][1] == low:
                spans[-1] = (spans[-1][0], high)
            elif high > low:
                spans.append((low, high))
        self.spans = spans
        self._lows = np.array([low for low, _high in spans], np.int64)
        self._highs = np.array([high for _low, high in spans], np.int64)

    def covers(self, lows: NDArray[np.int64], highs: NDArray[np.int64]) -> Mask:
        """Which of the ranges lows..highs lie whole in proven bytes; an empty one always does."""
        if not len(self._lows):
            return np.asarray(highs == lows)
        at = np.searchsorted(self._lows, lows, side="right") - 1
        inside = (at >= 0) & (lows >= 0) & (lows <= highs) & (highs <= self._highs[np.maximum(at, 0)])
        return np.asarray(inside | ((highs == lows) & (lows >= 0)))


def rescue(bag: ProvenBag) -> list[Rescued]:
    """The whole messages of every topic of a carved bag; a topic of which nothing is left has no ranges."""
    out = []
    for number, (name, _path) in enumerate(bag.definitions.topics):
        out.append(_rescue_topic(bag, number, name))
        bag.forget()
    return out


def _rescue_topic(bag: ProvenBag, number: int, name: str) -> Rescued:
    items = bag.definitions.columns.get(number, [])
    index = next((item for item in items if item.kind == "index"), None)
    count = 0 if index is None else _messages(bag.dataset_at(index.path).column)
    runs = _runs(bag, number, count)
    summary = np.zeros((), names.TOPIC_DTYPE)
    summary["messages"] = count
    summary["bytes"] = sum(bag.dataset_at(item.path).column.size for item in items)
    topic = bag.topic_of(number, name, runs, summary)
    if index is None or not len(runs):
        # nobody knows which layout and channel its messages have
        topic.summary["messages"] = 0
        return Rescued(topic, count, [])
    proofs = _Proofs(bag)
    good = np.zeros(count, bool)
    for low, high in proofs.of(index.path).spans:
        size = names.INDEX_DTYPE.itemsize
        good[-(-low // size) : high // size] = True
    for segment in topic.segments(0, count):
        try:
            _check_segment(topic, proofs, segment, good)
        except IntegrityError:
            # its layout or a column is not defined any more
            good[segment.start : segment.stop] = False
    return Rescued(topic, count, ranges_of(good))


def ranges_of(good: Mask) -> list[tuple[int, int]]:
    """Ranges (start, stop) of the true ones."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(np.int8)))
    return [(int(low), int(high)) for low, high in edges.reshape(-1, 2)]


class _Proofs:
    """Proofs by path, each worked out once."""

    def __init__(self, bag: ProvenBag) -> None:
        self.bag = bag
        self._known: dict[str, Proof] = {}

    def of(self, path: str) -> Proof:
        if path not in self._known:
            self._known[path] = Proof(self.bag.dataset_at(path).column)
        return self._known[path]


# the last chunk of a packed column is filled up with zeros, which no row of an index is
def _messages(index: ColumnBytes) -> int:
    size = names.INDEX_DTYPE.itemsize
    count = index.size // size
    if index.filled_up and count:
        first = (max(index.chunks) * index.chunk_bytes) // size
        try:
            rows = np.frombuffer(index.read(first * size, count * size), np.uint8).reshape(-1, size)
        except IntegrityError:
            return first
        used = np.flatnonzero(rows.any(axis=1))
        count = first + (int(used[-1]) + 1 if len(used) else 0)
    return count


# the runs of a topic, made up where they are lost and there is but one possibility
def _runs(bag: ProvenBag, number: int, count: int) -> NDArray[Any]:
    runs = bag.runs_of(number)
    layouts = [item for item in bag.definitions.layouts.values() if item.topic == number]
    name = bag.definitions.topics[number][0]
    channels = [channel.id for channel in bag.definitions.channels if channel.topic == name]
    if len(layouts) == 1 and channels and (not len(runs) or int(runs["first"][0]) != 0):
        first = np.array([(number, channels[0], layouts[0].number, 0)], names.RUN_DTYPE)
        runs = np.concatenate([first, runs])
    elif not bag.runs_whole and len(layouts) > 1:
        # one that is lost would shift all rows behind it: only what was before is sure
        return np.zeros(0, names.RUN_DTYPE)
    firsts = runs["first"].astype(np.int64)
    rises = np.concatenate([[True], np.diff(firsts) > 0]) if len(runs) else np.zeros(0, bool)
    known = runs["channel"] < len(bag.definitions.channels)
    sane = rises & known & (firsts < max(1, count))
    if not sane.all() or (len(runs) and firsts[0] != 0):
        return np.zeros(0, names.RUN_DTYPE)
    return runs


def _check_segment(topic: TopicReader, proofs: _Proofs, segment: Segment, good: Mask) -> None:
    layout = topic.layout(segment.layout)
    columns = topic.columns_of(layout)
    rows = [topic.row_of(column.number, segment.start) for column in columns]
    for at in range(segment.start, segment.stop, BLOCK_ROWS):
        stop = min(at + BLOCK_ROWS, segment.stop)
        mask = good[at:stop]
        if layout.columns is not None:
            _check_metadata(topic, proofs, at, mask)
        for column, first in zip(columns, rows, strict=True):
            row = first + at - segment.start
            if column.offsets is None:
                starts = np.arange(row, row + len(mask), dtype=np.int64) * column.spec.row_bytes
                mask &= proofs.of(column.path).covers(starts, starts + column.spec.row_bytes)
            else:
                _check_ragged(proofs, column, row, mask)


def _check_metadata(topic: TopicReader, proofs: _Proofs, at: int, mask: Mask) -> None:
    metadata = proofs.of(topic._path_of("metadata"))
    for low, high in ranges_of(mask):
        index = topic.index(at + low, at + high)
        starts = index["metadata_offset"].astype(np.int64)
        mask[low:high] &= metadata.covers(starts, starts + index["metadata_size"].astype(np.int64))


def _check_ragged(proofs: _Proofs, column: Any, row: int, mask: Mask) -> None:
    starts = np.arange(row, row + len(mask), dtype=np.int64) * 8
    mask &= proofs.of(column.path + names.OFFSETS_SUFFIX).covers(starts, starts + 16)
    values, size = proofs.of(column.path), column.spec.row_bytes
    for low, high in ranges_of(mask):
        ends = column.offsets[row + low : row + high + 1].astype(np.int64)
        sane = (ends[:-1] >= 0) & (ends[1:] >= ends[:-1]) & (ends[1:] < 1 << 48)
        lows, highs = np.where(sane, ends[:-1], 0) * size, np.where(sane, ends[1:], 1 << 48) * size
        mask[low:high] &= values.covers(lows, highs) & sane
