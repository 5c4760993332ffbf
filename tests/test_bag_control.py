"""The control socket of a recorder: its commands, who may open it, and what garbage does to it (nothing)."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import pytest
from helpers import spawn_python, wait_until

from bag import BagBusyError, BagError
from bag.control import MAX_LINE, ControlServer, command, control_path


@pytest.fixture
def server(cortex_dir, tmp_path):
    """A control server for run.h5 that notes what it is asked, and refuses to split."""
    asked = []

    def obey(name, text):
        asked.append((name, text))
        return "no splitting here" if name == "split" else ""

    one = ControlServer(tmp_path / "run.h5", obey)
    one.start()
    one.asked = asked
    yield one
    one.stop()


def connect(path):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(10)
    connection.connect(str(path))
    return connection


def test_commands_and_their_text_arrive(server, tmp_path):
    command(tmp_path / "run.h5", "pause")
    command(tmp_path / "run.h5", "mark", "bump é")
    assert server.asked == [("pause", ""), ("mark", "bump é")]


def test_a_refusal_says_why(server, tmp_path):
    with pytest.raises(BagError, match=r"run\.h5: no splitting here"):
        command(tmp_path / "run.h5", "split")


def test_a_file_of_the_series_leads_to_the_recorder_too(server, tmp_path):
    command(tmp_path / "run_12.h5", "stop")
    assert server.asked == [("stop", "")]


def test_a_relative_path_leads_to_the_recorder_too(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command(Path("run.h5"), "pause")
    command(Path("./run.h5"), "resume")
    assert [name for name, _text in server.asked] == ["pause", "resume"]


def test_nobody_records_a_bag(cortex_dir, tmp_path):
    with pytest.raises(BagError, match=r"nobody is recording .*run\.h5"):
        command(tmp_path / "run.h5", "pause")


def test_a_dead_socket_file_is_nobody_and_is_replaced(cortex_dir, tmp_path):
    bag = tmp_path / "run.h5"
    path = control_path(bag)
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(BagError, match="nobody is recording"):
        command(bag, "pause")
    server = ControlServer(bag, lambda *_: "")
    server.start()
    command(bag, "pause")
    server.stop()
    assert not path.exists()


def test_two_recorders_of_one_output_are_refused(server, tmp_path):
    with pytest.raises(BagBusyError, match="being recorded by another process"):
        ControlServer(tmp_path / "run.h5", lambda *_: "").start()
    command(tmp_path / "run.h5", "pause")
    assert server.asked


def test_only_the_same_user_can_reach_it(server, tmp_path):
    path = control_path(tmp_path / "run.h5")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.parent.stat().st_uid == os.getuid()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_gets_no_answer_even_with_the_file_modes_wide_open(server, tmp_path, cortex_dir):
    path = control_path(tmp_path / "run.h5")
    for one in (path, path.parent, cortex_dir):
        one.chmod(0o777)
    program = f"""
import os, socket
os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
s.connect({str(path)!r})
try:
    s.sendall(b'{{"command": "stop"}}\\n')
    print(repr(s.recv(100)))
except (BrokenPipeError, ConnectionResetError):
    print("b''")
"""
    with spawn_python(program) as process:
        output, errors = process.communicate(timeout=60)
    assert output.strip() == "b''", errors
    assert server.asked == []


def test_a_directory_of_somebody_else_is_refused(cortex_dir, tmp_path, monkeypatch):
    path = control_path(tmp_path / "run.h5")
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    (cortex_dir / "elsewhere").mkdir()
    path.parent.symlink_to(cortex_dir / "elsewhere")
    with pytest.raises(BagError, match="belongs to somebody else"):
        ControlServer(tmp_path / "run.h5", lambda *_: "").start()


def test_a_directory_too_long_for_a_socket_is_refused_with_a_way_out(cortex_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("CORTEX_DIR", str(cortex_dir / ("x" * 100)))
    with pytest.raises(BagError, match="choose another CORTEX_DIR"):
        ControlServer(tmp_path / "run.h5", lambda *_: "").start()


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\n",
        b"\x00\xff\xfe\n",
        b"[]\n",
        b"3\n",
        b'"stop"\n',
        b"{}\n",
        b'{"command": ["stop"]}\n'.replace(b'["stop"]', b"nul"),
        b"[" * (MAX_LINE - 1),
        b"x" * (MAX_LINE + 10),
    ],
)
def test_garbage_gets_no_answer_and_does_no_harm(server, tmp_path, garbage):
    with connect(control_path(tmp_path / "run.h5")) as connection:
        try:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1000) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass
    command(tmp_path / "run.h5", "pause")
    assert server.asked == [("pause", "")]


def test_one_who_hangs_up_before_the_answer_does_no_harm(server, tmp_path):
    with connect(control_path(tmp_path / "run.h5")) as connection:
        connection.sendall(b'{"command": "pause"}\n')
    wait_until(lambda: server.asked)
    command(tmp_path / "run.h5", "resume")


def test_stopping_does_not_wait_for_one_who_says_nothing(cortex_dir, tmp_path):
    server = ControlServer(tmp_path / "run.h5", lambda *_: "")
    server.start()
    with connect(control_path(tmp_path / "run.h5")):
        wait_until(lambda: server._peer is not None)
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        stopper.join(4)
        assert not stopper.is_alive()


def test_stopping_works_after_somebody_removed_the_socket_file(cortex_dir, tmp_path):
    server = ControlServer(tmp_path / "run.h5", lambda *_: "")
    server.start()
    control_path(tmp_path / "run.h5").unlink()
    server.stop()
