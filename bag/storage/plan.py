"""Decides how the buffers of a message are stored: what a metadata frame says of them, and which columns that asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from bag.records import Schema
from bag.storage import layout as names
from bag.storage.layout import ColumnSpec, native_dtype
from cortex.codec import Descriptor, descriptors
from cortex.errors import CodecError

# HDF5 cannot hold more dimensions than 32, nor chunks of 4 GiB
MAX_DIMENSIONS = 30
MAX_ROW_BYTES = (4 << 30) - 1


@dataclass(frozen=True, slots=True)
class BufferShape:
    """What the metadata says of one buffer. `native` is false where HDF5 has no exact type for the dtype."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    native: bool


Signature = tuple[BufferShape, ...]


def signature_of(metadata: bytes, schema: Schema | None, buffers: int) -> Signature | None:
    """The shapes of all `buffers` buffers in order, or None when the metadata does not account for each of them."""
    try:
        found = {item.buffer: item for item in reversed(descriptors(metadata))}
    except CodecError:
        return None
    if set(found) != set(range(buffers)):
        return None
    shapes = [_shape_of(found[number], schema) for number in range(buffers)]
    known = [shape for shape in shapes if shape is not None]
    if len(known) < buffers or len({shape.name for shape in known}) < buffers:
        return None
    return tuple(known)


def _shape_of(item: Descriptor, schema: Schema | None) -> BufferShape | None:
    if any(size < 0 for size in item.shape):
        return None
    dtype = native_dtype(item.dtype)
    itemsize = dtype.itemsize if dtype is not None else _itemsize(item.dtype)
    if itemsize is None:
        return None
    return BufferShape(
        buffer_name(item.path, schema), item.dtype, item.shape, itemsize * prod(item.shape), dtype is not None
    )


def _itemsize(text: str) -> int | None:
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError, SyntaxError):
        return None
    return None if dtype.hasobject else dtype.itemsize


def buffer_name(path: tuple[Any, ...], schema: Schema | None) -> str:
    """Readable name of a buffer: the field's name (`field0` when the class is unknown), then keys or positions."""
    position = path[0] if path and isinstance(path[0], int) else 0
    known = schema is not None and position < len(schema.fields)
    first = schema.fields[position].name if known and schema is not None else f"field{position}"
    rest = (part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part) for part in path[1:])
    return ".".join((first, *rest))


def plan(wanted: Signature, ahead: Sequence[Signature], existing: Sequence[ColumnSpec]) -> list[ColumnSpec]:
    """The columns for messages like `wanted`, given what comes next (`wanted` included) and which columns there are."""
    return [_column_for(part, number, ahead, existing) for number, part in enumerate(wanted)]


def _column_for(
    part: BufferShape, number: int, ahead: Sequence[Signature], existing: Sequence[ColumnSpec]
) -> ColumnSpec:
    same = [spec for spec in existing if spec.name == part.name]
    for spec in same:
        if spec.kind == "ragged" and spec.accepts(part.dtype, part.shape):
            return spec
    if not _can_be_native(part):
        return ColumnSpec(part.name, "bytes", "|u1", ())
    fixed = [spec.shape for spec in same if spec.kind == "fixed" and spec.dtype == part.dtype]
    others = [other[number] for other in ahead if number < len(other)]
    shapes = {other.shape for other in others if (other.name, other.dtype) == (part.name, part.dtype)}
    relatives = [shape for shape in (*fixed, *shapes) if shape != part.shape and _differ_in_first(shape, part.shape)]
    ragged_fits = len(part.shape) > 0 and prod(part.shape[1:]) > 0
    if ragged_fits and (relatives or 0 in part.shape):
        return ColumnSpec(part.name, "ragged", part.dtype, part.shape[1:])
    if 0 in part.shape or len(fixed) >= names.MAX_FIXED_PER_BUFFER:
        return ColumnSpec(part.name, "bytes", "|u1", ())
    return ColumnSpec(part.name, "fixed", part.dtype, part.shape)


def _can_be_native(part: BufferShape) -> bool:
    return part.native and len(part.shape) <= MAX_DIMENSIONS and part.nbytes <= MAX_ROW_BYTES


def _differ_in_first(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and len(one) > 0 and one[1:] == other[1:]
