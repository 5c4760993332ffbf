"""The 24 bytes in front of every message; pure, so that a recorder can read them without sockets or classes.

A message travels as parts ``[topic, header, metadata, buffer, ...]``: UTF-8 topic, the header below, one msgpack array
with a value per field, then the raw bytes of each array in depth-first order of appearance.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from struct import error as StructError  # noqa: N812

from cortex.errors import WireError

HEADER = Struct(">QQQ")
assert HEADER.size == 24


@dataclass(slots=True)
class MessageHeader:
    """Who, when and which one.

    Attributes:
        fingerprint: 64-bit value of the message class.
        timestamp_ns: publisher's wall clock when the message was serialised, in nanoseconds since the epoch.
        sequence: number of the message, per publisher, from 0.
    """

    fingerprint: int
    timestamp_ns: int
    sequence: int

    def to_bytes(self) -> bytes:
        """Return the 24 bytes: three unsigned big-endian integers.

        Raises:
            WireError: a value is not an integer of 64 unsigned bits.
        """
        try:
            return HEADER.pack(self.fingerprint, self.timestamp_ns, self.sequence)
        except StructError as err:
            raise WireError(f"{self} does not fit in three unsigned 64-bit integers.") from err

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> MessageHeader:
        """Read the first 24 bytes of `data` (bytes-like, ``zmq.Frame`` too) and ignore the rest.

        Raises:
            WireError: there are fewer than 24 bytes.
        """
        try:
            return cls(*HEADER.unpack_from(data))
        except (StructError, TypeError) as err:
            raise WireError(f"A message header has {HEADER.size} bytes, this one is too short.") from err

    @classmethod
    def size(cls) -> int:
        """Return the length of a header in bytes: 24."""
        return HEADER.size
