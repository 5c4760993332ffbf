"""Hearing at once that the daemon's list has changed, instead of asking again and again."""

from __future__ import annotations

import contextlib
from typing import Any

import zmq

_RECONNECT_MS = 10


class ChangeListener:
    """A subscription to the announcements of a daemon.

    The daemon also speaks to whoever has just joined, so the first `wait` after connecting, or after the daemon came
    back, returns True soon: take a snapshot after each True and nothing is missed.

    Args:
        notice_address: what `DiscoverySnapshot.notice_address` said.
        context: ZeroMQ context to use instead of the one that the process shares.

    Attributes:
        socket: the SUB socket, for a poller that watches more than this.
    """

    def __init__(self, notice_address: str, context: zmq.Context[Any] | None = None) -> None:
        # Shadowed, because the sockets of an asyncio context answer with coroutines.
        plain: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(context or zmq.Context.instance())
        self.socket = plain.socket(zmq.SUB)
        self.socket.linger = 0
        self.socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self.socket.connect(notice_address)

    def __enter__(self) -> ChangeListener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self, timeout_ms: int) -> bool:
        """Wait up to `timeout_ms` milliseconds; True when something has changed, however often."""
        changed = bool(self.socket.poll(timeout_ms, zmq.POLLIN))
        self._drain()
        return changed

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def _drain(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                self.socket.recv(zmq.DONTWAIT)
