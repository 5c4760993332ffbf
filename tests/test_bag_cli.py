"""The `cortex bag` group: errors become one sentence and an exit code; a signal asks, a second one orders."""

import signal
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from helpers import spawn_python

from bag.cli import COMMANDS, bag, play_options, record_options
from bag.cli.stopping import Stopping
from bag.errors import BagError, LossyError, UsageError
from cortex.errors import CortexError


def _group_with(error):
    @click.command()
    def broken():
        raise error

    return type(bag)("bag", commands={"broken": broken})


@pytest.mark.parametrize(
    ("error", "code"),
    [(BagError("it broke"), 1), (UsageError("it broke"), 2), (LossyError("it broke"), 3), (CortexError("it broke"), 1)],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_the_library_is_one_sentence_and_its_exit_code(error, code):
    result = CliRunner().invoke(_group_with(error), ["broken"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr == "Error: it broke\n"


def test_an_error_of_the_system_is_one_sentence_that_names_the_file():
    result = CliRunner().invoke(_group_with(PermissionError(13, "Permission denied", "/root/run.h5")), ["broken"])
    assert result.exit_code == 1
    assert result.stderr == "Error: /root/run.h5: Permission denied\n"


def test_a_mistake_of_ours_is_not_hidden():
    result = CliRunner().invoke(_group_with(ZeroDivisionError("ours")), ["broken"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_ctrl_c_ends_without_a_traceback():
    result = CliRunner().invoke(_group_with(KeyboardInterrupt()), ["broken"])
    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_the_group_runs_as_a_module_and_lists_its_commands():
    done = subprocess.run([sys.executable, "-m", "bag.cli", "-h"], capture_output=True, text=True, check=True)
    assert COMMANDS
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def _value(option, *words):
    seen = []

    @click.command()
    @option
    def command(**chosen):
        seen.extend(chosen.values())

    return CliRunner().invoke(command, words), *seen


@pytest.mark.parametrize(
    ("option", "words", "expected"),
    [
        (record_options.max_cache_size_opt, ["--max-cache-size", "2G"], 2 << 30),
        (record_options.max_cache_size_opt, [], 1 << 30),
        (record_options.duration_opt, ["--duration", "1.5s"], 1_500_000_000),
        (record_options.duration_opt, [], None),
        (play_options.rate_opt, ["-r", "2x"], 2.0),
        (
            record_options.custom_data_opt,
            ["--custom-data", "robot=spot=2", "--custom-data", "a="],
            (("robot", "spot=2"), ("a", "")),
        ),
        (play_options.embedded_discovery_opt, [], True),
        (play_options.embedded_discovery_opt, ["--no-embedded-discovery"], False),
    ],
)
def test_an_option_reads_what_people_write(option, words, expected):
    _, value = _value(option, *words)
    assert value == expected


@pytest.mark.parametrize(
    ("option", "name", "text"),
    [
        (record_options.max_cache_size_opt, "--max-cache-size", "big"),
        (record_options.duration_opt, "--duration", "soon"),
        (play_options.rate_opt, "--rate", "0"),
        (record_options.custom_data_opt, "--custom-data", "=x"),
    ],
)
def test_an_option_refuses_what_makes_no_sense_by_name(option, name, text):
    (result,) = _value(option, name, text)
    assert result.exit_code == 2
    assert name in result.stderr
    assert f"'{text}' is no" in result.stderr


STUBBORN = """
import signal
import threading
from bag.cli.stopping import Stopping

asked = threading.Event()
with Stopping(asked.set):
    print("started", flush=True)
    while not asked.wait(0.05):
        pass
    print("asked", flush=True)
    {then}
print("ended", flush=True)
"""

# one long wait would not do: a signal that comes just before it is heard only after it
NEVER_ENDS = "while True: threading.Event().wait(0.05)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request(number):
    with spawn_python(STUBBORN.format(then="pass")) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert (output, errors, process.returncode) == ("asked\nended\n", "", 0)


def test_the_second_signal_ends_the_process_at_once():
    with spawn_python(STUBBORN.format(then=NEVER_ENDS)) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (output, process.returncode) == ("", 1)
    assert "Stopped at once" in errors


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Stopping():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
