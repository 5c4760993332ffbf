"""Asking the kernel whether somebody listens, binding without stealing, removing only one's own."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import spawn_python

from cortex import probe
from cortex.errors import AddressInUseError, CortexError

Listen = Callable[[Path], socket.socket]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Make listening sockets that are closed at the end of the test."""
    opened: list[socket.socket] = []

    def make(path: Path) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        opened.append(sock)
        sock.bind(str(path))
        sock.listen()
        return sock

    yield make
    for sock in opened:
        sock.close()


def test_live_dead_and_missing_sockets_are_told_apart(cortex_dir: Path, listen: Listen) -> None:
    path = cortex_dir / "s"
    assert probe.is_live(f"ipc://{path}") is False
    sock = listen(path)
    assert probe.is_live(f"ipc://{path}") is True
    sock.close()
    assert path.exists()
    assert probe.is_live(f"ipc://{path}") is False


def test_full_backlog_is_alive(cortex_dir: Path) -> None:
    path = cortex_dir / "s"
    with (
        socket.socket(socket.AF_UNIX) as sock,
        socket.socket(socket.AF_UNIX) as one,
        socket.socket(socket.AF_UNIX) as two,
    ):
        sock.bind(str(path))
        sock.listen(0)
        one.setblocking(False)
        two.setblocking(False)
        one.connect(str(path))
        with pytest.raises(BlockingIOError):
            two.connect(str(path))
        assert probe.is_live(f"ipc://{path}") is True


def test_what_cannot_be_told_is_none(cortex_dir: Path) -> None:
    assert probe.is_live("tcp://127.0.0.1:9") is None
    assert probe.is_live("ipc://@abstract") is None
    assert probe.is_live(f"ipc://{cortex_dir}/{'x' * 200}") is None
    (cortex_dir / "file").touch()
    assert probe.is_live(f"ipc://{cortex_dir}/file") is False
    assert probe.is_live(f"ipc://{cortex_dir}/file/below") is False


def test_only_the_own_file_is_removed(cortex_dir: Path, listen: Listen) -> None:
    path = cortex_dir / "s"
    listen(path)
    mine = probe.socket_inode(path)
    path.unlink()
    listen(path)
    assert not probe.remove_own_socket(path, mine)
    assert not probe.remove_own_socket(path, None)
    assert path.exists()
    assert probe.remove_own_socket(path, probe.socket_inode(path))
    assert not path.exists()
    assert not probe.remove_own_socket(path, mine)
    assert probe.socket_inode(path) is None


def test_claiming_refuses_a_live_socket_and_lets_a_dead_one_be_replaced(cortex_dir: Path, listen: Listen) -> None:
    path = cortex_dir / "new" / "s"
    with probe.claimed(f"ipc://{path}"):
        sock = listen(path)
    with pytest.raises(AddressInUseError, match="leave it"), probe.claimed(f"ipc://{path}", advice="leave it"):
        pass
    sock.close()
    with probe.claimed(f"ipc://{path}"):
        assert path.exists()


def test_claiming_refuses_a_file_that_is_no_socket(cortex_dir: Path) -> None:
    (cortex_dir / "data").write_text("precious")
    with pytest.raises(CortexError, match="not a socket"), probe.claimed(f"ipc://{cortex_dir}/data"):
        pass
    assert (cortex_dir / "data").read_text() == "precious"


def test_claiming_other_addresses_checks_nothing() -> None:
    with probe.claimed("tcp://127.0.0.1:9"):
        pass


def test_only_one_at_a_time_holds_a_directory(cortex_dir: Path) -> None:
    inside = threading.Event()

    def second() -> None:
        with probe.exclusive(cortex_dir):
            inside.set()

    thread = threading.Thread(target=second)
    with probe.exclusive(cortex_dir):
        thread.start()
        assert not inside.wait(0.05)
    thread.join(10)
    assert inside.is_set()
    assert list(cortex_dir.iterdir()) == []


def test_lock_ends_with_its_process(cortex_dir: Path) -> None:
    code = f"""
import os, pathlib
from cortex.probe import exclusive
with exclusive(pathlib.Path({str(cortex_dir)!r})):
    print("held", flush=True)
    os.kill(os.getpid(), 9)
"""
    with spawn_python(code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.wait(10)
        with probe.exclusive(cortex_dir):
            pass


def test_directory_that_cannot_be_locked_is_named(cortex_dir: Path) -> None:
    with pytest.raises(CortexError, match="missing"), probe.exclusive(cortex_dir / "missing"):
        pass


class Counting:
    """A probe with given answers, which counts the questions."""

    def __init__(self, **answers: bool | None) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, address: str) -> bool | None:
        self.asked.append(address)
        return self.answers[address]


def test_good_news_is_kept_and_bad_news_is_asked_again() -> None:
    ask = Counting(a=True, b=False, c=None)
    cache = probe.LivenessCache(max_age=3600, budget=3600, probe=ask)
    assert cache.dead("abc") == {"b"}
    ask.answers["b"] = True
    assert cache.dead("abc") == set()
    assert sorted(ask.asked) == ["a", "b", "b", "c"]


def test_good_news_grows_old() -> None:
    ask = Counting(a=True)
    cache = probe.LivenessCache(max_age=0, budget=3600, probe=ask)
    assert cache.dead("a") == set()
    ask.answers["a"] = False
    assert cache.dead("a") == {"a"}


def test_work_per_question_is_bounded_and_everybody_gets_a_turn() -> None:
    ask = Counting(**dict.fromkeys("abcd", False))
    cache = probe.LivenessCache(budget=0, probe=ask)
    seen = set()
    for _ in range(20):
        seen |= cache.dead("abcd")
    assert seen == set("abcd")
    assert len(ask.asked) <= 40


def test_forgotten_addresses_are_not_remembered() -> None:
    cache = probe.LivenessCache(probe=Counting(a=False, b=True))
    assert cache.dead("a") == {"a"}
    assert cache.dead("b") == set()
    assert set(cache._answers) == {"b"}


def test_probing_a_zeromq_socket_does_it_no_harm(cortex_dir: Path) -> None:
    import zmq

    address = f"ipc://{cortex_dir}/z"
    with zmq.Context() as context, context.socket(zmq.REP) as server, context.socket(zmq.REQ) as client:
        server.bind(address)
        for _ in range(50):
            assert probe.is_live(address) is True
        client.connect(address)
        client.send(b"question")
        assert server.poll(5000)
        assert server.recv() == b"question"
        os.unlink(f"{cortex_dir}/z")
        assert probe.is_live(address) is False
