"""Lets the threads of a replay run before those of other processes, where the system permits it.

On a busy machine an ordinary thread is woken milliseconds after its time. Threads of the lowest real-time priorities
are not, and they need little: a replay mostly sleeps. One that cannot keep up with its rate would not, so it steps back
among all others until it has caught up.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Of what waits for what: a message that is on its way, the thread that sends on time, the one that shows progress.
# Reading ahead keeps the ordinary rank: above it, its bursts would starve the receivers.
NETWORK, SENDER, DISPLAY = 3, 2, 1


class Precedence:
    """The real-time threads of one replay.

    Attributes:
        granted: whether the system permits it, and it is wanted.
        yielding: whether the threads have stepped back for now.

    Args:
        wanted: False changes nothing.
    """

    def __init__(self, *, wanted: bool) -> None:
        self.granted = wanted and _is_permitted()
        self.yielding = False
        self._ranks: dict[int, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def of_this_thread(self, rank: int) -> Iterator[None]:
        """The calling thread has this rank until the block ends; one that was given a policy by somebody keeps it."""
        thread = threading.get_native_id()
        if not self.granted or os.sched_getscheduler(thread) != os.SCHED_OTHER:
            yield
            return
        with self._lock:
            self._ranks[thread] = rank
            _set(thread, 0 if self.yielding else rank)
        try:
            yield
        finally:
            with self._lock:
                del self._ranks[thread]
                _set(thread, 0)

    def set_yielding(self, yielding: bool) -> None:
        """Step back among the threads of all others, or forward again."""
        with self._lock:
            self.yielding = yielding
            for thread, rank in self._ranks.items():
                _set(thread, 0 if yielding else rank)


# 0 is the ordinary rank; what was permitted once may be forbidden later, and is then done without
def _set(thread: int, rank: int) -> None:
    with suppress(OSError):
        os.sched_setscheduler(thread, os.SCHED_FIFO if rank else os.SCHED_OTHER, os.sched_param(rank))


def _is_permitted() -> bool:
    if not hasattr(os, "sched_setscheduler"):
        return False
    thread = threading.get_native_id()
    if os.sched_getscheduler(thread) != os.SCHED_OTHER:
        return False
    try:
        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(NETWORK))
    except OSError:
        return False
    _set(thread, 0)
    return True
