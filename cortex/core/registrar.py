"""Keeps topics registered, because a discovery daemon forgets everything when it restarts.

A daemon's restart shows in the identity of its socket file (device, inode, change time), which costs one `stat` to
look at, so the daemon is not polled for it.  Now and then the list is read as well, in case somebody else removed an
entry.  One registrar, with one thread, serves all publishers of a node.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import zmq

from cortex.discovery.client import DiscoveryClient
from cortex.discovery.protocol import TopicInfo
from cortex.errors import CortexError
from cortex.paths import ipc_path
from cortex.probe import is_live

logger = logging.getLogger(__name__)

_REQUEST_TIMEOUT_MS = 1000
_RETRY_REFUSED_S = 1.0
_VERIFY_S = 5.0
_VERIFY_WITHOUT_FILE_S = 2.0

Identity = tuple[int, int, int]


@dataclass(eq=False)
class _Entry:
    info: TopicInfo
    registered: bool = False
    retry_at: float = 0.0
    complaint: str = ""


@dataclass
class _DaemonWatch:
    """Tells whether the daemon behind an address is still the one that was there at the last look."""

    address: str
    identity: Identity | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._path = ipc_path(self.address)

    @property
    def has_file(self) -> bool:
        return self._path is not None

    def changed(self) -> bool:
        before, self.identity = self.identity, self._look()
        return before != self.identity

    def _look(self) -> Identity | None:
        if self._path is None:
            return None
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return (status.st_dev, status.st_ino, status.st_ctime_ns)


class Registrar:
    """Registers topics with the discovery daemon and keeps them registered until told otherwise."""

    def __init__(
        self, discovery_address: str, *, context: zmq.Context[Any] | None = None, interval: float = 0.25
    ) -> None:
        """Prepare; nothing is sent and no thread runs before the first `register()`.

        Args:
            discovery_address: where the daemon listens.
            context: ZeroMQ context for the requests; the client makes its own when None.
            interval: seconds between two looks at the daemon.
        """
        self.discovery_address = discovery_address
        self._context = context
        self._interval = interval
        self._entries: list[_Entry] = []
        self._watch = _DaemonWatch(discovery_address)
        self._client: DiscoveryClient | None = None
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._verify_at = 0.0
        self._gave_up = False

    def register(self, info: TopicInfo) -> bool:
        """Try to register now, and keep trying in the background; return whether it worked at once.

        Never raises for an absent daemon or a refusal: the reason is logged once.
        """
        with self._lock:
            if self._stop.is_set():
                raise CortexError(f"topic {info.name!r} cannot be registered: its registrar is closed.")
            entry = _Entry(info)
            self._entries.append(entry)
            self._notice_restart()
            self._attempt(entry)
            self._ensure_thread()
            return entry.registered

    def is_registered(self, info: TopicInfo) -> bool:
        """Return whether the daemon holds this very entry, as far as is known."""
        return any(entry.registered for entry in tuple(self._entries) if entry.info is info)

    def unregister(self, info: TopicInfo) -> bool:
        """Forget the topic, and remove it from the daemon if the entry there is still ours; return whether it was."""
        with self._lock:
            mine = [entry for entry in self._entries if entry.info is info]
            self._entries = [entry for entry in self._entries if entry.info is not info]
            if not any(entry.registered for entry in mine) or self._gave_up or not self._reachable():
                return False
            try:
                return self._connected().unregister_own(info)
            except CortexError as err:
                # a daemon that hangs must not cost its timeout again for every topic of a closing node
                self._gave_up = True
                logger.warning("topic %r stays listed: %s", info.name, err)
                return False

    def close(self) -> None:
        """Stop the thread and close the connection; entries at the daemon are left as they are."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=3 * _REQUEST_TIMEOUT_MS / 1000)
        with self._lock:
            self._entries = []
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _ensure_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="cortex-registrar", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._look_once()

    def _look_once(self) -> None:
        try:
            with self._lock:
                self._look_after_entries()
        except Exception:
            logger.exception("registering topics at %s failed; trying again", self.discovery_address)

    def _look_after_entries(self) -> None:
        self._notice_restart()
        if not self._entries or not self._reachable():
            return
        now = time.monotonic()
        if now >= self._verify_at:
            self._verify_at = now + (_VERIFY_S if self._watch.has_file else _VERIFY_WITHOUT_FILE_S)
            self._verify()
        for entry in self._entries:
            if self._stop.is_set():
                return
            if not entry.registered and time.monotonic() >= entry.retry_at:
                self._attempt(entry)

    def _notice_restart(self) -> None:
        if self._watch.changed():
            self._verify_at = time.monotonic() + _VERIFY_S
            for entry in self._entries:
                entry.registered = False
                entry.retry_at = 0.0

    def _verify(self) -> None:
        """Mark the entries that the daemon no longer holds; one that a live sibling replaced is left to it."""
        try:
            listed = {info.name: info for info in self._connected().snapshot().topics}
        except CortexError:
            return
        for entry in self._entries:
            found = listed.get(entry.info.name)
            if found is None:
                entry.registered = False
            elif _same_owner(found, entry.info):
                entry.registered = True
            elif entry.registered or found.publisher_node == entry.info.publisher_node:
                entry.registered = False
                live = is_live(found.address) is not False
                entry.retry_at = time.monotonic() + (2 * _VERIFY_S if live else 0.0)
                self._complain(entry, f"node {found.publisher_node!r} now registers it at {found.address}")

    def _attempt(self, entry: _Entry) -> None:
        if not self._reachable():
            self._complain(
                entry,
                f"no discovery daemon answers at {self.discovery_address}; start one with `cortex discovery`",
            )
            return
        try:
            self._connected().register(entry.info)
        except CortexError as err:
            entry.retry_at = time.monotonic() + _RETRY_REFUSED_S
            self._complain(entry, str(err))
            return
        entry.registered = True
        self._gave_up = False
        if entry.complaint:
            logger.info("topic %r is registered now", entry.info.name)
        entry.complaint = ""

    def _complain(self, entry: _Entry, reason: str) -> None:
        # the same reason is said once, not at every try
        if entry.complaint != reason:
            entry.complaint = reason
            logger.warning("topic %r is not registered: %s (trying again in the background)", entry.info.name, reason)

    def _reachable(self) -> bool:
        return is_live(self.discovery_address) is not False

    def _connected(self) -> DiscoveryClient:
        if self._client is None:
            self._client = DiscoveryClient(
                self.discovery_address, _REQUEST_TIMEOUT_MS, retries=0, context=self._context
            )
        return self._client


def _same_owner(found: TopicInfo, ours: TopicInfo) -> bool:
    return found.address == ours.address and found.publisher_node == ours.publisher_node


__all__ = ["Registrar"]
