"""What the asynchronous and the threaded subscriber share: finding the topic, checking, decoding, counting."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import zmq

from cortex.core.contexts import plain_context
from cortex.discovery.client import DiscoveryClient
from cortex.discovery.protocol import TopicInfo
from cortex.errors import CodecError, CortexError, MessageFingerprintError, WireError
from cortex.messages.base import Message, MessageHeader
from cortex.probe import is_live

logger = logging.getLogger(__name__)

LOOKUP_TIMEOUT_MS = 1000
POLL_INTERVAL_S = 0.1
_RECONNECT_MS = 20


@dataclass
class SubscriberStats:
    """What a subscriber has seen.

    Attributes:
        received: messages delivered.
        dropped_estimated: messages missing between those received, by their sequence numbers.
        malformed: messages that could not be decoded.
        last_recv_perf_ns: `time.perf_counter_ns()` of the last message.
        last_sequence_by_publisher: number of the last message, by publisher address.
    """

    received: int = 0
    dropped_estimated: int = 0
    malformed: int = 0
    last_recv_perf_ns: int = 0
    last_sequence_by_publisher: dict[str, int] = field(default_factory=dict)


def update_stats_for_header(stats: SubscriberStats, header: MessageHeader, publisher: str = "") -> None:
    """Count what is missing before this message; a sequence that goes down is a restarted publisher, not a loss."""
    last = stats.last_sequence_by_publisher.get(publisher)
    if last is not None and header.sequence > last + 1:
        stats.dropped_estimated += header.sequence - last - 1
    stats.last_sequence_by_publisher[publisher] = header.sequence
    stats.last_recv_perf_ns = time.perf_counter_ns()


def decode_frames(message_type: type[Message], frames: Sequence[Any]) -> tuple[Message, MessageHeader]:
    """Decode parts 1..N of a received message; CodecError or WireError when they are malformed."""
    return message_type.from_parts(frames)


class SubscriberBase:
    """A subscription to one topic: what is known of its publisher, and what came in so far.

    Attributes:
        topic_name, message_type, node_name, discovery_address, queue_size: as given.
    """

    def __init__(
        self,
        topic_name: str,
        message_type: type[Message],
        node_name: str,
        discovery_address: str,
        queue_size: int,
        *,
        context: zmq.Context[Any] | None,
        strict_fingerprint: bool,
    ) -> None:
        self.topic_name = topic_name
        self.message_type = message_type
        self.node_name = node_name
        self.discovery_address = discovery_address
        self.queue_size = queue_size
        self._strict = strict_fingerprint
        self._shared_context = None if context is None else plain_context(context)
        self._topic = topic_name.encode()
        self._topic_info: TopicInfo | None = None
        self._stats = SubscriberStats()
        self._last_receive_time: float | None = None

    @property
    def topic_info(self) -> TopicInfo | None:
        """The registry entry this subscriber is connected to, or None."""
        return self._topic_info

    @property
    def is_connected(self) -> bool:
        """Whether the topic was found and its address is connected to; says nothing about a publisher's health."""
        return self._topic_info is not None

    @property
    def receive_count(self) -> int:
        """Messages delivered so far."""
        return self._stats.received

    @property
    def dropped_count(self) -> int:
        """Messages missing between those delivered, judged by their sequence numbers."""
        return self._stats.dropped_estimated

    @property
    def last_receive_time(self) -> float | None:
        """Wall time of the last message in seconds since the epoch, or None."""
        return self._last_receive_time

    @property
    def stats(self) -> SubscriberStats:
        """The counters, live."""
        return self._stats

    def _client(self) -> DiscoveryClient:
        return DiscoveryClient(self.discovery_address, LOOKUP_TIMEOUT_MS, retries=0, context=self._shared_context)

    def _lookup(self) -> TopicInfo | None:
        """Ask once; quick when no daemon runs."""
        if is_live(self.discovery_address) is False:
            return None
        with self._client() as client:
            return client.lookup_topic(self.topic_name)

    def _check(self, info: TopicInfo) -> None:
        expected = self.message_type.fingerprint()
        if info.fingerprint == expected:
            return
        text = (
            f"topic {self.topic_name!r} carries {info.message_type} ({info.fingerprint:#018x}) from node "
            f"{info.publisher_node!r}, but {self.message_type.__name__} ({expected:#018x}) was asked for: subscribe "
            "with the publisher's class."
        )
        if self._strict:
            raise MessageFingerprintError(text)
        logger.warning("%s", text)

    def _attach(self, socket: zmq.Socket[Any], info: TopicInfo, receive_queue: int) -> None:
        """Check the entry, then subscribe `socket` to it."""
        self._check(info)
        socket.set(zmq.RCVHWM, receive_queue)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RECONNECT_IVL, _RECONNECT_MS)
        socket.set(zmq.SUBSCRIBE, self._topic)
        try:
            socket.connect(info.address)
        except zmq.ZMQError as err:
            raise CortexError(
                f"topic {self.topic_name!r} cannot be received: connecting to {info.address} failed ({err})."
            ) from err
        self._topic_info = info

    def _accept(self, frames: Sequence[zmq.Frame]) -> tuple[Message, MessageHeader] | None:
        """Decode a whole multipart message and count it; None when it is not for us or malformed, whatever it is."""
        # ZeroMQ subscriptions match by prefix: /a also gets /ab when both come through one socket
        if frames[0].bytes != self._topic:
            return None
        try:
            if len(frames) < 2:
                raise WireError("it has no header")
            header = MessageHeader.from_bytes(frames[1].buffer)
            update_stats_for_header(self._stats, header, self._topic_info.address if self._topic_info else "")
            message, header = decode_frames(self.message_type, frames[1:])
        except (CodecError, WireError) as err:
            self._note_malformed(err)
            return None
        self._stats.received += 1
        self._last_receive_time = time.time()
        return message, header

    def _note_malformed(self, err: Exception) -> None:
        self._stats.malformed += 1
        count = self._stats.malformed
        # at powers of two only: a broken publisher must not flood the log
        if count & (count - 1) == 0:
            logger.warning("topic %r: message dropped, %d so far: %s", self.topic_name, count, err)


__all__ = ["MessageFingerprintError", "SubscriberBase", "SubscriberStats", "decode_frames", "update_stats_for_header"]
