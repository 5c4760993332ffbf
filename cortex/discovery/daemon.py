"""The discovery daemon: a REP socket in front of a `Registry`, and a socket that announces changes.

One thread answers one request at a time.  Announcements go out on an XPUB socket at the discovery address plus
``.notice``: one message with the revision after each change, and one to whoever has just subscribed, so that a listener
that joins late, or a restarted daemon, never leaves a change unnoticed.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import zmq

from cortex.discovery.protocol import DEFAULT_DISCOVERY_ADDRESS, TopicInfo
from cortex.discovery.registry import Registry
from cortex.errors import AddressInUseError, CortexError
from cortex.paths import MAX_IPC_PATH, default_discovery_address, ipc_path
from cortex.probe import LivenessCache, claimed, remove_own_socket, socket_inode
from cortex.utils.logging import LEVELS, setup_logging

__all__ = ["DEFAULT_DISCOVERY_ADDRESS", "DiscoveryDaemon", "main", "run_daemon"]

NOTICE_SUFFIX = ".notice"
_SHUTDOWN_LINGER_MS = 500
_MAX_DRAIN = 100
_ADVICE = "use the daemon there, stop it, or choose another address with --address or CORTEX_DISCOVERY_ADDRESS"
_logger = logging.getLogger("cortex.discovery")


class DiscoveryDaemon:
    """Keeps the list of topics of one host.

    Args:
        address: where to listen; by default what `cortex.paths.default_discovery_address` says.

    Attributes:
        address: where it listens.
        ready: set while it is bound and answers.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = address or default_discovery_address()
        self.ready = threading.Event()
        self._stopping = threading.Event()
        self._wake_up: socket.socket | None = None
        self._liveness = LivenessCache()
        self._registry = Registry()

    @property
    def topics(self) -> tuple[TopicInfo, ...]:
        """All entries in order of first registration."""
        return self._registry.topics

    def start(self) -> None:
        """Bind, then answer requests until `stop`, a SHUTDOWN request or an exception; blocks.

        Raises:
            AddressInUseError: somebody listens on the address; nothing was touched.
            CortexError: the address cannot be bound.
        """
        try:
            with zmq.Context() as context, self._bound(context) as (replies, notices), self._wakeable() as woken:
                _logger.info("listening on %s", self.address)
                self.ready.set()
                self._serve(replies, notices, woken)
        finally:
            self.ready.clear()
            self._stopping.clear()
            _logger.info("stopped")

    def stop(self) -> None:
        """Make `start` return at once; from any thread or signal handler, before `start` too."""
        self._stopping.set()
        wake_up = self._wake_up
        # A full buffer means that it is being woken already, a closed socket that it has just ended.
        with contextlib.suppress(OSError):
            if wake_up is not None:
                wake_up.send(b"!", socket.MSG_DONTWAIT)

    # The flag is read after the pair exists, and set before the pair is looked at: no stop is missed.
    @contextlib.contextmanager
    def _wakeable(self) -> Iterator[socket.socket]:
        self._wake_up, woken = socket.socketpair()
        with self._wake_up, woken, _woken_by_signals(self._wake_up):
            yield woken

    @contextlib.contextmanager
    def _bound(self, context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
        notice = _notice_address(self.address)
        with context.socket(zmq.REP) as replies, context.socket(zmq.XPUB) as notices:
            replies.linger = notices.linger = 0
            notices.setsockopt(zmq.XPUB_VERBOSE, 1)
            files: list[tuple[Path, int | None] | None] = []
            try:
                with claimed(self.address, advice=_ADVICE):
                    files.append(_bind(replies, self.address))
                    if notice:
                        files.append(_bind(notices, notice))
                self._registry = Registry(notice=notice, find_dead=self._find_dead)
                yield replies, notices
            finally:
                for path, inode in filter(None, files):
                    remove_own_socket(path, inode)

    def _serve(self, replies: zmq.Socket[bytes], notices: zmq.Socket[bytes], woken: socket.socket) -> None:
        poller = zmq.Poller()
        for source in (replies, notices, woken):
            poller.register(source, zmq.POLLIN)
        announced = self._registry.revision
        while not self._stopping.is_set() and not self._registry.shutting_down:
            ready = dict(poller.poll())
            if replies in ready:
                replies.send(self._registry.answer(replies.recv_multipart()[-1]))
            if self._registry.revision != announced or notices in ready:
                announced = self._registry.revision
                _announce(notices, announced)
            if woken.fileno() in ready:
                woken.recv(64)
        if self._registry.shutting_down:
            replies.linger = _SHUTDOWN_LINGER_MS

    def _find_dead(self, topics: Iterable[TopicInfo]) -> list[str]:
        topics = list(topics)
        dead = self._liveness.dead(info.address for info in topics)
        return [info.name for info in topics if info.address in dead]


# A signal just before the poll would otherwise be handled only after it, which may be never.
@contextlib.contextmanager
def _woken_by_signals(wake_up: socket.socket) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wake_up.setblocking(False)
    before = signal.set_wakeup_fd(wake_up.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)


def _announce(notices: zmq.Socket[bytes], revision: int) -> None:
    with contextlib.suppress(zmq.Again):
        for _ in range(_MAX_DRAIN):
            notices.recv(zmq.DONTWAIT)  # who joined or left does not matter
    notices.send(revision.to_bytes(8, "big"))


def _notice_address(address: str) -> str | None:
    path = ipc_path(address)
    fits = path is not None and len(os.fsencode(path)) + len(NOTICE_SUFFIX) <= MAX_IPC_PATH
    return address + NOTICE_SUFFIX if fits else None


def _bind(sock: zmq.Socket[bytes], address: str) -> tuple[Path, int | None] | None:
    try:
        sock.bind(address)
    except zmq.ZMQError as err:
        if err.errno == zmq.EADDRINUSE:
            raise AddressInUseError(f"Somebody already listens on {address}: choose another address.") from err
        raise CortexError(f"Cannot listen on {address} ({err.strerror}): choose another address.") from err
    path = ipc_path(address)
    return None if path is None else (path, socket_inode(path))


def run_daemon(address: str | None = None, log_level: str = "INFO") -> int:
    """Run a daemon in the main thread of a command until SIGINT, SIGTERM or SHUTDOWN; log on stderr.

    Returns:
        The exit status: 0, or 1 after one sentence on stderr when it could not start.
    """
    setup_logging(log_level)
    daemon = DiscoveryDaemon(address)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: daemon.stop())
    try:
        daemon.start()
    except CortexError as err:
        sys.stderr.write(f"{err}\n")
        return 1
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``cortex-discovery``."""
    parser = argparse.ArgumentParser(prog="cortex-discovery", description="Keep the list of this host's topics.")
    parser.add_argument("--address", help=f"where to listen (default: {default_discovery_address()})")
    parser.add_argument("--log-level", default="INFO", choices=LEVELS, help="what to log on stderr (default: INFO)")
    options = parser.parse_args(argv)
    return run_daemon(options.address, options.log_level)


if __name__ == "__main__":
    sys.exit(main())
