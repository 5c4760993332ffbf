"""Takes one value out of thousands of metadata frames at once.

Metadata frames of a topic mostly differ only in the bytes of their values: the same keys, the same types, other
numbers. So one frame is walked byte by byte to learn where its values stand; every frame of the same length whose
other bytes are equal has its value at the same place, and numpy cuts all of them out in one step. What fits no template
is decoded one by one with `cortex.codec`, which is also what decides what a malformed frame is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bag.paths import Path, matches, value_at
from bag.storage.bulk import MetadataBlock
from cortex.codec import unpack_metadata
from cortex.errors import CodecError

# after so many templates, or templates that fit so few frames, the rest is decoded one by one
MAX_TEMPLATES = 24
FEW = 4
# a matrix of frames is compared in pieces of at most this many bytes
MATRIX_BYTES = 16 << 20

# tag: (dtype of the value, bytes after the tag)
NUMBERS = {
    0xCA: ">f4",
    0xCB: ">f8",
    0xCC: ">u1",
    0xCD: ">u2",
    0xCE: ">u4",
    0xCF: ">u8",
    0xD0: ">i1",
    0xD1: ">i2",
    0xD2: ">i4",
    0xD3: ">i8",
}
LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
BINS, STRINGS, ARRAYS, MAPS = (0xC4, 0xC5, 0xC6), (0xD9, 0xDA, 0xDB), (0xDC, 0xDD), (0xDE, 0xDF)


class Missing:
    """Stands where a message has no value at a path; there is one, `MISSING`."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = Missing()


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value: its path, what it is, and where its bytes stand in the frame (none of its own for a container)."""

    path: Path
    kind: str
    start: int
    size: int


class _UnwalkableError(Exception):
    """The frame holds something a template cannot describe."""


@dataclass(slots=True)
class Extracted:
    """Values of one kind and the numbers of the frames they belong to."""

    frames: NDArray[np.int64]
    values: NDArray[Any]


def extract(block: MetadataBlock, path: Path) -> list[Extracted]:
    """The value at `path` of every distinct frame of a block, grouped by type; `MISSING` where there is none."""
    left = np.arange(len(block.starts))
    out: list[Extracted] = []
    poor = 0
    for _attempt in range(MAX_TEMPLATES):
        if not len(left) or poor >= FEW:
            break
        fit, values = _by_template(block, left, path)
        if values is None:
            break
        out.append(Extracted(left[fit], values))
        poor += int(fit.sum()) < FEW
        left = left[~fit]
    if len(left):
        out.append(Extracted(left, _one_by_one(block, left, path)))
    return out


def _by_template(
    block: MetadataBlock, left: NDArray[np.int64], path: Path
) -> tuple[NDArray[np.bool_], NDArray[Any] | None]:
    size = int(block.sizes[left[0]])
    template = block.frame(int(left[0]))
    try:
        leaves = list(walk(template))
    except (_UnwalkableError, IndexError):
        return np.zeros(len(left), bool), None
    # of a key that comes twice the decoder keeps the last value
    wanted = next((leaf for leaf in reversed(leaves) if matches(leaf.path, path)), None)
    if wanted is not None and wanted.kind == "container":
        return np.zeros(len(left), bool), None
    free = np.zeros(size, bool)
    for leaf in leaves:
        free[leaf.start : leaf.start + leaf.size] = True
    candidates = np.flatnonzero(block.sizes[left] == size)
    fit = np.zeros(len(left), bool)
    pieces = []
    step = max(1, MATRIX_BYTES // max(1, size))
    for at in range(0, len(candidates), step):
        some = candidates[at : at + step]
        matrix = _matrix(block, left[some], size)
        good = _fits(matrix, np.frombuffer(template, np.uint8), free, leaves)
        fit[some[good]] = True
        rows = matrix if good.all() else matrix[good]
        pieces.append(_absent(len(rows)) if wanted is None else _values(rows, wanted))
    return fit, pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _matrix(block: MetadataBlock, frames: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    starts = block.starts[frames]
    first, last = int(starts[0]), int(starts[-1])
    if last - first == size * (len(starts) - 1) and (len(starts) < 3 or (np.diff(starts) == size).all()):
        return block.data[first : last + size].reshape(len(starts), size)
    windows = np.lib.stride_tricks.sliding_window_view(block.data, size)
    return np.asarray(windows[starts])


def _fits(
    matrix: NDArray[np.uint8], template: NDArray[np.uint8], free: NDArray[np.bool_], leaves: list[Leaf]
) -> NDArray[np.bool_]:
    fixed = np.flatnonzero(~free)
    good = np.ones(len(matrix), bool)
    cuts = np.flatnonzero(np.diff(fixed) > 1) + 1
    for piece in np.split(fixed, cuts) if len(fixed) else []:
        low, high = int(piece[0]), int(piece[-1]) + 1
        good &= (matrix[:, low:high] == template[low:high]).all(axis=1)
    for leaf in leaves:
        # values of one byte are their own tag
        if leaf.kind == "fixint":
            good &= matrix[:, leaf.start] < 0x80
        elif leaf.kind == "negative":
            good &= matrix[:, leaf.start] >= 0xE0
        elif leaf.kind == "bool":
            good &= matrix[:, leaf.start] & 0xFE == 0xC2
    return good


def _values(matrix: NDArray[np.uint8], leaf: Leaf) -> NDArray[Any]:
    cut = matrix[:, leaf.start : leaf.start + leaf.size]
    if leaf.kind == "fixint":
        return cut[:, 0].astype(np.int64)
    if leaf.kind == "negative":
        return cut[:, 0].view(np.int8).astype(np.int64)
    if leaf.kind == "bool":
        return np.asarray(cut[:, 0] == 0xC3)
    if leaf.kind in ("str", "bin"):
        return _texts(cut, leaf.kind)
    if leaf.kind == "nil":
        return np.full(len(matrix), None, object)
    found = np.ascontiguousarray(cut).view(leaf.kind)[:, 0]
    if leaf.kind in (">f4", ">f8"):
        return found.astype(np.float64)
    if leaf.kind == ">u8" and len(found) and int(found.max()) > np.iinfo(np.int64).max:
        return found.astype(np.uint64)
    return found.astype(np.int64)


def _texts(cut: NDArray[np.uint8], kind: str) -> NDArray[Any]:
    size = cut.shape[1]
    data = cut.tobytes()
    out = np.empty(len(cut), object)
    seen: dict[bytes, Any] = {}
    for at in range(len(cut)):
        raw = data[at * size : (at + 1) * size]
        if raw not in seen:
            try:
                seen[raw] = raw.decode() if kind == "str" else raw
            except UnicodeDecodeError:
                seen[raw] = MISSING
        out[at] = seen[raw]
    return out


def _absent(count: int) -> NDArray[Any]:
    return np.full(count, MISSING, object)


def _one_by_one(block: MetadataBlock, frames: NDArray[np.int64], path: Path) -> NDArray[Any]:
    out = np.full(len(frames), MISSING, object)
    for at, frame in enumerate(frames.tolist()):
        out[at] = value_at(_decoded(block.frame(frame)), path, MISSING)
    return out


# a recorder keeps what nobody can decode; it has no values
def _decoded(frame: bytes) -> list[Any]:
    try:
        return unpack_metadata(frame)
    except CodecError:
        return []


# --- the walk over one frame


def walk(frame: bytes) -> Iterator[Leaf]:
    """All values of one metadata frame; containers too, before what they hold.

    Raises:
        _UnwalkableError, IndexError: the frame is malformed, or holds something that needs the real decoder.
    """
    count, at = _container(frame, 0, ARRAYS, 0x90, 0x0F)
    stack: list[tuple[Path, Iterator[int], bool]] = [((), iter(range(count)), False)]
    while stack:
        path, numbers, mapping = stack[-1]
        number = next(numbers, None)
        if number is None:
            stack.pop()
            continue
        key: int | str = number
        if mapping:
            key, at = _key(frame, at)
        here = (*path, key)
        tag = frame[at]
        if 0x80 <= tag <= 0x8F or tag in MAPS:
            yield Leaf(here, "container", at, 0)
            inner, at = _container(frame, at, MAPS, 0x80, 0x0F)
            stack.append((here, iter(range(inner)), True))
        elif 0x90 <= tag <= 0x9F or tag in ARRAYS:
            yield Leaf(here, "container", at, 0)
            inner, at = _container(frame, at, ARRAYS, 0x90, 0x0F)
            stack.append((here, iter(range(inner)), False))
        else:
            leaf, at = _leaf(frame, at, here)
            yield leaf
    if at != len(frame):
        raise _UnwalkableError


def _container(frame: bytes, at: int, tags: tuple[int, ...], small: int, mask: int) -> tuple[int, int]:
    tag = frame[at]
    if tag & ~mask & 0xFF == small:
        return tag & mask, at + 1
    if tag in tags:
        size = LENGTHS[tag]
        return int.from_bytes(frame[at + 1 : at + 1 + size], "big"), at + 1 + size
    raise _UnwalkableError


def _key(frame: bytes, at: int) -> tuple[str, int]:
    start, size = _sized(frame, at)
    return frame[start : start + size].decode("utf-8", "replace"), start + size


def _sized(frame: bytes, at: int) -> tuple[int, int]:
    tag = frame[at]
    if 0xA0 <= tag <= 0xBF:
        return at + 1, tag & 0x1F
    if tag in STRINGS or tag in BINS:
        size = LENGTHS[tag]
        return at + 1 + size, int.from_bytes(frame[at + 1 : at + 1 + size], "big")
    raise _UnwalkableError


def _leaf(frame: bytes, at: int, path: Path) -> tuple[Leaf, int]:
    tag = frame[at]
    if tag <= 0x7F:
        return Leaf(path, "fixint", at, 1), at + 1
    if tag >= 0xE0:
        return Leaf(path, "negative", at, 1), at + 1
    if tag in (0xC2, 0xC3):
        return Leaf(path, "bool", at, 1), at + 1
    if tag == 0xC0:
        return Leaf(path, "nil", at, 0), at + 1
    if tag in NUMBERS:
        size = int(NUMBERS[tag][2])
        if at + 1 + size > len(frame):
            raise _UnwalkableError
        return Leaf(path, NUMBERS[tag], at + 1, size), at + 1 + size
    start, size = _sized(frame, at)
    if start + size > len(frame):
        raise _UnwalkableError
    return Leaf(path, "bin" if tag in BINS else "str", start, size), start + size
