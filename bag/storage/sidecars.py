"""The files that stand beside a bag while it is written: the journal, the tail, and the undo logs of who reads it.

Whoever holds the lock of the journal may write the bag. Sidecars without a lock are those of a writer that died. A
recorder also holds the lock of the tail, which tells it from a process that mends the bag.
"""

from __future__ import annotations

from pathlib import Path

from bag.storage.disk import FileOpener, RawFile, is_locked
from bag.storage.undo import Undo

JOURNAL, TAIL, UNDO = ".journal", ".tail", ".undo"


def beside(path: Path, suffix: str) -> Path:
    """The sidecar of a bag with this suffix."""
    return path.with_name(path.name + suffix)


class Sidecars:
    """Finds, locks, opens and removes the sidecars of one bag.

    Args:
        path: the bag.
        opener: how files are opened.
    """

    def __init__(self, path: Path, opener: FileOpener = RawFile) -> None:
        self.paths = {suffix: beside(path, suffix) for suffix in (JOURNAL, TAIL, UNDO)}
        self._opener = opener
        self._open: dict[str, RawFile] = {}
        self._undo: Undo | None = None

    def exist(self) -> bool:
        """Whether a writer is at work or died."""
        return any(path.exists() for path in self.paths.values())

    def lock(self) -> bool:
        """Become the writer; False when somebody else is."""
        while True:
            journal = self._opener(self.paths[JOURNAL], create=True)
            if not journal.try_lock():
                journal.close()
                return False
            # whoever had the lock before may have removed the file we opened
            if journal.is_at(self.paths[JOURNAL]):
                self._open[JOURNAL] = journal
                return True
            journal.close()

    def is_busy(self) -> bool:
        """Whether somebody else is the writer; to be asked by who cannot be it."""
        return JOURNAL not in self._open and is_locked(self.paths[JOURNAL])

    @property
    def journal(self) -> RawFile:
        """The journal, open since `lock`."""
        return self._open[JOURNAL]

    @property
    def tail(self) -> RawFile:
        """The tail, opened or created at first use."""
        if TAIL not in self._open:
            self._open[TAIL] = self._opener(self.paths[TAIL], create=True)
        return self._open[TAIL]

    @property
    def undo(self) -> Undo:
        """The undo logs; from first use on nobody begins to read before they are released."""
        if self._undo is None:
            self._undo = Undo(self.paths[UNDO], self._opener)
            self._undo.attach()
        return self._undo

    def in_use(self) -> bool:
        """Whether they hold anything of a writer that died."""
        return self.journal.size() > 0 or self.paths[TAIL].exists()

    def prepare(self) -> None:
        """Make sure that `begin` will have what it needs.

        Raises:
            OSError: it cannot.
        """
        self._undo = Undo(self.paths[UNDO], self._opener)
        self._undo.prepare()

    def begin(self) -> None:
        """Begin a recording: drop what a dead writer left, whose bag is no more."""
        self.journal.truncate(0)
        self.tail.truncate(0)
        self.tail.lock()
        self.undo.renew()

    def close(self) -> None:
        """Close all, giving up the locks; the files stay."""
        if self._undo is not None:
            self._undo.close()
            self._undo = None
        for file in self._open.values():
            file.close()
        self._open.clear()

    def remove(self) -> None:
        """Remove all from the disk, the journal last, and give up the lock."""
        self.paths[TAIL].unlink(missing_ok=True)
        Undo(self.paths[UNDO]).remove()
        self.paths[JOURNAL].unlink(missing_ok=True)
        self.close()
