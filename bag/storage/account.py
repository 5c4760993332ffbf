"""Exact account of one topic's sequence numbers: what is missing, from when to when, and whose loss it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from bag.storage.batch import Batch
from bag.storage.book import Book
from bag.storage.layout import TOPIC_DTYPE

# a hostile publisher can claim more losses than the field can hold
MAX_COUNT = 2**64 - 1


class Account:
    """Counts the messages of one topic and writes what is missing to the ledger.

    A sequence that goes down, or another publisher, is a restart and not a loss; sequences the new publisher had
    already used before its first message reached us count as lost before us.

    Args:
        topic: number of the topic.
        book: where the ledger is.
        summary: an earlier state to go on from (one record of TOPIC_DTYPE).
    """

    def __init__(self, topic: int, book: Book, summary: Any = None) -> None:
        self.topic = topic
        self._book = book
        self._row = np.zeros((), TOPIC_DTYPE)
        if summary is not None:
            self._row[()] = summary
        self.messages = int(self._row["messages"])
        self._next: int | None = int(self._row["last_sequence"]) + 1 if self.messages else None
        self._channel: int | None = None
        self.counts: dict[str, int] = {
            name: int(self._row[name])
            for name in (
                "bytes published_before_join lost_before_us lost_by_us throttled restarts malformed gaps".split()
            )
        }

    def add(self, channel: int, batch: Batch, nbytes: int) -> None:
        """Account for a batch in the order it arrived; `nbytes` counts all its parts."""
        sequences = batch.headers[:, 2]
        if self._next is None:
            self._joined(channel, int(sequences[0]), int(batch.log_time[0]))
        elif channel != self._channel and self._channel is not None:
            self._restarted(int(sequences[0]), 0, int(batch.log_time[0]))
        elif int(sequences[0]) != self._next:
            self._jumped(self._next, int(sequences[0]), 0, int(batch.log_time[0]))
        self._channel = channel
        for at in np.flatnonzero(np.diff(sequences) != 1).tolist():
            self._jumped(int(sequences[at]) + 1, int(sequences[at + 1]), at + 1, int(batch.log_time[at + 1]))
        self._next = int(sequences[-1]) + 1
        self._stretch(batch)
        self.messages += len(batch)
        self.counts["bytes"] += nbytes

    def continues(self, channel: int) -> None:
        """The last message before this writer was of `channel`."""
        self._channel = channel

    def note(self, kind: str, first: int, last: int, count: int, log_time_ns: int) -> None:
        """Account for messages first..last that will not come: `lost_by_us`, `throttled` or `malformed`."""
        self._book.ledger(self.topic, kind, (first, last), count, (self.messages, log_time_ns))
        self.counts[kind] += count
        if kind == "malformed":
            return
        if self._next is None:
            self._joined(None, first, log_time_ns)
        elif first > self._next:
            self._jumped(self._next, first, 0, log_time_ns)
        elif first < self._next:
            self._restarted(first, 0, log_time_ns)
        self._next = last + 1

    def summary(self) -> Any:
        """The record of TOPIC_DTYPE that stands in the bag."""
        self._row["messages"] = self.messages
        self._row["last_sequence"] = self._next - 1 if self._next else 0
        for name, count in self.counts.items():
            self._row[name] = min(count, MAX_COUNT)
        return self._row

    def _joined(self, channel: int | None, first: int, log_time_ns: int) -> None:
        self._row["first_sequence"] = first
        self.counts["published_before_join"] += first
        if first:
            self._book.ledger(self.topic, "before_join", (0, first - 1), first, (self.messages, log_time_ns))
        self._channel = channel

    def _jumped(self, expected: int, found: int, at: int, log_time_ns: int) -> None:
        if found > expected:
            self._lost(expected, found, at, log_time_ns)
        else:
            self._restarted(found, at, log_time_ns)

    def _restarted(self, first: int, at: int, log_time_ns: int) -> None:
        self.counts["restarts"] += 1
        self._book.ledger(self.topic, "restart", (first, first), 0, (self.messages + at, log_time_ns))
        if first:
            self._lost(0, first, at, log_time_ns)

    def _lost(self, expected: int, found: int, at: int, log_time_ns: int) -> None:
        self.counts["lost_before_us"] += found - expected
        self.counts["gaps"] += 1
        place = (self.messages + at, log_time_ns)
        self._book.ledger(self.topic, "lost_before_us", (expected, found - 1), found - expected, place)

    def _stretch(self, batch: Batch) -> None:
        row, published = self._row, batch.headers[:, 1].view(np.int64)
        spans = (("log_ns", batch.log_time), ("publish_ns", published), ("mono_ns", batch.log_mono))
        for name, values in spans:
            low, high = int(values.min()), int(values.max())
            if self.messages:
                low, high = min(low, int(row["first_" + name])), max(high, int(row["last_" + name]))
            row["first_" + name], row["last_" + name] = low, high
