"""The datasets of one topic: opens or creates them, and knows which layouts they make up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import h5py
import numpy as np

from bag.storage import layout as names
from bag.storage.book import Book
from bag.storage.column import Column, create_dataset
from bag.storage.definitions import ColumnDefinition, LayoutDefinition, column_values, layout_values
from bag.storage.groups import free_name
from bag.storage.journal import CommitFile
from bag.storage.layout import ColumnSpec
from bag.storage.plan import Signature, plan

# the shape a run of messages has: None where their parts are kept whole
MaybeSignature = Signature | None


@dataclass(slots=True)
class BufferColumn:
    """The open dataset(s) behind one ColumnSpec: rows, and offsets unless every message is one row."""

    spec: ColumnSpec
    values: Column
    offsets: Column | None
    end: int = 0


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
        pairs = zip(signature, self.columns, strict=True)
        fits = all(part.name == column.spec.name and column.spec.accepts(part.dtype, part.shape) for part, column in pairs)
        if fits and len(self._accepted) < names.MAX_LAYOUTS:
            self._accepted.add(signature)
        return fits


class TopicColumns:
    """Creates and opens the datasets in a topic's group.

    Args:
        file: the commit file below HDF5.
        group: the topic's HDF5 group.
        book: the bag's bookkeeping.
        topic: number of the topic.
        next_number: gives numbers for new columns and layouts, unique in the bag.
    """

    def __init__(
        self, file: CommitFile, group: h5py.Group, book: Book, topic: int, next_number: Callable[[], int]
    ) -> None:
        self.all: list[Column] = []
        self.index: Column | None = None
        self.metadata: Column | None = None
        self.expected = names.SMALL_CHUNK
        self._file = file
        self._group = group
        self._book = book
        self._topic = topic
        self._next_number = next_number
        self._buffers: dict[ColumnSpec, BufferColumn] = {}
        self._layouts: list[Layout] = []

    def create_index(self, messages: int, expected: int) -> None:
        """Create index and metadata, sized for about so many messages and bytes in the next seconds."""
        self.expected = expected
        self.index = self._create(names.INDEX, "index", names.INDEX_DTYPE, messages * names.INDEX_DTYPE.itemsize)
        self.metadata = self._create(names.METADATA, "metadata", np.dtype("u1"), min(expected, messages * 64))

    def layout_for(self, fingerprint: int, ahead: Sequence[MaybeSignature]) -> Layout:
        """The layout for a message like `ahead[0]`, known or new; `ahead` are the messages that come next, itself included."""
        wanted = ahead[0]
        for layout in reversed(self._layouts):
            if layout.fingerprint == fingerprint and layout.accepts(wanted):
                return layout
        too_many = len(self._layouts) >= names.MAX_LAYOUTS
        if wanted is None or (wanted and too_many) or len(wanted) > names.MAX_BUFFERS:
            return self._whole_layout(fingerprint)
        specs = plan(wanted, [other for other in ahead if other], list(self._buffers))
        return self._new_layout(fingerprint, tuple(self.buffer(spec) for spec in specs))

    def buffer(self, spec: ColumnSpec) -> BufferColumn:
        """The column of this spec, known or new."""
        known = self._buffers.get(spec)
        if known is not None:
            return known
        link = free_name(self._group, names.path_component(spec.name.replace("/", "%2F")))
        values = self._create(link, spec.kind, np.dtype(spec.dtype), self.expected, spec)
        offsets = None
        if spec.kind != "fixed":
            offsets = self._create(link + names.OFFSETS_SUFFIX, "offsets", np.dtype("<u8"), names.SMALL_CHUNK)
            offsets.append(bytes(8))
        self._describe(link, spec)
        column = self._buffers[spec] = BufferColumn(spec, values, offsets)
        return column

    def resume(self, columns: Sequence[ColumnDefinition], layouts: Sequence[LayoutDefinition]) -> None:
        """Open the datasets of a bag that was not closed, to go on behind their last rows."""
        by_number: dict[int, BufferColumn] = {}
        opened = {item.path: self._open(item) for item in columns}
        for item in columns:
            if item.kind == "index":
                self.index = opened[item.path]
            elif item.kind == "metadata":
                self.metadata = opened[item.path]
            elif item.spec is not None:
                offsets = opened.get(item.path + names.OFFSETS_SUFFIX)
                column = BufferColumn(item.spec, opened[item.path], offsets, opened[item.path].count)
                self._buffers[item.spec] = by_number[item.number] = column
        for layout in layouts:
            members = None if layout.columns is None else tuple(by_number[number] for number in layout.columns)
            self._layouts.append(Layout(layout.number, layout.fingerprint, members))

    def _open(self, item: ColumnDefinition) -> Column:
        dataset = self._group.file[item.path]
        column = Column(self._file, dataset.id, item.number, self._book.checksums)
        column.resume(dataset.shape[0])
        self.all.append(column)
        return column

    def _whole_layout(self, fingerprint: int) -> Layout:
        for layout in self._layouts:
            if layout.fingerprint == fingerprint and layout.columns is None:
                return layout
        return self._new_layout(fingerprint, None)

    def _new_layout(self, fingerprint: int, columns: tuple[BufferColumn, ...] | None) -> Layout:
        layout = Layout(self._next_number(), fingerprint, columns)
        self._layouts.append(layout)
        numbers = None if columns is None else tuple(column.values.number for column in columns)
        self._book.define("layout", layout_values(LayoutDefinition(layout.number, self._topic, fingerprint, numbers)))
        return layout

    def _create(
        self, link: str, kind: str, dtype: np.dtype[Any], expected: int, spec: ColumnSpec | None = None
    ) -> Column:
        shape = spec.shape if spec else ()
        limit = names.HUGE_CHUNK if kind in ("ragged", "bytes") else names.LARGE_CHUNK
        rows = names.chunk_rows(int(dtype.itemsize * prod(shape)), expected, limit)
        dataset = create_dataset(self._group, link, dtype, shape, rows)
        column = Column(self._file, dataset, self._next_number(), self._book.checksums)
        self.all.append(column)
        path = f"{self._group.name}/{link}"
        self._book.define("column", column_values(ColumnDefinition(column.number, self._topic, path, kind, spec)))
        return column

    def _describe(self, link: str, spec: ColumnSpec) -> None:
        attributes = self._group[link].attrs
        attributes["kind"] = spec.kind
        attributes["numpy_dtype"] = spec.dtype
        attributes["field"] = spec.name
