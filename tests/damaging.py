"""What recover must bring back: which bytes of a bag each message needs, worked out from the undamaged bag."""

from __future__ import annotations

import random
from collections.abc import Iterable
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


def needs(path: Path) -> tuple[dict[str, list[list[Range]]], list[Range]]:
    """Per topic and message the byte ranges of chunks and of their checksums; and what all of them need."""
    rows = _checksum_places(path)
    out: dict[str, list[list[Range]]] = {}
    with open_proven(path) as bag:
        for name, topic in bag.topics.items():
            numbers = {item.path: item.number for item in bag.definitions.columns[topic.number]}

            def ranges(column_path, low, high, bag=bag, numbers=numbers):
                size = bag.dataset_at(column_path).column.chunk_bytes
                if high <= low:
                    return []
                chunks = range(low // size, (high - 1) // size + 1)
                return [span for chunk in chunks for span in rows[numbers[column_path], chunk]]

            for number in range(len(topic)):
                out.setdefault(name, []).append(_needs_of(topic, number, ranges))
    book = [span for (column, _chunk), spans in rows.items() if column in (0, 1) for span in spans]
    return out, book


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


# (column, chunk) -> where the chunk lies, and where its checksum stands
def _checksum_places(path: Path) -> dict[tuple[int, int], list[Range]]:
    places: dict[tuple[int, int], list[Range]] = {}
    with h5py.File(path) as file:
        for name in ("checksums", "open_chunks"):
            table = file["_bag"][name]
            step, size = table.chunks[0], table.dtype.itemsize
            for number, row in enumerate(table[()]):
                chunk = table.id.get_chunk_info_by_coord((number // step * step,))
                at = chunk.byte_offset + number % step * size
                start = int(row["offset"])
                spans = [(start, start + int(row["size"])), (at, at + size)]
                places.setdefault((int(row["column"]), int(row["chunk"])), []).extend(spans)
    return places


def hit(needed: Iterable[Range], hurt: Iterable[Range]) -> bool:
    """Whether any of the needed ranges was hurt."""
    return any(low < last and first < high for low, high in needed for first, last in hurt)


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
