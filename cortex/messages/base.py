"""What every message class inherits, and the registry that finds a class again by its fingerprint.

A message has two forms.  The frames (`Message.to_frames`) are what travels: header, metadata, one buffer per array.
The blob (`Message.to_bytes`) is the same in one piece, for places that keep a message as bytes.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from cortex.arrays import Buffer
from cortex.codec import decode_values, encode_values
from cortex.errors import CodecError
from cortex.fingerprint import get_cached_fingerprint, remember_text
from cortex.inline import deserialize_message_values, serialize_message_values
from cortex.wire import MessageHeader

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Message", "MessageHeader", "MessageType", "field_names"]

M = TypeVar("M", bound="type[Message]")


class MessageType:
    """The message classes of this process by fingerprint; a later class replaces an earlier one silently."""

    _classes: ClassVar[dict[int, type[Message]]] = {}

    @classmethod
    def register(cls, message_class: M) -> M:
        """Add a class under its fingerprint and return it."""
        cls._classes[message_class.fingerprint()] = message_class
        return message_class

    @classmethod
    def get(cls, fingerprint: int) -> type[Message] | None:
        """Return the class with this fingerprint, or None."""
        return cls._classes.get(fingerprint)

    @classmethod
    def get_all(cls) -> dict[int, type[Message]]:
        """Return a copy of the registry."""
        return dict(cls._classes)

    @classmethod
    def clear(cls) -> None:
        """Forget all classes; those that exist keep working, but `Message.decode` no longer finds them."""
        cls._classes.clear()


@dataclass
class Message:
    """Base of all messages: write ``@dataclass class Pose(Message): ...`` and its fields travel in that order."""

    # No annotations here: an annotated name would become a field of every message.
    _cortex_message_root = True
    _cortex_sequence = itertools.count()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._cortex_sequence = itertools.count()
        remember_text(cls)
        MessageType.register(cls)

    @classmethod
    def fingerprint(cls) -> int:
        """Return the 64-bit fingerprint of this class."""
        return get_cached_fingerprint(cls)

    def to_frames(self, sequence: int | None = None) -> list[Buffer]:
        """Return ``[header, metadata, buffer, ...]``; buffers are views of this message's arrays.

        Args:
            sequence: number for the header; by default the next one of a counter that this class keeps.

        Raises:
            CodecError: a value cannot be sent.
        """
        metadata, buffers = encode_values(self._values())
        return [self._header(sequence), metadata, *buffers]

    @classmethod
    def from_frames(cls, frames: Sequence[Buffer]) -> tuple[Self, MessageHeader]:
        """Rebuild (message, header) from ``[header, metadata, buffer, ...]``; arrays are views of the frames.

        Raises:
            CodecError, WireError: malformed frames, or not as many values as this class has fields (both ValueError).
        """
        if len(frames) < 2:
            raise CodecError(f"A {cls.__name__} has at least 2 frames, header and metadata, but {len(frames)} came.")
        header = MessageHeader.from_bytes(frames[0])
        return cls._from_values(decode_values(frames[1], frames[2:])), header

    def to_bytes(self, sequence: int | None = None) -> bytes:
        """Return the message as a single blob; `sequence` and errors as in `to_frames`."""
        body = serialize_message_values(self._values())
        return self._header(sequence) + body

    @classmethod
    def from_bytes(cls, data: Buffer) -> tuple[Self, MessageHeader]:
        """Rebuild (message, header) from what `to_bytes` made; arrays are read-only.

        Raises:
            CodecError, WireError: malformed bytes, or not as many values as this class has fields (both ValueError).
        """
        header = MessageHeader.from_bytes(data)
        return cls._from_values(deserialize_message_values(memoryview(data)[MessageHeader.size() :])), header

    @classmethod
    def from_parts(cls, parts: Sequence[Buffer]) -> tuple[Self, MessageHeader]:
        """Rebuild (message, header) from parts 1..N of a received message, whichever form they have.

        Raises:
            CodecError, WireError: as `from_frames` and `from_bytes`.
        """
        return cls.from_bytes(parts[0]) if len(parts) == 1 else cls.from_frames(parts)

    @staticmethod
    def decode(data: Buffer) -> tuple[Message, MessageHeader]:
        """Rebuild (message, header) from a blob, with the class that its fingerprint names.

        Raises:
            CodecError: no class of this process has that fingerprint, or the bytes are malformed (ValueError).
        """
        fingerprint = MessageHeader.from_bytes(data).fingerprint
        message_class = MessageType.get(fingerprint)
        if message_class is None:
            raise CodecError(
                f"No message class with fingerprint {fingerprint:#018x} is known: import its module first."
            )
        return message_class.from_bytes(data)

    # -- private

    def _values(self) -> list[Any]:
        return [getattr(self, name) for name in field_names(type(self))]

    def _header(self, sequence: int | None) -> bytes:
        number = next(self._cortex_sequence) if sequence is None else sequence
        return MessageHeader(self.fingerprint(), time.time_ns(), number).to_bytes()

    # The constructor runs, with its __post_init__; what it thinks of foreign values is a decoding error.
    @classmethod
    def _from_values(cls, values: list[Any]) -> Self:
        fields = dataclasses.fields(cls)
        if len(values) != len(fields):
            raise CodecError(f"A {cls.__name__} has {len(fields)} fields but {len(values)} values came.")
        pairs = list(zip(fields, values, strict=True))
        try:
            message = cls(**{field.name: value for field, value in pairs if field.init})
        except Exception as err:
            raise CodecError(f"{cls.__name__} refuses the received values: {err}") from err
        for field, value in pairs:
            if not field.init:
                setattr(message, field.name, value)
        return message


def field_names(message_class: type[Message]) -> tuple[str, ...]:
    """Return the names of a class's fields in wire order."""
    return tuple(field.name for field in dataclasses.fields(message_class))
