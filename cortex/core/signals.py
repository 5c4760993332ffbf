"""Lets a running node end cleanly on SIGTERM, which would otherwise kill Python without any clean-up."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def calling_on_sigterm(action: Callable[[], None]) -> Iterator[None]:
    """Call `action` on SIGTERM while the block runs, then put the previous handler back.

    A previous Python handler is called as well.  Outside the main thread, and where SIGTERM is ignored or handled by
    something that is not Python, nothing is installed.
    """
    previous = signal.getsignal(signal.SIGTERM)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or previous is None or previous == signal.SIG_IGN:
        yield
        return
    active = True

    def handle(signum: int, frame: FrameType | None) -> None:
        if active:
            action()
        if callable(previous):
            previous(signum, frame)
        elif not active:
            # a later block put this handler back after ours had ended: behave as if it were not there
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        active = False
        if signal.getsignal(signal.SIGTERM) is handle:
            signal.signal(signal.SIGTERM, previous)


__all__ = ["calling_on_sigterm"]
