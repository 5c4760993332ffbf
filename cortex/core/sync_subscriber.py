"""Receives a topic in a thread of its own, for callbacks that want little latency and no event loop."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import zmq

from cortex.core.contexts import end_context
from cortex.core.subscriber_base import POLL_INTERVAL_S, MessageFingerprintError, SubscriberBase
from cortex.core.types import is_coroutine_function, is_same_callback
from cortex.discovery.protocol import DEFAULT_DISCOVERY_ADDRESS, TopicInfo
from cortex.errors import CortexError
from cortex.messages.base import Message, MessageHeader

logger = logging.getLogger(__name__)

SyncMessageCallback = Callable[[Message, MessageHeader], Any]
"""Plain function called with (message, header) in the subscriber's thread."""

_WAKE_UP_MS = 50
_LATEST_RECEIVE_QUEUE = 64


class ThreadedSubscriber(SubscriberBase):
    """Calls plain functions with (message, header) from a background thread.

    With `queue_size` 1 the newest message wins: while the callback is busy, a second thread keeps the latest message
    and drops the ones before it.  A larger queue is first in, first out; when it is full ZeroMQ drops the newest, and
    0 means no limit.  Errors of a callback are logged and the thread lives on.
    """

    def __init__(
        self,
        topic_name: str,
        message_type: type[Message],
        callback: SyncMessageCallback,
        node_name: str = "anonymous",
        discovery_address: str = DEFAULT_DISCOVERY_ADDRESS,
        queue_size: int = 1,
        wait_for_topic: bool = True,
        topic_timeout: float = 30.0,
        cpu_affinity: int | Iterable[int] | None = None,
        sched_priority: int | None = None,
        *,
        context: zmq.Context[Any] | None = None,
    ) -> None:
        """Find the topic and connect; `start()` begins to receive.

        Args:
            topic_name: name of the topic.
            message_type: class to decode with; a topic of another class is refused.
            callback: plain function of (message, header).
            node_name: for logs only.
            discovery_address: where the daemon listens.
            queue_size: messages kept while the callback is busy.
            wait_for_topic: block until the topic is registered; False looks once and leaves the rest to the thread.
            topic_timeout: longest wait in seconds.
            cpu_affinity: CPU number or numbers for the thread, where the system has that.
            sched_priority: real-time (FIFO) priority for the thread, where the system allows it.
            context: ZeroMQ context to share; an own one is made when None.

        Raises:
            TypeError: the callback is a coroutine function.
            TimeoutError: the topic did not appear.
            MessageFingerprintError: the topic carries another message type.
        """
        _require_plain_function(callback)
        super().__init__(
            topic_name,
            message_type,
            node_name,
            discovery_address,
            queue_size,
            context=context,
            strict_fingerprint=True,
        )
        self._callbacks: list[SyncMessageCallback] = [callback]
        self._cpus = _cpu_set(cpu_affinity)
        self._priority = sched_priority
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._context: zmq.Context[Any] = zmq.Context() if context is None else context
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.SUB, socket_class=zmq.Socket)
        try:
            info = self._wait_for_topic(topic_timeout) if wait_for_topic else self._lookup()
            if info is not None:
                self._connect(info)
        except BaseException:
            self._close_socket()
            raise

    def _wait_for_topic(self, timeout: float) -> TopicInfo:
        with self._client() as client:
            info = client.wait_for_topic(self.topic_name, timeout=timeout, poll_interval=POLL_INTERVAL_S)
        if info is None:
            raise TimeoutError(
                f"topic {self.topic_name!r} did not appear within {timeout:g} s at {self.discovery_address}: "
                "start its publisher, or the daemon with `cortex discovery`."
            )
        return info

    def _connect(self, info: TopicInfo) -> None:
        self._attach(self._socket, info, _LATEST_RECEIVE_QUEUE if self.queue_size == 1 else max(self.queue_size, 0))
        self._socket.set(zmq.RCVTIMEO, _WAKE_UP_MS)

    def add_callback(self, callback: SyncMessageCallback) -> None:
        """Call this function too, after the others; one that is called already is not added again."""
        _require_plain_function(callback)
        if not any(is_same_callback(callback, known) for known in self._callbacks):
            self._callbacks = [*self._callbacks, callback]

    @property
    def running(self) -> bool:
        """Whether the thread receives."""
        return self._thread is not None and self._thread.is_alive() and not self._stopping.is_set()

    is_running = running

    def start(self) -> None:
        """Begin to receive; does nothing when already running.  RuntimeError after `close()`."""
        if self._closed:
            raise RuntimeError(f"the subscriber of topic {self.topic_name!r} is closed: make a new one.")
        if self.running:
            return
        self.stop()
        self._stopping = threading.Event()
        work = self._keep_latest if self.queue_size == 1 else self._receive_in_turn
        self._thread = self._start_thread(work, self._stopping)

    def stop(self, timeout: float | None = None) -> None:
        """End the thread and wait for it, at most `timeout` seconds (None: as long as the callback takes)."""
        self._stopping.set()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        thread.join(timeout)
        if not thread.is_alive():
            self._thread = None

    def close(self, timeout: float = 2.0) -> None:
        """Stop and disconnect; safe to call twice.

        A callback that does not return within `timeout` seconds is left alone, with the socket it was called from.
        """
        self._closed = True
        self.stop(timeout)
        if self._thread is None:
            self._close_socket()
        else:
            logger.warning("topic %r: a callback is still busy; its thread ends when it returns", self.topic_name)

    def _close_socket(self) -> None:
        if not self._socket.closed:
            self._socket.close()
            if self._shared_context is None:
                end_context(self._context)

    # -- in the threads

    def _start_thread(self, work: Callable[[threading.Event], None], stopping: threading.Event) -> threading.Thread:
        def run() -> None:
            self._favour_thread()
            work(stopping)

        thread = threading.Thread(target=run, name=f"cortex-sub-{self.topic_name}", daemon=True)
        thread.start()
        return thread

    def _receive_in_turn(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            frames = self._receive(stopping)
            if frames is not None:
                self._deliver(frames)
        self._close_if_left_alone()

    def _keep_latest(self, stopping: threading.Event) -> None:
        latest = _Latest()
        receiver = self._start_thread(lambda stop: self._receive_into(latest, stop), stopping)
        while not stopping.is_set():
            frames = latest.take(_WAKE_UP_MS / 1000)
            if frames is not None:
                self._deliver(frames)
        receiver.join()
        self._close_if_left_alone()

    def _receive_into(self, latest: _Latest, stopping: threading.Event) -> None:
        while not stopping.is_set():
            frames = self._receive(stopping)
            if frames is not None and frames[0].bytes == self._topic:
                latest.put(frames)

    def _receive(self, stopping: threading.Event) -> list[zmq.Frame] | None:
        if not self.is_connected and not self._connect_late(stopping):
            stopping.wait(POLL_INTERVAL_S)
            return None
        try:
            return self._socket.recv_multipart(copy=False)
        except zmq.Again:
            return None
        except zmq.ZMQError as err:
            # the context was ended while a callback was busy
            logger.debug("topic %r: receiving ended: %s", self.topic_name, err)
            stopping.set()
            return None

    def _connect_late(self, stopping: threading.Event) -> bool:
        try:
            info = self._lookup()
            if info is not None:
                self._connect(info)
        except CortexError as err:
            logger.error("topic %r: receiving ended: %s", self.topic_name, err)
            stopping.set()
        return self.is_connected

    def _deliver(self, frames: list[zmq.Frame]) -> None:
        result = self._accept(frames)
        if result is None:
            return
        for callback in self._callbacks:
            self._call(callback, *result)

    def _call(self, callback: SyncMessageCallback, message: Message, header: MessageHeader) -> None:
        try:
            callback(message, header)
        except Exception:
            logger.exception("topic %r: the callback failed; receiving goes on", self.topic_name)

    # close() may have given up on a long callback; then the thread itself has the last word
    def _close_if_left_alone(self) -> None:
        if self._closed:
            self._close_socket()

    def _favour_thread(self) -> None:
        try:
            if self._cpus is not None:
                os.sched_setaffinity(0, self._cpus)
            if self._priority is not None:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(self._priority))
        except (AttributeError, OSError, ValueError) as err:
            logger.warning("topic %r: its thread is not favoured as asked (%s)", self.topic_name, err)


class _Latest:
    """A place for one value, where a newer one replaces an older one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._value: list[zmq.Frame] | None = None

    def put(self, value: list[zmq.Frame]) -> None:
        with self._changed:
            self._value = value
            self._changed.notify()

    def take(self, timeout: float) -> list[zmq.Frame] | None:
        with self._changed:
            if self._value is None:
                self._changed.wait(timeout)
            value, self._value = self._value, None
            return value


def _require_plain_function(callback: object) -> None:
    if not callable(callback):
        raise TypeError(f"a synchronous subscriber needs a callback that can be called, not {callback!r}.")
    if is_coroutine_function(callback):
        raise TypeError(
            "a synchronous subscriber needs a synchronous callback: pass a plain function, not `async def`."
        )


def _cpu_set(cpus: int | Iterable[int] | None) -> set[int] | None:
    if cpus is None:
        return None
    return {cpus} if isinstance(cpus, int) else set(cpus)


__all__ = ["MessageFingerprintError", "SyncMessageCallback", "ThreadedSubscriber"]
