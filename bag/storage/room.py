"""Room that the disk sets aside ahead of what is appended to a file: block by block, it costs a quarter more."""

from __future__ import annotations

from bag.storage.disk import RawFile

# less would be asked for too often
LEAST_BYTES = 4 << 20
# not more at once: for as long as it is set aside nobody else has it, and who is killed leaves it so
MOST_BYTES = 32 << 20
# where less than so many times that is free, others need it more
SHARE = 32


class Room:
    """Asks for room ahead of the end of one file: as much as came since the file was last cut, but for what is little.

    A cut gives back what is ahead, so that where little comes between two of them, it would be asked for in vain.
    """

    def __init__(self, file: RawFile) -> None:
        self._file = file
        self._end = 0
        self._came = 0
        self._possible = file.on_disk

    def prepare(self, start: int, size: int) -> None:
        """`size` bytes are about to be written at `start`."""
        end = start + size
        self._came += size
        ahead = min(self._came, MOST_BYTES)
        if self._possible and ahead >= LEAST_BYTES and end > self._end:
            # asked for again only behind it, whatever became of it
            self._end = end + ahead
            try:
                if self._file.free_bytes() >= SHARE * ahead:
                    self._possible = self._file.reserve(start, size + ahead)
            except (OSError, ImportError):
                self._possible = False

    def given_back(self, size: int) -> None:
        """The file was cut at `size` bytes, and what was set aside behind that with it."""
        self._end = min(self._end, size)
        self._came = 0
