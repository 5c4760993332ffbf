"""Bit-exactness: whatever a publisher sends, topic and every frame come back byte for byte, by every way of reading."""

import struct

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from storage_kit import (
    FINGERPRINT,
    channel_on,
    contents,
    frames_of,
    header,
    memory_directory,
    merged_frames,
    plain,
    rows_of,
    stored,
)

from bag.storage.reader import BagReader
from bag.storage.writer import BagWriter


@pytest.fixture
def tmp_path():
    yield from memory_directory()


DESCRIPTOR = "__cortex_oob__"
DTYPES = [
    "|b1", "|i1", "|u1", "<i2", ">i2", "<u4", ">u4", "<i8", ">u8", "<f2", ">f2", "<f4", ">f8", "<c8", ">c16", "<g",
    "|S1", "|S7", "<U3", ">U2", "|V5", "<M8[ns]", ">M8[us]", "<m8[D]", "<f4,<i2", "<f8,|S3",
]  # fmt: skip
SHAPES = [(), (1,), (3,), (2, 3), (0,), (0, 3), (3, 0), (4, 1, 2), (1,) * 31, (1,) * 40]
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def descriptor(dtype, shape, buffer=0):
    return {DESCRIPTOR: "numpy", "buffer": buffer, "dtype": dtype, "shape": list(shape)}


def message(sequence, dtype, shape, *, seed=0, fingerprint=FINGERPRINT):
    """A message with one array of arbitrary bytes (so that NaNs with payloads and odd booleans occur, too)."""
    size = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=int))
    data = np.random.default_rng(seed + sequence).integers(0, 256, size, np.uint8).tobytes()
    metadata = msgpack.packb(["x", descriptor(dtype, shape)])
    return [header(sequence, fingerprint=fingerprint), metadata, data]


def check(path, topics, *, commit_every=None):
    """Write the messages (in one go, and with commits in between), then read them in every way."""
    path.unlink(missing_ok=True)
    with BagWriter(path) as writer:
        for topic, messages in topics.items():
            known = writer.add_channel(channel_on(topic))
            step = commit_every or max(1, len(messages))
            for at in range(0, len(messages), step):
                writer.append(known.id, rows_of(topic, messages[at : at + step], at))
                if commit_every:
                    writer.commit()
    with BagReader(path) as reader:
        assert list(reader.topics) == list(topics)
        for topic, messages in topics.items():
            assert stored(reader, topic) == messages
            assert [m.topic for m in reader.raw(topic, 0, len(messages))] == [topic] * len(messages)
            assert [m.sequence for m in reader.raw(topic, 0, len(messages))] == [
                struct.unpack(">Q", frames[0][16:24])[0] for frames in messages
            ]
            for start in range(0, len(messages) + 1, max(1, len(messages) // 5)):
                got = reader.topics[topic].frames(start, min(start + 7, len(messages)))
                assert [plain(frames) for frames in got] == messages[start : start + 7]
        everything = [(topic, frames) for topic, messages in topics.items() for frames in messages]
        for order in ("log", "publish"):
            assert sorted(merged_frames(reader, order)) == sorted(everything)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("commit_every", [None, 3])
def test_every_dtype_comes_back_in_every_shape(tmp_path, dtype, commit_every):
    topics = {f"/{number}": [message(k, dtype, shape) for k in range(7)] for number, shape in enumerate(SHAPES)}
    check(tmp_path / "run.h5", topics, commit_every=commit_every)


arrays = hnp.arrays(
    dtype=st.one_of(
        hnp.scalar_dtypes(),
        hnp.byte_string_dtypes(min_len=1),
        hnp.unicode_string_dtypes(min_len=1),
        hnp.array_dtypes(max_size=3, allow_subarrays=False).filter(lambda dtype: dtype.itemsize > 0),
    ),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
values = st.recursive(
    plain_values | arrays,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
numbers = st.integers(0, 2**64 - 1)


@st.composite
def sendable(draw):
    """Frames that a well-behaved publisher could send."""
    return draw(
        st.builds(
            lambda fields, sequence, publish, fingerprint: frames_of(
                fields, sequence, publish=publish, fingerprint=fingerprint
            ),
            st.lists(values, max_size=3),
            numbers,
            numbers,
            st.sampled_from([FINGERPRINT, 0, 2**64 - 1]),
        )
    )


# anything with at least a header and one part more
foreign = st.builds(
    lambda head, rest: [head, *rest],
    st.binary(min_size=24, max_size=30),
    st.lists(st.binary(max_size=40), min_size=0, max_size=4),
)


@quick
@given(messages=st.lists(sendable() | foreign, min_size=1, max_size=12), commit_every=st.integers(1, 5))
def test_any_run_of_messages_comes_back(tmp_path, messages, commit_every):
    check(tmp_path / "run.h5", {"/t": messages}, commit_every=commit_every)


@quick
@given(
    shapes=st.lists(st.tuples(st.integers(0, 6), st.just(3)), min_size=2, max_size=30),
    commit_every=st.integers(1, 9),
)
def test_point_clouds_of_any_size_are_one_ragged_column(tmp_path, shapes, commit_every):
    path = tmp_path / "run.h5"
    check(path, {"/lidar": [message(k, "<f4", s) for k, s in enumerate(shapes)]}, commit_every=commit_every)
    with BagReader(path) as reader:
        columns = reader.topics["/lidar"].buffer_columns()
        assert {column.spec.kind for column in columns} <= {"fixed", "ragged"}
        assert all(column.spec.dtype == "<f4" for column in columns)


@quick
@given(
    choices=st.lists(st.tuples(st.sampled_from(DTYPES), st.sampled_from(SHAPES)), min_size=2, max_size=40),
    commit_every=st.integers(1, 9),
)
def test_a_topic_may_change_dtype_and_shape_with_every_message(tmp_path, choices, commit_every):
    messages = [message(k, dtype, shape) for k, (dtype, shape) in enumerate(choices)]
    check(tmp_path / "run.h5", {"/t": messages}, commit_every=commit_every)


@quick
@given(data=st.data())
def test_slices_of_a_topic_that_changes_are_what_was_sent(tmp_path, data):
    path = tmp_path / "run.h5"
    path.unlink(missing_ok=True)
    kinds = data.draw(
        st.lists(st.sampled_from([("<f4", (3,)), ("<f4", (4,)), ("|u1", (2, 2)), ("<i2", ())]), max_size=60)
    )
    messages = [message(k, dtype, shape) for k, (dtype, shape) in enumerate(kinds)]
    with BagWriter(path) as writer:
        known = writer.add_channel(channel_on("/t"))
        writer.append(known.id, rows_of("/t", messages))
    with BagReader(path) as reader:
        for _ in range(10):
            start = data.draw(st.integers(0, len(messages)))
            stop = data.draw(st.integers(start, len(messages)))
            assert [plain(frames) for frames in reader.topics["/t"].frames(start, stop)] == messages[start:stop]
            assert [plain(m.frames) for m in reader.raw("/t", start, stop)] == messages[start:stop]


def test_arrays_of_one_shape_are_one_dataset_of_their_dtype(tmp_path):
    import h5py

    images = [np.full((4, 5, 3), k, np.uint8) for k in range(9)]
    check(tmp_path / "run.h5", {"/camera/image": [frames_of([1.5, image], k) for k, image in enumerate(images)]})
    with h5py.File(tmp_path / "run.h5") as file:
        dataset = file["camera/image/field1"]
        assert (dataset.shape, dataset.dtype) == ((9, 4, 5, 3), np.uint8)
        assert np.array_equal(dataset, images)


def odd(case):
    array = descriptor("<f4", (2,))
    good = np.arange(2, dtype="<f4").tobytes()
    return {
        "metadata that is no msgpack": [b"\xc1\xff", good],
        "metadata that is no list": [msgpack.packb({"a": 1}), good],
        "empty metadata": [b"", good],
        "no buffers and no metadata": [b""],
        "a buffer that nothing tells of": [msgpack.packb([array]), good, b"surplus"],
        "a buffer that is missing": [msgpack.packb([array, descriptor("<f4", (2,), 1)]), good],
        "a buffer shorter than claimed": [msgpack.packb([array]), good[:-1]],
        "a buffer longer than claimed": [msgpack.packb([array]), good + b"!"],
        "one buffer for two arrays": [msgpack.packb([array, array]), good],
        "an object dtype": [msgpack.packb([descriptor("|O", (2,))]), good],
        "a dtype that is none": [msgpack.packb([descriptor("f4f4f4(", (2,))]), good],
        "a shape below zero": [msgpack.packb([descriptor("<f4", (-2,))]), good],
        "a shape beyond all bounds": [msgpack.packb([descriptor("<f4", (2**62, 2**62))]), good],
        "forty dimensions": [msgpack.packb([descriptor("<f4", (1,) * 39 + (2,))]), good],
        "a thousand dimensions": [msgpack.packb([descriptor("<f4", (1,) * 999 + (2,))]), good],
        "a tensor": [msgpack.packb([{**array, DESCRIPTOR: "torch", "device": "cpu", "requires_grad": False}]), good],
        "seventy buffers": [msgpack.packb([descriptor("<f4", (2,), k) for k in range(70)]), *[good] * 70],
        "keys that look like paths": [
            msgpack.packb([{"/": array, "..": descriptor("<f4", (2,), 1), "": descriptor("<f4", (2,), 2)}]), *[good] * 3
        ],
        "keys with NUL and without end": [
            msgpack.packb([{"a\0b": array, "k" * 5000: descriptor("<f4", (2,), 1)}]), *[good] * 2
        ],
        "names that meet": [msgpack.packb([{"a.b": array, "a": {"b": descriptor("<f4", (2,), 1)}}]), *[good] * 2],
        "names of our own": [
            msgpack.packb([{"_index": array, "x.offsets": descriptor("<f4", (2,), 1), "x": descriptor("<U1", (2,), 2)}]
            ),
            *[good] * 3,
        ],
        "thousands of keys": [msgpack.packb([{f"key{k}": float(k) for k in range(5000)}])],
    }[case]  # fmt: skip


ODD = [
    "metadata that is no msgpack", "metadata that is no list", "empty metadata", "no buffers and no metadata",
    "a buffer that nothing tells of", "a buffer that is missing", "a buffer shorter than claimed",
    "a buffer longer than claimed", "one buffer for two arrays", "an object dtype", "a dtype that is none",
    "a shape below zero", "a shape beyond all bounds", "forty dimensions", "a thousand dimensions", "a tensor",
    "seventy buffers", "keys that look like paths", "keys with NUL and without end", "names that meet",
    "names of our own", "thousands of keys",
]  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_odd_messages_come_back_too_between_ordinary_ones(tmp_path, case):
    good = [message(k, "<f4", (2,)) for k in range(6)]
    strange = [[header(k), *odd(case)] for k in range(6, 12)]
    mixed = [frames for pair in zip(good, strange, strict=True) for frames in pair]
    check(tmp_path / "run.h5", {"/first": strange, "/mixed": mixed}, commit_every=4)


def test_a_surplus_buffer_after_the_same_metadata_is_no_trap(tmp_path):
    metadata, good = msgpack.packb([descriptor("<f4", (2,))]), bytes(8)
    check(tmp_path / "run.h5", {"/t": [[header(0), metadata, good], [header(1), metadata, good, b"more"]]})


def test_inline_messages_and_long_headers_come_back(tmp_path):
    inline = [[header(k) + msgpack.packb([k, "text"])] for k in range(5)]
    long = [[header(k) + b"!", msgpack.packb([k])] for k in range(5, 9)]
    check(tmp_path / "run.h5", {"/inline": inline, "/long": long, "/both": inline + long}, commit_every=2)


def test_messages_without_a_whole_header_are_counted_not_stored(tmp_path):
    path = tmp_path / "run.h5"
    good = [message(k, "<f4", (2,)) for k in range(3)]
    with BagWriter(path) as writer:
        known = writer.add_channel(channel_on("/t"))
        rows = rows_of("/t", [good[0], [], [b"short"], [header(1)[:23], b"\x90"], good[1], [b""], good[2]])
        writer.append(known.id, rows)
    with BagReader(path) as reader:
        assert stored(reader, "/t") == good
        assert reader.info().topics[0].malformed == 4


def test_fingerprints_may_differ_from_the_channel_and_change(tmp_path):
    messages = [message(k, "<f4", (2,), fingerprint=k % 3) for k in range(20)]
    check(tmp_path / "run.h5", {"/t": messages}, commit_every=7)


def test_a_flood_of_fingerprints_and_shapes_stays_bounded(tmp_path):
    messages = [message(k, "<f4", (2,), fingerprint=k) for k in range(200)]
    messages += [[header(k, fingerprint=k), b"\x90"] for k in range(200, 400)]
    messages += [message(k, "<f4", (1, k)) for k in range(400, 600)]
    check(tmp_path / "run.h5", {"/t": messages}, commit_every=50)
    import h5py

    with h5py.File(tmp_path / "run.h5") as file:
        assert len(file["t"]) < 80


def test_many_fields_that_change_stay_bounded(tmp_path):
    messages = []
    for k in range(30):
        arrays = {f"{k}-{n}": descriptor("|u1", (1,), n) for n in range(20)}
        messages.append([header(k), msgpack.packb([arrays]), *[b"x"] * 20])
    check(tmp_path / "run.h5", {"/t": messages}, commit_every=3)
    import h5py

    with h5py.File(tmp_path / "run.h5") as file:
        assert len(file["t"]) < 300


def test_frames_may_be_memoryviews(tmp_path):
    messages = [message(k, "|u1", (100_000,)) for k in range(3)] + [message(k, "<f4", (2,)) for k in range(3, 9)]
    with BagWriter(tmp_path / "run.h5") as writer:
        known = writer.add_channel(channel_on("/t"))
        rows = [(0, k, [b"/t", *map(memoryview, frames)]) for k, frames in enumerate(messages)]
        writer.append(known.id, rows[:1])
        writer.commit()
        writer.append(known.id, rows[1:])
    assert contents(tmp_path / "run.h5") == {"/t": messages}


def test_parts_by_the_ten_thousand_come_back(tmp_path):
    check(tmp_path / "run.h5", {"/t": [[header(0), *[b"p"] * 70_000], [header(1), b"\x90"]]})


def test_large_rows_after_small_ones_get_chunks_that_fit(tmp_path):
    # a row larger than what the topic was expected to bring, yet too small to be a chunk of its own
    messages = [message(0, "<f4", (2,)), *[message(k, "|u1", (50_000,)) for k in range(1, 4)]]
    check(tmp_path / "run.h5", {"/t": messages}, commit_every=1)


def test_a_cloud_that_comes_alone_before_a_commit_is_ragged_from_the_start(tmp_path):
    check(tmp_path / "run.h5", {"/lidar": [message(k, "<f4", (100 + k, 4)) for k in range(3)]}, commit_every=1)
    with BagReader(tmp_path / "run.h5") as reader:
        (column,) = reader.topics["/lidar"].buffer_columns()
        assert (column.spec.kind, column.values.shape) == ("ragged", (303, 4))


def test_an_image_that_comes_alone_is_a_row(tmp_path):
    check(tmp_path / "run.h5", {"/depth": [message(k, "<u2", (48, 64)) for k in range(3)]}, commit_every=1)
    with BagReader(tmp_path / "run.h5") as reader:
        (column,) = reader.topics["/depth"].buffer_columns()
        assert (column.spec.kind, column.values.shape) == ("fixed", (3, 48, 64))
