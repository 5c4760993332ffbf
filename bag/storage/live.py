"""Columns that are compressed as they are recorded: full chunks are packed by threads and written when they are done.

Nothing waits for the compressor for long, and nothing depends on it: the tail holds what waits until the commit, and a
chunk that is not ready then is written raw, as is every chunk while the compressor lags. A chunk that is not full at a
commit stands raw; when it has become full, the packed one takes its place, and HDF5 uses the room again. Where the tail
refers to bytes of a chunk, the chunk stays as it is.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, wait
from dataclasses import dataclass

from h5py import h5d

from bag.storage.checksums import Checksums
from bag.storage.column import Column
from bag.storage.compressor import Compressor
from bag.storage.disk import Buffer, crc32
from bag.storage.journal import CommitFile
from bag.storage.tail import Place

# how long a commit waits for chunks that are being packed
PATIENCE_S = 0.1
# a packed chunk above this part of its size is not worth unpacking it
WORTH = 0.95
# after so many chunks in a row that were not worth it, only one of so many is tried
MISSES, TRIED = 4, 16


@dataclass(frozen=True, slots=True)
class Waiting:
    """A full chunk that is being packed: its bytes, and how many of them lie raw at `offset`, with which CRC."""

    column: LiveColumn
    chunk: int
    data: Buffer
    offset: int
    settled: int
    crc: int
    packed: Future[bytes]


class ChunkQueue:
    """The chunks of one bag that are being packed, in the order they became full.

    Args:
        compressor: does the work, for other bags too.
    """

    def __init__(self, compressor: Compressor) -> None:
        self.compressor = compressor
        self._waiting: deque[Waiting] = deque()

    @property
    def filter(self) -> tuple[str, int]:
        """Name and level."""
        return self.compressor.filter

    def column(self, file: CommitFile, dataset: h5d.DatasetID, number: int, checksums: Checksums) -> LiveColumn:
        """A new column that is compressed."""
        return LiveColumn(file, dataset, number, checksums, self)

    @property
    def dirty(self) -> bool:
        """Whether something waits."""
        return bool(self._waiting)

    def add(self, waiting: Waiting) -> None:
        """Take a chunk."""
        self._waiting.append(waiting)

    def collect(self) -> None:
        """Write what is ready."""
        while self._waiting and self._waiting[0].packed.done():
            self._write_first()

    def drain(self) -> None:
        """Write everything, raw what does not get ready soon."""
        deadline = time.monotonic() + PATIENCE_S
        while self._waiting:
            packed = self._waiting[0].packed
            wait([packed], max(0.0, deadline - time.monotonic()))
            self._write_first()

    def abandon(self) -> None:
        """Forget everything."""
        while self._waiting:
            self._waiting.popleft().packed.cancel()

    def _write_first(self) -> None:
        first = self._waiting.popleft()
        ready = first.packed.done()
        if not ready:
            first.packed.cancel()
        first.column.put(first, first.packed.result() if ready else None)


class LiveColumn(Column):
    """A column that is recorded and compressed."""

    _straight = False

    def __init__(
        self, file: CommitFile, dataset: h5d.DatasetID, number: int, checksums: Checksums, queue: ChunkQueue
    ) -> None:
        super().__init__(file, dataset, number, checksums)
        self._queue = queue
        self._compressor = queue.compressor
        self._encode = queue.compressor.encoder(dataset.dtype.itemsize)
        # the tail refers to bytes of the current chunk
        self._pinned = False
        self._misses = 0
        self._untried = 0

    def place(self, data: Buffer) -> Place:
        """Append; bring the bytes to the file at once, and return where they lie, only if they are not packed."""
        if self._is_promising and not self._compressor.lags(memoryview(data).nbytes):
            self.append(data)
            return Place([], 0)
        self._pinned = True
        place = super().place(data)
        self._pinned = self._fill > 0
        return place

    def settle(self) -> None:
        """Bring every row to the file, except for chunks that wait; the queue is drained before the commit."""
        super().settle()
        # the commit makes the tail obsolete
        self._pinned = False

    def put(self, waiting: Waiting, packed: bytes | None) -> None:
        """Write a chunk that waited; `packed` is None when it did not get ready."""
        size = self._chunk_bytes
        if packed is None:
            self._compressor.count("lagged", size)
        elif len(packed) > WORTH * size:
            self._misses += 1
            self._compressor.count("no_gain", size)
        else:
            self._misses = 0
            self._compressor.count("packed", size)
            self._compressor.count("stored", len(packed))
            # it takes the place of rows that may be on the device already
            self._put(waiting.chunk, packed, 0, vital=waiting.offset >= 0)
            return
        if waiting.offset < 0:
            self._put(waiting.chunk, waiting.data, self._raw_mask)
            return
        rest = memoryview(waiting.data)[waiting.settled :]
        self._file.fill(waiting.offset + waiting.settled, rest)
        self._checksums.full((self.number, crc32(rest, waiting.crc), size, waiting.chunk, waiting.offset, 0))

    def _put(self, chunk: int, stored: Buffer, mask: int, *, vital: bool = False) -> None:
        first, size = chunk * self._rows, memoryview(stored).nbytes
        self._grow(max(self._extent, first + self._rows))
        offset = self._file.put_chunk(self._dataset, (first, *self._zeros), stored, size, mask, vital=vital)
        self._checksums.full((self.number, crc32(stored), size, chunk, offset, int(mask == 0)))

    @property
    def _is_promising(self) -> bool:
        return self._misses < MISSES or self._untried >= TRIED - 1

    def _finish(self, chunk: Buffer) -> None:
        promising = self._is_promising
        if promising and not self._pinned and self._offer(chunk):
            self._untried = 0
            return
        self._untried += not promising
        self._compressor.count("lagged" if promising else "no_gain", self._chunk_bytes)
        super()._finish(chunk)
        self._pinned = self._pieces is not None

    def _offer(self, chunk: Buffer) -> bool:
        packed = self._compressor.submit(self._encode, chunk)
        if packed is None:
            return False
        self._queue.add(Waiting(self, self._chunk, chunk, self._offset, self._settled, self._crc, packed))
        if chunk is self._staging:
            # it is the compressor's now
            self._staging = bytearray(self._chunk_bytes)
        self._begin_next()
        return True
