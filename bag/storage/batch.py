"""Received messages, sorted into batches that can be stored and journalled as columns instead of one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cortex.wire import HEADER

# log time (wall ns), log time (monotonic ns), parts 0..N as received: bytes, or memoryviews of bytes
Row = tuple[int, int, Sequence[Any]]
HEADER_SIZE = HEADER.size
# what the index can say of the size of a metadata frame
MAX_METADATA = 2**32 - 1

COLUMNS = "columns"
WHOLE = "frames"
MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages of one channel that have the same number of parts and the same fingerprint.

    `parts[k]` holds part k + 1 of every message (part 0, the topic, is known). `headers` is (n, 3) uint64 in native
    byte order: fingerprint, publish time, sequence. `kind` is COLUMNS when every part can go to a column of its own,
    WHOLE when the parts must be kept together.
    """

    kind: str
    log_time: NDArray[np.int64]
    log_mono: NDArray[np.int64]
    headers: NDArray[np.uint64]
    parts: tuple[Sequence[Any], ...]

    def __len__(self) -> int:
        return len(self.log_time)

    @property
    def fingerprint(self) -> int:
        """The fingerprint all headers share."""
        return int(self.headers[0, 0])

    def slice(self, start: int, stop: int) -> Batch:
        """The messages start..stop-1 as a batch of their own."""
        if start == 0 and stop == len(self):
            return self
        cut = slice(start, stop)
        parts = tuple(part[cut] for part in self.parts)
        return Batch(self.kind, self.log_time[cut], self.log_mono[cut], self.headers[cut], parts)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(sum(map(len, part)) for part in self.parts)


def batches(rows: Sequence[Row]) -> Iterator[Batch | int]:
    """Sort received rows into batches, in order; an int counts malformed messages that no receiver would take."""
    if _are_alike(rows):
        yield from _by_fingerprint(_build(COLUMNS, rows))
        return
    for (kind, _count), group in groupby(rows, _sort_of):
        members = list(group)
        if kind == MALFORMED:
            yield len(members)
        else:
            yield from _by_fingerprint(_build(kind, members))


# what nearly always holds, found without looking at each row by itself
def _are_alike(rows: Sequence[Row]) -> bool:
    counts = {len(row[2]) for row in rows}
    return (
        len(counts) == 1
        and counts.pop() > 2
        and {len(row[2][1]) for row in rows} == {HEADER_SIZE}
        and max(len(row[2][2]) for row in rows) <= MAX_METADATA
    )


def _sort_of(row: Row) -> tuple[str, int]:
    parts = row[2]
    count = len(parts)
    if count < 2 or len(parts[1]) < HEADER_SIZE:
        return MALFORMED, 0
    if count == 2 or len(parts[1]) > HEADER_SIZE or len(parts[2]) > MAX_METADATA:
        return WHOLE, count
    return COLUMNS, count


def _build(kind: str, rows: Sequence[Row]) -> Batch:
    walls, monos, parts = zip(*rows, strict=True)
    columns = tuple(zip(*parts, strict=True))[1:]
    heads = columns[0] if kind == COLUMNS else [bytes(head[:HEADER_SIZE]) for head in columns[0]]
    headers = np.frombuffer(b"".join(heads), ">u8").reshape(len(rows), 3).astype(np.uint64)
    return Batch(kind, np.array(walls, np.int64), np.array(monos, np.int64), headers, columns)


def _by_fingerprint(batch: Batch) -> Iterator[Batch]:
    fingerprints = batch.headers[:, 0]
    changes = np.flatnonzero(fingerprints[1:] != fingerprints[:-1]) + 1
    for start, stop in pairwise([0, *changes.tolist(), len(batch)]):
        yield batch.slice(start, stop)


def concatenate(parts: Sequence[Batch]) -> Iterator[Batch]:
    """The same messages in as few batches as their sorts allow."""
    for _sort, group in groupby(parts, lambda batch: (batch.kind, len(batch.parts), batch.fingerprint)):
        members = list(group)
        yield members[0] if len(members) == 1 else _joined(members)


def _joined(members: Sequence[Batch]) -> Batch:
    columns = zip(*(batch.parts for batch in members), strict=True)
    return Batch(
        members[0].kind,
        np.concatenate([batch.log_time for batch in members]),
        np.concatenate([batch.log_mono for batch in members]),
        np.concatenate([batch.headers for batch in members]),
        tuple(tuple(chain.from_iterable(column)) for column in columns),
    )
