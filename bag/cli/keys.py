"""Single keys while a command runs: the terminal gives them up at once, and is put back as it was."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable, Mapping
from typing import Any

_ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}
_KEY = re.compile(r"\x1b[\[O]([A-D])|\x1b[\[O]?[0-9;]*[~A-Za-z]?|(.)", re.DOTALL)


def keys_of(text: str) -> list[str]:
    """The keys in what a terminal sent: characters, and `up`, `down`, `right`, `left`; other escapes are left out."""
    return [_ARROWS[arrow] if arrow else char for arrow, char in _KEY.findall(text) if arrow or char]


class Keys:
    """A context in which keys call actions, from a thread; without a terminal in the foreground it does nothing.

    Args:
        actions: what to call for which key.
        descriptor: of the terminal; None: standard input.
    """

    def __init__(self, actions: Mapping[str, Callable[[], object]], descriptor: int | None = None) -> None:
        self._actions = actions
        self._descriptor = descriptor
        self._before: list[Any] | None = None
        self._thread: threading.Thread | None = None

    @property
    def active(self) -> bool:
        """Whether keys are read."""
        return self._thread is not None

    def __enter__(self) -> Keys:
        if self._descriptor is None:
            self._descriptor = _terminal()
        if self._descriptor is not None:
            self._before = termios.tcgetattr(self._descriptor)
            tty.setcbreak(self._descriptor, termios.TCSANOW)
            self._wake, self._waker = os.pipe()
            self._thread = threading.Thread(target=self._run, args=(self._descriptor,), name="keys", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None or self._descriptor is None or self._before is None:
            return
        os.write(self._waker, b"x")
        self._thread.join()
        self._thread = None
        os.close(self._wake)
        os.close(self._waker)
        termios.tcsetattr(self._descriptor, termios.TCSANOW, self._before)

    def _run(self, descriptor: int) -> None:
        while True:
            ready, _, _ = select.select([descriptor, self._wake], [], [])
            if self._wake in ready:
                return
            try:
                data = os.read(descriptor, 64)
            except OSError:
                return
            if not data:
                return
            for key in keys_of(data.decode("utf-8", "replace")):
                self._actions.get(key, lambda: None)()


# a process in the background would be stopped by the kernel when it touched the terminal
def _terminal() -> int | None:
    try:
        descriptor = sys.stdin.fileno()
        return descriptor if os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp() else None
    except (OSError, ValueError, AttributeError):
        return None
