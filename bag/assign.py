"""Whose messages are whose: each goes to the channel of the publisher that sent it, or is left out and counted."""

from __future__ import annotations

from collections.abc import Callable

from bag.buffer import RecordBuffer, cost_of
from bag.sources import Renewal, Source
from bag.storage.batch import Row

Renew = Callable[[Source, Renewal], int]


class Assigner:
    """Hands messages on to the buffer; used by the intake's thread alone.

    Args:
        buffer: where the messages go.
        renew: gives a channel for a source, with the reason; None: each keeps its own.

    Attributes:
        paused: whether what comes is skipped.
    """

    def __init__(self, buffer: RecordBuffer, renew: Renew | None) -> None:
        self._buffer = buffer
        self.renew = renew
        self.paused = False

    def hand_on(self, source: Source, rows: list[Row], cost: int) -> None:
        """Take a source's next messages, which cost so much memory (bytes)."""
        if source.reborn:
            source.forget()
        begins = source.another_begins(rows)
        if source.reborn:
            source.reborn = False
            self._change_channel(source, Renewal.REBORN)
        elif begins is not None:
            if begins:
                # the topic is in no message's cost
                rest = sum(cost_of(row) - len(source.topic) for row in rows[begins:])
                self._put(source, rows[:begins], cost - rest)
                rows, cost = rows[begins:], rest
            self._change_channel(source, Renewal.DOUBTED)
        source.heard = True
        self._put(source, rows, cost)

    def told(self, source: Source) -> None:
        """Discovery said that another publisher is there; the next message may tell so, too."""
        # news may be late: if they change nothing, the next message may be of one of whom there were none yet
        if not source.reborn and self._change_channel(source, Renewal.TOLD):
            source.forget()

    def _change_channel(self, source: Source, why: Renewal) -> bool:
        before = source.channel
        if self.renew is not None:
            source.channel = self.renew(source, why)
        return source.channel != before

    def _put(self, source: Source, rows: list[Row], cost: int) -> None:
        if self.paused:
            for row in rows:
                self._buffer.skip(source.channel, "paused", row)
        elif source.period_ns:
            for row in rows:
                if source.is_due(row[1]):
                    self._buffer.put(source.channel, [row], cost_of(row))
                else:
                    self._buffer.skip(source.channel, "throttled", row)
        else:
            self._buffer.put(source.channel, rows, cost)
