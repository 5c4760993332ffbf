"""Exact account of one topic's sequence numbers: what is missing, from when to when, and whose loss it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from bag.storage.batch import Batch, Numbers, least_and_greatest
from bag.storage.layout import TOPIC_DTYPE

if TYPE_CHECKING:
    from bag.storage.book import Book

COUNTS = (
    "bytes",
    "published_before_join",
    "lost_before_us",
    "lost_by_us",
    "throttled",
    "paused",
    "restarts",
    "malformed",
    "gaps",
)
FIELDS: tuple[str, ...] = TOPIC_DTYPE.names or ()
in_order: Callable[[Mapping[str, int]], tuple[int, ...]] = itemgetter(*FIELDS)
SPANS = tuple(name for name in FIELDS if name.startswith(("first_", "last_")))
TIMES = (("first_log_ns", "last_log_ns"), ("first_publish_ns", "last_publish_ns"), ("first_mono_ns", "last_mono_ns"))
# ledger kinds that say something of a topic at a moment, and do not stand for messages that will not come
REMARKS = ("malformed", "silent", "repeated")
# a hostile publisher can claim more losses than the field can hold
MAX_COUNT = 2**64 - 1


class Account:
    """Counts the messages of one topic and writes what is missing to the ledger.

    Every channel counts for itself, since messages of an old publisher may still come after those of a new one. A
    sequence that goes down, or another channel, is a restart and not a loss; sequences the new publisher had already
    used before its first message reached us count as lost before us.

    Args:
        topic: number of the topic.
        book: where the ledger is.
        summary: an earlier state to go on from (one record of TOPIC_DTYPE).
        expected: with it, the sequence number that each channel would use next.
    """

    def __init__(self, topic: int, book: Book, summary: Any = None, expected: Mapping[int, int] | None = None) -> None:
        self.topic = topic
        self._book = book
        row = np.zeros((), TOPIC_DTYPE) if summary is None else summary
        # first and last times and sequence numbers
        self._spans: dict[str, int] = {name: int(row[name]) for name in SPANS}
        self.messages = int(row["messages"])
        self.counts: dict[str, int] = {name: int(row[name]) for name in COUNTS}
        self._expected: dict[int, int] = dict(expected or {})
        self._after_repeat: tuple[int, int] | None = None

    def add(self, channel: int, batch: Batch, nbytes: int) -> None:
        """Account for a batch in the order it arrived; `nbytes` counts all its parts."""
        sequences, log_time = batch.sequence, batch.log_time
        first, last = int(sequences[0]), int(sequences[-1])
        if not self.messages:
            self._spans["first_sequence"] = first
        self._meet(channel, first, 0, int(log_time[0]))
        for at in _jumps(sequences):
            self._expected[channel] = int(sequences[at - 1]) + 1
            self._meet(channel, int(sequences[at]), at, int(log_time[at]))
        self._pass(channel, last)
        if self._after_repeat is not None and self._after_repeat[0] == channel:
            self._expected[channel] = self._after_repeat[1]
            self._after_repeat = None
        self._stretch(batch)
        self.messages += len(batch)
        self.counts["bytes"] += nbytes

    def note(self, channel: int, kind: str, sequences: tuple[int, int], count: int, log_time_ns: int) -> None:
        """Account for messages first..last that will not come, or say something of the topic at this moment.

        `lost_by_us`, `throttled`, `paused`; or `malformed`, `silent`, `repeated`: the next message stands in an earlier
        file of the series, too.
        """
        if kind not in REMARKS:
            self._meet(channel, sequences[0], 0, log_time_ns)
            self._pass(channel, sequences[1])
        elif kind == "repeated":
            self._after_repeat = (channel, self._expected.get(channel, sequences[0] + 1))
            self._expected[channel] = sequences[0]
        self._write(channel, kind, sequences, count, (0, log_time_ns))
        if kind in self.counts:
            self.counts[kind] += count

    def carry_on(self, earlier: Account) -> None:
        """Expect what comes after the last messages of the same topic in an earlier file."""
        self.expect(earlier.expected)

    @property
    def expected(self) -> dict[int, int]:
        """The sequence number that each channel would use next."""
        return dict(self._expected)

    def expect(self, expected: Mapping[int, int]) -> None:
        """Set `expected`, where nothing has arrived yet."""
        self._expected = dict(expected)
        for channel, sequence in expected.items():
            self._book.define("expected", {"topic": self.topic, "channel": channel, "sequence": sequence})

    def summary(self) -> tuple[int, ...]:
        """The record of TOPIC_DTYPE that stands in the bag, as a tuple."""
        counts = self.counts
        if max(counts.values()) > MAX_COUNT:
            counts = {name: min(count, MAX_COUNT) for name, count in counts.items()}
        return in_order({"messages": self.messages, **counts, **self._spans})

    # the next message of a channel is number `found`: what happened before it?
    def _meet(self, channel: int, found: int, at: int, log_time_ns: int) -> None:
        expected = self._expected.get(channel)
        place = (at, log_time_ns)
        if expected is None and not self._expected:
            self._spans["first_sequence"] = found
            self.counts["published_before_join"] += found
            if found:
                self._write(channel, "before_join", (0, found - 1), found, place)
        elif expected is None or found < expected:
            self.counts["restarts"] += 1
            self._write(channel, "restart", (found, found), 0, place)
            self._lose(channel, 0, found, place)
        else:
            self._lose(channel, expected, found, place)

    def _lose(self, channel: int, first: int, found: int, place: tuple[int, int]) -> None:
        if found > first:
            self.counts["lost_before_us"] += found - first
            self.counts["gaps"] += 1
            self._write(channel, "lost_before_us", (first, found - 1), found - first, place)

    def _pass(self, channel: int, sequence: int) -> None:
        self._expected[channel] = sequence + 1
        self._spans["last_sequence"] = sequence

    def _write(self, channel: int, kind: str, sequences: tuple[int, int], count: int, place: tuple[int, int]) -> None:
        at, log_time_ns = place
        self._book.ledger(self.topic, channel, kind, sequences, count, (self.messages + at, log_time_ns))

    def _stretch(self, batch: Batch) -> None:
        spans = self._spans
        times = (batch.log_time, batch.publish_time, batch.log_mono)
        for (first, last), values in zip(TIMES, times, strict=True):
            low, high = least_and_greatest(values)
            if not self.messages or low < spans[first]:
                spans[first] = low
            if not self.messages or high > spans[last]:
                spans[last] = high


# where a sequence number is not the one before plus one
def _jumps(sequences: Numbers) -> list[int]:
    if isinstance(sequences, tuple):
        if sequences == tuple(range(sequences[0], sequences[0] + len(sequences))):
            return []
        return [at for at in range(1, len(sequences)) if sequences[at] != sequences[at - 1] + 1]
    # compared this way because unsigned differences wrap around
    found = np.flatnonzero((sequences[1:] <= sequences[:-1]) | (sequences[1:] - sequences[:-1] != 1)) + 1
    jumps: list[int] = found.tolist()
    return jumps
