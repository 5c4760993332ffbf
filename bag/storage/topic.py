"""Writes the messages of one topic into its columns.

The first messages are held until the next commit (or until they weigh too much), so that the choice between fixed
and ragged, and the size of the chunks, rest on more than one message; the tail keeps them safe meanwhile.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from bag.records import Channel, Schema
from bag.storage import layout as names
from bag.storage.account import Account
from bag.storage.batch import WHOLE, Batch, concatenate
from bag.storage.book import Book
from bag.storage.column import Piece
from bag.storage.columns import BufferColumn, Layout, MaybeSignature, TopicColumns
from bag.storage.journal import CommitFile
from bag.storage.layout import ColumnSpec
from bag.storage.plan import signature_of

HOLD_BYTES = 4 << 20
# columns are sized for about this many times what came before the first commit
EXPECTED_TIMES = 8
COUNT = struct.Struct("<I")

# per part, per message: where its bytes already lie in the bag file
Placed = dict[int, list[list[Piece]]]


class TopicWriter:
    """Appends the messages of one topic.

    Args:
        file: the commit file below HDF5.
        columns: the topic's datasets.
        book: the bag's bookkeeping.
        account: the topic's account.
    """

    def __init__(self, file: CommitFile, columns: TopicColumns, book: Book, account: Account) -> None:
        self.account = account
        self.columns = columns
        self._file = file
        self._book = book
        self._run: tuple[int, int] | None = None
        self._rows = 0
        self._last_metadata = b""
        self._metadata_place = (0, 0)
        self._signatures: dict[bytes, MaybeSignature] = {}
        self._held: list[tuple[Channel, Schema | None, Batch]] = []
        self._held_bytes = 0

    @property
    def dirty(self) -> bool:
        """Whether something waits for the next commit."""
        return bool(self._held) or any(column.dirty for column in self.columns.all)

    def append(self, channel: Channel, schema: Schema | None, batch: Batch) -> Placed:
        """Append a batch; returns where large frames already lie in the file (for the tail)."""
        nbytes = batch.nbytes
        self.account.add(channel.id, batch, nbytes)
        if self.columns.index is not None:
            return self._store(channel, schema, batch)
        self._held.append((channel, schema, batch))
        self._held_bytes += nbytes
        if self._held_bytes >= HOLD_BYTES:
            self.release()
        return {}

    def release(self) -> None:
        """Store what was held back."""
        if not self._held:
            return
        messages = sum(len(batch) for _channel, _schema, batch in self._held)
        self.columns.create_index(messages * EXPECTED_TIMES, self._held_bytes * EXPECTED_TIMES)
        held, self._held = self._held, []
        for (channel, schema), group in groupby(held, lambda item: item[:2]):
            for batch in concatenate([item[2] for item in group]):
                self._store(channel, schema, batch)

    def settle(self) -> None:
        """Bring everything appended so far to the file."""
        self.release()
        for column in self.columns.all:
            if column.dirty:
                column.settle()

    def resume(self, rows: int, run: tuple[int, int] | None, metadata_end: int) -> None:
        """Go on behind `rows` messages; `run` is the last (channel, layout) and `metadata_end` in bytes."""
        self._rows, self._run, self._metadata_place = rows, run, (metadata_end, 0)

    # --- from a batch to layouts

    def _store(self, channel: Channel, schema: Schema | None, batch: Batch) -> Placed:
        placed: Placed = {}
        for layout, start, stop in self._groups(batch, schema):
            part = batch.slice(start, stop)
            if layout.columns is None:
                self._append_whole(part)
            else:
                for number, column in enumerate(layout.columns, start=2):
                    pieces = self._append_buffers(column, part.parts[number])
                    if pieces is not None:
                        placed.setdefault(number, [[] for _ in range(start)]).extend(pieces)
            self._append_index(channel, layout, part)
        return {number: pieces for number, pieces in placed.items() if len(pieces) == len(batch) and all(pieces)}

    # consecutive messages that go to the same layout
    def _groups(self, batch: Batch, schema: Schema | None) -> Iterator[tuple[Layout, int, int]]:
        signatures = self._signatures_of(batch, schema)
        start = 0
        while start < len(batch):
            layout = self.columns.layout_for(batch.fingerprint, signatures[start:])
            stop = start + 1
            while stop < len(batch) and (signatures[stop] is signatures[start] or layout.accepts(signatures[stop])):
                stop += 1
            yield layout, start, stop
            start = stop

    def _signatures_of(self, batch: Batch, schema: Schema | None) -> list[MaybeSignature]:
        if batch.kind == WHOLE:
            return [None] * len(batch)
        metadata, buffers = batch.parts[1], batch.parts[2:]
        if not buffers:
            return [()] * len(batch)
        first = metadata[0]
        if all(meta == first for meta in metadata):
            signature = self._signature(bytes(first), schema, len(buffers))
            if signature is None:
                return [None] * len(batch)
            sizes = (set(map(len, column)) for column in buffers)
            if all(found == {part.nbytes} for found, part in zip(sizes, signature, strict=True)):
                return [signature] * len(batch)
        return [self._checked_signature(parts, schema) for parts in zip(metadata, *buffers, strict=True)]

    def _checked_signature(self, parts: Sequence[Any], schema: Schema | None) -> MaybeSignature:
        metadata, *buffers = parts
        signature = self._signature(bytes(metadata), schema, len(buffers))
        if signature is None or any(len(frame) != part.nbytes for frame, part in zip(buffers, signature, strict=True)):
            return None
        return signature

    def _signature(self, metadata: bytes, schema: Schema | None, buffers: int) -> MaybeSignature:
        try:
            return self._signatures[metadata]
        except KeyError:
            if len(self._signatures) >= 256:
                self._signatures.clear()
            found = self._signatures[metadata] = signature_of(metadata, schema, buffers)
            return found

    # --- from layouts to datasets

    def _append_index(self, channel: Channel, layout: Layout, batch: Batch) -> None:
        if self._run != (channel.id, layout.number):
            self._run = (channel.id, layout.number)
            self._book.run(self.account.topic, channel.id, layout.number, self._rows)
        rows = np.empty(len(batch), names.INDEX_DTYPE)
        rows["log_time_ns"] = batch.log_time
        rows["log_mono_ns"] = batch.log_mono
        rows["publish_time_ns"] = batch.headers[:, 1].view(np.int64)
        rows["sequence"] = batch.headers[:, 2]
        if layout.columns is None:
            rows["metadata_offset"], rows["metadata_size"] = sum(self._metadata_place), 0
        else:
            self._append_metadata(batch.parts[1], rows)
        assert self.columns.index is not None
        self.columns.index.append(rows.tobytes())
        self._rows += len(batch)

    def _append_metadata(self, metadata: Sequence[Any], rows: Any) -> None:
        last = self._last_metadata
        if metadata[0] == last and all(meta == last for meta in metadata):
            rows["metadata_offset"], rows["metadata_size"] = self._metadata_place
            return
        offset, size = self._metadata_place
        new, places = [], []
        for meta in metadata:
            if meta != last or not size:
                last = bytes(meta)
                offset, size = offset + size, len(last)
                new.append(last)
            places.append((offset, size))
        self._last_metadata, self._metadata_place = last, (offset, size)
        rows["metadata_offset"], rows["metadata_size"] = zip(*places, strict=True)
        assert self.columns.metadata is not None
        self.columns.metadata.append(b"".join(new))

    def _append_buffers(self, column: BufferColumn, frames: Sequence[Any]) -> list[list[Piece]] | None:
        if column.offsets is not None:
            sizes = np.fromiter(map(len, frames), np.uint64, len(frames)) // np.uint64(column.values.row_bytes)
            ends = np.cumsum(sizes, dtype=np.uint64) + np.uint64(column.end)
            column.offsets.append(ends.tobytes())
            column.end = int(ends[-1])
        if len(frames[0]) < names.LARGE_ROW:
            column.values.append(frames[0] if len(frames) == 1 else b"".join(frames))
            return None
        pieces = [column.values.place(frame) for frame in frames]
        in_file = all(self._file.in_file(offset) for places in pieces for offset, _size in places)
        return pieces if in_file else None

    def _append_whole(self, batch: Batch) -> None:
        packed = []
        for frames in zip(*batch.parts, strict=True):
            sizes = np.fromiter(map(len, frames), np.uint64, len(frames))
            packed.append(b"".join((COUNT.pack(len(frames)), sizes.tobytes(), *frames)))
        self._append_buffers(self.columns.buffer(WHOLE_SPEC), packed)


WHOLE_SPEC = ColumnSpec(names.FRAMES, "bytes", "|u1", ())
