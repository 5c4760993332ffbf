"""The files of one recording: one bag, or a series of which each is whole in itself and continues the last.

A split opens the next file first and closes the finished one in a thread of its own, so that nothing waits for a disk.
The account goes on across the border: what comes next is expected to follow what came last.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from bag.buffer import Skipped
from bag.errors import LossyError
from bag.options import RecordOptions
from bag.records import Channel, Schema
from bag.storage.account import Account
from bag.storage.batch import Row
from bag.storage.writer import BagWriter

Counts = dict[str, int]


class BagSet:
    """Writes a recording; only one thread may use it.

    Args:
        output: the bag; in a series `_0`, `_1`... stand before its suffix.
        options: limits of a file, what to do with old ones, what to write into each.
        numbered: begin with `_0` even without limits.
    """

    def __init__(self, output: Path, options: RecordOptions, *, numbered: bool = False) -> None:
        self.paths: list[Path] = []
        self.committed = 0
        self._output = output
        self._options = options
        self._numbered = numbered or options.max_bag_bytes is not None or options.max_bag_duration_ns is not None
        self._channels: list[tuple[Channel, Schema | None]] = []
        self._accounts: dict[str, Account] = {}
        self._before: dict[str, Counts] = {}
        self._sticky: dict[int, Row] = {}
        self._sticky_topics = frozenset(options.sticky)
        self._number = 0
        self._opened_ns = 0
        self._sync_due_ns = 0
        self._closers: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._writer: BagWriter | None = None

    @property
    def writer(self) -> BagWriter:
        """The writer of the current file."""
        assert self._writer is not None, "no file is open"
        return self._writer

    def open(self, mono_ns: int) -> None:
        """Create the next file.

        Raises:
            BagExistsError, BagBusyError, OSError: it cannot be created.
        """
        path = self._path(self._number)
        options = self._options
        self._writer = BagWriter(
            path, force=options.force, description=options.description, custom_data=dict(options.custom_data)
        )
        self._number += 1
        self.paths.append(path)
        self._opened_ns, self._sync_due_ns = mono_ns, mono_ns + options.sync_interval_ns
        for channel, schema in self._channels:
            self._enter(channel, schema)

    def enter(self, channel: Channel, schema: Schema | None) -> None:
        """Make a channel known, in this file and all later ones; channels come in the order of their numbers."""
        self._channels.append((channel, schema))
        if self._writer is not None:
            self._enter(channel, schema)

    def append(self, channel: int, rows: Sequence[Row]) -> None:
        """Store messages of a channel."""
        if not rows:
            return
        self.writer.append(channel, rows)
        if self._channels[channel][0].topic in self._sticky_topics:
            self._sticky[channel] = rows[-1]

    def skip(self, item: Skipped) -> None:
        """Account for messages that are not stored."""
        count = item.last_sequence - item.first_sequence + 1
        sequences = (item.first_sequence, item.last_sequence)
        self.writer.note(item.channel, item.kind, sequences, count, item.log_time_ns)

    def remark(self, channel: int, kind: str, log_time_ns: int) -> None:
        """Note something of a topic at this moment in its ledger."""
        self.writer.note(channel, kind, (0, 0), 0, log_time_ns)

    def mark(self, text: str, log_time_ns: int) -> None:
        """Keep a named moment."""
        self.writer.mark(text, log_time_ns)

    def commit(self, wall_ns: int, mono_ns: int) -> None:
        """Make everything so far part of the file; now and then also against a power cut.

        Raises:
            LossyError: the disk is nearly full, or the file is no longer where it was.
        """
        sync = mono_ns >= self._sync_due_ns
        if sync:
            self._sync_due_ns = mono_ns + self._options.sync_interval_ns
        self.writer.note_clock(wall_ns, mono_ns)
        self.writer.commit(sync=sync)
        self.committed = self.total()
        self._check_disk()
        self._raise_errors()

    def split_when_due(self, mono_ns: int) -> None:
        """Begin another file when this one has reached a limit."""
        options = self._options
        large = options.max_bag_bytes is not None and self.writer.file.size >= options.max_bag_bytes
        old = options.max_bag_duration_ns is not None and mono_ns - self._opened_ns >= options.max_bag_duration_ns
        if large or old:
            self.split(mono_ns)

    def split(self, mono_ns: int) -> None:
        """Begin another file now."""
        finished, accounts = self.writer, dict(self._accounts)
        self._writer = None
        self._fold()
        self.open(mono_ns)
        for topic, account in accounts.items():
            self._accounts[topic].carry_on(account)
        for channel, row in self._sticky.items():
            self.writer.repeat(channel, row)
        closer = threading.Thread(target=self._close, args=(finished,), name="bag closer")
        closer.start()
        self._closers.append(closer)
        self._forget_old()

    def close(self) -> None:
        """Close the current file and wait for earlier ones.

        Raises:
            BaseException: closing one of the files failed.
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        self._fold()
        self.committed = self.total()
        self._join_closers()
        self._raise_errors()

    def abort(self) -> None:
        """Stop at once: committed data stay as they are, the rest stays in the sidecars."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()
        self._join_closers()

    def counts(self, topic: str) -> Counts:
        """Messages, bytes and losses of a topic over all files."""
        account = self._accounts.get(topic)
        return _added(self._before.get(topic), _counts_of(account) if account is not None else {})

    def total(self) -> int:
        """Messages of all topics over all files."""
        return sum(self.counts(topic)["messages"] for topic in {*self._before, *self._accounts})

    def _fold(self) -> None:
        for topic, account in self._accounts.items():
            self._before[topic] = _added(self._before.get(topic), _counts_of(account))
        self._accounts = {}

    def _enter(self, channel: Channel, schema: Schema | None) -> None:
        known = self.writer.add_channel(channel, schema)
        self._accounts[channel.topic] = self.writer.account(known.id)

    def _path(self, number: int) -> Path:
        if number == 0 and not self._numbered:
            return self._output
        return self._output.with_name(f"{self._output.stem}_{number}{self._output.suffix}")

    def _close(self, writer: BagWriter) -> None:
        try:
            writer.close()
        except BaseException as error:  # noqa: BLE001  raised by the next commit or close
            self._errors.append(error)
            writer.abort()

    def _forget_old(self) -> None:
        keep = self._options.max_bag_files
        while keep is not None and len(self.paths) > keep:
            self._join_closers()
            self.paths.pop(0).unlink(missing_ok=True)

    def _join_closers(self) -> None:
        for closer in self._closers:
            closer.join()
        self._closers.clear()

    def _raise_errors(self) -> None:
        if self._errors:
            raise self._errors[0]

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


def free_bytes(path: Path) -> int:
    """Bytes the disk of `path` has left for us."""
    disk = os.statvfs(path.parent)
    return disk.f_bavail * disk.f_frsize


def _counts_of(account: Account) -> Counts:
    return {"messages": account.messages, **account.counts}


def _added(one: Counts | None, other: Counts) -> Counts:
    names = dict.fromkeys([*(one or {}), *other, "messages"])
    return {name: (one or {}).get(name, 0) + other.get(name, 0) for name in names}


