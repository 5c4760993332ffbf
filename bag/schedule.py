"""The timetable of a replay: messages of one or several bags on one time line, read ahead of their time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import NamedTuple

from bag.records import RawMessage
from bag.storage.reader import BagReader


class Due(NamedTuple):
    """A message and when it is due, in ns after the start of the time line; `bag` counts the bags from 0."""

    at_ns: int
    bag: int
    message: RawMessage


def timetable(readers: list[BagReader], topics: list[list[str]], order: str, span: tuple[int | None, int | None]) -> Iterator[Due]:
    """All messages in order; bags are laid on one time line by the wall time of their first messages.

    Args:
        readers: the bags.
        topics: for each bag the topics to take.
        order: `publish` or `log`.
        span: half open range in ns after the start.
    """
    spans = [reader.span_ns() for reader in readers]
    starts = [item[0] for item in spans if item is not None]
    if not starts:
        return iter(())
    streams = []
    for number, (reader, names, own) in enumerate(zip(readers, topics, spans, strict=True)):
        if own is not None:
            streams.append(_shifted(reader, names, order, (number, own[1] - (own[0] - min(starts))), span))
    return merge(*streams, key=lambda due: due[:2])


def _shifted(
    reader: BagReader, names: list[str], order: str, place: tuple[int, int], span: tuple[int | None, int | None]
) -> Iterator[Due]:
    number, zero = place
    limits = [None if at is None else at + zero for at in span]
    for time, message in reader.merged(names, order, *limits):
        yield Due(time - zero, number, message)


class ReadAhead:
    """Reads a timetable in a thread of its own, so many bytes ahead of whoever iterates.

    Args:
        dues: the timetable.
        max_bytes: bound on the bytes waiting.
    """

    def __init__(self, dues: Iterable[Due], max_bytes: int) -> None:
        self._dues = dues
        self._max_bytes = max_bytes
        self._ready: queue.SimpleQueue[Due | BaseException | None] = queue.SimpleQueue()
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
            self._room.notify()
        self._thread.join()

    def wait_ready(self) -> None:
        """Wait until the first messages are in memory, or all of them."""
        with self._room:
            self._room.wait_for(lambda: self._waiting > 0 or not self._thread.is_alive() or not self._ready.empty())

    def __iter__(self) -> Iterator[Due]:
        while True:
            due = self._ready.get()
            if due is None:
                return
            if isinstance(due, BaseException):
                raise due
            # the reader is only woken when there is room for a good deal
            self._waiting -= due.message.nbytes
            if self._waiting < self._max_bytes // 2:
                with self._room:
                    self._room.notify()
            yield due

    def _read(self) -> None:
        end: BaseException | None = None
        try:
            for due in self._dues:
                with self._room:
                    self._waiting += due.message.nbytes
                    self._ready.put(due)
                    self._room.notify()
                    self._room.wait_for(lambda: self._stopped or self._waiting < self._max_bytes)
                    if self._stopped:
                        return
        except BaseException as error:  # noqa: BLE001  raised where the messages are taken
            end = error
        finally:
            self._ready.put(end)
            with self._room:
                self._room.notify()
