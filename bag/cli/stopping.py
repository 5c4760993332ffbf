"""Ctrl-C and SIGTERM for commands that run until they are stopped: once is a request, twice is an order."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h"


class Stopping:
    """A context in which the first SIGINT or SIGTERM calls ``on_request`` and the second ends the process at once.

    Ending at once is safe for a bag: whatever was committed, or had reached the recorder, is there when it is opened.
    Handlers can only be set in the main thread; elsewhere the context does nothing.
    """

    def __init__(self, on_request: Callable[[], None] | None = None) -> None:
        self.requested = False
        self._on_request = on_request
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            # a progress display may have hidden the cursor, and nothing that would show it again runs after this
            reset = _SHOW_CURSOR if sys.stderr.isatty() else ""
            os.write(2, f"{reset}\nStopped at once; what had arrived is in the file.\n".encode())
            os._exit(1)
        self.requested = True
        if self._on_request is not None:
            self._on_request()
