"""The threaded subscriber: its own thread, the newest message first, and an orderly end."""

import logging
import os
import threading
from dataclasses import dataclass

import pytest
import zmq
from helpers import wait_until
from peers import bare_publisher

from cortex.core import sync_subscriber as module
from cortex.core.publisher import Publisher
from cortex.core.sync_subscriber import ThreadedSubscriber
from cortex.errors import MessageFingerprintError
from cortex.messages.standard import IntMessage, StringMessage


@dataclass
class Stranger(IntMessage):
    """A class nobody publishes."""


@pytest.fixture
def peer(discovery, cortex_dir):
    with bare_publisher(cortex_dir, discovery=discovery) as peer:
        yield peer


@pytest.fixture
def subscribe(discovery):
    made = []

    def make(callback, message_type=IntMessage, **options):
        made.append(ThreadedSubscriber("/t", message_type, callback, discovery_address=discovery.address, **options))
        return made[-1]

    yield make
    for subscriber in made:
        subscriber.close()


class Gate:
    """A callback that waits until it is opened, and keeps the values."""

    def __init__(self):
        self.values, self.entered, self.open = [], threading.Event(), threading.Event()

    def __call__(self, message, header):
        self.entered.set()
        assert self.open.wait(10)
        self.values.append(message.data)


def _threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("cortex-sub-")]


def test_messages_arrive_in_a_thread_of_their_own(peer, subscribe):
    got = []
    subscriber = subscribe(lambda message, header: got.append((message, header.sequence, threading.current_thread())))
    assert subscriber.is_connected
    assert not subscriber.running
    subscriber.start()
    assert subscriber.running
    assert subscriber.is_running
    peer.wait_for_subscriber()
    peer.send_number(4, sequence=9)
    wait_until(lambda: got)
    message, sequence, thread = got[0]
    assert (message, sequence) == (IntMessage(4), 9)
    assert thread is not threading.main_thread()
    assert (subscriber.receive_count, subscriber.dropped_count) == (1, 0)


def test_a_coroutine_function_is_refused(discovery, peer):
    async def callback(message, header):
        """Cannot be called from a thread."""

    class Callable:
        async def __call__(self, message, header):
            """Neither can this."""

    for wrong in (callback, Callable()):
        with pytest.raises(TypeError, match="synchronous"):
            ThreadedSubscriber("/t", IntMessage, wrong, discovery_address=discovery.address)


def test_a_topic_that_does_not_appear_is_a_timeout(discovery):
    with pytest.raises(TimeoutError, match=r"'/t' did not appear within 0.05 s at ipc://"):
        ThreadedSubscriber("/t", IntMessage, print, discovery_address=discovery.address, topic_timeout=0.05)


def test_another_type_is_refused(discovery, peer):
    with pytest.raises(MessageFingerprintError, match="carries IntMessage"):
        ThreadedSubscriber("/t", StringMessage, print, discovery_address=discovery.address)


def test_a_constructor_that_fails_leaves_no_thread_or_file_descriptor(discovery, peer):
    def attempt():
        with pytest.raises(MessageFingerprintError):
            ThreadedSubscriber("/t", StringMessage, print, discovery_address=discovery.address)

    attempt()
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    attempt()
    wait_until(lambda: threading.active_count() <= before[0] and len(os.listdir("/proc/self/fd")) <= before[1])


def test_it_can_leave_the_search_to_its_thread(discovery, cortex_dir, subscribe):
    got = []
    subscriber = subscribe(lambda message, header: got.append(message.data), wait_for_topic=False)
    assert not subscriber.is_connected
    subscriber.start()
    with bare_publisher(cortex_dir, discovery=discovery) as peer:
        peer.wait_for_subscriber()
        peer.send_number(1)
        wait_until(lambda: got == [1])


def test_a_mismatch_found_by_the_thread_is_logged_and_ends_it(discovery, cortex_dir, subscribe, caplog):
    subscriber = subscribe(print, Stranger, wait_for_topic=False)
    subscriber.start()
    with bare_publisher(cortex_dir, discovery=discovery):
        wait_until(lambda: not subscriber.running)
    assert "'/t': receiving ended: topic '/t' carries IntMessage" in caplog.text


def test_errors_of_a_callback_are_logged_and_the_thread_lives_on(peer, subscribe, caplog):
    got = []

    def callback(message, header):
        got.append(message.data)
        raise RuntimeError(f"no {message.data}")

    subscriber = subscribe(callback, queue_size=10)
    subscriber.start()
    peer.wait_for_subscriber()
    peer.send_number(1, 0)
    peer.send_number(2, 1)
    wait_until(lambda: got == [1, 2])
    assert "no 1" in caplog.text
    assert subscriber.running


def test_whatever_arrives_the_thread_lives_on(peer, subscribe):
    got = []
    subscriber = subscribe(lambda message, header: got.append(message.data), queue_size=0)
    subscriber.start()
    peer.wait_for_subscriber()
    for parts in ([b"/t"], [b"/t", b"short"], [b"/t", b"x" * 24, b"\xc1"], [b"/tother", b""], [b"/t", b"", b"", b""]):
        peer.send(*parts)
    peer.send_number(5)
    wait_until(lambda: got == [5])
    assert subscriber.stats.malformed == 4  # the fifth was another topic


def test_with_a_queue_of_one_the_newest_message_wins(peer, subscribe, monkeypatch):
    taken = []
    put = module._Latest.put
    monkeypatch.setattr(module._Latest, "put", lambda self, frames: (put(self, frames), taken.append(frames)))
    gate = Gate()
    subscriber = subscribe(gate, queue_size=1)
    subscriber.start()
    peer.wait_for_subscriber()
    peer.send_number(0, 0)
    assert gate.entered.wait(10)
    for number in range(1, 201):
        peer.send_number(number, number)
    # the second thread keeps taking messages from the socket while the callback is busy
    wait_until(lambda: len(taken) == 201, what="the last message of the burst")
    gate.open.set()
    wait_until(lambda: len(gate.values) == 2)
    assert gate.values == [0, 200]
    assert subscriber.dropped_count == 199


def test_a_burst_into_a_slow_callback_loses_some_but_not_all(discovery, subscribe):
    gate = Gate()
    publisher = Publisher("/t", IntMessage, discovery_address=discovery.address)
    subscriber = subscribe(gate)
    subscriber.start()
    while not gate.entered.is_set():
        publisher.publish(IntMessage(-1))
        gate.entered.wait(0.005)
    for number in range(200):
        publisher.publish(IntMessage(number))
    gate.open.set()
    wait_until(lambda: subscriber.dropped_count > 0)
    assert 0 < len(gate.values) < 200
    publisher.close()


def test_a_larger_queue_is_first_in_first_out(peer, subscribe):
    gate = Gate()
    subscriber = subscribe(gate, queue_size=100)
    subscriber.start()
    peer.wait_for_subscriber()
    for number in range(50):
        peer.send_number(number, number)
    gate.open.set()
    wait_until(lambda: len(gate.values) == 50)
    assert gate.values == list(range(50))
    assert subscriber.dropped_count == 0


def test_a_second_callback_is_called_as_well(peer, subscribe):
    first, second = [], []
    subscriber = subscribe(lambda message, header: first.append(message.data))
    subscriber.add_callback(lambda message, header: second.append(message.data))
    subscriber.start()
    peer.wait_for_subscriber()
    peer.send_number(1)
    wait_until(lambda: second == [1])
    assert first == [1]


@pytest.mark.parametrize("queue_size", [1, 10])
def test_stop_and_start_again(peer, subscribe, queue_size):
    got = []
    subscriber = subscribe(lambda message, header: got.append(message.data), queue_size=queue_size)
    peer.wait_for_subscriber()
    for number in (1, 2):
        subscriber.start()
        subscriber.start()
        peer.send_number(number, number)
        wait_until(lambda: got and got[-1] == number)
        subscriber.stop()
        assert not subscriber.running
    assert _threads() == []


@pytest.mark.parametrize("queue_size", [1, 10])
def test_close_ends_idle_threads_and_can_be_repeated(peer, subscribe, queue_size):
    subscriber = subscribe(print, queue_size=queue_size)
    subscriber.start()
    subscriber.close()
    subscriber.close()
    assert _threads() == []
    assert not subscriber.running
    with pytest.raises(RuntimeError, match="'/t' is closed"):
        subscriber.start()


def test_close_without_start(peer, subscribe):
    subscribe(print).close()


@pytest.mark.parametrize("queue_size", [1, 10])
def test_a_callback_may_stop_or_close_its_own_subscriber(peer, subscribe, queue_size):
    closed = threading.Event()

    def callback(message, header):
        subscriber.close()
        closed.set()

    subscriber = subscribe(callback, queue_size=queue_size)
    subscriber.start()
    peer.wait_for_subscriber()
    peer.send_number(1)
    assert closed.wait(10)
    wait_until(lambda: _threads() == [], what="the end of the threads")
    assert subscriber._socket.closed


@pytest.mark.parametrize("queue_size", [1, 10])
def test_close_leaves_a_busy_callback_alone(peer, subscribe, queue_size, caplog):
    gate = Gate()
    subscriber = subscribe(gate, queue_size=queue_size)
    subscriber.start()
    peer.wait_for_subscriber()
    peer.send_number(1)
    assert gate.entered.wait(10)
    subscriber.close(timeout=0.01)
    assert "a callback is still busy" in caplog.text
    gate.open.set()
    wait_until(lambda: _threads() == [], what="the end of the threads")
    assert subscriber._socket.closed


def test_a_publisher_that_comes_back_is_heard_again(discovery, cortex_dir, subscribe):
    got = []
    with bare_publisher(cortex_dir, discovery=discovery) as peer:
        subscriber = subscribe(lambda message, header: got.append(message.data), queue_size=10)
        subscriber.start()
        peer.wait_for_subscriber()
        peer.send_number(1, 70)
        wait_until(lambda: got == [1])
    with bare_publisher(cortex_dir) as peer:
        peer.wait_for_subscriber()
        peer.send_number(2, 0)
        wait_until(lambda: got == [1, 2])
    assert subscriber.dropped_count == 0


def test_a_shared_context_is_left_alone(discovery, peer):
    with zmq.Context() as context:
        subscriber = ThreadedSubscriber("/t", IntMessage, print, discovery_address=discovery.address, context=context)
        subscriber.close()
        assert not context.closed


# -- favouring the thread


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no CPU affinity")
@pytest.mark.parametrize("as_list", [False, True])
def test_the_thread_is_bound_to_a_cpu(peer, subscribe, as_list):
    cpu = max(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    seen = []
    subscriber = subscribe(
        lambda message, header: seen.append(os.sched_getaffinity(0)), cpu_affinity=[cpu] if as_list else cpu
    )
    subscriber.start()
    peer.wait_for_subscriber()
    peer.send_number(1)
    wait_until(lambda: seen)
    assert seen == [{cpu}]
    assert os.sched_getaffinity(0) == before


def test_what_the_system_refuses_is_a_warning(peer, subscribe, caplog, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    got = []
    subscriber = subscribe(lambda message, header: got.append(message.data), sched_priority=50, queue_size=5)
    with caplog.at_level(logging.WARNING):
        subscriber.start()
        peer.wait_for_subscriber()
        peer.send_number(1)
        wait_until(lambda: got == [1])
    assert "is not favoured as asked" in caplog.text
