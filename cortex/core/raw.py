"""Frames in and frames out, for programs that carry messages without knowing their classes: recorders and players."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Sequence
from typing import Any, Literal, overload

import zmq

from cortex.core.contexts import end_context
from cortex.core.endpoint import BoundEndpoint
from cortex.core.registrar import Registrar
from cortex.discovery.client import DiscoveryClient
from cortex.discovery.protocol import TopicInfo
from cortex.errors import AddressInUseError, CortexError, DiscoveryUnavailableError, TopicOwnedError
from cortex.paths import default_discovery_address, ipc_path, topics_dir
from cortex.probe import is_live


class RawSubscriber:
    """Receives the frames of exactly one topic from one address, undecoded.

    It connects at once, also to an address that nobody has bound yet, and reconnects by itself.
    """

    def __init__(
        self,
        topic: str,
        address: str,
        *,
        rcvhwm: int = 0,
        reconnect_ms: int = 5,
        context: zmq.Context[Any] | None = None,
    ) -> None:
        """Connect to `address`.

        Args:
            topic: the one topic wanted; ZeroMQ also delivers topics that merely begin with it, those are discarded.
            address: endpoint of the publisher, from discovery.
            rcvhwm: messages ZeroMQ may hold for us; 0 means no limit.
            reconnect_ms: pause between connection attempts in milliseconds.
            context: ZeroMQ context to share; an own one is made when None.

        Raises:
            CortexError: ZeroMQ does not understand the address.
        """
        self.topic = topic
        self.address = address
        self._topic = topic.encode()
        context, self._owned_context = (zmq.Context(), True) if context is None else (context, False)
        self._context = context
        self.socket: zmq.Socket[bytes] = context.socket(zmq.SUB, socket_class=zmq.Socket)
        self.socket.set(zmq.RCVHWM, rcvhwm)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RECONNECT_IVL, reconnect_ms)
        self.socket.set(zmq.SUBSCRIBE, self._topic)
        try:
            self.socket.connect(address)
        except zmq.ZMQError as err:
            self.close()
            raise CortexError(f"topic {topic!r} cannot be received: connecting to {address} failed ({err}).") from err

    @overload
    def receive(self, timeout_ms: int | None = None, copy: Literal[True] = True) -> list[bytes] | None: ...

    @overload
    def receive(self, timeout_ms: int | None = None, *, copy: Literal[False]) -> list[zmq.Frame] | None: ...

    def receive(self, timeout_ms: int | None = None, copy: bool = True) -> list[bytes] | list[zmq.Frame] | None:
        """Return parts 1..N (header, metadata, buffers) of the next message, or None when the time is over.

        Args:
            timeout_ms: longest wait in milliseconds; None waits for ever, 0 only looks.
            copy: False returns `zmq.Frame` objects, whose buffers belong to ZeroMQ.
        """
        deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        while True:
            try:
                frames = self._receive_parts()
            except zmq.Again:
                left = None if deadline is None else max(0, round((deadline - time.monotonic()) * 1000))
                if not self.socket.poll(left) and left == 0:
                    return None
                continue
            if frames[0].bytes == self._topic:
                del frames[0]
                return [frame.bytes for frame in frames] if copy else frames

    # `frame.more` saves the getsockopt per part that recv_multipart() does: a third of the time for small messages
    def _receive_parts(self) -> list[zmq.Frame]:
        receive = self.socket.recv
        frame = receive(zmq.NOBLOCK, copy=False)
        frames = [frame]
        while frame.more:
            frame = receive(0, copy=False)
            frames.append(frame)
        return frames

    def close(self) -> None:
        """Disconnect; what has not been received is gone.  Safe to call twice."""
        self.socket.close()
        if self._owned_context:
            end_context(self._context)

    def __enter__(self) -> RawSubscriber:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RawPublisher:
    """Publishes ready-made frames under a given registry entry, as a stand-in for the publisher that first sent them.

    A live owner is never pushed aside: the registry and the socket file are looked at before anything is touched.
    """

    def __init__(
        self,
        info: TopicInfo,
        *,
        sndhwm: int = 1000,
        lossless: bool = False,
        send_timeout_ms: int = 5000,
        linger_ms: int = 1000,
        discovery_address: str | None = None,
        register: bool = True,
        context: zmq.Context[Any] | None = None,
        allow_any_address: bool = False,
        registrar: Registrar | None = None,
    ) -> None:
        """Bind `info.address` and register `info` unchanged.

        Args:
            info: the entry to publish under; its address may come from an untrusted file.
            sndhwm: messages kept per slow subscriber; 0 means no limit.
            lossless: wait for slow subscribers instead of dropping.
            send_timeout_ms: longest wait of a lossless `send()` in milliseconds.
            linger_ms: how long `close()` may take to hand over what is still queued, in milliseconds.
            discovery_address: where the daemon listens; None takes the environment's.
            register: False publishes unseen.
            context: ZeroMQ context to share; an own one is made when None.
            allow_any_address: bind addresses outside Cortex's topic directory too.
            registrar: keeps the entry alive over daemon restarts; without one it is registered once.

        Raises:
            AddressInUseError: a live socket listens at the address.
            TopicOwnedError: another publisher has registered the topic.
            DiscoveryUnavailableError: no daemon answers.
            CortexError: the address is not allowed or cannot be bound.
        """
        self.info = info
        self._topic = info.name.encode()
        self._subscriptions: dict[bytes, int] = {}
        if not allow_any_address:
            _require_topic_directory(info)
        self._resources = contextlib.ExitStack()
        self._finalizer = weakref.finalize(self, _unwind, self._resources, os.getpid())
        try:
            if context is None:
                context = zmq.Context()
                self._resources.callback(context.term)
            client = None
            if register:
                client = DiscoveryClient(discovery_address or default_discovery_address(), context=context)
                self._resources.callback(client.close)
                _require_unowned(client, info)
            self._lossless = lossless
            self._socket = self._open_socket(context, sndhwm, send_timeout_ms, linger_ms)
            endpoint = BoundEndpoint(self._socket, info.address, topic=info.name, node=info.publisher_node)
            self._resources.callback(endpoint.release)
            if client is not None:
                self._register(client, registrar)
        except BaseException:
            self.close()
            raise

    def _open_socket(
        self, context: zmq.Context[Any], sndhwm: int, send_timeout_ms: int, linger_ms: int
    ) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = context.socket(zmq.XPUB, socket_class=zmq.Socket)
        self._resources.callback(socket.close)
        socket.set(zmq.SNDHWM, sndhwm)
        socket.set(zmq.LINGER, linger_ms)
        # every subscription and every leaving is passed on, not only the first and the last: they are counted
        socket.set(zmq.XPUB_VERBOSER, 1)
        if self._lossless:
            socket.set(zmq.XPUB_NODROP, 1)
            socket.set(zmq.SNDTIMEO, send_timeout_ms)
        return socket

    def _register(self, client: DiscoveryClient, registrar: Registrar | None) -> None:
        client.register(self.info)
        self._resources.callback(_unregister, client, self.info)
        if registrar is not None:
            registrar.register(self.info)
            self._resources.callback(registrar.unregister, self.info)

    def send(self, frames: Sequence[bytes | memoryview]) -> bool:
        """Send one message; `frames` are parts 1..N, the topic is put in front.

        Returns:
            False when a lossless send waited `send_timeout_ms` in vain: nothing was sent, it may be tried again.
        """
        try:
            self._socket.send_multipart([self._topic, *frames], 0 if self._lossless else zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    @property
    def subscribers(self) -> int:
        """Number of live subscriptions to this topic or to a prefix of it."""
        self._read_subscriptions(0)
        return sum(n for prefix, n in self._subscriptions.items() if self._topic.startswith(prefix))

    def wait_for_subscribers(self, n: int, timeout_ms: int) -> bool:
        """Wait until at least `n` subscriptions exist; return False when `timeout_ms` milliseconds were not enough."""
        deadline = time.monotonic() + timeout_ms / 1000
        while self.subscribers < n:
            left = round((deadline - time.monotonic()) * 1000)
            if left <= 0:
                return False
            self._read_subscriptions(left)
        return True

    def _read_subscriptions(self, timeout_ms: int) -> None:
        while self._socket.poll(timeout_ms):
            event = self._socket.recv(zmq.NOBLOCK)
            prefix = event[1:]
            if event[:1] == b"\x01":
                self._subscriptions[prefix] = self._subscriptions.get(prefix, 0) + 1
            elif event[:1] == b"\x00" and self._subscriptions.get(prefix, 0) > 0:
                self._subscriptions[prefix] -= 1
            timeout_ms = 0

    def close(self) -> None:
        """Unregister, delete the socket file and close, each only if it is still ours; safe to call twice.

        Waits up to `linger_ms` for queued messages when the context is an own one.
        """
        self._finalizer()

    def __enter__(self) -> RawPublisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _unwind(resources: contextlib.ExitStack, pid: int) -> None:
    # a forked child must not tear down its parent's publisher
    if os.getpid() == pid:
        resources.close()


def _unregister(client: DiscoveryClient, info: TopicInfo) -> None:
    if is_live(client.discovery_address) is not False:
        with contextlib.suppress(DiscoveryUnavailableError):
            client.unregister_own(info)


def _require_topic_directory(info: TopicInfo) -> None:
    path = ipc_path(info.address)
    allowed = topics_dir().resolve()
    # the directory is resolved, not the file itself: a symbolic link at the end is replaced, not followed
    if path is None or path.name in ("", ".", "..") or not path.parent.resolve().is_relative_to(allowed):
        raise CortexError(
            f"topic {info.name!r} asks for the address {info.address}, which is outside {topics_dir()}: "
            "only sockets in Cortex's topic directory are bound unless any address is allowed."
        )


def _require_unowned(client: DiscoveryClient, info: TopicInfo) -> None:
    if is_live(client.discovery_address) is False:
        raise DiscoveryUnavailableError(
            f"no discovery daemon answers at {client.discovery_address}; start one with `cortex discovery`."
        )
    owner = client.lookup_topic(info.name)
    if owner is None or is_live(owner.address) is False:
        return
    if owner.address == info.address and owner.publisher_node == info.publisher_node:
        raise AddressInUseError(
            f"topic {info.name!r} is being published by node {owner.publisher_node!r} at {owner.address}; "
            "stop that node or publish under another topic name."
        )
    raise TopicOwnedError(
        f"topic {info.name!r} belongs to node {owner.publisher_node!r}, which publishes at {owner.address}; "
        "stop that node or publish under another topic name.",
        topic=info.name,
        node=owner.publisher_node,
    )


__all__ = ["RawPublisher", "RawSubscriber"]
