"""Keeps a topic's account over again from what is in the bag, so that the ledger can be held against the sequences.

The losses that the recorder was told of (by us, throttled...) are taken from the ledger, everything that follows
from the sequence numbers is worked out anew by the very class that kept the account.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from bag.storage import layout as names
from bag.storage.account import Account
from bag.storage.batch import COLUMNS, Batch
from bag.storage.topic_reader import TopicReader

BLOCK_ROWS = 1 << 16
KINDS = {number: name for name, number in names.LEDGER_KINDS.items()}
# what follows from the sequence numbers; everything else in the ledger is told
WORKED_OUT = ("before_join", "lost_before_us", "restart")
# the next message, and it alone, is not counted on from
REPEATED = "repeated"


class Row(NamedTuple):
    """One row of the ledger."""

    kind: str
    channel: int
    first: int
    last: int
    number: int
    message: int
    log_time_ns: int


class Pages:
    """Stands in for the book: takes the rows that an account writes."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def ledger(
        self,
        _topic: int,
        channel: int,
        kind: str,
        sequences: tuple[int, int],
        count: int,
        at: tuple[int, int],
    ) -> None:
        """Take one row."""
        self.rows.append(Row(kind, channel, *sequences, count, *at))


def batch_of(index: NDArray[Any]) -> Batch:
    """Index rows as the batch that an account takes."""
    times = (index["log_time_ns"], index["log_mono_ns"], index["publish_time_ns"])
    return Batch(COLUMNS, 0, *times, index["sequence"], ())


def stated_rows(ledger: NDArray[Any]) -> list[Row]:
    """Rows of the ledger of one topic, as an account writes them."""
    fields = ("channel", "first_sequence", "last_sequence", "count", "message", "log_time_ns")
    columns = [ledger[name].tolist() for name in fields]
    kinds = [KINDS.get(number, f"kind {number}") for number in ledger["kind"].tolist()]
    return [Row(*values) for values in zip(kinds, *columns, strict=True)]


def replay(topic: TopicReader, ledger: NDArray[Any], expected: Mapping[int, int]) -> tuple[Account, list[Row]]:
    """The account of a topic and the rows that it writes, given its messages and what the recorder was told.

    `expected` is by channel what a file that continues another expects first.
    """
    pages = Pages()
    account = Account(topic.number, pages, expected=expected)  # type: ignore[arg-type]
    told = [row for row in stated_rows(ledger) if row.kind not in WORKED_OUT]
    cuts = {row.message for row in told} | {row.message + 1 for row in told if row.kind == REPEATED}
    for start, stop, channel in _stretches(topic, sorted(cuts)):
        while told and told[0].message <= start:
            tell(account, told.pop(0))
        for at in range(start, stop, BLOCK_ROWS):
            account.add(channel, batch_of(topic.index(at, min(at + BLOCK_ROWS, stop))), 0)
    for row in told:
        tell(account, row)
    return account, pages.rows


def tell(account: Account, row: Row, channel: int | None = None, shift_ns: int = 0) -> None:
    """Tell an account what another was told; of another channel, and at another time, if given."""
    number = row.channel if channel is None else channel
    account.note(number, row.kind, (row.first, row.last), row.number, row.log_time_ns + shift_ns)


# messages start..stop-1 of one channel, with nothing told in between
def _stretches(topic: TopicReader, cuts: list[int]) -> Iterator[tuple[int, int, int]]:
    for segment in topic.segments(0, len(topic)):
        inside = [cut for cut in cuts if segment.start < cut < segment.stop]
        bounds = [segment.start, *inside, segment.stop]
        for start, stop in itertools.pairwise(bounds):
            yield start, stop, segment.channel
