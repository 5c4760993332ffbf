"""A node: its parts, how it runs, and how it ends, by request, by error or by signal."""

import asyncio
import os
import queue
import signal
import threading
from dataclasses import dataclass

import pytest
from helpers import spawn_python, wait_until
from peers import bare_publisher, lookup, until

import cortex.core
from cortex.core.executor import RateExecutor, SyncRateExecutor
from cortex.core.node import Node
from cortex.core.signals import calling_on_sigterm
from cortex.core.subscriber import Subscriber
from cortex.core.sync_subscriber import ThreadedSubscriber
from cortex.errors import AddressInUseError, MessageFingerprintError
from cortex.messages.standard import ArrayMessage, IntMessage


@dataclass
class Stranger(IntMessage):
    """A class nobody publishes."""


@pytest.fixture
def node(discovery):
    node = Node("n", discovery.address)
    yield node
    asyncio.run(node.close())


async def _nothing(*_):
    """Do nothing."""


async def _ended(task):
    done, _ = await asyncio.wait({task}, timeout=10)
    assert done, "it did not end"
    return await task


def _own_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("cortex-")]


def test_the_face_of_the_package():
    assert set(cortex.core.__all__) == {
        "AsyncCallback", "AsyncExecutor", "AsyncSubscriber", "BaseAsyncExecutor", "MessageCallback",
        "MessageFingerprintError", "Node", "Publisher", "RateExecutor", "Subscriber", "SubscriberBase",
        "SubscriberStats", "SyncMessageCallback", "SyncRateExecutor", "ThreadedSubscriber",
    }  # fmt: skip
    assert all(hasattr(cortex.core, name) for name in cortex.core.__all__)


# -- parts


def test_a_topic_has_one_publisher(node, discovery):
    publisher = node.create_publisher("/a", IntMessage, queue_size=3)
    assert (publisher.node_name, publisher.queue_size, publisher.is_registered) == ("n", 3, True)
    assert node.create_publisher("/a", ArrayMessage) is publisher
    assert node.publishers == ["/a"]
    assert node.get_publisher("/a") is publisher
    assert node.get_publisher("/b") is None
    assert lookup(discovery, "/a").publisher_node == "n"


def test_publishers_share_a_context_unless_they_are_synchronous(node):
    one, two = node.create_publisher("/1", IntMessage), node.create_publisher("/2", IntMessage)
    own = node.create_publisher("/3", IntMessage, mode="sync")
    assert one._context is two._context
    assert own._context is not one._context
    assert own.publish(IntMessage(1))
    assert own._sequence == 1


def test_publishers_share_one_registrar_thread(node):
    for k in range(5):
        node.create_publisher(f"/{k}", IntMessage)
    assert [thread.name for thread in _own_threads()] == ["cortex-registrar"]


@pytest.mark.parametrize("create", ["create_publisher", "create_subscriber"])
def test_there_are_two_modes(node, create):
    with pytest.raises(ValueError, match="'async' or 'sync', not 'turbo'"):
        getattr(node, create)("/a", IntMessage, mode="turbo")
    with pytest.raises(ValueError, match="'async' or 'sync', not 'turbo'"):
        node.create_timer(1, _nothing, mode="turbo")


def test_subscribers_come_in_two_kinds(node, discovery):
    node.create_publisher("/a", IntMessage)
    subscriber = node.create_subscriber("/a", IntMessage, _nothing)
    assert isinstance(subscriber, Subscriber)
    assert (subscriber.queue_size, subscriber.topic_timeout, subscriber.node_name) == (10, 30.0, "n")
    node.create_publisher("/b", IntMessage)
    threaded = node.create_subscriber("/b", IntMessage, print, mode="sync")
    assert isinstance(threaded, ThreadedSubscriber)
    assert threaded.queue_size == 10
    assert node.subscribers == ["/a", "/b"]
    assert node.get_subscriber("/b") is threaded


def test_a_synchronous_subscriber_needs_a_callback_and_a_topic(node):
    with pytest.raises(ValueError, match="'/a': a subscriber in mode 'sync' needs a callback"):
        node.create_subscriber("/a", IntMessage, mode="sync")
    with pytest.raises(TimeoutError):
        node.create_subscriber("/a", IntMessage, print, mode="sync", topic_timeout=0.05)
    assert node.subscribers == []


def test_strictness_is_off_unless_asked_for_or_synchronous(node, caplog):
    node.create_publisher("/a", IntMessage)
    with pytest.raises(MessageFingerprintError):
        node.create_subscriber("/a", Stranger, _nothing, strict_fingerprint=True)
    with pytest.raises(MessageFingerprintError):
        node.create_subscriber("/a", Stranger, print, mode="sync")
    node.create_subscriber("/a", Stranger, _nothing)
    assert "'/a' carries IntMessage" in caplog.text


def test_favours_for_threads_are_only_for_threads(node, caplog):
    node.create_subscriber("/a", IntMessage, _nothing, cpu_affinity=0)
    assert "only apply in mode 'sync'" in caplog.text


def test_a_topic_in_the_other_mode_is_refused(node):
    node.create_subscriber("/a", IntMessage, _nothing)
    with pytest.raises(ValueError, match="'/a' is subscribed to in the other mode"):
        node.create_subscriber("/a", IntMessage, print, mode="sync")


def test_timers_want_the_right_kind_of_function(node):
    assert isinstance(node.create_timer(0.5, _nothing), RateExecutor)
    assert isinstance(node.create_timer(0.5, print, mode="sync"), SyncRateExecutor)
    with pytest.raises(TypeError, match="needs an `async def` function"):
        node.create_timer(1, print)
    with pytest.raises(TypeError, match="needs a plain, synchronous function"):
        node.create_timer(1, _nothing, mode="sync")
    with pytest.raises(ValueError, match="more than 0 seconds"):
        node.create_timer(0, _nothing)


def test_a_second_node_of_the_same_name_is_refused_its_topics(node, discovery):
    node.create_publisher("/a", IntMessage)
    with Node("n", discovery.address) as twin, pytest.raises(AddressInUseError, match="'/a' of node 'n'"):
        twin.create_publisher("/a", IntMessage)
    assert lookup(discovery, "/a") is not None


# -- running


def test_run_drives_timers_and_subscribers(node):
    got = []

    async def main():
        publisher = node.create_publisher("/a", IntMessage)

        async def tick():
            publisher.publish(IntMessage(len(got)))

        async def receive(message, header):
            got.append(message.data)

        node.create_timer(0.005, tick)
        node.create_subscriber("/a", IntMessage, receive)
        running = asyncio.create_task(node.run())
        await until(lambda: len(got) > 3)
        assert node.is_running
        node.stop()
        await _ended(running)
        assert not node.is_running

    asyncio.run(main())


def test_run_returns_at_once_when_there_is_nothing_to_run(node):
    node.create_publisher("/a", IntMessage)
    node.create_subscriber("/b", IntMessage)
    asyncio.run(node.run())


def test_run_swallows_cancellation_and_can_be_repeated(node):
    async def main():
        calls = []

        async def tick():
            calls.append(1)

        node.create_timer(0.001, tick)
        for _ in range(2):
            calls.clear()
            running = asyncio.create_task(node.run())
            await until(lambda: calls)
            running.cancel()
            assert await _ended(running) is None
        for _ in range(2):
            calls.clear()
            running = asyncio.create_task(node.run())
            await until(lambda: calls)
            node.stop()
            await _ended(running)

    asyncio.run(main())


def test_a_stop_that_comes_before_run_is_heeded_once(node):
    async def main():
        node.create_timer(0.001, _nothing)
        running = asyncio.create_task(node.run())
        node.stop()
        await _ended(running)
        running = asyncio.create_task(node.run())
        await until(lambda: node.is_running)
        node.stop()
        await _ended(running)

    asyncio.run(main())


def test_run_twice_at_a_time_is_refused(node):
    async def main():
        node.create_timer(0.001, _nothing)
        running = asyncio.create_task(node.run())
        await until(lambda: node.is_running)
        with pytest.raises(RuntimeError, match="running already"):
            await node.run()
        node.stop()
        await _ended(running)

    asyncio.run(main())


@pytest.mark.parametrize("where", ["thread", "callback"])
def test_stop_may_come_from_anywhere(node, where):
    async def main():
        async def tick():
            if where == "callback":
                node.stop()
            else:
                threading.Thread(target=node.stop).start()

        node.create_timer(0.001, tick)
        await _ended(asyncio.create_task(node.run()))

    asyncio.run(main())


def test_errors_of_callbacks_do_not_end_run(node, caplog):
    async def main():
        calls = []

        async def tick():
            calls.append(1)
            raise ValueError("not today")

        node.create_timer(0.001, tick)
        running = asyncio.create_task(node.run())
        await until(lambda: len(calls) > 2)
        assert not running.done()
        node.stop()
        await _ended(running)

    asyncio.run(main())
    assert "not today" in caplog.text


def test_an_error_that_ends_a_subscriber_comes_out_of_run(node, discovery, cortex_dir):
    async def main():
        node.create_timer(0.001, _nothing)
        node.create_subscriber("/t", Stranger, _nothing, strict_fingerprint=True)
        running = asyncio.create_task(node.run())
        await until(lambda: node.is_running)
        with bare_publisher(cortex_dir, discovery=discovery), pytest.raises(MessageFingerprintError):
            await _ended(running)
        assert not node.is_running

    asyncio.run(main())


def test_a_topic_that_never_appears_does_not_end_the_others(node, caplog):
    async def main():
        node.create_timer(0.001, _nothing)
        node.create_subscriber("/t", IntMessage, _nothing, topic_timeout=0.01)
        running = asyncio.create_task(node.run())
        await until(lambda: "'/t' did not appear" in caplog.text)
        await asyncio.sleep(0)
        assert not running.done()
        node.stop()
        await _ended(running)

    asyncio.run(main())


def test_parts_made_while_running_begin_at_once(node):
    async def main():
        begun = set()

        async def late():
            begun.add("timer")

        async def receive(message, header):
            begun.add("subscriber")

        def threaded():
            begun.add("thread")

        async def tick():
            publisher.publish(IntMessage(1))
            if node.get_subscriber("/a") is None:
                node.create_timer(0.001, late)
                node.create_subscriber("/a", IntMessage, receive)
                node.create_timer(0.001, threaded, mode="sync")

        publisher = node.create_publisher("/a", IntMessage)
        node.create_timer(0.002, tick)
        running = asyncio.create_task(node.run())
        await until(lambda: begun == {"timer", "subscriber", "thread"})
        node.stop()
        await _ended(running)

    asyncio.run(main())


def test_a_second_callback_for_a_topic_is_called_as_well(node, discovery, cortex_dir, caplog):
    async def main():
        first, second, third = [], [], []

        def appending(values):
            async def callback(message, header):
                values.append(message.data)

            return callback

        with bare_publisher(cortex_dir, discovery=discovery) as peer:
            passive = node.create_subscriber("/t", IntMessage)
            subscriber = node.create_subscriber("/t", IntMessage, appending(first))
            assert subscriber is passive
            assert node.create_subscriber("/t", Stranger, appending(second)) is subscriber
            assert "'/t' is decoded as IntMessage" in caplog.text
            peer.wait_for_subscriber()
            running = asyncio.create_task(node.run())
            peer.send_number(1)
            await until(lambda: first == second == [1])
            node.create_subscriber("/t", IntMessage, appending(third))
            peer.send_number(2, 1)
            await until(lambda: third == [2])
            node.stop()
            await _ended(running)

    asyncio.run(main())


def test_a_synchronous_topic_fans_out_too(node, discovery, cortex_dir):
    first, second = queue.Queue(), queue.Queue()
    with bare_publisher(cortex_dir, discovery=discovery) as peer:
        subscriber = node.create_subscriber("/t", IntMessage, lambda m, h: first.put(m.data), mode="sync")
        assert node.create_subscriber("/t", IntMessage, lambda m, h: second.put(m.data), mode="sync") is subscriber
        spinning = threading.Thread(target=node.spin)
        spinning.start()
        peer.wait_for_subscriber()
        peer.send_number(1)
        assert (first.get(timeout=10), second.get(timeout=10)) == (1, 1)
        node.stop()
        spinning.join(10)
    node.close_sync()


def test_run_drives_threads_as_well(node):
    async def main():
        calls = []
        node.create_timer(0.001, lambda: calls.append(threading.current_thread()), mode="sync")
        running = asyncio.create_task(node.run())
        await until(lambda: len(calls) > 2)
        assert threading.main_thread() not in calls
        node.stop()
        await _ended(running)
        assert not any(thread.name == "cortex-timer" for thread in threading.enumerate())

    asyncio.run(main())


# -- spinning


def test_spin_runs_a_synchronous_node_until_stop(node):
    calls = []

    def tick():
        calls.append(node._running)
        if len(calls) == 3:
            node.stop()

    node.create_timer(0.001, tick, mode="sync")
    node.spin()
    assert calls[:3] == [True] * 3
    assert not node.is_running
    assert node.stop_event.is_set()


def test_spin_ends_after_its_timeout_and_can_be_repeated(node):
    for _ in range(2):
        node.spin(timeout=0.01)
        assert not node.is_running
        assert not node.stop_event.is_set()


def test_spin_after_stop_has_a_new_event(node):
    threading.Thread(target=node.spin).start()
    wait_until(lambda: node.is_running)
    first = node.stop_event
    node.stop()
    wait_until(lambda: not node.is_running)
    node.spin(timeout=0.01)
    assert first.is_set()
    assert not node.stop_event.is_set()


@pytest.mark.parametrize("part", ["timer", "subscriber", "passive"])
def test_spin_and_close_sync_refuse_asynchronous_parts(node, part):
    if part == "timer":
        node.create_timer(1, _nothing)
    else:
        node.create_subscriber("/a", IntMessage, _nothing if part == "subscriber" else None)
    for call in (node.spin, node.close_sync):
        with pytest.raises(RuntimeError, match="async"):
            call()


def test_spawned_threads_get_the_stop_event(node):
    got = queue.Queue()

    def work(stop_event, *args, **kwargs):
        got.put((args, kwargs, threading.current_thread().name))
        stop_event.wait(10)
        got.put(stop_event)

    thread = node.spawn_thread(work, 1, name="worker", two=2)
    assert got.get(timeout=10) == ((1,), {"two": 2}, "worker")
    assert thread.is_alive()
    node.stop()
    assert got.get(timeout=10) is node.stop_event
    thread.join(10)


# -- closing


def test_close_leaves_nothing_and_can_be_repeated(discovery, cortex_dir):
    async def main():
        node = Node("n", discovery.address)
        node.create_publisher("/a", IntMessage)
        node.create_publisher("/b", IntMessage, mode="sync")
        node.create_subscriber("/a", IntMessage, _nothing)
        node.create_timer(0.001, lambda: None, mode="sync")
        worker = node.spawn_thread(lambda stop_event: stop_event.wait())
        running = asyncio.create_task(node.run())
        await until(lambda: node.is_running)
        await node.close()
        await node.close()
        await _ended(running)
        assert not worker.is_alive()
        assert node.publishers == node.subscribers == []
        assert node.stop_event.is_set()

    # the context that all clients of this process share begins here
    assert lookup(discovery, "/a") is None
    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(main())
    assert _own_threads() == []
    assert list((cortex_dir / "topics").iterdir()) == []
    assert lookup(discovery, "/a") is None
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, what="closing of all file descriptors")


def test_a_closed_node_makes_nothing_more(discovery):
    node = Node("n", discovery.address)
    node.close_sync()
    with pytest.raises(RuntimeError, match="node 'n' is closed"):
        node.create_publisher("/a", IntMessage)
    asyncio.run(node.run())


def test_it_is_a_context_manager_both_ways(discovery):
    async def main():
        async with Node("a", discovery.address) as node:
            node.create_publisher("/a", IntMessage)
            node.create_timer(1, _nothing)
        assert lookup(discovery, "/a") is None

    asyncio.run(main())
    with Node("b", discovery.address) as node:
        node.create_publisher("/b", IntMessage)
    assert lookup(discovery, "/b") is None


def test_close_from_a_callback(discovery):
    async def main():
        node = Node("n", discovery.address)
        node.create_publisher("/a", IntMessage)
        node.create_subscriber("/never", IntMessage, _nothing)
        node.create_timer(0.001, node.close)
        await _ended(asyncio.create_task(node.run()))
        assert node.publishers == []

    asyncio.run(main())
    assert lookup(discovery, "/a") is None


def test_close_with_a_callback_that_never_returns(discovery, cortex_dir, monkeypatch, caplog):
    monkeypatch.setattr("cortex.core.running.JOIN_S", 0.01)
    release, entered = threading.Event(), threading.Event()

    def stuck(message, header):
        entered.set()
        release.wait(10)

    with bare_publisher(cortex_dir, discovery=discovery) as peer:
        node = Node("n", discovery.address)
        node.create_subscriber("/t", IntMessage, stuck, mode="sync")
        spinning = threading.Thread(target=node.spin)
        spinning.start()
        peer.wait_for_subscriber()
        peer.send_number(1)
        assert entered.wait(10)
        node.stop()
        spinning.join(10)
        monkeypatch.setattr(ThreadedSubscriber.close, "__defaults__", (0.01,))
        monkeypatch.setattr("cortex.core.contexts.PATIENCE_S", 0.01)
        node.close_sync()
        assert "a busy thread still holds a socket" in caplog.text
        release.set()
        wait_until(lambda: _own_threads() == [], what="the end of the stuck thread")


# -- signals

PROGRAM = """
import asyncio, os, signal, sys
from cortex.core.node import Node
from cortex.messages.standard import IntMessage

async def tick():
    if publisher.is_registered and not said:
        said.append(1)
        print("up", flush=True)

said = []
node = Node("n")
publisher = node.create_publisher("/a", IntMessage)
{setup}
{run}
print("down", node.publishers, flush=True)
"""


@pytest.mark.parametrize(
    ("setup", "run"),
    [
        ("node.create_timer(0.01, tick)", "asyncio.run(node.run())"),
        ("node.create_timer(0.01, tick)", "import uvloop; uvloop.run(node.run())"),
        ("node.create_timer(0.01, lambda: tick().send(None), mode='sync')", "node.spin()"),
    ],
    ids=["asyncio", "uvloop", "spin"],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_node_and_nothing_is_left(discovery, cortex_dir, setup, run, number):
    if "uvloop" in run:
        pytest.importorskip("uvloop")
    setup = setup.replace("lambda: tick().send(None)", "lambda: asyncio.run(tick())")
    with spawn_python(PROGRAM.format(setup=setup, run=run)) as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    # after SIGTERM the node is closed; after Ctrl-C the program goes on, and the publisher cleans up at its end
    assert (out, err) == ("down []\n" if number == signal.SIGTERM else "down ['/a']\n", "")
    assert process.returncode == 0
    assert list((cortex_dir / "topics").iterdir()) == []
    assert lookup(discovery, "/a") is None


def test_the_applications_handler_is_called_too_and_put_back():
    calls = []

    def handler(signum, frame):
        calls.append("application")

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        with calling_on_sigterm(lambda: calls.append("node")):
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until(lambda: calls == ["node", "application"])
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_a_second_signal_has_its_usual_effect():
    program = """
import time
from cortex.core.signals import calling_on_sigterm
with calling_on_sigterm(lambda: print("first", flush=True)):
    print("waiting", flush=True)
    # one long wait would not do: a signal that comes just before it is heard only after it
    while True:
        time.sleep(0.05)
"""
    with spawn_python(program) as process:
        for line in ("waiting\n", "first\n"):
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM


def test_an_ignored_signal_stays_ignored():
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with calling_on_sigterm(pytest.fail):
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_nothing_is_installed_outside_the_main_thread():
    seen = []

    def work():
        with calling_on_sigterm(pytest.fail):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_two_nodes_that_end_out_of_order_leave_the_default_behaviour():
    program = """
import os, signal
from cortex.core.signals import calling_on_sigterm
first, second = calling_on_sigterm(print), calling_on_sigterm(print)
first.__enter__(); second.__enter__()
first.__exit__(None, None, None); second.__exit__(None, None, None)
print("waiting", flush=True)
signal.pause()
"""
    with spawn_python(program) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
