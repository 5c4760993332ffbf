"""When a commit is brought to the device: now and then, and before the kernel would begin to write by itself."""

from __future__ import annotations

from bag.storage.disk import writeback_begins


class SyncDue:
    """Tells after each commit whether it is time.

    Args:
        interval_ns: the longest time between two syncs.
    """

    def __init__(self, interval_ns: int) -> None:
        self._interval_ns = interval_ns
        self._bytes = writeback_begins() // 2
        self._due_ns = self._size = 0

    def begin(self, mono_ns: int) -> None:
        """A new file begins."""
        self._due_ns, self._size = mono_ns + self._interval_ns, 0

    def is_now(self, mono_ns: int, size: int) -> bool:
        """Whether it is time, with a file of `size` bytes; if so, the next time is counted from here."""
        if mono_ns < self._due_ns and size - self._size < self._bytes:
            return False
        self._due_ns, self._size = mono_ns + self._interval_ns, size
        return True
