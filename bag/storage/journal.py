"""Atomic commits below HDF5: a file object that never harms what was committed before.

HDF5 overwrites its own bookkeeping in place, and a crash between two such writes can make the whole file
unreadable. `CommitFile` stands under h5py's `fileobj` driver and sorts every write by where it goes:

* beyond the end of the last commit: straight to the file, since nothing committed refers to it;
* into committed bytes: kept in memory, in pages of 512 bytes (the overlay).

`commit()` writes the overlay with a CRC to a sidecar journal, applies it to the file, and empties the journal. So
at every moment either the old commit is whole in the file, or the new one is whole in the journal. Opening applies a
complete journal (`apply_journal`), ignores a torn one, and cuts the file back to its committed end.

What it cannot promise: after a power cut the file is as old as the last commit with `sync=True`.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from bag.errors import BagFormatError, IntegrityError
from bag.storage.disk import Buffer, RawFile, crc32

PAGE = 512
MAGIC = b"CXJRNL01"
# magic, end of the committed file, number of pages
HEAD = struct.Struct("<8sQI")
CRC = struct.Struct("<I")
SIGNATURE = b"\x89HDF\r\n\x1a\n"


class CommitFile:
    """File object for h5py's `fileobj` driver whose state on disk changes only by `commit()`.

    Args:
        data: the bag file.
        journal: its sidecar.
        committed: length of the committed file in bytes; 0 for a new file.
    """

    def __init__(self, data: RawFile, journal: RawFile, *, committed: int = 0) -> None:
        self.data = data
        self.journal = journal
        self.size = committed
        self.base = _round_up(committed)
        self.dead = False
        self._pages: dict[int, bytearray] = {}
        self._position = 0
        # address and useful bytes of the chunk being put, and where HDF5 put it
        self._chunk: tuple[int, int] | None = None
        self._chunk_offset = -1

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
        if self._pages and self._position < self.base:
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
        self._position = end = start + size
        if self._chunk is not None and _address(view) == self._chunk[0]:
            self._chunk_offset = start
            # space freed since the last commit may still be referred to by it: there the whole chunk waits
            if start >= self.base:
                view = view[: self._chunk[1]]
        if self.dead:
            return size
        committed = min(view.nbytes, max(0, self.base - start))
        if committed:
            self._to_overlay(start, view[:committed])
        if committed < view.nbytes:
            self.data.write_at(start + committed, view[committed:])
        self.size = max(self.size, end)
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the length HDF5 believes in; committed bytes are never cut off."""
        self.size = self._position if size is None else size
        if not self.dead and self.size >= self.base:
            self.data.truncate(self.size)
        return self.size

    def flush(self) -> None:
        """Nothing to do: `commit()` decides what becomes visible."""

    # --- what storage calls

    def put_chunk(self, dataset: Any, coordinate: tuple[int, ...], chunk: Buffer, useful: int) -> int:
        """Write a whole chunk of an h5py `DatasetID` and return its offset in the file.

        Only the first `useful` bytes are sent to the file; the rest is space for `fill`.
        """
        self._chunk, self._chunk_offset = (_address(memoryview(chunk)), useful), -1
        try:
            dataset.write_direct_chunk(coordinate, chunk)
        finally:
            self._chunk = None
        if self._chunk_offset < 0:
            raise IntegrityError("HDF5 did not hand the chunk to the file as it was; the bag cannot be written")
        return self._chunk_offset

    def fill(self, offset: int, data: Buffer) -> None:
        """Write bytes that nothing committed refers to, inside a chunk already allocated at `offset`."""
        view = memoryview(data).cast("B")
        if self.dead:
            return
        waiting = {page for page in _pages_of(offset, view.nbytes) if page in self._pages} if offset < self.base else set()
        if not waiting:
            self.data.write_at(offset, view)
            return
        for page in _pages_of(offset, view.nbytes):
            start = max(offset, page * PAGE)
            part = view[start - offset : (page + 1) * PAGE - offset]
            if page in waiting:
                self._to_overlay(start, part)
            else:
                self.data.write_at(start, part)

    def in_file(self, offset: int) -> bool:
        """Whether bytes written at `offset` since the last commit are already in the file, not in the overlay."""
        return offset >= self.base

    def commit(self, *, sync: bool = False) -> None:
        """Make everything written so far the committed state, atomically; `sync` also survives a power cut."""
        if self.dead:
            return
        if sync:
            self.data.sync()
        if self._pages:
            pages = sorted(self._pages.items())
            body = b"".join(part for number, page in pages for part in (struct.pack("<Q", number), page))
            blob = HEAD.pack(MAGIC, self.size, len(pages)) + body
            self.journal.write_at(0, blob + CRC.pack(crc32(blob)))
            if sync:
                self.journal.sync()
            for number, page in pages:
                self.data.write_at(number * PAGE, page)
            if sync:
                self.data.sync()
            self.journal.truncate(0)
            self._pages.clear()
        self.base = _round_up(self.size)

    def abandon(self) -> None:
        """Swallow all later writes: the file stays as the last commit left it."""
        self.dead = True
        self._pages.clear()

    def _to_overlay(self, offset: int, view: memoryview) -> None:
        done = 0
        for number in _pages_of(offset, view.nbytes):
            at = max(0, offset - number * PAGE)
            size = min(PAGE - at, view.nbytes - done)
            page = self._pages.get(number)
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


def apply_journal(data: RawFile, journal: RawFile) -> bool:
    """Bring the file to its last commit: apply a complete journal, empty a torn one; True when one was applied."""
    blob = journal.read_at(0, journal.size())
    pages = _complete_pages(blob)
    for number, page in pages:
        data.write_at(number * PAGE, page)
    if pages:
        end: int = HEAD.unpack_from(blob)[1]
        if data.size() < end:
            data.truncate(end)
    if blob:
        journal.truncate(0)
    return bool(pages)


def _complete_pages(blob: bytes) -> list[tuple[int, bytes]]:
    if len(blob) < HEAD.size + CRC.size:
        return []
    magic, _end, count = HEAD.unpack_from(blob)
    size = HEAD.size + count * (8 + PAGE)
    if magic != MAGIC or len(blob) < size + CRC.size or CRC.unpack_from(blob, size)[0] != crc32(blob[:size]):
        return []
    starts = range(HEAD.size, size, 8 + PAGE)
    return [(struct.unpack_from("<Q", blob, at)[0], blob[at + 8 : at + 8 + PAGE]) for at in starts]


def committed_end(data: RawFile, path: Path) -> int:
    """End of file that the HDF5 superblock states (version 0 or 1, HDF5 File Format Specification III.A).

    Raises:
        BagFormatError: there is no such superblock.
    """
    head = data.read_at(0, 64)
    if len(head) < 64 or head[:8] != SIGNATURE or head[8] > 1 or head[13] != 8:
        raise BagFormatError(f"{path} is not a bag: it does not begin with the HDF5 superblock that bags have")
    at = 40 if head[8] == 0 else 44
    end: int = struct.unpack_from("<Q", head, at)[0]
    return end




def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def _round_up(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _pages_of(offset: int, size: int) -> range:
    return range(offset // PAGE, -(-(offset + size) // PAGE))
