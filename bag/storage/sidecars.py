"""The files that stand beside a bag while it is written: journal, tail and, during recovery, the spill.

Whoever holds the lock of the journal may write the bag. Sidecars without a lock are those of a writer that died.
"""

from __future__ import annotations

from pathlib import Path

from bag.storage.disk import FileOpener, RawFile

SUFFIXES = (".journal", ".tail", ".spill")


class Sidecars:
    """Finds, locks, opens and removes the sidecars of one bag.

    Args:
        path: the bag.
        opener: how files are opened.
    """

    def __init__(self, path: Path, opener: FileOpener = RawFile) -> None:
        self.paths = {suffix: path.with_name(path.name + suffix) for suffix in SUFFIXES}
        self._opener = opener
        self._open: dict[str, RawFile] = {}

    def exist(self) -> bool:
        """Whether a writer is at work or died."""
        return self.paths[".journal"].exists() or self.paths[".tail"].exists()

    def lock(self) -> bool:
        """Become the writer; False when another process is."""
        while True:
            journal = self._opener(self.paths[".journal"], create=True)
            if not journal.try_lock():
                journal.close()
                return False
            # the one we waited behind may have removed the file we locked
            if journal.is_at_its_path():
                self._open[".journal"] = journal
                return True
            journal.close()

    def is_locked(self) -> bool:
        """Whether a writer is at work."""
        try:
            journal = self._opener(self.paths[".journal"])
        except FileNotFoundError:
            return False
        try:
            return not journal.try_lock()
        finally:
            journal.close()

    @property
    def journal(self) -> RawFile:
        """The journal, open since `lock`."""
        return self._open[".journal"]

    @property
    def tail(self) -> RawFile:
        """The tail, opened or created at first use."""
        return self._get(".tail")

    def spill(self) -> RawFile:
        """The spill, opened or created at first use."""
        return self._get(".spill")

    def close(self) -> None:
        """Close all, giving up the lock; the files stay."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def remove(self) -> None:
        """Remove all from the disk, the journal last, and give up the lock."""
        for suffix in reversed(SUFFIXES):
            self.paths[suffix].unlink(missing_ok=True)
        self.close()

    def _get(self, suffix: str) -> RawFile:
        if suffix not in self._open:
            self._open[suffix] = self._opener(self.paths[suffix], create=True)
        return self._open[suffix]
