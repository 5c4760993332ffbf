"""Atomic commits below HDF5: a file object that never harms what was committed before.

HDF5 overwrites its own bookkeeping in place, and a crash between two such writes can make the whole file
unreadable. `CommitFile` stands under h5py's `fileobj` driver and sorts every write by where it goes:

* beyond the end of the last commit: straight to the file, since nothing committed refers to it;
* into committed bytes: kept in memory, in pages of 512 bytes (the overlay).

`commit()` writes the overlay with a CRC to a sidecar journal (redo.py), applies it to the file, and empties the
journal. So at every moment either the old commit is whole in the file, or the new one is whole in the journal. Opening
applies a complete journal, ignores a torn one, and what lies beyond the committed end is nobody's. For who reads the
file meanwhile, undo.py keeps what is overwritten.

A commit is safe from the death of the process. `sync()` brings the last one to the device: from the moment its journal
is there, it is safe from a power cut, as long as the kernel writes nothing of later commits by itself.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from bag.errors import IntegrityError
from bag.storage.disk import PAGE, Buffer, RawFile
from bag.storage.redo import COMMIT, Sync, encode, write_pages
from bag.storage.room import Room
from bag.storage.superblock import end_of_file
from bag.storage.undo import Undo

# pages of earlier commits that are kept in memory: the same ones change with every commit
KEPT_PAGES = 16 << 10


class CommitFile:
    """File object for h5py's `fileobj` driver whose state on disk changes only by `commit()`.

    HDF5 never meets an error of the disk, which could leave it half done: the error is kept, everything written later
    stays in memory, and the error is raised by the next call of storage (`put_chunk`, `commit`, `check`).

    Args:
        data: the bag file.
        journal: its sidecar.
        committed: length of the committed file in bytes; 0 for a new file.
        reserved: bytes of the file that must not be overwritten although they lie beyond the committed end.
        undo: keeps what is overwritten for who reads; None while nobody can.
    """

    def __init__(
        self,
        data: RawFile,
        journal: RawFile,
        *,
        committed: int = 0,
        reserved: int = 0,
        undo: Undo | None = None,
    ) -> None:
        self.data = data
        self.journal = journal
        self.undo = undo
        self.committed = committed
        self.size = max(committed, reserved)
        # nothing below is written to directly; a reader may refer to all that was ever committed, though HDF5 has
        # given up the end of it since
        self.base = _round_up(max(committed, data.size() if undo is not None and undo.readers else 0))
        self.error: BaseException | None = None
        self.dead = False
        self._pages: dict[int, bytearray] = {}
        # pages as they stand in the file, so that changing them once more need not read them
        self._kept: dict[int, bytearray] = {}
        self._position = 0
        # address and useful bytes of the chunk being put, and where HDF5 put it
        self._chunk: tuple[int, int] | None = None
        self._chunk_offset = -1
        # pages of HDF5 and the book that changed since the last sync, and the least and greatest end meanwhile
        self._unsynced: set[int] = set()
        self._ends = (committed, committed)
        self._sync: Sync | None = None
        self._room = Room(data)
        if reserved > committed:
            # HDF5 allocates behind the end that the superblock states
            self._to_overlay(*end_of_file(data, reserved))

    def __repr__(self) -> str:
        # the name under which h5py speaks of the file
        return str(self.data.path)

    # --- what h5py's driver calls

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position as io.IOBase.seek does."""
        self._position = offset if whence == 0 else (self._position if whence == 1 else self.size) + offset
        return self._position

    def tell(self) -> int:
        """Position in bytes."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` from the position: the file with the overlay laid over it, zeros where nothing was written."""
        view = memoryview(buffer).cast("B")
        data = self.data.read_at(self._position, view.nbytes)
        view[: len(data)] = data
        view[len(data) :] = bytes(view.nbytes - len(data))
        if self._pages:
            self._lay_over(view, self._position)
        self._position += view.nbytes
        return view.nbytes

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes (-1 = all), as `readinto`."""
        buffer = bytearray(max(0, self.size - self._position) if size < 0 else size)
        self.readinto(memoryview(buffer))
        return bytes(buffer)

    def write(self, data: Buffer) -> int:
        """Write at the position, to the file or to the overlay."""
        view = memoryview(data).cast("B")
        start, size = self._position, view.nbytes
        self._position = start + size
        self.size = max(self.size, start + size)
        if self._chunk is not None and _address(view) == self._chunk[0]:
            self._chunk_offset = start
            # space freed since the last commit may still be referred to by it: there the whole chunk waits
            if start >= self.base:
                view = view[: self._chunk[1]]
        else:
            self._unsynced.update(_pages_of(start, size))
        try:
            self._store(start, view)
        except BaseException as error:  # noqa: BLE001  raised by `check`
            self.abandon(error)
            self._store(start, view)
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the length HDF5 believes in; committed bytes are never cut off."""
        self.size = self._position if size is None else size
        try:
            if not self.dead and self.size >= self.base:
                self.data.truncate(self.size)
                self._room.given_back(self.size)
        except BaseException as error:  # noqa: BLE001  raised by `check`
            self.abandon(error)
        return self.size

    def flush(self) -> None:
        """Nothing to do: `commit()` decides what becomes visible."""

    # --- what storage calls

    def put_chunk(
        self,
        dataset: Any,
        coordinate: tuple[int, ...],
        chunk: Buffer,
        useful: int,
        mask: int = 0,
        *,
        vital: bool = False,
    ) -> int:
        """Write a whole chunk of an h5py `DatasetID` and return its offset in the file.

        Only the first `useful` bytes are sent to the file; the rest is space for `fill`. Each bit of `mask` names a
        filter of the dataset that the chunk did not pass. Without what is `vital` the bag cannot be read.
        """
        self._chunk, self._chunk_offset = (_address(memoryview(chunk)), useful), -1
        try:
            dataset.write_direct_chunk(coordinate, chunk, mask)
        finally:
            self._chunk = None
        self.check()
        if self._chunk_offset < 0:
            raise IntegrityError("HDF5 did not hand the chunk to the file as it was; the bag cannot be written")
        if vital:
            self._unsynced.update(_pages_of(self._chunk_offset, useful))
        return self._chunk_offset

    def fill(self, offset: int, data: Buffer, *, vital: bool = False) -> None:
        """Write bytes that nothing committed refers to, inside a chunk already allocated at `offset`."""
        view = memoryview(data).cast("B")
        if vital:
            self._unsynced.update(_pages_of(offset, view.nbytes))
        if self.dead or offset >= self.base:
            self._store(offset, view)
            return
        pages = _pages_of(offset, view.nbytes)
        for page in self._kept.keys() & pages:
            del self._kept[page]
        if self._pages.keys().isdisjoint(pages):
            self.data.write_at(offset, view)
            return
        for page in pages:
            start = max(offset, page * PAGE)
            part = view[start - offset : (page + 1) * PAGE - offset]
            if page in self._pages:
                self._to_overlay(start, part)
            else:
                self.data.write_at(start, part)

    def in_file(self, offset: int) -> bool:
        """Whether bytes written at `offset` since the last commit are already in the file, not in the overlay."""
        return offset >= self.base

    def commit(self, *, sync: bool = False) -> None:
        """Make everything written so far the committed state, atomically; `sync` also against a power cut."""
        for _part in self.commit_parts(sync=sync):
            pass

    def commit_parts(self, *, sync: bool = False) -> Generator[None]:
        """The same in parts, of which each takes a few ms; until the last one HDF5 and `fill` must not write.

        Raises:
            OSError: the disk failed; what is committed stays as it was.
        """
        self.check()
        if self.dead:
            return
        try:
            self.finish_sync()
            yield from self._commit()
            if sync:
                self._begin_sync().run()
        except BaseException as error:
            # half applied: only the journal is whole now, and nothing may be written over it
            self.abandon(error)
            raise

    def sync_behind(self) -> None:
        """Bring the last commit to the device in another thread; a commit waits for it."""
        if not self.dead:
            self.finish_sync()
            self._sync = self._begin_sync()
            self._sync.start()

    @property
    def syncing(self) -> bool:
        """Whether a commit would have to wait for the device."""
        return self._sync is not None and self._sync.running

    def finish_sync(self) -> None:
        """Wait for what `sync_behind` began.

        Raises:
            OSError: the disk failed.
        """
        if self._sync is not None:
            self._sync.wait()
            self._sync = None

    def sync_alone(self) -> None:
        """Bring a file that nobody can have yet to the device, without the journal."""
        self.data.sync()
        self._unsynced.clear()
        self._ends = (self.committed, self.committed)

    def _begin_sync(self) -> Sync:
        numbers = sorted(number for number in self._unsynced if number * PAGE < self.committed)
        # what is not committed yet belongs to the next one
        self._unsynced = {number for number in self._unsynced if (number + 1) * PAGE > self.committed}
        self._unsynced.update(self._pages)
        ends, self._ends = self._ends, (self.committed, self.committed)
        return Sync(self.data, self.journal, ends, numbers)

    def check(self) -> None:
        """Raise the error that HDF5 was spared."""
        if self.error is not None:
            raise self.error

    def abandon(self, error: BaseException | None = None) -> None:
        """Keep all later writes in memory: the file stays as the last commit left it."""
        self.dead = True
        self.error = self.error or error

    def _commit(self) -> Generator[None]:
        if self.data.size() < self.size:
            self.data.truncate(self.size)
        # what HDF5 has given up at the end is nothing to apply
        pages = sorted(item for item in self._pages.items() if item[0] * PAGE < self.size)
        numbers = [number for number, _page in pages]
        yield
        journal = encode(COMMIT, self.committed, self.size, pages)
        yield
        with self._changing(numbers):
            if pages:
                self.journal.write_at(0, journal)
                yield
                # at once, since other tools than ours may read the file meanwhile
                write_pages(self.data, pages)
                yield
                self.journal.truncate(0)
        if len(self._kept) + len(pages) > KEPT_PAGES:
            self._kept.clear()
        self._kept.update(pages[:KEPT_PAGES])
        self._pages.clear()
        self.committed = self.size
        self.base = max(self.base, _round_up(self.size))
        self._ends = (min(self._ends[0], self.size), max(self._ends[1], self.size))

    def cut(self) -> None:
        """Give up what lies behind the committed end of the file."""
        with self._changing(range(self.committed // PAGE, self.base // PAGE)):
            self.data.truncate(self.committed)

    def _changing(self, pages: Sequence[int]) -> AbstractContextManager[None]:
        return nullcontext() if self.undo is None else self.undo.change(pages, self.data, self.base)

    def _store(self, start: int, view: memoryview) -> None:
        waits = view.nbytes if self.dead else min(view.nbytes, max(0, self.base - start))
        if waits:
            self._to_overlay(start, view[:waits])
        if waits < view.nbytes:
            self._room.prepare(start + waits, view.nbytes - waits)
            self.data.write_at(start + waits, view[waits:])

    def _to_overlay(self, offset: int, view: memoryview) -> None:
        done = 0
        for number in _pages_of(offset, view.nbytes):
            at = max(0, offset - number * PAGE)
            size = min(PAGE - at, view.nbytes - done)
            page = self._pages.get(number)
            if page is None:
                page = self._kept.pop(number, None)
                if page is None:
                    page = bytearray(self.data.read_at(number * PAGE, PAGE).ljust(PAGE, b"\0"))
                self._pages[number] = page
            page[at : at + size] = view[done : done + size]
            done += size

    def _lay_over(self, view: memoryview, offset: int) -> None:
        for number in _pages_of(offset, view.nbytes):
            page = self._pages.get(number)
            if page is not None:
                low = max(offset, number * PAGE)
                high = min(offset + view.nbytes, (number + 1) * PAGE)
                view[low - offset : high - offset] = page[low - number * PAGE : high - number * PAGE]


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])


def _round_up(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _pages_of(offset: int, size: int) -> range:
    return range(offset // PAGE, -(-(offset + size) // PAGE))
