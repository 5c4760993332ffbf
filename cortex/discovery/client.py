"""Talking to the discovery daemon: one question at a time over a REQ socket that is thrown away when it gets no answer.

Two layers.  The historical calls (`register_topic`, `lookup_topic`, ...) never raise: they answer False, None or an
empty list, and wait for a daemon that is not there yet.  The newer ones (`register`, `unregister_own`, `snapshot`) say
what went wrong, and say it at once when nobody listens.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any, TypeAlias

import zmq
import zmq.asyncio

from cortex.discovery.notices import ChangeListener
from cortex.discovery.protocol import (
    DiscoveryCommand,
    DiscoveryRequest,
    DiscoveryResponse,
    DiscoverySnapshot,
    DiscoveryStatus,
    TopicInfo,
)
from cortex.errors import CortexError, DiscoveryUnavailableError, TopicOwnedError
from cortex.paths import default_discovery_address
from cortex.probe import LivenessCache, is_live

__all__ = ["ChangeListener", "DiscoveryClient", "DiscoverySnapshot", "wait_for_discovery"]

Context: TypeAlias = "zmq.Context[Any]"

_RECONNECT_MS = 10
_logger = logging.getLogger("cortex.discovery.client")


class DiscoveryClient:
    """A connection to the daemon; may be shared by threads, which then take turns.

    Args:
        discovery_address: the daemon's address; by default what `cortex.paths.default_discovery_address` says now.
        timeout_ms: how long one attempt waits for the answer, in milliseconds.
        retries: how many attempts may follow a first one that got no answer, while somebody listens there.
        context: ZeroMQ context to use instead of the one that all clients of a process share.
    """

    def __init__(
        self,
        discovery_address: str | None = None,
        timeout_ms: int = 5000,
        retries: int = 1,
        *,
        context: Context | None = None,
    ) -> None:
        self.discovery_address = discovery_address or default_discovery_address()
        self.timeout_ms = timeout_ms
        self.retries = retries
        # Shadowed, because the sockets of an asyncio context answer with coroutines.
        self._context: Context = zmq.Context.shadow(context or zmq.Context.instance())
        self._socket: zmq.Socket[bytes] | None = None
        self._turn = threading.Lock()
        self._liveness = LivenessCache()

    def __enter__(self) -> DiscoveryClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; the client can still be used and opens another one then."""
        with self._turn:
            self._drop_socket()

    # -- calls that raise

    def request(self, request: DiscoveryRequest, *, wait_for_daemon: bool = True) -> DiscoveryResponse:
        """Send one request and return the answer, whatever its status.

        Args:
            request: what to ask.
            wait_for_daemon: wait ``timeout_ms`` for a daemon to appear; otherwise fail at once when nobody listens.

        Raises:
            DiscoveryUnavailableError: nobody answered.
            CodecError: the request cannot be encoded, or the answer not be read.
        """
        data = request.to_bytes()
        with self._turn:
            for attempt in range(self.retries + 1):
                nobody = is_live(self.discovery_address) is False
                if nobody and (attempt or not wait_for_daemon):
                    break
                answer = self._ask(data, self.timeout_ms)
                if answer is not None:
                    return DiscoveryResponse.from_bytes(answer)
        raise self._unavailable()

    async def request_async(self, request: DiscoveryRequest, *, timeout_ms: int | None = None) -> DiscoveryResponse:
        """Send one request without blocking the event loop; one attempt on a socket of its own.

        Args:
            request: what to ask.
            timeout_ms: how long to wait instead of the client's own timeout, in milliseconds.

        Raises:
            DiscoveryUnavailableError: nobody answered.
            CodecError: the request cannot be encoded, or the answer not be read.
        """
        asynchronous: zmq.asyncio.Context = zmq.asyncio.Context.shadow(self._context)
        with _connected(asynchronous, self.discovery_address) as sock:
            await sock.send(request.to_bytes(), zmq.DONTWAIT)
            if not await sock.poll(self.timeout_ms if timeout_ms is None else timeout_ms):
                raise self._unavailable()
            return DiscoveryResponse.from_bytes(await sock.recv())

    def register(self, info: TopicInfo) -> None:
        """Register a topic, or replace the entry of the same node.

        Raises:
            TopicOwnedError: another node publishes the topic.
            DiscoveryUnavailableError: nobody answered.
            CortexError: the daemon refused.
        """
        response = self._prompt(DiscoveryRequest(DiscoveryCommand.REGISTER_TOPIC, topic_info=info))
        if response.status is DiscoveryStatus.ALREADY_EXISTS:
            raise self._owned(info.name)
        self._require(response, DiscoveryStatus.OK)

    def unregister_own(self, info: TopicInfo) -> bool:
        """Remove a topic if its entry still has this node and address; say whether it had."""
        response = self._prompt(DiscoveryRequest(DiscoveryCommand.LOOKUP_TOPIC, topic_name=info.name))
        current = response.topic_info
        if current is None or (current.publisher_node, current.address) != (info.publisher_node, info.address):
            return False
        response = self._prompt(DiscoveryRequest(DiscoveryCommand.UNREGISTER_TOPIC, topic_name=info.name))
        return response.status is DiscoveryStatus.OK

    def snapshot(self) -> DiscoverySnapshot:
        """Return all topics, those whose publisher is dead, and where changes are announced.

        A daemon without these extensions is helped out: this client probes the publishers itself.

        Raises:
            DiscoveryUnavailableError: nobody answered.
            CortexError: the daemon refused, or its answer cannot be read.
        """
        response = self._prompt(DiscoveryRequest(DiscoveryCommand.LIST_TOPICS, extensions=1))
        self._require(response, DiscoveryStatus.OK)
        topics = tuple(response.topics or ())
        if response.dead is not None:
            return DiscoverySnapshot(topics, frozenset(response.dead), response.notice)
        dead = self._liveness.dead(info.address for info in topics)
        return DiscoverySnapshot(topics, frozenset(info.name for info in topics if info.address in dead), None)

    # -- calls that do not raise

    def register_topic(self, info: TopicInfo) -> bool:
        """Register a topic; False when it belongs to another node or nobody answered."""
        return self._succeeds(DiscoveryRequest(DiscoveryCommand.REGISTER_TOPIC, topic_info=info))

    def unregister_topic(self, name: str) -> bool:
        """Remove a topic, whoever owns it; False when it is unknown or nobody answered."""
        return self._succeeds(DiscoveryRequest(DiscoveryCommand.UNREGISTER_TOPIC, topic_name=name))

    def lookup_topic(self, name: str) -> TopicInfo | None:
        """Return the entry of a topic; None when it is unknown or nobody answered."""
        response = self._maybe(DiscoveryRequest(DiscoveryCommand.LOOKUP_TOPIC, topic_name=name))
        return response.topic_info if response else None

    async def lookup_topic_async(self, name: str, *, timeout_ms: int | None = None) -> TopicInfo | None:
        """Do as `lookup_topic`, without blocking the event loop."""
        request = DiscoveryRequest(DiscoveryCommand.LOOKUP_TOPIC, topic_name=name)
        try:
            return (await self.request_async(request, timeout_ms=timeout_ms)).topic_info
        except CortexError as err:
            _logger.debug("%s", err)
            return None

    def list_topics(self) -> list[TopicInfo]:
        """Return all entries in order of first registration; empty too when nobody answered."""
        response = self._maybe(DiscoveryRequest(DiscoveryCommand.LIST_TOPICS))
        return list(response.topics or ()) if response else []

    def ping(self) -> bool:
        """Tell whether a daemon answers."""
        return self._succeeds(DiscoveryRequest(DiscoveryCommand.PING))

    def wait_for_topic(self, name: str, timeout: float = 30.0, poll_interval: float = 0.5) -> TopicInfo | None:
        """Wait until a topic is registered; return its entry, or None after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            info = self._lookup_until(name, deadline)
            remaining = deadline - time.monotonic()
            if info is not None or remaining <= 0:
                return info
            time.sleep(min(poll_interval, remaining))

    async def wait_for_topic_async(
        self, name: str, timeout: float = 600.0, poll_interval: float = 0.5
    ) -> TopicInfo | None:
        """Do as `wait_for_topic`, without blocking the event loop; may be cancelled at any time."""
        deadline = time.monotonic() + timeout
        while True:
            info = await self.lookup_topic_async(name, timeout_ms=self._milliseconds_until(deadline))
            remaining = deadline - time.monotonic()
            if info is not None or remaining <= 0:
                return info
            await asyncio.sleep(min(poll_interval, remaining))

    # -- private

    # One attempt on the kept socket; REQ accepts no second question before an answer, so silence costs the socket.
    def _ask(self, data: bytes, timeout_ms: int) -> bytes | None:
        if self._socket is None:
            self._socket = _connected(self._context, self.discovery_address)
        sock = self._socket
        try:
            sock.send(data, zmq.DONTWAIT)
            if sock.poll(timeout_ms, zmq.POLLIN):
                return sock.recv()
        except zmq.ZMQError as err:
            self._drop_socket()
            raise self._unavailable() from err
        self._drop_socket()
        return None

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _prompt(self, request: DiscoveryRequest) -> DiscoveryResponse:
        return self.request(request, wait_for_daemon=False)

    def _maybe(self, request: DiscoveryRequest) -> DiscoveryResponse | None:
        try:
            return self.request(request)
        except CortexError as err:
            _logger.debug("%s", err)
            return None

    def _succeeds(self, request: DiscoveryRequest) -> bool:
        response = self._maybe(request)
        return response is not None and response.status is DiscoveryStatus.OK

    def _lookup_until(self, name: str, deadline: float) -> TopicInfo | None:
        request = DiscoveryRequest(DiscoveryCommand.LOOKUP_TOPIC, topic_name=name)
        try:
            with self._turn:
                answer = self._ask(request.to_bytes(), self._milliseconds_until(deadline))
            return DiscoveryResponse.from_bytes(answer).topic_info if answer is not None else None
        except CortexError as err:
            _logger.debug("%s", err)
            return None

    def _milliseconds_until(self, deadline: float) -> int:
        return max(0, min(self.timeout_ms, int((deadline - time.monotonic()) * 1000)))

    def _require(self, response: DiscoveryResponse, status: DiscoveryStatus) -> None:
        if response.status is not status:
            raise CortexError(f"The discovery daemon at {self.discovery_address} refused: {response.message}")

    def _unavailable(self) -> DiscoveryUnavailableError:
        return DiscoveryUnavailableError(
            f"No discovery daemon answers at {self.discovery_address}: start one with `cortex discovery`."
        )

    def _owned(self, topic: str) -> TopicOwnedError:
        owner = self.lookup_topic(topic)
        who = f"node {owner.publisher_node} at {owner.address}" if owner else "another node"
        return TopicOwnedError(
            f"Topic {topic} is already published by {who}: stop that node or choose another topic name.",
            topic=topic,
            node=owner.publisher_node if owner else None,
        )


def wait_for_discovery(address: str | None = None, timeout: float = 5.0) -> bool:
    """Wait until a daemon answers a ping on `address`; False after `timeout` seconds."""
    with DiscoveryClient(address, timeout_ms=int(timeout * 1000), retries=0) as client:
        return client.ping()


def _connected(context: Context, address: str) -> Any:
    sock = context.socket(zmq.REQ)
    sock.linger = 0
    sock.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
    try:
        sock.connect(address)
    except zmq.ZMQError as err:
        sock.close()
        raise CortexError(f"{address!r} is not an address for discovery ({err.strerror}): use ipc://PATH.") from err
    return sock
