"""The files of one recording: one bag, or a series of which each is whole in itself and continues the last.

A split opens the next file first and closes the finished one in a thread of its own, so that nothing waits for a disk.
The account goes on across the border: what comes next is expected to follow what came last.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from bag.buffer import Skipped
from bag.closing import Closers
from bag.due import SyncDue
from bag.errors import BagExistsError, LossyError
from bag.options import RecordOptions
from bag.records import Channel, Compression, Schema
from bag.storage.account import Account
from bag.storage.batch import HEADER_SIZE, Row
from bag.storage.compressor import Compressor
from bag.storage.disk import FileOpener, RawFile, free_bytes
from bag.storage.writer import BagWriter

Counts = dict[str, int]
# a commit of many topics is made for so long at once
COMMIT_S = 0.005
# the columns of new topics are created for so long at once; while many lack theirs, commits wait, but not for ever
PREPARE_S = 0.015
MANY_NEW = 8
NEW_TOPICS_NS = 5_000_000_000


class BagSet:
    """Writes a recording; only one thread may use it, except for `counts`.

    Args:
        output: the bag; in a series `_0`, `_1`... stand before its suffix.
        options: limits of a file, what to do with old ones, what to write into each.
        numbered: begin with `_0` even without limits.
        opener: how files are opened (for tests).

    Raises:
        MissingExtraError: the compression that is asked for is not installed.
    """

    def __init__(
        self, output: Path, options: RecordOptions, *, numbered: bool = False, opener: FileOpener = RawFile
    ) -> None:
        self.compressor = Compressor(options.compression) if options.compression is not None else None
        self.paths: list[Path] = []
        self.committed = 0
        self.written = 0
        self._output = output
        self._options = options
        self._opener = opener
        self._numbered = numbered or options.max_bag_bytes is not None or options.max_bag_duration_ns is not None
        self._channels: list[tuple[Channel, Schema | None]] = []
        # counts of finished files, accounts of the current one; replaced together, so that no reader sees one twice
        self._books: tuple[dict[str, Counts], dict[str, Account]] = ({}, {})
        # account, messages and bytes before what is being written
        self._underway: tuple[Account, int, int] | None = None
        self._sticky: dict[str, tuple[int, Row]] = {}
        self._sticky_topics = frozenset(options.sticky)
        self._number = 0
        self._opened_ns = 0
        self._empty_at = 0
        # of the current file: its size at the last commit, and the bytes of messages since
        self._committed_size = 0
        self._bytes_here = 0
        self._sync_due = SyncDue(options.sync_interval_ns)
        # when the last commit was, and how many topics the next one would have to create columns for
        self._committed_ns = self.new_topics = 0
        # messages in all, and bytes of this file, that were written when the commit began which is not seen through
        self._begun: tuple[int, int] | None = None
        self._closers = Closers()
        self._writer: BagWriter | None = None

    @property
    def writer(self) -> BagWriter:
        """The writer of the current file."""
        assert self._writer is not None, "no file is open"
        return self._writer

    def open(self, mono_ns: int) -> None:
        """Create a file that begins a new account: the first one, or that of a snapshot.

        Raises:
            BagExistsError, BagBusyError, OSError: it cannot be created.
        """
        if self._numbered and not self.paths:
            self._refuse_older_series()
        self._turn_to(*self._create({}), mono_ns)
        self._forget_old()

    def enter(self, channel: Channel, schema: Schema | None) -> None:
        """Make a channel known, in this file and all later ones; channels come in the order of their numbers."""
        self._channels.append((channel, schema))
        if self._writer is not None:
            known = self._writer.add_channel(channel, schema)
            self._books[1][channel.topic] = self._writer.account(known.id)

    def append(self, channel: int, rows: Sequence[Row]) -> None:
        """Store messages of a channel."""
        if not rows:
            return
        topic = self._channels[channel][0].topic
        account = self._books[1][topic]
        messages, nbytes = account.messages, account.counts["bytes"]
        # the account is ahead of the disk meanwhile
        self._underway = (account, messages, nbytes)
        self.writer.append(channel, rows)
        self._underway = None
        self.written += account.messages - messages
        self._bytes_here += account.counts["bytes"] - nbytes

    def remember(self, channel: int, rows: Sequence[Row]) -> None:
        """Keep the last message of a sticky topic for the beginning of the next file."""
        topic = self._channels[channel][0].topic
        if topic in self._sticky_topics:
            sound = (row for row in reversed(rows) if len(row[2]) > 1 and len(row[2][1]) >= HEADER_SIZE)
            last = next(sound, None)
            if last is not None:
                self._sticky[topic] = (channel, last)

    def skip(self, item: Skipped) -> None:
        """Account for messages that are not stored."""
        sequences = (item.first_sequence, item.last_sequence)
        self.writer.note(item.channel, item.kind, sequences, item.messages, item.log_time_ns)

    def remark(self, channel: int, kind: str, log_time_ns: int) -> None:
        """Note something of a topic at this moment in its ledger."""
        self.writer.note(channel, kind, (0, 0), 0, log_time_ns)

    def mark(self, text: str, log_time_ns: int) -> None:
        """Keep a named moment."""
        self.writer.mark(text, log_time_ns)

    def commit(self, wall_ns: int, mono_ns: int) -> None:
        """Make everything so far part of the file; now and then also bring it to the device, which nobody waits for.

        A commit of many topics is only begun: `go_on` does the rest, as long as `committing`.

        Raises:
            LossyError: the disk is nearly full, or the file is no longer where it was.
        """
        if self._begun is None and not self._must_wait(mono_ns):
            self._committed_ns = mono_ns
            self._begun = self.written, self._bytes_here
            self.writer.note_clock(wall_ns, mono_ns)
            self._commit_some(mono_ns)
        self._check_disk()
        self._closers.check()

    @property
    def committing(self) -> bool:
        """Whether a commit has begun that is not through."""
        return self._writer is not None and self._writer.committing

    # the tail keeps it meanwhile
    def _must_wait(self, mono_ns: int) -> bool:
        many = self.new_topics > MANY_NEW and mono_ns - self._committed_ns < NEW_TOPICS_NS
        return many or self.writer.syncing or not self._closers.committed

    def _commit_some(self, mono_ns: int) -> None:
        if self.writer.commit_some(COMMIT_S):
            self._see_through(mono_ns)

    def _see_through(self, mono_ns: int) -> None:
        assert self._begun is not None
        (self.committed, nbytes), self._begun = self._begun, None
        self._bytes_here -= nbytes
        self._committed_size = self.writer.file.size
        if self._sync_due.is_now(mono_ns, self._committed_size):
            self.writer.sync_behind()

    def go_on(self, mono_ns: int) -> None:
        """Do a little of a commit that has begun, or of what the next one would have to do for new topics."""
        if self.committing:
            self._commit_some(mono_ns)
        elif self._begun is not None and self._writer is not None:
            # much that came, or a new topic, brought it to its end
            self._see_through(mono_ns)
        elif self._writer is not None:
            self.new_topics = self._writer.prepare(PREPARE_S)

    def split_when_due(self, mono_ns: int) -> None:
        """Begin another file when this one has reached a limit; an empty one never has."""
        options = self._options
        if self.written == self._empty_at:
            return
        # what was appended reaches the file with the next commit, and counts already
        size = max(self.writer.file.size, self._committed_size + self._bytes_here)
        large = options.max_bag_bytes is not None and size >= options.max_bag_bytes
        old = options.max_bag_duration_ns is not None and mono_ns - self._opened_ns >= options.max_bag_duration_ns
        if large or old:
            self.split(mono_ns)

    def split(self, mono_ns: int) -> None:
        """Begin another file now; an earlier one that could not be closed is told of first."""
        self._closers.check()
        finished = self.writer
        # the finished one stays the current one until the next one is there
        self._turn_to(*self._create(self._books[1]), mono_ns)
        self._closers.close(finished)
        self._forget_old()

    def close(self) -> None:
        """Close the current file and wait for earlier ones.

        Raises:
            BaseException: closing one of the files failed.
        """
        try:
            if self._writer is not None:
                # before this file shows its messages, those of the earlier ones must be there
                self._closers.join()
                self._writer.close()
                self._writer = None
                self.committed = self.written
        finally:
            self._join_closers()
        self._closers.check()

    def abort(self) -> None:
        """Stop at once: committed data stay as they are, the rest stays in the sidecars."""
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.abort()
        finally:
            self._join_closers()

    @property
    def sticky_messages(self) -> dict[str, tuple[int, Row]]:
        """The last message of each sticky topic, with its channel."""
        return dict(self._sticky)

    @property
    def compression(self) -> Compression | None:
        """What became of the bytes that were to be compressed, over all files; from any thread."""
        return self.compressor.statistics() if self.compressor is not None else None

    def counts(self, topic: str) -> Counts:
        """Messages, bytes and losses of a topic over all files, of what would survive now; from any thread."""
        before, accounts = self._books
        account = accounts.get(topic)
        counts = {} if account is None else _counts_of(account)
        # looked at last: what was under way when it was counted either still is, or has come to the disk
        underway = self._underway
        if underway is not None and underway[0] is account:
            counts |= {"messages": underway[1], "bytes": underway[2]}
        return _added(before.get(topic), counts)

    # a new file with all channels, whose account goes on from the given ones
    def _create(self, earlier: dict[str, Account]) -> tuple[BagWriter, dict[str, Account]]:
        options = self._options
        writer = BagWriter(
            self._next_path(),
            force=options.force,
            description=options.description,
            custom_data=options.kept_data,
            opener=self._opener,
            compressor=self.compressor,
        )
        try:
            accounts: dict[str, Account] = {}
            for channel, schema in self._channels:
                known = writer.add_channel(channel, schema)
                accounts[channel.topic] = writer.account(known.id)
            for topic, account in earlier.items():
                writer.carry_on(topic, account)
            for number, row in self._sticky.values():
                writer.repeat(number, row)
        except BaseException:
            writer.abort()
            raise
        return writer, accounts

    def _turn_to(self, writer: BagWriter, accounts: dict[str, Account], mono_ns: int) -> None:
        before, finished = self._books
        folded = dict(before)
        for topic, account in finished.items():
            folded[topic] = _added(before.get(topic), _counts_of(account))
        for topic, account in accounts.items():
            # what a new file begins with has been counted already
            repeated = {name: -count for name, count in _counts_of(account).items()}
            folded[topic] = _added(folded.get(topic), repeated)
        self._writer, self._books = writer, (folded, accounts)
        self.paths.append(writer.path)
        self._opened_ns = mono_ns
        self._sync_due.begin(mono_ns)
        self._committed_ns, self.new_topics, self._begun = mono_ns, 0, None
        self._empty_at, self._committed_size, self._bytes_here = self.written, 0, 0

    def _next_path(self) -> Path:
        while True:
            number, self._number = self._number, self._number + 1
            path = self._path(number)
            # a name that is taken ends nothing once the recording runs
            if not self.paths or self._options.force or not path.exists():
                return path

    def _path(self, number: int) -> Path:
        single = number == 0 and not self._numbered
        return self._output if single else self._output.with_name(f"{self._output.stem}_{number}{self._output.suffix}")

    # readers take a series by its names: an older one must not be mixed in
    def _refuse_older_series(self) -> None:
        ours = re.compile(re.escape(self._output.stem) + r"_\d+" + re.escape(self._output.suffix))
        names = os.listdir(self._output.absolute().parent)
        older = sorted(name for name in names if ours.fullmatch(name))
        if older and not self._options.force:
            raise BagExistsError(
                f"{self._output.with_name(older[0])} is already there and belongs to a series of this name; choose "
                f"another name or overwrite it with -f/--force"
            )

    def _forget_old(self) -> None:
        keep = self._options.max_bag_files
        while keep is not None and len(self.paths) > keep:
            path = self.paths.pop(0)
            self._closers.wait_for(path)
            path.unlink(missing_ok=True)

    def _join_closers(self) -> None:
        self._closers.join()
        if self.compressor is not None:
            self.compressor.close()

    def _check_disk(self) -> None:
        path = self.paths[-1]
        free = free_bytes(path)
        if free < self._options.min_free_bytes:
            raise LossyError(
                f"the disk of {path} has only {free // 1_000_000} MB left, less than --min-free-space; recording was "
                f"stopped, everything so far is in the bag"
            )
        if not self.writer.is_at_its_path():
            raise LossyError(f"{path} was deleted or replaced while it was being recorded; recording was stopped")


def _counts_of(account: Account) -> Counts:
    return {"messages": account.messages, **account.counts}


def _added(one: Counts | None, other: Counts) -> Counts:
    names = dict.fromkeys([*(one or {}), *other, "messages"])
    return {name: (one or {}).get(name, 0) + other.get(name, 0) for name in names}
