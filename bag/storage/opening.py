"""How a bag is opened to be read: mended first when its writer died, as of its last commit when its writer is alive."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from bag.errors import BagBusyError
from bag.storage.disk import FileOpener, RawFile
from bag.storage.sidecars import Sidecars
from bag.storage.snapshot import Snapshot, take_snapshot
from bag.storage.tree import open_bag_file

if TYPE_CHECKING:
    from bag.storage.resume import RollForward

# how long another process may take to mend a bag, or a recorder to apply a commit
PATIENCE_S = 20.0
PAUSE_S = 0.003


@dataclass(slots=True)
class OpenBag:
    """A bag open for reading.

    `snapshot` is the file as it is to be read while it is being recorded, None otherwise; `rolled_forward` is what was
    done for a bag whose writer had died.
    """

    root: h5py.File
    snapshot: Snapshot | None
    rolled_forward: RollForward | None

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self.root.close()
        if self.snapshot is not None:
            self.snapshot.close()


def open_bag(path: Path, opener: FileOpener = RawFile) -> OpenBag:
    """Open a bag as of its last message, or as of its last commit while it is being recorded.

    Args:
        path: the bag.
        opener: how files are opened to be rolled forward (for tests).

    Raises:
        BagFormatError: it is not a bag, or of a newer format.
        BagBusyError: another process mends or changes it, and takes long.
        BagError: its writer died, and it cannot be brought in order.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            bag = _try_to_open(path, opener)
        except BagBusyError:
            if time.monotonic() > deadline:
                raise
            bag = None
        if bag is not None:
            return bag
        # a writer comes, goes, or is just applying a commit
        time.sleep(PAUSE_S)


def _try_to_open(path: Path, opener: FileOpener) -> OpenBag | None:
    rolled_forward, snapshot = None, None
    sidecars = Sidecars(path, opener)
    if sidecars.exist():
        snapshot = take_snapshot(path)
        if snapshot is None:
            rolled_forward = _roll_forward(path, opener)
            # it waits for somebody who can mend it, and may be mended any time
            if rolled_forward is not None and rolled_forward.problem:
                snapshot = take_snapshot(path, recorder=False)
    try:
        bag = OpenBag(open_bag_file(path, snapshot), snapshot, rolled_forward)
    except BaseException:
        if snapshot is not None:
            snapshot.close()
        raise
    if snapshot is None and sidecars.exist() and not (rolled_forward and rolled_forward.problem):
        # a writer has come since
        bag.close()
        return None
    return bag


# what mends a bag is a large part of the writing side, and is only imported when there is something to mend
def _roll_forward(path: Path, opener: FileOpener) -> RollForward | None:
    from bag.storage.resume import roll_forward

    return roll_forward(path, opener)
