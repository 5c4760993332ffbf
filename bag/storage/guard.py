"""Asks HDF5 about a file it may crash on, hang on or be made to fill the memory by: in a child process with limits."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from typing import Any

MAX_ANSWER = 16 << 20
SPARE_MEMORY = 2 << 30


def ask(question: Callable[[], Any], *, timeout_s: float = 20, cpu_s: float | None = None) -> Any:
    """The answer (anything JSON can hold) of a function that runs in a fork of this process; None when there is none.

    No answer comes when the function raises, dies, takes longer than `timeout_s`, computes longer than `cpu_s`, or
    takes more than 2 GiB of memory.
    """
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(question, sender, timeout_s if cpu_s is None else cpu_s)
    os.close(sender)
    try:
        data = _received(receiver, time.monotonic() + timeout_s)
    finally:
        os.close(receiver)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    try:
        return json.loads(data)
    except ValueError:
        return None


# never returns, and never unwinds into what the parent was doing
def _answer(question: Callable[[], Any], sender: int, cpu_s: float) -> None:
    try:
        faulthandler.disable()
        os.setpgid(0, 0)
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_MEMORY, used + SPARE_MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s) + 1, int(cpu_s) + 2))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with os.fdopen(sender, "wb", closefd=False) as file_out:
            file_out.write(json.dumps(question()).encode())
    finally:
        os._exit(0)


def _received(receiver: int, deadline: float) -> bytes:
    data = b""
    while len(data) < MAX_ANSWER and (left := deadline - time.monotonic()) > 0:
        if not select.select([receiver], [], [], left)[0]:
            break
        piece = os.read(receiver, 1 << 16)
        if not piece:
            return data
        data += piece
    return b""
