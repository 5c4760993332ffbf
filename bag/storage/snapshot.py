"""A bag that is being written, as it was at one commit, for as long as it is held open.

The writer changes committed bytes in two ways only: it adds rows to chunks, behind those that the commit refers to, and
it applies later commits, before each of which it appends what it is about to change to the undo log (undo.py) that this
snapshot holds a lock of. So what the commit refers to is: the bytes of the file, with the pages of the log laid over
them, of each page the first. The order matters: first the bytes are read, then what has come to the log since.
"""

from __future__ import annotations

import io
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bag.errors import BagError
from bag.storage.chunks import InputFile
from bag.storage.disk import PAGE, is_at, is_locked, try_shared_lock
from bag.storage.redo import SYNC
from bag.storage.sidecars import JOURNAL, TAIL, UNDO, beside
from bag.storage.superblock import committed_end
from bag.storage.undo import MAGIC, records


class Snapshot(InputFile):
    """The file of a bag as of one commit; `size` is its committed end. See `take_snapshot`.

    Args:
        path: the bag.
        data: its file.
        log: its undo log, whose shared lock is held until both are closed.
    """

    def __init__(self, path: Path, data: io.FileIO, log: io.FileIO) -> None:
        self.path = path
        self._file = data
        self._log = log
        self._pages: dict[int, bytes] = {}
        self._parsed = len(MAGIC)
        self.size = os.fstat(data.fileno()).st_size
        self.size = committed_end(self)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes at `offset`; fewer only where the file ends.

        Raises:
            BagError: the writer had no room to keep what this commit refers to.
        """
        size = max(0, min(size, self.size - offset))
        data = super().read(offset, size)
        self._catch_up()
        first, stop = offset // PAGE, -(-(offset + size) // PAGE)
        if stop - first > len(self._pages):
            kept = [page for page in list(self._pages) if first <= page < stop]
        else:
            kept = [page for page in range(first, stop) if page in self._pages]
        if not kept and len(data) == size:
            return data
        out = bytearray(data.ljust(size, b"\0"))
        for page in kept:
            low, high = max(offset, page * PAGE), min(offset + size, (page + 1) * PAGE)
            out[low - offset : high - offset] = self._pages[page][low - page * PAGE : high - page * PAGE]
        return bytes(out)

    def read_at(self, offset: int, size: int) -> bytes:
        """As `read`."""
        return self.read(offset, size)

    def close(self) -> None:
        """Close the files and give up the lock; a second call does nothing."""
        super().close()
        self._log.close()

    # No lock, which could deadlock with h5py's: two threads may read the same records, and both come to the same.
    def _catch_up(self) -> None:
        size = os.fstat(self._log.fileno()).st_size
        if size < len(MAGIC):
            raise BagError(
                f"{self.path} is being recorded, and there is no room left to keep it as it was when it was opened; "
                f"open it again"
            )
        if size == self._parsed:
            return
        for numbers, pages, end in records(self._read_log, self._parsed, size):
            for place, number in enumerate(numbers):
                self._pages.setdefault(number, pages[place * PAGE : (place + 1) * PAGE])
            self._parsed = end

    def _read_log(self, offset: int, size: int) -> bytes:
        return os.pread(self._log.fileno(), size, offset)


class FileObject(io.RawIOBase):
    """An `InputFile` as the file object that h5py takes."""

    def __init__(self, file: InputFile) -> None:
        self._input = file
        self._position = 0

    def __repr__(self) -> str:
        # the name under which h5py speaks of the file
        return str(self._input.path)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        self._position = offset + (0 if whence == 0 else self._position if whence == 1 else self._input.size)
        return self._position

    def tell(self) -> int:
        """The current place."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the current place; zeros behind the end."""
        view = memoryview(buffer).cast("B")
        data = self._input.read(self._position, view.nbytes)
        view[: len(data)] = data
        view[len(data) :] = bytes(view.nbytes - len(data))
        self._position += view.nbytes
        return view.nbytes

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True


def take_snapshot(path: Path, *, recorder: bool = True) -> Snapshot | None:
    """The bag as of its last commit; None when that cannot be had at this moment.

    Args:
        path: the bag, beside which there are sidecars.
        recorder: only while a recorder is at work; not while another process mends the bag.

    Raises:
        BagFormatError: it is not a bag.
        OSError: the bag or its undo log may not be read.
    """
    with ExitStack() as opened:
        try:
            log = opened.enter_context(io.FileIO(beside(path, UNDO)))
            locked = try_shared_lock(log)
            data = opened.enter_context(io.FileIO(path))
            if not locked or not _is_consistent(path, data, log, alive=recorder):
                return None
            if recorder and not is_locked(beside(path, TAIL)):
                return None
        except FileNotFoundError:
            return None
        snapshot = Snapshot(path, data, log)
        opened.pop_all()
        return snapshot


# While the lock is held and the journal is empty, the file is as of its last commit: a writer that is alive has this
# log locked while it applies one, and one that died on the way left its journal. While a commit is on its way to the
# device, its pages stand in the journal and in the file.
def _is_consistent(path: Path, data: io.FileIO, log: io.FileIO, *, alive: bool) -> bool:
    return (
        # in this order: what is there after the bag was opened, was there when it was
        is_at(log, beside(path, UNDO))
        and is_at(data, path)
        and _journal_magic(beside(path, JOURNAL)) in ((b"", SYNC) if alive else (b"",))
        and os.pread(log.fileno(), len(MAGIC) + 1, 0) == MAGIC
    )


def _journal_magic(path: Path) -> bytes:
    with path.open("rb", buffering=0) as journal:
        return journal.read(len(SYNC))
