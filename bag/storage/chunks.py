"""The bytes of every column, found and proven by the table of checksums alone.

The table says where each chunk lies in the file and what its CRC is, so a column can be read, byte by byte proven,
without asking HDF5: this is what verify checks, what edits copy, and what is left when HDF5's own structures are
damaged. A chunk that was topped up by several commits has a row for each; a row whose predecessor is right proves
what was added, and any row proves everything before it, so damage costs no more than the commit it hit.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bag.errors import IntegrityError
from bag.storage.disk import Buffer, crc32
from bag.storage.layout import CHECKSUM_DTYPE

BLOCK = 8 << 20
# a larger chunk could be put right in a wrong way: the odds are its bytes in 2^24
MENDABLE = 16 << 10
# stored bytes, bytes they stand for -> those bytes
Decoder = Callable[[bytes, int], bytes]
Span = tuple[int, int]


class InputFile:
    """A file that is only read, by offset.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Bytes at `offset`; fewer only where the file ends."""
        data = os.pread(self._file.fileno(), size, offset)
        while 0 < len(data) < size and (more := os.pread(self._file.fileno(), size - len(data), offset + len(data))):
            data += more
        return data

    def crc(self, offset: int, size: int, seed: int = 0) -> int:
        """CRC of a range, in bounded memory."""
        for at in range(offset, offset + size, BLOCK):
            seed = crc32(self.read(at, min(BLOCK, offset + size - at)), seed)
        return seed

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of a column: where it lies, and (size, crc) pairs by size, each over the chunk's first `size` bytes.

    `packed`: it passed the filters of its column.
    """

    number: int
    offset: int
    sizes: tuple[int, ...]
    crcs: tuple[int, ...]
    packed: bool = False

    @property
    def size(self) -> int:
        """Bytes of the chunk that the table speaks of."""
        return self.sizes[-1]


class ColumnBytes:
    """The bytes of one column in row order.

    Args:
        file: the bag's file.
        name: what messages call the column.
        chunks: its chunks by number.
        decode: turns a packed chunk into its bytes, for a compressed column.
        chunk_bytes: bytes of a whole chunk, where the table cannot tell (compressed columns).
        mend: put right a small chunk of which a single byte is wrong.
    """

    def __init__(
        self,
        file: InputFile,
        name: str,
        chunks: dict[int, Chunk],
        decode: Decoder | None = None,
        chunk_bytes: int = 0,
        *,
        mend: bool = False,
    ) -> None:
        self.name = name
        # chunks that were put right, by number
        self.mended: dict[int, bytes] = {}
        self._mend = mend
        self.chunks = chunks
        self._file = file
        self._decode = decode
        self.chunk_bytes = chunk_bytes or self._guess_chunk_bytes()
        self._cached: tuple[int, tuple[bytes, list[Span]]] = (-1, (b"", []))

    # every chunk but the last was written whole
    def _guess_chunk_bytes(self) -> int:
        if not self.chunks:
            return 1
        last = max(self.chunks)
        return max(
            (chunk.size for number, chunk in self.chunks.items() if number != last), default=self.chunks[last].size
        )

    @property
    def filled_up(self) -> bool:
        """Whether the last chunk is packed, and so may hold more than the rows."""
        return bool(self.chunks) and self._is_packed(self.chunks[max(self.chunks)])

    def _is_packed(self, chunk: Chunk) -> bool:
        return chunk.packed and self._decode is not None

    @property
    def size(self) -> int:
        """Bytes from the first row to the end of what the table speaks of."""
        if not self.chunks:
            return 0
        last = max(self.chunks)
        return last * self.chunk_bytes + (self.chunk_bytes if self.filled_up else self.chunks[last].size)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes start..stop-1, proven.

        Raises:
            IntegrityError: they are not what was written, or not there.
        """
        pieces = list(self.pieces(start, stop))
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def pieces(self, start: int, stop: int) -> Iterator[Buffer]:
        """The same, a chunk at a time and without a copy."""
        while start < stop:
            number, low = divmod(start, self.chunk_bytes)
            high = min(self.chunk_bytes, low + stop - start)
            yield self._part(number, low, high)
            start += high - low

    def _part(self, number: int, low: int, high: int) -> Buffer:
        data, good = self._proven_chunk(number)
        if high > max(len(data), self.chunks[number].size):
            raise IntegrityError(f"{self._file.path}: {self.name} ends before its index says; {self._advice}")
        if not any(first <= low and high <= last for first, last in good):
            raise IntegrityError(
                f"{self._file.path}: chunk {number} of {self.name} (at byte {self.chunks[number].offset}) is damaged: "
                f"its checksum does not hold; {self._advice}"
            )
        return data if (low, high) == (0, len(data)) else memoryview(data)[low:high]

    # bytes of a chunk, and which of them are proven
    def _proven_chunk(self, number: int) -> tuple[bytes, list[Span]]:
        if self._cached[0] == number:
            return self._cached[1]
        chunk = self.chunks.get(number)
        if chunk is None:
            raise IntegrityError(f"{self._file.path}: chunk {number} of {self.name} is not in the file; {self._advice}")
        if number in self.mended:
            data, good = self.mended[number], [(0, chunk.size)]
        else:
            data = self._file.read(chunk.offset, chunk.size)
            good = spans_of(chunk, data)
        if chunk.packed and self._decode is not None:
            whole = good == [(0, chunk.size)]
            data = self._decode(data, self.chunk_bytes) if whole else b""
            good = [(0, len(data))] if whole else []
        self._cached = (number, (data, good))
        return data, good

    # the proven ranges of a chunk as it is stored
    def _stored_spans(self, chunk: Chunk) -> list[Span]:
        good = proven_spans(self._file, chunk)
        whole = [(0, chunk.size)]
        if good != whole and self._mend and chunk.size <= MENDABLE:
            data = mended(self._file.read(chunk.offset, chunk.size), chunk.crcs[-1])
            if data is not None and len(data) == chunk.size:
                self.mended[chunk.number] = data
                return whole
        return good

    @property
    def _advice(self) -> str:
        return f"save what is whole with: cortex bag recover {self._file.path}"

    def forget(self) -> None:
        """Drop what is kept in memory for the next read."""
        self._cached = (-1, (b"", []))

    def proven(self) -> Iterator[tuple[int, Span]]:
        """(chunk number, byte range within the column) of everything whose CRC holds, in order; reads all of it."""
        for number in sorted(self.chunks):
            chunk = self.chunks[number]
            base = number * self.chunk_bytes
            for low, high in self._stored_spans(chunk):
                if not self._is_packed(chunk):
                    yield number, (base + low, base + min(high, self.chunk_bytes))
                elif (low, high) == (0, chunk.size):
                    yield number, (base, base + self.chunk_bytes)

    def read_spans(self) -> Iterator[tuple[int, bytes]]:
        """(offset in the column, bytes) of everything whose CRC holds."""
        for number, (low, high) in self.proven():
            if self._is_packed(self.chunks[number]) or number in self.mended:
                yield low, self._proven_chunk(number)[0]
            else:
                yield low, self._file.read(self.chunks[number].offset + low - number * self.chunk_bytes, high - low)


def mended(data: bytes, wanted: int) -> bytes | None:
    """The bytes with the one byte changed that makes their CRC `wanted`; None when no single byte does.

    The CRC is linear: the difference that one wrong byte makes is followed back from the end to where it began.
    """
    difference = crc32(data) ^ wanted
    for at in range(len(data) - 1, -1, -1):
        low = _BY_TOP[difference >> 24]
        difference = ((difference ^ _STEP[low]) << 8 | low) & 0xFFFFFFFF
        if 0 < difference < 256:
            return data[:at] + bytes([data[at] ^ difference]) + data[at + 1 :]
    return None


def _step(byte: int) -> int:
    for _bit in range(8):
        byte = byte >> 1 ^ (0xEDB88320 if byte & 1 else 0)
    return byte


# what a byte does to the CRC, and which byte does so to its highest eight bits
_STEP = tuple(_step(byte) for byte in range(256))
_BY_TOP = {step >> 24: byte for byte, step in enumerate(_STEP)}


def spans_of(chunk: Chunk, data: bytes) -> list[Span]:
    """Which ranges of a chunk's bytes its CRCs prove."""
    view = memoryview(data)
    return _spans(chunk, len(data), lambda start, stop, seed: crc32(view[start:stop], seed))


def proven_spans(file: InputFile, chunk: Chunk) -> list[Span]:
    """The same, for bytes that are in the file; in bounded memory."""
    return _spans(
        chunk, file.size - chunk.offset, lambda start, stop, seed: file.crc(chunk.offset + start, stop - start, seed)
    )


def _spans(chunk: Chunk, available: int, crc: Callable[[int, int, int], int]) -> list[Span]:
    good: list[Span] = []
    start = actual = expected = 0
    for size, wanted in zip(chunk.sizes, chunk.crcs, strict=True):
        if size > available:
            break
        if size == start:
            continue
        found = crc(start, size, actual)
        if found == wanted:
            good = [(0, size)]
        elif actual != expected and crc(start, size, expected) == wanted:
            # what came before is damaged, but this is what was added to it
            good.append((start, size))
        start, actual, expected = size, found, wanted
    return _joined(good)


def _joined(spans: list[Span]) -> list[Span]:
    out: list[Span] = []
    for low, high in spans:
        if out and out[-1][1] == low:
            out[-1] = (out[-1][0], high)
        else:
            out.append((low, high))
    return out


def chunks_of(table: NDArray[Any], file_size: int) -> dict[int, dict[int, Chunk]]:
    """Sort the table of checksums: column number -> chunk number -> chunk.

    Rows that cannot be true (beyond the file, empty) are dropped, and where rows of one chunk
    disagree about its place, the minority; a chunk that was packed in the end is what it was then.
    """
    table = table.astype(CHECKSUM_DTYPE, copy=False)
    sane = (table["size"] > 0) & (table["offset"] < file_size)
    table = table[sane]
    table = table[np.lexsort((table["size"], table["chunk"], table["column"]))]
    keys = np.stack([table["column"].astype(np.uint64), table["chunk"]], axis=1)
    changes = np.flatnonzero((keys[1:] != keys[:-1]).any(axis=1)) + 1 if len(table) else np.zeros(0, np.int64)
    out: dict[int, dict[int, Chunk]] = {}
    bounds = [0, *changes.tolist(), len(table)]
    for start, stop in itertools.pairwise(bounds):
        if start == stop:
            continue
        rows = table[start:stop]
        if rows["packed"].any():
            rows = rows[rows["packed"] != 0]
        offsets = rows["offset"]
        if len(rows) > 1 and (offsets != offsets[0]).any():
            places, votes = np.unique(offsets, return_counts=True)
            rows = rows[offsets == places[int(np.argmax(votes))]]
        chunk = Chunk(
            int(rows["chunk"][0]),
            int(rows["offset"][0]),
            tuple(rows["size"].tolist()),
            tuple(rows["crc"].tolist()),
            bool(rows["packed"][0]),
        )
        out.setdefault(int(rows["column"][0]), {})[chunk.number] = chunk
    return out
