"""The discovery daemon a replay needs: the one that runs, or one inside for as long as the replay lasts."""

from __future__ import annotations

import threading
from types import TracebackType

from bag.errors import ReplayError
from cortex.discovery.client import DiscoveryClient, wait_for_discovery
from cortex.discovery.daemon import DiscoveryDaemon
from cortex.errors import CortexError, DiscoveryUnavailableError

START_S = 5.0
REQUEST_MS = 2000


class Discovery:
    """A context in which a daemon answers at an address; `embedded` says whether it is our own.

    Args:
        address: where.
        may_start: start one when none answers.

    Raises:
        DiscoveryUnavailableError: none answers and none may be started.
        ReplayError: none could be started.
    """

    def __init__(self, address: str, may_start: bool) -> None:
        self.embedded = False
        self._address = address
        self._may_start = may_start
        self._daemon: DiscoveryDaemon | None = None
        self._thread: threading.Thread | None = None
        self._failure: CortexError | None = None

    def __enter__(self) -> Discovery:
        with DiscoveryClient(self._address, timeout_ms=REQUEST_MS, retries=0) as client:
            try:
                client.snapshot()
            except DiscoveryUnavailableError:
                if not self._may_start:
                    raise
                self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        self._daemon = DiscoveryDaemon(self._address)
        self._thread = threading.Thread(target=self._run, args=(self._daemon,), name="bag discovery", daemon=True)
        self._thread.start()
        # when another one has appeared meanwhile, that serves as well
        if not wait_for_discovery(self._address, START_S):
            self._stop()
            raise ReplayError(
                f"a discovery daemon could not be started at {self._address}: {self._failure or 'it does not answer'}"
            )
        self.embedded = self._failure is None

    def _run(self, daemon: DiscoveryDaemon) -> None:
        try:
            daemon.start()
        except CortexError as error:
            self._failure = error

    def _stop(self) -> None:
        if self._daemon is not None and self._thread is not None:
            self._daemon.stop()
            self._thread.join()
