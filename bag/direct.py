"""Large frames straight from the file: a row that is a chunk of its own lies there as it was sent.

HDF5 copies such a row through its own buffers while it holds every other thread of Python; reading it from where HDF5
says it lies costs a third, and lets the sending thread run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bag.records import Frame
from bag.storage.topic_reader import StoredColumn, TopicReader

# below this the ordinary way is as good
DIRECT_BYTES = 64 << 10


class DirectFile:
    """A bag opened for reading beside HDF5.

    Attributes:
        rest: called after each read with the time it took, in ns.

    Args:
        path: the bag.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.rest: Callable[[int], object] = lambda _took_ns: None

    def read(self, offset: int, size: int) -> memoryview | None:
        """Bytes of the file, or None when they are not all there."""
        begun = time.perf_counter_ns()
        buffer = np.empty(size, np.uint8)
        complete = os.preadv(self._file, [buffer.data], offset) == size
        self.rest(time.perf_counter_ns() - begun)
        return buffer.data if complete else None

    def improve(self, topic: TopicReader) -> None:
        """Read the large rows of a topic directly from now on."""
        for column in topic.buffer_columns():
            if _is_direct(column):
                filters = column.values.id.get_create_plist().get_nfilters()
                topic.read_through(
                    DirectColumn(column.number, column.path, column.spec, column.values, column.offsets, self, filters)
                )

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


@dataclass(frozen=True, slots=True)
class DirectColumn(StoredColumn):
    """A column of large rows, each a chunk of its own; where there are filters, a chunk may have passed all of them."""

    file: DirectFile
    filters: int

    def frames(self, start: int, stop: int) -> list[Frame]:
        """The buffers of messages start..stop-1, byte for byte."""
        # HDF5 unpacks, knows what is wrong, or what stands where nothing was written
        return [self._row(row) or StoredColumn.frames(self, row, row + 1)[0] for row in range(start, stop)]

    def _row(self, row: int) -> memoryview | None:
        if row >= self.values.shape[0]:
            return None
        chunk = self.values.id.get_chunk_info_by_coord((row, *(0 for _ in self.values.shape[1:])))
        # a set bit says that the filter was passed over
        raw = chunk.filter_mask == (1 << self.filters) - 1
        if chunk.byte_offset is None or chunk.size != self.spec.row_bytes or not raw:
            return None
        return self.file.read(chunk.byte_offset, chunk.size)


def _is_direct(column: StoredColumn) -> bool:
    values = column.values
    alone = column.offsets is None and values.chunks == (1, *values.shape[1:])
    return alone and column.spec.row_bytes >= DIRECT_BYTES
