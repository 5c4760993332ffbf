"""Writes a bag: what it is told is safe in the tail at once, and visible to any HDF5 tool after the next commit.

After `append()` returned, the messages survive the death of the process (they are in the tail, or in the bag file
with a word in the tail where). After `commit()` returned, they are in the HDF5 file, with index, account and summary;
whatever happens to the process later, the file opens. After `commit(sync=True)` they survive a power cut, as long as
the kernel wrote nothing of later commits by itself. `close()` only adds the mark that the bag is complete and
removes the sidecars. `abort()` leaves everything to the next opening.

    with BagWriter("run.h5") as writer:
        channel = writer.add_channel(Channel(0, "/imu", "ImuMessage", fingerprint, "imu_node", address))
        writer.append(channel.id, [(log_time_ns, log_mono_ns, [b"/imu", header, metadata, buffer])])
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from bag.errors import BagError, UsageError
from bag.records import Channel, Schema
from bag.storage import layout as names
from bag.storage.account import REMARKS, Account
from bag.storage.bagfile import Unfinished, checked_texts, create_bag, resume_bag
from bag.storage.batch import Row, batches
from bag.storage.columns import TopicColumns
from bag.storage.commits import Commits
from bag.storage.compressor import Compressor
from bag.storage.definitions import Definitions, channel_values, schema_values
from bag.storage.disk import FileOpener, RawFile
from bag.storage.groups import topic_group
from bag.storage.live import ChunkQueue
from bag.storage.new_topics import NewTopics
from bag.storage.tail import Tail
from bag.storage.topic import TopicWriter
from bag.storage.tree import describe
from cortex.wire import MessageHeader

NOTES = (*names.LOST_HERE, *REMARKS)


class BagWriter:
    """The one who writes a bag; not safe for use from several threads at once.

    After an error of the disk, or any other while something was half written, only `abort` is possible.

    Args:
        path: the bag to create, usually `*.h5`.
        force: replace a file that is already there.
        description: free text kept with the bag.
        custom_data: names and values kept with the bag.
        keep_tail: keep what arrived since the last commit in a sidecar; needless for what can be made again.
        compressor: compresses what is written; raw where it lags.
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
        compressor: Compressor | None = None,
        resume: Unfinished | None = None,
        opener: FileOpener = RawFile,
    ) -> None:
        self.path = Path(path)
        self._closed = False
        self._failure: BaseException | None = None
        self._channels: list[Channel] = []
        self._schemas: dict[int, Schema] = {}
        self._topics: dict[str, TopicWriter] = {}
        self._of_channel: list[TopicWriter] = []
        self._new_topics = NewTopics()
        self._numbers: Iterator[int] = count(names.FIRST_COLUMN)
        if resume is not None:
            self._bag = resume_bag(resume)
            self._tail = Tail(None, 0, 0)
        else:
            texts = checked_texts(description, custom_data or {})
            self._bag = create_bag(self.path, texts, opener, force=force)
            sidecar = self._bag.sidecars.tail if keep_tail else None
            self._tail = Tail(sidecar, self._bag.commits, self._bag.file.committed)
        self.file, self.h5, self.book = self._bag.file, self._bag.h5, self._bag.book
        self._queue = ChunkQueue(compressor) if compressor is not None else None
        if self._queue is not None:
            describe(self.h5, compression=self._queue.filter[0])
        self._commits = Commits(self._bag, self._tail, self._topics, self._queue)

    def adopt(
        self, definitions: Definitions, commits: int, topics: Mapping[str, TopicWriter], numbers: Iterator[int]
    ) -> None:
        """Take over what `resume` restored of an earlier writer."""
        # the next one is none that the earlier writer may have begun, and that its tail goes on from
        self._bag.commits = commits + 1
        self._channels = list(definitions.channels)
        self._schemas = dict(definitions.schemas)
        self._topics.update(topics)
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
            # a topic that is created now would be in this commit, but not its definition
            self._commits.finish()
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

        A row is (log time in wall ns, log time in monotonic ns, parts 0..N as received); the parts are kept until the
        next commit, and must not change. Messages that no receiver would take (fewer than two parts, a header below 24
        bytes) are counted as malformed and not stored.
        """
        topic, known = self._known(channel)
        with self._writing():
            for batch in batches(rows):
                if isinstance(batch, int):
                    self._note(channel, "malformed", (0, 0), batch, rows[0][0])
                else:
                    placed = topic.append(known, self._schemas.get(batch.fingerprint), batch)
                    self._tail.batch(channel, batch, placed)
                    self._commits.appended(batch)
            if self._queue is not None:
                self._queue.collect()

    def note(self, channel: int, kind: str, sequences: tuple[int, int], number: int, log_time_ns: int) -> None:
        """Account for `number` messages that will not be stored: `lost_by_us`, `throttled`, `paused` or `malformed`.

        `silent` and `repeated` say something of the topic at this moment.
        """
        if kind not in NOTES:
            raise UsageError(f"{kind!r} cannot be noted; it can be one of {', '.join(NOTES)}")
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
        return self._bag.data.is_at(self.path)

    def carry_on(self, topic: str, earlier: Account) -> None:
        """Expect what comes after the last messages of the same topic in an earlier file of the series."""
        self.expect(topic, earlier.expected)

    def expect(self, topic: str, expected: Mapping[int, int]) -> None:
        """Expect these sequence numbers next, by channel; for a topic of which nothing has arrived yet."""
        with self._writing():
            self._topics[topic].account.expect(expected)
            self._tail.note({"expected": [topic, dict(expected)]})

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
            self._commits.finish()
            if self._commits.dirty:
                self._commits.make(sync=sync)
            elif sync:
                self.file.commit(sync=True)

    def commit_some(self, seconds: float) -> bool:
        """Do a part of a commit, for about so long; True when it is through.

        What is appended between the parts belongs to the next commit, and is kept by the tail.
        """
        with self._writing():
            return not (self.committing or self._commits.dirty) or self._commits.make_some(seconds)

    @property
    def committing(self) -> bool:
        """Whether `commit_some` has begun a commit that is not through."""
        return self._commits.underway

    def prepare(self, seconds: float) -> int:
        """Create columns of new topics, for about so long; returns how many topics still wait for theirs.

        A commit does so for all that are left, and takes long when many topics are new.
        """
        with self._writing():
            self._commits.finish()
            before = len(self._new_topics)
            waiting = self._new_topics.release(seconds)
            if len(self._new_topics) < before:
                # else the next commit would have to write what HDF5 keeps of all of them
                self._bag.flush()
            return waiting

    def sync_behind(self) -> None:
        """Bring the last commit to the device in another thread; a commit before it is there waits for it."""
        with self._writing():
            self.file.sync_behind()

    @property
    def syncing(self) -> bool:
        """Whether a commit would have to wait for the device."""
        return self.file.syncing

    def close(self, *, complete: bool = True) -> None:
        """Commit, mark the bag as closed (unless it is not `complete`) and remove the sidecars; again: nothing."""
        if self._closed:
            return
        with self._writing():
            self._commits.finish()
            if complete:
                self.h5.attrs["closed"] = True
            self._commits.make(sync=True)
            self._forget_topics()
            self._bag.finish()
            self._closed = True
        self._bag.close()

    def abort(self) -> None:
        """Stop at once without a commit: the file stays as the last commit left it, the rest stays in the tail."""
        if self._closed:
            return
        self._closed = True
        if self._queue is not None:
            self._queue.abandon()
        self._forget_topics()
        self._bag.abort()

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
        self._check_usable()
        if not 0 <= channel < len(self._channels):
            raise UsageError(f"{self.path} has {len(self._channels)} channels, there is no channel {channel}")
        return self._of_channel[channel], self._channels[channel]

    def _check_usable(self) -> None:
        if self._closed:
            raise BagError(f"{self.path} was closed; nothing can be written to it any more")
        if self._failure is not None:
            reason = str(self._failure) or type(self._failure).__name__
            raise BagError(f"{self.path} cannot be written since an earlier error ({reason}); abort it")

    # what was interrupted half way must not be committed, whatever interrupted it
    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._check_usable()
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

    def _create_topic(self, channel: Channel, schema: Schema | None) -> TopicWriter:
        group = topic_group(self.h5, channel, schema)
        number = len(self._topics)
        self.book.define("topic", {"id": number, "name": channel.topic, "path": group.name})
        columns = TopicColumns(self.file, group, self.book, number, self._numbers.__next__, self._queue)
        topic = TopicWriter(self.file, columns, self.book, Account(number, self.book))
        self._topics[channel.topic] = topic
        self._new_topics.add(topic)
        return topic

    # they hold HDF5 objects, which would keep the file open
    def _forget_topics(self) -> None:
        self._topics.clear()
        self._of_channel.clear()
        self._new_topics.clear()
