"""Silence by default, stderr when asked; and the event loop that programs run on."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import Iterator

import pytest
from helpers import RunningDaemon, spawn_python

from cortex.utils.logging import get_logger, set_log_level, setup_logging
from cortex.utils.loop import run


@pytest.fixture
def name() -> Iterator[str]:
    """A logger of this test, left without handlers."""
    yield "cortex_test.logging"
    logger = logging.getLogger("cortex_test.logging")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def test_logger_is_plain(name: str) -> None:
    logger = get_logger(name)
    assert logger is logging.getLogger(name)
    assert logger.handlers == []
    assert logger.propagate
    assert logger.level == logging.NOTSET
    assert get_logger(name, logging.WARNING).level == logging.WARNING


def test_level_is_set_by_name(name: str) -> None:
    set_log_level(get_logger(name), "debug")
    assert get_logger(name).level == logging.DEBUG
    with pytest.raises(ValueError, match="LOUD"):
        set_log_level(get_logger(name), "loud")


def test_set_up_logging_writes_once_to_stderr(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("INFO", logger=name)
    setup_logging("WARNING", logger=name)
    get_logger(name + ".child").info("hidden")
    get_logger(name + ".child").warning("shown %d", 1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("shown 1") == 1
    assert "hidden" not in err
    assert "\x1b" not in err


def test_terminal_gets_colours(name: str) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    setup_logging("INFO", logger=name, stream=stream)
    get_logger(name).error("text")
    assert "\x1b[31mERROR\x1b[0m" in stream.getvalue()


def test_library_says_nothing_by_itself(discovery: RunningDaemon) -> None:
    code = """
import cortex
from cortex.discovery import DiscoveryClient, DiscoveryDaemon, TopicInfo
with DiscoveryClient() as client:
    info = TopicInfo("/a", "ipc:///x", "StringMessage", 1, "n")
    client.register_topic(info); client.lookup_topic("/a"); client.unregister_topic("/a")
with DiscoveryClient("ipc:///nowhere", timeout_ms=10) as client:
    client.ping()
import logging
logging.getLogger("cortex.anything").warning("nobody asked")
"""
    with spawn_python(code) as process:
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 0


def test_application_that_configures_logging_hears_the_library() -> None:
    code = """
import logging
logging.basicConfig(level=logging.INFO)
import cortex
logging.getLogger("cortex.anything").info("heard")
"""
    with spawn_python(code) as process:
        out, err = process.communicate(timeout=30)
    assert (out, "heard" in err) == ("", True)


async def loop_module(result: str) -> tuple[str, str]:
    return result, type(asyncio.get_running_loop()).__module__


def test_programs_run_on_uvloop_where_it_is_installed() -> None:
    pytest.importorskip("uvloop")
    assert run(loop_module("x")) == ("x", "uvloop")


def test_programs_run_on_asyncio_where_uvloop_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    result, module = run(loop_module("x"), debug=True)
    assert result == "x"
    assert module.startswith("asyncio")


def test_exception_of_the_program_comes_out() -> None:
    async def fail() -> None:
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        run(fail())
