"""Writes a bag: what it is told is safe in the tail at once, and visible to any HDF5 tool after the next commit.

After `append()` returned, the messages survive the death of the process (they are in the tail, or in the bag file
with a word in the tail where). After `commit()` returned, they are in the HDF5 file, with index, account and summary;
whatever happens to the process later, the file opens. After `commit(sync=True)` they survive a power cut, as long as
no later commit without `sync` was on its way to the disk. `close()` only adds the mark that the bag is complete and
removes the sidecars. `abort()` leaves everything to the next opening.

    with BagWriter("run.h5") as writer:
        channel = writer.add_channel(Channel(0, "/imu", "ImuMessage", fingerprint, "imu_node", address))
        writer.append(channel.id, [(log_time_ns, log_mono_ns, [b"/imu", header, metadata, buffer])])
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from bag.errors import BagBusyError, BagError, BagExistsError, UsageError
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
from cortex.wire import MessageHeader
from bag.storage.tree import MAX_TEXT, describe, node_at

NOTES = ("lost_by_us", "throttled", "malformed")


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A bag that was not closed: its open file, its locked sidecars, its committed end and what lies behind (bytes)."""

    data: RawFile
    sidecars: Sidecars
    committed: int
    reserved: int


class BagWriter:
    """The one who writes a bag; not safe for use from several threads at once.

    After an error of the disk, or any other while something was half written, only `abort` is possible.

    Args:
        path: the bag to create, usually `*.h5`.
        force: replace a file that is already there.
        description: free text kept with the bag.
        custom_data: names and values kept with the bag.
        keep_tail: keep what arrived since the last commit in a sidecar; needless for what can be made again.
        resume: go on in a bag that was not closed (for roll forward).
        opener: how files are opened (for tests).

    Raises:
        BagExistsError: the file is there and `force` is not given.
        BagBusyError: another process is writing it.
        UsageError: a text cannot be kept.
        OSError: it cannot be created.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        force: bool = False,
        description: str = "",
        custom_data: Mapping[str, str] | None = None,
        keep_tail: bool = True,
        resume: Unfinished | None = None,
        opener: FileOpener = RawFile,
    ) -> None:
        self.path = Path(path)
        self.commits = 0
        self._closed = False
        self._failure: BaseException | None = None
        self._channels: list[Channel] = []
        self._schemas: dict[int, Schema] = {}
        self._topics: dict[str, TopicWriter] = {}
        self._of_channel: list[TopicWriter] = []
        self._numbers: Iterator[int] = count(names.FIRST_COLUMN)
        if resume is not None:
            self._data, self._sidecars = resume.data, resume.sidecars
            self.file = CommitFile(
                self._data, self._sidecars.journal, committed=resume.committed, reserved=resume.reserved
            )
            self.h5 = h5py.File(self.file, "r+", libver="earliest")
            self.book = Book(self.file, node_at(self.h5, names.BOOK), resume=True)
            self._tail = Tail(None, 0, 0)
        else:
            texts = _checked_texts(description, custom_data or {})
            self._sidecars = _take_place(self.path, force, opener)
            try:
                self._create(opener, texts)
                self._tail = Tail(self._sidecars.tail if keep_tail else None, self.commits, self.file.committed)
            except BaseException:
                self._give_up_place()
                raise

    def _create(self, opener: FileOpener, texts: Mapping[str, str]) -> None:
        fresh = self.path.with_name(f".{self.path.name}.new")
        fresh.unlink(missing_ok=True)
        try:
            self._data = opener(fresh, create=True)
            self.file = CommitFile(self._data, self._sidecars.journal)
            self.h5 = h5py.File(self.file, "w", libver="earliest")
            self._describe(texts)
            self.book = Book(self.file, self.h5.create_group(names.BOOK))
            self.h5[names.BOOK].attrs["commits"] = np.uint64(0)
            self._flush(sync=True)
            # the bag appears whole, or not at all; a replaced one is gone before its sidecars are emptied
            self.path.unlink(missing_ok=True)
            self._sidecars.empty()
            os.replace(fresh, self.path)
            self._data.path = self.path
            sync_directory(self.path.parent)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise

    def adopt(
        self, definitions: Definitions, commits: int, topics: Mapping[str, TopicWriter], numbers: Iterator[int]
    ) -> None:
        """Take over what `resume` restored of an earlier writer."""
        self.commits = commits
        self._channels = list(definitions.channels)
        self._schemas = dict(definitions.schemas)
        self._topics = dict(topics)
        self._of_channel = [self._topics[channel.topic] for channel in self._channels]
        self._numbers = numbers

    # --- telling

    def add_channel(self, channel: Channel, schema: Schema | None = None) -> Channel:
        """Make a topic known, or another publisher of it; the channel comes back with its number in this bag.

        Raises:
            UsageError: the topic cannot be written as UTF-8.
        """
        try:
            channel.topic.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"topic {channel.topic!r} is not text that can be sent ({error.reason})") from error
        with self._writing():
            known = Channel(
                len(self._channels),
                channel.topic,
                channel.type_name,
                channel.fingerprint,
                channel.node,
                channel.address,
            )
            topic = self._topics.get(known.topic) or self._create_topic(known, schema)
            self._channels.append(known)
            self._of_channel.append(topic)
            self.book.define("channel", channel_values(known))
            note: dict[str, Any] = {"channel": channel_values(known)}
            if schema is not None:
                self._schemas[schema.fingerprint] = schema
                self.book.define("schema", schema_values(schema))
                note["schema"] = schema_values(schema)
            self._tail.note(note)
        return known

    def append(self, channel: int, rows: Sequence[Row]) -> None:
        """Store messages of one channel in the order they arrived.

        A row is (log time in wall ns, log time in monotonic ns, parts 0..N as received). Messages that no receiver
        would take (fewer than two parts, a header below 24 bytes) are counted as malformed and not stored.
        """
        topic, known = self._known(channel)
        with self._writing():
            for batch in batches(rows):
                if isinstance(batch, int):
                    self._note(channel, "malformed", (0, 0), batch, rows[0][0])
                else:
                    placed = topic.append(known, self._schemas.get(batch.fingerprint), batch)
                    self._tail.batch(channel, batch, placed)

    def note(self, channel: int, kind: str, sequences: tuple[int, int], number: int, log_time_ns: int) -> None:
        """Account for `number` messages that will not be stored: `lost_by_us`, `throttled` or `malformed`."""
        if kind not in NOTES:
            raise UsageError(f"{kind!r} is no kind of loss; it can be one of {', '.join(NOTES)}")
        self._known(channel)
        with self._writing():
            self._note(channel, kind, sequences, number, log_time_ns)

    def repeat(self, channel: int, row: Row) -> None:
        """Store once more a message that stands in an earlier file of the series already."""
        sequence = MessageHeader.from_bytes(bytes(row[2][1])).sequence
        self.note(channel, "repeated", (sequence, sequence), 1, row[0])
        self.append(channel, [row])

    def is_at_its_path(self) -> bool:
        """Whether the bag still is where it was created."""
        return self._data.is_at_its_path()

    def note_clock(self, wall_ns: int, mono_ns: int) -> None:
        """Log one pair of clock readings, so that a step of the wall clock can be seen later."""
        with self._writing():
            self.book.clock(wall_ns, mono_ns)
            self._tail.note({"clock": [wall_ns, mono_ns]})

    def mark(self, text: str, log_time_ns: int) -> None:
        """Keep a named moment."""
        with self._writing():
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
        with self._writing():
            if self.book.dirty or any(topic.dirty for topic in self._topics.values()):
                self._flush(sync=sync)
                self._tail.restart(self.commits, self.file.committed)
            elif sync:
                self._data.sync()

    def close(self, *, complete: bool = True) -> None:
        """Commit, mark the bag as closed (unless it is not `complete`) and remove the sidecars; again: nothing."""
        if self._closed:
            return
        with self._writing():
            if complete:
                self.h5.attrs["closed"] = True
            self._flush(sync=True)
            self._release_hdf5()
            self.file.commit(sync=True)
            self._data.truncate(self.file.size)
            self._closed = True
        self._data.close()
        self._sidecars.remove()

    def abort(self) -> None:
        """Stop at once without a commit: the file stays as the last commit left it, the rest stays in the tail."""
        if self._closed:
            return
        self._closed = True
        self.file.abandon()
        try:
            self._release_hdf5()
        finally:
            self._data.close()
            self._sidecars.close()

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    # --- inside

    def _known(self, channel: int) -> tuple[TopicWriter, Channel]:
        if self._closed:
            raise BagError(f"{self.path} was closed; nothing can be written to it any more")
        if not 0 <= channel < len(self._channels):
            raise UsageError(f"{self.path} has {len(self._channels)} channels, there is no channel {channel}")
        return self._of_channel[channel], self._channels[channel]

    # what was interrupted half way must not be committed, whatever interrupted it
    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        if self._closed:
            raise BagError(f"{self.path} was closed; nothing can be written to it any more")
        if self._failure is not None:
            raise BagError(f"{self.path} cannot be written since an earlier error ({self._failure}); abort it")
        try:
            yield
            self.file.check()
        except BaseException as error:
            self._failure = error
            self.file.abandon()
            raise

    def _note(self, channel: int, kind: str, sequences: tuple[int, int], number: int, log_time_ns: int) -> None:
        self._of_channel[channel].account.note(channel, kind, sequences, number, log_time_ns)
        self._tail.note({"note": [channel, kind, list(sequences), number, log_time_ns]})

    def _flush(self, *, sync: bool) -> None:
        summaries = np.zeros(len(self._topics), names.TOPIC_DTYPE)
        for number, topic in enumerate(self._topics.values()):
            topic.settle()
            summaries[number] = topic.account.summary()
        self.book.settle(summaries)
        self.commits += 1
        self.h5[names.BOOK].attrs.modify("commits", np.uint64(self.commits))
        self.h5.flush()
        self.file.commit(sync=sync)

    def _create_topic(self, channel: Channel, schema: Schema | None) -> TopicWriter:
        group = topic_group(self.h5, channel.topic)
        describe(
            group,
            topic=channel.topic,
            type=channel.type_name,
            fingerprint=f"0x{channel.fingerprint:016x}",
            node=channel.node,
            address=channel.address,
        )
        if schema is not None:
            describe(group, fields=", ".join(f"{item.name}: {item.annotation}" for item in schema.fields))
        number = len(self._topics)
        self.book.define("topic", {"id": number, "name": channel.topic, "path": group.name})
        columns = TopicColumns(self.file, group, self.book, number, self._numbers.__next__)
        topic = TopicWriter(self.file, columns, self.book, Account(number, self.book))
        self._topics[channel.topic] = topic
        return topic

    def _describe(self, texts: Mapping[str, str]) -> None:
        root = self.h5.attrs
        root["format_version"] = np.array([names.FORMAT_MAJOR, names.FORMAT_MINOR], np.uint32)
        root["created_ns"] = np.int64(time.time_ns())
        root["closed"] = False
        describe(self.h5, format=names.FORMAT_NAME, host=platform.node(), **texts)

    def _give_up_place(self) -> None:
        # the bag that was to be replaced may still need its sidecars
        if self.path.exists() and self._sidecars.in_use():
            self._sidecars.close()
        else:
            self._sidecars.remove()

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
    return sidecars


def _checked_texts(description: str, custom_data: Mapping[str, str]) -> dict[str, str]:
    texts = {"description": description}
    for name, value in custom_data.items():
        if not name or "\0" in name or len(name) > names.MAX_LINK_BYTES:
            raise UsageError(f"--custom-data cannot have the name {name!r}; use 1 to {names.MAX_LINK_BYTES} characters")
        texts[f"custom.{name}"] = value
    for name, value in texts.items():
        if len(value) > MAX_TEXT:
            raise UsageError(f"{name} is longer than {MAX_TEXT} characters; keep it in a file beside the bag")
    return texts
