"""The datasets of one topic: opens or creates them, and knows which layouts they make up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import h5py
import numpy as np
from h5py import h5d

from bag.errors import IntegrityError
from bag.storage import layout as names
from bag.storage.book import Book
from bag.storage.checksums import Checksums
from bag.storage.column import Column, create_dataset
from bag.storage.definitions import ColumnDefinition, LayoutDefinition, column_values, layout_values
from bag.storage.groups import free_name
from bag.storage.journal import CommitFile
from bag.storage.layout import ColumnSpec, stored_dtype
from bag.storage.plan import MaybeSignature, Signature, plan
from bag.storage.tree import dataset_at, describe

WHOLE_SPEC = ColumnSpec(names.FRAMES, "bytes", "|u1", ())
# so many messages are looked at to choose the columns of a new layout
LOOK_AHEAD = 256


@dataclass(slots=True)
class BufferColumn:
    """The open dataset(s) behind one ColumnSpec: rows, and offsets unless every message is one row."""

    spec: ColumnSpec
    values: Column
    offsets: Column | None


@dataclass(slots=True)
class Layout:
    """Which columns the buffers of a run of messages go to; None: the parts are kept whole."""

    number: int
    fingerprint: int
    columns: tuple[BufferColumn, ...] | None
    _accepted: set[Signature] = field(default_factory=set)

    def accepts(self, signature: MaybeSignature) -> bool:
        """Whether messages of this signature can be stored under this layout."""
        if signature is None or self.columns is None:
            return signature is None and self.columns is None
        if signature in self._accepted:
            return True
        if len(signature) != len(self.columns):
            return False
        specs = [column.spec for column in self.columns]
        fits = all(
            part.name == spec.name and spec.accepts(part.dtype, part.shape)
            for part, spec in zip(signature, specs, strict=True)
        )
        if fits and len(self._accepted) < names.MAX_LAYOUTS:
            self._accepted.add(signature)
        return fits


class Packing(Protocol):
    """How new columns are compressed: by which filter and level, and the column that does so."""

    @property
    def filter(self) -> tuple[str, int]:
        """Name and level."""

    def column(self, file: CommitFile, dataset: h5d.DatasetID, number: int, checksums: Checksums) -> Column:
        """The column behind a new dataset that has the filter."""


class TopicColumns:
    """Creates and opens the datasets in a topic's group.

    Args:
        file: the commit file below HDF5.
        group: the topic's HDF5 group.
        book: the bag's bookkeeping.
        topic: number of the topic.
        next_number: gives numbers for new columns and layouts, unique in the bag.
        packing: compresses new columns.
    """

    def __init__(
        self,
        file: CommitFile,
        group: h5py.Group,
        book: Book,
        topic: int,
        next_number: Callable[[], int],
        packing: Packing | None = None,
    ) -> None:
        self.packing = packing
        self.all: list[Column] = []
        self.index: Column | None = None
        self.metadata: Column | None = None
        self._expected = names.SMALL_CHUNK
        self._file = file
        self._group = group
        self._book = book
        self._topic = topic
        self._next_number = next_number
        self._buffers: dict[ColumnSpec, BufferColumn] = {}
        self._layouts: list[Layout] = []

    def create_index(self, messages: int, expected: int) -> None:
        """Create index and metadata, sized for about so many messages and bytes in the next seconds."""
        self._expected = expected
        link = free_name(self._group, names.INDEX)
        self.index = self._create(link, "index", names.INDEX_DTYPE, messages * names.INDEX_DTYPE.itemsize)
        describe(self.index.dataset, units=names.INDEX_UNITS)
        link = free_name(self._group, names.METADATA)
        self.metadata = self._create(link, "metadata", np.dtype("u1"), min(expected, messages * 64))
        describe(self.metadata.dataset, units=names.METADATA_UNITS)

    def layout_for(self, fingerprint: int, signatures: Sequence[MaybeSignature], start: int) -> Layout:
        """The layout for a message like `signatures[start]`, known or new; the choice looks at those that follow."""
        wanted = signatures[start]
        for layout in reversed(self._layouts):
            if (layout.columns is None or layout.fingerprint == fingerprint) and layout.accepts(wanted):
                return layout
        if wanted is None or len(self._layouts) >= names.MAX_LAYOUTS:
            return self._whole_layout()
        ahead = [other for other in signatures[start : start + LOOK_AHEAD] if other]
        specs = plan(wanted, ahead, list(self._buffers))
        if len(self._buffers.keys() | specs) > names.MAX_COLUMNS:
            return self._whole_layout()
        return self._new_layout(fingerprint, tuple(self.buffer(spec) for spec in specs))

    def buffer(self, spec: ColumnSpec) -> BufferColumn:
        """The column of this spec, known or new."""
        known = self._buffers.get(spec)
        if known is not None:
            return known
        link = free_name(self._group, names.path_component(spec.name), names.OFFSETS_SUFFIX)
        values = self._create(link, spec.kind, np.dtype(spec.dtype), self._expected, spec)
        offsets = None
        if spec.kind != "fixed":
            beside = link + names.OFFSETS_SUFFIX
            offsets = self._create(beside, "offsets", np.dtype("<u8"), names.SMALL_CHUNK)
            offsets.append(bytes(8))
            describe(offsets.dataset, units=names.OFFSET_UNITS[spec.kind])
        describe(values.dataset, kind=spec.kind, numpy_dtype=spec.dtype, field=spec.name)
        column = self._buffers[spec] = BufferColumn(spec, values, offsets)
        return column

    def resume(self, columns: Sequence[ColumnDefinition], layouts: Sequence[LayoutDefinition]) -> None:
        """Open the datasets of a bag that was not closed, to go on behind their last rows.

        Raises:
            IntegrityError: the definitions do not fit together, or not the file.
        """
        by_number: dict[int, BufferColumn] = {}
        opened = {item.path: self._open(item) for item in columns}
        for item in columns:
            if item.kind == "index":
                self.index = opened[item.path]
            elif item.kind == "metadata":
                self.metadata = opened[item.path]
            elif item.spec is not None:
                column = BufferColumn(item.spec, opened[item.path], opened.get(item.path + names.OFFSETS_SUFFIX))
                self._buffers[item.spec] = by_number[item.number] = column
        self._layouts = [_resumed_layout(layout, by_number) for layout in layouts]

    def _open(self, item: ColumnDefinition) -> Column:
        dataset = dataset_at(self._group.file, item.path)
        column = Column(self._file, dataset.id, item.number, self._book.checksums)
        column.resume(dataset.shape[0])
        self.all.append(column)
        return column

    # one for all fingerprints: what is kept whole keeps its header
    def _whole_layout(self) -> Layout:
        for layout in self._layouts:
            if layout.columns is None:
                return layout
        return self._new_layout(0, None)

    def _new_layout(self, fingerprint: int, columns: tuple[BufferColumn, ...] | None) -> Layout:
        layout = Layout(self._next_number(), fingerprint, columns)
        self._layouts.append(layout)
        numbers = None if columns is None else tuple(column.values.number for column in columns)
        self._book.define("layout", layout_values(LayoutDefinition(layout.number, self._topic, fingerprint, numbers)))
        return layout

    def _create(
        self, link: str, kind: str, dtype: np.dtype[np.generic], expected: int, spec: ColumnSpec | None = None
    ) -> Column:
        shape = spec.shape if spec else ()
        row_bytes = spec.row_bytes if spec else dtype.itemsize
        limit = names.HUGE_CHUNK if kind in ("ragged", "bytes") else names.LARGE_CHUNK
        rows = names.chunk_rows(row_bytes, expected, limit)
        packing = self.packing
        dataset = create_dataset(self._group, link, dtype, shape, rows, None if packing is None else packing.filter)
        parts = (self._file, dataset, self._next_number(), self._book.checksums)
        column = Column(*parts) if packing is None else packing.column(*parts)
        self.all.append(column)
        path = f"{self._group.name}/{link}"
        values = column_values(ColumnDefinition(column.number, self._topic, path, kind, spec))
        if packing is not None:
            values |= _packed_values(packing.filter[0], rows * row_bytes, dtype)
        self._book.define("column", values)
        return column


def _packed_values(name: str, chunk_bytes: int, dtype: np.dtype[Any]) -> dict[str, Any]:
    return {"filter": name, "chunk_bytes": chunk_bytes, "itemsize": stored_dtype(np.dtype(dtype)).itemsize}


def _resumed_layout(layout: LayoutDefinition, columns: Mapping[int, BufferColumn]) -> Layout:
    if layout.columns is None:
        return Layout(layout.number, layout.fingerprint, None)
    try:
        members = tuple(columns[number] for number in layout.columns)
    except KeyError as error:
        raise IntegrityError(
            f"layout {layout.number} refers to column {error}, which the bag does not define"
        ) from error
    return Layout(layout.number, layout.fingerprint, members)
