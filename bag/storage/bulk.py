"""Reads many rows at once: by slice or by number, as one block of memory, and no more of the file than asked for.

This is the dataset API's way into a bag. It also opens bags that lie in object storage, through a file object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import RawIOBase
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bag.errors import BagFormatError
from bag.records import BagInfo
from bag.storage import layout as names
from bag.storage.reader import BagReader
from bag.storage.topic_reader import StoredColumn, TopicReader
from bag.storage.tree import dataset_at, table

Rows = NDArray[np.int64]
# stretches of metadata closer than this are read in one go
METADATA_GAP = 64 << 10
# rows of which many or most would be read in pieces shorter than this are read whole and cut in memory
SHORT_PIECE = 256
MANY_PIECES = 16
SMALL_ROW = 4096
BLOCK_BYTES = 8 << 20
# HDF5 reads whole chunks: rows this many chunks apart are cheaper read in one go than one by one
CLUSTER_CHUNKS = 1


def read_block(column: StoredColumn, start: int, stop: int, rest: tuple[Any, ...] = ()) -> NDArray[Any]:
    """Rows start..stop-1 of a fixed column; `rest` are ints and slices for the axes behind."""
    if rest and _in_short_pieces(column, rest):
        step, inner = max(1, BLOCK_BYTES // column.spec.row_bytes), (slice(None), *rest)
        cuts = [read_block(column, at, min(at + step, stop))[inner].copy() for at in range(start, stop, step)]
        if cuts:
            return cuts[0] if len(cuts) == 1 else np.concatenate(cuts)
    key = (slice(start, stop), *rest)
    out: NDArray[Any] = column.values[key]
    return as_published(out, column.spec.dtype)


# HDF5 reads each piece of a row that lies together by itself
def _in_short_pieces(column: StoredColumn, rest: tuple[Any, ...]) -> bool:
    shape = column.spec.shape
    if Ellipsis in rest:
        at = rest.index(Ellipsis)
        rest = rest[:at] + (slice(None),) * (len(shape) - len(rest) + 1) + rest[at + 1 :]
    bytes_, pieces, together = column.values.dtype.itemsize, 1, True
    for axis in range(len(shape) - 1, -1, -1):
        part = rest[axis] if axis < len(rest) else slice(None)
        taken = len(range(*part.indices(shape[axis]))) if isinstance(part, slice) else 1
        step = part.indices(shape[axis])[2] if isinstance(part, slice) else 1
        if together and step == 1:
            bytes_ *= taken
        else:
            pieces *= taken
        together = together and taken == shape[axis]
    return bytes_ < SHORT_PIECE and (pieces > MANY_PIECES or column.spec.row_bytes <= SMALL_ROW)


def read_into(column: StoredColumn, start: int, out: NDArray[Any]) -> None:
    """Fill `out` (C order, in the dtype of the column) with the rows from `start` on."""
    if not len(out):
        return
    raw = out.view(column.values.dtype) if out.dtype != column.values.dtype else out
    if column.spec.row_bytes:
        column.values.read_direct(raw, np.s_[start : start + len(out)], np.s_[: len(out)])


def take_into(column: StoredColumn, rows: Rows, out: NDArray[Any]) -> None:
    """Fill `out` with the given rows of a fixed column (ascending, each once)."""
    for low, high in clusters(rows, gap_of(column.values)):
        first, last = int(rows[low]), int(rows[high - 1]) + 1
        if last - first == high - low:
            read_into(column, first, out[low:high])
        else:
            out[low:high] = read_block(column, first, last)[rows[low:high] - first]


def take_rows(values: h5py.Dataset, rows: Rows) -> NDArray[Any]:
    """The given rows (ascending, each once) of any dataset."""
    out = np.empty((len(rows), *values.shape[1:]), values.dtype)
    for low, high in clusters(rows, gap_of(values)):
        first = int(rows[low])
        out[low:high] = values[first : int(rows[high - 1]) + 1][rows[low:high] - first]
    return out


def gap_of(values: h5py.Dataset) -> int:
    """Rows may lie this far apart and still be read together."""
    return 1 if values.chunks is None or values.chunks[0] == 1 else int(values.chunks[0]) * CLUSTER_CHUNKS


def clusters(rows: Rows, gap: int) -> Iterator[tuple[int, int]]:
    """Ranges of positions in `rows` (ascending) whose neighbours are at most `gap` apart."""
    if not len(rows):
        return
    cuts = np.flatnonzero(np.diff(rows) > gap) + 1
    bounds = [0, *cuts.tolist(), len(rows)]
    yield from pairwise(bounds)


def arrays_of(column: StoredColumn, rows: Rows) -> list[NDArray[Any]]:
    """The arrays of the given rows (ascending) of a fixed, ragged or bytes column; neighbours share one block."""
    out: list[NDArray[Any]] = []
    for low, high in clusters(rows, 1):
        first, last = int(rows[low]), int(rows[high - 1]) + 1
        if column.offsets is None:
            out.extend(read_block(column, first, last))
        else:
            out.extend(as_published(array, column.spec.dtype) for array in column.arrays(first, last))
    return out


def as_published(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Values in the dtype that was published, which HDF5 may know under another name."""
    return values.view(dtype) if isinstance(values, np.ndarray) and values.dtype.str != dtype else values


# --- where the messages of a topic stand


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of a topic: first message, layout number, fingerprint and channel of each."""

    firsts: Rows
    layouts: Rows
    fingerprints: NDArray[np.uint64]
    channels: Rows

    def of(self, messages: Rows) -> Rows:
        """The run each message is in."""
        return np.searchsorted(self.firsts, messages, side="right").astype(np.int64) - 1


def runs_of(reader: TopicReader) -> Runs:
    """The runs of a topic, in order."""
    rows = reader._runs
    layouts = rows["layout"].astype(np.int64)
    known = {number: reader.layout(number).fingerprint for number in np.unique(layouts).tolist()}
    fingerprints = np.array([known[number] for number in layouts.tolist()], np.uint64)
    return Runs(rows["first"].astype(np.int64), layouts, fingerprints, rows["channel"].astype(np.int64))


def column_of_runs(reader: TopicReader, runs: Runs, wanted: frozenset[str]) -> Rows:
    """For each run the number of the column whose name is one of `wanted`, or -1."""
    of_layout: dict[int, int] = {}
    for number in np.unique(runs.layouts).tolist():
        layout = reader.layout(number)
        held = () if layout.columns is None else reader.columns_of(layout)
        of_layout[number] = next((column.number for column in held if column.spec.name in wanted), -1)
    return np.array([of_layout[number] for number in runs.layouts.tolist()], np.int64)


def whole_runs(reader: TopicReader, runs: Runs) -> NDArray[np.bool_]:
    """Which runs hold messages whose parts are kept together, so that they must be taken apart one by one."""
    whole = {number: reader.layout(number).columns is None for number in np.unique(runs.layouts).tolist()}
    return np.array([whole[number] for number in runs.layouts.tolist()], bool)


def rows_of(reader: TopicReader, runs: Runs, column: int, messages: Rows) -> Rows:
    """Row (or row group) of each message in a column; all messages are of runs with that column."""
    run = runs.of(messages)
    return reader._base(column)[run] + messages - runs.firsts[run]


def repeated_topics(reader: BagReader) -> list[str]:
    """Topics whose first message is marked as one that stands in an earlier file of the series, too."""
    ledger = table(reader._h5, names.LEDGER, names.LEDGER_DTYPE)
    marked = (ledger["kind"] == names.LEDGER_KINDS["repeated"]) & (ledger["message"] == 0)
    numbers = set(ledger["topic"][marked].tolist())
    return [name for name, topic in reader.topics.items() if topic.number in numbers and len(topic)]


def buffer_names(reader: TopicReader) -> tuple[str, ...]:
    """Names of all columns that hold buffers, in the order they appeared."""
    return tuple(dict.fromkeys(column.spec.name for column in reader.buffer_columns()))


# --- metadata frames


@dataclass(frozen=True, slots=True)
class MetadataBlock:
    """Metadata frames, each distinct one once.

    Frame k is `data[starts[k] : starts[k] + sizes[k]]`; message i has frame `which[i]`.
    """

    data: NDArray[np.uint8]
    starts: Rows
    sizes: Rows
    which: Rows

    def frame(self, number: int) -> bytes:
        """One frame."""
        start = int(self.starts[number])
        return self.data[start : start + int(self.sizes[number])].tobytes()


def read_index(reader: TopicReader, messages: Rows) -> NDArray[Any]:
    """Index rows of the given messages (ascending, each once)."""
    if not len(messages):
        return reader.index(0, 0)
    first, last = int(messages[0]), int(messages[-1]) + 1
    if last - first == len(messages):
        return reader.index(first, last)
    if last - first <= 4 * len(messages) + 1024:
        return reader.index(first, last)[messages - first]
    reader.index(first, first + 1)
    assert reader._index is not None
    return take_rows(reader._index, messages)


def read_metadata(reader: TopicReader, messages: Rows) -> MetadataBlock:
    """The metadata frames of the given messages (ascending, each once), none of which is kept whole."""
    index = read_index(reader, messages)
    offsets = index["metadata_offset"].astype(np.int64)
    new = np.concatenate([[True], offsets[1:] != offsets[:-1]]) if len(offsets) else np.zeros(0, bool)
    which = np.cumsum(new) - 1
    places, sizes = offsets[new], index["metadata_size"][new].astype(np.int64)
    values = reader._open(reader._path_of("metadata"))
    starts, pieces, filled = np.empty_like(places), [], 0
    ends = places + sizes
    cuts = np.flatnonzero(places[1:] - ends[:-1] > METADATA_GAP) + 1
    bounds = [0, *cuts.tolist(), len(places)] if len(places) else []
    for low, high in pairwise(bounds):
        base, end = int(places[low]), int(ends[low:high].max())
        starts[low:high] = places[low:high] - base + filled
        pieces.append(np.asarray(values[base:end]).view(np.uint8))
        filled += end - base
    data = pieces[0] if len(pieces) == 1 else np.concatenate(pieces) if pieces else np.empty(0, np.uint8)
    return MetadataBlock(data, starts, sizes, which)


def stored_bytes(reader: TopicReader, start: int, stop: int) -> int:
    """Bytes of messages start..stop-1 as received (headers, metadata, buffers), from sizes alone."""
    total = 0
    for segment in reader.segments(start, stop):
        layout, count = reader.layout(segment.layout), segment.stop - segment.start
        for column in reader.columns_of(layout):
            row = reader.row_of(column.number, segment.start)
            rows = count
            if column.offsets is not None:
                rows = int(column.offsets[row + count]) - int(column.offsets[row])
            total += rows * column.spec.row_bytes
        if layout.columns is not None:
            total += 24 * count + int(reader.index(segment.start, segment.stop)["metadata_size"].sum())
        else:
            total -= count * (4 + 8 * _parts_of(reader, segment.start))
    return total


def _parts_of(reader: TopicReader, message: int) -> int:
    return len(reader.frames(message, message + 1)[0])


# --- bags elsewhere


class RemoteBagReader(BagReader):
    """A bag in object storage, read in ranges through a file object; it must have been closed, as it cannot be mended.

    Args:
        url: its name, for messages.
        file: the open file object; it is closed with the reader.
        size: bytes of the object.

    Raises:
        BagFormatError: it is not a bag.
    """

    def __init__(self, url: str, file: RawIOBase, size: int) -> None:
        # Path() would swallow one slash of s3://; the text is only shown
        self.path = Path(url)
        self.url = url
        self.rolled_forward = None
        self._file, self._size = file, size
        try:
            self._h5 = h5py.File(file, "r")
        except OSError as error:
            raise BagFormatError(f"{url} cannot be read as HDF5 ({error})") from error
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    # a byte costs a round trip, so that HDF5 keeps what came along
    def _dataset(self, path: str) -> h5py.Dataset:
        return dataset_at(self._h5, path)

    def info(self) -> BagInfo:
        """Summary of the bag, without reading messages."""
        span = self.span_ns()
        topics = tuple(self._summary(topic) for topic in self.topics.values())
        start, duration = (None, 0) if span is None else (span[0], span[2] - span[1])
        attributes = self._h5.attrs
        return BagInfo(
            path=self.url,
            size_bytes=self._size,
            duration_ns=duration,
            start_ns=start,
            end_ns=None if start is None else start + duration,
            closed_cleanly=self.closed_cleanly,
            host=str(attributes.get("host", "")),
            description=str(attributes.get("description", "")),
            custom_data={name[7:]: str(value) for name, value in attributes.items() if name.startswith("custom.")},
            messages=sum(topic.messages for topic in topics),
            bytes=sum(topic.bytes for topic in topics),
            topics=topics,
        )

    def close(self) -> None:
        """Close the file object too."""
        super().close()
        self._file.close()
