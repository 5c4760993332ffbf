"""The HDF5 file of a bag that is being written: how it comes to be, how a commit is made, and how it is left."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from bag.errors import BagBusyError, BagExistsError, UsageError
from bag.storage import layout as names
from bag.storage.book import Book
from bag.storage.disk import FileOpener, RawFile, sync_directory
from bag.storage.journal import CommitFile
from bag.storage.sidecars import Sidecars
from bag.storage.tree import MAX_TEXT, describe, node_at


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A bag that was not closed: its open file, its locked sidecars, its committed end and what lies behind (bytes)."""

    data: RawFile
    sidecars: Sidecars
    committed: int
    reserved: int


class BagFile:
    """An open bag with its book and sidecars; make one with `create_bag` or `resume_bag`.

    `commits` counts the commits so far.
    """

    def __init__(self, data: RawFile, sidecars: Sidecars, file: CommitFile, h5: h5py.File, book: Book) -> None:
        self.data = data
        self.sidecars = sidecars
        self.file = file
        self.h5 = h5
        self.book = book
        self.commits = 0

    def settle(self, summaries: NDArray[np.void]) -> None:
        """Write what is left for the next commit, with these summaries (TOPIC_DTYPE) of the topics."""
        self.book.settle(summaries)
        self.commits += 1
        self.book.count(self.commits)

    def flush(self) -> None:
        """Let HDF5 write what it keeps in memory."""
        self.h5.flush()

    def commit_parts(self, *, sync: bool) -> Generator[None]:
        """Make everything written so far the state of the file, once it is flushed, in parts of a few ms."""
        return self.file.commit_parts(sync=sync)

    def finish(self) -> None:
        """Let go of HDF5, commit what it writes as it closes, and cut the file to its length."""
        self._release()
        self.file.commit(sync=True)
        self.file.cut()

    def close(self) -> None:
        """Close the finished file and remove the sidecars."""
        self.data.close()
        self.sidecars.remove()

    def abort(self) -> None:
        """Leave the file as the last commit left it, and the sidecars beside it."""
        self.file.abandon()
        # the process is about to let go of the file; what the disk says no longer matters
        with contextlib.suppress(OSError, MemoryError):
            self.file.finish_sync()
        try:
            self._release()
        finally:
            self.data.close()
            self.sidecars.close()

    def _release(self) -> None:
        self.book.close()
        self.h5.close()


def create_bag(path: Path, texts: Mapping[str, str], opener: FileOpener, *, force: bool) -> BagFile:
    """Create a bag with these text attributes; it appears whole or not at all.

    Raises:
        BagExistsError: the file is there and `force` is not given.
        BagBusyError: another process is writing it.
        OSError: it cannot be created; what was there is as it was.
    """
    if path.exists() and not force:
        raise BagExistsError(f"{path} is already there; choose another name or overwrite it with -f/--force")
    sidecars = Sidecars(path, opener)
    if not sidecars.lock():
        raise BagBusyError(f"{path} is being written by another process; choose another name")
    fresh = path.with_name(f".{path.name}.new")
    bag: BagFile | None = None
    try:
        fresh.unlink(missing_ok=True)
        bag = _new_bag(opener(fresh, create=True), sidecars, texts)
        sidecars.prepare()
        # a replaced bag is gone before its sidecars are emptied
        path.unlink(missing_ok=True)
        sidecars.begin()
        os.replace(fresh, path)
        sync_directory(path.parent)
    except BaseException:
        if bag is not None:
            _drop(bag.file, bag.h5)
        fresh.unlink(missing_ok=True)
        # the bag that was to be replaced may still need them
        if path.exists() and sidecars.in_use():
            sidecars.close()
        else:
            sidecars.remove()
        raise
    bag.data.path = path
    bag.file.undo = sidecars.undo
    sidecars.undo.release()
    return bag


def _new_bag(data: RawFile, sidecars: Sidecars, texts: Mapping[str, str]) -> BagFile:
    file = CommitFile(data, sidecars.journal)
    h5 = h5py.File(file, "w", libver="earliest")
    try:
        h5.attrs["format_version"] = np.array([names.FORMAT_MAJOR, names.FORMAT_MINOR], np.uint32)
        h5.attrs["created_ns"] = np.int64(time.time_ns())
        h5.attrs["closed"] = False
        describe(h5, format=names.FORMAT_NAME, host=platform.node(), **texts)
        group = h5.create_group(names.BOOK)
        group.attrs["commits"] = np.uint64(0)
        bag = BagFile(data, sidecars, file, h5, Book(file, group))
        # nobody can have this file before it is whole, and the journal may be that of the bag it replaces
        bag.settle(np.zeros(0, names.TOPIC_DTYPE))
        bag.flush()
        file.commit()
        file.sync_alone()
    except BaseException:
        _drop(file, h5)
        raise
    return bag


# close a file that nobody will need: HDF5 at the exit of the process would crash on it
def _drop(file: CommitFile, h5: h5py.File) -> None:
    file.abandon()
    h5.close()
    file.data.close()


def resume_bag(unfinished: Unfinished) -> BagFile:
    """Go on in a bag that was not closed."""
    data, sidecars = unfinished.data, unfinished.sidecars
    file = CommitFile(
        data,
        sidecars.journal,
        committed=unfinished.committed,
        reserved=unfinished.reserved,
        undo=sidecars.undo,
    )
    h5 = h5py.File(file, "r+", libver="earliest")
    return BagFile(data, sidecars, file, h5, Book(file, node_at(h5, names.BOOK), resume=True))


def checked_texts(description: str, custom_data: Mapping[str, str]) -> dict[str, str]:
    """Description and custom data as the attributes they become.

    Raises:
        UsageError: one of them cannot be an attribute.
    """
    texts = {"description": description}
    for name, value in custom_data.items():
        if not name or "\0" in name or len(name) > names.MAX_LINK_BYTES:
            raise UsageError(f"--custom-data cannot have the name {name!r}; use 1 to {names.MAX_LINK_BYTES} characters")
        texts[f"custom.{name}"] = value
    for name, value in texts.items():
        if len(value) > MAX_TEXT:
            raise UsageError(f"{name} is longer than {MAX_TEXT} characters; keep it in a file beside the bag")
    return texts
