"""What recover must bring back: which bytes of a bag each message needs, worked out from the undamaged bag."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py

from bag.storage.proven import open_proven
from bag.storage.reader import BagReader

Range = tuple[int, int]
Truth = dict[str, list[tuple[object, ...]]]


def contents(path: Path) -> Truth:
    """Every message of every topic: sequence, times, frames."""
    with BagReader(path) as reader:
        return {
            name: [
                (m.sequence, m.publish_time_ns, m.log_time_ns, m.log_mono_ns, tuple(map(bytes, m.frames)))
                for m in reader.raw(name, 0, len(topic))
            ]
            for name, topic in reader.topics.items()
        }


@dataclass(frozen=True)
class Proof:
    """A row of the tables of checksums: where it stands itself, and the bytes it speaks of."""

    row: Range
    start: int
    size: int
    crc: int
    packed: bool

    def holds(self, damaged: bytes, whole: bytes) -> bool:
        """Whether the row is still there, and its CRC (worked out here, by zlib) is that of the bytes."""
        low, high = self.row
        found = damaged[self.start : self.start + self.size]
        return damaged[low:high] == whole[low:high] and len(found) == self.size and zlib.crc32(found) == self.crc


Proofs = dict[tuple[int, int], list[Proof]]
# (column, chunk, bytes of the chunk that are needed)
Need = tuple[int, int, int]


def proofs(path: Path) -> Proofs:
    """(column, chunk) -> the rows that speak of it; from HDF5 alone."""
    found: Proofs = {}
    with h5py.File(path) as file:
        for name in ("checksums", "open_chunks"):
            table = file["_bag"][name]
            step, size = table.chunks[0], table.dtype.itemsize
            for number, row in enumerate(table[()]):
                chunk = table.id.get_chunk_info_by_coord((number // step * step,))
                at = chunk.byte_offset + number % step * size
                proof = Proof(
                    (at, at + size), int(row["offset"]), int(row["size"]), int(row["crc"]), bool(row["packed"])
                )
                found.setdefault((int(row["column"]), int(row["chunk"])), []).append(proof)
    return found


def needs(path: Path) -> dict[str, list[list[Need]]]:
    """Per topic and message the chunks that it needs, and how much of each."""
    out: dict[str, list[list[Need]]] = {}
    with open_proven(path) as bag:
        for name, topic in bag.topics.items():
            numbers = {item.path: item.number for item in bag.definitions.columns[topic.number]}

            def ranges(column_path, low, high, bag=bag, numbers=numbers):
                size = bag.dataset_at(column_path).column.chunk_bytes
                chunks = range(low // size, (high - 1) // size + 1) if high > low else ()
                return [(numbers[column_path], chunk, min(size, high - chunk * size)) for chunk in chunks]

            out[name] = [_needs_of(topic, number, ranges) for number in range(len(topic))]
    return out


def _needs_of(topic, number, ranges):
    (segment,) = topic.segments(number, number + 1)
    layout = topic.layout(segment.layout)
    found = ranges(topic._path_of("index"), number * 44, number * 44 + 44)
    row = topic.index(number, number + 1)[0]
    if layout.columns is not None:
        start = int(row["metadata_offset"])
        found += ranges(topic._path_of("metadata"), start, start + int(row["metadata_size"]))
    for column in topic.columns_of(layout):
        at, size = topic.row_of(column.number, number), column.spec.row_bytes
        if column.offsets is None:
            found += ranges(column.path, at * size, at * size + size)
        else:
            found += ranges(column.path + ".offsets", at * 8, at * 8 + 16)
            first, last = (int(end) * size for end in column.offsets[at : at + 2])
            found += ranges(column.path, first, last)
    return found


class Holding:
    """What still holds of a damaged bag."""

    def __init__(self, known: Proofs, whole: bytes, damaged: bytes) -> None:
        # (column, chunk) -> bytes of it that are proven
        self._proven: dict[tuple[int, int], float] = {}
        for key, rows in known.items():
            sizes = [float("inf") if row.packed else row.size for row in rows if row.holds(damaged, whole)]
            self._proven[key] = max(sizes, default=0)
        # definitions and runs: without them nobody knows what the bytes are
        self.book = all(
            self._proven[key] >= max(row.size for row in rows) for key, rows in known.items() if key[0] in (0, 1)
        )

    def all_of(self, needed: Iterable[Need]) -> bool:
        """Whether everything a message needs is proven."""
        return all(self._proven.get((column, chunk), 0) >= size for column, chunk, size in needed)


def damage(data: bytes, chance: random.Random) -> tuple[bytes, list[Range]]:
    """(the bytes with something wrong, where)."""
    out, kind = bytearray(data), chance.choice(("flip", "flips", "hole", "noise", "cut"))
    at = chance.randrange(len(out))
    if kind in ("flip", "flips"):
        places = [chance.randrange(len(out)) for _ in range(1 if kind == "flip" else chance.randint(2, 40))]
        for place in places:
            out[place] ^= chance.randint(1, 255)
        return bytes(out), [(place, place + 1) for place in places]
    if kind == "cut":
        at = chance.randrange(len(out) // 4, len(out))
        return bytes(out[:at]), [(at, len(out))]
    end = min(len(out), at + chance.choice((64, 512, 4096, 30_000)))
    out[at:end] = bytes(end - at) if kind == "hole" else chance.randbytes(end - at)
    return bytes(out), [(at, end)]
