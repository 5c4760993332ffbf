"""Headers of a replay: as recorded, unless times are to be moved or a loop has to count on.

The fingerprint stays in every case: receivers compare it. Sequences stay the recorded ones in the first pass; in
every further pass they go on where the last one ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bag.records import Frame
from cortex.wire import HEADER


class Stamps:
    """Rewrites headers where that is asked for.

    Args:
        mode: `keep`, `shift` or `now`.
        now_ns: the wall clock.
    """

    def __init__(self, mode: str, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._mode = mode
        self._now_ns = now_ns
        self._shift_ns = 0
        self._pass = 0
        self._offsets: dict[str, int] = {}
        self._passes: dict[str, int] = {}
        self._last: dict[str, int] = {}

    @property
    def idle(self) -> bool:
        """Whether headers go out as they are and nothing has to be remembered; only when nothing will loop."""
        return self._mode == "keep"

    def begin_pass(self, number: int, zero_wall_ns: int) -> None:
        """A pass begins; `zero_wall_ns` is the recorded wall time of the moment that is now."""
        self._pass = number
        self._shift_ns = self._now_ns() - zero_wall_ns

    def restamp(self, topic: str, frames: list[Frame]) -> list[Frame]:
        """The same message with the header it shall have; too short a header stays as it is."""
        head = frames[0]
        if len(head) < HEADER.size:
            return frames
        fingerprint, stamp, sequence = HEADER.unpack_from(head)
        fresh = self._sequence(topic, sequence)
        if self._mode == "shift":
            stamp = max(0, stamp + self._shift_ns)
        elif self._mode == "now":
            stamp = self._now_ns()
        elif fresh == sequence:
            return frames
        return [HEADER.pack(fingerprint, stamp, fresh) + bytes(head[HEADER.size :]), *frames[1:]]

    def _sequence(self, topic: str, sequence: int) -> int:
        if self._passes.get(topic, 0) != self._pass:
            self._passes[topic] = self._pass
            self._offsets[topic] = self._last.get(topic, sequence - 1) + 1 - sequence
        fresh = sequence + self._offsets.get(topic, 0)
        self._last[topic] = fresh
        return fresh & 0xFFFF_FFFF_FFFF_FFFF
