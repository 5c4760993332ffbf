"""The publishers of a replay: takes the recorded places at discovery, sends, and leaves everything as it was."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import TracebackType

import zmq

from bag.clock import PlayerClock
from bag.discovery import Discovery
from bag.drain import unread_bytes
from bag.errors import ReplayError
from bag.options import PlayOptions
from bag.places import WAYS_OUT, require_free, require_harmless
from bag.precedence import NETWORK, Precedence
from bag.records import Frame
from cortex.core.raw import RawPublisher
from cortex.core.registrar import Registrar
from cortex.discovery.client import DiscoveryClient
from cortex.discovery.protocol import TopicInfo
from cortex.errors import AddressInUseError, CortexError, DiscoveryUnavailableError, TopicOwnedError
from cortex.paths import default_discovery_address, ipc_path

REQUEST_MS = 2000
# a send that has to wait looks this often whether somebody wants to stop
SEND_SLICE_MS = 50
# a subscriber that sleeps may cost so much memory per topic when the queue size is left to us
QUEUE_BYTES = 256 << 20
QUEUE_SIZE = 1000
SMALLEST_QUEUE = 16
AFTER_STOP_MS = 500
# subscribers follow a publisher that was started anew within this time
FOLLOW_NS = 2_000_000_000
LINGER_MS = 2000
# all was read when so many looks in a row find nothing: ZeroMQ's own queue would have filled up the kernel's again
DRAIN_LOOKS = 3
DRAIN_S = 0.005
# below this a copy is cheaper than its book-keeping
LEND_BYTES = 64 << 10
# files a publisher with a few subscribers needs
FILES_EACH = 8


class Stage:
    """Holds one publisher for each topic while a replay runs.

    Args:
        options: of the replay.
        clock: ends waiting when it is stopped.
        places: every place of the replay; numbers in `send` count them. The first of a topic is taken at the start.
        mean_bytes: of each topic of `places` the mean size of a message.
        precedence: of the threads that work for the replay.
    """

    def __init__(
        self,
        options: PlayOptions,
        clock: PlayerClock,
        places: Sequence[TopicInfo],
        mean_bytes: dict[str, int],
        *,
        precedence: Precedence,
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
        # libzmq aborts the process when it may not have what it asks for
        if precedence.granted:
            self._context.set(zmq.THREAD_SCHED_POLICY, os.SCHED_FIFO)
            self._context.set(zmq.THREAD_PRIORITY, NETWORK)

    def __enter__(self) -> Stage:
        """Take the first place of every topic, all or none.

        Raises:
            ReplayError: a place is taken, or not one that may be taken.
            DiscoveryUnavailableError: no daemon answers and none may be started.
        """
        try:
            require_harmless(self._places)
            _allow_files(FILES_EACH * len(self._places))
            discovery = self._resources.enter_context(Discovery(self._address, self._options.embedded_discovery))
            self.embedded = discovery.embedded
            self._registrar = Registrar(self._address)
            self._resources.callback(self._registrar.close)
            with self._client() as client:
                require_free(client, self._places)
            for number, place in enumerate(self._places):
                if place.name not in self._on_topic:
                    self._take(number)
        except BaseException:
            self._leave(0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._drain(list(self._on_topic.values()))
        finally:
            self._leave(AFTER_STOP_MS if kind is not None or self._clock.stopped else self._linger_ms)

    # everything is given back, whatever fails on the way; the daemon last
    def _leave(self, linger_ms: int) -> None:
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
    def _linger_ms(self) -> int:
        options = self._options
        if options.linger_ns is not None:
            return options.linger_ns // 1_000_000
        return options.wait_timeout_ns // 1_000_000 if options.lossless else LINGER_MS

    # until subscribers have read everything; lossless: as long as they go on reading
    def _drain(self, numbers: Sequence[int]) -> None:
        names = {str(ipc_path(self._places[number].address)): self._places[number].name for number in numbers}
        before: dict[str, int] = {}
        empty, deadline = 0, time.monotonic() + self._linger_ms / 1000
        while empty < DRAIN_LOOKS and not self._clock.stopped:
            unread = unread_bytes(names)
            empty = 0 if unread else empty + 1
            if self._options.lossless and unread != before:
                deadline = time.monotonic() + self._linger_ms / 1000
            if unread and time.monotonic() > deadline:
                if self._options.lossless:
                    raise self._stuck(", ".join(sorted(names[path] for path in unread)))
                return
            before = unread
            time.sleep(DRAIN_S)

    def _stuck(self, topic: str) -> ReplayError:
        return ReplayError(
            f"a subscriber of {topic} has taken nothing for {self._options.wait_timeout_ns / 1e9:g} s, and --lossless "
            f"may not go on without it; stop or wake that subscriber, or wait longer with --wait-timeout"
        )

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

    def subscribers(self, number: int) -> int:
        """Number of live subscriptions to the topic of a place."""
        return self._publisher(self._on_topic[self._places[number].name]).subscribers

    def send(self, number: int, frames: Sequence[Frame]) -> bool:
        """Send parts 1..N from a place; False when they were refused, or the clock was stopped while waiting.

        Raises:
            ReplayError: a subscriber is stuck (lossless), or the place is taken.
        """
        publisher = self._publishers[number] or self._move_to(number)
        return publisher.send(frames) or self._send_patiently(number, frames)

    def offer_last(self, frames: Sequence[Frame]) -> bool:
        """Send from the last place without insisting, also when lossless; another thread may do this."""
        return self._publisher(len(self._places) - 1).send(frames)

    def _send_patiently(self, number: int, frames: Sequence[Frame]) -> bool:
        publisher = self._publisher(number)
        deadline = time.monotonic_ns() + self._options.wait_timeout_ns
        while self._options.lossless and not self._clock.stopped:
            if publisher.send(frames):
                return True
            if time.monotonic_ns() > deadline:
                raise self._stuck(publisher.info.name)
        self.refused[number] += 1
        return False

    def _publisher(self, number: int) -> _Publisher:
        publisher = self._publishers[number]
        assert publisher is not None, "the place was not taken"
        return publisher

    # another channel of a topic: its publisher was started anew, as it was in the recording
    def _move_to(self, number: int) -> _Publisher:
        before = self._on_topic[self._places[number].name]
        audience = self._publisher(before).subscribers
        self._drain([before])
        self._close(before, self._linger_ms)
        publisher = self._take(number)
        if self._options.lossless or self._options.wait_for_subscribers:
            self._wait_for_followers(publisher, audience)
        return publisher

    # who does not follow to the new publisher in this time subscribed to the old one only
    def _wait_for_followers(self, publisher: _Publisher, audience: int) -> None:
        deadline = time.monotonic_ns() + min(FOLLOW_NS, self._options.wait_timeout_ns)
        while not publisher.wait_for_subscribers(audience, SEND_SLICE_MS):
            if self._clock.stopped or time.monotonic_ns() > deadline:
                return

    def _close(self, number: int, linger_ms: int) -> None:
        publisher, self._publishers[number] = self._publishers[number], None
        if publisher is None:
            return
        publisher.set_linger(linger_ms)
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
            raise ReplayError(
                f"{place.name} cannot be played as node {place.publisher_node}: {error} ({WAYS_OUT})"
            ) from error
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

    def _client(self) -> DiscoveryClient:
        return DiscoveryClient(self._address, timeout_ms=REQUEST_MS, retries=0)

    def _queue_size(self, topic: str) -> int:
        if self._options.queue_size is not None:
            return self._options.queue_size
        return max(SMALLEST_QUEUE, min(QUEUE_SIZE, QUEUE_BYTES // max(1, self._mean_bytes.get(topic, 1))))


class _Publisher(RawPublisher):
    # part by part, which costs two thirds of send_multipart(); large parts are lent, not copied
    def send(self, frames: Sequence[Frame]) -> bool:
        """Send parts 1..N; False when a lossless send waited in vain."""
        send = self._socket.send
        try:
            send(self._topic, zmq.SNDMORE if self._lossless else zmq.SNDMORE | zmq.NOBLOCK)
        except zmq.Again:
            return False
        for part in frames[:-1]:
            send(part, zmq.SNDMORE, copy=len(part) < LEND_BYTES)
        send(frames[-1], 0, copy=len(frames[-1]) < LEND_BYTES)
        return True

    def set_linger(self, linger_ms: int) -> None:
        """How long closing may take."""
        self._socket.set(zmq.LINGER, linger_ms)


# a topic needs several files, and the usual limit of 1024 is soon reached
def _allow_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted + 256:
        most = wanted + 256 if hard == resource.RLIM_INFINITY else min(hard, wanted + 256)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
