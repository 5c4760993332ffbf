"""The 24 bytes in front of every message."""

from __future__ import annotations

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from cortex.errors import WireError
from cortex.wire import HEADER, MessageHeader

u64 = st.integers(0, 2**64 - 1)


@given(u64, u64, u64, st.binary(max_size=8))
def test_header_round_trip_ignores_what_follows(fingerprint: int, timestamp: int, sequence: int, tail: bytes) -> None:
    header = MessageHeader(fingerprint, timestamp, sequence)
    assert MessageHeader.from_bytes(header.to_bytes() + tail) == header


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, zmq.Frame])
def test_header_is_read_from_anything_with_bytes(kind: type) -> None:
    assert MessageHeader.from_bytes(kind(HEADER.pack(1, 2, 3))) == MessageHeader(1, 2, 3)


@pytest.mark.parametrize("length", [0, 1, 23])
def test_short_header_is_refused(length: int) -> None:
    with pytest.raises(WireError, match="24 bytes"):
        MessageHeader.from_bytes(bytes(length))


@pytest.mark.parametrize("value", [-1, 2**64, 1.5, "1", None])
def test_header_takes_only_unsigned_64_bit_integers(value: object) -> None:
    with pytest.raises(WireError):
        MessageHeader(1, 2, value).to_bytes()  # type: ignore[arg-type]


def test_size() -> None:
    assert MessageHeader.size() == HEADER.size == 24
