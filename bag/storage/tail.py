"""The tail: a sidecar that holds what arrived since the last commit, so that a killed recorder loses nothing.

It is a log of what the writer was told: definitions, batches, notes. A commit makes all of it obsolete and starts a new
tail under the next commit number, so a tail whose number is not the bag's is stale. Every record has a CRC; reading
stops at the first that is torn. Large frames are not repeated here: they already lie in the bag file beyond
its committed end, and the record only says where.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bag.storage.batch import Batch, Row
from bag.storage.column import Piece
from bag.storage.disk import RawFile, crc32

MAGIC = b"CXTAIL01"
HEAD = struct.Struct("<8sQ")
# payload size, crc of the payload, kind
RECORD = struct.Struct("<QIB")
BATCH = struct.Struct("<IIH")
NOTE, BATCH_KIND = 1, 2
# how the same part of every message of a batch is written
SAME_SIZE, SIZES, CONSTANT, REFERENCES = range(4)
PART = struct.Struct("<BQ")
REFERENCE = struct.Struct("<QI")
PIECE = struct.Struct("<QQ")

# for one part of a batch: per message the pieces in the bag file
References = Sequence[Sequence[Piece]]


class Tail:
    """Appends to the tail file.

    Args:
        file: the open sidecar, or None to keep no tail (what is written can be made again).
        number: commits of the bag so far.
    """

    def __init__(self, file: RawFile | None, number: int) -> None:
        self._file = file
        self._end = 0
        self.restart(number)

    def restart(self, number: int) -> None:
        """Drop everything: commit `number` holds it."""
        self._number = number
        if self._file is not None and (self._end or self._file.size()):
            self._file.truncate(0)
        self._end = 0

    def note(self, note: dict[str, Any]) -> None:
        """Log anything that is not a batch, as JSON."""
        self._append(NOTE, [json.dumps(note).encode()])

    def batch(self, channel: int, batch: Batch, placed: dict[int, References]) -> None:
        """Log a batch; `placed[k]` says where part k of every message already lies in the bag file."""
        if self._file is None:
            return
        pieces: list[Any] = [BATCH.pack(channel, len(batch), len(batch.parts)), batch.log_time.tobytes()]
        pieces.append(batch.log_mono.tobytes())
        for number, part in enumerate(batch.parts):
            pieces.extend(_references(part, placed[number]) if number in placed else _inline(part))
        self._append(BATCH_KIND, pieces)

    def _append(self, kind: int, pieces: list[Any]) -> None:
        if self._file is None:
            return
        if self._end == 0:
            self._file.write_at(0, HEAD.pack(MAGIC, self._number))
            self._end = HEAD.size
        crc = size = 0
        for piece in pieces:
            crc = crc32(piece, crc)
            size += len(piece)
        self._end += self._file.write_pieces_at(self._end, [RECORD.pack(size, crc, kind), *pieces])


def _inline(part: Sequence[Any]) -> list[Any]:
    first = part[0]
    size = len(first)
    if len(part) == 1:
        return [PART.pack(SAME_SIZE, size), first]
    sizes = np.fromiter(map(len, part), np.uint64, len(part))
    if (sizes != size).any():
        return [PART.pack(SIZES, 0), sizes.tobytes(), b"".join(part)]
    if isinstance(first, bytes) and part.count(first) == len(part):
        return [PART.pack(CONSTANT, size), first]
    return [PART.pack(SAME_SIZE, size), b"".join(part)]


def _references(part: Sequence[Any], places: References) -> list[bytes]:
    out = [PART.pack(REFERENCES, 0)]
    for frame, pieces in zip(part, places, strict=True):
        out.append(REFERENCE.pack(len(pieces), crc32(frame)))
        out.extend(PIECE.pack(*piece) for piece in pieces)
    return [b"".join(out)]


def read_tail(file: RawFile, number: int) -> Iterator[tuple[int, bytes]]:
    """Yield (kind, payload) of every whole record of a tail that belongs to commit `number`."""
    head = file.read_at(0, HEAD.size)
    if len(head) < HEAD.size or HEAD.unpack(head) != (MAGIC, number):
        return
    at, end = HEAD.size, file.size()
    while at + RECORD.size <= end:
        size, crc, kind = RECORD.unpack(file.read_at(at, RECORD.size))
        if at + RECORD.size + size > end:
            return
        payload = file.read_at(at + RECORD.size, size)
        if crc32(payload) != crc:
            return
        yield kind, payload
        at += RECORD.size + size


def decode_batch(payload: bytes, topic: bytes, fetch: Callable[[int, int], bytes]) -> tuple[int, list[Row]]:
    """Channel and rows of a batch record; `fetch(offset, size)` reads what the record only refers to.

    Rows whose referred bytes are damaged end the list: nothing after them may be trusted either.
    """
    channel, count, parts = BATCH.unpack_from(payload)
    at = BATCH.size
    log_time = np.frombuffer(payload, np.int64, count, at).tolist()
    log_mono = np.frombuffer(payload, np.int64, count, at + 8 * count).tolist()
    at += 16 * count
    columns: list[list[bytes | None]] = []
    for _ in range(parts):
        column, at = _decode_part(payload, at, count, fetch)
        columns.append(column)
    rows: list[Row] = []
    for wall, mono, *frames in zip(log_time, log_mono, *columns, strict=True):
        if None in frames:
            break
        rows.append((wall, mono, [topic, *frames]))
    return channel, rows


def _decode_part(
    payload: bytes, at: int, count: int, fetch: Callable[[int, int], bytes]
) -> tuple[list[bytes | None], int]:
    mode, size = PART.unpack_from(payload, at)
    at += PART.size
    out: list[bytes | None] = []
    if mode == CONSTANT:
        return [payload[at : at + size]] * count, at + size
    if mode == REFERENCES:
        for _ in range(count):
            pieces, crc = REFERENCE.unpack_from(payload, at)
            at += REFERENCE.size
            places = [PIECE.unpack_from(payload, at + PIECE.size * k) for k in range(pieces)]
            at += PIECE.size * pieces
            frame = b"".join(fetch(*place) for place in places)
            out.append(frame if crc32(frame) == crc else None)
        return out, at
    sizes = [size] * count if mode == SAME_SIZE else np.frombuffer(payload, np.uint64, count, at).tolist()
    at += 0 if mode == SAME_SIZE else 8 * count
    for length in sizes:
        out.append(payload[at : at + length])
        at += length
    return out, at
