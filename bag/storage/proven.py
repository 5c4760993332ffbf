"""A bag seen through its checksums: every byte that comes out is proven, and none of it is read by HDF5.

It offers the topics as TopicReader does for an ordinary bag, with datasets that are backed by `ColumnBytes`: the same
code path with one part swapped. `open_proven` takes the table of checksums from a bag that opens,
`carve` from whatever is left of one that does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bag.errors import BagFormatError, IntegrityError
from bag.storage import layout as names
from bag.storage.carve import find_table
from bag.storage.chunks import Chunk, ColumnBytes, Decoder, InputFile, chunks_of
from bag.storage.complete import completed
from bag.storage.damage import reading
from bag.storage.definitions import Definitions, parse_definitions
from bag.storage.disk import Buffer
from bag.storage.filters import decoder_of
from bag.storage.layout import stored_dtype
from bag.storage.opening import open_bag
from bag.storage.snapshot import Snapshot
from bag.storage.topic_reader import TopicReader
from bag.storage.tree import attribute, table

BOOK_DTYPES = {
    names.RUNS: names.RUN_DTYPE,
    names.LEDGER: names.LEDGER_DTYPE,
    names.CLOCK: names.CLOCK_DTYPE,
}
OFFSETS_DTYPE = np.dtype("<u8")
BYTES_DTYPE = np.dtype("u1")


class ProvenDataset:
    """Rows of a column, sliced like a dataset of h5py."""

    def __init__(self, column: ColumnBytes, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> None:
        self.column = column
        self.dtype = dtype
        self.row_bytes = int(dtype.itemsize * prod(row_shape))
        self._row_shape = row_shape

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, *shape of a row)."""
        return (self.column.size // max(1, self.row_bytes), *self._row_shape)

    def raw(self, start: int, stop: int) -> bytes:
        """Bytes of rows start..stop-1."""
        return self.column.read(start * self.row_bytes, stop * self.row_bytes)

    def pieces(self, start: int, stop: int) -> Iterator[Buffer]:
        """The same, a chunk at a time and without a copy."""
        return self.column.pieces(start * self.row_bytes, stop * self.row_bytes)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop = int(rows.start), int(rows.stop)
        return np.frombuffer(self.raw(start, stop), self.dtype).reshape(max(0, stop - start), *self._row_shape)


@dataclass(slots=True)
class ProvenBag:
    """What a bag holds, as far as its checksums prove it.

    `summaries` and `attributes` are those that the bag states, empty for a carved one; `closed_cleanly` is None where
    nobody can tell. `columns` is by column number, the book's included.
    """

    path: Path
    file: InputFile
    definitions: Definitions
    columns: dict[int, ColumnBytes]
    runs: NDArray[Any]
    ledger: NDArray[Any]
    clock: NDArray[Any]
    summaries: NDArray[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    # how its columns are packed, if they are
    compression: str | None = None
    # whether every row of the runs table is there
    runs_whole: bool = True
    topics: Mapping[str, TopicReader] = field(default_factory=dict)

    @property
    def snapshot(self) -> Snapshot | None:
        """Its file while it is being recorded."""
        return self.file if isinstance(self.file, Snapshot) else None

    def dataset(self, number: int) -> ProvenDataset:
        """The rows of a topic's column."""
        for items in self.definitions.columns.values():
            for item in items:
                if item.number == number:
                    return self._dataset_of(item)
        raise IntegrityError(f"{self.path} refers to column {number}, which it does not define")

    def dataset_at(self, path: str) -> ProvenDataset:
        """The rows of the column that is kept at an HDF5 path."""
        for items in self.definitions.columns.values():
            for item in items:
                if item.path == path:
                    return self._dataset_of(item)
        raise IntegrityError(f"{self.path} has no column {path}")

    def _dataset_of(self, item: Any) -> ProvenDataset:
        column = self.columns.get(item.number)
        if column is None:
            column = self.columns[item.number] = ColumnBytes(self.file, item.path, {})
        column.name = item.path
        if item.spec is not None:
            return ProvenDataset(column, stored_dtype(np.dtype(item.spec.dtype)), item.spec.shape)
        dtype = {"index": names.INDEX_DTYPE, "offsets": OFFSETS_DTYPE}.get(item.kind, BYTES_DTYPE)
        return ProvenDataset(column, dtype, ())

    def topic_of(self, number: int, name: str, runs: NDArray[Any], summary: Any) -> TopicReader:
        """A reader of one topic under these runs and this summary."""
        layouts = [item for item in self.definitions.layouts.values() if item.topic == number]
        columns = self.definitions.columns.get(number, [])
        return TopicReader(name, number, self.dataset_at, (columns, layouts), runs, summary, self.definitions.channels)

    def runs_of(self, number: int) -> NDArray[Any]:
        """Rows of the runs table that belong to a topic."""
        found: NDArray[Any] = self.runs[self.runs["topic"] == number]
        return found

    def ledger_of(self, number: int) -> NDArray[Any]:
        """Rows of the ledger that belong to a topic."""
        found: NDArray[Any] = self.ledger[self.ledger["topic"] == number]
        return found

    def forget(self) -> None:
        """Drop what columns keep in memory."""
        for column in self.columns.values():
            column.forget()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> ProvenBag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_proven(path: Path) -> ProvenBag:
    """A bag that opens, its bookkeeping read and proven.

    Raises:
        FileNotFoundError, BagBusyError, BagFormatError: see `BagReader`.
        IntegrityError: the bookkeeping is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no bag {path}")
    bag = open_bag(path)
    file: InputFile | None = bag.snapshot
    try:
        with reading(path), bag.root as root:
            checksums = checksums_of(root)
            summaries = table(root, names.TOPICS, names.TOPIC_DTYPE)
            attributes = {str(name): attribute(root, name) for name in root.attrs}
        file = file or InputFile(path)
        with reading(path):
            return _assemble(path, file, checksums, summaries, attributes)
    except BaseException:
        if file is not None:
            file.close()
        raise


def checksums_of(root: h5py.File) -> NDArray[Any]:
    """The checksums of all chunks, full or still filling."""
    tables = [table(root, name, names.CHECKSUM_DTYPE) for name in (names.CHECKSUMS, names.OPEN_CHUNKS)]
    return np.concatenate(tables)


def _assemble(
    path: Path, file: InputFile, checksums: NDArray[Any], summaries: NDArray[Any], attributes: dict[str, Any]
) -> ProvenBag:
    chunks = chunks_of(checksums, file.size)
    book = {name: _book_column(file, name, chunks) for name in names.BOOK_COLUMNS if name != names.CHECKSUMS}
    text = _all(book[names.DEFINITIONS])
    runs, ledger, clock = (np.frombuffer(_all(book[name]), dtype) for name, dtype in BOOK_DTYPES.items())
    bag = ProvenBag(
        path=path,
        file=file,
        definitions=parse_definitions(text, str(path)),
        columns=columns_of(file, chunks, text),
        runs=runs,
        ledger=ledger,
        clock=clock,
        summaries=summaries,
        attributes=attributes,
        compression=next((name for name, _chunk, _item in filters_of(text).values()), None),
    )
    if len(summaries) < len(bag.definitions.topics):
        raise IntegrityError(
            f"{path} lacks summaries of its topics; save what is whole with: cortex bag recover {path}"
        )
    bag.topics = {
        name: bag.topic_of(number, name, bag.runs_of(number), summaries[number])
        for number, (name, _group) in enumerate(bag.definitions.topics)
    }
    return bag


def carve(path: Path) -> ProvenBag:
    """Whatever the checksums still prove of a file, in whatever state it is. Its topics are not known yet: see
    rescue.py.

    Raises:
        BagFormatError: there is nothing of a bag in it.
    """
    file = InputFile(path)
    try:
        chunks = chunks_of(_mended_table(file, find_table(file)), file.size)
        lines = _whole_lines(_book_column(file, names.DEFINITIONS, chunks, mend=True))
        if not lines:
            raise BagFormatError(f"{path} holds nothing of a bag that could be recovered")
        text = b"".join(completed(lines))
        definitions = parse_definitions(text, str(path))
        book = {name: _book_column(file, name, chunks, mend=True) for name in BOOK_DTYPES}
        runs, ledger, clock = (_proven_rows(book[name], dtype) for name, dtype in BOOK_DTYPES.items())
        whole = sum(high - low for _number, (low, high) in book[names.RUNS].proven()) == book[names.RUNS].size
        return ProvenBag(
            path=path,
            file=file,
            definitions=definitions,
            columns=columns_of(file, chunks, text, mend=True),
            runs=runs,
            ledger=ledger,
            clock=clock,
            summaries=np.zeros(0, names.TOPIC_DTYPE),
            runs_whole=whole,
        )
    except BaseException:
        file.close()
        raise


# the table of checksums has checksums, too: rows with a wrong byte are put right before they condemn good bytes
def _mended_table(file: InputFile, table: NDArray[Any]) -> NDArray[Any]:
    number = names.BOOK_COLUMNS[names.CHECKSUMS]
    own = _book_column(file, names.CHECKSUMS, chunks_of(table[table["column"] == number], file.size), mend=True)
    mended = _proven_rows(own, names.CHECKSUM_DTYPE)
    size = names.CHECKSUM_DTYPE.itemsize
    for chunk, data in own.mended.items():
        wrong = np.frombuffer(file.read(own.chunks[chunk].offset, len(data)), names.CHECKSUM_DTYPE, len(data) // size)
        table = table[~np.isin(table.view(f"V{size}"), wrong.view(f"V{size}"))]
    return np.unique(np.concatenate([table, mended])) if own.mended else table


def columns_of(
    file: InputFile, chunks: dict[int, dict[int, Chunk]], text: bytes, *, mend: bool = False
) -> dict[int, ColumnBytes]:
    """The columns of topics; `text` is the definitions, which say how they are compressed."""
    filters = filters_of(text)
    out = {}
    for number, found in chunks.items():
        decode: Decoder | None = None
        chunk_bytes = 0
        if number in filters:
            name, chunk_bytes, itemsize = filters[number]
            decode = decoder_of(name, itemsize)
        out[number] = ColumnBytes(file, f"column {number}", found, decode, chunk_bytes, mend=mend)
    return out


def filters_of(text: bytes) -> dict[int, tuple[str, int, int]]:
    """Columns that are compressed: (filter, bytes of a whole chunk, bytes of an item), from definition lines."""
    out = {}
    for line in text.splitlines():
        if b'"filter"' in line:
            values = json.loads(line).get("column", {})
            if "filter" in values:
                out[int(values["id"])] = (str(values["filter"]), int(values["chunk_bytes"]), int(values["itemsize"]))
    return out


def _book_column(file: InputFile, name: str, chunks: dict[int, dict[int, Chunk]], *, mend: bool = False) -> ColumnBytes:
    return ColumnBytes(file, f"/{names.BOOK}/{name}", chunks.get(names.BOOK_COLUMNS[name], {}), mend=mend)


def _all(column: ColumnBytes) -> bytes:
    return column.read(0, column.size)


# JSON lines that lie whole in proven bytes
def _whole_lines(column: ColumnBytes) -> list[bytes]:
    lines: list[bytes] = []
    pending, end = b"", 0
    for offset, data in column.read_spans():
        if offset != end:
            # the line that ends here began in lost bytes
            pending, data = b"", data[data.find(b"\n") + 1 :] if b"\n" in data else b""
        *whole, pending = (pending + data).split(b"\n")
        lines += [line + b"\n" for line in whole]
        end = offset + len(data)
    return lines


def _proven_rows(column: ColumnBytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    pieces = []
    for offset, data in column.read_spans():
        skip = -offset % dtype.itemsize
        pieces.append(np.frombuffer(data, dtype, max(0, len(data) - skip) // dtype.itemsize, min(skip, len(data))))
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype)
