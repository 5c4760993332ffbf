"""Keeps the account of a topic of a new bag: what the old ledgers were told, and what became of messages left out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bag.errors import IntegrityError
from bag.records import Channel
from bag.storage import layout as names
from bag.storage.account import Account
from bag.storage.plans import Origin, TopicPlan
from bag.storage.replay import WORKED_OUT, Row, stated_rows, tell

BLOCK_ROWS = 8192


class Retelling:
    """Tells one new account.

    Args:
        account: the account of the new topic.
        plan: what the topic is made of.
        channels: by (id of the old bag, its channel) the channel in the new bag.
    """

    def __init__(self, account: Account, plan: TopicPlan, channels: Mapping[tuple[int, int], Channel]) -> None:
        self.account = account
        # by origin the number of the message that comes next
        self.passed = {id(origin): origin.first for origin in plan.origins}
        self._channels = channels
        self._told = {id(origin): _told_rows(origin) for origin in plan.origins}
        # whether messages were passed of which not even the sequence is known
        self._unknown = False

    def due(self, origin: Origin, start: int, stop: int) -> list[Row]:
        """What the old recorder was told before messages start..stop-1."""
        return [row for row in self._told[id(origin)] if start <= row.message < stop]

    def tell(self, row: Row, origin: Origin) -> None:
        """Tell the new account."""
        tell(self.account, row, self.channel_of(origin, row.channel).id, origin.shift_ns)

    def channel_of(self, origin: Origin, number: int) -> Channel:
        """The channel of the new bag that an old one became."""
        known = self._channels.get((id(origin.bag), number))
        if known is None:
            raise IntegrityError(
                f"{origin.bag.path} speaks of channel {number} of {origin.topic.name}, which is not one of its"
            )
        return known

    def pass_over(self, origin: Origin, stop: int) -> None:
        """Account for messages before `stop` that no piece took."""
        start = self.passed[id(origin)]
        if stop <= start:
            return
        self.passed[id(origin)] = stop
        if origin.left_out is None:
            return
        for row in self.due(origin, start, stop):
            self._leave_out(origin, start, row.message)
            self.tell(row, origin)
            start = row.message
        self._leave_out(origin, start, stop)

    def _leave_out(self, origin: Origin, start: int, stop: int) -> None:
        for segment in origin.topic.segments(start, stop):
            channel = self.channel_of(origin, segment.channel)
            for at in range(segment.start, segment.stop, BLOCK_ROWS):
                try:
                    index = origin.topic.index(at, min(at + BLOCK_ROWS, segment.stop))
                except IntegrityError:
                    self._unknown = True
                else:
                    self._note(channel, str(origin.left_out), index)

    def _note(self, channel: Channel, kind: str, index: NDArray[Any]) -> None:
        self.bridge(channel, index)
        sequences = index["sequence"]
        jumps = (sequences[1:] <= sequences[:-1]) | (sequences[1:] - sequences[:-1] != 1)
        bounds = [0, *(np.flatnonzero(jumps) + 1).tolist(), len(sequences)]
        for start, stop in itertools.pairwise(bounds):
            span = int(sequences[start]), int(sequences[stop - 1])
            self.account.note(channel.id, kind, span, stop - start, int(index["log_time_ns"][start]))

    def bridge(self, channel: Channel, index: NDArray[Any]) -> None:
        """Account for what lies before these messages and whose index rows are lost, too."""
        if not self._unknown:
            return
        self._unknown = False
        found, expected = int(index["sequence"][0]), self.account.expected.get(channel.id, 0)
        if found > expected:
            span = expected, found - 1
            self.account.note(channel.id, "lost_by_us", span, found - expected, int(index["log_time_ns"][0]))


def _told_rows(origin: Origin) -> list[Row]:
    rows = stated_rows(origin.bag.ledger_of(origin.topic.number))
    return [row for row in rows if row.kind not in WORKED_OUT and row.kind in names.LEDGER_KINDS]
