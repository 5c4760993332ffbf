"""Fields that are no single column of the file: arrays of several shapes, and values inside the metadata."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bag.columns import join, kind_of
from bag.fields import Field, Rows
from bag.parts import Piece
from bag.paths import Path, value_at
from bag.plain import values_or_none
from bag.ragged import Ragged, describe
from bag.resolve import Place, sample_values, schemas_of
from bag.storage import bulk
from bag.templates import MISSING, extract
from cortex.arrays import array_from_parts
from cortex.codec import descriptors
from cortex.errors import CodecError

if TYPE_CHECKING:
    from bag.topic import Topic

# messages whose metadata is in memory at a time
BLOCK_MESSAGES = 1 << 16
WHOLE_MESSAGES = 256


class _Loose(Field):
    def __init__(self, topic: Topic, name: str, place: Place) -> None:
        super().__init__(topic, name)
        self._place = place

    # (piece, rows of the topic reader, rows of this field) of blocks of messages, ascending
    def _blocks(self, rows: Rows) -> Iterator[tuple[Piece, Rows, Rows]]:
        for piece in self.topic.pieces:
            low, high = np.searchsorted(rows, [piece.start, piece.start + len(piece)]).tolist()
            for at in range(low, high, BLOCK_MESSAGES):
                some = np.arange(at, min(at + BLOCK_MESSAGES, high))
                yield piece, rows[some] - piece.start + piece.first, some

    def _paths(self, piece: Piece) -> list[Path | None]:
        return [self._place.path(schema) for schema in schemas_of(piece)]

    def _whole_values(self, piece: Piece, messages: Rows, path: Path) -> Iterator[Any]:
        for number in messages.tolist():
            (raw,) = piece.part.reader.raw(piece.topic, number, number + 1)
            values = values_or_none(raw)
            yield MISSING if values is None else value_at(values, path, MISSING)


class RaggedField(_Loose):
    """Arrays that differ in shape or dtype, or are missing here and there; a number gives one, a slice a `Ragged`."""

    @property
    def ragged(self) -> bool:
        """Whether messages differ in shape or dtype."""
        return True

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of all arrays, object when there are several."""
        kinds = {column.spec.dtype for column in self._columns() if column.spec.kind != "bytes"}
        return np.dtype(kinds.pop()) if len(kinds) == 1 else np.dtype(object)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays of the files this topic is in."""
        return sum(int(column.values.size) * column.values.dtype.itemsize for column in self._columns())

    def _columns(self) -> list[Any]:
        out = []
        for piece in self.topic.pieces:
            numbers = set(bulk.column_of_runs(piece.reader, bulk.runs_of(piece.reader), self._place.names).tolist())
            out += [piece.reader.column(number) for number in sorted(numbers - {-1})]
        return out

    def _read(self, start: int, stop: int, rest: tuple[Any, ...]) -> Any:
        found = self._take(np.arange(start, stop))
        return Ragged([None if array is None else array[rest] for array in found]) if rest else found

    def _chosen(self, numbers: NDArray[np.int64], rest: tuple[Any, ...]) -> Any:
        rows, back = np.unique(numbers, return_inverse=True)
        found = self._take(rows)
        chosen = Ragged([found[at] for at in back.reshape(-1).tolist()])
        return Ragged([None if array is None else array[rest] for array in chosen]) if rest else chosen

    def _take(self, rows: Rows) -> Ragged:
        out: list[NDArray[Any] | None] = [None] * len(rows)
        for piece, messages, where in self._blocks(rows):
            runs = bulk.runs_of(piece.reader)
            of_run = runs.of(messages)
            columns = bulk.column_of_runs(piece.reader, runs, self._place.names)[of_run]
            for number in np.unique(columns).tolist():
                chosen = columns == number
                for at, array in zip(
                    where[chosen].tolist(), self._arrays(piece, number, messages[chosen]), strict=True
                ):
                    out[at] = array
        return Ragged(out)

    def _arrays(self, piece: Piece, number: int, messages: Rows) -> Iterator[NDArray[Any] | None]:
        runs = bulk.runs_of(piece.reader)
        if number < 0:
            yield from self._from_whole(piece, runs, messages)
            return
        column = piece.reader.column(number)
        arrays = bulk.arrays_of(column, bulk.rows_of(piece.reader, runs, number, messages))
        if column.spec.kind != "bytes":
            yield from arrays
            return
        block = bulk.read_metadata(piece.reader, messages)
        paths = self._paths(piece)
        shapes: dict[tuple[int, Path | None], tuple[str, tuple[int, ...]] | None] = {}
        for data, frame, run in zip(arrays, block.which.tolist(), runs.of(messages).tolist(), strict=True):
            key = (frame, paths[run])
            if key not in shapes:
                shapes[key] = _shape_at(block.frame(frame), paths[run])
            known = shapes[key]
            yield None if known is None else array_from_parts(known[0], list(known[1]), data.view(np.uint8).data)

    def _from_whole(self, piece: Piece, runs: bulk.Runs, messages: Rows) -> Iterator[NDArray[Any] | None]:
        whole, paths = bulk.whole_runs(piece.reader, runs), self._paths(piece)
        for number, run in zip(messages.tolist(), runs.of(messages).tolist(), strict=True):
            path = paths[run]
            value = next(self._whole_values(piece, np.array([number]), path)) if whole[run] and path else None
            yield value if isinstance(value, np.ndarray) else None

    def __repr__(self) -> str:
        found = {(column.spec.kind, column.spec.dtype, column.spec.shape) for column in self._columns()}
        texts = sorted(
            "several shapes"
            if kind == "bytes"
            else describe([(dtype, shape)])
            if kind == "fixed"
            else " x ".join(["n", *map(str, shape)]) + f" {np.dtype(dtype)}"
            for kind, dtype, shape in found
        )
        return (
            f"<Field {self.name!r} of {self.topic.name!r}: {len(self)} arrays, ragged: {'; '.join(texts) or 'unknown'}>"
        )


def _shape_at(metadata: bytes, path: Path | None) -> tuple[str, tuple[int, ...]] | None:
    try:
        found = descriptors(metadata)
    except CodecError:
        return None
    for item in found:
        if path is not None and list(map(str, item.path)) == list(map(str, path)):
            return item.dtype, item.shape
    return None


class ValueField(_Loose):
    """A number, text, list or other value inside the metadata: a column of (messages,)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype the first message's value calls for; a slice has the dtype its own values need."""
        for piece in self.topic.pieces:
            if len(piece):
                values, path = sample_values(piece, 0), self._paths(piece)[int(self._first_run(piece))]
                return kind_of(None if values is None or path is None else value_at(values, path))
        return np.dtype(object)

    def _first_run(self, piece: Piece) -> int:
        return int(bulk.runs_of(piece.reader).of(np.array([piece.first]))[0])

    def _read(self, start: int, stop: int, rest: tuple[Any, ...]) -> Any:
        found = self._take(np.arange(start, stop))
        key = (slice(None), *rest)
        return found[key] if rest else found

    def _take(self, rows: Rows) -> NDArray[Any]:
        pieces: list[tuple[Any, NDArray[Any]]] = []
        for piece, messages, where in self._blocks(rows):
            pieces.extend(self._extract(piece, messages, where))
        return join(len(rows), pieces)

    def found(self, start: int, stop: int) -> bool:
        """Whether any of these messages has the value."""
        for piece, messages, where in self._blocks(np.arange(start, stop)):
            if any(not all(v is MISSING for v in values) for _where, values in self._extract(piece, messages, where)):
                return True
        return False

    def _extract(self, piece: Piece, messages: Rows, where: Rows) -> list[tuple[Any, NDArray[Any]]]:
        runs = bulk.runs_of(piece.reader)
        of_run, paths, whole = runs.of(messages), self._paths(piece), bulk.whole_runs(piece.reader, runs)
        if len(paths) == 1 and paths[0] is not None and not whole[0]:
            at = slice(int(where[0]), int(where[-1]) + 1)
            return _extract_block(bulk.read_metadata(piece.reader, messages), paths[0], at)
        out: list[tuple[Any, NDArray[Any]]] = []
        groups: dict[tuple[Path, bool], list[int]] = {}
        for run, (path, kept) in enumerate(zip(paths, whole.tolist(), strict=True)):
            if path is not None:
                groups.setdefault((path, kept), []).append(run)
        for (path, kept), members in groups.items():
            chosen = np.isin(of_run, members)
            if not chosen.any():
                continue
            if kept:
                values = np.empty(int(chosen.sum()), object)
                values[:] = list(self._whole_values(piece, messages[chosen], path))
                out.append((where[chosen], values))
            else:
                out.extend(_extract_block(bulk.read_metadata(piece.reader, messages[chosen]), path, where[chosen]))
        return out


# distinct frames are decoded once, then spread over the messages that share them
def _extract_block(block: bulk.MetadataBlock, path: Path, where: Any) -> list[tuple[Any, NDArray[Any]]]:
    found = extract(block, path)
    if len(found) == 1 and len(block.starts) == len(block.which):
        return [(where, found[0].values)]
    positions = np.arange(where.start, where.stop) if isinstance(where, slice) else where
    place = np.empty(len(block.starts), np.int64)
    out: list[tuple[Any, NDArray[Any]]] = []
    for item in found:
        place[:] = -1
        place[item.frames] = np.arange(len(item.frames))
        spread = place[block.which]
        chosen = spread >= 0
        out.append((positions[chosen], item.values[spread[chosen]]))
    return out
