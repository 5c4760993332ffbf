"""Keeps a topic's account over again from what is in the bag, so that the ledger can be held against the sequences.

The losses that the recorder was told of (by us, throttled...) are taken from the ledger, everything that follows from the
sequence numbers is worked out anew by the very class that kept the account.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bag.storage import layout as names
from bag.storage.account import REMARKS, Account
from bag.storage.batch import COLUMNS, Batch
from bag.storage.topic_reader import TopicReader

BLOCK_ROWS = 1 << 16
KINDS = {number: name for name, number in names.LEDGER_KINDS.items()}
# what follows from the sequence numbers; everything else in the ledger is told
WORKED_OUT = ("before_join", "lost_before_us", "restart")

REPEATED = "repeated"

# kind, first and last sequence, count, message, log time
Row = tuple[str, int, int, int, int, int]


class Pages:
    """Stands in for the book: takes the rows that an account writes."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def ledger(self, topic: int, kind: str, sequences: tuple[int, int], count: int, at: tuple[int, int]) -> None:  # noqa: ARG002
        """Take one row."""
        self.rows.append((kind, *sequences, count, *at))


def batch_of(index: NDArray[Any], fingerprint: int = 0) -> Batch:
    """Index rows as the batch that an account takes."""
    headers = np.empty((len(index), 3), np.uint64)
    headers[:, 0] = fingerprint
    headers[:, 1] = (
        index["publish_time_ns"].view(np.uint64)
        if index["publish_time_ns"].flags.c_contiguous
        else (np.ascontiguousarray(index["publish_time_ns"]).view(np.uint64))
    )
    headers[:, 2] = index["sequence"]
    return Batch(
        COLUMNS, np.ascontiguousarray(index["log_time_ns"]), np.ascontiguousarray(index["log_mono_ns"]), headers, ()
    )


def stated_rows(ledger: NDArray[Any]) -> list[Row]:
    """Rows of the ledger of one topic, as an account writes them."""
    fields = ("first_sequence", "last_sequence", "count", "message", "log_time_ns")
    columns = [ledger[name].tolist() for name in fields]
    kinds = [KINDS.get(number, f"kind {number}") for number in ledger["kind"].tolist()]
    return list(zip(kinds, *columns, strict=True))


def replay(topic: TopicReader, ledger: NDArray[Any]) -> tuple[Account, list[Row]]:
    """The account of a topic and the rows that it writes, given its messages and what the recorder was told."""
    pages = Pages()
    account = Account(topic.number, pages)  # type: ignore[arg-type]
    stated = stated_rows(ledger)
    told = [row for row in stated if row[0] not in WORKED_OUT]
    _begin(account, topic, stated)
    cuts = {row[4] for row in told} | {row[4] + 1 for row in told if row[0] == REPEATED}
    for start, stop, channel in _stretches(topic, sorted(cuts)):
        while told and told[0][4] <= start:
            _tell(account, told.pop(0))
        for at in range(start, stop, BLOCK_ROWS):
            account.add(channel, batch_of(topic.index(at, min(at + BLOCK_ROWS, stop))), 0)
    for row in told:
        _tell(account, row)
    return account, pages.rows


def _tell(account: Account, row: Row) -> None:
    kind, first, last, count, _message, log_time_ns = row
    account.note(kind, first, last, count, log_time_ns)


# messages start..stop-1 of one channel, with nothing told in between
def _stretches(topic: TopicReader, cuts: list[int]) -> Iterator[tuple[int, int, int]]:
    for segment in topic.segments(0, len(topic)):
        inside = [cut for cut in cuts if segment.start < cut < segment.stop]
        bounds = [segment.start, *inside, segment.stop]
        for start, stop in zip(bounds, bounds[1:], strict=False):
            yield start, stop, segment.channel


# a file that continues another expects what comes after the other's last message
def _begin(account: Account, topic: TopicReader, stated: list[Row]) -> None:
    at = 1 if stated and stated[0][0] == REPEATED and stated[0][4] == 0 else 0
    told = next((row for row in stated if row[0] not in WORKED_OUT and row[0] not in REMARKS and row[4] == at), None)
    first = told[1] if told is not None else None
    if first is None and len(topic) > at:
        first = int(topic.index(at, at + 1)["sequence"][0])
    if not first or any(row[0] == "before_join" for row in stated):
        return
    lost = next((row for row in stated if row[0] == "lost_before_us" and row[4] == at), None)
    restarted = any(row[0] == "restart" and row[4] == at for row in stated)
    account._next = first + 1 if restarted else lost[1] if lost is not None else first
