"""Lets a running node end cleanly on a signal, which would otherwise kill Python, or tear it away, without clean-up."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def calling_on_sigterm(action: Callable[[], None]) -> Iterator[None]:
    """Call `action` on SIGTERM while the block runs; a previous Python handler is called as well.

    The previous handler is put back at the end of the block, and at the first signal, so that a second one has its
    usual effect.  Outside the main thread, and where SIGTERM is ignored or handled by something that is not Python,
    nothing is installed.
    """
    if signal.getsignal(signal.SIGTERM) in (None, signal.SIG_IGN):
        yield
        return
    with _calling_on(signal.SIGTERM, action):
        yield


@contextlib.contextmanager
def calling_on_plain_sigint(action: Callable[[], None]) -> Iterator[None]:
    """Call `action` on Ctrl-C instead of raising KeyboardInterrupt, if nobody else has taken charge of it.

    ``asyncio.run`` takes charge from Python 3.11 on, and cancels its task; this makes older versions behave alike.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    with _calling_on(signal.SIGINT, action):
        yield


@contextlib.contextmanager
def _calling_on(number: signal.Signals, action: Callable[[], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(number)
    active = True

    def handle(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, previous)
        if active:
            action()
        if callable(previous) and previous is not signal.default_int_handler:
            previous(signum, frame)
        elif not active:
            # a later block put this handler back after ours had ended: behave as if it were not there
            os.kill(os.getpid(), signum)

    signal.signal(number, handle)
    try:
        yield
    finally:
        active = False
        if signal.getsignal(number) is handle:
            signal.signal(number, previous)


__all__ = ["calling_on_plain_sigint", "calling_on_sigterm"]
