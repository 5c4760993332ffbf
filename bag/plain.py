"""Messages decoded without their class: plain values under the field names the bag knows, or under their positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bag.records import RawMessage, Schema
from bag.schemas import schema_of
from cortex.codec import decode_values
from cortex.errors import CodecError
from cortex.inline import deserialize_message_values
from cortex.messages.base import Message, MessageType


class PlainMessage:
    """A decoded message whose class is not imported: `message.name`, `message["name"]` or `message.asdict()`.

    Args:
        type_name: name of the class, as registered.
        names: field names in wire order.
        values: as many values.
    """

    __slots__ = ("_names", "_values", "type_name")

    def __init__(self, type_name: str, names: Sequence[str], values: Sequence[Any]) -> None:
        self.type_name = type_name
        self._names = tuple(names)
        self._values = tuple(values)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self._names:
            return self._values[self._names.index(name)]
        raise AttributeError(f"this {self.type_name} has no field {name!r}; it has: {', '.join(self._names)}")

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[self._names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self._names]

    def __getstate__(self) -> tuple[str, tuple[str, ...], tuple[Any, ...]]:
        return self.type_name, self._names, self._values

    def __setstate__(self, state: tuple[str, tuple[str, ...], tuple[Any, ...]]) -> None:
        self.type_name, self._names, self._values = state

    def asdict(self) -> dict[str, Any]:
        """Field names and values."""
        return dict(zip(self._names, self._values, strict=True))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.asdict().items())
        return f"<{self.type_name} {fields}>"


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
    if len(raw.frames) == 1:
        return deserialize_message_values(memoryview(raw.frames[0])[24:])
    return decode_values(raw.frames[1], raw.frames[2:])


def values_or_none(raw: RawMessage) -> list[Any] | None:
    """The field values, or None where the bytes are no message: a recorder keeps those too."""
    try:
        return values_of(raw)
    except CodecError:
        return None


def field_names(schema: Schema | None, count: int) -> tuple[str, ...]:
    """Names of `count` fields in wire order: those of the schema, `field3` for what it does not name."""
    known = [item.name for item in schema.fields] if schema is not None else []
    return tuple(known[at] if at < len(known) else f"field{at}" for at in range(count))


def known_schema(stored: Schema | None, fingerprint: int) -> Schema | None:
    """The schema a bag holds, else that of an imported class."""
    return stored if stored is not None else schema_of(fingerprint)
