"""Receives from the publishers: many sockets, one thread, no decoding and no disk; every message is stamped and handed on."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from bag.buffer import MESSAGE_OVERHEAD, Received, RecordBuffer, cost_of
from bag.storage.batch import Row

# so many sockets at most: beyond, topics share one, each still at one address there
MAX_SOCKETS = 16
# one turn of one socket, so that a flood on one topic does not starve the others
TURN_MESSAGES = 512
TURN_BYTES = 16 << 20
# parts this large stay in ZeroMQ's memory, smaller ones are copied
LARGE_PART = 32 << 10
RECONNECT_MS = 5
DRAIN_S = 0.25
POLL_MS = 50
WATCHED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


@dataclass(slots=True)
class Source:
    """One topic at one address. `channel` is its number in the bag, `period_ns` thins it out when it is not 0."""

    channel: int
    topic: bytes
    address: str
    connected: bool = False
    period_ns: int = 0
    next_ns: int = 0


@dataclass(slots=True)
class _Port:
    """A socket with the topics it is subscribed to, each at one address."""

    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    sources: dict[bytes, Source] = field(default_factory=dict)


class Intake:
    """Receives in a thread of its own from the moment `start` is called.

    Args:
        buffer: where the messages go.
        wall: wall clock in ns.
        mono: monotonic clock in ns.
    """

    def __init__(
        self, buffer: RecordBuffer, *, wall: Callable[[], int] = time.time_ns, mono: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._buffer = buffer
        self._wall, self._mono = wall, mono
        self._context: zmq.Context[Any] = zmq.Context()
        self._wishes: queue.SimpleQueue[tuple[str, Source]] = queue.SimpleQueue()
        self._bell = self._context.socket(zmq.PAIR)
        self._bell_end = self._context.socket(zmq.PAIR)
        self._bell.bind("inproc://bell")
        self._bell_end.connect("inproc://bell")
        self._ports: list[_Port] = []
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
        self._wishes.put(("connect", source))
        self._bell.send(b"")

    def disconnect(self, source: Source) -> None:
        """Receive a topic no longer."""
        self._wishes.put(("disconnect", source))
        self._bell.send(b"")

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
        ready = dict(self._poller.poll(timeout_ms))
        if not ready:
            return False
        if self._bell_end in ready:
            self._fulfil()
        came = False
        for port in self._ports:
            if port.monitor in ready:
                self._notice(port)
            if port.socket in ready:
                self._drain(port)
                came = True
        return came

    def _drain(self, port: _Port) -> None:
        receive, wall, mono, sources = port.socket.recv, self._wall, self._mono, port.sources
        rows: dict[bytes, list[Row]] = {}
        costs: dict[bytes, int] = {}
        total = 0
        for _ in range(TURN_MESSAGES):
            try:
                frame = receive(zmq.NOBLOCK, copy=False)
            except zmq.Again:
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
            rows[topic].append((wall(), mono(), parts))
            costs[topic] += size
            total += size
            if total > TURN_BYTES:
                break
        for topic, messages in rows.items():
            self._hand_on(sources[topic], messages, costs[topic])

    def _hand_on(self, source: Source, rows: list[Row], cost: int) -> None:
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
            else:
                self._leave(source)

    def _join(self, source: Source) -> None:
        port = self._port_for(source)
        port.sources[source.topic] = source
        port.socket.setsockopt(zmq.SUBSCRIBE, source.topic)
        port.socket.connect(source.address)

    def _leave(self, source: Source) -> None:
        for port in self._ports:
            if port.sources.get(source.topic) is source:
                self._drain(port)
                port.socket.setsockopt(zmq.UNSUBSCRIBE, source.topic)
                port.socket.disconnect(source.address)
                del port.sources[source.topic]
                source.connected = False

    def _port_for(self, source: Source) -> _Port:
        usable = [
            port
            for port in self._ports
            if source.topic not in port.sources and all(other.address != source.address for other in port.sources.values())
        ]
        if len(self._ports) < MAX_SOCKETS or not usable:
            return self._open_port()
        return min(usable, key=lambda port: len(port.sources))

    def _open_port(self) -> _Port:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.SUB, socket_class=zmq.Socket)
        socket.set(zmq.RCVHWM, 0)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
        port = _Port(socket, socket.get_monitor_socket(WATCHED))
        self._ports.append(port)
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(port.monitor, zmq.POLLIN)
        return port

    def _notice(self, port: _Port) -> None:
        while port.monitor.poll(0):
            event = recv_monitor_message(port.monitor, zmq.NOBLOCK)
            endpoint = event["endpoint"].decode(errors="replace")
            for source in port.sources.values():
                if source.address == endpoint or len(port.sources) == 1:
                    source.connected = event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
