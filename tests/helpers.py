"""What tests share: waiting on conditions instead of sleeping, and child processes that never outlive a test."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cortex.discovery.daemon import DiscoveryDaemon

REPOSITORY = Path(__file__).resolve().parent.parent

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 10, what: str = "a condition") -> T:
    """Return the first true answer of `condition`; fail the test when there is none within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout} s")
        time.sleep(0.002)
    return answer


@contextlib.contextmanager
def spawn_python(
    program: str | Sequence[str], env: Mapping[str, str] | None = None, **options: object
) -> Iterator[subprocess.Popen[str]]:
    """Run Python in a child process that is dead and reaped when the block ends.

    Args:
        program: source code, or command line arguments such as ``["-m", "cortex.discovery.daemon"]``.
        env: variables to add to this process's environment; the repository is always importable.
        options: passed on to ``subprocess.Popen``; by default stdout and stderr are pipes of text.
    """
    arguments = ["-c", program] if isinstance(program, str) else list(program)
    search = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": search, "PYTHONUNBUFFERED": "1", **(env or {})},
        **options,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@dataclass
class RunningDaemon:
    """A daemon in a thread of this process."""

    daemon: DiscoveryDaemon
    thread: threading.Thread

    @property
    def address(self) -> str:
        return self.daemon.address

    def stop(self) -> None:
        self.daemon.stop()
        self.thread.join(10)
        assert not self.thread.is_alive(), "the daemon did not stop"


def start_daemon(address: str | None = None) -> RunningDaemon:
    """Start a daemon in a thread and return once it answers; stop it with `RunningDaemon.stop`."""
    daemon = DiscoveryDaemon(address)
    thread = threading.Thread(target=daemon.start, name="discovery")
    thread.start()
    assert daemon.ready.wait(10), "the daemon did not start"
    return RunningDaemon(daemon, thread)
