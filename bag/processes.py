"""Child processes that are always reaped, and whose lines can be waited for with a deadline."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bag.errors import BagError


class Child:
    """One ``python -m MODULE ...`` process: a context that never leaves it behind.

    Standard output is read line by line in a thread of its own, so that the child never waits for us; standard error
    goes to a file, whose end is quoted when the child fails.

    Attributes:
        grace_s: how long a child that was told to end may take before it is killed.

    Args:
        arguments: what follows ``python -m``.
        env: the whole environment of the child.
        errors: file for its standard error.

    Raises:
        BagError: from any method, when the child ended with a failure or did not do in time what was waited for.
    """

    def __init__(self, arguments: Sequence[str], *, env: Mapping[str, str], errors: Path) -> None:
        self.grace_s = 5.0
        self.name = " ".join(arguments[:2])
        self.last_line = ""
        self._errors = errors
        self._lines: queue.Queue[str | None] = queue.Queue()
        with errors.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=dict(env),
                text=True,
                # a Ctrl-C at the terminal is for the orchestrator, which then ends its children in order
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, name=f"read {self.name}", daemon=True)
        self._reader.start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_input()
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(self.grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def tell(self, line: str) -> None:
        """Write a line to the child's standard input."""
        stream = self._process.stdin
        if stream is None:
            return
        try:
            stream.write(line + "\n")
            stream.flush()
        except BrokenPipeError as error:
            raise self._failure("ended too early") from error

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        self._process.send_signal(signal.SIGINT)

    def wait_line(self, accept: Callable[[str], bool], *, timeout_s: float) -> str:
        """Return the next line of standard output that ``accept`` takes."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise self._failure(f"said nothing of use within {timeout_s:.0f} s") from None
            if line is None:
                self._lines.put(None)
                raise self._failure("ended too early")
            if accept(line):
                return line

    def finish(self, *, timeout_s: float) -> None:
        """End the child's standard input and wait until it has ended well."""
        self._end_input()
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise self._failure(f"did not end within {timeout_s:.0f} s") from None
        self._reader.join()
        if code != 0:
            raise self._failure(f"ended with exit code {code}")

    def _end_input(self) -> None:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def _read(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self.last_line = line.rstrip("\n")
                self._lines.put(self.last_line)
        self._lines.put(None)

    def _failure(self, what: str) -> BagError:
        with self._errors.open(encoding="utf-8", errors="replace") as stream:
            tail = " | ".join(deque((line.strip() for line in stream if line.strip()), maxlen=3))
        return BagError(f"{self.name} {what}; {tail or 'it wrote no error'} (see {self._errors})")
