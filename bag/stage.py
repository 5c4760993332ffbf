"""The publishers of a replay: takes the recorded places at discovery, sends, and leaves everything as it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

import zmq

from bag.clock import PlayerClock
from bag.errors import ReplayError
from bag.options import PlayOptions
from bag.records import Channel, RawMessage
from cortex.core.raw import RawPublisher
from cortex.discovery.client import DiscoveryClient, wait_for_discovery
from cortex.discovery.daemon import DiscoveryDaemon
from cortex.discovery.protocol import TopicInfo
from cortex.errors import AddressInUseError, CortexError, DiscoveryUnavailableError, TopicOwnedError
from cortex.paths import default_discovery_address

WAYS_OUT = "stop that node, or leave the topic out with --exclude-topics"
DAEMON_START_S = 5.0


class Stage:
    """Holds one publisher for each topic while a replay runs.

    Args:
        options: of the replay.
        clock: ends waiting when it is stopped.
    """

    def __init__(self, options: PlayOptions, clock: PlayerClock) -> None:
        self.embedded = False
        self.refused: dict[str, int] = {}
        self._options = options
        self._clock = clock
        self._address = options.discovery_address or default_discovery_address()
        self._publishers: dict[str, tuple[Channel, RawPublisher]] = {}
        self._daemon: ExitStack = ExitStack()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def __enter__(self) -> Stage:
        try:
            self._find_discovery()
        except BaseException:
            self._context.destroy(0)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._daemon:
            for _channel, publisher in self._publishers.values():
                publisher.close()
            self._publishers.clear()
            self._context.destroy(0 if kind is not None else None)

    def announce(self, channels: Sequence[Channel]) -> None:
        """Take the places of these channels, all or none.

        Raises:
            ReplayError: a place is taken, or not one that may be taken.
        """
        for channel in channels:
            self._take(channel)

    def wait_for_audience(self) -> None:
        """Wait for the subscribers that are asked for, and give others the time to find the topics.

        Raises:
            ReplayError: they did not come in time.
        """
        wanted = self._options.wait_for_subscribers
        deadline = time.monotonic_ns() + self._options.wait_timeout_ns
        for channel, publisher in self._publishers.values():
            left = max(0, deadline - time.monotonic_ns())
            if wanted and not publisher.wait_for_subscribers(wanted, left // 1_000_000):
                raise ReplayError(
                    f"topic {channel.topic} has {publisher.subscribers} of {wanted} subscribers after "
                    f"{self._options.wait_timeout_ns / 1e9:g} s; start them, or wait longer with --wait-timeout"
                )
        self._clock.pause_for(self._options.delay_ns)

    def send(self, message: RawMessage) -> bool:
        """Send a message as it was recorded; False when it was refused.

        Raises:
            ReplayError: a subscriber is stuck (lossless), or the place of another publisher of the topic is taken.
        """
        channel, publisher = self._publishers[message.topic]
        if channel is not message.channel and not _same_place(channel, message.channel):
            publisher.close()
            publisher = self._take(message.channel)
        if publisher.send(message.frames):
            return True
        self.refused[message.topic] = self.refused.get(message.topic, 0) + 1
        if self._options.lossless:
            raise ReplayError(
                f"a subscriber of {message.topic} has taken nothing for {self._options.wait_timeout_ns / 1e9:g} s; "
                f"the replay is stopped, since --lossless may not go on without it"
            )
        return False

    def _take(self, channel: Channel) -> RawPublisher:
        options = self._options
        info = TopicInfo(channel.topic, channel.address, channel.type_name, channel.fingerprint, channel.node)
        try:
            publisher = RawPublisher(
                info,
                sndhwm=options.queue_size,
                lossless=options.lossless,
                send_timeout_ms=options.wait_timeout_ns // 1_000_000,
                linger_ms=options.linger_ns // 1_000_000,
                discovery_address=self._address,
                context=self._context,
            )
        except (AddressInUseError, TopicOwnedError) as error:
            raise ReplayError(f"{channel.topic} cannot be played as node {channel.node}: {error} ({WAYS_OUT})") from error
        except DiscoveryUnavailableError:
            raise
        except CortexError as error:
            raise ReplayError(f"{channel.topic} cannot be played: {error}") from error
        self._publishers[channel.topic] = (channel, publisher)
        return publisher

    def _find_discovery(self) -> None:
        with DiscoveryClient(self._address, timeout_ms=2000, retries=0) as client:
            try:
                client.snapshot()
            except DiscoveryUnavailableError:
                if not self._options.embedded_discovery:
                    raise
                self._start_daemon()

    def _start_daemon(self) -> None:
        daemon = DiscoveryDaemon(self._address)
        thread = threading.Thread(target=daemon.start, name="bag discovery", daemon=True)
        thread.start()
        self._daemon.callback(thread.join)
        self._daemon.callback(daemon.stop)
        if not wait_for_discovery(self._address, DAEMON_START_S):
            raise ReplayError(f"a discovery daemon could not be started at {self._address}; start one with: cortex discovery")
        self.embedded = True


def _same_place(one: Channel, other: Channel) -> bool:
    return (one.node, one.address, one.type_name, one.fingerprint) == (
        other.node,
        other.address,
        other.type_name,
        other.fingerprint,
    )
