"""Receives from the publishers: one thread, no decoding, no disk; messages are stamped and handed on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from bag.assign import Assigner, Renew
from bag.buffer import RecordBuffer
from bag.pace import Pace
from bag.ports import MONITOR_NS, NOT_WAITING, Bell, Event, Port, Ports
from bag.sources import Source
from bag.storage.batch import Row

# one turn of one socket, so that a flood on one topic does not starve the others
TURN_MESSAGES = 512
TURN_BYTES = 16 << 20
# when a socket has something again this soon, for each message it had, twice as many are taken at once
SOON_NS = 50_000
DRAIN_S = 0.25
# so often does who waits for the thread look whether it has ended
DONE_S = 0.05
POLL_MS = 50
# connections come and go rarely: looking at every monitor for every message would double the work of waiting
MONITORS_EVERY_NS = 50_000_000
EMPTY_TURNS = 1000


class Intake:
    """Receives in a thread of its own from the moment `start` is called.

    Args:
        buffer: where the messages go.
        queue_bytes: bound on what ZeroMQ holds for us; what does not fit waits, or is lost, at the publisher.
        interval_ns: let messages gather at most this long before they are taken and stamped; 0: take each at once.
        wall, mono: wall and monotonic clock in ns.
        renew: gives a channel for a source, with the reason. Called in the intake's thread.
    """

    def __init__(
        self,
        buffer: RecordBuffer,
        queue_bytes: int,
        *,
        interval_ns: int = 0,
        wall: Callable[[], int] = time.time_ns,
        mono: Callable[[], int] = time.monotonic_ns,
        renew: Renew | None = None,
    ) -> None:
        self._buffer = buffer
        self._gathers = interval_ns > 0
        self._wall, self._mono = wall, mono
        self._assigner = Assigner(buffer, renew)
        self.problems: list[str] = []
        self._context: zmq.Context[Any] = zmq.Context()
        self._bell = Bell(self._context)
        self._ports = Ports(self._context, queue_bytes, self._bell)
        self._pace = Pace(interval_ns, self._ports.queue, queue_bytes)
        self._messages = self._bytes = 0  # taken so far
        self._monitors_due_ns = 0
        self._stopping = False
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="bag intake", daemon=True)

    @property
    def paused(self) -> bool:
        """Whether what comes is skipped."""
        return self._assigner.paused

    def start(self, *, paused: bool = False) -> None:
        """Begin to receive, or to skip what comes."""
        self._assigner.paused = paused
        self._thread.start()

    def connect(self, source: Source) -> None:
        """Receive a topic from now on."""
        self.ask(lambda: self._join(source))

    def disconnect(self, source: Source) -> None:
        """Receive a topic no longer, once its publisher is gone."""
        self.ask(lambda: self._begin_to_leave(source))

    def renew(self, source: Source) -> None:
        """Give a source another channel, unless its next message will do so anyway."""
        self.ask(lambda: self._change_channel(source))

    def pause(self, paused: bool) -> bool:
        """Skip what comes from now on, or no longer; waits until what had come before is taken. False: it is ending."""
        done = threading.Event()

        def switch() -> None:
            self._assigner.paused = paused
            done.set()

        accepted = self.when_taken(switch)
        while accepted and self._thread.is_alive() and not done.wait(DONE_S):
            pass
        return done.is_set()

    def when_taken(self, then: Callable[[], None]) -> bool:
        """Have the intake's thread do something once it has taken what has come until now. False: it is ending."""

        def take() -> None:
            self._take_up()
            then()

        return self.ask(take)

    def ask(self, wish: Callable[[], object]) -> bool:
        """Have the intake's thread do something soon, before it ends. False: it is ending already."""
        return self._bell.ask(wish)

    def finish(self) -> None:
        """End as `stop` does, but do not wait for it."""
        self._stopping = True
        self.ask(lambda: None)

    def stop(self) -> None:
        """Take what has already arrived, then end; waits for it."""
        self.finish()
        if self._thread.is_alive():
            self._thread.join()
        self._bell.close()
        self._context.destroy(0)

    def _run(self) -> None:
        try:
            flows = False
            while not self._stopping:
                if flows and self._gathers:
                    self._take_now_and_then()
                elif flows:
                    self._flow()
                flows = self._turn(POLL_MS)
            self._bell.shut()
            self._bell.answer()
            self._take_up()
        except BaseException as error:  # noqa: BLE001  handed to the recorder, which ends with it
            self.error = error
        finally:
            self._bell.shut()
            self._buffer.close()

    # what has already arrived, in turns: whoever floods us keeps nobody else's out, and is left at last
    def _take_up(self) -> None:
        deadline = time.monotonic() + DRAIN_S
        for port in (left := self._ports.in_order()):
            self._notice(port)
        while left:
            left = [port for port in left if not port.socket.closed and self._drain(port, TURN_MESSAGES)]
            if time.monotonic() >= deadline:
                return

    # While messages flow and all come to one socket, its own `recv` waits for half of what a poller costs. No bell
    # is heard there, so it waits only for a moment, and whoever wishes something has it end.
    def _flow(self) -> None:
        ports, nobody_wishes = self._ports, self._bell.is_silent
        port, flows = ports.only, True
        while port is not None and flows and ports.only is port and nobody_wishes() and not self._stopping:
            gathered, flows = port.gather(self._wall, self._mono)
            for topic, messages in gathered.items():
                self._assigner.hand_on(port.sources[topic], messages.rows, messages.cost)
            self._look_at(port, self._mono())

    # to wake up costs more than to take a message; after long enough, the next one is waited for at the sockets again
    def _take_now_and_then(self) -> None:
        self._pace.begin()
        while True:
            # who leaves or comes, or wishes something, is attended to at once
            self._ports.news.poll(self._pace.wait_ns // 1_000_000)
            messages, nbytes = self._messages, self._bytes
            self._take_all()
            if self._messages == messages and (self._pace.is_longest or self._is_wanted):
                return
            self._pace.took(self._messages - messages, self._bytes - nbytes)

    @property
    def _is_wanted(self) -> bool:
        return self._stopping or not self._bell.is_silent()

    # all that has come to any socket, unless somebody wishes something
    def _take_all(self) -> None:
        more = True
        while more and not self._is_wanted:
            more = False
            for port in self._ports.in_order():
                # whoever spoke until now is asked first: a new publisher may have come in the meantime
                if port.has_news:
                    self._notice(port)
                if not port.socket.closed:
                    more |= self._drain(port, TURN_MESSAGES)

    # one round over all sockets that have something; True when messages came
    def _turn(self, timeout_ms: int) -> bool:
        ready = self._ports.poller.poll(timeout_ms)
        now = self._mono()
        if now >= self._monitors_due_ns:
            self._monitors_due_ns = now + MONITORS_EVERY_NS
            for port in self._ports:
                self._notice(port)
        came = False
        for socket, _event in ready:
            if socket is self._bell.heard:
                self._bell.answer()
            elif (ready_port := self._ports.at(socket)) is not None:
                came |= self._take(ready_port, len(ready))
        return came

    # the next message of a port, one of so many that have something; more where much comes; False when there is none
    def _take(self, port: Port, ready: int) -> bool:
        try:
            topic, parts, cost = port.receive(NOT_WAITING)
        except zmq.Again:
            return False
        now = self._mono()
        row = (self._wall(), now, parts)
        source = port.sources.get(topic)
        # ZeroMQ matches by prefix: /ab also comes for /a
        if source is not None:
            self._assigner.hand_on(source, [row], cost)
        before, port.last_ns = port.last_ns, now
        # where little comes, to wait again costs less than to find nothing more
        if now - before >= SOON_NS * port.took * ready and port.ahead is None:
            port.took = 1
        else:
            self._drain(port, min(TURN_MESSAGES, 2 * port.took) - 1)
        self._look_at(port, now)
        return True

    # after what came before: it is the old publisher's unless the new one's connection stands already
    def _look_at(self, port: Port, now: int) -> None:
        if now - port.noticed_ns > MONITOR_NS:
            port.noticed_ns = now
            if port.has_news:
                self._notice(port)

    # up to so many more messages of one port; True when there may be more
    def _drain(self, port: Port, count: int) -> bool:
        receive, sources = port.receive, port.sources
        wall, mono = self._wall, self._mono
        rows: list[Row] = []
        before = b""
        cost = total = 0
        took = 1
        more = True
        # nobody would be told that a message is here whose beginning was taken already
        while (took <= count and total <= TURN_BYTES) or port.ahead is not None:
            try:
                topic, parts, size = receive(NOT_WAITING)
            except zmq.Again:
                more = False
                break
            took += 1
            port.last_ns = now = mono()
            if topic != before:
                if rows:
                    self._assigner.hand_on(sources[before], rows, cost)
                rows, before, cost = [], topic, 0
            if topic in sources:
                rows.append((wall(), now, parts))
                cost += size
            total += size
        if rows:
            self._assigner.hand_on(sources[before], rows, cost)
        port.took = took
        self._messages += took - 1
        self._bytes += total
        return more

    def _join(self, source: Source) -> None:
        if self._goes_on(source):
            return
        port = self._ports.place_for(source)
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
        port.subscribe(source)

    # it was about to be left, and is wanted again before its publisher has gone
    def _goes_on(self, source: Source) -> bool:
        for port in self._ports:
            left = port.sources.get(source.topic)
            if left is not None and left.address == source.address:
                source.take_over(left)
                port.sources[source.topic] = source
                return True
        return False

    # a publisher that moves may have last words at the old address: while the connection stands, they are taken
    def _begin_to_leave(self, source: Source) -> None:
        port = self._ports.of(source)
        if port is not None:
            self._notice(port)
        source.leaving = True
        if not source.connected:
            self._leave(source)

    def _leave(self, source: Source) -> None:
        port = self._ports.of(source)
        if port is not None:
            self._empty(port)
            port.unsubscribe(source)
            source.connected = False
            if not port.is_connected_to(source.address):
                port.socket.disconnect(source.address)
            self._ports.close_if_idle(port)

    def _change_channel(self, source: Source) -> None:
        port = self._ports.of(source)
        if port is not None:
            self._notice(port)
        self._assigner.told(source)

    # everything that has arrived there; bounded, since others on the same socket may go on for ever
    def _empty(self, port: Port) -> None:
        for _ in range(EMPTY_TURNS):
            if not self._drain(port, TURN_MESSAGES):
                return

    # What came over a connection is in the socket before the event that it broke, and nothing comes over the next one
    # before the event that it stands: without that one, what is there is the old publisher's, what comes later the
    # new one's. The other endpoints of the socket say nothing of this one.
    def _notice(self, port: Port) -> None:
        events = port.events()
        while events:
            endpoint, alive = events.pop(0)
            sources = port.sources_at(endpoint)
            for source in sources:
                source.connected = alive
            if alive or not sources:
                continue
            self._empty(port)
            # what was told meanwhile came later
            events += port.events()
            for source in sources:
                source.has_broken(mixed=Event(endpoint, alive=True) in events)
                if source.leaving:
                    self._leave(source)
