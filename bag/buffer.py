"""The hand-over between receiving and writing: bounded in bytes, never blocking the receiver, counting refusals."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bag.storage.batch import MESSAGE_OVERHEAD, Row
from cortex.wire import HEADER


class Received(NamedTuple):
    """Messages of one channel in order of arrival; `nbytes` is what they cost in memory."""

    channel: int
    rows: list[Row]
    nbytes: int


class Skipped(NamedTuple):
    """A run of `messages` messages of one channel that will not be stored, and why.

    `kind` is the ledger's word: `lost_by_us` (it did not fit), `throttled`, `paused` or `malformed` (then without
    sequences). `log_time_ns` is the first's.
    """

    channel: int
    kind: str
    first_sequence: int
    last_sequence: int
    log_time_ns: int
    messages: int


Item = Received | Skipped


@dataclass(frozen=True, slots=True)
class BufferStatistics:
    """What waits in the buffer (messages, and their memory in bytes), and what it refused so far (messages).

    `received` is the bytes of all messages that ever came, without what they cost beside, refused ones too.
    """

    messages: int
    bytes: int
    refused: int
    received: int


@dataclass(slots=True)
class _Taken:
    """A `Received` that still grows."""

    channel: int
    rows: list[Row]
    nbytes: int


class RecordBuffer:
    """Holds what is received until it is written.

    Args:
        max_bytes: bound on the memory of everything held.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._items: list[Skipped | _Taken] = []
        # where in the items the latest run of a channel stands, as long as nothing else of the channel came after it
        self._runs: dict[int, int] = {}
        # the same for messages that were taken
        self._open: dict[int, _Taken] = {}
        self._bytes = self._messages = self._refused = self._received = 0
        # what was handed out and is being written still takes its memory
        self._lent = 0
        self._closed = self._over = self._woken = False
        # who waits is told when so many bytes are held
        self._awaited = math.inf
        # entered by itself, a lock costs a third of what a condition does
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def put(self, channel: int, rows: list[Row], nbytes: int) -> None:
        """Take the messages of a channel that fit, refuse the rest; `nbytes` is what they cost; does not wait."""
        with self._lock:
            if self._over:
                return
            self._received += nbytes - len(rows) * MESSAGE_OVERHEAD
            free = self._max_bytes - self._bytes - self._lent
            refused: Sequence[Row] = ()
            if nbytes > free:
                rows, nbytes, refused = _fitting(rows, free)
            # one list for a channel until something of it is skipped: the writer wants few of them
            taken = self._open.get(channel)
            if taken is not None:
                taken.rows += rows
                taken.nbytes += nbytes
            elif rows:
                self._runs.pop(channel, None)
                self._open[channel] = taken = _Taken(channel, rows, nbytes)
                self._items.append(taken)
            self._bytes += nbytes
            self._messages += len(rows)
            for row in refused:
                self._refused += 1
                self.skip(channel, "lost_by_us", row)
            if self._bytes >= self._awaited:
                self._changed.notify()

    def skip(self, channel: int, kind: str, row: Row) -> None:
        """Note, in the order of arrival, that a message will not be stored."""
        head = row[2][1] if len(row[2]) > 1 else b""
        if len(head) >= HEADER.size:
            sequence = HEADER.unpack_from(head)[2]
        else:
            kind, sequence = "malformed", 0
        with self._lock:
            if self._over:
                return
            at = self._runs.get(channel)
            run = None if at is None else self._items[at]
            if at is not None and isinstance(run, Skipped) and _continues(run, kind, sequence):
                self._items[at] = run._replace(last_sequence=sequence, messages=run.messages + 1)
            else:
                self._open.pop(channel, None)
                self._runs[channel] = len(self._items)
                self._items.append(Skipped(channel, kind, sequence, sequence, row[0], 1))

    def take(self, timeout: float) -> tuple[list[Item], bool]:
        """Everything held, waiting up to `timeout` seconds for something; and whether nothing more will come.

        Messages of a channel come as one, between two runs of it that were skipped; others may have come between them.

        What is handed out counts as held until `give_back` or the next call.
        """
        with self._lock:
            self._lent = 0
            if not self._items and not self._closed:
                self._wait(timeout, 0)
            items, self._items, self._runs, self._open = self._items, [], {}, {}
            self._lent, self._bytes, self._messages = self._bytes, 0, 0
            closed = self._closed
        return [
            item if isinstance(item, Skipped) else Received(item.channel, item.rows, item.nbytes) for item in items
        ], closed

    def give_back(self) -> None:
        """What was handed out takes no memory any more."""
        with self._lock:
            self._lent = 0

    def rest(self, timeout: float, enough: int) -> None:
        """Wait for `timeout` seconds, but not while `enough` bytes are held, nor when nothing more will come."""
        with self._lock:
            if self._bytes < enough and not self._closed:
                self._wait(timeout, enough)

    def holds(self, nbytes: int) -> bool:
        """Whether so many bytes wait."""
        return self._bytes >= nbytes

    # who was woken just before does not wait
    def _wait(self, timeout: float, nbytes: int) -> None:
        if not self._woken:
            self._awaited = nbytes
            self._changed.wait(timeout)
            self._awaited = math.inf
        self._woken = False

    def wake(self) -> None:
        """Let a waiting `take` or `rest` return at once."""
        with self._lock:
            self._woken = True
            self._changed.notify()

    def close(self) -> None:
        """Nothing more will be put."""
        with self._lock:
            self._closed = True
            self._changed.notify()

    def end(self) -> int:
        """Let go of everything and take nothing more, silently; returns how many messages were let go."""
        with self._lock:
            self._closed = self._over = True
            waiting = self._messages
            self._items, self._runs, self._open = [], {}, {}
            self._lent = self._bytes = self._messages = 0
            return waiting

    def statistics(self) -> BufferStatistics:
        """What waits now, and what was refused so far."""
        with self._lock:
            return BufferStatistics(self._messages, self._bytes + self._lent, self._refused, self._received)


def _continues(run: Skipped, kind: str, sequence: int) -> bool:
    return run.kind == kind and (kind == "malformed" or sequence == run.last_sequence + 1)


# as many of the first as fit, what they cost, and the others
def _fitting(rows: list[Row], free: int) -> tuple[list[Row], int, list[Row]]:
    cost = 0
    for count, row in enumerate(rows):
        size = cost_of(row)
        if cost + size > free:
            return rows[:count], cost, rows[count:]
        cost += size
    return rows, cost, []


def cost_of(row: Row) -> int:
    """Memory one received message takes, in bytes."""
    return MESSAGE_OVERHEAD + sum(map(len, row[2]))
