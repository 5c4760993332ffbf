"""Receives from the publishers: many sockets, one thread, no decoding, no disk; messages are stamped and handed on."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from bag.buffer import MESSAGE_OVERHEAD, Received, RecordBuffer, cost_of
from bag.sources import Source
from bag.storage.batch import Row

# so many sockets at most: beyond, topics share one
MAX_SOCKETS = 16
# one turn of one socket, so that a flood on one topic does not starve the others
TURN_MESSAGES = 512
TURN_BYTES = 16 << 20
# when a socket has something again this soon, for each message it had, twice as many are taken at once
SOON_NS = 50_000
# Below, a burst would find no room. Large messages never get that far: we take them faster than they can be sent.
LEAST_QUEUE = 1000
# what ZeroMQ spends on a small message of four parts
QUEUED_BYTES = 1024
# parts this large stay in ZeroMQ's memory, smaller ones are copied
LARGE_PART = 32 << 10
RECONNECT_MS = 5
# less than it takes to connect again: so that a connection broke is known before the next one's first message is taken
MONITOR_NS = 4_000_000
DRAIN_S = 0.25
POLL_MS = 50
# connections come and go rarely: looking at every monitor for every message would double the work of waiting
MONITORS_EVERY_NS = 50_000_000
EMPTY_TURNS = 1000
# plain numbers: asking for them by their names costs half as much again
EVENTS, READABLE, NOT_WAITING = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK)
WATCHED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


@dataclass(slots=True)
class _Port:
    """A socket with the topics it is subscribed to, each at one address."""

    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    sources: dict[bytes, Source] = field(default_factory=dict)
    # when its monitor was looked at, and when its last message came; how many came at once
    noticed_ns: int = 0
    last_ns: int = 0
    took: int = 1


class Intake:
    """Receives in a thread of its own from the moment `start` is called.

    Args:
        buffer: where the messages go.
        queue_bytes: bound on what ZeroMQ holds for us; what does not fit waits, or is lost, at the publisher.
        wall: wall clock in ns.
        mono: monotonic clock in ns.
        renew: gives a channel for a source; True: a new publisher speaks there. Called in the intake's thread.
    """

    def __init__(
        self,
        buffer: RecordBuffer,
        queue_bytes: int,
        *,
        wall: Callable[[], int] = time.time_ns,
        mono: Callable[[], int] = time.monotonic_ns,
        renew: Callable[[Source, bool], int] | None = None,
    ) -> None:
        self._buffer = buffer
        self._wall, self._mono = wall, mono
        self._renew = renew
        self._queue = max(LEAST_QUEUE, queue_bytes // MAX_SOCKETS // QUEUED_BYTES)
        self.problems: list[str] = []
        self._context: zmq.Context[Any] = zmq.Context()
        self._wishes: queue.SimpleQueue[tuple[str, Source]] = queue.SimpleQueue()
        self._bell = self._context.socket(zmq.PAIR)
        self._bell_end = self._context.socket(zmq.PAIR)
        self._bell.bind("inproc://bell")
        self._bell_end.connect("inproc://bell")
        self._ports: dict[zmq.Socket[bytes], _Port] = {}
        self._monitors_due_ns = 0
        self._poller = zmq.Poller()
        self._stopping = False
        self.paused = False
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="bag intake", daemon=True)

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def connect(self, source: Source) -> None:
        """Receive a topic from now on; only one thread may call `connect` and `disconnect`."""
        self._ask("connect", source)

    def disconnect(self, source: Source) -> None:
        """Receive a topic no longer, once its publisher is gone."""
        self._ask("disconnect", source)

    def renew(self, source: Source) -> None:
        """Give a source another channel, unless its next message will do so anyway."""
        self._ask("renew", source)

    # a bell that rings already need not be rung again
    def _ask(self, wish: str, source: Source) -> None:
        self._wishes.put((wish, source))
        with contextlib.suppress(zmq.Again):
            self._bell.send(b"", zmq.NOBLOCK)

    def stop(self) -> None:
        """Take what has already arrived, then end; waits for it."""
        self._stopping = True
        if self._thread.is_alive():
            self._thread.join()
        self._bell.close(0)
        self._bell_end.close(0)
        self._context.destroy(0)

    def _run(self) -> None:
        self._poller.register(self._bell_end, zmq.POLLIN)
        try:
            while not self._stopping:
                self._turn(POLL_MS)
            # what has already arrived, not what a flood goes on to bring
            deadline = time.monotonic() + DRAIN_S
            while self._turn(0) and time.monotonic() < deadline:
                pass
        except BaseException as error:  # noqa: BLE001  handed to the recorder, which ends with it
            self.error = error
        finally:
            self._buffer.close()

    # one round over all sockets that have something; True when messages came
    def _turn(self, timeout_ms: int) -> bool:
        ready = self._poller.poll(timeout_ms)
        now = self._mono()
        if now >= self._monitors_due_ns:
            self._monitors_due_ns = now + MONITORS_EVERY_NS
            for port in self._ports.values():
                self._notice(port)
        came = False
        for socket, _event in ready:
            if socket is self._bell_end:
                self._fulfil()
            else:
                port = self._ports[socket]
                now = self._mono()
                if now - port.noticed_ns > MONITOR_NS:
                    port.noticed_ns = now
                    if int(port.monitor.getsockopt(EVENTS)) & READABLE:
                        self._notice(port)
                # where little comes, to wait again costs less than to find nothing more
                soon = now - port.last_ns < SOON_NS * port.took * len(ready)
                self._drain(port, min(TURN_MESSAGES, 2 * port.took) if soon else 1)
                came = True
        return came

    # up to so many messages of one socket; True when there may be more
    def _drain(self, port: _Port, count: int) -> bool:
        receive, sources = port.socket.recv, port.sources
        wall, mono = self._wall, self._mono
        rows: dict[bytes, list[Row]] = {}
        costs: dict[bytes, int] = {}
        total = 0
        more = True
        for took in range(count):
            try:
                frame = receive(NOT_WAITING, copy=False)
            except zmq.Again:
                more = False
                break
            topic = frame.bytes
            parts: list[Any] = [topic]
            size = MESSAGE_OVERHEAD
            # Frame.more comes with the frame; asking the socket for RCVMORE costs as much as receiving a part
            while frame.more:
                frame = receive(0, copy=False)
                length = len(frame)
                size += length
                parts.append(frame.bytes if length < LARGE_PART else frame.buffer)
            if topic not in sources:
                # ZeroMQ matches by prefix: /ab also comes for /a
                continue
            if topic not in rows:
                rows[topic], costs[topic] = [], 0
            now = mono()
            rows[topic].append((wall(), now, parts))
            costs[topic] += size
            total += size
            port.last_ns, port.took = now, took + 1
            if total > TURN_BYTES:
                break
        for topic, messages in rows.items():
            self._hand_on(sources[topic], messages, costs[topic])
        return more

    def _hand_on(self, source: Source, rows: list[Row], cost: int) -> None:
        if source.reborn and self._renew is not None:
            source.channel = self._renew(source, True)
        source.reborn, source.heard = False, True
        if self.paused:
            for row in rows:
                self._buffer.skip(source.channel, "paused", row)
        elif source.period_ns:
            self._thin_out(source, rows)
        else:
            self._buffer.put(Received(source.channel, rows, cost))

    # due times stand on a grid, so that 30 Hz thinned to 10 Hz gives 10 Hz and not 7.5
    def _thin_out(self, source: Source, rows: list[Row]) -> None:
        for row in rows:
            now = row[1]
            if now < source.next_ns:
                self._buffer.skip(source.channel, "throttled", row)
                continue
            late = now - source.next_ns
            source.next_ns = (source.next_ns if late < source.period_ns else now) + source.period_ns
            self._buffer.put(Received(source.channel, [row], cost_of(row)))

    def _fulfil(self) -> None:
        while self._bell_end.poll(0):
            self._bell_end.recv(zmq.NOBLOCK)
        while not self._wishes.empty():
            wish, source = self._wishes.get()
            if wish == "connect":
                self._join(source)
            elif wish == "disconnect":
                self._begin_to_leave(source)
            else:
                self._change_channel(source)

    def _join(self, source: Source) -> None:
        if self._goes_on(source):
            return
        port = self._port_for(source)
        neighbour = next((other for other in port.sources.values() if other.address == source.address), None)
        try:
            # twice connected, everything would come twice
            if neighbour is None:
                port.socket.connect(source.address)
        except zmq.ZMQError as error:
            # anybody can register anything; the others are recorded all the same
            name = source.topic.decode(errors="replace")
            self.problems.append(f"{name} cannot be received: its address {source.address!r} is none ({error})")
            return
        source.connected = neighbour is not None and neighbour.connected
        port.sources[source.topic] = source
        port.socket.setsockopt(zmq.SUBSCRIBE, source.topic)

    # it was about to be left, and is wanted again before its publisher has gone
    def _goes_on(self, source: Source) -> bool:
        for port in self._ports.values():
            left = port.sources.get(source.topic)
            if left is not None and left.address == source.address:
                source.channel, source.connected = left.channel, left.connected
                source.heard, source.reborn = left.heard, left.reborn
                port.sources[source.topic] = source
                return True
        return False

    # a publisher that moves may have last words at the old address: while the connection stands, they are taken
    def _begin_to_leave(self, source: Source) -> None:
        port = self._port_of(source)
        if port is not None:
            self._notice(port)
        source.leaving = True
        if not source.connected:
            self._leave(source)

    def _leave(self, source: Source) -> None:
        port = self._port_of(source)
        if port is not None:
            self._empty(port)
            port.socket.setsockopt(zmq.UNSUBSCRIBE, source.topic)
            del port.sources[source.topic]
            source.connected = False
            if all(other.address != source.address for other in port.sources.values()):
                port.socket.disconnect(source.address)

    def _change_channel(self, source: Source) -> None:
        port = self._port_of(source)
        if port is not None:
            self._notice(port)
        if not source.reborn and self._renew is not None:
            source.channel = self._renew(source, False)

    def _port_of(self, source: Source) -> _Port | None:
        return next((port for port in self._ports.values() if port.sources.get(source.topic) is source), None)

    # everything that has arrived there; bounded, since others on the same socket may go on for ever
    def _empty(self, port: _Port) -> None:
        for _ in range(EMPTY_TURNS):
            if not self._drain(port, TURN_MESSAGES):
                return

    # where its address is connected already, else a socket of its own while there are few
    def _port_for(self, source: Source) -> _Port:
        usable = [port for port in self._ports.values() if source.topic not in port.sources]
        for port in usable:
            if any(other.address == source.address for other in port.sources.values()):
                return port
        if len(self._ports) < MAX_SOCKETS or not usable:
            return self._open_port()
        return min(usable, key=lambda port: len(port.sources))

    def _open_port(self) -> _Port:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.SUB, socket_class=zmq.Socket)
        socket.set(zmq.RCVHWM, self._queue)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
        port = _Port(socket, socket.get_monitor_socket(WATCHED))
        self._ports[socket] = port
        self._poller.register(socket, zmq.POLLIN)
        return port

    def _notice(self, port: _Port) -> None:
        while port.monitor.poll(0):
            event = recv_monitor_message(port.monitor, zmq.NOBLOCK)
            endpoint = event["endpoint"].decode(errors="replace")
            for source in list(port.sources.values()):
                if source.address == endpoint or len(port.sources) == 1:
                    self._connection(port, source, alive=event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED)

    # What came over a connection is in the socket before the event that it broke, and nothing comes over the next one
    # before the event that it stands: without that one, what is there is the old publisher's, what comes later the
    # new one's.
    def _connection(self, port: _Port, source: Source, *, alive: bool) -> None:
        source.connected = alive
        if alive:
            return
        self._empty(port)
        # where they may be mixed already, and over TCP, where the same publisher may come back, its numbers tell
        if source.heard and source.address.startswith("ipc:") and not port.monitor.poll(0):
            source.reborn, source.heard = True, False
        if source.leaving:
            self._leave(source)
