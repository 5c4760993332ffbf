"""The values of a message without its class: taken out of its frames, under the field names that are known of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cortex.codec import decode_values
from cortex.inline import deserialize_message_values

if TYPE_CHECKING:
    from bag.records import Schema


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


def values_of_frames(frames: Sequence[bytes | memoryview]) -> list[Any]:
    """The field values of a message in wire order, arrays included, from parts 1..N.

    Raises:
        ValueError: the frames are no message.
    """
    if len(frames) == 1:
        return deserialize_message_values(memoryview(frames[0])[24:])
    return decode_values(frames[1], frames[2:])


def field_names(schema: Schema | None, count: int) -> tuple[str, ...]:
    """Names of `count` fields in wire order: those of the schema, `field3` for what it does not name."""
    known = [item.name for item in schema.fields] if schema is not None else []
    return tuple(known[at] if at < len(known) else f"field{at}" for at in range(count))
