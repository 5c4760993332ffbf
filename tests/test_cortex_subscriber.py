"""The asynchronous subscriber: finding topics, surviving what arrives, counting what is missing, stopping."""

import asyncio
import json
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq
import zmq.asyncio
from peers import bare_publisher, register, until

from cortex.core.publisher import Publisher
from cortex.core.subscriber import AsyncSubscriber, Subscriber
from cortex.core.subscriber_base import SubscriberStats, update_stats_for_header
from cortex.errors import CortexError, MessageFingerprintError
from cortex.messages.base import MessageHeader
from cortex.messages.standard import ArrayMessage, IntMessage, StringMessage

RECEIVE = json.loads((Path(__file__).parent / "vectors" / "receive.json").read_text(encoding="utf-8"))


@dataclass
class Stranger(IntMessage):
    """A class nobody publishes."""


@pytest.fixture
def peer(discovery, cortex_dir):
    with bare_publisher(cortex_dir, discovery=discovery) as peer:
        yield peer


class Collector(list):
    """A callback that keeps the values."""

    async def __call__(self, message, header):
        self.append(message.data)


def _subscriber(discovery, callback=None, topic="/t", message_type=IntMessage, **options):
    return Subscriber(topic, message_type, callback, discovery_address=discovery.address, **options)


async def _ended(task, timeout=10):
    done, _ = await asyncio.wait({task}, timeout=timeout)
    assert done, "it did not end"
    return await task


def test_it_is_known_under_two_names():
    assert AsyncSubscriber is Subscriber


def test_receive_returns_message_and_header(discovery, peer):
    async def main():
        subscriber = _subscriber(discovery)
        assert subscriber.is_connected
        assert subscriber.topic_info == peer.info
        assert (subscriber.receive_count, subscriber.last_receive_time) == (0, None)
        peer.wait_for_subscriber()
        peer.send_number(41, sequence=3)
        message, header = await subscriber.receive()
        assert (message, header.sequence) == (IntMessage(41), 3)
        assert subscriber.receive_count == subscriber.stats.received == 1
        assert isinstance(subscriber.last_receive_time, float)
        subscriber.close()

    asyncio.run(main())


def test_receive_is_none_at_once_while_the_topic_does_not_exist(discovery):
    async def main():
        subscriber = _subscriber(discovery)
        assert not subscriber.is_connected
        # more often than the registry is asked
        assert [await subscriber.receive() for _ in range(50)] == [None] * 50
        subscriber.close()
        assert await subscriber.receive() is None

    asyncio.run(main())


def test_receive_connects_to_a_topic_that_appears_later(discovery, cortex_dir):
    async def main():
        subscriber = _subscriber(discovery)
        assert await subscriber.receive() is None
        with bare_publisher(cortex_dir, discovery=discovery) as peer:
            await until(lambda: True)
            pending = asyncio.create_task(_first(subscriber))
            await until(lambda: subscriber.is_connected)
            peer.wait_for_subscriber()
            peer.send_number(5)
            assert await _ended(pending) == IntMessage(5)
        subscriber.close()

    async def _first(subscriber):
        while True:
            received = await subscriber.receive()
            if received is not None:
                return received[0]

    asyncio.run(main())


def test_run_waits_for_a_topic_that_appears_later(discovery):
    async def main():
        got = Collector()
        subscriber = _subscriber(discovery, got)
        running = asyncio.create_task(subscriber.run())
        await until(lambda: subscriber.running)
        publisher = Publisher("/t", IntMessage, discovery_address=discovery.address)
        await until(lambda: subscriber.is_connected)
        while not got:
            publisher.publish(IntMessage(9))
            await asyncio.sleep(0.005)
        assert set(got) == {9}
        subscriber.stop()
        await _ended(running)
        assert not subscriber.running
        subscriber.close()
        publisher.close()

    asyncio.run(main())


def test_run_gives_up_after_the_timeout(discovery, caplog):
    async def main():
        subscriber = _subscriber(discovery, Collector(), topic_timeout=0.05)
        await _ended(asyncio.create_task(subscriber.run()))
        assert "'/t' did not appear within 0.05 s" in caplog.text
        subscriber.close()

    asyncio.run(main())


def test_run_does_not_wait_when_told_so(discovery):
    async def main():
        subscriber = _subscriber(discovery, Collector(), wait_for_topic=False)
        await _ended(asyncio.create_task(subscriber.run()))
        subscriber.close()

    asyncio.run(main())


def test_waiting_at_a_daemon_that_hangs_does_not_block_the_loop(cortex_dir, monkeypatch):
    monkeypatch.setattr("cortex.core.subscriber_base.LOOKUP_TIMEOUT_MS", 20)
    address = f"ipc://{cortex_dir}/mute.sock"

    async def main():
        with zmq.Context() as context, context.socket(zmq.REP) as mute:
            mute.bind(address)
            subscriber = Subscriber("/t", IntMessage, Collector(), discovery_address=address)
            monkeypatch.setattr("cortex.core.subscriber_base.LOOKUP_TIMEOUT_MS", 3_600_000)
            running = asyncio.create_task(subscriber.run())
            for _ in range(20):
                await asyncio.sleep(0)
            assert mute.poll(10_000), "it never asked"
            await asyncio.sleep(0)
            assert not running.done()
            subscriber.stop()
            await _ended(running)
            subscriber.close()

    asyncio.run(main())


def test_no_daemon_is_no_error(cortex_dir):
    async def main():
        subscriber = Subscriber("/t", IntMessage, discovery_address=f"ipc://{cortex_dir}/none.sock")
        assert not subscriber.is_connected
        assert await subscriber.receive() is None
        subscriber.close()

    asyncio.run(main())


# -- what arrives


def test_whatever_arrives_receiving_goes_on(discovery, cortex_dir, caplog):
    bad = [case for case in RECEIVE["cases"] if case["required"] == "reject" and case["type"] == "ArrayMessage"]
    assert len(bad) > 5

    async def main():
        with bare_publisher(cortex_dir, "/rx", ArrayMessage, discovery=discovery) as peer:
            subscriber = _subscriber(discovery, topic="/rx", message_type=ArrayMessage)
            peer.wait_for_subscriber()
            for case in bad:
                peer.send(b"/rx", *map(bytes.fromhex, case["frames"][1:]))
            for parts in ([b"/rx"], [b"/rx", b""], [b"/rx", b"x" * 24], [b"/rx", b"x" * 24, b"\xc1"] + [b""] * 3):
                peer.send(*parts)
            peer.send(b"/rx", *StringMessage("not an array").to_frames(0)[:1], b"\x91\xa1x")
            good = bytes.fromhex("dc00d2e72bf078f8" + "00" * 16), b"\x93\xc0\xa1n\xa1f"
            peer.send(b"/rx", *good)
            message, _ = await asyncio.wait_for(subscriber.receive(), 10)
            assert (message.name, subscriber.receive_count) == ("n", 1)
            assert subscriber.stats.malformed == len(bad) + 5
            subscriber.close()

    asyncio.run(main())
    assert "'/rx': message dropped, 1 so far" in caplog.text


def test_topics_that_merely_begin_alike_are_not_taken(discovery, peer):
    async def main():
        subscriber = _subscriber(discovery)
        peer.wait_for_subscriber()
        for topic in (b"/ta", b"/t/a", b"/t\0"):
            peer.send_number(1, topic=topic)
        peer.send_number(2)
        assert (await subscriber.receive())[0] == IntMessage(2)
        assert subscriber.stats.malformed == 0
        subscriber.close()

    asyncio.run(main())


def test_an_error_in_a_callback_does_not_end_receiving(discovery, peer, caplog):
    async def main():
        seen = []

        async def callback(message, header):
            seen.append(message.data)
            raise ValueError(f"no {message.data}")

        subscriber = _subscriber(discovery, callback)
        peer.wait_for_subscriber()
        running = asyncio.create_task(subscriber.run())
        peer.send_number(1, 0)
        peer.send_number(2, 1)
        await until(lambda: seen == [1, 2])
        assert "no 1" in caplog.text
        subscriber.stop()
        await _ended(running)
        subscriber.close()

    asyncio.run(main())


def test_a_plain_function_is_called_too(discovery, peer):
    async def main():
        seen = []
        subscriber = _subscriber(discovery, lambda message, header: seen.append(message.data))
        peer.wait_for_subscriber()
        running = asyncio.create_task(subscriber.run())
        peer.send_number(1)
        await until(lambda: seen == [1])
        subscriber.close()
        await _ended(running)

    asyncio.run(main())


def test_a_second_callback_is_called_as_well(discovery, peer):
    async def main():
        first, second = Collector(), Collector()
        subscriber = _subscriber(discovery, first)
        subscriber.add_callback(first)
        subscriber.add_callback(second)
        peer.wait_for_subscriber()
        running = asyncio.create_task(subscriber.run())
        peer.send_number(1)
        await until(lambda: second == [1])
        assert first == [1]
        subscriber.close()
        await _ended(running)

    asyncio.run(main())


def test_receive_beside_run_sees_messages_as_well(discovery, peer):
    async def main():
        got = Collector()
        subscriber = _subscriber(discovery, got)
        peer.wait_for_subscriber()
        running = asyncio.create_task(subscriber.run())
        await until(lambda: subscriber.running)
        pending = asyncio.create_task(subscriber.receive())
        await asyncio.sleep(0)
        peer.send_number(1)
        assert (await asyncio.wait_for(pending, 10))[0] == IntMessage(1)
        await until(lambda: got == [1])
        pending = asyncio.create_task(subscriber.receive())
        await asyncio.sleep(0)
        subscriber.stop()
        assert await _ended(pending) is None
        await _ended(running)
        subscriber.close()

    asyncio.run(main())


def test_a_publisher_that_comes_back_is_heard_again(discovery, cortex_dir):
    async def main():
        with bare_publisher(cortex_dir, discovery=discovery) as peer:
            subscriber = _subscriber(discovery)
            peer.wait_for_subscriber()
            peer.send_number(1, sequence=50)
            assert (await subscriber.receive())[0] == IntMessage(1)
        pending = asyncio.create_task(subscriber.receive())
        with bare_publisher(cortex_dir) as peer:
            await until(lambda: peer.socket.poll(0), what="connecting again")
            peer.send_number(2, sequence=0)
            assert (await _ended(pending))[0] == IntMessage(2)
        assert subscriber.dropped_count == 0
        subscriber.close()

    asyncio.run(main())


# -- counting


@pytest.mark.parametrize(
    ("sequences", "dropped"),
    [
        ([0, 1, 2], 0),
        ([7, 8], 0),
        ([0, 1, 5, 6, 8], 4),
        ([5, 6, 0, 1], 0),
        ([5, 6, 2, 4], 1),
        ([3, 3], 0),
        ([0, 2, 0, 2, 0, 2], 3),
    ],
)
def test_missing_numbers_are_drops_but_a_restart_is_not(sequences, dropped):
    stats = SubscriberStats()
    for sequence in sequences:
        update_stats_for_header(stats, MessageHeader(1, 0, sequence))
    assert stats.dropped_estimated == dropped


def test_publishers_are_counted_apart():
    stats = SubscriberStats()
    for publisher, sequence in (("a", 0), ("b", 100), ("a", 1), ("b", 102)):
        update_stats_for_header(stats, MessageHeader(1, 0, sequence), publisher)
    assert stats.dropped_estimated == 1


def test_dropped_count_counts_what_is_missing_on_the_wire(discovery, peer):
    async def main():
        subscriber = _subscriber(discovery)
        peer.wait_for_subscriber()
        for sequence in (10, 11, 14):
            peer.send_number(0, sequence)
        for _ in range(3):
            await subscriber.receive()
        assert (subscriber.receive_count, subscriber.dropped_count) == (3, 2)
        subscriber.close()

    asyncio.run(main())


def test_a_message_that_cannot_be_decoded_is_not_counted_as_dropped(discovery, peer):
    async def main():
        subscriber = _subscriber(discovery)
        peer.wait_for_subscriber()
        peer.send_number(0, 0)
        peer.send(b"/t", MessageHeader(IntMessage.fingerprint(), 0, 1).to_bytes(), b"\xc1")
        peer.send_number(0, 2)
        for _ in range(2):
            await subscriber.receive()
        assert (subscriber.dropped_count, subscriber.stats.malformed) == (0, 1)
        subscriber.close()

    asyncio.run(main())


# -- types


def test_a_strict_subscriber_refuses_another_type(discovery, peer):
    with pytest.raises(MessageFingerprintError, match=r"'/t' carries IntMessage .* from node 'bare', but Stranger"):
        _subscriber(discovery, message_type=Stranger, strict_fingerprint=True)


def test_otherwise_another_type_is_a_warning(discovery, peer, caplog):
    subscriber = _subscriber(discovery, message_type=Stranger)
    assert subscriber.is_connected
    assert "'/t' carries IntMessage" in caplog.text
    subscriber.close()


def test_a_mismatch_that_shows_later_comes_out_of_run(discovery, cortex_dir):
    async def main():
        subscriber = _subscriber(discovery, Collector(), message_type=Stranger, strict_fingerprint=True)
        running = asyncio.create_task(subscriber.run())
        await until(lambda: subscriber.running)
        with bare_publisher(cortex_dir, discovery=discovery), pytest.raises(MessageFingerprintError):
            await _ended(running)
        assert not subscriber.running
        subscriber.close()

    asyncio.run(main())


def test_an_address_that_cannot_be_connected_to_is_one_sentence(discovery, cortex_dir):
    with bare_publisher(cortex_dir) as peer:
        register(discovery, peer.info.__class__("/t", "nonsense", "IntMessage", IntMessage.fingerprint(), "bare"))
        with pytest.raises(CortexError, match="'/t' cannot be received: connecting to nonsense failed"):
            _subscriber(discovery)


# -- stopping


def test_stop_from_another_thread_ends_an_idle_run(discovery, peer):
    async def main():
        subscriber = _subscriber(discovery, Collector())
        running = asyncio.create_task(subscriber.run())
        await until(lambda: subscriber.running)
        threading.Thread(target=subscriber.stop).start()
        await _ended(running)
        subscriber.close()

    asyncio.run(main())


def test_cancellation_ends_run_normally(discovery, peer):
    async def main():
        subscriber = _subscriber(discovery, Collector())
        running = asyncio.create_task(subscriber.run())
        await until(lambda: subscriber.running)
        running.cancel()
        assert await _ended(running) is None
        subscriber.close()

    asyncio.run(main())


def test_cancellation_of_receive_is_passed_on(discovery, peer):
    async def main():
        subscriber = _subscriber(discovery)
        pending = asyncio.create_task(subscriber.receive())
        await asyncio.sleep(0)
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending
        subscriber.close()

    asyncio.run(main())


def test_close_ends_run_and_receive_and_can_be_repeated(discovery, peer):
    async def main():
        idle, running_one = _subscriber(discovery), _subscriber(discovery, Collector())
        pending = asyncio.create_task(idle.receive())
        running = asyncio.create_task(running_one.run())
        await until(lambda: running_one.running)
        for subscriber in (idle, running_one, idle, running_one):
            subscriber.close()
        assert await _ended(pending) is None
        assert await _ended(running) is None

    asyncio.run(main())


def test_it_can_run_again_after_stop(discovery, peer):
    async def main():
        got = Collector()
        subscriber = _subscriber(discovery, got)
        peer.wait_for_subscriber()
        for number in (1, 2):
            running = asyncio.create_task(subscriber.run())
            peer.send_number(number, number)
            await until(lambda: got and got[-1] == number)
            subscriber.stop()
            await _ended(running)
        subscriber.close()

    asyncio.run(main())


def test_start_runs_in_the_background(discovery, peer):
    async def main():
        got = Collector()
        subscriber = _subscriber(discovery, got)
        peer.wait_for_subscriber()
        subscriber.start()
        subscriber.start()
        assert subscriber.running
        peer.send_number(1)
        await until(lambda: got == [1])
        waiting = asyncio.create_task(subscriber.run())
        await asyncio.sleep(0)
        subscriber.stop()
        await _ended(waiting)
        assert not subscriber.running
        subscriber.close()

    asyncio.run(main())


def test_start_without_a_loop_only_marks_it_as_running(discovery, peer):
    subscriber = _subscriber(discovery, Collector())
    subscriber.start()
    assert subscriber.running
    subscriber.stop()
    assert not subscriber.running
    subscriber.close()


def test_a_context_may_be_shared_whatever_its_kind(discovery, peer):
    async def main(context):
        subscriber = _subscriber(discovery, context=context)
        peer.wait_for_subscriber()
        peer.send_number(1)
        assert await subscriber.receive()
        subscriber.close()
        assert not context.closed

    with zmq.Context() as plain, zmq.asyncio.Context() as asynchronous:
        asyncio.run(main(plain))
        asyncio.run(main(asynchronous))
