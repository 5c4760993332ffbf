"""The client: against our daemon, an old one, a silent one and none at all."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq
import zmq.asyncio
from helpers import RunningDaemon, spawn_python, start_daemon, wait_until

from cortex.discovery.client import DiscoveryClient, wait_for_discovery
from cortex.discovery.protocol import DiscoveryCommand, DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, TopicInfo
from cortex.discovery.registry import Registry
from cortex.errors import CodecError, CortexError, DiscoveryUnavailableError, TopicOwnedError
from cortex.utils.loop import run

INFO = TopicInfo("/a", "ipc:///nowhere/a", "StringMessage", 7, "node")
OTHER = TopicInfo("/a", "ipc:///nowhere/b", "StringMessage", 7, "other")
MOVED = TopicInfo("/a", "ipc:///nowhere/c", "StringMessage", 7, "node")


@pytest.fixture
def client(discovery: RunningDaemon) -> Iterator[DiscoveryClient]:
    with DiscoveryClient() as client:
        yield client


@contextmanager
def server(address: str, answer: object) -> Iterator[None]:
    """A daemon of another kind: a REP or ROUTER loop in a thread around `answer(parts) -> parts or None`."""
    context = zmq.Context()
    sock, stop = context.socket(zmq.ROUTER), threading.Event()
    sock.linger = 0
    sock.bind(address)

    def serve() -> None:
        while not stop.is_set():
            if sock.poll(20):
                identity, empty, data = sock.recv_multipart()
                reply = answer(data)  # type: ignore[operator]
                if reply is not None:
                    sock.send_multipart([identity, empty, reply])

    thread = threading.Thread(target=serve)
    thread.start()
    yield
    stop.set()
    thread.join(10)
    sock.close()
    context.term()


@pytest.fixture
def address(cortex_dir: Path) -> str:
    return f"ipc://{cortex_dir}/d"


# -- against our daemon


def test_calls_that_do_not_raise(client: DiscoveryClient) -> None:
    assert client.ping()
    assert client.list_topics() == []
    assert client.lookup_topic("/a") is None
    assert client.register_topic(INFO)
    assert not client.register_topic(OTHER)
    assert client.register_topic(MOVED)
    assert client.lookup_topic("/a") == MOVED
    assert client.list_topics() == [MOVED]
    assert client.unregister_topic("/a")
    assert not client.unregister_topic("/a")


def test_topic_of_another_node_names_its_owner(client: DiscoveryClient) -> None:
    client.register(OTHER)
    with pytest.raises(TopicOwnedError, match=r"/a is already published by node other at ipc:///nowhere/b") as caught:
        client.register(INFO)
    assert (caught.value.topic, caught.value.node) == ("/a", "other")
    assert client.lookup_topic("/a") == OTHER


def test_only_the_own_entry_is_unregistered(client: DiscoveryClient) -> None:
    assert not client.unregister_own(INFO)
    client.register(MOVED)
    assert not client.unregister_own(INFO), "another incarnation has taken over"
    assert client.lookup_topic("/a") == MOVED
    assert client.unregister_own(MOVED)
    assert client.lookup_topic("/a") is None


def test_snapshot_tells_where_changes_are_announced(client: DiscoveryClient, discovery: RunningDaemon) -> None:
    client.register(INFO)
    snapshot = client.snapshot()
    assert snapshot.topics == (INFO,)
    assert snapshot.dead == {"/a"}
    assert snapshot.notice_address == discovery.address + ".notice"


@pytest.mark.parametrize("text", ["\ud800", "a\0b"])
def test_names_that_cannot_travel_are_refused_not_crashing(client: DiscoveryClient, text: str) -> None:
    info = TopicInfo(text, "x", "x", 1, "n")
    assert client.register_topic(info) is (text != "\ud800")
    if text == "\ud800":
        with pytest.raises(CodecError):
            client.register(info)
        assert client.lookup_topic(text) is None


def test_client_survives_a_restart_of_the_daemon(cortex_dir: Path) -> None:
    running = start_daemon()
    with DiscoveryClient() as client:
        assert client.register_topic(INFO)
        running.stop()
        running = start_daemon()
        try:
            assert client.ping()
            assert client.list_topics() == []
        finally:
            running.stop()


def test_client_may_be_closed_and_used_again(client: DiscoveryClient) -> None:
    assert client.ping()
    client.close()
    client.close()
    assert client.ping()


def test_threads_share_a_client(client: DiscoveryClient) -> None:
    def work(number: int) -> None:
        for step in range(30):
            info = TopicInfo(f"/{number}/{step}", "x", "x", step, "n")
            results.append(client.register_topic(info) and client.lookup_topic(info.name) == info)

    results: list[bool] = []
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 120
    assert len(client.list_topics()) == 120


def test_another_process_sees_the_same(client: DiscoveryClient) -> None:
    client.register(INFO)
    code = "from cortex.discovery import DiscoveryClient\nprint(DiscoveryClient().list_topics())"
    with spawn_python(code) as process:
        out, err = process.communicate(timeout=30)
    assert (out, err) == (f"[{INFO}]\n", "")


@pytest.mark.usefixtures("cortex_dir")
def test_address_comes_from_the_environment_at_call_time(monkeypatch: pytest.MonkeyPatch, cortex_dir: Path) -> None:
    assert DiscoveryClient().discovery_address == f"ipc://{cortex_dir}/discovery.sock"
    monkeypatch.setenv("CORTEX_DISCOVERY_ADDRESS", "ipc:///elsewhere")
    assert DiscoveryClient().discovery_address == "ipc:///elsewhere"
    assert DiscoveryClient("ipc:///given").discovery_address == "ipc:///given"


def test_asyncio_context_may_be_shared(discovery: RunningDaemon) -> None:
    with zmq.asyncio.Context() as context, DiscoveryClient(context=context) as client:
        assert client.ping()


# -- waiting


def test_waiting_for_a_topic_ends_when_it_is_registered(client: DiscoveryClient) -> None:
    found: list[TopicInfo | None] = []
    thread = threading.Thread(target=lambda: found.append(client.wait_for_topic("/a", poll_interval=0.01)))
    thread.start()
    with DiscoveryClient() as other:
        other.register(INFO)
    thread.join(10)
    assert found == [INFO]


def test_waiting_for_a_topic_gives_up(client: DiscoveryClient, address: str) -> None:
    assert client.wait_for_topic("/never", timeout=0.05, poll_interval=0.01) is None
    assert DiscoveryClient(address).wait_for_topic("/never", timeout=0.05) is None
    assert client.wait_for_topic("/never", timeout=0) is None


def test_waiting_for_the_daemon(address: str) -> None:
    assert not wait_for_discovery(address, timeout=0.02)
    heard: list[bool] = []
    thread = threading.Thread(target=lambda: heard.append(wait_for_discovery(address, timeout=20)))
    thread.start()
    running = start_daemon(address)
    thread.join(30)
    running.stop()
    assert heard == [True]


# -- nobody there


def test_without_a_daemon_the_old_calls_answer_and_the_new_ones_say_so(address: str) -> None:
    with DiscoveryClient(address, timeout_ms=10) as client:
        assert not client.ping()
        assert not client.register_topic(INFO)
        assert not client.unregister_topic("/a")
        assert client.lookup_topic("/a") is None
        assert client.list_topics() == []
    with DiscoveryClient(address, timeout_ms=3_600_000) as client:
        for call in (client.snapshot, lambda: client.register(INFO), lambda: client.unregister_own(INFO)):
            with pytest.raises(DiscoveryUnavailableError, match=r"cx_.*/d: start one with `cortex discovery`"):
                call()


def test_old_calls_wait_for_a_daemon_that_is_just_starting(address: str) -> None:
    heard: list[bool] = []
    client = DiscoveryClient(address, timeout_ms=20_000, retries=0)
    thread = threading.Thread(target=lambda: heard.append(client.register_topic(INFO)))
    thread.start()
    wait_until(lambda: client._socket is not None, what="the question being asked")
    running = start_daemon(address)
    thread.join(30)
    client.close()
    running.stop()
    assert heard == [True]


@pytest.mark.parametrize("bad", ["nonsense", "ipc://", "tcp://x"])
def test_address_that_is_none_is_said_so(bad: str) -> None:
    with DiscoveryClient(bad) as client:
        assert not client.ping()
        with pytest.raises(CortexError, match="not an address"):
            client.snapshot()


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_retries_are_retries(address: str, retries: int) -> None:
    asked: list[bytes] = []

    def answer_the_third(data: bytes) -> bytes | None:
        asked.append(data)
        return DiscoveryResponse(DiscoveryStatus.OK).to_bytes() if len(asked) == 3 else None

    with server(address, answer_the_third):
        with DiscoveryClient(address, timeout_ms=800, retries=retries) as client:
            assert client.ping() is (retries == 2)
    assert len(asked) == retries + 1


def test_late_answer_is_not_taken_for_the_next_question(address: str) -> None:
    waiting = threading.Event()
    registry = Registry()

    def slow_at_first(data: bytes) -> bytes:
        if not waiting.is_set():
            waiting.wait(10)
        return registry.answer(data)

    with server(address, slow_at_first), DiscoveryClient(address, timeout_ms=100, retries=0) as client:
        assert not client.ping()
        waiting.set()
        client.timeout_ms = 10_000
        assert client.lookup_topic("/a") is None
        assert client.register_topic(INFO)
        assert client.lookup_topic("/a") == INFO


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x80", b"\x81\xa6status\x09"])
def test_unreadable_answer_is_no_answer(address: str, garbage: bytes) -> None:
    with server(address, lambda _: garbage), DiscoveryClient(address) as client:
        assert not client.ping()
        assert client.list_topics() == []
        with pytest.raises(CodecError):
            client.snapshot()


def test_refusal_is_passed_on(address: str) -> None:
    refusal = DiscoveryResponse(DiscoveryStatus.ERROR, "no more room").to_bytes()
    with server(address, lambda _: refusal), DiscoveryClient(address) as client:
        with pytest.raises(CortexError, match="refused: no more room"):
            client.register(INFO)
        with pytest.raises(CortexError, match="refused: no more room"):
            client.snapshot()


# -- an old daemon


def test_old_daemon_is_helped_out(address: str, cortex_dir: Path) -> None:
    registry = Registry()

    def without_extensions(data: bytes) -> bytes:
        request = DiscoveryRequest.from_bytes(data)
        request.extensions = 0
        return registry.handle(request).to_bytes()

    alive = TopicInfo("/alive", f"ipc://{cortex_dir}/alive", "x", 1, "n")
    with server(address, without_extensions), DiscoveryClient(address) as client:
        with socket.socket(socket.AF_UNIX) as publisher:
            publisher.bind(f"{cortex_dir}/alive")
            publisher.listen()
            client.register(INFO)
            client.register(alive)
            wait_until(lambda: client.snapshot().dead == {"/a"}, what="the dead publisher being told")
            snapshot = client.snapshot()
    assert snapshot.topics == (INFO, alive)
    assert snapshot.notice_address is None


# -- asyncio


def test_asynchronous_lookup_leaves_the_loop_free(address: str) -> None:
    # The answer comes from the very loop that asks: a blocking lookup would never get it.
    async def serve(sock: zmq.asyncio.Socket, registry: Registry) -> None:
        while True:
            await sock.send(registry.answer(await sock.recv()))

    async def main() -> tuple[TopicInfo | None, TopicInfo | None, TopicInfo | None]:
        registry = Registry()
        with zmq.asyncio.Context() as context, context.socket(zmq.REP) as sock, DiscoveryClient(address) as client:
            sock.linger = 0
            sock.bind(address)
            serving = asyncio.create_task(serve(sock, registry))
            missing = await client.lookup_topic_async("/a")
            waiting = asyncio.create_task(client.wait_for_topic_async("/a", timeout=20, poll_interval=0.01))
            await asyncio.sleep(0)
            registry.handle(DiscoveryRequest(DiscoveryCommand.REGISTER_TOPIC, INFO))
            found = await waiting
            never = await client.wait_for_topic_async("/never", timeout=0.03, poll_interval=0.01)
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            return missing, found, never

    assert run(main()) == (None, INFO, None)
    assert asyncio.run(main()) == (None, INFO, None)


def test_asynchronous_wait_may_be_cancelled_while_nobody_answers(address: str) -> None:
    async def main() -> bool:
        client = DiscoveryClient(address, timeout_ms=3_600_000)
        waiting = asyncio.create_task(client.wait_for_topic_async("/a", timeout=3600))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return waiting.cancelled()

    assert run(main())


def test_asynchronous_request_says_when_nobody_answers(address: str) -> None:
    async def main() -> None:
        with DiscoveryClient(address) as client:
            assert await client.lookup_topic_async("/a", timeout_ms=10) is None
            await client.request_async(DiscoveryRequest(DiscoveryCommand.PING), timeout_ms=10)

    with pytest.raises(DiscoveryUnavailableError):
        run(main())
