"""Room that the disk sets aside ahead of what is appended to a file: block by block, it costs a quarter more."""

from __future__ import annotations

from bag.storage.disk import RawFile

# smaller writes are few bytes in all
LEAST_BYTES = 64 << 10
# not more at once: for as long as it is set aside nobody else has it, and who is killed leaves it so
MOST_BYTES = 32 << 20
# where less than so many times that is free, others need it more
SHARE = 32


class Room:
    """Asks for room ahead of the end of one file, never for more than the file is long."""

    def __init__(self, file: RawFile) -> None:
        self._file = file
        self._end = 0
        self._possible = True

    def prepare(self, start: int, size: int) -> None:
        """`size` bytes are about to be written at `start`."""
        end = start + size
        if self._possible and size >= LEAST_BYTES and end > self._end:
            ahead = max(size, min(end, MOST_BYTES))
            # asked for again only behind it, whatever became of it
            self._end = start + ahead
            if self._file.free_bytes() >= SHARE * ahead:
                self._possible = self._file.reserve(start, ahead)

    def given_back(self, size: int) -> None:
        """The file was cut at `size` bytes, and what was set aside behind that with it."""
        self._end = min(self._end, size)
