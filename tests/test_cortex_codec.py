"""Values to metadata and buffers and back, with data from friends and from strangers."""

from __future__ import annotations

import datetime
import math
import random
from typing import Any

import numpy as np
import pytest
import zmq
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from vectors.loader import same

from cortex import codec
from cortex.codec import (
    RESERVED_KEY,
    Descriptor,
    decode_values,
    descriptors,
    encode_values,
    pack_document,
    unpack_metadata,
)
from cortex.errors import CodecError


def through(value: object) -> Any:
    """Send one value and receive it."""
    metadata, buffers = encode_values([value])
    return decode_values(metadata, [bytes(b) for b in buffers])[0]


def described(**changes: object) -> bytes:
    """Metadata with one descriptor of a (2,) float32 array, changed."""
    descriptor = {"__cortex_oob__": "numpy", "buffer": 0, "dtype": "<f4", "shape": [2]} | changes
    return pack_document([{key: value for key, value in descriptor.items() if value is not ...}])


# -- what goes in comes out

dtypes = (
    hnp.scalar_dtypes()
    | hnp.byte_string_dtypes(min_len=1, max_len=5)
    | hnp.unicode_string_dtypes(min_len=1, max_len=5)
    | st.sampled_from([np.dtype("V3"), np.dtype("<M8[25us]"), np.dtype("m8"), np.dtype("<f16")])
)


@st.composite
def arrays_of_any_kind(draw: st.DrawFn) -> np.ndarray:
    dtype = draw(dtypes)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    noise = random.Random(draw(st.integers(0, 2**32))).randbytes(math.prod(shape) * dtype.itemsize)
    return np.ndarray(shape, dtype, bytearray(noise))


arrays = arrays_of_any_kind()


@given(arrays)
@example(np.array(3.5))
@example(np.zeros((0, 3), ">i2"))
@example(np.array("2020-01-02", "M8[D]"))
def test_array_survives_to_the_bit(array: np.ndarray) -> None:
    assert same(through(array), np.ascontiguousarray(array).reshape(array.shape))


@given(arrays, st.data())
def test_views_and_orders_arrive_in_c_order(array: np.ndarray, data: st.DataObject) -> None:
    view = array.transpose(data.draw(st.permutations(range(array.ndim))))
    if view.ndim:
        view = view[:: data.draw(st.sampled_from([1, 2, -1]))]
    received = through(view)
    assert received.flags.c_contiguous
    assert same(received, np.array(view, order="C"))


# hypothesis also tries the strings that it finds in our code, and one of them is refused
keys = st.text().filter(lambda key: key != RESERVED_KEY) | st.binary()
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | hnp.arrays("<i2", hnp.array_shapes(max_dims=2, max_side=3)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(plain, max_size=4))
def test_nested_values_survive(values: list[Any]) -> None:
    metadata, buffers = encode_values(values)
    assert same(decode_values(metadata, buffers), values)


@given(st.lists(plain, max_size=4))
def test_descriptors_tell_where_every_array_stands(values: list[Any]) -> None:
    metadata, buffers = encode_values(values)
    found = descriptors(metadata)
    assert [d.buffer for d in found] == list(range(len(buffers)))
    for descriptor in found:
        value: Any = values
        for step in descriptor.path:
            value = value[step]
        assert (descriptor.dtype, descriptor.shape) == (value.dtype.str, value.shape)
        assert bytes(buffers[descriptor.buffer]) == value.tobytes()


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ((1, (2, [3])), [1, [2, [3]]]),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (np.float64(1.5), 1.5),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.int64(-5), -5),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        ({"k": np.int8(3)}, {"k": 3}),
    ],
)
def test_near_kinds_arrive_as_their_plain_kind(sent: object, received: object) -> None:
    assert same(through(sent), received)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_masked_and_matrix_arrive_as_plain_arrays() -> None:
    for special in (np.ma.masked_array([1, 2], mask=[0, 1]), np.matrix([[1, 2]])):
        assert type(through(special)) is np.ndarray


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        ([("x", "<f4"), ("y", ">i2")], "<f4,>i2"),
        ([("only", "<u8")], "<u8,"),
        ([("t", "<M8[ns]"), ("v", "<f4", (2, 3))], "<M8[ns],(2,3,)<f4"),
        ([("v", "|S3"), ("w", "<f8", (4,))], "|S3,(4,)<f8"),
    ],
)
def test_structured_array_keeps_the_types_of_its_fields(dtype: Any, text: str) -> None:
    array = np.zeros(3, dtype)
    array[array.dtype.names[0]][1] = 1  # type: ignore[index]
    metadata, _ = encode_values([array])
    assert descriptors(metadata)[0].dtype == text
    received = through(array)
    assert received.tobytes() == array.tobytes()
    assert [received.dtype[i] for i in range(len(dtype))] == [array.dtype[i] for i in range(len(dtype))]


def test_aligned_structure_travels_without_its_gaps() -> None:
    array = np.zeros(2, np.dtype([("a", "u1"), ("b", "<f8")], align=True))
    array["a"], array["b"] = [1, 2], [0.5, 1.5]
    received = through(array)
    assert received.dtype.itemsize == 9
    assert (received["f0"] == array["a"]).all()
    assert (received["f1"] == array["b"]).all()


def test_nested_structure_travels_as_bytes() -> None:
    array = np.ones(2, [("a", [("b", "<i2"), ("c", "<i2")])])
    received = through(array)
    assert received.dtype.str == "|V4"
    assert received.tobytes() == array.tobytes()


def test_buffers_are_views_where_that_is_possible() -> None:
    array = np.arange(6, dtype="<i4")
    _, (buffer,) = encode_values([array])
    array[0] = 77
    assert bytes(buffer)[:4] == (77).to_bytes(4, "little")


def test_received_array_is_a_writable_view_that_keeps_its_frame() -> None:
    metadata, (buffer,) = encode_values([np.arange(4, dtype="<i4")])
    frame = zmq.Frame(bytes(buffer))
    (array,) = decode_values(zmq.Frame(metadata), [frame])
    del frame
    array[0] = 9
    assert array.tolist() == [9, 1, 2, 3]
    (fixed,) = decode_values(metadata, [bytes(buffer)])
    assert not fixed.flags.writeable


def test_two_descriptors_may_share_a_buffer() -> None:
    one = {"__cortex_oob__": "numpy", "buffer": 0, "dtype": "<f4", "shape": [2]}
    values = decode_values(pack_document([one, {"deep": [one]}]), [bytes(8)])
    assert same(values[0], values[1]["deep"][0])
    assert [d.path for d in descriptors(pack_document([one, {"deep": [one]}]))] == [(0,), (1, "deep", 0)]


def test_unknown_kind_of_descriptor_is_a_plain_dict() -> None:
    metadata = described(__cortex_oob__="cupy")
    assert decode_values(metadata, [])[0]["__cortex_oob__"] == "cupy"
    assert descriptors(metadata) == []


def test_descriptor_of_a_tensor_is_read_without_torch() -> None:
    metadata = described(__cortex_oob__="torch", device="cuda:0", requires_grad=True)
    assert descriptors(metadata) == [Descriptor((0,), 0, "torch", "<f4", (2,))]


def test_metadata_alone_keeps_descriptors_as_dicts() -> None:
    assert unpack_metadata(described())[0]["dtype"] == "<f4"


def test_text_that_mentions_the_reserved_key_is_no_offence() -> None:
    value = {"a": "__cortex_oob__", "b": [np.zeros(1), "__cortex_oob__"]}
    assert same(through(value), value)


# -- what is refused on sending, in one sentence


class Unknown:
    pass


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (np.array([object()]), "Python objects"),
        (np.zeros(1, [("a", "O"), ("b", "i4")]), "Python objects"),
        (np.zeros(2, "V0"), "0 bytes"),
        ({1: "a"}, r"dict key 1 \(int\).*str or bytes keys"),
        ([{"x": {2.5: 0}}], r"dict key 2.5 \(float\)"),
        ({None: 0}, r"dict key None"),
        ({"__cortex_oob__": "mine"}, "reserves it"),
        ([({"a": [{"__cortex_oob__": np.zeros(1)}]},)], "reserves it"),
        (2**64, "range is -2"),
        (-(2**63) - 1, "range is -2"),
        ({1, 2}, "type set"),
        (1j, "type complex"),
        (np.complex64(1), "type complex64"),
        (np.datetime64(0, "s"), "type datetime64"),
        (np.timedelta64(1, "s"), "type timedelta64"),
        (np.longdouble(1), "type longdouble"),
        (datetime.datetime(2020, 1, 1), "type datetime"),
        (Unknown(), "type Unknown"),
        ("\ud800", "cannot be encoded"),
    ],
)
def test_value_that_cannot_be_sent(value: object, sentence: str) -> None:
    with pytest.raises(CodecError, match=sentence):
        encode_values([0, value])


def test_endless_nesting_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    deep: Any = 0
    for _ in range(5000):
        deep = {"d": deep}
    for value in (endless, deep):
        with pytest.raises(CodecError):
            encode_values([value])


def test_string_arrays_of_variable_width_are_refused() -> None:
    kind = getattr(np.dtypes, "StringDType", None)
    if kind is None:
        pytest.skip("numpy 1 has no such arrays")
    with pytest.raises(CodecError, match="Python objects"):
        encode_values([np.array(["a"], kind())])


# -- what strangers send

HUGE = 2**62


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [HUGE, HUGE, HUGE]},
        {"shape": [HUGE, 0]},
        {"shape": [-1]},
        {"shape": [-2, -1]},
        {"shape": [2.0]},
        {"shape": [True, 2]},
        {"shape": "2"},
        {"shape": None},
        {"shape": ...},
        {"shape": [1] * 1000},
        {"shape": [[2]]},
        {"shape": 2},
        {"buffer": -1},
        {"buffer": 1},
        {"buffer": 2**63},
        {"buffer": True},
        {"buffer": 0.0},
        {"buffer": "0"},
        {"buffer": ...},
        {"dtype": "|O"},
        {"dtype": "O8"},
        {"dtype": "<f4,O"},
        {"dtype": "T"},
        {"dtype": "V0", "shape": [HUGE]},
        {"dtype": "<U0"},
        {"dtype": "(2,)<f4", "shape": []},
        {"dtype": "(1,2"},
        {"dtype": "(99999999999999,99999999)f4"},
        {"dtype": "i4," * 5000},
        {"dtype": "V99999999999"},
        {"dtype": "<f5"},
        {"dtype": ""},
        {"dtype": 7},
        {"dtype": None},
        {"dtype": ...},
        {"dtype": b"<f4"},
        {"dtype": {"names": ["a"], "formats": ["O"]}},
        {"dtype": "<f8"},
    ],
    ids=repr,
)
def test_malformed_descriptor_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(CodecError):
        decode_values(described(**changes), [bytes(8)])


def test_alias_of_a_dtype_is_accepted() -> None:
    assert same(decode_values(described(dtype="float32"), [bytes(8)])[0], np.zeros(2, "<f4"))


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x81\xa1a" * 100_000,
        b"\x91" * 900 + b"\xc0",
        b"\x91\x81\x01\x02",
        b"\x91\x81\x90\x02",
        b"\x91\xa1\xff",
        b"\x91\xc7\x03\xff\x00\x00\x00",
        b"\x91\xd6\xff\x00",
        b"\x90\x00",
        b"\x80",
        b"\x05",
        b"\xa1a",
        pack_document([{"__cortex_oob__": {"__cortex_oob__": "numpy"}}])[:-1],
    ],
    ids=lambda data: data[:8].hex() or "empty",
)
def test_malformed_metadata_is_refused(metadata: bytes) -> None:
    for read in (unpack_metadata, descriptors, lambda data: decode_values(data, [])):
        try:
            read(metadata)
        except CodecError:
            continue
        assert metadata == b"\x91" * 900 + b"\xc0", "only deep but sound nesting may pass"


def test_deep_nesting_around_an_array_is_no_problem() -> None:
    inner = {"__cortex_oob__": "numpy", "buffer": 0, "dtype": "<f4", "shape": [2]}
    metadata = b"\x91" * 300 + pack_document(inner)
    value: Any = decode_values(metadata, [bytes(8)])
    while isinstance(value, list):
        (value,) = value
    assert same(value, np.zeros(2, "<f4"))
    assert descriptors(metadata)[0].path == (0,) * 300


@pytest.mark.parametrize("buffer", [None, "text", 5, [1, 2]])
def test_buffer_that_has_no_bytes_is_refused(buffer: Any) -> None:
    with pytest.raises(CodecError):
        decode_values(described(), [buffer])


mutations = st.tuples(st.integers(0, 10_000), st.integers(0, 255))


@given(plain, st.lists(mutations, min_size=1, max_size=6), st.integers(0, 3))
def test_damaged_messages_are_decoded_or_refused_but_never_crash(
    value: Any, damage: list[tuple[int, int]], fewer: int
) -> None:
    metadata, buffers = encode_values([value, np.zeros((2, 3), "<f4")])
    damaged = bytearray(metadata)
    for position, byte in damage:
        damaged[position % len(damaged)] = byte
    for read in (descriptors, lambda data: decode_values(data, buffers[: len(buffers) - fewer])):
        try:
            read(bytes(damaged))
        except CodecError:
            pass


@given(st.binary(max_size=80))
def test_random_bytes_never_crash(data: bytes) -> None:
    for read in (unpack_metadata, descriptors, codec.unpack_inline, codec.unpack_document):
        try:
            read(data)
        except CodecError:
            pass


# -- inline and plain documents


@given(plain)
def test_inline_form_carries_arrays_inside(value: Any) -> None:
    assert same(codec.unpack_inline(codec.pack_inline(value)), value)


@pytest.mark.parametrize(
    "body", [b"", b"\x93\xa3<f4\x91\x02", b"\x93\xa2|O\x91\x01\xc4\x08" + bytes(8), b"\x92\xc0\xc0"]
)
def test_malformed_inline_array_is_refused(body: bytes) -> None:
    with pytest.raises(CodecError):
        codec.unpack_inline(b"\xc7" + bytes([len(body)]) + b"\x01" + body)


def test_foreign_extension_values_are_kept() -> None:
    assert codec.unpack_inline(b"\xd4\x07x") == (7, b"x")


@pytest.mark.parametrize("value", [np.zeros(2), {"a": np.zeros(2)}, {1}, object()])
def test_plain_documents_take_no_arrays(value: object) -> None:
    with pytest.raises(CodecError, match="cannot be sent"):
        pack_document(value)
