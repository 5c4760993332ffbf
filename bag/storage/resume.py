"""Roll forward: bring a bag whose writer died to the state of its last message.

The journal is applied, the tail is replayed through the ordinary writer, and the result becomes visible by one atomic
commit. A crash in the middle of it changes nothing: the next opening starts again from the same journal and tail.
Large frames of the tail lie in the bag file beyond its committed end; the replay writes behind them, so that they
stay as they are until it is through. (The space they took is lost: at most what came between two commits.)
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bag.errors import BagBusyError, BagError
from bag.storage import layout as names
from bag.storage.account import Account
from bag.storage.bagfile import Unfinished
from bag.storage.columns import TopicColumns
from bag.storage.definitions import channel_from, parse_definitions, schema_from
from bag.storage.disk import FileOpener, RawFile
from bag.storage.redo import apply_journal
from bag.storage.sidecars import Sidecars
from bag.storage.superblock import committed_end
from bag.storage.tail import BATCH, BATCH_KIND, NOTE, Record, decode_batch, read_tail
from bag.storage.topic import TopicWriter
from bag.storage.tree import attribute, dataset_at, node_at, open_bag_file, read_rows, table
from bag.storage.writer import BagWriter
from cortex.wire import HEADER

# what reading a record can raise when a CRC fits and yet it is none of ours
NO_RECORD = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError, struct.error)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RollForward:
    """What roll forward did: whether a journal was applied, and how many messages came back from the tail.

    `problem` says why the tail could not be taken in; it stays beside the bag, which opens as of its last commit.
    """

    journal_applied: bool
    messages: int
    problem: str = ""


def roll_forward(path: Path, opener: FileOpener = RawFile) -> RollForward | None:
    """Finish what a dead writer left; None when there was nothing to do.

    Raises:
        BagBusyError: the writer is alive.
        BagFormatError: the file is not a bag.
        BagError: nothing can be written beside the bag.
    """
    sidecars = Sidecars(path, opener)
    if not sidecars.exist():
        return None
    try:
        if not sidecars.lock():
            raise BagBusyError(f"{path} is being written by another process; wait until it is closed")
        if path.exists():
            return _finish(path, sidecars, opener)
        sidecars.remove()
        return None
    except OSError as error:
        if sidecars.is_busy():
            raise BagBusyError(f"{path} is being written by another process; wait until it is closed") from error
        raise BagError(
            f"{path} was not closed and must be brought in order first, which failed ({error}); "
            f"copy it with its .journal and .tail to where there is space and you may write"
        ) from error
    finally:
        sidecars.close()


def _finish(path: Path, sidecars: Sidecars, opener: FileOpener) -> RollForward:
    data = opener(path)
    try:
        undo = sidecars.undo
        applied = apply_journal(data, sidecars.journal, undo)
        end, commits = committed_end(data), _commits_of(path)
        reaches = [record.reach for record in read_tail(sidecars.tail, commits, end)]
        if not reaches:
            # nothing refers to what lies behind, unless somebody still reads an earlier commit; what lies behind the
            # end of the file itself was only set aside
            data.truncate(data.size() if undo.readers else end)
            sidecars.remove()
            return RollForward(applied, 0)
        try:
            return RollForward(applied, _replay(path, Unfinished(data, sidecars, end, max(reaches)), commits))
        except (BagError, *NO_RECORD, OSError, RuntimeError) as error:
            problem = f"{path} opens as of its last commit; what came later waits in its .tail ({error})"
            logger.warning("%s", problem)
            return RollForward(applied, 0, problem)
    finally:
        data.close()


def _commits_of(path: Path) -> int:
    with open_bag_file(path) as root:
        return int(attribute(node_at(root, names.BOOK), "commits", 0))


def _replay(path: Path, unfinished: Unfinished, commits: int) -> int:
    writer = BagWriter(path, resume=unfinished)
    try:
        restore(writer, commits)
        records = read_tail(unfinished.sidecars.tail, commits, unfinished.committed)
        messages = sum(_take(writer, record, unfinished.data) for record in records)
        writer.close(complete=False)
    except BaseException:
        writer.abort()
        raise
    return messages


def _take(writer: BagWriter, record: Record, data: RawFile) -> int:
    if record.kind == BATCH_KIND:
        return _take_batch(writer, record.payload, data)
    if record.kind == NOTE:
        _take_note(writer, json.loads(record.payload))
    return 0


def _take_note(writer: BagWriter, note: dict[str, Any]) -> None:
    if "channel" in note:
        schema = schema_from(note["schema"]) if "schema" in note else None
        writer.add_channel(channel_from(note["channel"]), schema)
    elif "note" in note:
        channel, kind, sequences, number, log_time_ns = note["note"]
        writer.note(channel, kind, tuple(sequences), number, log_time_ns)
    elif "expected" in note:
        topic, expected = note["expected"]
        writer.expect(topic, {int(channel): int(sequence) for channel, sequence in expected.items()})
    elif "mark" in note:
        writer.mark(*note["mark"])
    elif "clock" in note:
        writer.note_clock(*note["clock"])


def _take_batch(writer: BagWriter, payload: bytes, data: RawFile) -> int:
    channel = BATCH.unpack_from(payload)[0]
    topic = writer.channels[channel].topic.encode()
    taken = 0
    for damaged, rows in groupby(decode_batch(payload, topic, data.read_at), lambda row: None in row[2]):
        if not damaged:
            good = list(rows)
            writer.append(channel, good)
            taken += len(good)
            continue
        for log_time_ns, _mono, parts in rows:
            # only after a power cut: the frame was on its way to the disk
            sequence = HEADER.unpack_from(parts[1])[2]
            writer.note(channel, "lost_by_us", (sequence, sequence), 1, log_time_ns)
    return taken


def restore(writer: BagWriter, commits: int) -> None:
    """Bring a resumed writer to the state it had after the last commit.

    Raises:
        IntegrityError, BagFormatError: the bag is damaged.
    """
    root = writer.h5
    definitions = parse_definitions(table(root, names.DEFINITIONS, np.dtype("u1")).tobytes(), str(writer.path))
    summaries = table(root, names.TOPICS, names.TOPIC_DTYPE)
    runs = table(root, names.RUNS, names.RUN_DTYPE)
    ledger = table(root, names.LEDGER, names.LEDGER_DTYPE)
    numbers = count(definitions.next_number)
    topics = {}
    for number, (name, path) in enumerate(definitions.topics):
        own = runs[runs["topic"] == number]
        columns = definitions.columns.get(number, [])
        index = next((dataset_at(root, column.path) for column in columns if column.kind == "index"), None)
        expected = _expected(index, own, ledger[ledger["topic"] == number], definitions.expected[number])
        account = Account(number, writer.book, summaries[number], expected)
        opened = TopicColumns(writer.file, node_at(root, path), writer.book, number, numbers.__next__)
        layouts = [layout for layout in definitions.layouts.values() if layout.topic == number]
        opened.resume(columns, layouts)
        topics[name] = TopicWriter(writer.file, opened, writer.book, account)
        topics[name].resume((int(own[-1]["channel"]), int(own[-1]["layout"])) if len(own) else None)
    writer.book.checksums.resume(table(root, names.OPEN_CHUNKS, names.CHECKSUM_DTYPE))
    writer.adopt(definitions, commits, topics, numbers)


# the sequence each channel of a topic would use next: from its last message and what the ledger tells later, else as
# it was `told` when the file began
def _expected(
    index: h5py.Dataset | None, runs: NDArray[Any], ledger: NDArray[Any], told: Mapping[int, int]
) -> dict[int, int]:
    out = dict(told)
    ends: dict[int, int] = {}
    repeated = set(ledger["message"][ledger["kind"] == names.LEDGER_KINDS["repeated"]].tolist())
    if index is not None and len(runs):
        stops = [*runs["first"][1:].tolist(), index.shape[0]]
        for channel in np.unique(runs["channel"]).tolist():
            own = runs["channel"] == channel
            spans = [(int(runs["first"][at]), stops[at]) for at in np.flatnonzero(own)]
            # a repeated message says nothing of what comes next, unless there is nothing else
            numbers = (at for first, stop in reversed(spans) for at in range(stop - 1, first - 1, -1))
            last = next((at for at in numbers if at not in repeated), None)
            if last is not None:
                ends[channel] = last + 1
                out[channel] = _sequence(index, last) + 1
            else:
                out.setdefault(channel, _sequence(index, spans[0][0]) + 1)
    for row in ledger[np.isin(ledger["kind"], [names.LEDGER_KINDS[kind] for kind in names.LOST_HERE])]:
        if int(row["message"]) >= ends.get(int(row["channel"]), 0):
            out[int(row["channel"])] = int(row["last_sequence"]) + 1
    return out


def _sequence(index: h5py.Dataset, at: int) -> int:
    return int(read_rows(index, at, at + 1)[0]["sequence"])
