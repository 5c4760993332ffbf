"""Follows discovery: which topics there are, which of them are wanted, and where they are now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cortex.discovery.client import ChangeListener, DiscoveryClient, DiscoverySnapshot
from cortex.discovery.protocol import TopicInfo
from cortex.errors import CortexError


@dataclass(frozen=True, slots=True)
class Sighting:
    """What discovery last said: all entries, those whose publisher is dead, and whether the daemon answered."""

    topics: tuple[TopicInfo, ...] = ()
    dead: frozenset[str] = frozenset()
    answered: bool = False


class Follower:
    """Asks the daemon in a thread of its own and reports every change.

    Changes are announced by our daemon and reported at once; another daemon is asked every `interval_ns`.

    Args:
        address: the daemon's address.
        interval_ns: time between questions without announcements.
        report: called with every new sighting, from the follower's thread.
    """

    def __init__(self, address: str, interval_ns: int, report: Callable[[Sighting], None]) -> None:
        self.address = address
        self._interval_s = interval_ns / 1e9
        self._report = report
        self._stopping = threading.Event()
        self._seen: Sighting | None = None
        self._thread = threading.Thread(target=self._run, name="bag follow", daemon=True)
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Stop and wait for the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        listener: ChangeListener | None = None
        try:
            with DiscoveryClient(self.address, timeout_ms=1000, retries=0) as client:
                while not self._stopping.is_set():
                    snapshot = self._look(client)
                    if snapshot is not None and snapshot.notice_address and listener is None:
                        listener = ChangeListener(snapshot.notice_address)
                    self._pause(listener)
        except BaseException as error:  # noqa: BLE001  handed to the recorder, which ends with it
            self.error = error
        finally:
            if listener is not None:
                listener.close()

    def _look(self, client: DiscoveryClient) -> DiscoverySnapshot | None:
        try:
            snapshot = client.snapshot()
        except CortexError:
            self._tell(Sighting(answered=False))
            return None
        self._tell(Sighting(snapshot.topics, snapshot.dead, answered=True))
        return snapshot

    def _tell(self, sighting: Sighting) -> None:
        if sighting != self._seen:
            self._seen = sighting
            self._report(sighting)

    # with announcements the question is still asked now and then: dead publishers announce nothing
    def _pause(self, listener: ChangeListener | None) -> None:
        if listener is None:
            self._stopping.wait(self._interval_s)
            return
        deadline = time.monotonic() + max(1.0, self._interval_s)
        while not self._stopping.is_set() and time.monotonic() < deadline:
            if listener.wait(50):
                return
