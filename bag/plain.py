"""Messages decoded without their class: plain values under the field names the bag knows, or under their positions."""

from __future__ import annotations

from typing import Any

from bag.records import RawMessage, Schema
from bag.schemas import schema_of
from bag.values import PlainMessage, field_names, values_of_frames
from cortex.errors import CodecError
from cortex.messages.base import Message, MessageType

__all__ = ["PlainMessage", "decode", "field_names", "known_schema", "values_of", "values_or_none"]


def decode(raw: RawMessage, schema: Schema | None = None, cls: type[Message] | None = None) -> Any:
    """Decode a message as `cls`, as the imported class of its fingerprint, or as a `PlainMessage`.

    Raises:
        ValueError: the frames do not fit, or are no message.
    """
    target = cls or MessageType.get(raw.fingerprint)
    if target is not None:
        return raw.decode(target)
    values = values_of(raw)
    return PlainMessage(raw.channel.type_name, field_names(schema, len(values)), values)


def values_of(raw: RawMessage) -> list[Any]:
    """The field values of a message in wire order, arrays included.

    Raises:
        ValueError: the frames are no message.
    """
    return values_of_frames(raw.frames)


def values_or_none(raw: RawMessage) -> list[Any] | None:
    """The field values, or None where the bytes are no message: a recorder keeps those too."""
    try:
        return values_of(raw)
    except CodecError:
        return None


def known_schema(stored: Schema | None, fingerprint: int) -> Schema | None:
    """The schema a bag holds, else that of an imported class."""
    return stored if stored is not None else schema_of(fingerprint)
