"""The bag's own bookkeeping in `/_bag`: definitions, runs, ledger, clock, checksums and the summary of every topic."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5s, h5t
from numpy.typing import NDArray

from bag.storage import layout
from bag.storage.checksums import Checksums
from bag.storage.column import Column, create_dataset
from bag.storage.definitions import definition_line
from bag.storage.journal import CommitFile
from bag.storage.tree import describe

# tables that only grow; the checksums last, since they speak of the others
GROWING = {
    layout.DEFINITIONS: np.dtype("u1"),
    layout.RUNS: layout.RUN_DTYPE,
    layout.LEDGER: layout.LEDGER_DTYPE,
    layout.CLOCK: layout.CLOCK_DTYPE,
    layout.CHECKSUMS: layout.CHECKSUM_DTYPE,
}
# tables that are written anew with every commit
REWRITTEN = {layout.TOPICS: layout.TOPIC_DTYPE, layout.OPEN_CHUNKS: layout.CHECKSUM_DTYPE}
# kinds of definitions that columns tell, and tables that they do not
BUILT = ("column", "layout")
TOLD = (layout.LEDGER, layout.CLOCK)
UNITS = {layout.LEDGER: layout.LEDGER_UNITS, layout.CLOCK: layout.CLOCK_UNITS, layout.TOPICS: layout.TOPIC_UNITS}


class Book:
    """Writes `/_bag`. Rows collect in memory and reach the file at `settle`.

    Some are told by who appends (definitions, ledger, clock), some by the columns, as they take what was appended.

    Args:
        file: the commit file below HDF5.
        group: the group `/_bag`: empty, or of an earlier writer.
        resume: go on in the tables that are there.
    """

    def __init__(self, file: CommitFile, group: h5py.Group, *, resume: bool = False) -> None:
        self.checksums = Checksums()
        self._group: Any = group
        self._rows: dict[str, list[Any]] = {layout.RUNS: [], layout.LEDGER: [], layout.CLOCK: []}
        self._definitions: list[bytes] = []
        # of columns and layouts, which come when their topic has been defined
        self._built: list[bytes] = []
        # what `freeze` put aside for the next `settle`
        self._frozen: dict[str, list[Any]] = {}
        if not resume:
            self._create_tables()
        self._rewritten = {name: (group[name].id, h5t.py_create(dtype)) for name, dtype in REWRITTEN.items()}
        self._growing = {
            name: Column(file, group[name].id, layout.BOOK_COLUMNS[name], self.checksums) for name in GROWING
        }
        if resume:
            for name, table in self._growing.items():
                table.resume(group[name].shape[0])

    def _create_tables(self) -> None:
        for name, dtype in GROWING.items():
            rows = layout.chunk_rows(dtype.itemsize, layout.SMALL_CHUNK)
            create_dataset(self._group, name, dtype, (), rows)
        for name, dtype in REWRITTEN.items():
            self._group.create_dataset(name, shape=(0,), maxshape=(None,), chunks=(16,), dtype=dtype)
        for name, units in UNITS.items():
            describe(self._group[name], units=units)

    def define(self, kind: str, values: dict[str, Any]) -> None:
        """Append one definition: a JSON line `{kind: values}`."""
        lines = self._built if kind in BUILT else self._definitions
        lines.append(definition_line(kind, values))

    def run(self, topic: int, channel: int, layout_number: int, first: int) -> None:
        """From message `first` of a topic on, messages are of this channel and layout."""
        self._rows[layout.RUNS].append((topic, channel, layout_number, first))

    def ledger(
        self, topic: int, channel: int, kind: str, sequences: tuple[int, int], count: int, at: tuple[int, int]
    ) -> None:
        """Account for messages that are not in the bag; `at` is the message number and the log time (ns)."""
        row = (topic, channel, layout.LEDGER_KINDS[kind], *sequences, count, *at)
        self._rows[layout.LEDGER].append(row)

    def clock(self, wall_ns: int, mono_ns: int) -> None:
        """Log one pair of clock readings."""
        self._rows[layout.CLOCK].append((wall_ns, mono_ns))

    @property
    def dirty(self) -> bool:
        """Whether there is anything that `settle` would write."""
        return bool(self._definitions or self._built or any(self._rows.values()))

    def freeze(self) -> None:
        """Keep what is told from now on, but by columns, for the `settle` after the next."""
        self._frozen = {layout.DEFINITIONS: self._definitions}
        self._definitions = []
        for name in TOLD:
            self._frozen[name], self._rows[name] = self._rows[name], []

    def settle(self, summaries: NDArray[Any]) -> None:
        """Write all collected rows, then the checksums and, in place, the summaries."""
        if not self._frozen:
            self.freeze()
        frozen, self._frozen = self._frozen, {}
        definitions = frozen.pop(layout.DEFINITIONS) + self._built
        if definitions:
            self._growing[layout.DEFINITIONS].append(b"".join(definitions))
        frozen[layout.RUNS] = self._rows[layout.RUNS]
        self._built, self._rows[layout.RUNS] = [], []
        for name, rows in frozen.items():
            if rows:
                self._growing[name].append(np.array(rows, GROWING[name]).tobytes())
        for name, table in self._growing.items():
            if name == layout.CHECKSUMS:
                table.append(self.checksums.take_full().tobytes())
            if table.dirty:
                table.settle()
        self._rewrite(layout.OPEN_CHUNKS, self.checksums.remaining())
        self._rewrite(layout.TOPICS, summaries)

    def count(self, commits: int) -> None:
        """Write how many commits there were."""
        h5a.open(self._group.id, b"commits").write(np.array(commits, np.uint64))

    def close(self) -> None:
        """Let go of all HDF5 objects."""
        self._growing.clear()
        self._rewritten.clear()
        self._group = None

    # a part of every commit, which takes half as long below h5py's own datasets
    def _rewrite(self, name: str, rows: NDArray[Any]) -> None:
        table, kind = self._rewritten[name]
        if table.shape != rows.shape:
            table.set_extent(rows.shape)
        if len(rows):
            table.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(rows, REWRITTEN[name]), kind)
