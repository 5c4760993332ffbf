"""The tail: a sidecar that holds what arrived since the last commit, so that a killed recorder loses nothing.

It is a log of what the writer was told: definitions, batches, notes. A commit makes all of it obsolete and starts a new
tail for the next one; a tail that does not fit the last commit of the bag is stale. Where a commit is made a little at
a time, a record says where it began: what comes later is not part of it, and remains. Every record has a CRC; reading
stops at the first that is torn. Large frames are not repeated here: they already lie in the bag file beyond its
committed end, and the record only says where.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bag.storage.batch import Batch, Row, int64_bytes
from bag.storage.disk import RawFile, crc32

MAGIC = b"CXTAIL02"
# magic, commits of the bag so far, its committed end, where the first record is; the CRC of these
HEAD = struct.Struct("<8sQQQ")
HEAD_SIZE = HEAD.size + 4
# there is room for two, so that one is whole while the other is written
FIRST = 2 * HEAD_SIZE
# crc of the rest of the head and the payload; size of the payload, reach, kind
RECORD_CRC = struct.Struct("<I")
RECORD = struct.Struct("<QQB")
RECORD_SIZE = RECORD_CRC.size + RECORD.size
# channel, messages, parts
BATCH = struct.Struct("<III")
NOTE, BATCH_KIND, TURN = 1, 2, 3
# pieces of this much together are rather copied than handled one by one
SMALL_RECORD = 16 << 10
# how the same part of every message of a batch is written
SAME_SIZE, SIZES, CONSTANT, REFERENCES = range(4)
PART = struct.Struct("<BQ")
# number of pieces, crc of the part
REFERENCE = struct.Struct("<QI")
# offset and size in the bag file
PIECE = struct.Struct("<QQ")

# where bytes lie in the bag file: offset, size
Piece = tuple[int, int]


class Place(NamedTuple):
    """Where a frame lies in the bag file, and its CRC."""

    pieces: list[Piece]
    crc: int


# for one part of a batch: where that of each message lies
References = Sequence[Place]


@dataclass(frozen=True, slots=True)
class Record:
    """One whole record of a tail. The bytes of the bag file below `reach` must stay as they are to read it."""

    kind: int
    payload: bytes
    reach: int


class Tail:
    """Appends to the tail file.

    Args:
        file: the open sidecar, or None to keep no tail (what is written can be made again).
        commits: commits of the bag so far.
        end: committed end of the bag in bytes.
    """

    def __init__(self, file: RawFile | None, commits: int, end: int) -> None:
        self._file = file
        self._at = 0
        # where what a commit under way does not hold begins; 0: none is
        self._turned = 0
        # which of the two heads is the last
        self._place = 0
        self.restart(commits, end)

    def turn(self) -> None:
        """A commit begins; the `restart` after it keeps what is logged from now on."""
        self._append(TURN, [])
        self._turned = self._at

    def restart(self, commits: int, end: int) -> None:
        """Drop what this commit holds."""
        turned, self._turned = self._turned, 0
        if turned and self._at > turned:
            self._keep(commits, end, turned)
            return
        self._head, self._place = make_head(commits, end, FIRST).ljust(FIRST, b"\0"), 0
        if self._file is not None and (self._at or self._file.size()):
            self._file.truncate(0)
        self._at = 0

    # at every moment the tail can be read, though any write may be cut short
    def _keep(self, commits: int, end: int, start: int) -> None:
        assert self._file is not None
        self._write_head(commits, end, start)
        kept = self._file.read_at(start, self._at - start)
        if FIRST + len(kept) + RECORD_SIZE > start:
            return
        # zeros are no record: until the file is cut, what once stood behind them is not read
        self._file.write_at(FIRST, kept + bytes(RECORD_SIZE))
        self._write_head(commits, end, FIRST)
        self._at = FIRST + len(kept)
        self._file.truncate(self._at)

    def _write_head(self, commits: int, end: int, start: int) -> None:
        assert self._file is not None
        self._place = 1 - self._place
        self._file.write_at(self._place * HEAD_SIZE, make_head(commits, end, start))

    def note(self, note: dict[str, Any]) -> None:
        """Log anything that is not a batch, as JSON."""
        self._append(NOTE, [json.dumps(note).encode()])

    def batch(self, channel: int, batch: Batch, placed: Mapping[int, References]) -> None:
        """Log a batch; `placed[k]` says where part k of every message already lies in the bag file."""
        if self._file is None:
            return
        pieces: list[Any] = [BATCH.pack(channel, len(batch), len(batch.parts))]
        pieces.append(int64_bytes(batch.log_time) + int64_bytes(batch.log_mono))
        for number, part in enumerate(batch.parts):
            pieces.extend(_references(placed[number]) if number in placed else _inline(part))
        ends = (offset + size for places in placed.values() for where in places for offset, size in where.pieces)
        self._append(BATCH_KIND, pieces, max(ends, default=0))

    def _append(self, kind: int, pieces: list[Any], reach: int = 0) -> None:
        if self._file is None:
            return
        size = sum(map(len, pieces))
        if size < SMALL_RECORD:
            pieces = [b"".join(pieces)]
        head = RECORD.pack(size, reach, kind)
        crc = crc32(head)
        for piece in pieces:
            crc = crc32(piece, crc)
        start = b"" if self._at else self._head
        self._at += self._file.write_pieces_at(self._at, [start + RECORD_CRC.pack(crc) + head, *pieces])


def _inline(part: Sequence[Any]) -> list[Any]:
    first = part[0]
    size = len(first)
    if len(part) == 1:
        return [PART.pack(SAME_SIZE, size), first]
    if isinstance(first, bytes) and part.count(first) == len(part):
        return [PART.pack(CONSTANT, size), first]
    if set(map(len, part)) == {size}:
        return [PART.pack(SAME_SIZE, size), b"".join(part)]
    return [PART.pack(SIZES, 0), np.fromiter(map(len, part), "<u8", len(part)).tobytes(), b"".join(part)]


def _references(places: References) -> list[bytes]:
    out = [PART.pack(REFERENCES, 0)]
    for place in places:
        out.append(REFERENCE.pack(len(place.pieces), place.crc))
        out.extend(PIECE.pack(*piece) for piece in place.pieces)
    return [b"".join(out)]


def read_tail(file: RawFile, commits: int, end: int) -> Iterator[Record]:
    """Yield every whole record of a tail that continues the commit with this number and committed end."""
    heads = list(_heads(file))
    # of two for the same commit, the records were brought to the front after the first
    now = min((start for before, before_end, start in heads if (before, before_end) == (commits, end)), default=0)
    earlier = min((start for before, _end, start in heads if before + 1 == commits), default=0)
    if now:
        yield from (record for record in _records(file, now) if record.kind != TURN)
    elif earlier:
        # the commit was made, but that was not yet told here
        records = _records(file, earlier)
        for record in records:
            if record.kind == TURN:
                yield from records


def make_head(commits: int, end: int, start: int) -> bytes:
    """What stands at the beginning of a tail: commits of the bag, its committed end and the first record, in bytes."""
    head = HEAD.pack(MAGIC, commits, end, start)
    return head + RECORD_CRC.pack(crc32(head))


def _heads(file: RawFile) -> Iterator[tuple[int, int, int]]:
    for place in range(2):
        head = file.read_at(place * HEAD_SIZE, HEAD_SIZE)
        if len(head) == HEAD_SIZE and head[HEAD.size :] == RECORD_CRC.pack(crc32(head[: HEAD.size])):
            magic, *told = HEAD.unpack_from(head)
            if magic == MAGIC:
                yield told[0], told[1], told[2]


def _records(file: RawFile, at: int) -> Iterator[Record]:
    stop = file.size()
    while at + RECORD_SIZE <= stop:
        head = file.read_at(at, RECORD_SIZE)
        size, reach, kind = RECORD.unpack_from(head, RECORD_CRC.size)
        if at + RECORD_SIZE + size > stop:
            return
        payload = file.read_at(at + RECORD_SIZE, size)
        if crc32(payload, crc32(head[RECORD_CRC.size :])) != RECORD_CRC.unpack_from(head)[0]:
            return
        yield Record(kind, payload, reach)
        at += RECORD_SIZE + size


def decode_batch(payload: bytes, topic: bytes, fetch: Callable[[int, int], bytes]) -> list[Row]:
    """Rows of a batch record; `fetch(offset, size)` reads what the record only refers to.

    A part whose bytes are not there, or not what they were, is None.

    Raises:
        ValueError, struct.error: the payload is not that of a batch.
    """
    _channel, count, parts = BATCH.unpack_from(payload)
    times = np.frombuffer(payload, "<i8", 2 * count, BATCH.size).tolist()
    at = BATCH.size + 16 * count
    columns: list[Sequence[bytes | None]] = []
    for _ in range(parts):
        column, at = _decode_part(payload, at, count, fetch)
        columns.append(column)
    rows = zip(times[:count], times[count:], *columns, strict=True)
    return [(wall, mono, [topic, *frames]) for wall, mono, *frames in rows]


def _decode_part(
    payload: bytes, at: int, count: int, fetch: Callable[[int, int], bytes]
) -> tuple[Sequence[bytes | None], int]:
    mode, size = PART.unpack_from(payload, at)
    at += PART.size
    if mode == REFERENCES:
        return _decode_references(payload, at, count, fetch)
    if mode == CONSTANT:
        sizes, each = [size], count
    elif mode == SAME_SIZE:
        sizes, each = [size] * count, 1
    elif mode == SIZES:
        sizes, each = np.frombuffer(payload, "<u8", count, at).tolist(), 1
        at += 8 * count
    else:
        raise ValueError(f"a part is written in the unknown way {mode}")
    if at + sum(sizes) > len(payload):
        raise ValueError("a batch is shorter than it says")
    out: list[bytes | None] = []
    for length in sizes:
        out.append(payload[at : at + length])
        at += length
    return out * each, at


def _decode_references(
    payload: bytes, at: int, count: int, fetch: Callable[[int, int], bytes]
) -> tuple[Sequence[bytes | None], int]:
    out: list[bytes | None] = []
    for _ in range(count):
        pieces, crc = REFERENCE.unpack_from(payload, at)
        at += REFERENCE.size
        places = [PIECE.unpack_from(payload, at + PIECE.size * number) for number in range(pieces)]
        at += PIECE.size * pieces
        frame = b"".join(fetch(*place) for place in places)
        out.append(frame if crc32(frame) == crc else None)
    return out, at
