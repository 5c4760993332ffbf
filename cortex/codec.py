"""Field values as (metadata, buffers) and back; the only door to msgpack (torch: `codec_torch`).

Metadata is one msgpack array with one element per field.  Every array or tensor inside it, at any depth, is replaced by
a descriptor, a map with the reserved key ``__cortex_oob__``, and its bytes travel out of band as a buffer of their own.
The inline form instead carries arrays inside the msgpack document, as extension values.

Decoding never trusts its input: whatever the bytes, it returns values or raises `CodecError`; nothing is unpickled and
nothing larger than the input is allocated.  Encoding refuses what no receiver could take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import msgpack  # type: ignore[import-untyped]
import numpy as np

from cortex.arrays import Buffer, array_from_parts, array_parts, parse_dtype, parse_shape, view_of
from cortex.codec_torch import TORCH_AVAILABLE as TORCH_AVAILABLE
from cortex.codec_torch import is_tensor, tensor_from_array, tensor_parts
from cortex.errors import CodecError

RESERVED_KEY = "__cortex_oob__"
_RESERVED_BYTES = RESERVED_KEY.encode()
_EXT_NUMPY, _EXT_TORCH = 1, 2
_UNPACK_ERRORS = (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException)
_PACK_ERRORS = (ValueError, TypeError, OverflowError, RecursionError, BufferError)

Path: TypeAlias = "tuple[int | str | bytes, ...]"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Where an array stands in a message, and what it is.

    Attributes:
        path: position of the field, then dict keys and list positions down to the array.
        buffer: index of its bytes among the message's buffers (parts 3 and following).
        kind: ``"numpy"`` or ``"torch"``.
        dtype: numpy dtype string as it travelled.
        shape: shape of the array.
    """

    path: Path
    buffer: int
    kind: str
    dtype: str
    shape: tuple[int, ...]


# -- out-of-band form ------------------------------------------------------------------------------------------------


def encode_values(values: Iterable[object]) -> tuple[bytes, list[Buffer]]:
    """Encode field values as (metadata, buffers); the buffers are views of the arrays wherever possible.

    Raises:
        CodecError: a value cannot be sent: an unsupported type, an object array, a dict key that is neither str nor
            bytes, the reserved key in a dict, an integer beyond 64 bits.
    """
    values = list(values)
    buffers: list[Buffer] = []

    def describe(obj: Any) -> object:
        dtype, shape, raw, tensor = _split(obj)
        kind = "numpy" if tensor is None else "torch"
        descriptor = {RESERVED_KEY: kind, "buffer": len(buffers), "dtype": dtype, "shape": shape}
        if tensor is not None:
            descriptor |= {"device": tensor[0], "requires_grad": tensor[1]}
        buffers.append(raw)
        return descriptor

    metadata = _pack(values, describe)
    if any(isinstance(value, (dict, list, tuple)) for value in values):
        if metadata.count(_RESERVED_BYTES) != len(buffers):
            _refuse_reserved_key(values)
        _check_readable(metadata, values)
    return metadata, buffers


def decode_values(metadata: Buffer, buffers: Sequence[Buffer]) -> list[Any]:
    """Decode what `encode_values` made; arrays are views of their buffer, tensors are copies.

    Args:
        metadata: part 2 of a message, bytes-like.
        buffers: parts 3 and following; surplus ones are ignored.

    Raises:
        CodecError: malformed metadata, a descriptor that does not fit its buffer, or a tensor where torch is missing.
    """

    def resolve(mapping: dict[Any, Any]) -> Any:
        kind = mapping.get(RESERVED_KEY)
        if not isinstance(kind, str) or kind not in ("numpy", "torch"):
            return mapping
        index, dtype, shape = _checked(mapping)
        if index >= len(buffers):
            raise CodecError(f"An array refers to buffer {index} of a message that has {len(buffers)}.")
        array = view_of(dtype, shape, buffers[index])
        if kind == "numpy":
            return array
        return tensor_from_array(array, mapping.get("device"), mapping.get("requires_grad"))

    return _unpack_list(metadata, object_hook=resolve)


def unpack_metadata(metadata: Buffer) -> list[Any]:
    """Decode metadata alone; descriptors stay plain dicts.  Raises CodecError on malformed metadata."""
    return _unpack_list(metadata)


def descriptors(metadata: Buffer) -> list[Descriptor]:
    """Return the descriptors inside metadata in order of appearance, depth first; torch need not be there.

    Raises:
        CodecError: malformed metadata or a malformed descriptor.
    """
    values = _unpack_list(metadata)
    found: list[Descriptor] = []
    if _RESERVED_BYTES not in memoryview(metadata).tobytes():
        return found
    # An explicit stack: hostile nesting must not meet Python's recursion limit.
    stack: list[tuple[Path, Any]] = [((), values)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, list):
            children: Iterable[tuple[Any, Any]] = enumerate(value)
        elif not isinstance(value, dict):
            continue
        elif value.get(RESERVED_KEY) in ("numpy", "torch"):
            index, _, shape = _checked(value)
            found.append(Descriptor(path, index, value[RESERVED_KEY], value["dtype"], shape))
            continue
        else:
            children = value.items()
        stack += [((*path, key), child) for key, child in children if isinstance(child, (dict, list))][::-1]
    return found


# -- inline form and plain documents ---------------------------------------------------------------------------------


def pack_inline(value: object) -> bytes:
    """Encode a value as one msgpack document that carries arrays inside itself, as extension values 1 and 2.

    Raises:
        CodecError: the value cannot be sent.
    """

    def extend(obj: Any) -> object:
        dtype, shape, raw, tensor = _split(obj)
        body = (dtype, shape, bytes(raw))
        if tensor is None:
            return msgpack.ExtType(_EXT_NUMPY, _pack(body, _refuse))
        return msgpack.ExtType(_EXT_TORCH, _pack((*tensor, *body), _refuse))

    packed = _pack(value, extend)
    if isinstance(value, (dict, list, tuple)):
        _check_readable(packed, value)
    return packed


def unpack_inline(data: Buffer) -> Any:
    """Decode what `pack_inline` made; arrays are read-only.  Raises CodecError on malformed bytes."""

    def restore(code: int, body: bytes) -> Any:
        if code == _EXT_NUMPY:
            return array_from_parts(*_parts_of(body, 3))
        if code == _EXT_TORCH:
            device, requires_grad, dtype, shape, raw = _parts_of(body, 5)
            return tensor_from_array(array_from_parts(dtype, shape, raw), device, requires_grad)
        return msgpack.ExtType(code, body)

    return _unpack(data, ext_hook=restore)


def pack_document(obj: object) -> bytes:
    """Encode plain values (no arrays) as msgpack.  Raises CodecError for anything else."""
    return _pack(obj, _refuse)


def unpack_document(data: Buffer) -> Any:
    """Decode one whole msgpack document of plain values; map keys must be str or bytes.

    Raises:
        CodecError: malformed bytes, bytes left over, invalid UTF-8, another kind of map key.
    """
    return _unpack(data)


# -- shared parts ----------------------------------------------------------------------------------------------------


# What msgpack cannot pack itself comes here: arrays and tensors are split, all else is refused.
def _split(obj: Any) -> tuple[str, list[int], Buffer, tuple[str, bool] | None]:
    if isinstance(obj, np.ndarray):
        return *array_parts(obj), None
    if is_tensor(obj):
        device, requires_grad, array = tensor_parts(obj)
        return *array_parts(array), (device, requires_grad)
    return _refuse(obj)


def _refuse(obj: object) -> NoReturn:
    if isinstance(obj, int):
        raise CodecError(f"The integer {obj} cannot be sent: the range is -2**63 to 2**64-1.")
    raise CodecError(
        f"A value of type {type(obj).__name__} cannot be sent: use None, bool, int, float, str, bytes, list, dict, "
        "numpy arrays or torch tensors."
    )


def _pack(value: object, default: Callable[[Any], object]) -> bytes:
    def convert(obj: Any) -> object:
        # numpy's numbers travel as Python's where nothing is lost; np.longdouble would lose digits
        if isinstance(obj, np.generic) and obj.dtype.kind in "biuf" and obj.itemsize <= 8:
            return obj.item()
        return default(obj)

    try:
        packed: bytes = msgpack.packb(value, default=convert, use_bin_type=True)
    except CodecError:
        raise
    except _PACK_ERRORS as err:
        raise CodecError(f"The message cannot be encoded: {err}.") from err
    return packed


def _unpack(data: Buffer, **hooks: Callable[..., Any]) -> Any:
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, **hooks)
    except CodecError:
        raise
    except _UNPACK_ERRORS as err:
        raise CodecError(
            f"The bytes are not a msgpack document that Cortex accepts ({type(err).__name__}: {err})."
        ) from err


def _unpack_list(metadata: Buffer, **hooks: Callable[..., Any]) -> list[Any]:
    values = _unpack(metadata, **hooks)
    if not isinstance(values, list):
        raise CodecError(
            f"The metadata of a message is {type(values).__name__} where an array of field values belongs."
        )
    return values


def _parts_of(body: bytes, count: int) -> list[Any]:
    parts = _unpack_list(body)
    if len(parts) != count or not isinstance(parts[-1], bytes):
        raise CodecError("An inline array is malformed.")
    return parts


def _checked(descriptor: dict[Any, Any]) -> tuple[int, np.dtype[Any], tuple[int, ...]]:
    index = descriptor.get("buffer")
    if type(index) is not int or index < 0:
        raise CodecError(f"The descriptor of an array has no usable buffer index: {index!r}.")
    return index, parse_dtype(descriptor.get("dtype")), parse_shape(descriptor.get("shape"))


# Reading back is what a receiver does, in C; looking for the culprit in Python happens only once it has failed.
def _check_readable(packed: bytes, value: object) -> None:
    try:
        msgpack.unpackb(packed, raw=False, strict_map_key=True)
    except _UNPACK_ERRORS as err:
        for mapping in _mappings(value):
            for key in mapping:
                if not isinstance(key, (str, bytes)):
                    raise CodecError(
                        f"The dict key {key!r} ({type(key).__name__}) cannot be sent, because no receiver takes it: "
                        "use str or bytes keys."
                    ) from err
        raise CodecError(f"The message would not be readable by its receivers: {err}.") from err


def _refuse_reserved_key(values: object) -> None:
    if any(RESERVED_KEY in mapping for mapping in _mappings(values)):
        raise CodecError(f"A dict with the key {RESERVED_KEY!r} cannot be sent: Cortex reserves it, use another key.")


def _mappings(value: object) -> Iterable[dict[Any, Any]]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack += item.values()
        elif isinstance(item, (list, tuple)):
            stack += item
