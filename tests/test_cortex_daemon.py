"""The daemon as a process and as a thread: starting, refusing, announcing, noticing the dead, ending cleanly."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq
from helpers import RunningDaemon, spawn_python, start_daemon, wait_until
from vectors.loader import load

from cortex.codec import unpack_document
from cortex.discovery.client import ChangeListener, DiscoveryClient, wait_for_discovery
from cortex.discovery.daemon import DiscoveryDaemon
from cortex.discovery.protocol import DiscoveryCommand, DiscoveryRequest, TopicInfo
from cortex.errors import AddressInUseError, CortexError
from cortex.probe import is_live, socket_inode

MODULE = ["-m", "cortex.discovery.daemon"]


def info(name: str, address: str = "ipc:///nowhere", node: str = "node") -> TopicInfo:
    return TopicInfo(name, address, "StringMessage", 1, node)


@pytest.fixture
def client(discovery: RunningDaemon) -> Iterator[DiscoveryClient]:
    with DiscoveryClient() as client:
        yield client


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


# -- as a process


def test_process_answers_the_recorded_session_and_ends_with_it(cortex_dir: Path) -> None:
    lax = {"command_as_float", "lookup_integer_name", "register_info_wrong_types", "lookup_wrong_types"}
    with spawn_python(MODULE) as process, zmq.Context() as context, context.socket(zmq.REQ) as sock:
        assert wait_for_discovery(timeout=20)
        sock.connect(f"ipc://{cortex_dir}/discovery.sock")
        for row in load("discovery")["session"]:
            sock.send(bytes.fromhex(row["request"]))
            assert sock.poll(10_000), row["step"]
            answer, expected = unpack_document(sock.recv()), unpack_document(bytes.fromhex(row["response"]))
            assert isinstance(answer.pop("message"), str)
            expected.pop("message")
            assert answer == expected or (row["step"] in lax and answer["status"] != 0), row["step"]
        assert process.wait(10) == 0
        assert files(cortex_dir) == set()
        assert process.stdout is not None
        assert process.stdout.read() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_process_and_removes_its_files(cortex_dir: Path, number: signal.Signals) -> None:
    with spawn_python(MODULE) as process:
        assert wait_for_discovery(timeout=20)
        assert files(cortex_dir) == {"discovery.sock", "discovery.sock.notice"}
        process.send_signal(number)
        assert process.wait(10) == 0
        assert files(cortex_dir) == set()


def test_second_process_refuses_and_leaves_the_first_alone(discovery: RunningDaemon, cortex_dir: Path) -> None:
    before = socket_inode(cortex_dir / "discovery.sock")
    with spawn_python(MODULE) as second:
        assert second.wait(20) == 1
        assert second.stderr is not None
        text = second.stderr.read()
    assert "already listens" in text
    assert "Traceback" not in text
    assert socket_inode(cortex_dir / "discovery.sock") == before
    assert wait_for_discovery(timeout=10)


def test_of_two_started_at_once_one_survives(cortex_dir: Path) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(spawn_python([*MODULE, "--log-level", "ERROR"])) for _ in range(3)]
        wait_until(lambda: sum(p.poll() is not None for p in processes) == 2, 30, "two of three refusing")
        assert wait_for_discovery(timeout=10)
        assert sorted(p.poll() or 0 for p in processes) == [0, 1, 1]


def test_killed_process_leaves_files_that_the_next_one_replaces(cortex_dir: Path) -> None:
    with spawn_python(MODULE) as process:
        assert wait_for_discovery(timeout=20)
        process.kill()
        process.wait(10)
    assert is_live(f"ipc://{cortex_dir}/discovery.sock") is False
    running = start_daemon()
    try:
        assert wait_for_discovery(timeout=10)
    finally:
        running.stop()
    assert files(cortex_dir) == set()


def test_log_level_decides_what_is_said_on_stderr(cortex_dir: Path) -> None:
    for level, expected in (("INFO", True), ("ERROR", False)):
        with spawn_python([*MODULE, "--log-level", level]) as process:
            assert wait_for_discovery(timeout=20)
            process.terminate()
            _, text = process.communicate(timeout=10)
            assert ("listening on" in text) is expected


def test_bad_option_is_a_usage_error() -> None:
    with spawn_python([*MODULE, "--log-level", "LOUD"], stdout=subprocess.DEVNULL) as process:
        assert process.wait(20) == 2


# -- as a thread


def test_second_daemon_in_the_process_refuses(discovery: RunningDaemon) -> None:
    second = DiscoveryDaemon()
    with pytest.raises(AddressInUseError, match=r"discovery\.sock.*CORTEX_DISCOVERY_ADDRESS"):
        second.start()
    assert not second.ready.is_set()
    assert wait_for_discovery(timeout=10)


def test_tcp_address_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(AddressInUseError):
            DiscoveryDaemon(f"tcp://127.0.0.1:{taken.getsockname()[1]}").start()


@pytest.mark.parametrize("address", ["nonsense", "ipc:///proc/no/such", "tcp://nowhere.invalid:1"])
def test_address_that_cannot_be_bound_is_one_sentence(address: str) -> None:
    with pytest.raises(CortexError, match="choose another"):
        DiscoveryDaemon(address).start()


def test_file_at_the_address_is_not_deleted(cortex_dir: Path) -> None:
    (cortex_dir / "data").write_text("precious")
    with pytest.raises(CortexError, match="not a socket"):
        DiscoveryDaemon(f"ipc://{cortex_dir}/data").start()
    assert (cortex_dir / "data").read_text() == "precious"


def test_failure_halfway_leaves_nothing(cortex_dir: Path) -> None:
    (cortex_dir / "discovery.sock.notice").mkdir()
    with pytest.raises(CortexError, match=r"notice.*choose another"):
        DiscoveryDaemon().start()
    assert files(cortex_dir) == {"discovery.sock.notice"}


def test_daemon_without_room_for_a_notice_socket_does_without(cortex_dir: Path) -> None:
    address = f"ipc://{cortex_dir}/{'x' * (106 - len(str(cortex_dir)))}"
    running = start_daemon(address)
    try:
        with DiscoveryClient(address) as client:
            assert client.snapshot().notice_address is None
    finally:
        running.stop()


def test_stop_before_start_and_again_afterwards(cortex_dir: Path) -> None:
    daemon = DiscoveryDaemon()
    daemon.stop()
    daemon.start()
    thread = threading.Thread(target=daemon.start)
    thread.start()
    assert daemon.ready.wait(10)
    daemon.stop()
    daemon.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_successors_files_are_not_removed(cortex_dir: Path) -> None:
    first = start_daemon()
    for name in files(cortex_dir):
        (cortex_dir / name).unlink()
    second = start_daemon()
    first.stop()
    try:
        assert files(cortex_dir) == {"discovery.sock", "discovery.sock.notice"}
        assert wait_for_discovery(timeout=10)
    finally:
        second.stop()


def test_garbage_and_multipart_requests_are_answered(discovery: RunningDaemon) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as sock:
        sock.connect(discovery.address)
        for parts in ([b""], [b"\xc1" * 1000], [b"x", b"y", DiscoveryRequest(DiscoveryCommand.PING).to_bytes()]):
            sock.send_multipart(parts)
            assert sock.poll(10_000)
            answer = unpack_document(sock.recv())
        assert answer["status"] == 0


# -- announcements


def next_change(listener: ChangeListener) -> bool:
    return listener.wait(10_000)


def test_listener_hears_of_every_kind_of_change(client: DiscoveryClient) -> None:
    notice = client.snapshot().notice_address
    assert notice is not None
    with ChangeListener(notice) as listener:
        assert next_change(listener), "the first notice comes with joining"
        for change in (
            lambda: client.register_topic(info("/a")),
            lambda: client.register_topic(info("/a", "ipc:///moved")),
            lambda: client.unregister_topic("/a"),
        ):
            assert change()
            assert next_change(listener)


def test_late_listener_is_told_to_look_without_any_change(client: DiscoveryClient) -> None:
    client.register_topic(info("/a"))
    notice = client.snapshot().notice_address
    assert notice is not None
    for _ in range(3):
        with ChangeListener(notice) as listener:
            assert next_change(listener)


def test_questions_are_no_change(client: DiscoveryClient) -> None:
    notice = client.snapshot().notice_address
    assert notice is not None
    with ChangeListener(notice) as listener:
        assert next_change(listener)
        assert client.ping()
        assert not client.unregister_topic("/nope")
        assert client.list_topics() == []
        client.snapshot()
        assert not listener.wait(0)


def test_listener_hears_of_a_restarted_daemon(cortex_dir: Path) -> None:
    running = start_daemon()
    with DiscoveryClient() as client:
        notice = client.snapshot().notice_address
    assert notice is not None
    with ChangeListener(notice) as listener:
        assert next_change(listener)
        running.stop()
        running = start_daemon()
        try:
            assert next_change(listener)
        finally:
            running.stop()


# -- the dead


def test_dead_publisher_is_told_and_a_revived_one_at_once_forgotten(client: DiscoveryClient, cortex_dir: Path) -> None:
    path = cortex_dir / "pub"
    publisher = socket.socket(socket.AF_UNIX)
    publisher.bind(str(path))
    publisher.listen()
    client.register(info("/a", f"ipc://{path}"))
    client.register(info("/elsewhere", "tcp://127.0.0.1:9"))
    assert client.snapshot().dead == frozenset()
    publisher.close()
    wait_until(lambda: client.snapshot().dead == {"/a"}, what="the dead publisher being told")
    assert [entry.name for entry in client.snapshot().topics] == ["/a", "/elsewhere"]
    path.unlink()
    with socket.socket(socket.AF_UNIX) as revived:
        revived.bind(str(path))
        revived.listen()
        assert client.snapshot().dead == frozenset()
