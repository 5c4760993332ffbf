"""Finished files of a series are closed in threads of their own, so that nothing waits for the disk."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from bag.storage.writer import BagWriter

# finished files that may be closing at the same time; each holds some open files and some memory
MAX_CLOSING = 8


@dataclass(slots=True)
class _Closing:
    """A file that is being closed; `committed` once all of it is in the file, or never will be."""

    path: Path
    thread: threading.Thread
    committed: threading.Event


class Closers:
    """Closes files; for one thread only."""

    def __init__(self) -> None:
        self._closing: deque[_Closing] = deque()
        self._errors: list[BaseException] = []

    def close(self, writer: BagWriter) -> None:
        """Close a file soon; waits while too many are being closed."""
        before = [closing.committed for closing in self._closing]
        committed = threading.Event()
        thread = threading.Thread(target=self._close, args=(writer, before, committed), name="bag closer")
        try:
            thread.start()
        except BaseException:
            writer.abort()
            raise
        self._closing.append(_Closing(writer.path, thread, committed))
        while len(self._closing) > MAX_CLOSING or (self._closing and not self._closing[0].thread.is_alive()):
            self._closing.popleft().thread.join()

    @property
    def committed(self) -> bool:
        """Whether everything in the files that are being closed can be read."""
        return all(closing.committed.is_set() for closing in self._closing)

    def wait_for(self, path: Path) -> None:
        """Wait until a file is closed."""
        for closing in self._closing:
            if closing.path == path:
                closing.thread.join()

    def join(self) -> None:
        """Wait until all are closed."""
        while self._closing:
            self._closing.popleft().thread.join()

    def check(self) -> None:
        """Raise what closing a file has failed with.

        Raises:
            BaseException: closing one of the files failed.
        """
        if self._errors:
            raise self._errors[0]

    # in their order, so that who reads the series, the last file first, sees no gap between two
    def _close(self, writer: BagWriter, before: list[threading.Event], committed: threading.Event) -> None:
        try:
            for earlier in before:
                earlier.wait()
            writer.commit()
            committed.set()
            writer.close()
        except BaseException as error:  # noqa: BLE001  raised by `check`
            self._errors.append(error)
            writer.abort()
        finally:
            committed.set()
