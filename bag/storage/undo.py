"""What a writer owes to those who read while it writes: the old contents of every page that it is about to change.

Whoever reads a bag that is being written holds the shared lock of its undo log (`run.h5.undo`), and the writer the
exclusive one for as long as it applies a commit. When it cannot have it, somebody reads: then the writer moves that log
aside (`run.h5.undo.1`...), begins a new one for whoever comes later, and goes on. From then on each commit first
appends to every log that was moved aside the old contents of the pages it changes, of each page once. So all readers
of a log see the same commit, a log is never larger than what that commit refers to, and the writer waits for nobody.
A log that nobody reads any more is removed by the next commit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from struct import Struct

import numpy as np

from bag.storage.disk import PAGE, FileOpener, RawFile, crc32

MAGIC = b"CXUNDO01"
# crc of the rest of the record, number of pages; then their numbers (uint64 each), then the pages
RECORD = Struct("<II")
CRC = COUNT = Struct("<I")


def records(read: Callable[[int, int], bytes], at: int, size: int) -> Iterator[tuple[Sequence[int], bytes, int]]:
    """(page numbers, the pages one behind the other, end) of every whole record of a log of `size` bytes from `at`."""
    while at + RECORD.size <= size:
        crc, count = RECORD.unpack(read(at, RECORD.size))
        end = at + RECORD.size + count * (8 + PAGE)
        if not count or end > size:
            return
        body = read(at + CRC.size, end - at - CRC.size)
        if crc32(body) != crc:
            return
        pages = COUNT.size + 8 * count
        yield np.frombuffer(body, "<u8", count, COUNT.size).tolist(), body[pages:], end
        at = end


def moved_aside(path: Path) -> dict[int, Path]:
    """The logs that were moved aside from `path`, by number."""
    start = f"{path.name}."
    found = [name for name in os.listdir(path.absolute().parent) if name.startswith(start)]
    numbers = (name.removeprefix(start) for name in found)
    return {int(number): path.with_name(start + number) for number in numbers if number.isdecimal()}


class Undo:
    """The undo logs of one bag, as its writer sees them.

    Nobody can begin to read from `attach` or `renew` on until `release`. Where there is no room for a new log, nobody
    can begin to read either, and the writer goes on.

    Args:
        path: the log that new readers take.
        opener: how files are opened.
    """

    def __init__(self, path: Path, opener: FileOpener = RawFile) -> None:
        self.path = path
        self._opener = opener
        self._current: _Log | None = None
        self._next: RawFile | None = None
        self._aside: dict[int, _Log] = {}
        self._held = True

    def attach(self) -> None:
        """Take over the logs of a writer that died, for readers that are still there."""
        for number, path in moved_aside(self.path).items():
            log = _Log(self._opener(path))
            if log.resume():
                self._aside[number] = log
            else:
                log.remove()
        self._retire()
        if self.path.exists():
            self._current = _Log(self._opener(self.path))
            if not self._current.file.try_lock():
                self._move_aside(self._current, None)
        else:
            self._current = self._fresh()

    def prepare(self) -> None:
        """Make a log for `renew`.

        Raises:
            OSError: it cannot be made.
        """
        self._next = self._made()

    def renew(self) -> None:
        """Begin with the log that was prepared; the others are of a bag that is no more."""
        for path in (*moved_aside(self.path).values(), self.path):
            path.unlink(missing_ok=True)
        assert self._next is not None
        self._current = self._placed(self._next)
        self._next = None

    def release(self) -> None:
        """Let others read from now on, while nothing is being changed."""
        self._held = False
        if self._current is not None:
            self._current.file.unlock()

    @property
    def readers(self) -> bool:
        """Whether somebody may still read what a log keeps."""
        return bool(self._aside)

    @contextmanager
    def change(self, pages: Sequence[int], data: RawFile, end: int) -> Iterator[None]:
        """Change these pages (numbers, in order) of the bag within the block; no reader refers to bytes from `end` on.

        Raises:
            OSError: a log can neither be kept nor declared void.
        """
        if not self._held:
            self._shut(end)
        try:
            self._retire()
            for number, log in [*self._aside.items()]:
                try:
                    log.keep(pages, data)
                except OSError:
                    # the disk is full: its readers are told by the empty file, before anything changes
                    log.file.truncate(0)
                    log.remove()
                    del self._aside[number]
            yield
        finally:
            if not self._held and self._current is not None:
                self._current.file.unlock()

    def close(self) -> None:
        """Close all logs; the files stay."""
        for log in (self._current, *self._aside.values()):
            if log is not None:
                log.file.close()
        if self._next is not None:
            self._next.close()
        self._current = self._next = None
        self._aside.clear()

    def remove(self) -> None:
        """Remove all logs from the disk; who reads has them open."""
        for path in (*moved_aside(self.path).values(), self.path, self._part):
            path.unlink(missing_ok=True)

    @property
    def _part(self) -> Path:
        return self.path.with_name(f".{self.path.name}.new")

    # from here on nobody begins to read
    def _shut(self, end: int) -> None:
        if self._current is None:
            self._current = self._fresh()
        elif not self._current.file.try_lock():
            self._move_aside(self._current, end)

    def _move_aside(self, log: _Log, end: int | None) -> None:
        number = 1 + max(self._aside, default=0)
        place = self.path.with_name(f"{self.path.name}.{number}")
        try:
            os.rename(self.path, place)
        except OSError:
            log.file.truncate(0)
            log.remove()
        else:
            log.file.path = place
            log.end_page = None if end is None else -(-end // PAGE)
            self._aside[number] = log
        self._current = self._fresh()

    def _fresh(self) -> _Log | None:
        try:
            return self._placed(self._made())
        except OSError:
            return None

    # locked before anybody can see it
    def _made(self) -> RawFile:
        self._part.unlink(missing_ok=True)
        file = self._opener(self._part, create=True)
        try:
            file.lock()
            file.write_at(0, MAGIC)
        except BaseException:
            file.close()
            raise
        return file

    def _placed(self, file: RawFile) -> _Log:
        os.replace(self._part, self.path)
        file.path = self.path
        return _Log(file)

    def _retire(self) -> None:
        for number, log in [*self._aside.items()]:
            if log.file.try_lock():
                log.remove()
                del self._aside[number]


class _Log:
    """One log; `end_page` bounds the pages that its readers refer to."""

    def __init__(self, file: RawFile) -> None:
        self.file = file
        self.end_page: int | None = None
        self._kept: set[int] = set()
        self._end = len(MAGIC)

    def resume(self) -> bool:
        """Go on behind what an earlier writer kept; False when it was declared void."""
        if self.file.read_at(0, len(MAGIC)) != MAGIC:
            return False
        for numbers, _pages, end in records(self.file.read_at, self._end, self.file.size()):
            self._kept.update(numbers)
            self._end = end
        return True

    def keep(self, pages: Sequence[int], data: RawFile) -> None:
        """Append the pages as they are now, unless they are kept already."""
        bound = self.end_page
        new = [page for page in pages if page not in self._kept and (bound is None or page < bound)]
        if not new:
            return
        contents = []
        for _place, group in groupby(enumerate(new), lambda item: item[1] - item[0]):
            run = [page for _at, page in group]
            size = len(run) * PAGE
            contents.append(data.read_at(run[0] * PAGE, size).ljust(size, b"\0"))
        body = b"".join((COUNT.pack(len(new)), np.array(new, "<u8").tobytes(), *contents))
        self.file.write_at(self._end, CRC.pack(crc32(body)) + body)
        self._end += CRC.size + len(body)
        self._kept.update(new)

    def remove(self) -> None:
        """Remove it from the disk."""
        with suppress(FileNotFoundError):
            self.file.path.unlink()
        self.file.close()
