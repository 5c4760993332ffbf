"""Received messages, sorted into batches that can be stored and journalled as columns instead of one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from struct import Struct, pack
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cortex.wire import HEADER

# log time (wall ns), log time (monotonic ns), parts 0..N as received: bytes, or memoryviews of bytes
Row = tuple[int, int, Sequence[Any]]
HEADER_SIZE = HEADER.size
# what a received message costs in memory beside its bytes: list, tuple, stamps, one object a part
MESSAGE_OVERHEAD = 600
# a header with its publish time as the signed number that it is in the index
STAMPS = Struct(">QqQ")
STAMPS_DTYPE = np.dtype([("fingerprint", ">u8"), ("publish", ">i8"), ("sequence", ">u8")])
# numbers of the messages of a batch: of a few as a tuple, which is faster then
Numbers: TypeAlias = "tuple[int, ...] | NDArray[Any]"
FEW = 32
# what the index can say of the size of a metadata frame
MAX_METADATA = 2**32 - 1

COLUMNS = "columns"
WHOLE = "frames"
MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages of one channel that have the same number of parts and the same fingerprint.

    `parts[k]` holds part k + 1 of every message (part 0, the topic, is known). `kind` is COLUMNS when every part can go
    to a column of its own, WHOLE when the parts must be kept together. Of each message: `log_time` and `publish_time`
    (wall ns), `log_mono` (monotonic ns), all int64, and `sequence` (uint64).
    """

    kind: str
    fingerprint: int
    log_time: Numbers
    log_mono: Numbers
    publish_time: Numbers
    sequence: Numbers
    parts: tuple[Sequence[Any], ...]

    def __len__(self) -> int:
        return len(self.log_time)

    def slice(self, start: int, stop: int) -> Batch:
        """The messages start..stop-1 as a batch of their own."""
        if start == 0 and stop == len(self):
            return self
        cut = slice(start, stop)
        numbers = (self.log_time[cut], self.log_mono[cut], self.publish_time[cut], self.sequence[cut])
        return Batch(self.kind, self.fingerprint, *numbers, tuple(part[cut] for part in self.parts))

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(sum(map(len, part)) for part in self.parts)


def batches(rows: Sequence[Row]) -> Iterator[Batch | int]:
    """Sort received rows into batches, in order; an int counts malformed messages that no receiver would take."""
    if not rows:
        return
    walls, monos, messages = zip(*rows, strict=True)
    # what nearly always holds, found without looking at each row by itself
    if len(messages[0]) > 2 and len(set(map(len, messages))) == 1:
        columns = tuple(zip(*messages, strict=True))[1:]
        if set(map(len, columns[0])) == {HEADER_SIZE} and max(map(len, columns[1])) <= MAX_METADATA:
            yield from _build(COLUMNS, walls, monos, columns)
            return
    for (kind, _count), group in groupby(rows, _sort_of):
        members = list(group)
        if kind == MALFORMED:
            yield len(members)
        else:
            walls, monos, messages = zip(*members, strict=True)
            yield from _build(kind, walls, monos, tuple(zip(*messages, strict=True))[1:])


def _sort_of(row: Row) -> tuple[str, int]:
    parts = row[2]
    count = len(parts)
    if count < 2 or len(parts[1]) < HEADER_SIZE:
        return MALFORMED, 0
    if count == 2 or len(parts[1]) > HEADER_SIZE or len(parts[2]) > MAX_METADATA:
        return WHOLE, count
    return COLUMNS, count


def _build(
    kind: str, walls: tuple[int, ...], monos: tuple[int, ...], columns: tuple[tuple[Any, ...], ...]
) -> Iterator[Batch]:
    count = len(walls)
    heads = columns[0] if kind == COLUMNS else [bytes(head[:HEADER_SIZE]) for head in columns[0]]
    if count <= FEW:
        fingerprints, published, sequences = zip(*STAMPS.iter_unpack(b"".join(heads)), strict=True)
        alike = fingerprints.count(fingerprints[0]) == count
        whole = Batch(kind, fingerprints[0], walls, monos, published, sequences, columns)
    else:
        headers = np.frombuffer(b"".join(heads), STAMPS_DTYPE)
        fingerprints = tuple(headers["fingerprint"].tolist())
        alike = fingerprints.count(fingerprints[0]) == count
        numbers = (np.array(walls, np.int64), np.array(monos, np.int64))
        headed = (headers["publish"].astype(np.int64), headers["sequence"].astype(np.uint64))
        whole = Batch(kind, fingerprints[0], *numbers, *headed, columns)
    if alike:
        yield whole
        return
    at = 0
    for fingerprint, group in groupby(fingerprints):
        stop = at + len(list(group))
        yield replace(whole.slice(at, stop), fingerprint=fingerprint)
        at = stop


def concatenate(parts: Sequence[Batch]) -> Iterator[Batch]:
    """The same messages in as few batches as their sorts allow."""
    for _sort, group in groupby(parts, lambda batch: (batch.kind, len(batch.parts), batch.fingerprint)):
        members = list(group)
        yield members[0] if len(members) == 1 else _joined(members)


def _joined(members: Sequence[Batch]) -> Batch:
    columns = zip(*(batch.parts for batch in members), strict=True)
    return Batch(
        members[0].kind,
        members[0].fingerprint,
        np.concatenate([np.asarray(batch.log_time, np.int64) for batch in members]),
        np.concatenate([np.asarray(batch.log_mono, np.int64) for batch in members]),
        np.concatenate([np.asarray(batch.publish_time, np.int64) for batch in members]),
        np.concatenate([np.asarray(batch.sequence, np.uint64) for batch in members]),
        tuple(tuple(chain.from_iterable(column)) for column in columns),
    )


def least_and_greatest(numbers: Numbers) -> tuple[int, int]:
    """Of numbers of a batch."""
    if isinstance(numbers, tuple):
        return min(numbers), max(numbers)
    return int(numbers.min()), int(numbers.max())


def int64_bytes(numbers: Numbers) -> bytes:
    """Signed numbers of a batch as little-endian int64."""
    if isinstance(numbers, tuple):
        return pack(f"<{len(numbers)}q", *numbers)
    return numbers.astype("<i8", copy=False).tobytes()
