"""Tagged values, under the names that programs import."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors.loader import same

from cortex.errors import CodecError
from cortex.utils import serialization as ser


@pytest.mark.parametrize(
    "value",
    [None, True, -5, 2**64 - 1, 1.5, "é", b"\0\xff", [], [1, [2]], {}, {"a": {"b": np.arange(3)}}, np.zeros((2, 3))],
    ids=repr,
)
def test_value_survives_and_its_length_is_told(value: object) -> None:
    data = ser.serialize(value)
    back, used = ser.deserialize(data + b"tail")
    assert same(back, value)
    assert used == len(data)


@pytest.mark.parametrize(
    ("sent", "received"), [((1, 2), [1, 2]), (bytearray(b"x"), b"x"), (memoryview(b"x"), b"x"), (np.int16(4), 4)]
)
def test_near_kinds_become_their_plain_kind(sent: object, received: object) -> None:
    assert same(ser.deserialize(ser.serialize(sent))[0], received)


@pytest.mark.parametrize("value", [{1}, object(), 2**64, {1: 2}, np.array([None])])
def test_value_that_cannot_be_sent(value: object) -> None:
    with pytest.raises(CodecError):
        ser.serialize(value)


def test_numpy_is_a_view_unless_a_copy_is_asked_for() -> None:
    data = bytearray(ser.serialize_numpy(np.arange(4, dtype="<i4")))
    view, used = ser.deserialize_numpy(data)
    copy, _ = ser.deserialize_numpy(data, copy=True)
    data[-4:] = (9).to_bytes(4, "little")
    assert used == len(data)
    assert view.base is not None
    assert view[-1] == 9
    assert copy.base is None
    assert copy[-1] == 3
    assert copy.flags.writeable


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 1), (3, 2)])
@pytest.mark.parametrize("dtype", [">f8", "|b1", "<c16", "<U3", "<M8[ms]", "V5"])
def test_numpy_of_any_shape_and_kind(shape: tuple[int, ...], dtype: str) -> None:
    array = np.zeros(shape, dtype)
    assert same(ser.deserialize_numpy(ser.serialize_numpy(array))[0], array)


def test_values_and_data_of_messages() -> None:
    values = [1, "a", np.arange(2), {"x": [np.ones(1)]}]
    assert same(ser.deserialize_message_values(ser.serialize_message_values(values)), values)
    assert same(ser.deserialize_message_frames(*ser.serialize_message_frames(values)), values)
    data = {"a": 1, "b": np.arange(2)}
    assert same(ser.deserialize_message_data(ser.serialize_message_data(data)), data)


@pytest.mark.parametrize("data", [b"", b"\x00", ser.serialize({}), ser.serialize([1]) + b"x", b"\x05\0\0\0\x01"])
def test_body_of_a_message_is_exactly_one_list(data: bytes) -> None:
    with pytest.raises(CodecError):
        ser.deserialize_message_values(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x07",
        b"\xff",
        b"\x01\0\0\0\x05\x01",
        b"\x01\0\0\0\x01\xc1",
        b"\x01\0\0\0\x01\x90",
        b"\x04\0\0\0\x01\x90",
        b"\x05\0\0\0\x01\x80",
        b"\x05\xff\xff\xff\xff",
        b"\x06\0\0\0\x02a",
        b"\x02",
        b"\x02\xff",
        b"\x02\x02" + b"\xff" * 8 + b"\x00\x03<f8",
        b"\x02\x01\0\0\0\x01\x00\x02|O" + bytes(8),
        b"\x02\x01\0\0\0\x01\x00\x02\xff\xfe" + bytes(8),
        b"\x02\x41" + bytes(4 * 0x41) + b"\x00\x03|u1",
        b"\x03\x00\x00\x03cp",
    ],
    ids=lambda data: data[:12].hex() or "empty",
)
def test_malformed_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        ser.deserialize(data)


values = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(max_size=3) | st.just(np.arange(2)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(values, st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=4), st.integers(0, 5))
def test_damaged_bytes_never_crash(value: Any, damage: list[tuple[int, int]], shorter: int) -> None:
    data = bytearray(ser.serialize(value))
    for position, byte in damage:
        data[position % len(data)] = byte
    try:
        ser.deserialize(bytes(data[: len(data) - shorter]))
    except CodecError:
        pass


def test_tags() -> None:
    assert (ser.DataType.NONE, ser.DataType.BYTES) == (0, 6)
