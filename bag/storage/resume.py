"""Roll forward: bring a bag whose writer died to the state of its last message.

The journal is applied, the tail is replayed through the ordinary writer, and the result becomes visible by one atomic
commit. A crash in the middle of it changes nothing: the next opening starts again from the same journal and tail.
Large frames of the tail lie in the bag file beyond its committed end, where the replay itself writes; they
are copied to the spill first.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bag.errors import BagBusyError
from bag.storage import layout as names
from bag.storage.account import Account
from bag.storage.columns import TopicColumns
from bag.storage.definitions import Definitions, channel_from, parse_definitions, schema_from
from bag.storage.disk import FileOpener, RawFile
from bag.storage.journal import apply_journal, committed_end
from bag.storage.sidecars import Sidecars
from bag.storage.tail import BATCH, NOTE, decode_batch, read_tail
from bag.storage.topic import TopicWriter
from bag.storage.writer import BagWriter

# magic, commits of the bag, committed end in bytes
SPILL = struct.Struct("<8sQQ")
SPILL_MAGIC = b"CXSPILL1"
COPY_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class RollForward:
    """What roll forward did: whether a journal was applied, and how many messages came back from the tail."""

    journal_applied: bool
    messages: int


def roll_forward(path: Path, opener: FileOpener = RawFile) -> RollForward | None:
    """Finish what a dead writer left; None when there was nothing to do.

    Raises:
        BagBusyError: the writer is alive.
        BagFormatError: the file is not a bag.
        OSError: the disk refuses (full, read-only).
    """
    sidecars = Sidecars(path, opener)
    if not sidecars.exist():
        return None
    if not sidecars.lock():
        raise BagBusyError(f"{path} is being written by another process; wait until it is closed")
    try:
        if not path.exists():
            sidecars.remove()
            return None
        data = opener(path)
        try:
            applied = apply_journal(data, sidecars.journal)
            messages = _replay(path, data, sidecars, committed_end(data, path))
        finally:
            data.close()
        sidecars.remove()
        return RollForward(applied, messages)
    finally:
        sidecars.close()


def _replay(path: Path, data: RawFile, sidecars: Sidecars, end: int) -> int:
    writer = BagWriter(path, resume=(data, sidecars, end))
    try:
        restore(writer)
        records = read_tail(sidecars.tail, writer.commits)
        spill: RawFile | None = None
        messages = 0
        for kind, payload in records:
            if spill is None:
                spill = _spill(data, sidecars, writer.commits, end)
            if kind == NOTE:
                _take_note(writer, json.loads(payload))
            else:
                messages += _take_batch(writer, payload, spill, end)
        writer.close(complete=False)
    except BaseException:
        writer.abort()
        raise
    return messages


def _spill(data: RawFile, sidecars: Sidecars, commits: int, end: int) -> RawFile:
    spill = sidecars.spill()
    head = SPILL.pack(SPILL_MAGIC, commits, end)
    # a head that fits was written last, by a recovery that was itself interrupted: the copy is whole
    if spill.read_at(0, SPILL.size) == head:
        return spill
    spill.truncate(0)
    size = data.size()
    for at in range(end, size, COPY_BYTES):
        spill.write_at(SPILL.size + at - end, data.read_at(at, min(COPY_BYTES, size - at)))
    spill.sync()
    spill.write_at(0, head)
    return spill


def _take_note(writer: BagWriter, note: dict[str, Any]) -> None:
    if "channel" in note:
        schema = schema_from(note["schema"]) if "schema" in note else None
        writer.add_channel(channel_from(note["channel"]), schema)
    elif "note" in note:
        channel, kind, sequences, number, log_time_ns = note["note"]
        writer.note(channel, kind, tuple(sequences), number, log_time_ns)
    elif "mark" in note:
        writer.mark(*note["mark"])


def _take_batch(writer: BagWriter, payload: bytes, spill: RawFile, end: int) -> int:
    topic = writer.channels[BATCH.unpack_from(payload)[0]].topic.encode()
    channel, rows = decode_batch(payload, topic, lambda offset, size: spill.read_at(SPILL.size + offset - end, size))
    writer.append(channel, rows)
    return len(rows)


def restore(writer: BagWriter) -> None:
    """Bring a resumed writer to the state it had after the last commit."""
    root = writer.h5
    book = root[names.BOOK]
    definitions = parse_definitions(book[names.DEFINITIONS][()].tobytes(), str(writer.path))
    runs = book[names.RUNS][()]
    summaries = book[names.TOPICS][()]
    topics = []
    for number, (name, group) in enumerate(definitions.topics):
        account = Account(number, writer.book, summaries[number])
        topics.append((name, _restore_topic(writer, root[group], definitions, account, runs)))
    writer.adopt(definitions, int(book.attrs["commits"]), topics)


def _restore_topic(
    writer: BagWriter, group: h5py.Group, definitions: Definitions, account: Account, runs: Any
) -> TopicWriter:
    number = account.topic
    columns = TopicColumns(writer.file, group, writer.book, number, writer.next_number)
    layouts = [layout for layout in definitions.layouts.values() if layout.topic == number]
    columns.resume(definitions.columns.get(number, []), layouts)
    topic = TopicWriter(writer.file, columns, writer.book, account)
    own = np.flatnonzero(runs["topic"] == number)
    if columns.index is not None and columns.metadata is not None and len(own):
        last = runs[own[-1]]
        account.continues(int(last["channel"]))
        topic.resume(columns.index.count, (int(last["channel"]), int(last["layout"])), columns.metadata.count)
    return topic
