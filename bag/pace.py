"""For how long messages may gather in ZeroMQ before they are taken, so that its queue holds them all."""

from __future__ import annotations

# after a silence nobody knows how much will come
FIRST_NS = 2_000_000
# as much of the queue may fill meanwhile
QUEUE_SHARE = 4


class Pace:
    """The next wait by what came in the last one: long for little, short for much, at most twice as long as the last.

    Args:
        longest_ns: as long at most.
        queue: messages that ZeroMQ holds for us, of each connection.
        queue_bytes: and the memory that all of them may take.
    """

    def __init__(self, longest_ns: int, queue: int, queue_bytes: int) -> None:
        self._longest_ns, self._queue, self._queue_bytes = longest_ns, queue, queue_bytes
        self.wait_ns = 0

    @property
    def is_longest(self) -> bool:
        """Whether it could not be waited longer."""
        return self.wait_ns >= self._longest_ns

    def begin(self) -> None:
        """Something came after a silence."""
        self.wait_ns = min(FIRST_NS, self._longest_ns)

    def took(self, messages: int, nbytes: int) -> None:
        """So much, or nothing, had gathered in `wait_ns`."""
        share = QUEUE_SHARE * max(messages / self._queue, nbytes / self._queue_bytes)
        self.wait_ns = int(min(self._longest_ns, self.wait_ns / max(share, 0.5) + 1))
