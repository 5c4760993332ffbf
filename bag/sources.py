"""Where a recorder receives from: one topic at one address, and what is known of who speaks there."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from bag.storage.batch import Row
from cortex.wire import HEADER


class Renewal(Enum):
    """Why a source may need another channel."""

    REBORN = "its connection broke, so whoever speaks now is another publisher"
    DOUBTED = "what is said there looks like another publisher's"
    TOLD = "discovery said that another publisher is there"


@dataclass(slots=True)
class Source:
    """One topic at one address. `channel` is its number in the bag, `period_ns` thins it out when it is not 0.

    `reborn`: its connection broke after messages had come, so the next one is another publisher's, whatever its number.
    `leaving`: to be left as soon as the connection breaks. `fingerprint` and `sequence` are the last message's; before
    the first, the fingerprint is what discovery said, or None. `doubted`: why (`type`, `number`) it was asked already
    since its connection broke whether another publisher has begun.
    """

    channel: int
    topic: bytes
    address: str
    connected: bool = False
    period_ns: int = 0
    next_ns: int = 0
    heard: bool = False
    reborn: bool = False
    leaving: bool = False
    fingerprint: int | None = None
    sequence: int = -1
    doubted: frozenset[str] = frozenset()

    @property
    def local(self) -> bool:
        """Whether it comes from this machine, over ipc."""
        return self.address.startswith("ipc:")

    def take_over(self, left: Source) -> None:
        """Go on where the same topic at the same address was about to be left."""
        self.channel, self.connected, self.heard, self.reborn = left.channel, left.connected, left.heard, left.reborn
        self.fingerprint, self.sequence, self.doubted = left.fingerprint, left.sequence, left.doubted

    # where they may be mixed already, and over TCP, where the same publisher may come back, its numbers tell
    def has_broken(self, *, mixed: bool) -> None:
        """Its connection has; `mixed`: messages of the next one may be among those that were taken."""
        self.doubted = frozenset()
        if self.heard and self.local and not mixed:
            self.reborn, self.heard = True, False

    def forget(self) -> None:
        """Know nothing of the last message any more: whatever comes next is what was expected."""
        self.fingerprint, self.sequence, self.doubted = None, -1, frozenset()

    # That a connection broke may be known only after messages of the next one were taken. Looking at the last message
    # of many is enough as long as its number is as high as it must be.
    def another_begins(self, rows: Sequence[Row]) -> int | None:
        """Where among its next messages another publisher seems to begin: another type, or a number that falls.

        None: nowhere, or it is `doubted`. What is no Cortex message tells nothing.
        """
        last = _identity(rows[-1][2])
        if last is not None and last[0] == self.fingerprint and last[1] >= self.sequence + len(rows):
            self.sequence = last[1]
            return None
        begins, why, latest = None, "", self.fingerprint
        for at, row in enumerate(rows):
            identity = _identity(row[2])
            if identity is None:
                continue
            if latest not in (None, identity[0]):
                begins, why = at, "type"
            elif identity[1] <= self.sequence and why != "type":
                begins, why = at, "number"
            latest, self.sequence = identity
        if why in self.doubted:
            # the next message of another type is looked at again
            return None
        self.fingerprint = latest
        if begins is not None:
            self.doubted |= {why}
        return begins

    # due times stand on a grid, so that 30 Hz thinned to 10 Hz gives 10 Hz and not 7.5
    def is_due(self, now_ns: int) -> bool:
        """Whether thinning keeps what came at this time of the monotonic clock (ns); if so, the next one is awaited."""
        late_ns = now_ns - self.next_ns
        if late_ns < 0:
            return False
        self.next_ns = (self.next_ns if late_ns < self.period_ns else now_ns) + self.period_ns
        return True


def _identity(parts: Sequence[Any]) -> tuple[int, int] | None:
    try:
        fingerprint, _publish_ns, sequence = HEADER.unpack_from(parts[1])
    except (IndexError, struct.error):
        return None
    return fingerprint, sequence
