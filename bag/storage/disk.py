"""The few system calls that storage makes, behind one small class, so that a test can watch or stop every write."""

from __future__ import annotations

import fcntl
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

try:
    from isal.isal_zlib import crc32
except ImportError:  # the same polynomial, only slower
    from zlib import crc32

__all__ = [
    "PAGE",
    "Buffer",
    "FileOpener",
    "RawFile",
    "crc32",
    "is_at",
    "is_locked",
    "sync_directory",
    "try_shared_lock",
]

Buffer = bytes | bytearray | memoryview

# what is committed changes by pages of so many bytes
PAGE = 512
# what surely may wait on a computer that records
CAREFUL_BYTES = 128 << 20
# more pieces in one call are refused by the system (IOV_MAX)
MAX_PIECES = 512
# of Linux's fallocate(2)
KEEP_SIZE = 1


class RawFile:
    """An open file addressed by offset only; every write is complete or raises OSError.

    Args:
        path: file to open for reading and writing.
        create: make the file when it is not there.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        extra = os.O_CREAT if create else 0
        # a Python file, so that one that was dropped is closed and its lock given up
        self._file = open(  # noqa: SIM115
            path, "r+b", buffering=0, opener=lambda name, flags: os.open(name, flags | extra, 0o644)
        )

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write all of `data` at `offset` (bytes)."""
        view = memoryview(data)
        while view:
            done = os.pwrite(self._file.fileno(), view, offset)
            offset += done
            view = view[done:]

    def write_pieces_at(self, offset: int, pieces: Sequence[Buffer]) -> int:
        """Write `pieces` one behind the other at `offset`; returns the bytes written."""
        start = offset
        for first in range(0, len(pieces), MAX_PIECES):
            group = pieces[first : first + MAX_PIECES]
            size = sum(map(len, group))
            done = os.pwritev(self._file.fileno(), group, offset)
            if done != size:
                self.write_at(offset + done, b"".join(group)[done:])
            offset += size
        return offset - start

    def read_at(self, offset: int, size: int) -> bytes:
        """Read up to `size` bytes at `offset`; shorter only at the end of the file."""
        data = os.pread(self._file.fileno(), size, offset)
        while data and len(data) < size:
            more = os.pread(self._file.fileno(), size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    @property
    def on_disk(self) -> bool:
        """Whether it lies on a device of its own; not in memory, on the network, or in a layer over other files."""
        return os.major(os.fstat(self._file.fileno()).st_dev) != 0

    def free_bytes(self) -> int:
        """Bytes its disk has left for us."""
        disk = os.fstatvfs(self._file.fileno())
        return disk.f_bavail * disk.f_frsize

    def reserve(self, offset: int, size: int) -> bool:
        """Have the disk set room aside for `size` bytes at `offset`, whatever the file's length; False: it does not.

        Blocks that are there cost the kernel a quarter less processor time to write to. What lies behind the end of the
        file is given back by `truncate`.
        """
        fallocate = _fallocate()
        return fallocate is not None and bool(fallocate(self._file.fileno(), KEEP_SIZE, offset, size) == 0)

    def truncate(self, size: int) -> None:
        """Make the file exactly `size` bytes long."""
        os.ftruncate(self._file.fileno(), size)

    def size(self) -> int:
        """Length of the file in bytes."""
        return os.fstat(self._file.fileno()).st_size

    def sync(self) -> None:
        """Bring the data to the device."""
        os.fdatasync(self._file.fileno())

    def try_lock(self) -> bool:
        """Take the exclusive lock of this file; False when somebody else holds it."""
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def lock(self) -> None:
        """Take the exclusive lock of this file; waits for whoever holds it."""
        fcntl.flock(self._file.fileno(), fcntl.LOCK_EX)

    def unlock(self) -> None:
        """Give up the lock of this file."""
        fcntl.flock(self._file.fileno(), fcntl.LOCK_UN)

    def is_at(self, path: Path) -> bool:
        """Whether a path leads to this file (and not to nothing or another)."""
        return is_at(self._file, path)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()


# os.posix_fallocate would make the file longer; to look for the function takes longer than to call it
@functools.cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    import ctypes

    found = getattr(ctypes.CDLL(None), "fallocate64", None)
    if found is not None:
        found.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return found


class Opened(Protocol):
    """An open file of the system."""

    def fileno(self) -> int:
        """Its number."""
        ...


class FileOpener(Protocol):
    """How storage opens its files; `RawFile` itself, or a test's stand-in."""

    def __call__(self, path: Path, *, create: bool = False) -> RawFile:
        """Open `path` for reading and writing."""
        ...


def is_at(file: Opened, path: Path) -> bool:
    """Whether a path leads to an open file (and not to nothing or another)."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def try_shared_lock(file: Opened) -> bool:
    """Take a shared lock of an open file, until it is closed; False when somebody holds the exclusive one."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether somebody holds the exclusive lock of a file; nobody does when there is none.

    Raises:
        OSError: it may not be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return not try_shared_lock(file)
    except FileNotFoundError:
        return False


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable (after a create, rename or unlink)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def free_bytes(path: Path) -> int:
    """Bytes the disk of `path` has left for us."""
    disk = os.statvfs(path.absolute().parent)
    return disk.f_bavail * disk.f_frsize


def writeback_begins(proc: Path = Path("/proc")) -> int:
    """Bytes that may wait to be written before the kernel begins to write them by itself, in an order of its own.

    As the kernel's Documentation/admin-guide/sysctl/vm.rst says of dirty_background_bytes and dirty_background_ratio;
    elsewhere a careful guess.
    """
    try:
        stated = int((proc / "sys/vm/dirty_background_bytes").read_text())
        ratio = int((proc / "sys/vm/dirty_background_ratio").read_text())
        lines = (proc / "meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) << 10
    except (OSError, ValueError, IndexError, StopIteration):
        return CAREFUL_BYTES
    return stated or available * ratio // 100
