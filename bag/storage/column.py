"""One appendable dataset: rows are staged in memory, whole chunks are written directly, a partial chunk is topped up.

No row costs an HDF5 call of its own unless it is a chunk of its own. Bytes are only ever added behind those that are
committed, in space that no committed extent reaches, so topping up a chunk in place cannot harm an earlier commit.
Where the dataset has filters, chunks are written raw, past all of them, which every reader of HDF5 understands.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from bag.errors import IntegrityError
from bag.storage.checksums import Checksums
from bag.storage.disk import Buffer, crc32
from bag.storage.filters import set_filters
from bag.storage.journal import CommitFile
from bag.storage.layout import FIRST_COLUMN, stored_dtype
from bag.storage.tail import Piece, Place


class Column:
    """Appends rows to one dataset of the bag.

    Args:
        file: the commit file below HDF5.
        dataset: the open low-level dataset, chunked along the first axis only.
        number: the column's number in the bag.
        checksums: is told of every chunk, whole or partial, that reaches the file.
    """

    # whether a full chunk goes to the file at once and as it is
    _straight = True

    def __init__(self, file: CommitFile, dataset: h5d.DatasetID, number: int, checksums: Checksums) -> None:
        self.number = number
        self.count = 0
        self._file = file
        self._dataset = dataset
        self._checksums = checksums
        self._vital = number < FIRST_COLUMN
        create = dataset.get_create_plist()
        # a chunk that passed none of the filters
        self._raw_mask = (1 << create.get_nfilters()) - 1
        self._rows, *tail = create.get_chunk()
        self._shape = tuple(tail)
        self._zeros = (0,) * len(tail)
        self.row_bytes = int(dataset.dtype.itemsize) * prod(self._shape)
        self._chunk_bytes = self._rows * self.row_bytes
        self._staging = bytearray(self._chunk_bytes if self._rows > 1 else 0)
        # number of the current chunk, its bytes so far, those of them in the file, and where and what these are
        self._chunk = 0
        self._fill = 0
        self._settled = 0
        self._offset = -1
        self._crc = 0
        self._extent = 0
        # while something is placed: where it lies, and the CRC of the chunk with its last piece
        self._pieces: list[Piece] | None = None
        self._last_crc = 0

    @property
    def dataset(self) -> h5py.Dataset:
        """The dataset, to describe it."""
        return h5py.Dataset(self._dataset)

    @property
    def dirty(self) -> bool:
        """Whether rows were appended that `settle` has not yet brought to the file."""
        return self._fill > self._settled or self._extent != self.count

    def append(self, data: Buffer) -> None:
        """Append the rows whose bytes are `data`, a whole number of rows in C order."""
        view = memoryview(data).cast("B")
        self.count += view.nbytes // self.row_bytes
        end = self._fill + view.nbytes
        if end < self._chunk_bytes:
            self._staging[self._fill : end] = view
            self._fill = end
            return
        if self._fill:
            taken = min(self._chunk_bytes - self._fill, view.nbytes)
            self._staging[self._fill : self._fill + taken] = view[:taken]
            self._fill += taken
            view = view[taken:]
            if self._fill == self._chunk_bytes:
                self._finish(self._staging)
        while view.nbytes >= self._chunk_bytes:
            self._fill = self._chunk_bytes
            self._finish(view[: self._chunk_bytes])
            view = view[self._chunk_bytes :]
        if view.nbytes:
            self._staging[: view.nbytes] = view
            self._fill = view.nbytes

    def place(self, data: Buffer) -> Place:
        """Append like `append`, but bring the bytes to the file at once; returns where they lie."""
        self._to_file()
        self._pieces = pieces = list[Piece]()
        first = self._settled == 0
        try:
            self.append(data)
            self._to_file()
        finally:
            self._pieces = None
        # what is the beginning of a chunk, alone, has the CRC of the chunk
        return Place(pieces, self._last_crc if first and len(pieces) == 1 else crc32(data))

    def place_all(self, frames: Sequence[Buffer]) -> list[Place]:
        """`place` for each of several pieces of data."""
        if not self._straight or self._rows > 1 or {*map(len, frames)} != {self.row_bytes}:
            return [self.place(frame) for frame in frames]
        self.count += len(frames)
        # once for all, since it costs HDF5 as much as a chunk
        self._grow(self.count)
        return [self._place_chunk(frame) for frame in frames]

    # a row that is a chunk of its own
    def _place_chunk(self, row: Buffer) -> Place:
        size, where = self.row_bytes, (self._chunk, *self._zeros)
        offset = self._file.put_chunk(self._dataset, where, row, size, self._raw_mask, vital=self._vital)
        crc = crc32(row)
        self._checksums.full((self.number, crc, size, self._chunk, offset, 0))
        self._chunk += 1
        return Place([(offset, size)], crc)

    def settle(self) -> None:
        """Bring every appended row to the file and the dataset to its exact length."""
        self._to_file()
        self._grow(self.count)

    def flush(self) -> None:
        """Let HDF5 write what it keeps of the dataset in memory."""
        self._dataset.flush()

    def resume(self, count: int) -> None:
        """Go on behind `count` rows that are already in the dataset."""
        self.count = self._extent = count
        self._chunk, partial = divmod(count, self._rows)
        if partial:
            info = self._dataset.get_chunk_info_by_coord((self._chunk * self._rows, *self._zeros))
            if info.filter_mask != self._raw_mask:
                raise IntegrityError("the last chunk of a column is compressed; nothing can be added to it")
            self._offset = info.byte_offset
            self._fill = self._settled = partial * self.row_bytes
            done = memoryview(self._staging)[: self._fill]
            done[:] = self._file.data.read_at(self._offset, self._fill)
            self._crc = crc32(done)
            self._checksums.filling((self.number, self._crc, self._fill, self._chunk, self._offset, 0))

    def _to_file(self) -> None:
        if self._fill > self._settled:
            self._write(self._staging, self._fill)

    def _finish(self, chunk: Buffer) -> None:
        self._write(chunk, self._chunk_bytes)
        self._begin_next()

    def _begin_next(self) -> None:
        self._chunk += 1
        self._fill = self._settled = self._crc = 0
        self._offset = -1

    # bring chunk[settled:end] to the file; the first time HDF5 allocates the chunk, later it is only topped up
    def _write(self, chunk: Buffer, end: int) -> None:
        new = memoryview(chunk)[self._settled : end]
        if self._offset < 0:
            first = self._chunk * self._rows
            self._grow(max(self._extent, first + end // self.row_bytes))
            self._offset = self._file.put_chunk(
                self._dataset, (first, *self._zeros), chunk, end, self._raw_mask, vital=self._vital
            )
        else:
            self._file.fill(self._offset + self._settled, new, vital=self._vital)
        self._crc = crc32(new, self._crc)
        if self._pieces is not None:
            self._pieces.append((self._offset + self._settled, new.nbytes))
            self._last_crc = self._crc
        self._settled = end
        report = self._checksums.full if end == self._chunk_bytes else self._checksums.filling
        report((self.number, self._crc, end, self._chunk, self._offset, 0))

    # never beyond the rows written: shrinking a dataset makes HDF5 rewrite its edge chunk
    def _grow(self, count: int) -> None:
        if count != self._extent:
            self._extent = count
            self._dataset.set_extent((count, *self._shape))


def create_dataset(
    group: h5py.Group,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    rows: int,
    compression: tuple[str, int] | None = None,
) -> h5d.DatasetID:
    """Create an empty dataset of rows of `shape`, `rows` of them per chunk, without fill values.

    `compression` is the filter and its level, None for none.
    """
    create = h5p.create(h5p.DATASET_CREATE)
    create.set_chunk((rows, *shape))
    create.set_fill_time(h5d.FILL_TIME_NEVER)
    if compression is not None:
        set_filters(create, *compression, stored_dtype(dtype).itemsize)
    link = h5p.create(h5p.LINK_CREATE)
    link.set_char_encoding(h5t.CSET_UTF8)
    space = h5s.create_simple((0, *shape), (h5s.UNLIMITED, *shape))
    kind = h5t.py_create(stored_dtype(dtype), logical=True)
    return h5d.create(group.id, name.encode(), kind, space, create, lcpl=link)
