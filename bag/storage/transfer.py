"""Copies messages from bags to a new bag, column by column: no message is taken apart, no frame becomes an object.

What is copied is a plan: for each topic of the new bag the pieces (ranges of messages) of old topics in order.
Bytes go from proven chunks of the old file to chunks of the new one, blocks of all topics interleaved by time, and
the account of each topic is kept anew, with what the old ledger was told. Memory is bounded by a block, whatever the
size of the bags.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bag.errors import IntegrityError
from bag.records import Channel
from bag.storage.columns import WHOLE_SPEC, BufferColumn, Layout
from bag.storage.filters import parse_compression, require
from bag.storage.packing import PackedColumn, Packer
from bag.storage.plans import Origin, Piece, TopicPlan, moved_address
from bag.storage.replay import REPEATED, batch_of
from bag.storage.retelling import Retelling
from bag.storage.topic_reader import COUNT, Segment, TopicReader
from bag.storage.tree import describe
from bag.storage.writer import BagWriter

BLOCK_BYTES = 4 << 20
BLOCK_ROWS = 8192
COMMIT_BYTES = 32 << 20
UNITS = ("log_time_ns", "publish_time_ns", "log_mono_ns")


def transfer(
    writer: BagWriter,
    plans: Sequence[TopicPlan],
    progress: Callable[[int], None] | None = None,
    packer: Packer | None = None,
) -> None:
    """Copy everything planned; `progress` is told the bytes of messages copied so far, `packer` compresses.

    Raises:
        IntegrityError: bytes of an old bag are damaged.
        OSError: the disk refuses.
    """
    copies = [_TopicCopy(writer, plan, packer) for plan in plans]
    heap = [(copy.next_time(), number) for number, copy in enumerate(copies) if not copy.done]
    heapq.heapify(heap)
    total = since = 0
    while heap:
        _time, number = heapq.heappop(heap)
        copy = copies[number]
        nbytes = copy.step()
        total, since = total + nbytes, since + nbytes
        if since >= COMMIT_BYTES:
            # so that checksums stand near what they prove, also in a file that is cut short later
            writer.commit()
            since = 0
        if progress is not None:
            progress(total)
        if not copy.done:
            heapq.heappush(heap, (copy.next_time(), number))
    for copy in copies:
        copy.finish()
    if packer is not None:
        # what is packed must be written while the packer works
        for copy in copies:
            copy.finish_columns()


@contextmanager
def packing(writer: BagWriter, compression: str | None) -> Iterator[Packer | None]:
    """What compresses the columns of a new bag as `gzip`, `zstd:9`...; None for None.

    Raises:
        UsageError, MissingExtraError: there is no such compression here.
    """
    if compression is None:
        yield None
        return
    name, level = parse_compression(compression)
    require(name)
    describe(writer.h5, compression=name)
    with Packer((name, level)) as packer:
        yield packer


class _TopicCopy:
    """Copies one topic, a block at a step."""

    def __init__(self, writer: BagWriter, plan: TopicPlan, packer: Packer | None) -> None:
        self._writer = writer
        self._plan = plan
        self._channels: dict[tuple[int, int], Channel] = {}
        self._announce()
        first = next(iter(self._channels.values()))
        topic = writer._of_channel[first.id]
        topic.columns.packing = packer
        self._account, self._columns = topic.account, topic.columns
        self._retelling = Retelling(self._account, plan, self._channels)
        self._expect(plan)
        self._layouts: dict[tuple[int, int], Layout] = {}
        self._run: tuple[int, int] | None = None
        # (old bag, old offset, size) of the last metadata, and where it is now
        self._metadata: tuple[tuple[int, int, int], int] | None = None
        self._metadata_end = 0
        self._position = 0
        self._at = plan.pieces[0].start if plan.pieces else 0
        nbytes = sum(int(origin.topic.summary["bytes"]) for origin in plan.origins)
        self._size = max(1, nbytes // max(1, sum(len(origin.topic) for origin in plan.origins)))
        self._step = max(1, min(BLOCK_ROWS, BLOCK_BYTES // self._size))

    # every channel of the topic is known from the start, also of a topic without messages
    def _announce(self) -> None:
        known: dict[Channel, Channel] = {}
        for origin in self._plan.origins:
            for channel in origin.bag.definitions.channels:
                if channel.topic != origin.topic.name:
                    continue
                wanted = dataclasses.replace(channel, id=0, topic=self._plan.name)
                wanted = dataclasses.replace(wanted, address=moved_address(channel, self._plan.name))
                if wanted not in known:
                    schema = self._plan.schema or origin.bag.definitions.schemas.get(channel.fingerprint)
                    known[wanted] = self._writer.add_channel(wanted, schema)
                self._channels[id(origin.bag), channel.id] = known[wanted]

    # what continues another file goes on doing so
    def _expect(self, plan: TopicPlan) -> None:
        origin = plan.origins[0]
        expected = origin.bag.definitions.expected.get(origin.topic.number)
        if expected and origin.first == 0:
            numbers = {
                self._retelling.channel_of(origin, channel).id: sequence for channel, sequence in expected.items()
            }
            self._writer.expect(plan.name, numbers)

    @property
    def done(self) -> bool:
        return self._position >= len(self._plan.pieces)

    def next_time(self) -> int:
        """Monotonic time of the next message in the new bag, ns."""
        piece = self._plan.pieces[self._position]
        if piece.arrived is not None:
            return piece.arrived[1]
        index = piece.origin.topic.index(self._at, self._at + 1)
        return int(index["log_mono_ns"][0]) + piece.origin.shift_ns + piece.origin.mono_shift_ns

    def step(self) -> int:
        """Copy a block; returns its bytes."""
        piece = self._plan.pieces[self._position]
        start, stop = self._at, min(self._at + self._step, piece.stop)
        if self._columns.index is None:
            self._columns.create_index(self._plan.messages, self._plan.messages * self._size)
        nbytes = 0
        origin = piece.origin
        follows = self._retelling.passed[id(origin)] == start or origin.left_out is not None
        self._retelling.pass_over(origin, start)
        for segment in origin.topic.segments(start, stop):
            at = segment.start
            for row in self._retelling.due(origin, at, segment.stop):
                nbytes += self._copy(piece, dataclasses.replace(segment, start=at, stop=row.message))
                at = row.message
                if follows or at != start:
                    self._retelling.tell(row, origin)
                    if row.kind == REPEATED:
                        nbytes += self._copy(piece, dataclasses.replace(segment, start=at, stop=at + 1))
                        at += 1
            nbytes += self._copy(piece, dataclasses.replace(segment, start=at))
        self._retelling.passed[id(origin)] = self._at = stop
        if stop == piece.stop:
            self._position += 1
            self._at = 0 if self.done else self._plan.pieces[self._position].start
        return nbytes

    def finish(self) -> None:
        """Account for what comes behind the last piece of each origin."""
        for origin in self._plan.origins:
            self._retelling.pass_over(origin, origin.last)
            if origin.last == len(origin.topic):
                for row in self._retelling.due(origin, origin.last, 1 << 62):
                    self._retelling.tell(row, origin)

    def finish_columns(self) -> None:
        """End the columns that are packed."""
        for column in self._columns.all:
            if isinstance(column, PackedColumn):
                column.finish()

    # --- the bytes

    def _copy(self, piece: Piece, segment: Segment) -> int:
        if segment.start >= segment.stop:
            return 0
        topic = piece.origin.topic
        index = topic.index(segment.start, segment.stop).copy()
        old = topic.layout(segment.layout)
        layout = self._layout(piece.origin, segment.layout)
        count = len(index)
        if old.columns is None:
            index["metadata_offset"], index["metadata_size"] = self._metadata_end, 0
            columns: tuple[BufferColumn, ...] = (self._columns.buffer(WHOLE_SPEC),)
            numbers = [topic.columns_of(old)[0].number]
            nbytes = 0
        else:
            assert layout.columns is not None
            nbytes = 24 * count + int(index["metadata_size"].sum(dtype=np.int64))
            self._copy_metadata(piece.origin, index)
            columns, numbers = layout.columns, list(old.columns)
        for column, number in zip(columns, numbers, strict=True):
            nbytes += self._copy_buffers(column, topic, number, segment, whole=old.columns is None)
        self._append(piece, segment, layout, index, nbytes)
        return nbytes

    def _append(self, piece: Piece, segment: Segment, layout: Layout, index: NDArray[Any], nbytes: int) -> None:
        if piece.arrived is not None:
            index["log_time_ns"], index["log_mono_ns"] = piece.arrived
        elif piece.origin.shift_ns or piece.origin.mono_shift_ns:
            for name in UNITS:
                index[name] += piece.origin.shift_ns
            index["log_mono_ns"] += piece.origin.mono_shift_ns
        channel = self._retelling.channel_of(piece.origin, segment.channel)
        if self._run != (channel.id, layout.number):
            self._run = (channel.id, layout.number)
            self._writer.book.run(self._account.topic, channel.id, layout.number, self._account.messages)
        self._retelling.bridge(channel, index)
        assert self._columns.index is not None
        self._columns.index.append(index.tobytes())
        self._account.add(channel.id, batch_of(index), nbytes)

    def _layout(self, origin: Origin, number: int) -> Layout:
        key = (id(origin.bag), number)
        if key not in self._layouts:
            self._layouts[key] = self._find_layout(origin, number)
        return self._layouts[key]

    def _find_layout(self, origin: Origin, number: int) -> Layout:
        old = origin.topic.layout(number)
        if old.columns is None:
            return self._columns._whole_layout()
        rename = self._plan.rename or (lambda spec: spec)
        columns = tuple(self._columns.buffer(rename(column.spec)) for column in origin.topic.columns_of(old))
        for layout in self._columns._layouts:
            if layout.fingerprint == old.fingerprint and layout.columns == columns:
                return layout
        return self._columns._new_layout(old.fingerprint, columns)

    # the bytes of metadata that the messages share stay shared
    def _copy_metadata(self, origin: Origin, index: NDArray[Any]) -> None:
        offsets, sizes = index["metadata_offset"].astype(np.int64), index["metadata_size"].astype(np.int64)
        fresh = np.concatenate([[True], (np.diff(offsets) != 0) | (np.diff(sizes) != 0)])
        starts, lengths = offsets[fresh], sizes[fresh]
        places = np.cumsum(lengths) - lengths + self._metadata_end
        first = (id(origin.bag), int(starts[0]), int(lengths[0]))
        known = self._metadata is not None and self._metadata[0] == first
        if known and self._metadata is not None:
            places -= lengths[0]
            places[0] = self._metadata[1]
        last = (id(origin.bag), int(starts[-1]), int(lengths[-1]))
        self._metadata = (last, int(places[-1]))
        index["metadata_offset"] = places[np.cumsum(fresh) - 1]
        skip = 1 if known else 0
        if len(starts) > skip:
            data = _gathered(origin, starts[skip:], lengths[skip:])
            self._metadata_end += len(data)
            assert self._columns.metadata is not None
            self._columns.metadata.append(data)

    def _copy_buffers(
        self, column: BufferColumn, topic: TopicReader, number: int, segment: Segment, *, whole: bool
    ) -> int:
        old = topic.column(number)
        row = topic.row_of(number, segment.start)
        low, high = row, row + segment.stop - segment.start
        values: Any = old.values
        if column.offsets is not None:
            assert old.offsets is not None
            ends = old.offsets[low : high + 1].astype(np.int64)
            if int(ends[0]) < 0 or (np.diff(ends) < 0).any():
                raise IntegrityError(f"{values.column.name}: the offsets go back")
            column.offsets.append((ends[1:] - ends[0] + column.values.count).astype(np.uint64).tobytes())
            low, high = int(ends[0]), int(ends[-1])
            if whole:
                for data in values.pieces(low, high):
                    column.values.append(data)
                return _parts_bytes(values, ends)
        for data in values.pieces(low, high):
            column.values.append(data)
        return int((high - low) * old.spec.row_bytes)


def _gathered(origin: Origin, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> bytes:
    metadata = origin.bag.dataset_at(origin.topic._path_of("metadata"))
    if (starts[1:] == starts[:-1] + lengths[:-1]).all():
        return metadata.raw(int(starts[0]), int(starts[-1] + lengths[-1]))
    spans = zip(starts.tolist(), lengths.tolist(), strict=True)
    return b"".join(metadata.raw(start, start + length) for start, length in spans)


# bytes of the parts alone, of messages whose parts are kept together
def _parts_bytes(values: Any, ends: NDArray[np.int64]) -> int:
    total = int(ends[-1] - ends[0])
    for start in ends[:-1].tolist():
        (parts,) = COUNT.unpack(values.raw(start, start + COUNT.size))
        total -= COUNT.size + 8 * parts
    return total
