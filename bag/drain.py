"""Tells what subscribers have not taken yet, because closing too early costs them the end.

ZeroMQ's linger only waits until the last bytes are in the kernel. A subscriber whose queue is full does not read them
there, and when the publisher then closes, libzmq throws them away. The kernel knows how much of a Unix-domain socket is
unread, so a publisher can wait for that to become nothing.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import termios
from collections.abc import Collection


def unread_bytes(paths: Collection[str]) -> dict[str, int]:
    """Bytes (with the kernel's own overhead) that peers of our bound sockets have not read, by the socket's path.

    Paths on which nothing is unread are left out.
    """
    out: dict[str, int] = {}
    for name in os.listdir("/proc/self/fd"):
        unread = _unread(int(name), paths)
        if unread is not None and unread[1]:
            out[unread[0]] = out.get(unread[0], 0) + unread[1]
    return out


# a descriptor may be closed, and even be another file, while we look: a duplicate stays what it is
def _unread(descriptor: int, paths: Collection[str]) -> tuple[str, int] | None:
    try:
        copy = os.dup(descriptor)
    except OSError:
        return None
    try:
        one = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None
    with one:
        count = array.array("i", [0])
        try:
            path = one.getsockname() if one.family == socket.AF_UNIX else None
            if not isinstance(path, str) or path not in paths:
                return None
            fcntl.ioctl(one, termios.TIOCOUTQ, count)
        except OSError:
            return None
        return path, count[0]
