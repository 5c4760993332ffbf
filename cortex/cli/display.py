"""Shows a message without its class: values by field name when the class is known, by position otherwise.

Arrays are described by dtype and shape with their first elements; tensors look like arrays, so torch is not needed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np

import cortex.messages.standard  # noqa: F401  (makes the catalogue's classes known)
from cortex.arrays import array_from_parts
from cortex.cli.tables import printable
from cortex.codec import RESERVED_KEY, unpack_metadata
from cortex.discovery.protocol import TopicInfo
from cortex.errors import CodecError
from cortex.inline import deserialize_message_values
from cortex.messages.base import Message, MessageHeader, MessageType, field_names

_ELEMENTS = 12
_BYTES = 32
_TEXT = 1000


@dataclass(frozen=True)
class Shown:
    """A message as far as it can be understood.

    Attributes:
        header: fingerprint, time and sequence.
        type_name: name of its class, or None when nobody told.
        names: field names, or None when the class is unknown.
        values: field values in order; arrays are numpy arrays.
        sizes: bytes of each part.
    """

    header: MessageHeader
    type_name: str | None
    names: tuple[str, ...] | None
    values: list[Any]
    sizes: tuple[int, ...]


def read_message(frames: Sequence[bytes], registered: TopicInfo | None = None) -> Shown:
    """Decode parts 1..N of a message.

    Args:
        frames: as they were received.
        registered: the registry's entry, which knows the type's name where the class is unknown here.

    Raises:
        CodecError, WireError: they are malformed (both ValueError).
    """
    header = MessageHeader.from_bytes(frames[0] if frames else b"")
    if len(frames) == 1:
        values = deserialize_message_values(frames[0][MessageHeader.size() :])
    else:
        values = [_resolved(value, frames[2:]) for value in unpack_metadata(frames[1])]
    message_class = MessageType.get(header.fingerprint)
    names = tuple(field_names(message_class)) if message_class is not None else ()
    known = message_class is not None and len(names) == len(values)
    return Shown(
        header, _type_name(header, message_class, registered), names if known else None, values, tuple(map(len, frames))
    )


def _type_name(header: MessageHeader, message_class: type[Message] | None, registered: TopicInfo | None) -> str | None:
    if message_class is not None:
        return message_class.__name__
    matches = registered is not None and registered.fingerprint == header.fingerprint
    return registered.message_type if registered is not None and matches else None


def _resolved(value: Any, buffers: Sequence[bytes]) -> Any:
    if isinstance(value, list):
        return [_resolved(item, buffers) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get(RESERVED_KEY) not in ("numpy", "torch"):
        return {key: _resolved(item, buffers) for key, item in value.items()}
    index = value.get("buffer")
    if not isinstance(index, int) or not 0 <= index < len(buffers):
        raise CodecError(f"An array refers to buffer {index!r} of a message that has {len(buffers)}.")
    return array_from_parts(value.get("dtype"), value.get("shape"), buffers[index])


# -- for people


def message_text(shown: Shown, *, full: bool = False) -> str:
    """Return a message as lines of text, with arrays shortened unless `full`."""
    names = shown.names or tuple(f"[{position}]" for position in range(len(shown.values)))
    lines = [f"  {name}: {_text(value, full)}" for name, value in zip(names, shown.values, strict=True)]
    return "\n".join([_title(shown), *lines])


def sizes_text(shown: Shown) -> str:
    """Return a message as its header and the sizes of its parts."""
    return f"{_title(shown)}\n  parts: {' + '.join(map(str, shown.sizes))} = {sum(shown.sizes)} bytes"


def _title(shown: Shown) -> str:
    kind = printable(shown.type_name) if shown.type_name else f"unknown type {shown.header.fingerprint:#018x}"
    return f"#{shown.header.sequence}  {_time_text(shown.header.timestamp_ns)}  {kind}"


def _time_text(timestamp_ns: int) -> str:
    try:
        return datetime.fromtimestamp(timestamp_ns // 10**9).isoformat(" ") + f".{timestamp_ns % 10**9:09d}"
    except (ValueError, OverflowError, OSError):
        return f"{timestamp_ns} ns"


def _text(value: Any, full: bool) -> str:
    if isinstance(value, np.ndarray):
        return _array_text(value, full)
    if isinstance(value, bytes):
        shown = value if full else value[:_BYTES]
        return f"{len(value)} bytes {shown.hex(' ')}" + (" ..." if len(shown) < len(value) else "")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)}: {_text(item, full)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_text(item, full) for item in value) + "]"
    text = repr(value)
    return text if full or len(text) <= _TEXT else f"{text[:_TEXT]} ... ({len(value)} characters)"


def _array_text(array: np.ndarray[Any, Any], full: bool) -> str:
    count = array.size if full else min(array.size, _ELEMENTS)
    elements = " ".join(str(element) for element in islice(array.flat, count))
    more = " ..." if count < array.size else ""
    return f"{array.dtype} {list(array.shape)} {elements}{more}".rstrip()


def _key(key: Any) -> str:
    return printable(key) if isinstance(key, str) else repr(key)


# -- for programs


def message_json(topic: str, shown: Shown, *, full: bool = False, raw: bool = False) -> str:
    """Return a message as one line of JSON; with `raw` the sizes of its parts take the place of its values."""
    document: dict[str, Any] = {
        "topic": topic,
        "sequence": shown.header.sequence,
        "publish_time_ns": shown.header.timestamp_ns,
        "type": shown.type_name,
        "fingerprint": f"{shown.header.fingerprint:#018x}",
    }
    if raw:
        document["part_bytes"] = list(shown.sizes)
    elif shown.names is not None:
        document["fields"] = {name: _plain(value, full) for name, value in zip(shown.names, shown.values, strict=True)}
    else:
        document["values"] = [_plain(value, full) for value in shown.values]
    return json.dumps(document, allow_nan=False)


def _plain(value: Any, full: bool) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        shown = value if full else value[:_BYTES]
        return {"bytes": len(value), "hex": shown.hex()}
    if isinstance(value, np.ndarray):
        return _plain_array(value, full)
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): _plain(item, full) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, full) for item in value]
    return str(value)


def _plain_array(array: np.ndarray[Any, Any], full: bool) -> dict[str, Any]:
    count = array.size if full else min(array.size, _ELEMENTS)
    # dates, complex numbers and the like become text; they have no JSON of their own
    as_text = array.dtype.kind in "mMcV" and array.dtype.names is None
    elements = [str(item) if as_text else _plain(item.item(), full) for item in islice(array.flat, count)]
    return {"dtype": array.dtype.str, "shape": list(array.shape), "values": elements, "complete": count == array.size}


__all__ = ["Shown", "message_json", "message_text", "read_message", "sizes_text"]
