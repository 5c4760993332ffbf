"""Checks a bag against itself: every CRC, every count, every index, and the ledger against the sequence numbers.

Three things must agree: what HDF5 says (datasets, chunk addresses), what the book says (definitions, runs, summaries,
checksums), and what the bytes say. Nothing is changed, and memory is bounded whatever the size of the bag.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bag.errors import BagError, IntegrityError
from bag.storage import layout as names
from bag.storage.account import FIELDS
from bag.storage.chunks import ColumnBytes, chunks_of
from bag.storage.damage import reading
from bag.storage.definitions import ColumnDefinition
from bag.storage.proven import BOOK_DTYPES, ProvenBag, checksums_of, open_proven
from bag.storage.reader import BagReader
from bag.storage.replay import BLOCK_ROWS, WORKED_OUT, Row, replay, stated_rows
from bag.storage.topic_reader import COUNT, TopicReader
from bag.storage.tree import dataset_at, open_bag_file

# of many problems of one sort, so many are told
MAX_TOLD = 5
COUNTED = (
    "messages",
    "bytes",
    "last_sequence",
    "published_before_join",
    "lost_before_us",
    "lost_by_us",
    "throttled",
    "paused",
    "restarts",
    "malformed",
    "gaps",
)
SPANS = tuple(f"{end}_{clock}_ns" for clock in ("log", "publish", "mono") for end in ("first", "last"))


@dataclass(frozen=True, slots=True)
class TopicVerdict:
    """What was found in one topic; `problems` are sentences, none means whole."""

    topic: str
    messages: int
    bytes: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found in a bag. `problems` are those of the bag itself, not of one topic."""

    path: str
    closed_cleanly: bool
    chunks: int
    bytes_checked: int
    topics: tuple[TopicVerdict, ...]
    problems: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not any(topic.problems for topic in self.topics)


def verify(path: str | Path) -> VerifyReport:
    """Check a bag; one whose recorder died is brought to its last message first, as by any opening.

    Raises:
        FileNotFoundError, BagFormatError, BagBusyError, IntegrityError: it cannot be opened at all.
    """
    path = Path(path)
    with reading(path), BagReader(path) as reader:
        closed = reader.closed_cleanly
        counts = {name: len(topic) for name, topic in reader.topics.items()}
    problems = _Problems()
    try:
        bag = open_proven(path)
    except IntegrityError as error:
        topics = tuple(TopicVerdict(name, count, 0, ()) for name, count in counts.items())
        return VerifyReport(str(path), closed, 0, 0, topics, (str(error),))
    with bag, reading(path), open_bag_file(path, bag.snapshot) as root:
        check = _Check(root, bag)
        check.book(problems)
        verdicts = tuple(check.topic(name) for name in bag.topics)
        return VerifyReport(str(path), closed, check.chunks, check.bytes, verdicts, problems.told())


class _Problems:
    """Collects sentences; of one sort only the first few."""

    def __init__(self) -> None:
        self._sorts: dict[str, list[str]] = {}

    def add(self, sort: str, sentence: str) -> None:
        self._sorts.setdefault(sort, []).append(sentence)

    def told(self) -> tuple[str, ...]:
        out: list[str] = []
        for sort, sentences in self._sorts.items():
            out += sentences[:MAX_TOLD]
            if len(sentences) > MAX_TOLD:
                out.append(f"and {len(sentences) - MAX_TOLD} more of the sort: {sort}")
        return tuple(out)


class _Check:
    """Goes through one open bag and counts what it has read."""

    def __init__(self, root: h5py.File, bag: ProvenBag) -> None:
        self.chunks = 0
        self.bytes = 0
        self._root = root
        self._bag = bag
        self._table = _table_columns(root, bag)

    # --- the book

    def book(self, problems: _Problems) -> None:
        """Check the tables of the book, as HDF5 has them, against the checksums."""
        for name, number in names.BOOK_COLUMNS.items():
            if name == names.CHECKSUMS:
                continue
            column = self._table.get(number, ColumnBytes(self._bag.file, name, {}))
            dataset = dataset_at(self._root, f"/{names.BOOK}/{name}")
            self._column(f"/{names.BOOK}/{name}", dataset, column, problems)
            if name in BOOK_DTYPES and dataset.dtype != BOOK_DTYPES[name]:
                problems.add("dtype", f"/{names.BOOK}/{name} has another dtype than it should")
        if int((self._bag.ledger["topic"] >= len(self._bag.definitions.topics)).sum()):
            problems.add("ledger", "the ledger speaks of topics that the bag does not define")

    # --- one topic

    def topic(self, name: str) -> TopicVerdict:
        """Check one topic."""
        topic, problems = self._bag.topics[name], _Problems()
        before = self.bytes
        for item in self._bag.definitions.columns.get(topic.number, []):
            try:
                with reading(self._bag.path):
                    self._topic_column(item, problems)
            except BagError as error:
                problems.add("column", str(error))
        if not problems.told():
            try:
                with reading(self._bag.path):
                    self._messages(topic, problems)
            except BagError as error:
                problems.add("messages", str(error))
        self._bag.forget()
        return TopicVerdict(name, len(topic), self.bytes - before, problems.told())

    def _topic_column(self, item: ColumnDefinition, problems: _Problems) -> None:
        dataset = dataset_at(self._root, item.path)
        proven = self._bag.dataset_at(item.path)
        if dataset.dtype != proven.dtype or dataset.shape[1:] != proven.shape[1:]:
            problems.add("dtype", f"{item.path} has another dtype or shape than the bag defines")
            return
        self._column(item.path, dataset, proven.column, problems)

    def _column(self, path: str, dataset: h5py.Dataset, column: ColumnBytes, problems: _Problems) -> None:
        rows, row_bytes = _chunk_rows(dataset), _row_bytes(dataset)
        # what the table proves, per chunk, from the chunk's first byte on
        proven: dict[int, int] = {}
        for number, (low, high) in column.proven():
            base = number * column.chunk_bytes
            if low == base:
                proven[number] = high - base
        used = -(-dataset.shape[0] // rows) if rows else 0
        raw = (1 << dataset.id.get_create_plist().get_nfilters()) - 1
        seen = 0
        for number, offset, stored, mask in _chunks_in_hdf5(dataset, rows):
            chunk = column.chunks.get(number)
            needed = min(rows, dataset.shape[0] - number * rows) * row_bytes
            if needed <= 0:
                continue
            seen += 1
            if chunk is None:
                problems.add("no checksum", f"chunk {number} of {path} has no checksum")
            elif chunk.offset != offset:
                problems.add(
                    "place", f"chunk {number} of {path} lies at byte {offset}, but its checksum is of {chunk.offset}"
                )
            elif mask != (0 if chunk.packed else raw) or (chunk.packed and stored != chunk.size):
                problems.add("packed", f"chunk {number} of {path} is not packed as its checksum says")
            elif not chunk.packed and chunk.size < needed:
                problems.add("no checksum", f"the end of chunk {number} of {path} has no checksum")
            elif proven.get(number, 0) < needed:
                problems.add("CRC", f"chunk {number} of {path} (at byte {offset}) is damaged: its CRC does not hold")
            self.chunks += 1
            self.bytes += chunk.size if chunk is not None else 0
        if seen < used:
            problems.add("missing", f"{path} lacks {used - seen} of {used} chunks")

    # --- the messages of a topic

    def _messages(self, topic: TopicReader, problems: _Problems) -> None:
        stated = topic.summary
        count = len(topic)
        if count == 0 and not any(item.kind == "index" for item in self._bag.definitions.columns.get(topic.number, [])):
            self._ledger(topic, 0, problems)
            return
        self._runs(topic, problems)
        if problems.told():
            return
        nbytes = 24 * count + self._index(topic, problems)
        for item in self._bag.definitions.columns.get(topic.number, []):
            if item.kind == "index" and dataset_at(self._root, item.path).shape[0] != count:
                problems.add("count", f"{item.path} does not have the {count} rows that the summary says")
            elif item.spec is not None:
                nbytes += self._buffers(topic, item, problems)
        if not problems.told():
            self._ledger(topic, nbytes, problems)
        if int(stated["messages"]) != count:
            problems.add("count", "the summary is not of this topic")

    def _runs(self, topic: TopicReader, problems: _Problems) -> None:
        runs = self._bag.runs_of(topic.number)
        firsts = runs["first"].astype(np.int64)
        if not len(topic):
            return
        if not len(runs) or firsts[0] != 0 or (np.diff(firsts) <= 0).any() or firsts[-1] >= len(topic):
            problems.add("runs", "the table of runs does not divide the messages of the topic")
            return
        for run in runs.tolist():
            topic.layout(run[2])
            if run[1] >= len(self._bag.definitions.channels):
                problems.add("runs", f"the table of runs speaks of channel {run[1]}, which the bag does not define")

    # bytes of metadata of all messages
    def _index(self, topic: TopicReader, problems: _Problems) -> int:
        last = np.iinfo(np.int64).min
        end, total = self._bag.dataset_at(topic._path_of("metadata")).column.size, 0
        for segment, start, stop in _blocks(topic):
            index = topic.index(start, stop)
            mono = index["log_mono_ns"]
            if int(mono[0]) < last or (np.diff(mono) < 0).any():
                problems.add("order", f"the monotonic times of messages {start}..{stop - 1} go back")
            last = int(mono[-1])
            if topic.layout(segment.layout).columns is None:
                continue
            ends = index["metadata_offset"] + index["metadata_size"]
            if (ends < index["metadata_offset"]).any() or int(ends.max()) > end:
                problems.add("metadata", f"messages {start}..{stop - 1} refer to metadata that is not there")
            total += int(index["metadata_size"].sum(dtype=np.int64))
        return total

    # bytes of one column that belong to messages
    def _buffers(self, topic: TopicReader, item: ColumnDefinition, problems: _Problems) -> int:
        lengths = np.diff(topic._runs["first"].astype(np.int64), append=len(topic))
        holds = [topic._holds(int(number), item.number) for number in topic._runs["layout"]]
        count = int(lengths[np.array(holds, bool)].sum()) if len(lengths) else 0
        rows = dataset_at(self._root, item.path).shape[0]
        spec = item.spec
        assert spec is not None
        if spec.kind == "fixed":
            if rows != count:
                problems.add("count", f"{item.path} has {rows} rows for {count} messages")
            return count * spec.row_bytes
        offsets = self._bag.dataset_at(item.path + names.OFFSETS_SUFFIX)
        stated = dataset_at(self._root, item.path + names.OFFSETS_SUFFIX).shape[0]
        if stated != count + 1:
            problems.add("count", f"{item.path} has offsets for {stated - 1} of {count} messages")
            return 0
        last, whole = 0, 0
        for at in range(0, count + 1, BLOCK_ROWS):
            ends = offsets[at : min(at + BLOCK_ROWS, count + 1)].astype(np.int64)
            if int(ends[0]) < last or (np.diff(ends) < 0).any() or (at == 0 and int(ends[0]) != 0):
                problems.add("offsets", f"the offsets of {item.path} go back")
                return 0
            last = int(ends[-1])
        if last != rows:
            problems.add("offsets", f"the offsets of {item.path} end at row {last} of {rows}")
            return 0
        if spec.name == names.FRAMES:
            whole = self._envelopes(item, offsets, count)
        return last * spec.row_bytes - whole

    # what parts that are kept together take beside themselves, and the 24 bytes that are counted per message
    def _envelopes(self, item: ColumnDefinition, offsets: Any, count: int) -> int:
        values, total = self._bag.dataset_at(item.path), 0
        for at in range(0, count, BLOCK_ROWS):
            starts = offsets[at : min(at + BLOCK_ROWS, count)].astype(np.int64).tolist()
            for start in starts:
                (parts,) = COUNT.unpack(values.raw(start, start + COUNT.size))
                total += COUNT.size + 8 * parts + 24
        return total

    def _ledger(self, topic: TopicReader, nbytes: int, problems: _Problems) -> None:
        ledger = self._bag.ledger_of(topic.number)
        account, rows = replay(topic, ledger, self._bag.definitions.expected.get(topic.number, {}))
        stated = [row for row in stated_rows(ledger) if row.kind in WORKED_OUT]
        worked_out = [row for row in rows if row.kind in WORKED_OUT]
        for row in sorted(set(worked_out) - set(stated), key=lambda row: row.message):
            problems.add("ledger", f"the ledger lacks {_told(row)}")
        for row in sorted(set(stated) - set(worked_out), key=lambda row: row.message):
            problems.add("ledger", f"the ledger has {_told(row)}, which the sequence numbers do not bear out")
        account.counts["bytes"] = nbytes
        summary = dict(zip(FIELDS, account.summary(), strict=True))
        spans = SPANS if len(topic) else ()
        for field in (*COUNTED, *spans):
            if field in (topic.summary.dtype.names or ()) and summary[field] != int(topic.summary[field]):
                found, wanted = summary[field], int(topic.summary[field])
                problems.add("summary", f"the summary says {field} = {wanted}, the messages say {found}")


def _told(row: Row) -> str:
    return f"{row.kind} {row.first}..{row.last} ({row.number}) at message {row.message}"


def _blocks(topic: TopicReader) -> Iterator[tuple[Any, int, int]]:
    for segment in topic.segments(0, len(topic)):
        for at in range(segment.start, segment.stop, BLOCK_ROWS):
            yield segment, at, min(at + BLOCK_ROWS, segment.stop)


def _table_columns(root: h5py.File, bag: ProvenBag) -> dict[int, ColumnBytes]:
    table = checksums_of(root)
    book = table[table["column"] < names.FIRST_COLUMN]
    return {
        number: ColumnBytes(bag.file, f"column {number}", chunks)
        for number, chunks in chunks_of(book, bag.file.size).items()
    }


def _row_bytes(dataset: h5py.Dataset) -> int:
    return int(dataset.dtype.itemsize * int(np.prod(dataset.shape[1:], dtype=np.int64)))


def _chunk_rows(dataset: h5py.Dataset) -> int:
    return int(dataset.chunks[0]) if dataset.chunks else 0


# (chunk number, byte offset, stored bytes, filters it did not pass) of all chunks, as HDF5 has them
def _chunks_in_hdf5(dataset: h5py.Dataset, rows: int) -> list[tuple[int, int, int, int]]:
    out: list[tuple[int, int, int, int]] = []
    if rows:
        dataset.id.chunk_iter(
            lambda info: out.append((info.chunk_offset[0] // rows, info.byte_offset, info.size, info.filter_mask))
        )
    return sorted(out)
