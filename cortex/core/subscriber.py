"""Receives a topic on the event loop: one message at a time with `receive()`, or all of them through callbacks."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from typing import Any

import zmq
import zmq.asyncio

from cortex.core.contexts import end_context
from cortex.core.subscriber_base import (
    LOOKUP_TIMEOUT_MS,
    POLL_INTERVAL_S,
    MessageFingerprintError,
    SubscriberBase,
)
from cortex.core.types import MessageCallback, is_same_callback
from cortex.discovery.protocol import DEFAULT_DISCOVERY_ADDRESS, TopicInfo
from cortex.messages.base import Message, MessageHeader
from cortex.probe import is_live

logger = logging.getLogger(__name__)

Received = tuple[Message, MessageHeader]


class Subscriber(SubscriberBase):
    """Receives messages of one topic, in order, on the running event loop.

    With a callback, `run()` waits for the topic and calls it for each message; an error in it is logged and receiving
    goes on.  Without one, `await receive()`.  When messages come faster than they are taken, ZeroMQ keeps `queue_size`
    of them (0: no limit) and drops the newest; `dropped_count` tells how many are missing.
    """

    def __init__(
        self,
        topic_name: str,
        message_type: type[Message],
        callback: MessageCallback | None = None,
        node_name: str = "anonymous",
        discovery_address: str = DEFAULT_DISCOVERY_ADDRESS,
        queue_size: int = 10,
        wait_for_topic: bool = True,
        topic_timeout: float = 600.0,
        context: zmq.Context[Any] | None = None,
        strict_fingerprint: bool = False,
    ) -> None:
        """Look the topic up once and connect if it is there; otherwise `run()` or `receive()` will.

        Args:
            topic_name: name of the topic.
            message_type: class to decode with.
            callback: coroutine function of (message, header).
            node_name: for logs only.
            discovery_address: where the daemon listens.
            queue_size: messages kept while the callback is busy.
            wait_for_topic: let `run()` wait for a topic that does not exist yet.
            topic_timeout: longest such wait in seconds.
            context: ZeroMQ context to share; an own one is made when None.
            strict_fingerprint: refuse a topic of another message type instead of warning.

        Raises:
            MessageFingerprintError: strict, and the topic carries another message type.
        """
        super().__init__(
            topic_name,
            message_type,
            node_name,
            discovery_address,
            queue_size,
            context=context,
            strict_fingerprint=strict_fingerprint,
        )
        self.wait_for_topic = wait_for_topic
        self.topic_timeout = topic_timeout
        self._callbacks: list[MessageCallback] = [] if callback is None else [callback]
        self._running = False
        self._active = False
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: asyncio.Future[Any] | None = None
        self._background: asyncio.Task[None] | None = None
        self._followers: list[asyncio.Future[Received | None]] = []
        self._next_lookup = 0.0
        self._context: zmq.Context[Any] = zmq.Context() if context is None else context
        asynchronous: Any = zmq.asyncio.Socket
        self._socket = self._context.socket(zmq.SUB, socket_class=asynchronous)
        try:
            info = self._lookup()
            if info is not None:
                self._attach(self._socket, info, queue_size)
        except BaseException:
            self.close()
            raise

    @property
    def running(self) -> bool:
        """Whether messages are handed to the callbacks."""
        return self._running

    @property
    def has_callback(self) -> bool:
        """Whether `run()` has something to call."""
        return bool(self._callbacks)

    def add_callback(self, callback: MessageCallback) -> None:
        """Call this function too, after the others; one that is called already is not added again."""
        if not any(is_same_callback(callback, known) for known in self._callbacks):
            self._callbacks = [*self._callbacks, callback]

    async def receive(self) -> Received | None:
        """Wait for the next message and return (message, header); what cannot be decoded is skipped.

        Returns None at once while the topic is not registered, and when the subscriber is stopped or closed.  While
        `run()` is active the message goes to the callbacks as well.
        """
        if self._active:
            return await self._follow()
        if not self.is_connected and not await self._connect_if_listed():
            return None
        return await self._receive_one()

    async def run(self) -> None:
        """Hand every message to the callbacks until `stop()`, `close()` or cancellation, which all end it normally.

        Raises:
            MessageFingerprintError: strict, and the topic carries another message type.
            CortexError: the registered address cannot be connected to.
        """
        if self._background is not None:
            await self._background
            return
        self._running = True
        await self._work()

    def start(self) -> None:
        """Run in the background of the running event loop; without one, only mark as running for `run()`."""
        if self._running or self._closed:
            return
        self._running = True
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._background = loop.create_task(self._work())
        self._background.add_done_callback(self._forget_background)

    def stop(self) -> None:
        """End `run()` after the current callback; may be called from any thread."""
        self._running = False
        if self._loop is not None:
            # a loop that is closed meanwhile has nothing left to wake
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._interrupt)

    def close(self) -> None:
        """Stop and disconnect; safe to call twice."""
        self._closed = True
        self.stop()
        if not self._socket.closed:
            self._socket.close()
            if self._shared_context is None:
                end_context(self._context)

    async def _work(self) -> None:
        if self._active or self._closed or not self._running:
            return
        self._loop = asyncio.get_running_loop()
        self._active = True
        try:
            if self.is_connected or await self._connect_when_listed():
                await self._dispatch_all()
        except asyncio.CancelledError:
            logger.debug("topic %r: receiving was cancelled", self.topic_name)
        finally:
            self._active = self._running = False
            self._release_followers(None)

    # -- finding the topic

    async def _connect_if_listed(self) -> bool:
        """Look the topic up, but not more often than it makes sense in a loop around `receive()`."""
        now = time.monotonic()
        if self._closed or now < self._next_lookup:
            await asyncio.sleep(0)
            return False
        self._next_lookup = now + POLL_INTERVAL_S
        if is_live(self.discovery_address) is False:
            return False
        with self._client() as client:
            return self._connect(await client.lookup_topic_async(self.topic_name, timeout_ms=LOOKUP_TIMEOUT_MS))

    async def _connect_when_listed(self) -> bool:
        if not self.wait_for_topic:
            return False
        with self._client() as client:
            search = client.wait_for_topic_async(
                self.topic_name, timeout=self.topic_timeout, poll_interval=POLL_INTERVAL_S
            )
            info = await self._interruptible(asyncio.ensure_future(search))
        if info is None and self._running:
            logger.warning("topic %r did not appear within %g s: given up", self.topic_name, self.topic_timeout)
        return self._connect(info)

    def _connect(self, info: TopicInfo | None) -> bool:
        if info is not None and not self.is_connected and not self._closed:
            self._attach(self._socket, info, self.queue_size)
        return self.is_connected

    # -- receiving

    async def _dispatch_all(self) -> None:
        while self._running:
            received = await self._receive_one()
            if received is None:
                return
            self._release_followers(received)
            for callback in self._callbacks:
                await self._call(callback, *received)
            # a full queue never makes us wait; other tasks want their turn all the same
            await asyncio.sleep(0)

    async def _call(self, callback: MessageCallback, message: Message, header: MessageHeader) -> None:
        try:
            result = callback(message, header)
            if inspect.isawaitable(result):
                await result
        except Exception:
            logger.exception("topic %r: the callback failed; receiving goes on", self.topic_name)

    async def _receive_one(self) -> Received | None:
        while not self._closed:
            frames = await self._interruptible(self._socket.recv_multipart(copy=False))
            if frames is None:
                return None
            received = self._accept(frames)
            if received is not None:
                return received
            await asyncio.sleep(0)
        return None

    async def _interruptible(self, future: Any) -> Any:
        """Wait for `future`, or return None when `stop()` or `close()` came first."""
        was_running = self._running
        self._waiting = future
        try:
            return await future
        except asyncio.CancelledError:
            if self._closed or (was_running and not self._running):
                return None
            raise
        finally:
            if self._waiting is future:
                self._waiting = None

    def _interrupt(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.cancel()

    # -- receive() beside run()

    async def _follow(self) -> Received | None:
        future: asyncio.Future[Received | None] = asyncio.get_running_loop().create_future()
        self._followers.append(future)
        return await future

    def _release_followers(self, received: Received | None) -> None:
        followers, self._followers = self._followers, []
        for future in followers:
            if not future.done():
                future.set_result(received)

    def _forget_background(self, task: asyncio.Task[None]) -> None:
        self._background = None
        if not task.cancelled() and task.exception() is not None:
            logger.error("topic %r: receiving ended: %s", self.topic_name, task.exception())


AsyncSubscriber = Subscriber

__all__ = ["AsyncSubscriber", "MessageFingerprintError", "Subscriber"]
