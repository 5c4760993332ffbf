"""Claims a socket address without taking it from anybody, and gives it back without harming a successor.

libzmq deletes whatever file lies at an ipc path before it binds, so a second publisher would silently take over the
first one's address.  Here the path is probed first, under a lock on its directory, so that two starting at once
cannot both win.  On release only the file we bound is deleted: its inode is compared while our socket is still open,
because until then the kernel cannot hand the same inode number to anybody else.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import zmq

from cortex.errors import AddressInUseError, CortexError
from cortex.paths import ensure_private_dir, ipc_path
from cortex.probe import exclusive, is_live, remove_own_socket, socket_inode


class BoundEndpoint:
    """A bound socket together with what must be undone when it is released."""

    def __init__(self, socket: zmq.Socket[Any], address: str, *, topic: str, node: str) -> None:
        """Bind `socket` to `address`; `topic` and `node` only appear in error messages.

        Raises:
            AddressInUseError: a live socket listens at the address.
            CortexError: the path holds something that is not a socket, or cannot be bound.
        """
        self.socket = socket
        self.address = address
        self._path = ipc_path(address)
        self._inode: int | None = None
        self._released = False
        if self._path is None:
            self._bind(topic)
            return
        ensure_private_dir(self._path.parent)
        with exclusive(self._path.parent):
            _refuse_taken_path(self._path, address, topic, node)
            self._bind(topic)
            self._inode = socket_inode(self._path)

    def _bind(self, topic: str) -> None:
        try:
            self.socket.bind(self.address)
        except zmq.ZMQError as err:
            if err.errno == zmq.EADDRINUSE:
                raise AddressInUseError(
                    f"topic {topic!r} cannot be published: {self.address} is in use; stop whoever listens there."
                ) from err
            raise CortexError(f"topic {topic!r} cannot be published: binding {self.address} failed ({err}).") from err

    def release(self) -> None:
        """Delete our own socket file, then close the socket; safe to call twice."""
        if self._released:
            return
        self._released = True
        if self._path is not None and self._inode is not None and self._path.parent.is_dir():
            with exclusive(self._path.parent):
                remove_own_socket(self._path, self._inode)
        self.socket.close()


def _refuse_taken_path(path: Path, address: str, topic: str, node: str) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
        raise CortexError(f"topic {topic!r} cannot be published: {path} is not a socket; move it away first.")
    if is_live(address):
        raise AddressInUseError(
            f"topic {topic!r} of node {node!r} is already being published: a live socket listens at {path}; "
            "stop that publisher or give this node another name."
        )


__all__ = ["BoundEndpoint"]
