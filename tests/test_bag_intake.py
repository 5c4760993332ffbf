"""The intake by itself: who shares a socket, what is told of whom, where messages end, and who waits for what."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from helpers import wait_until
from talkers import BODY, Talker, header, heard_by_a_witness

from bag.buffer import Received, RecordBuffer, cost_of
from bag.intake import TURN_MESSAGES, Intake
from bag.pace import Pace
from bag.ports import GATHER_BYTES, MAX_SOCKETS, MAX_TOPICS, MONITOR_NS, WAITING, Bell, Event, Port, Ports
from bag.sources import Renewal, Source
from bag.storage.batch import Row

PLENTY = 1 << 30
HOUR_NS = 3_600_000_000_000


@pytest.fixture
def buffer() -> RecordBuffer:
    return RecordBuffer(PLENTY)


@pytest.fixture
def intake(buffer: RecordBuffer) -> Iterator[Intake]:
    """Not started: what its thread does is done by the test."""
    intake = Intake(buffer, PLENTY)
    yield intake
    intake.stop()


@pytest.fixture
def ports() -> Iterator[Ports]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield Ports(context, PLENTY, Bell(context))
    context.destroy(0)


def place(ports: Ports, topic: str, address: str) -> Port:
    source = Source(0, topic.encode(), address)
    port = ports.place_for(source)
    port.subscribe(source)
    return port


def taken(buffer: RecordBuffer) -> dict[int, list[list[bytes]]]:
    """The messages of each channel that are in the buffer, their parts as bytes."""
    found: dict[int, list[list[bytes]]] = {}
    for item in buffer.take(0)[0]:
        if isinstance(item, Received):
            found.setdefault(item.channel, []).extend([bytes(part) for part in row[2]] for row in item.rows)
    return found


def turn_until(intake: Intake, condition: Callable[[], object]) -> None:
    def turned() -> object:
        while intake._turn(1):
            pass
        return condition()

    wait_until(turned)


def take_all(intake: Intake, buffer: RecordBuffer, count: int) -> dict[int, list[list[bytes]]]:
    """Turn after turn until so many messages have come."""
    turn_until(intake, lambda: buffer.statistics().messages >= count)
    assert buffer.statistics().messages == count
    return taken(buffer)


def joined(intake: Intake, *talkers: Talker) -> list[Source]:
    sources = [Source(number, talker.topic, talker.info.address) for number, talker in enumerate(talkers)]
    for source in sources:
        intake._join(source)
    for talker in talkers:
        talker.wait_subscribed()
    return sources


# --- who shares a socket


def test_topics_share_sockets_as_long_as_these_have_few_topics(ports):
    used = [place(ports, f"/t{number}", f"ipc:///tmp/none{number}") for number in range(2 * MAX_TOPICS + 1)]
    sizes = [len(list(group)) for _port, group in itertools.groupby(used, id)]
    assert sizes == [MAX_TOPICS, MAX_TOPICS, 1]


def test_a_topic_at_two_addresses_has_two_sockets_and_an_address_has_one(ports):
    first = place(ports, "/a", "ipc:///tmp/none1")
    second = place(ports, "/a", "ipc:///tmp/none2")
    assert first is not second
    assert place(ports, "/b", "ipc:///tmp/none2") is second


def test_what_comes_over_tcp_has_a_socket_of_its_own_while_there_are_few(ports):
    local = place(ports, "/local", "ipc:///tmp/none")
    remote = [place(ports, f"/t{number}", f"tcp://127.0.0.1:{number}") for number in range(1, MAX_SOCKETS)]
    assert len({id(port) for port in (local, *remote)}) == MAX_SOCKETS
    assert place(ports, "/other", "ipc:///tmp/none2") is local
    assert len(list(ports)) == MAX_SOCKETS


def test_a_socket_is_closed_with_its_last_topic(intake, cortex_dir):
    with Talker(cortex_dir, "/one") as one, Talker(cortex_dir, "/one", name="two.sock") as two:
        first, second = joined(intake, one, two)
        assert intake._ports.only is None
        intake._leave(first)
        assert intake._ports.only is intake._ports.of(second)
        intake._leave(second)
        assert list(intake._ports) == []


# --- what is told of connections

BROKE_A, BROKE_B = Event("ipc:///tmp/a", alive=False), Event("ipc:///tmp/b", alive=False)
STANDS_A, STANDS_B = Event("ipc:///tmp/a", alive=True), Event("ipc:///tmp/b", alive=True)


@pytest.mark.parametrize(
    ("told", "reborn"),
    [
        ([[BROKE_A]], {"a"}),
        ([[BROKE_A, STANDS_A]], set()),
        # what comes while the socket is emptied is later, too
        ([[BROKE_A], [STANDS_A]], set()),
        ([[BROKE_A, BROKE_B, STANDS_B]], {"a"}),
        ([[BROKE_A, BROKE_B]], {"a", "b"}),
        ([[BROKE_A], [BROKE_B], [STANDS_A]], {"a", "b"}),
        ([[STANDS_B, BROKE_A], [STANDS_B]], {"a"}),
        ([[BROKE_A, STANDS_A, BROKE_A]], {"a"}),
    ],
)
def test_only_its_own_next_connection_hides_that_a_publisher_is_another(told, reborn, intake, monkeypatch):
    sources = {name: Source(0, f"/{name}".encode(), f"ipc:///tmp/{name}", heard=True) for name in "ab"}
    for source in sources.values():
        intake._join(source)
    (port,) = intake._ports
    rest = iter(told)
    monkeypatch.setattr(Port, "events", lambda _port: list(next(rest, [])))
    intake._notice(port)
    assert {name for name, source in sources.items() if source.reborn} == reborn


def test_over_tcp_the_only_address_is_meant_whatever_it_is_called(intake, monkeypatch):
    source = Source(0, b"/a", "tcp://localhost:9")
    intake._join(source)
    (port,) = intake._ports
    monkeypatch.setattr(Port, "events", lambda _port: [Event("tcp://127.0.0.1:9", alive=True)])
    intake._notice(port)
    assert source.connected


def test_what_an_address_that_was_left_has_to_tell_is_not_told_of_another(intake, monkeypatch):
    source = Source(0, b"/a", "ipc:///tmp/a", connected=True, heard=True)
    intake._join(source)
    (port,) = intake._ports
    source.connected = True
    told = iter([[BROKE_B]])
    monkeypatch.setattr(Port, "events", lambda _port: next(told, []))
    intake._notice(port)
    assert source.connected
    assert not source.reborn


def test_last_words_are_the_old_publishers_also_beside_others(intake, buffer, cortex_dir):
    renewed: list[Source] = []
    intake._assigner.renew = lambda source, _why: renewed.append(source) or 7
    with Talker(cortex_dir, "/there") as there:
        with Talker(cortex_dir, "/gone") as gone:
            first, second = joined(intake, gone, there)
            port = intake._ports.only
            gone.send(3)
            there.send(2)
        wait_until(lambda: (intake._notice(port), not first.connected)[1] and first.reborn)
        assert {channel: len(messages) for channel, messages in taken(buffer).items()} == {0: 3, 1: 2}
        assert not second.reborn
        with Talker(cortex_dir, "/gone") as gone:
            gone.wait_subscribed().send(1)
            there.send(1)
            assert {channel: len(messages) for channel, messages in take_all(intake, buffer, 2).items()} == {7: 1, 1: 1}
        assert renewed == [first]


# --- where a message ends


@pytest.mark.parametrize("topic", ["/short/and/long", "/t"])
def test_messages_of_any_number_of_parts_are_kept_apart(topic, intake, buffer, cortex_dir):
    name = topic.encode()
    sent = [
        [header(0), *BODY],
        [header(1), b"", b"", b"buffer"],
        [],
        [],
        [header(2), *BODY],
        [header(3)],
        [header(4), b"metadata"],
        [b""],
        [header(5), bytes(100_000), b"x"],
        [],
        [header(6), *BODY],
    ]
    for first in range(len(sent)):
        with Talker(cortex_dir, topic, name=f"{first}.sock") as talker:
            (source,) = joined(intake, talker)
            for parts in sent[first:]:
                talker.send_parts(*parts)
            found = take_all(intake, buffer, len(sent) - first)[0]
            assert found == [[name, *parts] for parts in sent[first:]]
            intake._leave(source)


def test_a_header_that_begins_with_a_topic_costs_its_message_which_is_counted_and_no_other(intake, buffer, cortex_dir):
    with Talker(cortex_dir, "/long/enough") as talker:
        joined(intake, talker)
        strange = talker.topic + bytes(len(header(0)) - len(talker.topic))
        sent = [[header(0), *BODY], [strange, *BODY], [strange, *BODY], [header(1), *BODY]]
        for parts in sent:
            talker.send_parts(*parts)
        # of the first strange one only the topic is known: it is malformed
        expected = [sent[0], [], *sent[2:]]
        assert take_all(intake, buffer, 4) == {0: [[talker.topic, *parts] for parts in expected]}


def test_a_short_message_is_not_left_behind_when_nothing_follows(intake, buffer, cortex_dir):
    with Talker(cortex_dir, "/long/enough") as talker:
        joined(intake, talker)
        talker.send_parts().send_parts()
        assert take_all(intake, buffer, 2) == {0: [[b"/long/enough"], [b"/long/enough"]]}
        assert intake._ports.only.ahead is None


def test_memory_is_accounted_for_by_every_way_of_receiving(intake, buffer, cortex_dir):
    with Talker(cortex_dir, "/long/enough") as talker:
        joined(intake, talker)
        for parts in ([header(0), *BODY], [header(1), b"m"], [header(2), b"m", bytes(50_000)], [], [header(3)]) * 2:
            talker.send_parts(*parts)
        turn_until(intake, lambda: buffer.statistics().messages >= 10)
        held = buffer.statistics().bytes
        (item,) = buffer.take(0)[0]
        assert sum(cost_of(row) for row in item.rows) - 10 * len(talker.topic) == held


def test_topics_of_one_address_keep_their_order_however_they_alternate(intake, buffer, cortex_dir):
    with Talker(cortex_dir, "/first") as talker:
        other = Source(1, b"/second", talker.info.address)
        joined(intake, talker)
        intake._join(other)
        wait_until(lambda: talker.socket.recv() == b"\x01/second")
        for number in range(3000):
            talker.send(1, topic=b"/second" if number % 3 else b"/first")
        found = take_all(intake, buffer, 3000)
    numbers = {channel: [int.from_bytes(parts[1][16:], "big") for parts in rows] for channel, rows in found.items()}
    assert numbers == {
        0: [number for number in range(3000) if number % 3 == 0],
        1: [number for number in range(3000) if number % 3],
    }


# --- who waits for what


def flow_until(intake: Intake, condition: Callable[[], object]) -> None:
    def flowed() -> object:
        intake._flow()
        return condition()

    wait_until(flowed)


def test_while_messages_flow_no_poller_is_asked(intake, buffer, cortex_dir):
    with Talker(cortex_dir, "/flow") as talker:
        joined(intake, talker)
        port = intake._ports.only
        intake._ports.poller.unregister(port.socket)
        talker.send(3)
        flow_until(intake, lambda: buffer.statistics().messages == 3)
        # with two sockets nobody waits at one of them
        intake._ports.poller.register(port.socket)
        intake._join(Source(1, b"/flow", "ipc:///tmp/none"))
        talker.send(1)
        assert port.socket.poll(10_000)
        intake._flow()
        assert buffer.statistics().messages == 3


def numbers_of(rows: list[Row]) -> list[int]:
    return [int.from_bytes(row[2][1][16:], "big") for row in rows]


def test_messages_are_gathered_until_they_are_much(intake, cortex_dir):
    with Talker(cortex_dir, "/long") as talker:
        joined(intake, talker)
        port = intake._ports.only
        port.noticed_ns = time.monotonic_ns() + HOUR_NS
        large = GATHER_BYTES // 4
        talker.send(9, body=[b"m", bytes(large)])
        times = itertools.count(1)
        gathered, more = port.gather(lambda: 10 * next(times), time.monotonic_ns)
        assert more
        (messages,) = gathered.values()
        assert numbers_of(messages.rows) == [0, 1, 2, 3]
        assert [row[0] for row in messages.rows] == [10, 20, 30, 40]
        assert messages.cost == sum(map(cost_of, messages.rows)) - 4 * len(talker.topic)
        gathered, more = port.gather(time.time_ns, time.monotonic_ns)
        assert numbers_of(gathered[b"/long"].rows) == [4, 5, 6, 7]
        gathered, more = port.gather(time.time_ns, time.monotonic_ns)
        assert (numbers_of(gathered[b"/long"].rows), more) == ([8], False)


def test_messages_are_gathered_until_the_monitor_is_to_be_looked_at(intake, cortex_dir):
    with Talker(cortex_dir, "/long") as talker:
        joined(intake, talker)
        talker.send(20)
        port = intake._ports.only
        clock = itertools.count(port.noticed_ns, MONITOR_NS // 4)
        gathered, more = port.gather(time.time_ns, clock.__next__)
        assert more
        assert numbers_of(gathered[b"/long"].rows) == [0, 1, 2, 3, 4, 5]
        # long after the last look every message may be the first of another publisher
        gathered, more = port.gather(time.time_ns, clock.__next__)
        assert numbers_of(gathered[b"/long"].rows) == [6]


def test_a_publisher_that_comes_while_messages_flow_is_told_from_the_one_before(intake, buffer, cortex_dir):
    with Talker(cortex_dir, "/steady") as steady:
        with Talker(cortex_dir, "/moody") as moody:
            _steady, source = joined(intake, steady, moody)
            moody.send(2)
            flow_until(intake, lambda: buffer.statistics().messages == 2)
        came = [2]

        def flows() -> object:
            steady.send(1)
            came[0] += 1
            intake._flow()
            return source.reborn

        wait_until(flows)
        flow_until(intake, lambda: buffer.statistics().messages == came[0])
        intake._assigner.renew = lambda _source, why: 7 if why is Renewal.REBORN else 6
        with Talker(cortex_dir, "/moody") as moody:
            moody.wait_subscribed().send(1)
            flow_until(intake, lambda: buffer.statistics().messages == came[0] + 1)
    assert {channel: len(rows) for channel, rows in taken(buffer).items()} == {0: came[0] - 2, 1: 2, 7: 1}


def test_who_a_new_publisher_is_is_asked_at_once(intake, cortex_dir):
    with Talker(cortex_dir, "/steady") as steady, Talker(cortex_dir, "/moody") as moody:
        _steady, source = joined(intake, steady, moody)
        port = intake._ports.only
        port.noticed_ns = time.monotonic_ns() + HOUR_NS
        source.reborn = True
        moody.send(1)
        assert port.socket.poll(10_000)
        steady.send(3)
        gathered, more = port.gather(time.time_ns, time.monotonic_ns)
        assert more
        assert list(gathered) == [b"/moody"]


@pytest.mark.parametrize("why", ["late", "large"])
def test_what_was_taken_of_the_next_message_is_gathered_too(why, intake, cortex_dir):
    with Talker(cortex_dir, "/long/enough") as talker:
        joined(intake, talker)
        port = intake._ports.only
        port.noticed_ns = 0 if why == "late" else time.monotonic_ns() + HOUR_NS
        talker.send_parts(header(0) if why == "late" else bytes(GATHER_BYTES)).send_parts()
        rows: list[Row] = []

        def gathered() -> object:
            for messages in port.gather(time.time_ns, time.monotonic_ns)[0].values():
                rows.extend(messages.rows)
                assert port.ahead is None
            return len(rows) == 2

        wait_until(gathered)


def test_what_only_begins_with_a_topic_is_not_gathered(intake, cortex_dir):
    with Talker(cortex_dir, "/topic") as talker:
        joined(intake, talker)
        talker.send(1, topic=b"/topic/below").send(1)
        port = intake._ports.only
        assert port.socket.poll(10_000)
        found: dict[bytes, list[Row]] = {}

        def gathered() -> object:
            for topic, messages in port.gather(time.time_ns, time.monotonic_ns)[0].items():
                found.setdefault(topic, []).extend(messages.rows)
            return found

        wait_until(gathered)
    assert {topic: numbers_of(rows) for topic, rows in found.items()} == {b"/topic": [1]}


def test_messages_flow_no_longer_when_somebody_wishes_something(intake, buffer, cortex_dir):
    with Talker(cortex_dir, "/flow") as talker, Talker(cortex_dir, "/wanted") as wanted:
        joined(intake, talker)
        talker.send(100)
        assert intake._ports.only.socket.poll(10_000)
        intake.connect(Source(1, wanted.topic, wanted.info.address))
        intake._flow()
        assert buffer.statistics().messages == 0
        turn_until(intake, lambda: buffer.statistics().messages == 100)
        wanted.wait_subscribed()


def left_with_last_words(intake: Intake, cortex_dir: Path) -> None:
    """A topic that is received until its publisher is gone has said three things more, and it has."""
    with Talker(cortex_dir, "/flow") as talker:
        (source,) = joined(intake, talker)
        intake._notice(intake._ports.only)
        intake._begin_to_leave(source)
        assert source.leaving
        talker.send(3)


def test_messages_flow_no_longer_when_their_socket_has_gone(intake, buffer, cortex_dir):
    left_with_last_words(intake, cortex_dir)
    flow_until(intake, lambda: intake._ports.only is None)
    assert buffer.statistics().messages == 3


@pytest.mark.parametrize("interval_ns", [0, 20_000_000])
def test_a_wish_is_fulfilled_and_a_stop_is_noticed_in_the_midst_of_a_flood(interval_ns, buffer, cortex_dir):
    intake = Intake(buffer, PLENTY, interval_ns=interval_ns)
    with Talker(cortex_dir, "/flood") as flood, Talker(cortex_dir, "/wanted") as wanted:
        intake.start()
        intake.connect(Source(0, flood.topic, flood.info.address))
        flood.wait_subscribed()
        done = threading.Event()

        def speak() -> None:
            while not done.is_set():
                flood.send(10)

        speaker = threading.Thread(target=speak)
        speaker.start()
        try:
            wait_until(lambda: taken(buffer))
            intake.connect(Source(1, wanted.topic, wanted.info.address))
            wanted.wait_subscribed().send(1)
            wait_until(lambda: 1 in taken(buffer))
            intake.stop()
            assert not intake._thread.is_alive()
            assert intake.error is None
        finally:
            done.set()
            speaker.join()


@pytest.mark.parametrize("interval_ns", [0, 100_000_000])
def test_what_has_arrived_when_it_stops_is_taken(interval_ns, buffer, cortex_dir):
    intake = Intake(buffer, PLENTY, interval_ns=interval_ns)
    with Talker(cortex_dir, "/last/words") as talker:
        intake.start()
        intake.connect(Source(0, talker.topic, talker.info.address))
        talker.wait_subscribed().send(1)
        wait_until(lambda: buffer.statistics().messages)
        talker.send(2000)
        with zmq.Context() as context, context.socket(zmq.SUB) as witness:
            # what it has got, the intake's socket has got before
            witness.connect(talker.info.address)
            witness.subscribe(talker.topic)
            talker.wait_subscribed().send(1)
            assert witness.poll(10_000)
        intake.stop()
    assert buffer.statistics().messages >= 2001


def test_a_flood_keeps_nobody_else_out_of_what_is_taken_at_the_end(intake, buffer, cortex_dir, monkeypatch):
    with Talker(cortex_dir, "/t", name="flood.sock") as flood, Talker(cortex_dir, "/t", name="few.sock") as few:
        joined(intake, flood, few)
        flooded, other = intake._ports.in_order()
        count = 5 * TURN_MESSAGES
        few.send(count)
        wait_until(lambda: other.socket.poll(0))
        drain, drained = intake._drain, []

        def drain_with_a_flood(port: Port, most: int) -> bool:
            drained.append(port)
            # until the other's are all there, and as long as they last
            return drain(port, most) or port is flooded or buffer.statistics().messages < count

        monkeypatch.setattr(intake, "_drain", drain_with_a_flood)
        intake._take_up()
    assert buffer.statistics().messages == count
    # and it was left when time was up
    assert drained.count(flooded) >= 5


def test_waiting_in_the_socket_ends_when_nothing_comes(ports):
    port = place(ports, "/a", "ipc:///tmp/none")
    with pytest.raises(zmq.Again):
        port.receive(WAITING)


# --- letting messages gather

INTERVAL_NS = 20_000_000


def waiting(
    monkeypatch: pytest.MonkeyPatch, intake: Intake, meanwhile: Callable[[], object] = lambda: None
) -> list[int]:
    """Let no time pass while messages gather, but something happen; how long it would have been each time (ms)."""
    waited: list[int] = []

    def poll(timeout_ms: int) -> None:
        waited.append(timeout_ms)
        meanwhile()

    monkeypatch.setattr(intake._ports.news, "poll", poll)
    return waited


@pytest.fixture
def patient(buffer: RecordBuffer) -> Iterator[Intake]:
    """An intake that lets messages gather, not started."""
    intake = Intake(buffer, PLENTY, interval_ns=INTERVAL_NS)
    yield intake
    intake.stop()


def test_what_has_gathered_is_taken_from_all_sockets_without_waiting_at_any(patient, buffer, cortex_dir, monkeypatch):
    with Talker(cortex_dir, "/t", name="a.sock") as one, Talker(cortex_dir, "/t", name="b.sock") as other:
        joined(patient, one, other)
        count = len(list(patient._ports))
        assert count == 2

        def speak() -> None:
            if len(waited) == 1:
                # more than is taken from one socket at a time
                one.send(TURN_MESSAGES + 3)
                other.send(5)
                wait_until(lambda: all(port.socket.poll(0) for port in patient._ports))

        waited = waiting(monkeypatch, patient, speak)
        monkeypatch.setattr(patient._ports.poller, "poll", None)

        def took() -> object:
            patient._take_now_and_then()
            return buffer.statistics().messages >= TURN_MESSAGES + 8

        wait_until(took)
        found = taken(buffer)
    numbers = {channel: [int.from_bytes(parts[1][16:], "big") for parts in rows] for channel, rows in found.items()}
    assert numbers == {0: list(range(TURN_MESSAGES + 3)), 1: list(range(5))}


def test_messages_gather_no_longer_when_somebody_wishes_something(patient, buffer, cortex_dir, monkeypatch):
    with Talker(cortex_dir, "/flow") as talker:
        joined(patient, talker)
        waited = waiting(monkeypatch, patient, lambda: patient.connect(Source(1, b"/wanted", "ipc:///tmp/none")))
        talker.send(3)
        assert patient._ports.only.socket.poll(10_000)
        patient._take_now_and_then()
        assert (len(waited), buffer.statistics().messages) == (1, 0)
        turn_until(patient, lambda: buffer.statistics().messages == 3)


def test_who_spoke_while_messages_gathered_is_told_from_the_one_before(patient, buffer, cortex_dir, monkeypatch):
    patient._assigner.renew = lambda _source, why: 7 if why is Renewal.REBORN else 6
    with Talker(cortex_dir, "/moody") as moody:
        (source,) = joined(patient, moody)
        moody.send(2)
        turn_until(patient, lambda: buffer.statistics().messages == 2)
        moody.send(3)
    waiting(monkeypatch, patient)

    def broken() -> object:
        patient._take_now_and_then()
        return source.reborn

    wait_until(broken)
    # its last words are its own
    assert [len(rows) for rows in taken(buffer).values()] == [5]
    with Talker(cortex_dir, "/moody") as moody:
        moody.wait_subscribed().send(1)
        turn_until(patient, lambda: buffer.statistics().messages)
    assert list(taken(buffer)) == [7]


def test_a_socket_may_go_while_messages_gather(patient, buffer, cortex_dir, monkeypatch):
    waiting(monkeypatch, patient)
    left_with_last_words(patient, cortex_dir)

    def gone() -> object:
        patient._take_now_and_then()
        return patient._ports.only is None

    wait_until(gone)
    assert buffer.statistics().messages == 3


@pytest.mark.parametrize("interval_ns", [0, INTERVAL_NS])
def test_messages_gather_only_where_that_was_asked_for(interval_ns, buffer, cortex_dir, monkeypatch):
    intake = Intake(buffer, PLENTY, interval_ns=interval_ns)
    waited = waiting(monkeypatch, intake)
    with Talker(cortex_dir, "/flow") as talker:
        intake.start()
        intake.connect(Source(0, talker.topic, talker.info.address))
        talker.wait_subscribed().send(100)
        wait_until(lambda: buffer.statistics().messages == 100)
        intake.stop()
    assert intake.error is None
    assert bool(waited) == bool(interval_ns)


def test_also_what_comes_slowly_gathers(patient, buffer, cortex_dir, monkeypatch):
    with Talker(cortex_dir, "/slow") as talker:
        joined(patient, talker)
        port = patient._ports.only

        def speak() -> None:
            # nothing for a while, and one message more before it is given up
            if len(waited) == 3:
                talker.send()
                assert port.socket.poll(10_000)

        waited = waiting(monkeypatch, patient, speak)
        patient._take_now_and_then()
    assert buffer.statistics().messages == 1
    # short after a silence, and for as long as it may be before it is waited for at the socket again
    longest = INTERVAL_NS // 1_000_000
    assert waited[:3] == [2, 4, 8]
    assert waited.index(longest) == len(waited) - 1


class Endless(Pace):
    """Messages may gather for an hour."""

    def begin(self) -> None:
        self.wait_ns = HOUR_NS

    def took(self, messages: int, nbytes: int) -> None:
        pass


@pytest.fixture
def endless(buffer: RecordBuffer) -> Iterator[Intake]:
    """A running intake whose messages gather until something else happens."""
    intake = Intake(buffer, PLENTY, interval_ns=INTERVAL_NS)
    intake._pace = Endless(HOUR_NS, 1, 1)
    intake.start()
    yield intake
    intake.stop()
    assert intake.error is None


def test_wishes_and_connections_are_attended_to_at_once_though_messages_gather(endless, buffer, cortex_dir):
    source = Source(0, b"/moody", f"ipc://{cortex_dir}/moody.sock")
    with Talker(cortex_dir, "/moody", name="moody.sock") as moody, Talker(cortex_dir, "/wanted") as wanted:
        endless.connect(source)
        moody.wait_subscribed().send(1)
        wait_until(lambda: buffer.statistics().messages == 1)
        # while that gathers
        moody.send(1)
        endless.connect(Source(1, wanted.topic, wanted.info.address))
        wanted.wait_subscribed()
        moody.send(1)
    wait_until(lambda: source.reborn)
    assert buffer.statistics().messages == 3
    with Talker(cortex_dir, "/moody", name="moody.sock") as moody:
        # the subscription is sent again by the thread that receives
        moody.wait_subscribed()


def test_the_end_does_not_wait_until_messages_have_gathered(endless, buffer, cortex_dir):
    with Talker(cortex_dir, "/flow") as talker:
        endless.connect(Source(0, talker.topic, talker.info.address))
        talker.wait_subscribed().send(1)
        wait_until(lambda: buffer.statistics().messages == 1)
        with heard_by_a_witness(talker, endless) as send:
            send(5)
        endless.stop()
    assert buffer.statistics().messages == 6


@pytest.mark.parametrize("interval_ns", [0, INTERVAL_NS])
def test_a_pause_skips_what_comes_from_then_on_and_nothing_from_before(interval_ns, buffer, cortex_dir):
    intake = Intake(buffer, PLENTY, interval_ns=interval_ns)
    with Talker(cortex_dir, "/flow") as talker:
        intake.start()
        intake.connect(Source(0, talker.topic, talker.info.address))
        talker.wait_subscribed()
        with heard_by_a_witness(talker, intake) as send:
            for paused in (True, False):
                send(50)
                intake.pause(paused)
        intake.stop()
    items = buffer.take(0)[0]
    received = [number for item in items if isinstance(item, Received) for number in numbers_of(item.rows)]
    skipped = [(item.first_sequence, item.last_sequence) for item in items if not isinstance(item, Received)]
    assert (received, skipped) == (list(range(50)), [(50, 99)])


def test_last_words_come_before_what_a_successor_says_elsewhere(patient, buffer, cortex_dir):
    with (
        Talker(cortex_dir, "/other") as other,
        Talker(cortex_dir, "/moving", name="old.sock") as old,
        Talker(cortex_dir, "/moving", name="new.sock") as new,
    ):
        joined(patient, other, new)
        patient._join(Source(2, old.topic, old.info.address))
        old.wait_subscribed()
        first, second = patient._ports
        assert set(second.sources) == {b"/moving"}
        leaving = second.sources[b"/moving"]
        patient._notice(second)
        patient._begin_to_leave(leaving)
        assert leaving.leaving
        new.send(2)
        old.send(2)
        wait_until(lambda: first.socket.poll(0) and second.socket.poll(0))

        def took() -> object:
            patient._take_all()
            return buffer.statistics().messages == 4

        wait_until(took)
        assert [item.channel for item in buffer.take(0)[0]] == [2, 1]
