"""Fields: arrays, ragged arrays and values of the metadata, equal to the messages under every kind of index."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bags import MS, sample, samples, write

import bag
from bag.fields import ArrayField
from bag.loose_fields import RaggedField, ValueField
from bag.ragged import Ragged
from bag.storage import bulk
from cortex.messages.standard import (
    ArrayMessage,
    DictMessage,
    ImageMessage,
    ListMessage,
    MultiArrayMessage,
    PointCloudMessage,
)


@pytest.mark.parametrize("name", ["custom", "gaps", "robot"])
def test_arrays_and_values_are_the_true_ones(name):
    with bag.open(sample(name)) as run:
        for topic, facts in samples()[1][name].items():
            for field, arrays in facts.get("arrays", {}).items():
                rows = list(run[topic][field][:])
                assert {row.dtype.str for row in rows} == {arrays["dtype"]}
                assert hashlib.sha256(b"".join(row.tobytes() for row in rows)).hexdigest() == arrays["sha256"]
            if "values" in facts and isinstance(facts["values"][0], dict):
                for key in ("battery/volts", "mode", "tick", "errors"):
                    assert run[topic][key][:].tolist() == [_at(value, key) for value in facts["values"]]
            elif "values" in facts:
                assert run[topic]["data"][:].tolist() == facts["values"]


def _at(value, path):
    for key in path.split("/"):
        value = value[key]
    return value


def test_the_fields_of_a_topic_are_listed():
    with bag.open(sample("robot")) as run:
        assert run["/camera/image"].fields == ("data", "encoding", "width", "height")
        assert run["/camera/image"].array_fields == ("data",)
        assert run["/joints"].fields[:2] == ("arrays/position", "arrays/velocity")
        assert "data/battery/volts" in run["/status"].fields
    with bag.open(sample("custom")) as run:
        assert run["/grip"].fields == ("field0", "field1", "field2", "field3/serial")
        assert run["/grip"]["field3/serial"][:].tolist() == ["G-17"] * 40
        assert run["/grip"]["serial"][5] == "G-17"
        assert run["/grip"]["field1"][2:4].tolist() == [1.0, 1.5]
        assert run["/grip"]["field0"][:4].tolist() == [True, False, True, False]


def test_fields_say_what_they_are_without_being_read():
    with bag.open(sample("robot")) as run:
        image, points, text = run["/camera/image"]["data"], run["/lidar/points"]["points"], run["/log"]["data"]
        assert (type(image), type(points), type(text)) == (ArrayField, RaggedField, ValueField)
        assert (image.shape, image.ndim, image.dtype, image.nbytes) == ((30, 48, 64, 3), 4, np.uint8, 30 * 48 * 64 * 3)
        assert repr(image) == "<Field 'data' of '/camera/image': 30x48x64x3 uint8>"
        assert "ragged" in repr(points)
        assert "x 3 float32" in repr(points)
        assert (points.shape, points.dtype, text.dtype) == ((10,), np.float32, object)
        assert run["/imu"]["temperature"].dtype == np.float64
        with pytest.raises(ValueError, match="padded"):
            np.asarray(points)


KEYS = [
    3, -1, slice(None), slice(2, 9), slice(None, None, 3), slice(9, 2, -2), slice(5, 5), [4, 1, 1, -1], [],
    np.array([[0, 3], [2, 2]]), (3, 1), (slice(2, 6), slice(0, 2)), (slice(None), -1), (slice(None, None, -1), 0),
    ([3, 1], slice(1, 3)), (Ellipsis, 1), (slice(3, 7), [0, 2]), Ellipsis, np.arange(20) % 2 == 0,
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=repr)
@pytest.mark.parametrize("cut", [False, True])
def test_an_array_field_reads_as_the_array_does(tmp_path, key, cut):
    truth = np.arange(20 * 4 * 5, dtype=np.float32).reshape(20, 4, 5)
    messages = {"/a": [(i * MS, ArrayMessage(row)) for i, row in enumerate(truth)]}
    first = write(tmp_path / "a_0.h5", {"/a": messages["/a"][:13]})
    second = write(tmp_path / "a_1.h5", {"/a": messages["/a"][13:]})
    with bag.open([first, second] if cut else write(tmp_path / "whole.h5", messages)) as run:
        found = run["/a"]["data"][key]
        assert np.array_equal(found, truth[key])
        assert np.asarray(found).dtype == truth.dtype


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_rows_of_a_field_are_those_of_the_array(data):
    with bag.open(sample("robot")) as run:
        field = run["/imu"]["angular_velocity"]
        truth = np.stack([message.angular_velocity for message in run["/imu"]])
        rows = data.draw(st.lists(st.integers(-50, 49), max_size=30))
        assert np.array_equal(field[rows], truth[np.array(rows, int)])


def test_wrong_indexes_are_refused():
    with bag.open(sample("robot")) as run:
        field = run["/imu"]["orientation"]
        for key in (50, -51, [0, 50], np.ones(49, bool), "x", 1.5):
            with pytest.raises((IndexError, KeyError)):
                field[key]


def test_a_field_is_read_into_given_memory():
    with bag.open(sample("robot")) as run:
        field = run["/camera/image"]["data"]
        out = np.zeros((4, *field.shape[1:]), field.dtype)
        field.read_into(out, 10)
        assert np.array_equal(out, field[10:14])
        with pytest.raises(IndexError, match="30 rows"):
            field.read_into(out, 28)


def test_reading_a_slice_reads_no_other_rows(monkeypatch):
    asked = []
    real = bulk.read_into
    monkeypatch.setattr(
        bulk, "read_into", lambda column, start, out: (asked.append((start, len(out))), real(column, start, out))
    )
    with bag.open(sample("robot")) as run:
        run["/camera/image"]["data"][10:12]
        run["/camera/image"]["data"][[3, 20]]
    assert asked == [(10, 2), (3, 1), (20, 1)]


def test_ragged_fields_come_as_arrays_of_their_own(tmp_path):
    sizes = [3, 0, 7, 5, 5, 1]
    clouds = [np.full((n, 3), i, np.float32) for i, n in enumerate(sizes)]
    messages = [(i * MS, PointCloudMessage(points=cloud)) for i, cloud in enumerate(clouds)]
    with bag.open(write(tmp_path / "r.h5", {"/p": messages})) as run:
        points = run["/p"]["points"]
        found = points[:]
        assert isinstance(found, Ragged)
        assert found.lengths.tolist() == sizes
        assert all(np.array_equal(one, other) for one, other in zip(found, clouds, strict=True))
        assert np.array_equal(found.values, np.concatenate(clouds))
        assert found.offsets.tolist() == [0, 3, 3, 10, 15, 20, 21]
        padded = found.padded(-1)
        assert padded.shape == (6, 7, 3)
        assert (padded[0, 3:] == -1).all()
        assert points[2].shape == (7, 3)
        assert [len(array) for array in points[[5, 2, 2]]] == [1, 7, 7]
        assert points[2, :2].shape == (2, 3)
        assert "0..7 x 3 float32" in repr(found)
        assert np.array_equal(found[1:3].values, clouds[2])


def test_arrays_that_come_and_go_are_missing_not_invented(tmp_path):
    colors = np.ones((4, 3), np.uint8)
    messages = [
        (i * MS, PointCloudMessage(points=np.zeros((4, 3), np.float32), colors=colors if i % 2 else None))
        for i in range(6)
    ]
    with bag.open(write(tmp_path / "m.h5", {"/p": messages})) as run:
        found = run["/p"]["colors"][:]
        assert [array is None for array in found] == [True, False] * 3
        assert run["/p"]["points"].shape == (6, 4, 3)
        assert run["/p"]["points"][5].shape == (4, 3)


def test_changing_dtypes_and_shapes_are_kept(tmp_path):
    arrays = [
        np.zeros((2, 3)),
        np.ones((2, 3), np.int16),
        np.array(5.0),
        np.zeros((4, 4), ">f4"),
        np.zeros((2, 3)),
        np.zeros(0),
    ]
    messages = [(i * MS, ArrayMessage(array)) for i, array in enumerate(arrays)]
    with bag.open(write(tmp_path / "c.h5", {"/a": messages})) as run:
        field = run["/a"]["data"]
        assert field.ragged
        for number, array in enumerate(arrays):
            assert np.array_equal(field[number], array)
            assert (field[number].dtype, field[number].shape) == (array.dtype, array.shape)
        assert [a.shape for a in field[1:4]] == [(2, 3), (), (4, 4)]


def test_times_and_odd_dtypes_survive(tmp_path):
    arrays = {
        "when": np.array(["2026-01-01", "2026-01-02"], "M8[ns]"),
        "big": np.arange(3, dtype=">i4"),
        "half": np.arange(3, dtype=np.float16),
        "flag": np.array([True, False]),
        "wave": np.array([1 + 2j]),
    }
    messages = [(i * MS, MultiArrayMessage(arrays)) for i in range(3)]
    with bag.open(write(tmp_path / "d.h5", {"/m": messages})) as run:
        for name, array in arrays.items():
            field = run["/m"][f"arrays/{name}"]
            assert field.dtype == array.dtype
            assert np.array_equal(field[1], array)
            assert np.array_equal(run["/m"][name][1:][1], array)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries({}, optional={"x": VALUES, "y": VALUES, "pose": st.fixed_dictionaries({"x": VALUES})}),
        min_size=1,
        max_size=12,
    )
)
def test_values_are_those_of_the_messages(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("values") / "v.h5"
    with bag.open(write(path, {"/s": [(i, DictMessage(value)) for i, value in enumerate(values)]})) as run:
        truth = [message.data for message in run["/s"]]
        for key, reach in (("x", lambda v: v.get("x")), ("pose/x", lambda v: v.get("pose", {}).get("x"))):
            wanted = [reach(value) for value in truth]
            try:
                field = run["/s"][("data", *key.split("/"))]
            except KeyError:
                assert all("pose" not in value if "/" in key else key not in value for value in truth)
                continue
            found = field[:]
            for one, other in zip(found.tolist(), wanted, strict=True):
                if other is None:
                    assert one is None or one != one
                else:
                    assert one == other
                    assert type(one) is type(other) or found.dtype == np.float64
            some = field[len(values) // 2 :]
            assert len(some) == len(values) - len(values) // 2
    path.unlink()


def test_columns_have_the_types_their_values_need(tmp_path):
    rows = [
        {"i": 1, "f": 1.5, "b": True, "s": "a", "m": 1, "n": 5, "big": 2**63, "l": [1, 2]},
        {"i": -70000, "f": 2.5, "b": False, "s": "bb", "m": 2.5, "big": 1, "l": []},
        {"i": 300, "f": 3.5, "b": True, "s": "", "m": 3, "n": 6, "big": 0, "l": [3]},
    ]
    with bag.open(write(tmp_path / "t.h5", {"/s": [(i, DictMessage(row)) for i, row in enumerate(rows * 50)]})) as run:
        topic = run["/s"]
        kinds = {key: topic[key][:].dtype for key in rows[0]}
        assert kinds == {
            "i": np.int64, "f": np.float64, "b": bool, "s": object,
            "m": np.float64, "n": np.float64, "big": np.uint64, "l": object,
        }  # fmt: skip
        assert topic["i"][:3].tolist() == [1, -70000, 300]
        assert topic["n"][1] is None
        assert np.isnan(topic["n"][:2][1])
        assert topic["n"][::3].dtype == np.int64
        assert topic["l"][:3].tolist() == [[1, 2], [], [3]]
        assert topic["l/0"][0] == 1


def test_a_value_of_a_topic_that_never_changes_is_decoded_once(tmp_path, monkeypatch):
    from bag import templates

    frames = []
    real = templates.walk
    monkeypatch.setattr(templates, "walk", lambda frame: frames.append(frame) or real(frame))
    messages = [(i * MS, ImageMessage(np.full((2, 2, 3), i, np.uint8))) for i in range(100)]
    with bag.open(write(tmp_path / "e.h5", {"/c": messages})) as run:
        field = run["/c"]["encoding"]
        frames.clear()
        assert set(field[:].tolist()) == {"rgb8"}
    assert len(frames) == 1


def test_many_distinct_values_take_few_walks(tmp_path, monkeypatch):
    from bag import templates

    count = 0

    def counted(frame):
        nonlocal count
        count += 1
        return real(frame)

    real = templates.walk
    messages = [(i * MS, DictMessage({"x": i * 0.5, "n": i, "mode": "auto"})) for i in range(3000)]
    with bag.open(write(tmp_path / "w.h5", {"/s": messages})) as run:
        field = run["/s"]["n"]
        monkeypatch.setattr(templates, "walk", counted)
        assert field[:].tolist() == list(range(3000))
        assert run["/s"]["x"][::100].tolist() == [i * 0.5 for i in range(0, 3000, 100)]
    assert count <= 12


def test_lists_as_messages(tmp_path):
    with bag.open(write(tmp_path / "l.h5", {"/l": [(i, ListMessage([i, i / 2, "x"])) for i in range(5)]})) as run:
        assert run["/l"]["data"][:].tolist() == [[i, i / 2, "x"] for i in range(5)]
        assert run["/l"]["data/1"][:].tolist() == [i / 2 for i in range(5)]


def test_messages_in_one_piece_have_fields_too(tmp_path):
    with bag.Writer(tmp_path / "i.h5") as writer:
        for number in range(4):
            message = MultiArrayMessage({"a": np.arange(number + 1)}, frame_id=f"f{number}")
            writer.write("/i", [message.to_bytes(number)], log_time_ns=number)
    with bag.open(tmp_path / "i.h5") as run:
        assert run["/i"]["frame_id"][:].tolist() == ["f0", "f1", "f2", "f3"]
        assert [message.frame_id for message in run["/i"]] == ["f0", "f1", "f2", "f3"]


def test_undecodable_messages_have_no_values_and_break_nothing(tmp_path):
    good = DictMessage({"x": 1})
    with bag.Writer(tmp_path / "u.h5") as writer:
        writer.write("/s", good, log_time_ns=1)
        header = good.to_frames(1)[0]
        writer.write("/s", [header, b"\xc1\xff garbage"], log_time_ns=2)
        writer.write("/s", good, log_time_ns=3)
    with bag.open(tmp_path / "u.h5") as run:
        found = run["/s"]["x"][:]
        assert found[[0, 2]].tolist() == [1, 1]
        assert np.isnan(found[1])
