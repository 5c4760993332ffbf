"""The bag's own bookkeeping in `/_bag`: definitions, runs, ledger, clock, checksums and the summary of every topic."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from bag.storage import layout
from bag.storage.column import ChecksumRow, Column, create_dataset
from bag.storage.definitions import definition_line
from bag.storage.journal import CommitFile

TABLES = {
    layout.DEFINITIONS: np.dtype("u1"),
    layout.RUNS: layout.RUN_DTYPE,
    layout.LEDGER: layout.LEDGER_DTYPE,
    layout.CLOCK: layout.CLOCK_DTYPE,
    layout.CHECKSUMS: layout.CHECKSUM_DTYPE,
}


class Book:
    """Writes `/_bag`. Rows collect in memory and reach the file at `settle`.

    Args:
        file: the commit file below HDF5.
        root: the open HDF5 file.
        resume: go on in the book that is there instead of making a new one.
    """

    def __init__(self, file: CommitFile, root: h5py.File, *, resume: bool = False) -> None:
        self.checksums: list[ChecksumRow] = []
        self._group = root[layout.BOOK] if resume else root.create_group(layout.BOOK)
        self._tables = {name: self._open_table(file, name, resume) for name in TABLES}
        self._rows: dict[str, list[Any]] = {layout.RUNS: [], layout.LEDGER: [], layout.CLOCK: []}
        self._definitions: list[bytes] = []
        self._topics = self._group[layout.TOPICS] if resume else self._create_topics()

    def define(self, kind: str, values: dict[str, Any]) -> None:
        """Append one definition: a JSON line `{kind: values}`."""
        self._definitions.append(definition_line(kind, values))

    def run(self, topic: int, channel: int, layout_number: int, first: int) -> None:
        """From message `first` of a topic on, messages are of this channel and layout."""
        self._rows[layout.RUNS].append((topic, channel, layout_number, first))

    def ledger(self, topic: int, kind: str, sequences: tuple[int, int], count: int, at: tuple[int, int]) -> None:
        """Account for messages that are not in the bag; `at` is the message number and the log time (ns)."""
        row = (topic, layout.LEDGER_KINDS[kind], *sequences, count, *at)
        self._rows[layout.LEDGER].append(row)

    def clock(self, wall_ns: int, mono_ns: int) -> None:
        """Log one pair of clock readings."""
        self._rows[layout.CLOCK].append((wall_ns, mono_ns))

    @property
    def dirty(self) -> bool:
        """Whether there is anything that `settle` would write."""
        return bool(self._definitions or self.checksums or any(self._rows.values()))

    def settle(self, summaries: np.ndarray[Any, Any]) -> None:
        """Write all collected rows, the checksums last, and the summaries in place."""
        if self._definitions:
            self._tables[layout.DEFINITIONS].append(b"".join(self._definitions))
            self._definitions.clear()
        for name, rows in self._rows.items():
            if rows:
                self._tables[name].append(np.array(rows, TABLES[name]).tobytes())
                rows.clear()
        for name, table in self._tables.items():
            if name != layout.CHECKSUMS:
                table.settle()
        table = self._tables[layout.CHECKSUMS]
        table.append(np.array(self.checksums, layout.CHECKSUM_DTYPE).tobytes())
        table.settle()
        # those of the table itself would never end: they are not kept
        self.checksums.clear()
        self._write_topics(summaries)

    def close(self) -> None:
        """Let go of all HDF5 objects."""
        self._tables.clear()
        del self._group, self._topics

    def _write_topics(self, summaries: np.ndarray[Any, Any]) -> None:
        if self._topics.shape != summaries.shape:
            self._topics.resize(summaries.shape)
        if len(summaries):
            self._topics[...] = summaries

    def _open_table(self, file: CommitFile, name: str, resume: bool) -> Column:
        dtype = TABLES[name]
        if resume:
            dataset = self._group[name].id
        else:
            rows = layout.chunk_rows(dtype.itemsize, layout.SMALL_CHUNK)
            dataset = create_dataset(self._group, name, dtype, (), rows)
        column = Column(file, dataset, layout.BOOK_COLUMNS[name], self.checksums)
        if resume:
            column.resume(self._group[name].shape[0])
        return column

    def _create_topics(self) -> h5py.Dataset:
        return self._group.create_dataset(
            layout.TOPICS, shape=(0,), maxshape=(None,), chunks=(16,), dtype=layout.TOPIC_DTYPE
        )
