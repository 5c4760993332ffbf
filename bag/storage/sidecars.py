"""The files that stand beside a bag while it is written: the journal and the tail.

Whoever holds the lock of the journal may write the bag. Sidecars without a lock are those of a writer that died.
"""

from __future__ import annotations

from pathlib import Path

from bag.storage.disk import FileOpener, RawFile

JOURNAL, TAIL = ".journal", ".tail"


class Sidecars:
    """Finds, locks, opens and removes the sidecars of one bag.

    Args:
        path: the bag.
        opener: how files are opened.
    """

    def __init__(self, path: Path, opener: FileOpener = RawFile) -> None:
        self.paths = {suffix: path.with_name(path.name + suffix) for suffix in (JOURNAL, TAIL)}
        self._opener = opener
        self._open: dict[str, RawFile] = {}

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

    def in_use(self) -> bool:
        """Whether they hold anything of a writer that died."""
        return self.journal.size() > 0 or self.paths[TAIL].exists()

    def empty(self) -> None:
        """Drop what a dead writer left, when its bag is no more."""
        self.journal.truncate(0)
        self.tail.truncate(0)

    def close(self) -> None:
        """Close all, giving up the lock; the files stay."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def remove(self) -> None:
        """Remove all from the disk, the journal last, and give up the lock."""
        for suffix in (TAIL, JOURNAL):
            self.paths[suffix].unlink(missing_ok=True)
        self.close()
