"""Publishes messages of one topic: its own socket, its own sequence numbers, one entry at the discovery daemon."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
import weakref
from dataclasses import dataclass
from typing import Any

import zmq

from cortex.core.contexts import end_context, plain_context
from cortex.core.endpoint import BoundEndpoint
from cortex.core.registrar import Registrar
from cortex.discovery.protocol import DEFAULT_DISCOVERY_ADDRESS, TopicInfo
from cortex.errors import CodecError
from cortex.messages.base import Message
from cortex.paths import bindable_ipc_address, ensure_private_dir, ipc_address, topics_dir

logger = logging.getLogger(__name__)


def generate_ipc_address(topic_name: str, node_name: str) -> str:
    """Return the address every Cortex computes for (topic, node), and create its directory.

    It is a fixed rule, neither injective nor always bindable; a publisher of ours binds `Publisher.address`, which is
    the same in ordinary cases.  A subscriber must take the address from discovery.
    """
    ensure_private_dir(topics_dir())
    return ipc_address(topic_name, node_name)


class Publisher:
    """Sends messages of one type on one topic; may be used from several threads.

    A ZeroMQ publisher never blocks and never reports a full queue: when a subscriber falls `queue_size` messages
    behind, its newest messages are dropped and `publish()` still returns True.  The default of 10 loses half of a
    burst of 20; give a larger queue to topics that come in bursts, or 0 for no limit.  Losses show on the receiving
    side as gaps in the sequence.

    A publisher that is not closed cleans up when it is collected or when the interpreter exits, but a plain SIGTERM
    ends Python without either: run it in a `Node`, or turn the signal into `sys.exit()`.

    Attributes:
        topic_name, message_type, node_name, discovery_address, queue_size: as given.
        address: the endpoint the socket is bound to.
    """

    def __init__(
        self,
        topic_name: str,
        message_type: type[Message],
        node_name: str = "anonymous",
        discovery_address: str = DEFAULT_DISCOVERY_ADDRESS,
        queue_size: int = 10,
        auto_register: bool = True,
        context: zmq.Context[Any] | None = None,
        *,
        registrar: Registrar | None = None,
    ) -> None:
        """Bind, then register; a registration that fails is logged and tried again in the background.

        Args:
            topic_name: name of the topic.
            message_type: class whose instances are published.
            node_name: owner of the topic; it appears in the registry and in the socket's file name.
            discovery_address: where the daemon listens.
            queue_size: messages kept per slow subscriber before the newest are dropped; 0 means no limit.
            auto_register: False publishes unseen.
            context: ZeroMQ context to share; an own one is made when None.
            registrar: keeper of the registrations, shared by the publishers of a node; an own one is made when None.

        Raises:
            AddressInUseError: a live publisher of the same node and topic exists.
            CortexError: the socket cannot be bound.
        """
        self.topic_name = topic_name
        self.message_type = message_type
        self.node_name = node_name
        self.discovery_address = discovery_address
        self.queue_size = queue_size
        self.address = bindable_ipc_address(topic_name, node_name)
        self._topic = topic_name.encode()
        self._fingerprint = message_type.fingerprint()
        self._sequence = 0
        self._publish_count = 0
        self._last_publish_time: float | None = None
        self._lock = threading.RLock()
        self._foreign_classes: dict[type[Message], bool] = {}
        self._context: zmq.Context[Any] = zmq.Context() if context is None else context
        owned_context = self._context if context is None else None
        try:
            endpoint = self._bind()
        except BaseException:
            if owned_context is not None:
                end_context(owned_context)
            raise
        self._socket = endpoint.socket
        self._info = TopicInfo(topic_name, self.address, message_type.__name__, self._fingerprint, node_name)
        self._lifeline = _Lifeline(endpoint, owned_context, self._info)
        self._finalizer = weakref.finalize(self, self._lifeline.release)
        if auto_register:
            self._lifeline.register(registrar, discovery_address, plain_context(self._context))

    def _bind(self) -> BoundEndpoint:
        # socket_class: a context made for asyncio would give sockets whose send is a coroutine
        socket = self._context.socket(zmq.PUB, socket_class=zmq.Socket)
        socket.set(zmq.SNDHWM, self.queue_size)
        socket.set(zmq.LINGER, 0)
        try:
            return BoundEndpoint(socket, self.address, topic=self.topic_name, node=self.node_name)
        except BaseException:
            socket.close()
            raise

    def publish(self, message: Message, flags: int = zmq.NOBLOCK) -> bool:  # noqa: ARG002
        """Send one message without blocking.

        The sequence number advances with every call that gets past the type check, also when nothing is sent.

        Args:
            message: an instance of `message_type`.
            flags: accepted for compatibility; a publisher never blocks.

        Returns:
            True when the message was handed to ZeroMQ, which is no promise that a slow subscriber gets it; False when
            it cannot be encoded or the publisher is closed (the reason is logged).

        Raises:
            TypeError: not an instance of `message_type`, or of a subclass of it with other fields.
        """
        foreign = type(message) is not self.message_type and self._is_foreign(message)
        # encoding stays inside the lock: messages must leave in the order of their numbers
        with self._lock:
            sequence = self._sequence
            self._sequence += 1
            try:
                frames = message.to_frames(sequence)
            except CodecError as err:
                logger.error("topic %r: message %d not sent: %s", self.topic_name, sequence, err)
                return False
            except Exception:
                logger.exception("topic %r: message %d not sent: encoding it failed", self.topic_name, sequence)
                return False
            if foreign:
                frames[0] = self._fingerprint.to_bytes(8, "big") + bytes(frames[0])[8:]
            return self.publish_frames(frames)

    def publish_frames(self, frames: list[Any]) -> bool:
        """Send one message whose parts exist already, as `publish()` does after encoding; may be overridden.

        Args:
            frames: parts 1..N (header, metadata, buffers); the topic is put in front here.
        """
        with self._lock:
            try:
                self._socket.send_multipart([self._topic, *frames], zmq.NOBLOCK)
            except zmq.ZMQError as err:
                reason = "the publisher is closed" if self._socket.closed else str(err)
                logger.error("topic %r: message not sent: %s", self.topic_name, reason)
                return False
            self._publish_count += 1
            self._last_publish_time = time.time()
            return True

    # A subclass with the declared fields goes out under the fingerprint that is registered, so that strict receivers
    # take it; with other fields no receiver of the declared class could decode it.
    def _is_foreign(self, message: Message) -> bool:
        cls = type(message)
        known = self._foreign_classes.get(cls)
        if known is not None:
            return known
        if not isinstance(message, self.message_type):
            raise TypeError(
                f"topic {self.topic_name!r} carries {self.message_type.__name__}, not {cls.__name__}: "
                "publish an instance of the declared class."
            )
        declared, actual = _field_names(self.message_type), _field_names(cls)
        if declared and declared != actual:
            raise TypeError(
                f"topic {self.topic_name!r} carries {self.message_type.__name__}; its subclass {cls.__name__} has "
                "other fields, which no subscriber could decode: declare the publisher with that class."
            )
        return self._foreign_classes.setdefault(cls, bool(declared))

    @property
    def is_registered(self) -> bool:
        """Whether the daemon lists this publisher, as far as is known."""
        return self._lifeline.is_registered

    @property
    def publish_count(self) -> int:
        """Messages handed to ZeroMQ, including those that it drops for slow subscribers."""
        return self._publish_count

    @property
    def last_publish_time(self) -> float | None:
        """Wall time of the last message in seconds since the epoch, or None."""
        return self._last_publish_time

    def close(self) -> None:
        """Unregister, delete the socket file and close, each only if it is still ours; safe to call twice."""
        # the lock lets a publish() of another thread finish first
        with self._lock:
            self._finalizer()


@dataclass(eq=False)
class _Lifeline:
    """What must be undone when a publisher goes; kept apart from it, so that a finalizer may hold it."""

    endpoint: BoundEndpoint
    owned_context: zmq.Context[Any] | None
    info: TopicInfo
    registrar: Registrar | None = None
    owns_registrar: bool = False

    def __post_init__(self) -> None:
        self._pid = os.getpid()

    def register(self, registrar: Registrar | None, discovery_address: str, context: zmq.Context[Any]) -> None:
        self.owns_registrar = registrar is None
        self.registrar = registrar or Registrar(discovery_address, context=context)
        self.registrar.register(self.info)

    @property
    def is_registered(self) -> bool:
        return self.registrar is not None and self.registrar.is_registered(self.info)

    def release(self) -> None:
        # a forked child must not tear down its parent's publisher
        if os.getpid() != self._pid:
            return
        if self.registrar is not None:
            self.registrar.unregister(self.info)
            if self.owns_registrar:
                self.registrar.close()
        self.endpoint.release()
        if self.owned_context is not None:
            end_context(self.owned_context)


def _field_names(cls: type[Message]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls)) if dataclasses.is_dataclass(cls) else ()


__all__ = ["Publisher", "generate_ipc_address"]
