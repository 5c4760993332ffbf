"""Adds definitions (marks, schemas) to a bag that is finished, in place and atomically, as a recorder's commit
would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bag.errors import BagBusyError
from bag.storage import layout as names
from bag.storage.book import Book
from bag.storage.damage import reading
from bag.storage.disk import RawFile
from bag.storage.journal import CommitFile
from bag.storage.resume import roll_forward
from bag.storage.sidecars import Sidecars
from bag.storage.superblock import committed_end
from bag.storage.tree import attribute, node_at, open_bag_file, table

Definition = tuple[str, dict[str, Any]]


def amend(path: Path, definitions: Sequence[Definition]) -> None:
    """Append definitions (kind, values) to the bag; a crash in the middle leaves it as it was or as it should be.

    Raises:
        FileNotFoundError, BagFormatError, BagBusyError: see `BagReader`.
        OSError: the disk refuses.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no bag {path}")
    roll_forward(path)
    with reading(path), open_bag_file(path):
        pass
    sidecars = Sidecars(path)
    if not sidecars.lock():
        raise BagBusyError(f"{path} is being written by another process; wait until it is closed")
    try:
        data = RawFile(path)
        try:
            with reading(path):
                _append(data, sidecars, definitions)
        finally:
            data.close()
        sidecars.remove()
    finally:
        sidecars.close()


def _append(data: RawFile, sidecars: Sidecars, definitions: Sequence[Definition]) -> None:
    file = CommitFile(data, sidecars.journal, committed=committed_end(data), undo=sidecars.undo)
    try:
        with h5py.File(file, "r+", libver="earliest") as root:
            group = node_at(root, names.BOOK)
            book = Book(file, group, resume=True)
            known = table(root, names.OPEN_CHUNKS, names.CHECKSUM_DTYPE)
            of_topic = known["column"] >= names.FIRST_COLUMN
            # where they stand, near the beginning of the file, they outlive a file that is cut short
            for row in known[of_topic].tolist():
                book.checksums.filling(row)
            book.checksums.resume(known[~of_topic])
            summaries = table(root, names.TOPICS, names.TOPIC_DTYPE)
            for kind, values in definitions:
                book.define(kind, values)
            book.settle(summaries)
            group.attrs.modify("commits", np.uint64(int(attribute(group, "commits", 0)) + 1))
            book.close()
        file.commit(sync=True)
        file.cut()
    except BaseException as error:
        file.abandon(error)
        raise
