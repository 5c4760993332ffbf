"""Where HDF5's superblock states the end of the file: all of the file format that storage knows beside HDF5."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Protocol

from bag.errors import BagFormatError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
END = struct.Struct("<Q")
# by the version of the superblock (HDF5 File Format Specification III.A)
END_PLACE = {0: 40, 1: 44}


class Readable(Protocol):
    """A file that can be read by offset."""

    path: Path

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`."""
        ...


def committed_end(data: Readable) -> int:
    """End of file that the HDF5 superblock states.

    Raises:
        BagFormatError: there is no superblock of version 0 or 1.
    """
    end: int = END.unpack(data.read_at(_end_place(data), END.size))[0]
    return end


def end_of_file(data: Readable, end: int) -> tuple[int, memoryview]:
    """What must be written, and where, to make the superblock state another end."""
    return _end_place(data), memoryview(END.pack(end))


def _end_place(data: Readable) -> int:
    head = data.read_at(0, 64)
    # byte 13: size of offsets
    if len(head) < 64 or head[:8] != SIGNATURE or head[8] not in END_PLACE or head[13] != END.size:
        raise BagFormatError(f"{data.path} is not a bag: it does not begin with the HDF5 superblock that bags have")
    return END_PLACE[head[8]]
