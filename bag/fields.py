"""A field of a topic as something like an array: it has a shape and a dtype, and reads only what is sliced.

There are three kinds. `ArrayField`: arrays of one shape, an array of (messages, *shape). `RaggedField`: arrays of
several shapes; a slice is a `Ragged`. `ValueField`: a number, text or other value out of the metadata, a column of
(messages,).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bag.parts import Piece
from bag.storage import bulk
from bag.storage.layout import ColumnSpec

if TYPE_CHECKING:
    from bag.topic import Topic

Rows = NDArray[np.int64]
# iterating reads this many bytes at a time
BLOCK_BYTES = 8 << 20


class Field:
    """One field of all messages of a topic. Made by `topic["name"]`."""

    def __init__(self, topic: Topic, name: str) -> None:
        self.topic = topic
        self.name = name

    @property
    def ragged(self) -> bool:
        """Whether messages differ in shape or dtype."""
        return False

    @property
    def shape(self) -> tuple[int, ...]:
        """(messages, *shape of a row); (messages,) where rows are no arrays of one shape."""
        return (len(self.topic),)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of a slice; of values in the metadata that of the first message."""
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of items."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes the whole field takes in memory."""
        return self.size * self.dtype.itemsize

    @property
    def chunk_rows(self) -> int:
        """Rows that lie together on the disk; reading them together is cheapest."""
        return 1

    def __len__(self) -> int:
        return len(self.topic)

    def __getitem__(self, key: Any) -> Any:
        """Rows by number, slice, mask or array of numbers, optionally with more axes behind; reads only those rows."""
        first, rest = (key[0], key[1:]) if isinstance(key, tuple) and key else (key, ())
        if first is Ellipsis and len(rest) < self.ndim:
            # np.empty(0) tells how many axes the dots stand for
            first, rest = slice(None), (Ellipsis, *rest) if rest else ()
        if isinstance(first, slice):
            start, stop, step = first.indices(len(self))
            if step == 1:
                return self._read(start, max(start, stop), rest)
            numbers = np.arange(start, stop, step)
            return self._chosen(numbers, rest)
        if isinstance(first, (int, np.integer)) and not isinstance(first, (bool, np.bool_)):
            return self._one(_checked(int(first), len(self), self.name), rest)
        return self._chosen(_numbers(first, len(self), self.name), rest)

    def __iter__(self) -> Iterator[Any]:
        row = max(1, self.nbytes // max(1, len(self)))
        step = max(1, BLOCK_BYTES // row)
        for start in range(0, len(self), step):
            yield from self[start : start + step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The whole field.

        Raises:
            ValueError: the field is ragged.
        """
        whole: NDArray[Any] = np.asarray(self[:])
        return whole if dtype is None else whole.astype(dtype)

    def to_dask(self, rows: int | None = None) -> Any:
        """A lazy `dask.array.Array`; see `bag.lazy_arrays.to_dask`."""
        from bag.lazy_arrays import to_dask

        return to_dask(self, rows)

    def _one(self, number: int, rest: tuple[Any, ...]) -> Any:
        row = self._read(number, number + 1, ())[0]
        return row[rest] if rest else row

    def _chosen(self, numbers: NDArray[np.int64], rest: tuple[Any, ...]) -> Any:
        rows, back = np.unique(numbers, return_inverse=True)
        back = back.reshape(numbers.shape)
        if len(rows) == numbers.size and numbers.ndim == 1 and (back[1:] > back[:-1]).all():
            found = self._take(rows)
        else:
            found = self._take(rows)[back]
        if not rest:
            return found
        key = (*(slice(None),) * numbers.ndim, *rest)
        return found[key]

    def _read(self, start: int, stop: int, rest: tuple[Any, ...]) -> Any:
        raise NotImplementedError

    def _take(self, rows: Rows) -> Any:
        raise NotImplementedError

    def __reduce__(self) -> Any:
        return type(self.topic).__getitem__, (self.topic, self.name)

    def __repr__(self) -> str:
        return f"<Field {self.name!r} of {self.topic.name!r}: {'x'.join(map(str, self.shape))} {self.dtype}>"


class ArrayField(Field):
    """Arrays of one shape and dtype.

    Args:
        places: for each piece of the topic the number of its column, and the row of the piece's message 0 in it.
        spec: dtype and shape.
    """

    def __init__(self, topic: Topic, name: str, places: Sequence[tuple[int, int]], spec: ColumnSpec) -> None:
        super().__init__(topic, name)
        self._places = places
        self._row = spec.shape
        self._dtype = np.dtype(spec.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """(messages, *shape of a row)."""
        return (len(self.topic), *self._row)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype as published."""
        return self._dtype

    @property
    def chunk_rows(self) -> int:
        """Rows that lie together on the disk; reading them together is cheapest."""
        for piece, (column, _row) in zip(self.topic.pieces, self._places, strict=True):
            chunks = piece.reader.column(column).values.chunks
            if chunks:
                return int(chunks[0])
        return 1

    def read_into(self, out: NDArray[Any], start: int = 0) -> None:
        """Fill `out`, (n, *shape of a row) in C order and of this dtype, with the rows from `start` on.

        Raises:
            IndexError: there are not that many rows.
        """
        if start < 0 or start + len(out) > len(self):
            raise IndexError(f"field {self.name} has {len(self)} rows, not {start}..{start + len(out)}")
        for piece, column, row, low, high in self._overlaps(start, start + len(out)):
            bulk.read_into(piece.reader.column(column), row, out[low - start : high - start])

    def _overlaps(self, start: int, stop: int) -> Iterator[tuple[Piece, int, int, int, int]]:
        for piece, (column, base) in zip(self.topic.pieces, self._places, strict=True):
            low, high = max(start, piece.start), min(stop, piece.start + len(piece))
            if high > low:
                yield piece, column, base + low - piece.start, low, high

    def _read(self, start: int, stop: int, rest: tuple[Any, ...]) -> NDArray[Any]:
        if rest and all(_simple(part) for part in rest):
            found = [
                bulk.read_block(piece.reader.column(column), row, row + high - low, rest)
                for piece, column, row, low, high in self._overlaps(start, stop)
            ]
            if found:
                return found[0] if len(found) == 1 else np.concatenate(found)
        out = np.empty((stop - start, *self._row), self._dtype)
        self.read_into(out, start)
        key = (slice(None), *rest)
        return out[key] if rest else out

    def _one(self, number: int, rest: tuple[Any, ...]) -> Any:
        if rest:
            return self._read(number, number + 1, rest)[0]
        return self._read(number, number + 1, ())[0]

    def _take(self, rows: Rows) -> NDArray[Any]:
        out = np.empty((len(rows), *self._row), self._dtype)
        for piece, (column, base) in zip(self.topic.pieces, self._places, strict=True):
            low, high = np.searchsorted(rows, [piece.start, piece.start + len(piece)]).tolist()
            if high > low:
                bulk.take_into(piece.reader.column(column), rows[low:high] - piece.start + base, out[low:high])
        return out


# what HDF5 understands itself
def _simple(part: Any) -> bool:
    if isinstance(part, slice):
        return (part.step or 1) > 0
    if isinstance(part, (bool, np.bool_)):
        return False
    return part is Ellipsis or (isinstance(part, (int, np.integer)) and int(part) >= 0)


def _checked(number: int, count: int, name: str) -> int:
    at = number + count if number < 0 else number
    if not 0 <= at < count:
        raise IndexError(f"field {name} has {count} messages, there is no message {number}")
    return at


def _numbers(key: Any, count: int, name: str) -> NDArray[np.int64]:
    wanted = np.asarray(key)
    if wanted.dtype == bool:
        if wanted.shape != (count,):
            raise IndexError(f"field {name} has {count} messages, the mask has shape {wanted.shape}")
        return np.flatnonzero(wanted)
    if wanted.size == 0:
        return np.zeros(wanted.shape, np.int64)
    if wanted.dtype.kind not in "iu":
        raise IndexError(f"field {name} is read by numbers, slices, masks and arrays of numbers, not by {key!r}")
    wanted = wanted.astype(np.int64)
    wanted = np.where(wanted < 0, wanted + count, wanted)
    if int(wanted.min()) < 0 or int(wanted.max()) >= count:
        raise IndexError(f"field {name} has {count} messages, not all of {key!r}")
    return wanted
