"""numpy arrays as (dtype string, shape, raw bytes) and back, the form in which they travel; bytes are never trusted."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cortex.errors import CodecError

Array: TypeAlias = NDArray[Any]
Buffer: TypeAlias = "bytes | bytearray | memoryview"

# Kinds whose bytes mean the same in another process; objects ("O") and variable-width strings ("T") are pointers.
_PORTABLE_KINDS = frozenset("biufcmMSUV")
_MAX_DTYPE_TEXT = 4096


def array_parts(array: Array) -> tuple[str, list[int], Buffer]:
    """Split an array into the dtype string, the shape and the bytes that travel.

    Bytes are in C order with the byte order of the array; subclasses count as plain arrays and 0-d stays 0-d.
    Structured dtypes travel in comma notation (``<f4,<i2``), which keeps types and loses names; nested ones, which it
    cannot express, travel as bytes (``|V8``).

    Raises:
        CodecError: the array holds Python objects, or items of no size, which no receiver can rebuild.
    """
    dtype = array.dtype
    if dtype.hasobject or dtype.kind not in _PORTABLE_KINDS:
        raise CodecError(
            f"An array of dtype {dtype} holds Python objects and cannot be sent: convert it to a numeric or "
            "fixed-width dtype, or send a list."
        )
    if dtype.itemsize == 0:
        raise CodecError(f"An array of dtype {dtype} has items of 0 bytes and cannot be sent: give it a width.")
    plain: Array = np.asarray(array)
    if dtype.names is not None:
        plain = _packed(plain)
        text = _comma_notation(plain.dtype) or dtype.str
    else:
        text = dtype.str
    return text, list(array.shape), _raw_bytes(plain)


def array_from_parts(dtype: object, shape: object, buffer: Buffer) -> Array:
    """Rebuild an array as a view of `buffer`; it is writable where the buffer is, and keeps it alive.

    Args:
        dtype: any string that ``numpy.dtype`` takes.
        shape: list of non-negative integers.
        buffer: exactly as many bytes as dtype and shape ask for.

    Raises:
        CodecError: one of them is malformed or they do not fit together.
    """
    return view_of(parse_dtype(dtype), parse_shape(shape), buffer)


def view_of(dtype: np.dtype[Any], shape: tuple[int, ...], buffer: Buffer) -> Array:
    """Return `buffer` as an array of a checked dtype and shape; raise CodecError unless the sizes agree."""
    try:
        have = memoryview(buffer).nbytes
        want = math.prod(shape) * dtype.itemsize
        if have != want:
            raise CodecError(f"An array of dtype {dtype.str} and shape {shape} needs {want} bytes but {have} came.")
        array: Array = np.ndarray(shape, dtype, buffer)
    except CodecError:
        raise
    except (ValueError, TypeError, OverflowError, MemoryError) as err:
        raise CodecError(f"An array of dtype {dtype.str} and shape {shape} cannot be rebuilt: {err}.") from err
    return array


def parse_dtype(text: object) -> np.dtype[Any]:
    """Return the dtype that `text` names; raise CodecError for anything that could not have been sent."""
    if not isinstance(text, str) or len(text) > _MAX_DTYPE_TEXT:
        raise CodecError("The dtype of an array is not a string of reasonable length.")
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError, SyntaxError, KeyError, OverflowError, RecursionError, MemoryError, Warning) as err:
        raise CodecError(f"{text!r} is not a numpy dtype.") from err
    if dtype.hasobject or dtype.kind not in _PORTABLE_KINDS or dtype.subdtype is not None or dtype.itemsize == 0:
        raise CodecError(f"An array of dtype {text!r} is refused: its items are not plain bytes of one size.")
    return dtype


def parse_shape(shape: object) -> tuple[int, ...]:
    """Return `shape` as a tuple; raise CodecError unless it is a list of non-negative integers."""
    if not isinstance(shape, (list, tuple)) or not all(type(n) is int and n >= 0 for n in shape):
        raise CodecError("The shape of an array is not a list of non-negative integers.")
    return tuple(shape)


def _raw_bytes(array: Array) -> Buffer:
    if array.size == 0:
        return b""
    contiguous: Array = np.asarray(array, order="C")
    # Through uint8, because datetime64 and some others offer no buffer of their own.
    return contiguous.reshape(-1).view(np.uint8).data


# The same fields without gaps; an aligned structure would otherwise not fit any dtype string.
def _packed(array: Array) -> Array:
    dtype = array.dtype
    assert dtype.names is not None
    packed = np.dtype([(name, dtype[name]) for name in dtype.names])
    return array if packed == dtype else array.astype(packed)


def _comma_notation(dtype: np.dtype[Any]) -> str | None:
    assert dtype.names is not None
    fields = [dtype[name] for name in dtype.names]
    text = ",".join(_field_text(field) for field in fields)
    text += "," if len(fields) == 1 else ""
    try:
        back = parse_dtype(text)
    except CodecError:
        return None
    same = back.names is not None and [back[name] for name in back.names] == fields
    return text if same else None


def _field_text(dtype: np.dtype[Any]) -> str:
    base, shape = dtype.subdtype or (dtype, ())
    return f"({','.join(map(str, shape))},){base.str}" if shape else str(base.str)
