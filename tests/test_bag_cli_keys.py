"""Keys while playing: what a terminal sends is understood, acted on at once, and the terminal is put back."""

import os
import pty
import termios

import pytest
from helpers import spawn_python, wait_until
from recordings import Ear, Line, write_bag

from bag.cli.keys import Keys, keys_of
from bag.cli.play import _actions
from bag.clock import ManualClock
from bag.options import PlayOptions
from bag.player import Player


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (" ", [" "]),
        ("sq", ["s", "q"]),
        ("\x1b[A\x1b[B\x1b[C\x1b[D", ["up", "down", "right", "left"]),
        ("\x1bOA", ["up"]),
        ("[]", ["[", "]"]),
        ("\x1b[3~x\x1b[1;5H", ["x"]),
        ("\x1b", []),
        ("", []),
    ],
)
def test_keys_are_understood(text, keys):
    assert keys_of(text) == keys


def test_keys_act_at_once_and_the_terminal_is_put_back():
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        pressed = []
        with Keys({"q": lambda: pressed.append("q")}, slave) as keys:
            assert keys.active
            assert termios.tcgetattr(slave) != before
            os.write(master, b"xq")
            wait_until(lambda: pressed)
        assert pressed == ["q"]
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_without_a_terminal_the_keyboard_is_left_alone(monkeypatch):
    read, write = os.pipe()
    with os.fdopen(read) as stdin, Keys({}) as keys:
        monkeypatch.setattr("sys.stdin", stdin)
        assert not keys.active or os.isatty(0)
    os.close(write)


def test_every_key_does_what_the_help_says(tmp_path, cortex_dir):
    path = write_bag(tmp_path / "run.h5", cortex_dir, [Line("/chat", 1000 * n, n) for n in range(60)])
    with Player(path, PlayOptions(), clock=ManualClock()) as player:
        keys = _actions(player)
        keys[" "]()
        assert player.paused
        keys[" "]()
        assert not player.paused
        rates = []
        for key in ("up", "up", "down", "down", "down"):
            keys[key]()
            rates.append(player.progress().rate)
        assert rates == [1.1, 1.2, 1.1, 1.0, 0.9]
        keys["]"]()
        assert player._performance._target == 5_000_000_000
        keys["]"]()
        keys["["]()
        keys["left"]()
        assert player._performance._target == 0
        keys["s"]()
        assert player.paused
        keys["q"]()
        assert player.play().sent == 0


def test_a_rate_never_reaches_zero(tmp_path, cortex_dir):
    path = write_bag(tmp_path / "run.h5", cortex_dir, [Line("/chat", 0, 0)])
    with Player(path, PlayOptions(rate=0.15)) as player:
        keys = _actions(player)
        for _ in range(5):
            keys["down"]()
        assert 0 < player.progress().rate < 0.01


def test_a_person_at_a_terminal_steps_and_quits(tmp_path, cortex_dir, discovery):
    path = write_bag(tmp_path / "run.h5", cortex_dir, [Line("/chat", 60_000 * n, n) for n in range(5)])
    master, slave = pty.openpty()
    words = ["-m", "bag.cli", "play", str(path), "--start-paused", "--wait-for-subscribers", "1"]
    # a terminal sends keys to the session that owns it
    program = (
        "import os, sys, fcntl, termios, runpy; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        f"sys.argv = {words[1:]!r}; runpy.run_module('bag.cli', run_name='__main__', alter_sys=True)"
    )
    try:
        with Ear(cortex_dir, "/chat") as ear, spawn_python(program, stdin=slave, start_new_session=True) as process:
            for count in (1, 2, 3):
                wait_until(lambda: _press(master, b"s") and len(ear.frames) >= count, timeout=60)
            os.write(master, b"q")
            output, errors = process.communicate(timeout=60)
    finally:
        os.close(master)
        os.close(slave)
    assert process.returncode == 0, errors
    assert "Stopped before the end." in output


def _press(master, key):
    os.write(master, key)
    return True
