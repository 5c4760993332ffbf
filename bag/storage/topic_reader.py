"""Reads one topic of a bag: its index, its columns, and from both the frames exactly as they were received."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bag.errors import IntegrityError
from bag.records import Channel, Frame
from bag.storage import layout as names
from bag.storage.definitions import ColumnDefinition, LayoutDefinition
from bag.storage.layout import ColumnSpec, stored_dtype
from bag.storage.tree import read_records, read_rows, record_type
from cortex.wire import HEADER

COUNT = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class StoredColumn:
    """One column with its open datasets; `offsets` is None for fixed columns."""

    number: int
    path: str
    spec: ColumnSpec
    values: h5py.Dataset
    offsets: h5py.Dataset | None

    def arrays(self, start: int, stop: int) -> list[NDArray[Any]]:
        """Rows (fixed) or row groups (ragged, bytes) start..stop-1, one array per message."""
        if self.offsets is None:
            return list(self.block(start, stop))
        bounds = self._bounds(start, stop)
        block = read_rows(self.values, bounds[0], bounds[-1], self.path)
        return [block[low - bounds[0] : high - bounds[0]] for low, high in pairwise(bounds)]

    def block(self, start: int, stop: int) -> NDArray[Any]:
        """Rows start..stop-1 of a fixed column as one array, in the dtype that was published."""
        out = read_rows(self.values, start, stop, self.path)
        return out.view(self.spec.dtype) if out.dtype.str != self.spec.dtype else out

    def frames(self, start: int, stop: int) -> list[Frame]:
        """The buffers of messages start..stop-1, byte for byte."""
        bounds = list(range(start, stop + 1)) if self.offsets is None else self._bounds(start, stop)
        base, unit = bounds[0], self.spec.row_bytes
        data = _bytes_of(read_rows(self.values, base, bounds[-1], self.path))
        return [data[(low - base) * unit : (high - base) * unit] for low, high in pairwise(bounds)]

    def _bounds(self, start: int, stop: int) -> list[int]:
        ends = read_rows(self.offsets, start, stop + 1, self.path + names.OFFSETS_SUFFIX)
        if (ends[1:] < ends[:-1]).any():
            raise IntegrityError(f"{self.path}{names.OFFSETS_SUFFIX} is damaged: its offsets go down")
        bounds: list[int] = ends.tolist()
        return bounds


@dataclass(frozen=True, slots=True)
class Segment:
    """Messages start..stop-1 of a topic that have one channel and one layout."""

    start: int
    stop: int
    channel: int
    layout: int


class TopicReader:
    """One topic of an open bag.

    Args:
        name: the topic.
        number: its number in the bag.
        open_dataset: opens a dataset of the bag by its path, safely.
        definitions: the topic's columns and layouts.
        runs: its rows of the runs table, in order.
        summary: its record of TOPIC_DTYPE.
        channels: all channels of the bag.
    """

    def __init__(
        self,
        name: str,
        number: int,
        open_dataset: Callable[[str], h5py.Dataset],
        definitions: tuple[Sequence[ColumnDefinition], Sequence[LayoutDefinition]],
        runs: NDArray[Any],
        summary: Any,
        channels: Sequence[Channel],
    ) -> None:
        self.name = name
        self.number = number
        self.summary = summary
        self.channels = channels
        self._open = open_dataset
        self._definitions, layouts = definitions
        self._layouts = {layout.number: layout for layout in layouts}
        self._runs = runs
        self._columns: dict[int, StoredColumn] = {}
        self._index: h5py.Dataset | None = None
        self._metadata_rows: h5py.Dataset | None = None
        self._bases: dict[int, NDArray[np.int64]] = {}
        self._checked_firsts: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self.summary["messages"])

    def index(self, start: int, stop: int) -> NDArray[Any]:
        """Index rows start..stop-1 (INDEX_DTYPE).

        Raises:
            IntegrityError: they are not in the file.
        """
        if start >= stop:
            return np.empty(0, names.INDEX_DTYPE)
        if self._index is None:
            self._index = self._open_index()
        read = read_rows if not isinstance(self._index, h5py.Dataset) else _read_index
        return read(self._index, start, stop, f"the index of {self.name}")

    def _open_index(self) -> Any:
        index, wanted = self._open(self._path_of("index")), record_type(names.INDEX_DTYPE)
        # a comparison of HDF5's own types is quicker than making numpy's of one
        if isinstance(index, h5py.Dataset) and (index.ndim != 1 or index.id.get_type() != wanted):
            raise IntegrityError(f"the index of {self.name} does not have the fields of a bag")
        return index

    def times(self, field: str) -> NDArray[Any]:
        """One column of the index for all messages, e.g. `log_time_ns` (int64) or `sequence` (uint64)."""
        return np.ascontiguousarray(self.index(0, len(self))[field])

    def segments(self, start: int, stop: int) -> Iterator[Segment]:
        """The runs that messages start..stop-1 fall into, cut to them.

        Raises:
            IntegrityError: the runs do not begin with the first message, or go back.
        """
        firsts = self._firsts()
        run = int(np.searchsorted(firsts, start, side="right")) - 1
        while start < stop:
            end = int(firsts[run + 1]) if run + 1 < len(firsts) else stop
            row = self._runs[run]
            if not 0 <= int(row["channel"]) < len(self.channels):
                raise IntegrityError(f"topic {self.name} refers to channel {row['channel']}, which is not defined")
            yield Segment(start, min(end, stop), int(row["channel"]), int(row["layout"]))
            start, run = min(end, stop), run + 1

    def layout(self, number: int) -> LayoutDefinition:
        """A layout by its number.

        Raises:
            IntegrityError: the bag speaks of a layout it does not define.
        """
        try:
            return self._layouts[number]
        except KeyError:
            raise IntegrityError(f"topic {self.name} refers to layout {number}, which is not defined") from None

    def columns_of(self, layout: LayoutDefinition) -> list[StoredColumn]:
        """The columns of a layout; for parts kept whole the one that holds them."""
        if layout.columns is None:
            numbers: Sequence[int] = [item.number for item in self._definitions if _is_whole(item)]
            if len(numbers) != 1:
                raise IntegrityError(f"topic {self.name} has no column {names.FRAMES}, which its layout needs")
        else:
            numbers = layout.columns
        return [self.column(number) for number in numbers]

    def column(self, number: int) -> StoredColumn:
        """A column by its number, opened at first use.

        Raises:
            IntegrityError: it is not defined, or not as it is defined.
        """
        if number not in self._columns:
            item = next((item for item in self._definitions if item.number == number), None)
            if item is None or item.spec is None:
                raise IntegrityError(f"topic {self.name} refers to column {number}, which is not defined")
            values = self._open(item.path)
            if values.dtype != stored_dtype(np.dtype(item.spec.dtype)) or values.shape[1:] != item.spec.shape:
                raise IntegrityError(f"{item.path} is not the dataset that its definition tells of")
            offsets = None if item.kind == "fixed" else self._open(item.path + names.OFFSETS_SUFFIX)
            self._columns[number] = StoredColumn(number, item.path, item.spec, values, offsets)
        return self._columns[number]

    def buffer_columns(self) -> list[StoredColumn]:
        """All columns that hold buffers, in the order they appeared."""
        return [self.column(item.number) for item in self._definitions if item.spec is not None and not _is_whole(item)]

    def read_through(self, column: StoredColumn) -> None:
        """Read a column (by its number) through this one from now on."""
        self._columns[column.number] = column

    def metadata_rows(self) -> h5py.Dataset:
        """The bytes that the index refers to, opened at first use."""
        if self._metadata_rows is None:
            self._metadata_rows = self._open(self._path_of("metadata"))
        return self._metadata_rows

    def row_of(self, column: int, message: int) -> int:
        """Row (or row group) of a column that belongs to a message of a layout with that column."""
        firsts = self._firsts()
        run = int(np.searchsorted(firsts, message, side="right")) - 1
        return int(self._base(column)[run]) + message - int(firsts[run])

    def frames(self, start: int, stop: int) -> list[list[Frame]]:
        """Parts 1..N of messages start..stop-1, byte for byte as received.

        Raises:
            IntegrityError: they are not in the file.
        """
        out: list[list[Frame]] = []
        for segment in self.segments(start, stop):
            layout = self.layout(segment.layout)
            columns = self.columns_of(layout)
            rows = [self.row_of(column.number, segment.start) for column in columns]
            count = segment.stop - segment.start
            buffers = [column.frames(row, row + count) for column, row in zip(columns, rows, strict=True)]
            if layout.columns is None:
                out.extend(_unpack_whole(packed, self.name) for packed in buffers[0])
                continue
            index = self.index(segment.start, segment.stop)
            heads = headers(layout.fingerprint, index)
            out.extend([*parts] for parts in zip(heads, self._metadata(index), *buffers, strict=True))
        return out

    def _metadata(self, index: NDArray[Any]) -> list[Frame]:
        offsets = index["metadata_offset"].tolist()
        sizes = index["metadata_size"].tolist()
        low, high = min(offsets), max(map(sum, zip(offsets, sizes, strict=True)))
        data = read_rows(self.metadata_rows(), low, high, f"the metadata of {self.name}").tobytes()
        if offsets[0] == offsets[-1] and sizes.count(sizes[0]) == len(sizes) and offsets.count(low) == len(offsets):
            return [data] * len(offsets)
        return [data[at - low : at - low + size] for at, size in zip(offsets, sizes, strict=True)]

    def _firsts(self) -> NDArray[np.int64]:
        if self._checked_firsts is not None:
            return self._checked_firsts
        firsts: NDArray[np.int64] = self._runs["first"].astype(np.int64)
        if len(self) and (not len(firsts) or firsts[0] != 0 or (firsts[1:] <= firsts[:-1]).any()):
            raise IntegrityError(f"the runs of topic {self.name} are damaged: they do not follow one another from 0 on")
        self._checked_firsts = firsts
        return firsts

    def _base(self, column: int) -> NDArray[np.int64]:
        if column not in self._bases:
            lengths = np.diff(self._firsts(), append=len(self))
            holding = {number: self._holds(number, column) for number in set(self._runs["layout"].tolist())}
            holds = np.array([holding[number] for number in self._runs["layout"].tolist()], bool)
            before = np.cumsum(np.where(holds, lengths, 0))
            self._bases[column] = np.concatenate([[0], before[:-1]])
        return self._bases[column]

    def _holds(self, number: int, column: int) -> bool:
        layout = self.layout(number)
        if layout.columns is None:
            return any(item.number == column and _is_whole(item) for item in self._definitions)
        return column in layout.columns

    def _path_of(self, kind: str) -> str:
        for item in self._definitions:
            if item.kind == kind:
                return item.path
        raise IntegrityError(f"topic {self.name} has messages but no {kind}")


def headers(fingerprint: int, index: NDArray[Any]) -> list[bytes]:
    """The 24-byte headers of messages, rebuilt from their index rows."""
    values = np.empty((len(index), 3), ">u8")
    values[:, 0] = fingerprint
    values[:, 1] = index["publish_time_ns"].view(np.uint64)
    values[:, 2] = index["sequence"]
    data = values.tobytes()
    return [data[at : at + HEADER.size] for at in range(0, len(data), HEADER.size)]


def _read_index(index: h5py.Dataset, start: int, stop: int, what: str) -> NDArray[Any]:
    return read_records(index, start, stop, names.INDEX_DTYPE, what)


def _bytes_of(block: NDArray[Any]) -> memoryview:
    flat: Any = np.ascontiguousarray(block).reshape(-1)
    return memoryview(flat.view(np.uint8)) if flat.size else memoryview(b"")


def _is_whole(item: ColumnDefinition) -> bool:
    return item.spec is not None and item.spec.name == names.FRAMES and item.kind == "bytes"


def _unpack_whole(packed: Frame, topic: str) -> list[Frame]:
    view = memoryview(packed)
    try:
        (count,) = COUNT.unpack_from(view)
        sizes = np.frombuffer(view, "<u8", count, COUNT.size).tolist()
    except (struct.error, ValueError) as error:
        raise IntegrityError(f"a message of {topic} is damaged: its parts cannot be told apart") from error
    at = COUNT.size + 8 * count
    if count < 1 or at + sum(sizes) != len(view):
        raise IntegrityError(f"a message of {topic} is damaged: its parts do not have the sizes it says")
    out: list[Frame] = []
    for size in sizes:
        out.append(view[at : at + size])
        at += size
    return out
