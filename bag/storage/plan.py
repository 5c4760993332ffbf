"""Decides how the buffers of a message are stored, from what its metadata frame says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from bag.records import Schema
from bag.storage import layout as names
from bag.storage.batch import Batch
from bag.storage.layout import ColumnSpec, native_dtype
from cortex.codec import Descriptor, descriptors
from cortex.errors import CodecError

# HDF5 holds 32 dimensions at most, and chunks below 4 GiB
MAX_DIMENSIONS = 30
MAX_ROW_BYTES = (4 << 30) - 1
# numbers of a point in a cloud
MAX_POINT = 16
# what is remembered of metadata frames seen
MAX_REMEMBERED = 256
MAX_REMEMBERED_BYTES = 4096


@dataclass(frozen=True, slots=True)
class BufferShape:
    """What the metadata says of one buffer. `native` is false where HDF5 has no exact type for the dtype."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    native: bool


Signature = tuple[BufferShape, ...]
# None where the parts of a message are kept whole
MaybeSignature = Signature | None


class Signatures:
    """Finds the signatures of messages; metadata frames seen before are not taken apart again."""

    def __init__(self) -> None:
        self._schema: Schema | None = None
        self._known: dict[bytes, MaybeSignature] = {}

    def of(self, batch: Batch, schema: Schema | None) -> list[MaybeSignature]:
        """One for each message of a batch; None for a message whose buffers are not those its metadata tells of."""
        metadata, buffers = batch.parts[1], batch.parts[2:]
        if not buffers:
            return [()] * len(batch)
        if schema != self._schema:
            self._schema = schema
            self._known.clear()
        first = metadata[0]
        if metadata.count(first) == len(metadata):
            signature = self._signature(bytes(first), len(buffers))
            if signature is None:
                return [None] * len(batch)
            sizes = (set(map(len, column)) for column in buffers)
            if all(found == {part.nbytes} for found, part in zip(sizes, signature, strict=True)):
                return [signature] * len(batch)
        return [self._checked(parts) for parts in zip(metadata, *buffers, strict=True)]

    def _checked(self, parts: Sequence[Any]) -> MaybeSignature:
        metadata, *buffers = parts
        signature = self._signature(bytes(metadata), len(buffers))
        if signature is None or any(len(frame) != part.nbytes for frame, part in zip(buffers, signature, strict=True)):
            return None
        return signature

    def _signature(self, metadata: bytes, buffers: int) -> MaybeSignature:
        known = self._known.get(metadata)
        if known is not None and len(known) == buffers:
            return known
        found = signature_of(metadata, self._schema, buffers)
        if found is not None and len(metadata) <= MAX_REMEMBERED_BYTES:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[metadata] = found
        return found


def signature_of(metadata: bytes, schema: Schema | None, buffers: int) -> MaybeSignature:
    """The shapes of all `buffers` buffers in order, or None when the metadata does not account for each of them."""
    if buffers > names.MAX_BUFFERS:
        return None
    try:
        found = {item.buffer: item for item in reversed(descriptors(metadata))}
    except CodecError:
        return None
    if set(found) != set(range(buffers)):
        return None
    shapes = tuple(_shape_of(found[number], schema) for number in range(buffers))
    return shapes if len({shape.name for shape in shapes}) == buffers else None


def _shape_of(item: Descriptor, schema: Schema | None) -> BufferShape:
    nbytes = np.dtype(item.dtype).itemsize * prod(item.shape)
    native = native_dtype(item.dtype) is not None
    return BufferShape(buffer_name(item.path, schema), item.dtype, item.shape, nbytes, native)


def buffer_name(path: tuple[Any, ...], schema: Schema | None) -> str:
    """Readable name of a buffer: the field's name (`field0` when the class is unknown), then keys or positions."""
    position = path[0] if path and isinstance(path[0], int) else 0
    first = schema.fields[position].name if schema and position < len(schema.fields) else f"field{position}"
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
    if ragged_fits and (
        relatives or 0 in part.shape or (len(ahead) == 1 and not fixed and _is_like_a_cloud(part.shape))
    ):
        return ColumnSpec(part.name, "ragged", part.dtype, part.shape[1:])
    if 0 in part.shape or len(fixed) >= names.MAX_FIXED_PER_BUFFER:
        return ColumnSpec(part.name, "bytes", "|u1", ())
    return ColumnSpec(part.name, "fixed", part.dtype, part.shape)


def _can_be_native(part: BufferShape) -> bool:
    return part.native and len(part.shape) <= MAX_DIMENSIONS and part.nbytes <= MAX_ROW_BYTES


# of a single message nobody can tell whether its size will change; many rows of few numbers mostly do
def _is_like_a_cloud(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[1] <= MAX_POINT < shape[0]


def _differ_in_first(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and len(one) > 0 and one[1:] == other[1:]
