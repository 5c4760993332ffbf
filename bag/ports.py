"""The sockets of an intake: which topics share one, what comes there, what is told of its connections, and a bell."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from bag.sources import Source
from bag.storage.batch import MESSAGE_OVERHEAD, Row

# so many sockets at most: beyond, the least loaded takes more
MAX_SOCKETS = 16
# so many topics on one socket: each of its connections is told of every topic, so n topics cost n * n subscriptions
MAX_TOPICS = 32
# Below, a burst would find no room. Large messages never get that far: we take them faster than they can be sent.
LEAST_QUEUE = 1000
# what ZeroMQ spends on a small message of four parts
QUEUED_BYTES = 1024
# parts this large stay in ZeroMQ's memory, smaller ones are copied
LARGE_PART = 32 << 10
# a shorter one may well be how a header begins, with the fingerprint of the type
SHORTEST_TOPIC = 4
RECONNECT_MS = 5
# as long does `receive` wait, and a wish with it, before the poller is asked, which the bell can wake
WAIT_MS = 5
# less than it takes to connect again: so that a connection broke is known before the next one's first message is taken
MONITOR_NS = 4_000_000
# much, to be handed on at once
GATHER_BYTES = 1 << 20
# plain numbers: asking for them by their names costs half as much again
EVENTS, READABLE, WAITING, NOT_WAITING = int(zmq.EVENTS), int(zmq.POLLIN), 0, int(zmq.NOBLOCK)
WATCHED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


class Event(NamedTuple):
    """A connection that stands from now on (`alive`), or broke."""

    endpoint: str
    alive: bool


@dataclass(slots=True)
class Messages:
    """Messages of one topic in the order in which they came, and what they cost in memory (bytes)."""

    rows: list[Row]
    cost: int


Gathered = dict[bytes, Messages]


@dataclass(slots=True)
class Port:
    """A socket with the topics it is subscribed to, each at one address."""

    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    # of the socket, which takes long to look for it
    recv: Callable[..., Any]
    sources: dict[bytes, Source] = field(default_factory=dict)
    # when its monitor was looked at, and when its last message came; how many came at once
    noticed_ns: int = 0
    last_ns: int = 0
    took: int = 1
    # its topics; whether to look closely where a message ends; what was taken of the next one in looking for that
    topics: tuple[bytes, ...] = ()
    careful: bool = False
    ahead: bytes | None = None

    # Frame.more tells whether a part follows, but a frame costs as much as four copies. Messages only begin with a
    # topic we asked for; no header does, nor metadata: so these belong to what came before. Where one does after all,
    # somebody sends fewer parts than others, and from then on every message of this port is looked at closely. It
    # calls little, since it is called for every message, each time with cold caches.
    def receive(self, flags: int) -> tuple[bytes, list[Any], int]:
        """The next message: its topic, all its parts, and what it costs in memory.

        Raises:
            zmq.Again: there is none, even after WAIT_MS if `flags` is WAITING.
        """
        if self.careful:
            return self._receive_carefully(flags)
        receive, topics = self.recv, self.topics
        topic = receive(flags)
        parts = [topic]
        try:
            head = receive(NOT_WAITING)
            if head.startswith(topics):
                self.ahead = head
            else:
                parts.append(head)
                frame = receive(NOT_WAITING, False)
                metadata = frame.bytes
                if not metadata.startswith(topics):
                    parts.append(metadata)
                    size = MESSAGE_OVERHEAD + len(head) + len(metadata)
                    while frame.more:
                        frame = receive(NOT_WAITING, False)
                        length = len(frame)
                        size += length
                        parts.append(frame.bytes if length < LARGE_PART else frame.buffer)
                    return topic, parts, size
                self.ahead = metadata
        except zmq.Again:
            pass
        self.careful = True
        return topic, parts, MESSAGE_OVERHEAD + sum(map(len, parts[1:]))

    # What is done once for many messages finds the caches warm.
    def gather(self, wall: Callable[[], int], mono: Callable[[], int]) -> tuple[Gathered, bool]:
        """What comes until it is much, or the monitor is to be looked at again; and whether more may come at once.

        Args:
            wall, mono: clocks in ns.

        Returns:
            For each topic that is known its messages, and what they cost in memory; False when nothing came at last.
        """
        receive, sources = self.receive, self.sources
        gathered: Gathered = {}
        end, total = self.noticed_ns + MONITOR_NS, 0
        while total <= GATHER_BYTES or self.ahead is not None:
            try:
                topic, parts, cost = receive(WAITING)
            except zmq.Again:
                return gathered, False
            self.last_ns = now = mono()
            total += cost
            known = gathered.get(topic)
            if known is not None:
                known.rows.append((wall(), now, parts))
                known.cost += cost
            # ZeroMQ matches by prefix: /ab also comes for /a
            elif topic in sources:
                gathered[topic] = Messages([(wall(), now, parts)], cost)
                # who it comes from is asked at once, which takes long, and not when the monitor is due
                if sources[topic].reborn:
                    end = 0
            if now > end and self.ahead is None:
                break
        return gathered, True

    def _receive_carefully(self, flags: int) -> tuple[bytes, list[Any], int]:
        receive = self.recv
        if self.ahead is not None:
            topic, self.ahead = self.ahead, None
            more = bool(self.socket.getsockopt(zmq.RCVMORE))
        else:
            frame = receive(flags, False)
            topic, more = frame.bytes, frame.more
        parts: list[Any] = [topic]
        size = MESSAGE_OVERHEAD
        while more:
            # asking the socket for RCVMORE costs as much as receiving a part
            frame = receive(NOT_WAITING, False)
            length = len(frame)
            size += length
            parts.append(frame.bytes if length < LARGE_PART else frame.buffer)
            more = frame.more
        return topic, parts, size

    def subscribe(self, source: Source) -> None:
        """Let messages of its topic in."""
        self.sources[source.topic] = source
        self.socket.setsockopt(zmq.SUBSCRIBE, source.topic)
        self.topics = tuple(self.sources)
        self.careful = self.careful or len(source.topic) < SHORTEST_TOPIC

    def unsubscribe(self, source: Source) -> None:
        """Let none in any more."""
        self.socket.setsockopt(zmq.UNSUBSCRIBE, source.topic)
        del self.sources[source.topic]
        self.topics = tuple(self.sources)

    @property
    def has_news(self) -> bool:
        """Whether its monitor has something to tell."""
        return not self.monitor.closed and bool(int(self.monitor.getsockopt(EVENTS)) & READABLE)

    def events(self) -> list[Event]:
        """Everything its monitor has to tell, in the order in which it happened."""
        told = []
        while self.has_news:
            event = recv_monitor_message(self.monitor, zmq.NOBLOCK)
            alive = event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
            told.append(Event(event["endpoint"].decode(errors="replace"), alive))
        return told

    def sources_at(self, endpoint: str) -> list[Source]:
        """Whom an event of this endpoint concerns."""
        found = [source for source in self.sources.values() if source.address == endpoint]
        if found or self.local or not self.has_one_address:
            return found
        # an address may be a name and the endpoint a number, but there is no other
        return list(self.sources.values())

    @property
    def local(self) -> bool:
        """Whether all its endpoints are surely called what we connected to."""
        return all(source.local for source in self.sources.values())

    @property
    def has_one_address(self) -> bool:
        """Whether all its topics come from one address."""
        return len({source.address for source in self.sources.values()}) == 1

    @property
    def is_left(self) -> bool:
        """Whether one of its topics is received only until its publisher is gone."""
        return any(source.leaving for source in self.sources.values())

    def is_connected_to(self, address: str) -> bool:
        """Whether one of its topics comes from there."""
        return any(source.address == address for source in self.sources.values())


class Bell:
    """What other threads wish of the one that receives, and a socket, `heard`, which its pollers hear."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        self._wishes: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        # whoever asks may be interrupted by a signal that does so, too
        self._lock = threading.RLock()
        self._shut = False
        self._pulled, self.heard = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        self._pulled.bind("inproc://bell")
        self.heard.connect("inproc://bell")
        self.is_silent = self._wishes.empty

    # one that rings already need not be rung again, and one that is closed nobody hears
    def ask(self, wish: Callable[[], object]) -> bool:
        """Have something done by the thread that receives; from any thread. False when it does nothing more."""
        with self._lock:
            if self._shut:
                return False
            self._wishes.put(wish)
            with contextlib.suppress(zmq.ZMQError):
                self._pulled.send(b"", NOT_WAITING)
            return True

    def shut(self) -> None:
        """Accept no more wishes; those that were accepted can still be done."""
        with self._lock:
            self._shut = True

    def answer(self) -> None:
        """Do what is wished."""
        while self.heard.poll(0):
            self.heard.recv(NOT_WAITING)
        while not self._wishes.empty():
            self._wishes.get()()

    def close(self) -> None:
        """Ring no more."""
        with self._lock:
            self._pulled.close(0)
            self.heard.close(0)


class Ports:
    """All sockets of an intake, and one poller for them; `only` is the port when there is exactly one.

    Another poller, `news`, hears the bell and the monitors alone, and no messages.

    Args:
        context: where sockets are made.
        queue_bytes: what ZeroMQ may hold for us in all.
        bell: heard by both pollers.

    Attributes:
        queue: messages that it may hold for each connection.
    """

    def __init__(self, context: zmq.Context[Any], queue_bytes: int, bell: Bell) -> None:
        self.poller, self.news = zmq.Poller(), zmq.Poller()
        for poller in (self.poller, self.news):
            poller.register(bell.heard, zmq.POLLIN)
        self.only: Port | None = None
        self._context = context
        self.queue = max(LEAST_QUEUE, queue_bytes // MAX_SOCKETS // QUEUED_BYTES)
        self._ports: dict[zmq.Socket[bytes], Port] = {}

    def __iter__(self) -> Iterator[Port]:
        return iter(list(self._ports.values()))

    def in_order(self) -> list[Port]:
        """Those first where somebody leaves, whose last words come before what a successor says elsewhere."""
        return sorted(self._ports.values(), key=lambda port: not port.is_left)

    def at(self, socket: object) -> Port | None:
        """The port of a socket that is still open."""
        return self._ports.get(socket)  # type: ignore[call-overload, no-any-return]

    def of(self, source: Source) -> Port | None:
        """Where a source is received."""
        return next((port for port in self if port.sources.get(source.topic) is source), None)

    def place_for(self, source: Source) -> Port:
        """Where its address is connected already, else with others, else on a socket of its own while there are few."""
        usable = [port for port in self if source.topic not in port.sources]
        for port in usable:
            if port.is_connected_to(source.address):
                return port
        for port in usable:
            if source.local and port.local and len(port.sources) < MAX_TOPICS:
                return port
        if len(self._ports) < MAX_SOCKETS or not usable:
            return self._open()
        return min(usable, key=lambda port: len(port.sources))

    def close_if_idle(self, port: Port) -> None:
        """Close the socket of a port that no topic needs any more."""
        if not port.sources:
            self.poller.unregister(port.socket)
            self.news.unregister(port.monitor)
            del self._ports[port.socket]
            port.socket.disable_monitor()
            port.socket.close(0)
            self._count()

    def _open(self) -> Port:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.SUB, socket_class=zmq.Socket)
        socket.set(zmq.RCVHWM, self.queue)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.set(zmq.RCVTIMEO, WAIT_MS)
        port = Port(socket, socket.get_monitor_socket(WATCHED), socket.recv)
        self._ports[socket] = port
        self.poller.register(socket, zmq.POLLIN)
        self.news.register(port.monitor, zmq.POLLIN)
        self._count()
        return port

    def _count(self) -> None:
        self.only = next(iter(self)) if len(self._ports) == 1 else None
