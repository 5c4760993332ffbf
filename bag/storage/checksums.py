"""A CRC for every chunk that is written, so that damage can be found later and good bytes be told from bad."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bag.storage.layout import CHECKSUM_DTYPE

# column, crc, size, chunk, offset, packed: the fields of CHECKSUM_DTYPE
ChecksumRow = tuple[int, int, int, int, int, int]
NOTHING: ChecksumRow = (0, 0, 0, -1, 0, 0)


class Checksums:
    """Collects the CRCs of one bag: chunks that are full once, those still filling anew with every commit."""

    def __init__(self) -> None:
        self._full: list[ChecksumRow] = []
        self._filling: dict[int, ChecksumRow] = {}

    @property
    def dirty(self) -> bool:
        """Whether chunks became full since `take_full`."""
        return bool(self._full)

    def full(self, row: ChecksumRow) -> None:
        """A chunk is full: its CRC will not change."""
        self._full.append(row)
        # one that was packed meanwhile may be told of after the next has begun
        if self._filling.get(row[0], NOTHING)[3] <= row[3]:
            self._filling.pop(row[0], None)

    def filling(self, row: ChecksumRow) -> None:
        """The last chunk of a column, as far as it is filled."""
        self._filling[row[0]] = row

    def take_full(self) -> NDArray[Any]:
        """The rows that belong to the growing table `checksums`, those of a column in the order of its chunks."""
        rows, self._full = sorted(self._full, key=_place), []
        return np.array(rows, CHECKSUM_DTYPE)

    def remaining(self) -> NDArray[Any]:
        """The rows of the table `open_chunks`: what `take_full` did not give out."""
        return np.array([*self._full, *self._filling.values()], CHECKSUM_DTYPE)

    def resume(self, remaining: NDArray[Any]) -> None:
        """Take over `remaining` of an earlier writer, once all columns have reported their last chunks."""
        for row in remaining.tolist():
            column, chunk = row[0], row[3]
            if self._filling.get(column, NOTHING)[3] != chunk:
                self._full.append(row)


def _place(row: ChecksumRow) -> tuple[int, int]:
    return row[0], row[3]
