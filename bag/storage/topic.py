"""Writes the messages of one topic into its columns.

Small messages are held until the next commit, or until they are many: to give a hundred to the columns costs hardly
more than to give one. The first messages are held in any case, so that the choice between fixed and ragged, and the
size of the chunks, rest on more than one. The tail keeps them safe meanwhile.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from bag.records import Channel, Schema
from bag.storage import layout as names
from bag.storage.account import Account
from bag.storage.batch import MESSAGE_OVERHEAD, WHOLE, Batch, concatenate
from bag.storage.book import Book
from bag.storage.columns import WHOLE_SPEC, BufferColumn, Layout, TopicColumns
from bag.storage.journal import CommitFile
from bag.storage.plan import MaybeSignature, Signatures
from bag.storage.tail import Place

# memory of what is held at most: before a topic has columns, and later, when more would gain nothing
HOLD_BYTES = 4 << 20
HOLD_SMALL = 128 << 10
# columns are sized for what comes in this time, if it goes on as it began
EXPECTED_NS = 4_000_000_000
# a burst tells nothing of a rate
SHORTEST_NS = 100_000_000
COUNT = struct.Struct("<I")
# of INDEX_DTYPE
INDEX_ROW = struct.Struct("<qqqQQI")

Held = tuple[Channel, Schema | None, Batch]
# per part, per message: where its bytes already lie in the bag file
Placed = dict[int, list[Place]]
NOWHERE = Place([], 0)


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
        self._signatures = Signatures()
        self._held: list[Held] = []
        self._held_bytes = 0
        self._held_since = 0.0
        # while a commit is under way: what it takes along of what was held
        self._frozen: list[Held] | None = None

    @property
    def held_since(self) -> float | None:
        """Since when (s, of time.monotonic) messages wait for the columns; None: nothing waits."""
        return self._held_since if self._held else None

    @property
    def dirty(self) -> bool:
        """Whether something waits for the next commit."""
        return bool(self._held) or any(column.dirty for column in self.columns.all)

    def freeze(self) -> None:
        """Let the next `settle` take what came so far and nothing more, until `thaw`."""
        self._frozen, self._held, self._held_bytes = self._held, [], 0

    def thaw(self) -> None:
        """End what `freeze` began; what came meanwhile is held."""
        self._frozen = None

    def append(self, channel: Channel, schema: Schema | None, batch: Batch) -> Placed:
        """Append a batch of a channel; `schema` is that of the batch's fingerprint, if known.

        Returns:
            Where large frames already lie in the file (for the tail).
        """
        nbytes = batch.nbytes
        self.account.add(channel.id, batch, nbytes)
        begun, free = self.columns.index is not None, self._frozen is None
        if begun and free and nbytes >= names.LARGE_ROW:
            self.release()
            return self._store(channel, schema, batch)
        if not self._held:
            self._held_since = time.monotonic()
        self._held.append((channel, schema, batch))
        self._held_bytes += nbytes + len(batch) * MESSAGE_OVERHEAD
        if free and self._held_bytes >= (HOLD_SMALL if begun else HOLD_BYTES):
            self.release()
        return {}

    def settle(self) -> None:
        """Bring everything appended so far (or until `freeze`) to the file."""
        self.release()
        for column in self.columns.all:
            if column.dirty:
                column.settle()

    def flush(self) -> None:
        """Let HDF5 write what it keeps of the topic's datasets now, so that a commit need not wait for it."""
        for column in self.columns.all:
            column.flush()

    def resume(self, run: tuple[int, int] | None) -> None:
        """Go on behind the last messages of an earlier writer; `run` is the (channel, layout) of the last one."""
        index, metadata = self.columns.index, self.columns.metadata
        if index is not None and metadata is not None:
            self._rows, self._run, self._metadata_place = index.count, run, (metadata.count, 0)

    def release(self) -> None:
        """Give what is held to the columns; the first time they are created for it."""
        if self._frozen is None:
            held, self._held, self._held_bytes = self._held, [], 0
        else:
            held, self._frozen = self._frozen, []
        if not held:
            return
        if self.columns.index is None:
            self._begin([batch for _channel, _schema, batch in held])
        for (channel, schema), group in groupby(held, lambda item: item[:2]):
            for batch in concatenate([item[2] for item in group]):
                self._store(channel, schema, batch)

    def _begin(self, batches: Sequence[Batch]) -> None:
        messages, nbytes = sum(map(len, batches)), sum(batch.nbytes for batch in batches)
        took = int(batches[-1].log_mono[-1]) - int(batches[0].log_mono[0])
        times = EXPECTED_NS / min(max(took, SHORTEST_NS), EXPECTED_NS) if messages > 1 else 1
        self.columns.create_index(int(messages * times), int(nbytes * times))

    # --- from a batch to layouts

    def _store(self, channel: Channel, schema: Schema | None, batch: Batch) -> Placed:
        placed: Placed = {}
        for layout, start, stop in self._groups(batch, schema):
            part = batch.slice(start, stop)
            if layout.columns is None:
                self._append_whole(part)
            else:
                for number, column in enumerate(layout.columns, start=2):
                    places = self._append_buffers(column, part.parts[number])
                    if places is not None:
                        placed.setdefault(number, [NOWHERE] * start).extend(places)
            self._append_index(channel, layout, part)
        return {
            number: places
            for number, places in placed.items()
            if len(places) == len(batch) and all(place.pieces for place in places)
        }

    # consecutive messages that go to the same layout
    def _groups(self, batch: Batch, schema: Schema | None) -> Iterator[tuple[Layout, int, int]]:
        signatures: list[MaybeSignature] = [None] * len(batch)
        if batch.kind != WHOLE:
            signatures = self._signatures.of(batch, schema)
        count, start = len(signatures), 0
        if signatures.count(signatures[0]) == count:
            yield self.columns.layout_for(batch.fingerprint, signatures, 0), 0, count
            return
        while start < count:
            layout = self.columns.layout_for(batch.fingerprint, signatures, start)
            stop = start + 1
            while stop < count and (signatures[stop] is signatures[start] or layout.accepts(signatures[stop])):
                stop += 1
            yield layout, start, stop
            start = stop

    # --- from layouts to datasets

    def _append_index(self, channel: Channel, layout: Layout, batch: Batch) -> None:
        if self._run != (channel.id, layout.number):
            self._run = (channel.id, layout.number)
            self._book.run(self.account.topic, channel.id, layout.number, self._rows)
        whole = layout.columns is None
        offsets, sizes = self._whole_metadata(batch) if whole else self._append_metadata(batch.parts[1])
        assert self.columns.index is not None
        self.columns.index.append(_index_rows(batch, offsets, sizes))
        self._rows += len(batch)

    # what is kept whole has none of its own
    def _whole_metadata(self, batch: Batch) -> tuple[Sequence[int], Sequence[int]]:
        return (sum(self._metadata_place),) * len(batch), (0,) * len(batch)

    # metadata that repeats is kept once; offset and size for each message
    def _append_metadata(self, metadata: Sequence[Any]) -> tuple[Sequence[int], Sequence[int]]:
        last = self._last_metadata
        offset, size = self._metadata_place
        if metadata.count(last) == len(metadata):
            return (offset,) * len(metadata), (size,) * len(metadata)
        new, offsets, sizes = [], [], []
        for meta in metadata:
            if meta != last:
                last = bytes(meta)
                offset, size = offset + size, len(last)
                new.append(last)
            offsets.append(offset)
            sizes.append(size)
        self._last_metadata, self._metadata_place = last, (offset, size)
        assert self.columns.metadata is not None
        self.columns.metadata.append(b"".join(new))
        return offsets, sizes

    def _append_buffers(self, column: BufferColumn, frames: Sequence[Any]) -> list[Place] | None:
        sizes = [*map(len, frames)]
        if column.offsets is not None:
            rows = np.array(sizes, np.uint64) // np.uint64(column.values.row_bytes)
            ends = np.cumsum(rows, dtype=np.uint64) + np.uint64(column.values.count)
            column.offsets.append(ends.astype("<u8").tobytes())
        if max(sizes) < names.LARGE_ROW:
            column.values.append(frames[0] if len(frames) == 1 else b"".join(frames))
            return None
        places = column.values.place_all(frames)
        in_file = all(self._file.in_file(offset) for place in places for offset, _size in place.pieces)
        return places if in_file else None

    def _append_whole(self, batch: Batch) -> None:
        packed = []
        for frames in zip(*batch.parts, strict=True):
            sizes = np.fromiter(map(len, frames), "<u8", len(frames))
            packed.append(b"".join((COUNT.pack(len(frames)), sizes.tobytes(), *frames)))
        self._append_buffers(self.columns.buffer(WHOLE_SPEC), packed)


def _index_rows(batch: Batch, offsets: Sequence[int], sizes: Sequence[int]) -> bytes:
    columns = (batch.log_time, batch.publish_time, batch.log_mono, batch.sequence, offsets, sizes)
    if isinstance(batch.sequence, tuple):
        return b"".join(map(INDEX_ROW.pack, *columns))
    rows = np.empty(len(batch), names.INDEX_DTYPE)
    for name, values in zip(names.INDEX_DTYPE.names or (), columns, strict=True):
        rows[name] = values
    return rows.tobytes()
