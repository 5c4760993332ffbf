"""The journal: pages that bring a file to a commit, whole beside it before the first of them changes in it.

It serves twice. A commit writes the pages it changes (`COMMIT`), applies them, and empties it. And when the last commit
is brought to the device, all pages that changed since the last time stand in it meanwhile (`SYNC`): the device may take
them in any order, and of some an older state, but after a power cut the journal has them all.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import groupby

from bag.errors import BagFormatError
from bag.storage.disk import PAGE, Buffer, RawFile, crc32
from bag.storage.superblock import committed_end
from bag.storage.undo import Undo

COMMIT, SYNC = b"CXJRNL01", b"CXJRNL02"
# magic, committed end of the file before and after (SYNC: the least and the greatest since), number of pages
HEAD = struct.Struct("<8sQQI")
PAGE_NUMBER = struct.Struct("<Q")
CRC = struct.Struct("<I")

Pages = Sequence[tuple[int, Buffer]]

logger = logging.getLogger(__name__)


def encode(magic: bytes, before: int, after: int, pages: Pages) -> bytes:
    """A whole journal."""
    head = HEAD.pack(magic, before, after, len(pages))
    blob = b"".join((head, *(piece for number, page in pages for piece in (PAGE_NUMBER.pack(number), page))))
    return blob + CRC.pack(crc32(blob))


class Sync:
    """Brings a commit to the device, in a thread of its own or not; nothing may be committed before `wait` returned.

    Args:
        data: the bag file.
        journal: its journal, empty.
        ends: the least and the greatest committed end since the last time, in bytes.
        pages: numbers of the pages that changed since, in order; they stand in the journal meanwhile.
    """

    def __init__(self, data: RawFile, journal: RawFile, ends: tuple[int, int], pages: Sequence[int]) -> None:
        self._data, self._journal, self._ends, self._pages = data, journal, ends, pages
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Do it in a thread."""
        self._thread = threading.Thread(target=self._run, name="bag sync", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Wait for the thread.

        Raises:
            OSError: the disk failed.
        """
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        """Do it now.

        Raises:
            OSError: the disk failed.
        """
        if self._pages:
            # what is written to them meanwhile are rows that nothing committed refers to
            self._journal.write_at(0, encode(SYNC, *self._ends, _read_pages(self._data, self._pages)))
            self._journal.sync()
        self._data.sync()
        if self._pages:
            self._journal.truncate(0)
            # a journal that came back after a power cut would undo later commits
            self._journal.sync()

    def _run(self) -> None:
        try:
            self.run()
        except BaseException as error:  # noqa: BLE001  raised by `wait`
            self._error = error


def apply_journal(data: RawFile, journal: RawFile, undo: Undo | None = None) -> bool:
    """Bring the file to its last commit: apply a complete journal, empty a torn one; True when one was applied.

    `undo` is for who still reads the file as the writer that died had left it.

    Raises:
        BagFormatError: the journal belongs to another file.
    """
    blob = journal.read_at(0, journal.size())
    pages = _complete_pages(blob)
    if pages:
        magic, before, after, _count = HEAD.unpack_from(blob)
        end = committed_end(data)
        if not (before <= end <= after if magic == SYNC else end in (before, after)):
            raise BagFormatError(
                f"{journal.path} does not belong to {data.path}, which was replaced meanwhile; move the journal away"
            )
        if magic == SYNC and _is_from_before_the_last_start(journal) and _differ(data, pages):
            logger.warning(
                "the power failed while %s was brought to the disk; what came in the last seconds before may be "
                "damaged, which this will tell: cortex bag verify %s",
                data.path,
                data.path,
            )
        numbers = [number for number, _page in pages]
        with nullcontext() if undo is None else undo.change(numbers, data, data.size()):
            write_pages(data, pages)
        end = after if magic == COMMIT else committed_end(data)
        if data.size() < end:
            data.truncate(end)
        data.sync()
    if blob:
        journal.truncate(0)
    return bool(pages)


# of a process that died alone, the pages are all in the file
def _is_from_before_the_last_start(file: RawFile) -> bool:
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return os.stat(file.path).st_mtime < started


def _differ(data: RawFile, pages: Pages) -> bool:
    return any(data.read_at(number * PAGE, PAGE).ljust(PAGE, b"\0") != bytes(page) for number, page in pages)


def _complete_pages(blob: bytes) -> list[tuple[int, Buffer]]:
    if len(blob) < HEAD.size + CRC.size:
        return []
    magic, before, after, count = HEAD.unpack_from(blob)
    step = PAGE_NUMBER.size + PAGE
    size = HEAD.size + count * step
    if magic not in (COMMIT, SYNC) or len(blob) < size + CRC.size:
        return []
    if CRC.unpack_from(blob, size)[0] != crc32(blob[:size]):
        return []
    starts = range(HEAD.size, size, step)
    pages: list[tuple[int, Buffer]] = [
        (PAGE_NUMBER.unpack_from(blob, at)[0], blob[at + PAGE_NUMBER.size : at + step]) for at in starts
    ]
    return pages if all(number * PAGE < max(before, after) for number, _page in pages) else []


# neighbours in one call, here and below
def _read_pages(data: RawFile, numbers: Sequence[int]) -> list[tuple[int, Buffer]]:
    pages: list[tuple[int, Buffer]] = []
    for _place, group in groupby(enumerate(numbers), lambda item: item[1] - item[0]):
        run = [number for _at, number in group]
        content = data.read_at(run[0] * PAGE, len(run) * PAGE).ljust(len(run) * PAGE, b"\0")
        pages.extend((number, content[at * PAGE : (at + 1) * PAGE]) for at, number in enumerate(run))
    return pages


def write_pages(data: RawFile, pages: Pages) -> None:
    """Put pages in their places."""
    for _place, group in groupby(enumerate(pages), lambda item: item[1][0] - item[0]):
        run = [page for _at, page in group]
        data.write_at(run[0][0] * PAGE, b"".join(page for _number, page in run))
