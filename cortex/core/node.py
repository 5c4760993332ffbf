"""The unit a program is built from: publishers, subscribers and timers under one name, run and closed together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import zmq

from cortex.core.contexts import end_context
from cortex.core.executor import RateExecutor, SyncRateExecutor
from cortex.core.publisher import Publisher
from cortex.core.registrar import Registrar
from cortex.core.running import Runner, ThreadedTimer
from cortex.core.subscriber import Subscriber
from cortex.core.sync_subscriber import ThreadedSubscriber
from cortex.core.types import is_coroutine_function
from cortex.discovery.protocol import DEFAULT_DISCOVERY_ADDRESS
from cortex.messages.base import Message

logger = logging.getLogger(__name__)

N = TypeVar("N", bound="Node")


class Node:
    """Owns publishers, subscribers, timers and threads; meant to be subclassed.

    ``await node.run()`` drives everything, ``node.spin()`` drives a node without asynchronous parts.  Both end on
    `stop()`, and on SIGTERM, which also closes the node: its topics are unregistered and its socket files removed.
    Use it as a context manager (``async with``, or ``with`` when nothing is asynchronous), or call `close()`.

    Attributes:
        name: the node's name, which owns its topics.
        discovery_address: where the daemon listens.
    """

    def __init__(self, name: str, discovery_address: str = DEFAULT_DISCOVERY_ADDRESS) -> None:
        self.name = name
        self.discovery_address = discovery_address
        # one context for all sockets, discovery included
        self._context: zmq.Context[Any] = zmq.Context()
        self._registrar = Registrar(discovery_address, context=self._context)
        self._runner = Runner()
        self._publishers: dict[str, Publisher] = {}
        self._subscribers: dict[str, Subscriber | ThreadedSubscriber] = {}
        self._closed = False

    # -- parts

    def create_publisher(
        self, topic_name: str, message_type: type[Message], queue_size: int = 10, mode: str = "async"
    ) -> Publisher:
        """Return the publisher of a topic, made at the first call; publishing is the same in both modes.

        Args:
            topic_name: name of the topic.
            message_type: class whose instances are published.
            queue_size: messages kept per slow subscriber; 10 loses half of a burst of 20, 0 means no limit.
            mode: "sync" gives it a ZeroMQ context, and so an I/O thread, of its own.

        Raises:
            ValueError: another mode.
            AddressInUseError: a live publisher of the same node name and topic exists.
        """
        self._require(mode)
        if topic_name not in self._publishers:
            self._publishers[topic_name] = Publisher(
                topic_name,
                message_type,
                node_name=self.name,
                discovery_address=self.discovery_address,
                queue_size=queue_size,
                context=self._context if mode == "async" else None,
                registrar=self._registrar,
            )
        return self._publishers[topic_name]

    def create_subscriber(
        self,
        topic_name: str,
        message_type: type[Message],
        callback: Callable[..., Any] | None = None,
        queue_size: int = 10,
        wait_for_topic: bool = True,
        topic_timeout: float = 30.0,
        mode: str = "async",
        strict_fingerprint: bool | None = None,
        cpu_affinity: int | Iterable[int] | None = None,
        sched_priority: int | None = None,
    ) -> Any:
        """Return the subscriber of a topic, made at the first call; a later call's callback is called as well.

        Args:
            topic_name: name of the topic.
            message_type: class to decode with.
            callback: function of (message, header): a coroutine function, or a plain one in mode "sync".
            queue_size: messages kept while the callback is busy; in mode "sync" 1 means that the newest wins.
            wait_for_topic: wait for a topic that does not exist yet: while running, or right here in mode "sync".
            topic_timeout: longest such wait in seconds.
            mode: "sync" receives in a thread of its own.
            strict_fingerprint: refuse a topic of another message type; False unless given, always so in mode "sync".
            cpu_affinity: CPU number or numbers of that thread.
            sched_priority: real-time priority of that thread.

        Returns:
            A `Subscriber`, or a `ThreadedSubscriber` in mode "sync".

        Raises:
            ValueError: another mode, mode "sync" without a callback, or the topic is subscribed to in the other mode.
            TimeoutError: mode "sync", and the topic did not appear.
            MessageFingerprintError: strict, and the topic carries another message type.
        """
        self._require(mode)
        if mode == "sync" and callback is None:
            raise ValueError(f"topic {topic_name!r}: a subscriber in mode 'sync' needs a callback.")
        if topic_name in self._subscribers:
            return self._add_callback(topic_name, message_type, callback, mode)
        common: dict[str, Any] = {
            "node_name": self.name,
            "discovery_address": self.discovery_address,
            "queue_size": queue_size,
            "wait_for_topic": wait_for_topic,
            "topic_timeout": topic_timeout,
            "context": self._context,
        }
        subscriber: Subscriber | ThreadedSubscriber
        if mode == "sync":
            assert callback is not None
            common |= {"cpu_affinity": cpu_affinity, "sched_priority": sched_priority}
            subscriber = ThreadedSubscriber(topic_name, message_type, callback, **common)
            self._runner.add_threaded(subscriber)
        else:
            if cpu_affinity is not None or sched_priority is not None:
                logger.warning("topic %r: CPU affinity and priority only apply in mode 'sync'", topic_name)
            common["strict_fingerprint"] = bool(strict_fingerprint)
            subscriber = Subscriber(topic_name, message_type, callback, **common)
            if callback is not None:
                self._runner.add_coroutine(subscriber.run)
        self._subscribers[topic_name] = subscriber
        return subscriber

    def create_timer(
        self, period: float, callback: Callable[..., Any], mode: str = "async"
    ) -> RateExecutor | SyncRateExecutor:
        """Call a function every `period` seconds while the node runs, and return the executor that does it.

        The first call is immediate.  An error in it is logged and the timer goes on.

        Raises:
            ValueError: another mode, or a period that is not positive.
            TypeError: a plain function in mode "async", a coroutine function in mode "sync".
        """
        self._require(mode)
        if not period > 0:
            raise ValueError(f"a timer's period must be more than 0 seconds, not {period}.")
        if is_coroutine_function(callback) != (mode == "async"):
            wanted = "an `async def` function" if mode == "async" else "a plain, synchronous function"
            raise TypeError(f"a timer in mode {mode!r} needs {wanted}, not {callback!r}.")
        if mode == "sync":
            threaded = SyncRateExecutor(callback, 1.0 / period)
            self._runner.add_threaded(ThreadedTimer(threaded))
            return threaded
        timer = RateExecutor(callback, 1.0 / period)
        self._runner.add_coroutine(timer.run)
        return timer

    def spawn_thread(
        self, target: Callable[..., Any], *args: Any, name: str | None = None, **kwargs: Any
    ) -> threading.Thread:
        """Start ``target(stop_event, *args, **kwargs)`` in a thread; it should return once the event is set."""
        self._require("sync")
        return self._runner.spawn(target, args, kwargs, name or f"{self.name}-thread")

    # -- life

    async def run(self) -> None:
        """Run timers and subscribers until all have ended, `stop()`, SIGTERM or cancellation, which is swallowed.

        Returns at once when there is nothing to run.  After SIGTERM the node is closed.

        Raises:
            The first error that ends a subscriber, such as a MessageFingerprintError; errors in callbacks do not.
        """
        await self._runner.run()
        if self._runner.terminated:
            await self.close()

    def spin(self, timeout: float | None = None) -> None:
        """Run a node without asynchronous parts, blocking, until `stop()`, SIGTERM, Ctrl-C or for `timeout` seconds.

        After SIGTERM the node is closed.

        Raises:
            RuntimeError: there are async timers or subscribers.
        """
        self._refuse_asynchronous_parts("spin()", "await run()")
        self._runner.spin(timeout)
        if self._runner.terminated:
            self.close_sync()

    def stop(self) -> None:
        """End `run()` or `spin()`; may be called from any thread, callback or signal handler."""
        self._runner.stop()

    async def close(self) -> None:
        """Stop, then close publishers and subscribers and join the threads (2 s each); safe to call twice."""
        if not self._closed:
            self._closed = True
            try:
                await self._runner.finish()
            finally:
                self._close_parts()

    def close_sync(self) -> None:
        """Do as `close()`, for a node without asynchronous parts.

        Raises:
            RuntimeError: there are async timers or subscribers.
        """
        self._refuse_asynchronous_parts("close_sync()", "await close()")
        if not self._closed:
            self._closed = True
            self._runner.join()
            self._close_parts()

    def _close_parts(self) -> None:
        parts = [*self._publishers.values(), *self._subscribers.values()]
        self._publishers.clear()
        self._subscribers.clear()
        for part in parts:
            part.close()
        self._registrar.close()
        if not end_context(self._context):
            logger.warning("node %r: a busy thread still holds a socket", self.name)

    # -- state

    @property
    def stop_event(self) -> threading.Event:
        """The event that `stop()` sets; the next `run()` or `spin()` has a new one."""
        return self._runner.stop_event

    @property
    def publishers(self) -> list[str]:
        """Names of the topics published."""
        return list(self._publishers)

    @property
    def subscribers(self) -> list[str]:
        """Names of the topics subscribed to."""
        return list(self._subscribers)

    @property
    def is_running(self) -> bool:
        """Whether `run()` or `spin()` is active."""
        return self._runner.running

    @property
    def _running(self) -> bool:
        return self._runner.running

    def get_publisher(self, topic_name: str) -> Publisher | None:
        """Return the publisher of a topic, or None."""
        return self._publishers.get(topic_name)

    def get_subscriber(self, topic_name: str) -> Any:
        """Return the subscriber of a topic, or None."""
        return self._subscribers.get(topic_name)

    async def __aenter__(self: N) -> N:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __enter__(self: N) -> N:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_sync()

    # -- checks

    def _require(self, mode: str) -> None:
        if mode not in ("async", "sync"):
            raise ValueError(f"a mode is 'async' or 'sync', not {mode!r}.")
        if self._closed:
            raise RuntimeError(f"node {self.name!r} is closed: make a new one.")

    def _refuse_asynchronous_parts(self, call: str, instead: str) -> None:
        passive = any(isinstance(subscriber, Subscriber) for subscriber in self._subscribers.values())
        if self._runner.is_asynchronous or passive:
            raise RuntimeError(f"{call} is for nodes without async timers and subscribers: use `{instead}`.")

    # A second callback for a topic joins the first one: both are called.
    def _add_callback(
        self, topic_name: str, message_type: type[Message], callback: Callable[..., Any] | None, mode: str
    ) -> Subscriber | ThreadedSubscriber:
        existing = self._subscribers[topic_name]
        if message_type is not existing.message_type:
            logger.warning(
                "topic %r is decoded as %s, as its first subscriber asked", topic_name, existing.message_type.__name__
            )
        if isinstance(existing, ThreadedSubscriber) != (mode == "sync"):
            raise ValueError(
                f"topic {topic_name!r} is subscribed to in the other mode: use one mode for both callbacks."
            )
        if callback is not None:
            if isinstance(existing, Subscriber) and not existing.has_callback:
                self._runner.add_coroutine(existing.run)
            existing.add_callback(callback)
        return existing


__all__ = ["Node"]
