"""Compressed columns: chunks are packed by worker threads, outside HDF5, and written as HDF5's own filters would.

Nothing is ever topped up in a packed chunk, so a packed column is written once, from the first row to the last, by
edits. The definitions say how a column is packed; the CRC of a chunk is over the bytes that are stored.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from bag.storage import layout as names
from bag.storage.column import Column
from bag.storage.columns import TopicColumns
from bag.storage.definitions import ColumnDefinition, column_values
from bag.storage.disk import Buffer, crc32
from bag.storage.filters import Encoder, encoder_of, set_filters
from bag.storage.layout import ColumnSpec, stored_dtype

THREADS = 2
# chunks that wait to be packed or written
MAX_WAITING = 6


@dataclass(slots=True)
class Packer:
    """Packs chunks in threads and hands them back in order; `name` and `level` say how.

    Use it with `with`, and `drain` before the bag is closed.
    """

    name: str
    level: int
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, "bag-pack"))
    _waiting: deque[tuple[PackedColumn, int, int, Future[bytes]]] = field(default_factory=deque)

    def pack(self, column: PackedColumn, chunk: int, rows: int, data: bytes) -> None:
        """Pack the bytes of a whole chunk, of which `rows` rows are used, and write it in its turn."""
        while len(self._waiting) >= MAX_WAITING:
            self._write_first()
        self._waiting.append((column, chunk, rows, self._pool.submit(column.encode, data)))

    def drain(self) -> None:
        """Write everything that waits."""
        while self._waiting:
            self._write_first()

    def _write_first(self) -> None:
        column, chunk, rows, packed = self._waiting.popleft()
        column.put(chunk, rows, packed.result())

    def __enter__(self) -> Packer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


class PackedColumn(Column):
    """A column whose chunks are packed. A commit leaves the rows of the last chunk in memory until `finish`."""

    def __init__(self, file: Any, dataset: h5d.DatasetID, number: int, checksums: Any, packer: Packer) -> None:
        super().__init__(file, dataset, number, checksums)
        self._packer = packer
        self.encode: Encoder = encoder_of(packer.name, packer.level, dataset.dtype.itemsize)

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

    def put(self, chunk: int, rows: int, packed: bytes) -> None:
        """Write a packed chunk of which `rows` rows are used."""
        first = chunk * self._rows
        self._grow(max(self._extent, first + rows))
        offset = self._file.put_chunk(self._dataset, (first, *self._zeros), packed, len(packed))
        self._checksums.full((self.number, crc32(packed), len(packed), chunk, offset))

    def _write(self, chunk: Buffer, end: int) -> None:
        if self._settled:
            raise AssertionError("a packed chunk cannot be topped up")
        data = bytes(memoryview(chunk)[:end]).ljust(self._chunk_bytes, b"\0")
        self._packer.pack(self, self._chunk, end // self.row_bytes, data)
        self._settled = end


class PackedColumns(TopicColumns):
    """The columns of a topic, packed. Takes the place of the `plain` ones before anything was written to them."""

    def __init__(self, plain: TopicColumns, packer: Packer) -> None:
        super().__init__(plain._file, plain._group, plain._book, plain._topic, plain._next_number)
        self._packer = packer

    def _create(
        self, link: str, kind: str, dtype: np.dtype[np.generic], expected: int, spec: ColumnSpec | None = None
    ) -> Column:
        shape = spec.shape if spec else ()
        row_bytes = spec.row_bytes if spec else dtype.itemsize
        limit = names.HUGE_CHUNK if kind in ("ragged", "bytes") else names.LARGE_CHUNK
        rows = names.chunk_rows(row_bytes, expected, limit)
        dataset = _create_dataset(self._group, link, dtype, (rows, *shape), self._packer)
        column = PackedColumn(self._file, dataset, self._next_number(), self._book.checksums, self._packer)
        self.all.append(column)
        definition = ColumnDefinition(column.number, self._topic, f"{self._group.name}/{link}", kind, spec)
        packed = {
            "filter": self._packer.name,
            "chunk_bytes": rows * row_bytes,
            "itemsize": stored_dtype(np.dtype(dtype)).itemsize,
        }
        self._book.define("column", column_values(definition) | packed)
        return column


def _create_dataset(
    group: h5py.Group, name: str, dtype: np.dtype[Any], chunk: tuple[int, ...], packer: Packer
) -> h5d.DatasetID:
    create = h5p.create(h5p.DATASET_CREATE)
    create.set_chunk(chunk)
    create.set_fill_time(h5d.FILL_TIME_NEVER)
    kind = stored_dtype(np.dtype(dtype))
    set_filters(create, packer.name, packer.level, kind.itemsize)
    link = h5p.create(h5p.LINK_CREATE)
    link.set_char_encoding(h5t.CSET_UTF8)
    _rows, *shape = chunk
    space = h5s.create_simple((0, *shape), (h5s.UNLIMITED, *shape))
    return h5d.create(group.id, name.encode(), h5t.py_create(kind, logical=True), space, create, link)
