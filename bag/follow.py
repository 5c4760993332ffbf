"""Follows discovery: which topics there are, which of them are wanted, and where they are now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from cortex.discovery.client import ChangeListener, DiscoveryClient, DiscoverySnapshot
from cortex.discovery.protocol import DiscoveryCommand, DiscoveryRequest, TopicInfo
from cortex.errors import CortexError

ANSWER_MS = 1000
# how often to look for a daemon that is not there
ABSENT_S = 0.1
# how often at most to look for dead publishers
DEAD_S = 1.0
# who stops waits for so long
WAIT_MS = 200


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
        failed: called from there when following has ended by an error.
    """

    def __init__(
        self, address: str, interval_ns: int, report: Callable[[Sighting], None], *, failed: Callable[[], None]
    ) -> None:
        self.address = address
        self._interval_s = interval_ns / 1e9
        self._report = report
        self._failed = failed
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
        try:
            with DiscoveryClient(self.address, timeout_ms=ANSWER_MS, retries=0) as client, ExitStack() as listening:
                listener: ChangeListener | None = None
                while not self._stopping.is_set():
                    snapshot = self._look(client)
                    notice = snapshot.notice_address if snapshot is not None else None
                    if notice is not None and listener is None:
                        listener = listening.enter_context(ChangeListener(notice))
                    elif notice is None and snapshot is not None and listener is not None:
                        # another daemon came up at the same address, one that announces nothing
                        listening.close()
                        listener = None
                    self._pause(listener, answered=snapshot is not None)
        except BaseException as error:  # noqa: BLE001  handed to the recorder, which ends with it
            self.error = error
            self._failed()

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
    def _pause(self, listener: ChangeListener | None, *, answered: bool) -> None:
        if listener is None:
            # whether a daemon has come up is asked of the kernel and costs nobody anything
            self._stopping.wait(self._interval_s if answered else min(self._interval_s, ABSENT_S))
            return
        deadline = time.monotonic() + max(DEAD_S, self._interval_s)
        while not self._stopping.is_set() and time.monotonic() < deadline:
            if listener.wait(WAIT_MS):
                return


def find(client: DiscoveryClient, topic: str) -> TopicInfo | None:
    """The entry of a topic now; None when there is none, or nobody answers."""
    request = DiscoveryRequest(DiscoveryCommand.LOOKUP_TOPIC, topic_name=topic)
    try:
        return client.request(request, wait_for_daemon=False).topic_info
    except CortexError:
        return None
