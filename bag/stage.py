"""The publishers of a replay: takes the recorded places at discovery, sends, and leaves everything as it was."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import TracebackType

import zmq

from bag.clock import PlayerClock
from bag.errors import ReplayError
from bag.options import PlayOptions
from bag.places import require_harmless
from bag.records import Frame
from cortex.core.raw import RawPublisher
from cortex.core.registrar import Registrar
from cortex.discovery.client import DiscoveryClient, wait_for_discovery
from cortex.discovery.daemon import DiscoveryDaemon
from cortex.discovery.protocol import TopicInfo
from cortex.errors import AddressInUseError, CortexError, DiscoveryUnavailableError, TopicOwnedError
from cortex.paths import default_discovery_address
from cortex.probe import is_live

WAYS_OUT = "stop that node, leave the topic out (--exclude-topics), or give it another name (--remap, --prefix)"
DAEMON_START_S = 5.0
REQUEST_MS = 2000
# a send that has to wait looks this often whether somebody wants to stop
SEND_SLICE_MS = 50
# a subscriber that sleeps may cost so much memory per topic when the queue size is left to us
QUEUE_BYTES = 256 << 20
QUEUE_SIZE = 1000
SMALLEST_QUEUE = 16
# in lossless mode what is queued must still be taken at the end, so little is queued
LOSSLESS_QUEUE_SIZE = 200
AFTER_STOP_MS = 500
LINGER_MS = 2000
# files a publisher with a few subscribers needs
FILES_EACH = 8


class Stage:
    """Holds one publisher for each topic while a replay runs.

    Args:
        options: of the replay.
        clock: ends waiting when it is stopped.
        places: every place of the replay; numbers in `send` count them. The first of a topic is taken at the start.
        mean_bytes: of each topic of `places` the mean size of a message.
    """

    def __init__(
        self, options: PlayOptions, clock: PlayerClock, places: Sequence[TopicInfo], mean_bytes: dict[str, int]
    ) -> None:
        self.embedded = False
        self.refused = [0] * len(places)
        self._options = options
        self._clock = clock
        self._places = places
        self._mean_bytes = mean_bytes
        self._address = options.discovery_address or default_discovery_address()
        self._publishers: list[_Publisher | None] = [None] * len(places)
        self._on_topic: dict[str, int] = {}
        self._resources = ExitStack()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, max(1023, 4 * len(places)))

    def __enter__(self) -> Stage:
        """Take the first place of every topic, all or none.

        Raises:
            ReplayError: a place is taken, or not one that may be taken.
            DiscoveryUnavailableError: no daemon answers and none may be started.
        """
        try:
            require_harmless(self._places)
            _allow_files(FILES_EACH * len(self._places))
            self._find_discovery()
            self._registrar = Registrar(self._address)
            self._resources.callback(self._registrar.close)
            self._require_free()
            for number, place in enumerate(self._places):
                if place.name not in self._on_topic:
                    self._take(number)
        except BaseException:
            self._leave(0)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave(AFTER_STOP_MS if kind is not None or self._clock.stopped else None)

    # everything is given back, whatever fails on the way; the daemon last
    def _leave(self, linger_ms: int | None) -> None:
        with self._resources:
            for number in self._on_topic.values():
                self._close(number, linger_ms)
            self._on_topic.clear()
            self._end_context()

    # closing waits for the last messages to leave, but not longer than a moment for somebody who wants to stop
    def _end_context(self) -> None:
        ending = threading.Thread(target=self._context.term, name="bag linger", daemon=True)
        ending.start()
        stopped_for = 0
        while ending.is_alive() and stopped_for <= AFTER_STOP_MS:
            ending.join(SEND_SLICE_MS / 1000)
            stopped_for += SEND_SLICE_MS if self._clock.stopped else 0

    @property
    def linger_ms(self) -> int:
        """How long the last messages may take to leave."""
        options = self._options
        if options.linger_ns is not None:
            return options.linger_ns // 1_000_000
        return max(LINGER_MS, options.wait_timeout_ns // 1_000_000) if options.lossless else LINGER_MS

    def wait_for_audience(self) -> None:
        """Wait for the subscribers that are asked for, and give others the time to find the topics.

        Raises:
            ReplayError: they did not come in time.
        """
        wanted = self._options.wait_for_subscribers
        deadline = time.monotonic_ns() + self._options.wait_timeout_ns
        for number in self._on_topic.values() if wanted else ():
            publisher = self._publisher(number)
            while not publisher.wait_for_subscribers(wanted, SEND_SLICE_MS) and not self._clock.stopped:
                if time.monotonic_ns() > deadline:
                    raise ReplayError(
                        f"topic {publisher.info.name} has {publisher.subscribers} of {wanted} subscribers after "
                        f"{self._options.wait_timeout_ns / 1e9:g} s; start them, or wait longer with --wait-timeout"
                    )
        self._clock.pause_for(self._options.delay_ns)

    def subscribers(self, topic: str) -> int:
        """Number of live subscriptions to a topic as it is played."""
        return self._publisher(self._on_topic[topic]).subscribers

    def send(self, number: int, frames: Sequence[Frame]) -> bool:
        """Send parts 1..N from a place; False when they were refused, or the clock was stopped while waiting.

        Raises:
            ReplayError: a subscriber is stuck (lossless), or the place is taken.
        """
        publisher = self._publishers[number] or self._move_to(number)
        return publisher.send(frames) or self._send_patiently(number, frames)

    def offer(self, number: int, frames: Sequence[Frame]) -> bool:
        """Send from a place without insisting, also when lossless."""
        return self._publisher(number).send(frames)

    def _send_patiently(self, number: int, frames: Sequence[Frame]) -> bool:
        publisher = self._publisher(number)
        deadline = time.monotonic_ns() + self._options.wait_timeout_ns
        while self._options.lossless and not self._clock.stopped:
            if publisher.send(frames):
                return True
            if time.monotonic_ns() > deadline:
                raise ReplayError(
                    f"a subscriber of {publisher.info.name} has taken nothing for "
                    f"{self._options.wait_timeout_ns / 1e9:g} s and --lossless may not go on without it; "
                    f"stop or wake that subscriber, or wait longer with --wait-timeout"
                )
        self.refused[number] += 1
        return False

    def _publisher(self, number: int) -> _Publisher:
        publisher = self._publishers[number]
        assert publisher is not None, "the place was not taken"
        return publisher

    # another channel of a topic: its publisher was started anew, as it was in the recording
    def _move_to(self, number: int) -> _Publisher:
        self._close(self._on_topic[self._places[number].name], None)
        return self._take(number)

    def _close(self, number: int, linger_ms: int | None) -> None:
        publisher, self._publishers[number] = self._publishers[number], None
        if publisher is None:
            return
        publisher.set_linger(self.linger_ms if linger_ms is None else linger_ms)
        self._registrar.unregister(publisher.info)
        publisher.close()

    def _take(self, number: int) -> _Publisher:
        place = self._places[number]
        try:
            publisher = _Publisher(
                place,
                sndhwm=self._queue_size(place.name),
                lossless=self._options.lossless,
                send_timeout_ms=SEND_SLICE_MS,
                register=False,
                context=self._context,
            )
            self._publishers[number] = publisher
            self._on_topic[place.name] = number
            self._register(place)
        except (AddressInUseError, TopicOwnedError) as error:
            raise ReplayError(f"{place.name} cannot be played as node {place.publisher_node}: {error} ({WAYS_OUT})") from error
        except DiscoveryUnavailableError:
            raise
        except CortexError as error:
            raise ReplayError(f"{place.name} cannot be played: {error}") from error
        return publisher

    def _register(self, place: TopicInfo) -> None:
        # the registrar never raises, and keeps the entry alive over restarts of the daemon
        if not self._registrar.register(place):
            with self._client() as client:
                client.register(place)

    def _queue_size(self, topic: str) -> int:
        if self._options.queue_size is not None:
            return self._options.queue_size
        most = LOSSLESS_QUEUE_SIZE if self._options.lossless else QUEUE_SIZE
        return max(SMALLEST_QUEUE, min(most, QUEUE_BYTES // max(1, self._mean_bytes.get(topic, 1))))

    # --- discovery

    def _client(self) -> DiscoveryClient:
        return DiscoveryClient(self._address, timeout_ms=REQUEST_MS, retries=0)

    def _require_free(self) -> None:
        with self._client() as client:
            listed = client.snapshot().topics
            by_topic = {info.name: info for info in listed}
            by_address = {info.address: info for info in listed}
            for place in self._places:
                owner = by_topic.get(place.name)
                if owner is not None and is_live(owner.address) is not False:
                    raise _taken(place, owner)
                if is_live(place.address):
                    raise _taken(place, by_address.get(place.address))
            for place in self._places:
                owner = by_topic.get(place.name)
                if owner is not None and owner.publisher_node != place.publisher_node:
                    # what a crashed node left behind would make the daemon refuse us
                    client.unregister_own(owner)

    def _find_discovery(self) -> None:
        with self._client() as client:
            try:
                client.snapshot()
            except DiscoveryUnavailableError:
                if not self._options.embedded_discovery:
                    raise
                self._start_daemon()

    def _start_daemon(self) -> None:
        daemon = DiscoveryDaemon(self._address)
        failed: list[CortexError] = []
        thread = threading.Thread(target=_run_daemon, args=(daemon, failed), name="bag discovery", daemon=True)
        thread.start()
        self._resources.callback(thread.join)
        self._resources.callback(daemon.stop)
        # another one may have appeared meanwhile; that serves as well
        if not wait_for_discovery(self._address, DAEMON_START_S):
            reason = failed[0] if failed else "it does not answer"
            raise ReplayError(f"a discovery daemon could not be started at {self._address}: {reason}")
        self.embedded = not failed


class _Publisher(RawPublisher):
    def set_linger(self, linger_ms: int) -> None:
        """How long closing may take."""
        self._socket.set(zmq.LINGER, linger_ms)


def _run_daemon(daemon: DiscoveryDaemon, failed: list[CortexError]) -> None:
    try:
        daemon.start()
    except CortexError as error:
        failed.append(error)


def _taken(place: TopicInfo, owner: TopicInfo | None) -> ReplayError:
    if owner is None:
        reason = f"a process that discovery does not list is alive at {place.address}"
    else:
        reason = f"node {owner.publisher_node} is alive and publishes {owner.name} at {owner.address}"
    return ReplayError(f"{place.name} cannot be played as node {place.publisher_node}: {reason}; {WAYS_OUT}")


# a topic needs several files, and the usual limit of 1024 is soon reached
def _allow_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted + 256:
        most = wanted + 256 if hard == resource.RLIM_INFINITY else min(hard, wanted + 256)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
