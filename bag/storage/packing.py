"""Compressed columns of edits: chunks are packed by worker threads, outside HDF5, and written as its filters would.

Nothing is ever topped up in a packed chunk, so a packed column is written once, from the first row to the last. The
definitions say how a column is packed, the checksums which chunks are; the CRC is over the bytes that are stored.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from h5py import h5d

from bag.storage.checksums import Checksums
from bag.storage.column import Column
from bag.storage.disk import Buffer, crc32
from bag.storage.filters import Encoder, encoder_of
from bag.storage.journal import CommitFile

THREADS = 2
# chunks that wait to be packed or written
MAX_WAITING = 6


@dataclass(slots=True)
class Packer:
    """Packs chunks in threads and hands them back in order; `filter` is its name and level.

    Use it with `with`, and `drain` before the bag is closed.
    """

    filter: tuple[str, int]
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, "bag-pack"))
    _waiting: deque[tuple[PackedColumn, int, int, bytes, Future[bytes]]] = field(default_factory=deque)

    def column(self, file: CommitFile, dataset: h5d.DatasetID, number: int, checksums: Checksums) -> PackedColumn:
        """A new column that is packed."""
        return PackedColumn(file, dataset, number, checksums, self)

    def pack(self, column: PackedColumn, chunk: int, rows: int, data: bytes) -> None:
        """Pack the bytes of a whole chunk, of which `rows` rows are used, and write it in its turn."""
        while len(self._waiting) >= MAX_WAITING:
            self._write_first()
        self._waiting.append((column, chunk, rows, data, self._pool.submit(column.encode, data)))

    def drain(self) -> None:
        """Write everything that waits."""
        while self._waiting:
            self._write_first()

    def _write_first(self) -> None:
        column, chunk, rows, data, packed = self._waiting.popleft()
        column.put(chunk, rows, data, packed.result())

    def __enter__(self) -> Packer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


class PackedColumn(Column):
    """A column whose chunks are packed. A commit leaves the rows of the last chunk in memory until `finish`."""

    def __init__(
        self, file: CommitFile, dataset: h5d.DatasetID, number: int, checksums: Checksums, packer: Packer
    ) -> None:
        super().__init__(file, dataset, number, checksums)
        self._packer = packer
        self.encode: Encoder = encoder_of(*packer.filter, dataset.dtype.itemsize)

    @property
    def dirty(self) -> bool:
        """Nothing waits for a commit."""
        return False

    def settle(self) -> None:
        """Write what is packed so far."""
        self._packer.drain()

    def finish(self) -> None:
        """Pack and write what is left, and bring the dataset to its exact length."""
        self._to_file()
        self._packer.drain()
        self._grow(self.count)

    def put(self, chunk: int, rows: int, data: bytes, packed: bytes) -> None:
        """Write a chunk of which `rows` rows are used: packed, unless that makes nothing smaller."""
        first, useful = chunk * self._rows, rows * self.row_bytes
        self._grow(max(self._extent, first + rows))
        smaller = len(packed) < useful
        stored, size = (packed, len(packed)) if smaller else (data, useful)
        mask = 0 if smaller else self._raw_mask
        offset = self._file.put_chunk(self._dataset, (first, *self._zeros), stored, size, mask)
        crc = crc32(memoryview(stored)[:size])
        self._checksums.full((self.number, crc, size, chunk, offset, int(smaller)))

    def _write(self, chunk: Buffer, end: int) -> None:
        if self._settled:
            raise AssertionError("a packed chunk cannot be topped up")
        data = bytes(memoryview(chunk)[:end]).ljust(self._chunk_bytes, b"\0")
        self._packer.pack(self, self._chunk, end // self.row_bytes, data)
        self._settled = end
