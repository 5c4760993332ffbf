"""Writes a bag: what it is told is safe in the tail at once, and visible to any HDF5 tool after the next commit.

After `append()` returned, the messages survive the death of the process (they are in the tail, or in the bag file with
a word in the tail where). After `commit()` returned, they are in the HDF5 file, with index, account and summary; whatever
happens to the process later, the file opens. After `commit(sync=True)` they survive a power cut. `close()` only adds the
mark that the bag is complete and removes the sidecars. `abort()` leaves everything to the next opening.

    with BagWriter("run.h5") as writer:
        channel = writer.add_channel("/imu", "ImuMessage", fingerprint, "imu_node", "ipc:///tmp/cortex/topics/imu_node__imu.sock")
        writer.append(channel.id, [(log_time_ns, log_mono_ns, [b"/imu", header, metadata, buffer])])
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from bag.errors import BagBusyError, BagExistsError, UsageError
from bag.records import Channel, Schema
from bag.storage import layout as names
from bag.storage.account import Account
from bag.storage.batch import Row, batches
from bag.storage.book import Book
from bag.storage.columns import TopicColumns
from bag.storage.definitions import Definitions, channel_values, schema_values
from bag.storage.disk import FileOpener, RawFile, sync_directory
from bag.storage.groups import topic_group
from bag.storage.journal import CommitFile
from bag.storage.sidecars import Sidecars
from bag.storage.tail import Tail
from bag.storage.topic import TopicWriter

# an attribute of an HDF5 object cannot be larger
MAX_ATTRIBUTE = 60_000


class BagWriter:
    """The one who writes a bag; not safe for use from several threads at once.

    Args:
        path: the bag to create, usually `*.h5`.
        force: replace a file that is already there.
        description: free text kept with the bag.
        custom_data: names and values kept with the bag.
        keep_tail: keep what arrived since the last commit in a sidecar; needless for what can be made again.
        resume: go on in a bag that was not closed: its open file, its locked sidecars, its committed end in bytes.
        opener: how files are opened (for tests).

    Raises:
        BagExistsError: the file is there and `force` is not given.
        BagBusyError: another process is writing it.
        OSError: it cannot be created.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        force: bool = False,
        description: str = "",
        custom_data: dict[str, str] | None = None,
        keep_tail: bool = True,
        resume: tuple[RawFile, Sidecars, int] | None = None,
        opener: FileOpener = RawFile,
    ) -> None:
        self.path = Path(path)
        self.commits = 0
        self._closed = True
        self._channels: list[Channel] = []
        self._schemas: dict[int, Schema] = {}
        self._topics: dict[str, TopicWriter] = {}
        self._of_channel: list[TopicWriter] = []
        self._numbers = count(names.FIRST_COLUMN)
        self._summaries = np.zeros(0, names.TOPIC_DTYPE)
        if resume is not None:
            self._data, self._sidecars, committed = resume
            self.file = CommitFile(self._data, self._sidecars.journal, committed=committed)
            self.h5 = h5py.File(self.file, "r+", libver="earliest")
            self.book = Book(self.file, self.h5, resume=True)
            self._tail = Tail(None, 0)
        else:
            self._sidecars = _take_place(self.path, force, opener)
            self._create(opener, description, custom_data or {})
            self._tail = Tail(self._sidecars.tail if keep_tail else None, self.commits)
        self._closed = False

    def _create(self, opener: FileOpener, description: str, custom_data: dict[str, str]) -> None:
        fresh = self.path.with_name(f".{self.path.name}.new")
        fresh.unlink(missing_ok=True)
        try:
            self._data = opener(fresh, create=True)
            self.file = CommitFile(self._data, self._sidecars.journal)
            self.h5 = h5py.File(self.file, "w", libver="earliest")
            self._describe(description, custom_data)
            self.book = Book(self.file, self.h5)
            self.h5[names.BOOK].attrs["commits"] = np.uint64(0)
            self._flush(sync=False)
            # the bag appears whole, or not at all
            os.replace(fresh, self.path)
            sync_directory(self.path.parent)
        except BaseException:
            fresh.unlink(missing_ok=True)
            self._sidecars.remove()
            raise

    def adopt(self, definitions: Definitions, commits: int, topics: list[tuple[str, TopicWriter]]) -> None:
        """Take over what `resume` restored of an earlier writer."""
        self.commits = commits
        self._channels = list(definitions.channels)
        self._schemas = dict(definitions.schemas)
        self._topics = dict(topics)
        self._of_channel = [self._topics[channel.topic] for channel in self._channels]
        self._numbers = count(definitions.next_number)
        self._summaries = np.zeros(len(topics), names.TOPIC_DTYPE)

    def next_number(self) -> int:
        """A number for a new column or layout."""
        return next(self._numbers)

    # --- telling

    def add_channel(self, channel: Channel, schema: Schema | None = None) -> Channel:
        """Make a topic known, or another publisher of it; the channel comes back with its number in this bag."""
        known = self._enter(channel, schema)
        self._define_channel(known, schema)
        note: dict[str, Any] = {"channel": channel_values(known)}
        if schema is not None:
            note["schema"] = schema_values(schema)
        self._tail.note(note)
        return known

    def append(self, channel: int, rows: Sequence[Row]) -> None:
        """Store messages of one channel in the order they arrived.

        A row is (log time in wall ns, log time in monotonic ns, parts 0..N as received). Messages that no receiver would
        take (fewer than two parts, a header below 24 bytes) are counted as malformed and not stored.
        """
        topic = self._of_channel[channel]
        known = self._channels[channel]
        schema = self._schemas.get(known.fingerprint)
        for batch in batches(rows):
            if isinstance(batch, int):
                self.note(channel, "malformed", (0, 0), batch, rows[0][0])
            else:
                self._tail.batch(channel, batch, topic.append(known, schema, batch))

    def note(self, channel: int, kind: str, sequences: tuple[int, int], number: int, log_time_ns: int) -> None:
        """Account for `number` messages that will not be stored: `lost_by_us`, `throttled` or `malformed`."""
        self._of_channel[channel].account.note(kind, *sequences, number, log_time_ns)
        self._tail.note({"note": [channel, kind, list(sequences), number, log_time_ns]})

    def note_clock(self, wall_ns: int, mono_ns: int) -> None:
        """Log one pair of clock readings, so that a step of the wall clock can be seen later."""
        self.book.clock(wall_ns, mono_ns)

    def mark(self, text: str, log_time_ns: int) -> None:
        """Keep a named moment."""
        self.book.define("mark", {"text": text, "log_time_ns": log_time_ns})
        self._tail.note({"mark": [text, log_time_ns]})

    # --- reading back what stands so far

    @property
    def channels(self) -> tuple[Channel, ...]:
        """All channels, by number."""
        return tuple(self._channels)

    def account(self, channel: int) -> Account:
        """The account of the channel's topic."""
        return self._of_channel[channel].account

    # --- making it last

    def commit(self, *, sync: bool = False) -> None:
        """Make everything appended so far part of the file, atomically; with `sync` also against a power cut."""
        dirty = [topic for topic in self._topics.values() if topic.dirty]
        for topic in dirty:
            topic.settle()
        if dirty or self.book.dirty:
            self._flush(sync=sync)
            self._tail.restart(self.commits)
        elif sync:
            self._data.sync()

    def close(self, *, complete: bool = True) -> None:
        """Commit, mark the bag as closed (unless it is not `complete`) and remove the sidecars; again: nothing."""
        if self._closed:
            return
        for topic in self._topics.values():
            topic.settle()
        if complete:
            self.h5.attrs["closed"] = True
        self._flush(sync=True)
        self._closed = True
        self._release_hdf5()
        self.file.commit(sync=True)
        self._data.truncate(self.file.size)
        self._data.close()
        self._sidecars.remove()

    def abort(self) -> None:
        """Stop at once without a commit: the file stays as the last commit left it, the rest stays in the tail."""
        if self._closed:
            return
        self._closed = True
        self.file.abandon()
        # HDF5 may complain that what it reads back is not what it wrote: nothing of it matters any more
        with contextlib.suppress(OSError, RuntimeError):
            self._release_hdf5()
        self._data.close()
        self._sidecars.close()

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    # --- inside

    def _flush(self, *, sync: bool) -> None:
        for number, topic in enumerate(self._topics.values()):
            self._summaries[number] = topic.account.summary()
        self.book.settle(self._summaries)
        self.commits += 1
        self.h5[names.BOOK].attrs.modify("commits", np.uint64(self.commits))
        self.h5.flush()
        self.file.commit(sync=sync)

    def _enter(self, channel: Channel, schema: Schema | None) -> Channel:
        known = Channel(
            len(self._channels), channel.topic, channel.type_name, channel.fingerprint, channel.node, channel.address
        )
        if schema is not None:
            self._schemas[channel.fingerprint] = schema
        topic = self._topics.get(channel.topic)
        if topic is None:
            topic = self._create_topic(known, schema)
        self._channels.append(known)
        self._of_channel.append(topic)
        return known

    def _create_topic(self, channel: Channel, schema: Schema | None) -> TopicWriter:
        group = topic_group(self.h5, channel.topic)
        attributes: dict[str, str] = {
            "topic": channel.topic,
            "type": channel.type_name,
            "fingerprint": f"0x{channel.fingerprint:016x}",
            "node": channel.node,
            "address": channel.address,
            "units": "times in ns: log_time_ns and publish_time_ns since 1970-01-01 UTC, log_mono_ns monotonic",
        }
        if schema is not None:
            attributes["fields"] = ", ".join(f"{item.name}: {item.annotation}" for item in schema.fields)
        for name, value in attributes.items():
            group.attrs[name] = value[:MAX_ATTRIBUTE]
        number = len(self._topics)
        self.book.define("topic", {"id": number, "name": channel.topic, "path": group.name})
        account = Account(number, self.book)
        columns = TopicColumns(self.file, group, self.book, number, self.next_number)
        topic = TopicWriter(self.file, columns, self.book, account)
        self._topics[channel.topic] = topic
        self._summaries = np.append(self._summaries, np.zeros(1, names.TOPIC_DTYPE))
        return topic

    def _define_channel(self, channel: Channel, schema: Schema | None) -> None:
        self.book.define("channel", channel_values(channel))
        if schema is not None:
            self.book.define("schema", schema_values(schema))

    def _describe(self, description: str, custom_data: dict[str, str]) -> None:
        root = self.h5.attrs
        root["format"] = names.FORMAT_NAME
        root["format_version"] = np.array([names.FORMAT_MAJOR, names.FORMAT_MINOR], np.uint32)
        root["created_ns"] = np.int64(time.time_ns())
        root["host"] = platform.node()
        root["description"] = _checked("--description", description)
        root["closed"] = False
        for name, value in custom_data.items():
            root[f"custom.{name}"] = _checked(f"--custom-data {name}", value)

    def _release_hdf5(self) -> None:
        self._topics.clear()
        self._of_channel.clear()
        self.book.close()
        self.h5.close()


def _take_place(path: Path, force: bool, opener: FileOpener) -> Sidecars:
    if path.exists() and not force:
        raise BagExistsError(f"{path} is already there; choose another name or overwrite it with -f/--force")
    sidecars = Sidecars(path, opener)
    if not sidecars.lock():
        raise BagBusyError(f"{path} is being written by another process; choose another name")
    sidecars.journal.truncate(0)
    sidecars.tail.truncate(0)
    return sidecars


def _checked(option: str, value: str) -> str:
    if len(value.encode()) > MAX_ATTRIBUTE:
        raise UsageError(f"the value of {option} is longer than {MAX_ATTRIBUTE} bytes; keep it in a file beside the bag")
    return value
