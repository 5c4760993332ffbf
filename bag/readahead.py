"""Reads a timetable in a thread of its own, bounded in bytes, so that sending never waits for a disk."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator

from bag.schedule import Batch

# of reading in one go, receivers on the same machine would feel every millisecond; so it rests this much longer than
# it works
REST = 2


class ReadAhead:
    """A timetable being read by a thread. Iterating hands over its batches, and raises what reading raised.

    Args:
        batches: the timetable.
        max_bytes: bound on the bytes waiting.
    """

    def __init__(self, batches: Iterable[Batch], max_bytes: int) -> None:
        self._batches = batches
        self._max_bytes = max_bytes
        self._ready: queue.SimpleQueue[Batch | BaseException | None] = queue.SimpleQueue()
        self._waiting = 0
        self._room = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._read, name="bag read-ahead", daemon=True)

    def __enter__(self) -> ReadAhead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._room:
            self._stopped = True
            self._room.notify_all()
        self._thread.join()

    def wait_ready(self) -> None:
        """Wait until the first messages are in memory, or reading has ended."""
        with self._room:
            self._room.wait_for(lambda: not self._ready.empty())

    def rest(self, took_ns: int) -> None:
        """Leave the processor to others after a piece of reading that took so long, unless what is ready runs short."""
        if self._waiting > self._max_bytes // 4:
            time.sleep(REST * took_ns / 1e9)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            item = self._ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
            # what is being sent still lies in memory, so it only counts as gone now
            with self._room:
                self._waiting -= item.nbytes
                self._room.notify_all()

    def _read(self) -> None:
        end: BaseException | None = None
        try:
            for batch in self._batches:
                with self._room:
                    self._waiting += batch.nbytes
                    self._ready.put(batch)
                    self._room.notify_all()
                    self._room.wait_for(lambda: self._stopped or self._waiting < self._max_bytes)
                    if self._stopped:
                        return
        except BaseException as error:  # noqa: BLE001  raised where the batches are taken
            end = error
        finally:
            with self._room:
                self._ready.put(end)
                self._room.notify_all()
