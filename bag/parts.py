"""The files behind an open bag: one or several splits, on disk or in object storage, put in order on one time line.

A file is opened again by itself in a process that inherited it (HDF5 must not be shared across a fork), and a value
that was sent to another process carries the names of the files only.
"""

from __future__ import annotations

import gc
import glob
import io
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bag.errors import BagError, MissingExtraError
from bag.series import arrange
from bag.storage.bulk import RemoteBagReader
from bag.storage.reader import BagReader
from bag.storage.topic_reader import TopicReader

Source: TypeAlias = "str | os.PathLike[str] | Iterable[str | os.PathLike[str]]"

# a range read from object storage costs a round trip, so ask for more than the few bytes HDF5 wants
REMOTE_BLOCK = 4 << 20


def is_url(text: str) -> bool:
    """Whether this names something that fsspec opens."""
    return "://" in text


def expand(source: Source) -> tuple[str, ...]:
    """The files a path, URL, glob or list of them names, sorted within a glob.

    Raises:
        FileNotFoundError: a glob matches nothing, or the list is empty.
    """
    if not isinstance(source, (str, os.PathLike)):
        found = tuple(name for item in source for name in expand(item))
        if not found:
            raise FileNotFoundError("the list of bags is empty")
        return found
    text = os.fspath(source)
    if not any(char in text for char in "*?[") or (not is_url(text) and os.path.exists(text)):
        return (text,)
    matched = _glob_url(text) if is_url(text) else sorted(glob.glob(text, recursive=True))
    if not matched:
        raise FileNotFoundError(f"no bag matches {text}")
    return tuple(matched)


def _glob_url(text: str) -> list[str]:
    filesystem, path = filesystem_of(text)
    protocol = text.split("://", 1)[0]
    return sorted(f"{protocol}://{name}" for name in filesystem.glob(path))


def filesystem_of(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it.

    Raises:
        MissingExtraError: fsspec, or what it needs for this kind of URL, is not installed.
    """
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]

        found: tuple[Any, str] = url_to_fs(url)
    except ImportError as error:
        raise MissingExtraError(f"Opening {url}", "remote") from error
    return found


class Part:
    """One file of a bag.

    `shift_ns` is what its monotonic times need to stand on the time line of the whole bag. `repeated` are the topics
    whose first message stands in an earlier file of the bag, too.

    Raises:
        FileNotFoundError, BagFormatError, BagBusyError: as `bag.open` says.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.shift_ns = 0
        self.repeated: frozenset[str] = frozenset()
        self._reader: BagReader | None = None
        self._process = 0
        self._closed = False
        self.span = self.reader.span_ns()

    @property
    def reader(self) -> BagReader:
        """The storage below, of this process.

        Raises:
            BagError: the bag was closed.
        """
        if self._closed:
            raise BagError(f"{self.path} was closed; open it again to read from it")
        if self._reader is None or self._process != os.getpid():
            self._reader, self._process = _open(self.path), os.getpid()
        return self._reader

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._closed = True
        if self._reader is not None and self._process == os.getpid():
            self._reader.close()
        self._reader = None


def _open(path: str) -> BagReader:
    if not is_url(path):
        return BagReader(path)
    filesystem, inner = filesystem_of(path)
    # a listing made earlier does not know of objects written since
    filesystem.invalidate_cache(inner.rpartition("/")[0])
    size = int(filesystem.size(inner))
    file = filesystem.open(inner, "rb", block_size=REMOTE_BLOCK, cache_type="readahead")
    return RemoteBagReader(path, RemoteFile(file), size)


class RemoteFile(io.RawIOBase):
    """A file object of fsspec, made safe for HDF5.

    h5py holds its lock while it waits for bytes. fsspec fetches them in a thread of its own, and when the garbage
    collector happens to run there and finds an h5py object, that thread waits for the lock: for ever. So the collector
    rests while bytes are fetched.
    """

    def __init__(self, file: Any) -> None:
        self._file = file

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the current place."""
        collecting = gc.isenabled()
        gc.disable()
        try:
            return int(self._file.readinto(buffer))
        finally:
            if collecting:
                gc.enable()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """The current place."""
        return int(self._file.tell())

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Close the file below too."""
        if not self.closed:
            self._file.close()
        super().close()


def open_parts(paths: Sequence[str]) -> list[Part]:
    """Open the files of a bag and put them in order of time, on one time line."""
    parts: list[Part] = []
    try:
        # the last one first: what a recorder has committed to it, it has to those before, so there is no gap between
        parts.extend(Part(path) for path in reversed(paths))
        parts.reverse()
    except BaseException:
        for part in parts:
            part.close()
        raise
    arrange(parts)
    return parts


@dataclass(frozen=True)
class Piece:
    """Messages first..last-1 of one topic in one file; `start` counts them within the topic."""

    part: Part
    topic: str
    first: int
    last: int
    start: int

    def __len__(self) -> int:
        return self.last - self.first

    @property
    def whole(self) -> bool:
        """Whether these are all messages that the file adds to the topic."""
        return self.first == (self.topic in self.part.repeated) and self.last == len(self.reader)

    @property
    def reader(self) -> TopicReader:
        """The topic's reader in this file."""
        return self.part.reader.topics[self.topic]

    def time(self, number: int) -> int:
        """When message `number` of the piece arrived, on the time line of the whole bag."""
        at = self.first + number
        return int(self.reader.index(at, at + 1)["log_mono_ns"][0]) + self.part.shift_ns

    def position(self, time: int, *, after: bool = False) -> int:
        """Number of the first message of the piece that arrived at a time or later (or `after` it).

        Reads a few rows of the index, however long it is.
        """
        bisect = bisect_right if after else bisect_left
        return bisect(range(len(self)), time, key=self.time)

    def index(self, field: str) -> NDArray[Any]:
        """One column of the index; monotonic times are on the time line of the whole bag."""
        values = np.ascontiguousarray(self.reader.index(self.first, self.last)[field])
        return values + self.part.shift_ns if field == "log_mono_ns" else values


def pieces_of(parts: Sequence[Part], topic: str) -> list[Piece]:
    """Where the messages of a topic are, in the order of the files."""
    out: list[Piece] = []
    start = 0
    for part in parts:
        reader = part.reader.topics.get(topic)
        if reader is not None:
            first = int(topic in part.repeated)
            out.append(Piece(part, topic, first, len(reader), start))
            start += len(reader) - first
    return out


def cut_by_time(pieces: Sequence[Piece], low: int | None, high: int | None) -> list[Piece]:
    """What arrived in [low, high) of those; at least one piece stays, maybe empty, so that the topic is still known."""
    out: list[Piece] = []
    taken = 0
    for piece in pieces:
        start = 0 if low is None else piece.position(low)
        stop = len(piece) if high is None else piece.position(high)
        if stop > start:
            out.append(Piece(piece.part, piece.topic, piece.first + start, piece.first + stop, taken))
            taken += stop - start
    return out or cut_pieces(pieces, 0, 0)


def cut_pieces(pieces: Sequence[Piece], start: int, stop: int) -> list[Piece]:
    """Messages start..stop-1 of those; at least one piece stays, maybe empty, so that the topic is still known."""
    out: list[Piece] = []
    taken = 0
    for piece in pieces:
        low = max(start - piece.start, 0)
        high = min(stop - piece.start, len(piece))
        if high > low:
            out.append(Piece(piece.part, piece.topic, piece.first + low, piece.first + high, taken))
            taken += high - low
    if not out and pieces:
        first = pieces[0]
        out.append(Piece(first.part, first.topic, first.first, first.first, 0))
    return out


def local_path(path: str) -> Path | str:
    """The path as `Bag.path` shows it: URLs stay text."""
    return path if is_url(path) else Path(path)
