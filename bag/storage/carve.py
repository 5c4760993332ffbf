"""Finds a bag's table of checksums without HDF5, in a file whose own structures are damaged, torn or gone.

HDF5 keeps the addresses of a dataset's chunks in B-tree leaves, which carry the signature `TREE` (HDF5 File Format
Specification III.A.1), so the chunks of the table are found by looking for leaves whose entries have its chunk
size. Where leaves are missing, too, the file is searched for stretches that look like rows of the table. Nothing found
counts until a CRC in it proves the bytes it speaks of.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bag.storage.chunks import InputFile
from bag.storage.layout import CHECKSUM_DTYPE, SMALL_CHUNK, chunk_rows

SIGNATURE = b"TREE"
# signature, node type (1 = chunks), level, entries, left and right sibling
NODE = struct.Struct("<4sBBHQQ")
# of a one-dimensional dataset: stored bytes, filter mask, first row, 0, address
ENTRY = np.dtype([("size", "<u4"), ("mask", "<u4"), ("row", "<u8"), ("zero", "<u8"), ("address", "<u8")])
MAX_ENTRIES = 4096
NOWHERE = 2**64 - 1

ROW = CHECKSUM_DTYPE.itemsize
ROWS = chunk_rows(ROW, SMALL_CHUNK)
# of the table of chunks that are still filling
OPEN_ROWS = 16
# so many plausible rows in sequence are taken for a piece of the table
STREAK = 3
BLOCK = 4 << 20
# bytes of a row that are 0 in every file below 256 TiB with fewer than 65536 columns and 2^32 chunks a column
ZEROS = (2, 3, 16, 17, 18, 19, 26, 27)


def find_table(file: InputFile) -> NDArray[Any]:
    """Rows of the tables of checksums, those of full chunks first and in the order they were written, where that is
    known."""
    places = list(_signatures(file))
    chunks, whole = _by_leaves(file, places, ROWS)
    filling, _whole = _by_leaves(file, places, OPEN_ROWS)
    table = in_step(_rows_of(file, chunks, ROWS))
    table = np.concatenate([table, _rows_of(file, filling, OPEN_ROWS)])
    if not whole or not filling:
        found = np.unique(np.concatenate([table, *_by_rows(file)]))
        table = found[np.isin(found["column"], _proven_columns(file, found))]
    return table


def _rows_of(file: InputFile, chunks: dict[int, int], rows: int) -> NDArray[Any]:
    pieces = [_rows_at(file, address, rows) for _row, address in sorted(chunks.items())]
    table = np.concatenate(pieces) if pieces else np.zeros(0, CHECKSUM_DTYPE)
    return table[plausible(table, file.size)]


def in_step(table: NDArray[Any]) -> NDArray[Any]:
    """Drop rows that are out of step with the rows of their column before and after: a damaged number.

    The chunks of a column are written one after the other, so from row to row the number stays or grows by one.
    """
    keep = np.ones(len(table), bool)
    order = np.argsort(table["column"], kind="stable")
    column, chunk = table["column"][order], table["chunk"][order].astype(np.int64)
    same = column[1:] == column[:-1]
    steps = np.where(same, np.diff(chunk), 0)
    fits = (steps >= 0) & (steps <= 1)
    before = np.concatenate([[True], fits | ~same])
    after = np.concatenate([fits | ~same, [True]])
    keep[order] = before | after
    return table[keep]


def _proven_columns(file: InputFile, table: NDArray[Any]) -> list[int]:
    proven = []
    for column in np.unique(table["column"]).tolist():
        rows = table[table["column"] == column]
        if any(file.crc(row["offset"], row["size"]) == row["crc"] for row in map(_named, rows.tolist())):
            proven.append(column)
    return proven


def _named(row: tuple[Any, ...]) -> dict[str, int]:
    return dict(zip(CHECKSUM_DTYPE.names or (), row, strict=True))


def plausible(table: NDArray[Any], file_size: int) -> NDArray[np.bool_]:
    """Which rows can be true: they speak of bytes inside the file."""
    ends = table["offset"] + table["size"]
    fits = (table["size"] > 0) & (table["offset"] < file_size) & (ends <= file_size) & (table["offset"] > 0)
    return np.asarray(fits & (table["column"] < 1 << 20) & (table["chunk"] < 1 << 40))


def _blocks(file: InputFile, overlap: int) -> Iterator[tuple[int, bytes]]:
    for at in range(0, file.size, BLOCK):
        yield at, file.read(at, BLOCK + overlap)


# addresses by first row, and whether the leaves found hang together without a hole
def _by_leaves(file: InputFile, places: list[int], rows: int) -> tuple[dict[int, int], bool]:
    chunks: dict[int, int] = {}
    rights: set[int] = set()
    nodes: set[int] = set()
    for place in places:
        leaf = _leaf(file, place, rows)
        if leaf is None:
            continue
        entries, right = leaf
        nodes.add(place)
        rights.add(right)
        for row, address in zip(entries["row"].tolist(), entries["address"].tolist(), strict=True):
            if row not in chunks or _looks_like_rows(file, address):
                chunks[row] = address
    firsts = sorted(chunks)
    whole = bool(firsts) and firsts == list(range(0, len(firsts) * rows, rows)) and rights - {NOWHERE} <= nodes
    return chunks, whole


def _signatures(file: InputFile) -> Iterator[int]:
    for at, block in _blocks(file, len(SIGNATURE) - 1):
        found = block.find(SIGNATURE)
        while found >= 0:
            yield at + found
            found = block.find(SIGNATURE, found + 1)


def _leaf(file: InputFile, place: int, rows: int) -> tuple[NDArray[Any], int] | None:
    head = file.read(place, NODE.size)
    if len(head) < NODE.size:
        return None
    _signature, kind, level, count, _left, right = NODE.unpack(head)
    if kind != 1 or level != 0 or not 0 < count <= MAX_ENTRIES:
        return None
    data = file.read(place + NODE.size, count * ENTRY.itemsize)
    entries = np.frombuffer(data, ENTRY, len(data) // ENTRY.itemsize)
    ours = (entries["size"] == rows * ROW) & (entries["mask"] == 0) & (entries["zero"] == 0)
    ours &= (entries["row"] % rows == 0) & (entries["address"] < file.size) & (entries["row"] < 1 << 40)
    # a leaf of another dataset has no such entry at all, a damaged one of ours still has most
    if not ours.any() or not _looks_like_rows(file, int(entries["address"][ours][0])):
        return None
    return entries[ours], right


def _rows_at(file: InputFile, address: int, rows: int) -> NDArray[Any]:
    data = file.read(address, rows * ROW)
    return np.frombuffer(data, CHECKSUM_DTYPE, len(data) // ROW)


def _looks_like_rows(file: InputFile, address: int) -> bool:
    rows = _rows_at(file, address, STREAK)
    return bool(len(rows) and plausible(rows, file.size).any())


# stretches of at least STREAK plausible rows, wherever they begin
def _by_rows(file: InputFile) -> Iterator[NDArray[Any]]:
    reach = ROW * STREAK
    for _at, block in _blocks(file, reach + ROW * ROWS):
        data = np.frombuffer(block, np.uint8)
        places = len(data) - reach
        if places <= 0:
            continue
        zero = data == 0
        hits = np.ones(places, bool)
        for row in range(STREAK):
            for position in ZEROS:
                hits &= zero[row * ROW + position :][:places]
        # of a stretch of zeros nothing is left here: a row has a size
        hits &= ~(zero[8:][:places] & zero[9:][:places] & zero[10:][:places] & zero[11:][:places])
        yield from _stretches(block, np.flatnonzero(hits), file.size)


def _stretches(block: bytes, starts: NDArray[np.int64], file_size: int) -> Iterator[NDArray[Any]]:
    # by alignment: a stretch may seem to begin a byte before or behind where it does
    beyond: dict[int, int] = {}
    for start in starts.tolist():
        if start < beyond.get(start % ROW, 0):
            continue
        rows = np.frombuffer(block, CHECKSUM_DTYPE, min(ROWS, (len(block) - start) // ROW), start)
        good = plausible(rows, file_size)
        if good[:STREAK].all():
            length = int(np.argmin(good)) if not good.all() else len(good)
            beyond[start % ROW] = start + length * ROW
            yield rows[:length]
