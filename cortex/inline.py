"""Values in one piece, each behind a tag byte: the single-blob form of messages and the ``serialize`` utilities.

======  ===========================  ==============================================================================
tag     value                        body (integers big-endian)
======  ===========================  ==============================================================================
0       None                         nothing
1       bool, int, float, str        u32 length, msgpack
2       numpy array                  u8 ndim, u32 per axis, u16 length and dtype string, raw bytes
3       torch tensor                 u8 requires_grad, u16 length and device string, then as an array without its tag
4, 5    dict; list or tuple          u32 length, msgpack with arrays as extension values
6       bytes                        u32 length, raw bytes
======  ===========================  ==============================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import Any

import numpy as np

from cortex.arrays import Array, Buffer, array_parts, parse_dtype, view_of
from cortex.codec import decode_values, encode_values, pack_inline, unpack_inline
from cortex.codec_torch import is_tensor, tensor_from_array, tensor_parts
from cortex.errors import CodecError

_U8, _U16, _U32 = Struct(">B"), Struct(">H"), Struct(">I")


class DataType(IntEnum):
    """The tag byte in front of a value."""

    NONE = 0
    PRIMITIVE = 1
    NUMPY = 2
    TORCH = 3
    DICT = 4
    LIST = 5
    BYTES = 6


def serialize(value: object) -> bytes:
    """Encode one value with its tag.  Raises CodecError for a value that cannot be sent."""
    if value is None:
        return _tagged(DataType.NONE)
    if isinstance(value, np.ndarray):
        return _tagged(DataType.NUMPY, serialize_numpy(value))
    if is_tensor(value):
        return _tagged(DataType.TORCH, serialize_torch(value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _tagged(DataType.BYTES, _sized(_U32, bytes(value)))
    if isinstance(value, dict):
        return _tagged(DataType.DICT, _sized(_U32, pack_inline(value)))
    if isinstance(value, (list, tuple)):
        return _tagged(DataType.LIST, _sized(_U32, pack_inline(value)))
    return _tagged(DataType.PRIMITIVE, _sized(_U32, pack_inline(value)))


def deserialize(data: Buffer) -> tuple[Any, int]:
    """Decode the value at the start of `data`; return it and the number of bytes it took.

    Raises:
        CodecError: unknown tag, missing bytes or malformed content.
    """
    cursor = _Cursor(data)
    return _READERS[_tag(cursor)](cursor), cursor.position


def serialize_numpy(array: Array) -> bytes:
    """Encode an array without a tag.  Raises CodecError for an array that cannot be sent."""
    dtype, shape, raw = array_parts(array)
    axes = b"".join(_packed(_U32, n) for n in shape)
    return b"".join((_packed(_U8, len(shape)), axes, _sized(_U16, dtype.encode()), raw))


def deserialize_numpy(data: Buffer, *, copy: bool = False) -> tuple[Array, int]:
    """Decode an array; return it and the number of bytes it took.

    Args:
        data: bytes-like, the array at its start.
        copy: return an array of its own instead of a view of `data`.

    Raises:
        CodecError: missing bytes or malformed content.
    """
    cursor = _Cursor(data)
    array = _read_array(cursor)
    return array.copy() if copy else array, cursor.position


def serialize_torch(tensor: Any) -> bytes:
    """Encode a tensor without a tag.  Raises CodecError for a tensor that cannot be sent."""
    device, requires_grad, array = tensor_parts(tensor)
    return _packed(_U8, requires_grad) + _sized(_U16, device.encode()) + serialize_numpy(array)


def deserialize_torch(data: Buffer) -> tuple[Any, int]:
    """Decode a tensor; return it and the number of bytes it took.

    Raises:
        CodecError: missing bytes, malformed content, or torch is not installed.
    """
    cursor = _Cursor(data)
    return _read_tensor(cursor), cursor.position


def serialize_message_values(values: Iterable[object]) -> bytes:
    """Encode field values in declaration order as the body of a single blob."""
    return serialize(list(values))


def deserialize_message_values(data: Buffer) -> list[Any]:
    """Decode the body of a single blob.  Raises CodecError unless it is exactly one list."""
    values: list[Any] = _whole(data, DataType.LIST)
    return values


def serialize_message_data(data: Mapping[str, object]) -> bytes:
    """Encode field values by name, as a tagged dict."""
    return serialize(dict(data))


def deserialize_message_data(data: Buffer) -> dict[str, Any]:
    """Decode field values by name.  Raises CodecError unless it is exactly one dict."""
    values: dict[str, Any] = _whole(data, DataType.DICT)
    return values


def serialize_message_frames(values: Iterable[object]) -> tuple[bytes, list[Buffer]]:
    """Encode field values as (metadata, buffers), the form that travels; see `cortex.codec.encode_values`."""
    return encode_values(values)


def deserialize_message_frames(metadata: Buffer, buffers: Sequence[Buffer]) -> list[Any]:
    """Decode what `serialize_message_frames` made; see `cortex.codec.decode_values`."""
    return decode_values(metadata, buffers)


# -- private


class _Cursor:
    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data).cast("B")
        self.position = 0

    def take(self, count: int) -> memoryview:
        end = self.position + count
        if end > len(self._data):
            raise CodecError(f"{count} bytes are needed at position {self.position}, {len(self._data)} came in all.")
        piece = self._data[self.position : end]
        self.position = end
        return piece

    def number(self, kind: Struct) -> int:
        return int(kind.unpack(self.take(kind.size))[0])

    def sized(self, kind: Struct) -> memoryview:
        return self.take(self.number(kind))

    def text(self) -> str:
        try:
            return str(self.sized(_U16), "utf-8")
        except UnicodeDecodeError as err:
            raise CodecError("A dtype or device string is not UTF-8.") from err

    @property
    def at_end(self) -> bool:
        return self.position == len(self._data)


def _tagged(tag: DataType, body: bytes = b"") -> bytes:
    return _U8.pack(tag) + body


def _tag(cursor: _Cursor) -> DataType:
    tag = cursor.number(_U8)
    if tag not in _READERS:
        raise CodecError(f"The tag {tag} in front of a value is unknown.")
    return DataType(tag)


def _packed(kind: Struct, number: int) -> bytes:
    try:
        return kind.pack(number)
    except StructError as err:
        raise CodecError(f"The size {number} does not fit in {kind.size} bytes.") from err


def _sized(kind: Struct, body: bytes) -> bytes:
    return _packed(kind, len(body)) + body


def _whole(data: Buffer, expected: DataType) -> Any:
    cursor = _Cursor(data)
    tag = _tag(cursor)
    if tag is not expected:
        raise CodecError(f"A value with tag {expected.value} was expected, tag {tag.value} came.")
    value = _READERS[tag](cursor)
    if not cursor.at_end:
        raise CodecError("Bytes are left over after the value.")
    return value


def _read_array(cursor: _Cursor) -> Array:
    shape = tuple(cursor.number(_U32) for _ in range(cursor.number(_U8)))
    dtype = parse_dtype(cursor.text())
    return view_of(dtype, shape, cursor.take(math.prod(shape) * dtype.itemsize))


def _read_tensor(cursor: _Cursor) -> Any:
    requires_grad = bool(cursor.number(_U8))
    device = cursor.text()
    return tensor_from_array(_read_array(cursor), device, requires_grad)


def _read_packed(expected: type | tuple[type, ...]) -> Callable[[_Cursor], Any]:
    def read(cursor: _Cursor) -> Any:
        value = unpack_inline(cursor.sized(_U32))
        if not isinstance(value, expected):
            raise CodecError(
                f"The content of a tagged value is {type(value).__name__}, which is not what its tag says."
            )
        return value

    return read


_READERS: dict[int, Callable[[_Cursor], Any]] = {
    DataType.NONE: lambda _: None,
    DataType.PRIMITIVE: _read_packed((bool, int, float, str)),
    DataType.NUMPY: _read_array,
    DataType.TORCH: _read_tensor,
    DataType.DICT: _read_packed(dict),
    DataType.LIST: _read_packed(list),
    DataType.BYTES: lambda cursor: bytes(cursor.sized(_U32)),
}
