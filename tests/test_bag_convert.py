"""Imports of .mcap: our own exports, foreign JSON, and ROS 2; what is not understood is kept and named."""

import base64
import json

import numpy as np
import pytest
from made_bags import MS, T0, sample

import bag
from bag.convert import from_mcap
from bag.export import export
from cortex.messages.standard import BytesMessage, DictMessage, ImageMessage, PointCloudMessage, PoseMessage

writers = pytest.importorskip("mcap.writer")


def foreign(path, messages):
    """An .mcap of [(topic, schema name, schema encoding, schema text, message encoding, data)]."""
    with path.open("wb") as stream:
        writer = writers.Writer(stream, compression=writers.CompressionType.NONE)
        writer.start()
        for number, (topic, name, kind, text, encoding, data) in enumerate(messages):
            schema = writer.register_schema(name, kind, text.encode()) if name else 0
            channel = writer.register_channel(topic, encoding, schema)
            writer.add_message(channel, T0 + number * MS, data, T0 + number * MS - 7)
        writer.finish()
    return path


def test_an_export_comes_back(tmp_path):
    with bag.open(sample("robot")) as source:
        export(source, tmp_path / "r.mcap", "mcap")
        report = from_mcap(tmp_path / "r.mcap", tmp_path / "back.h5")
        assert (report.messages, report.undecoded) == (135, {})
        with bag.open(tmp_path / "back.h5") as back:
            for name in source:
                assert back[name].times.tolist() == source[name].times.tolist()
                assert back[name].publish_times.tolist() == source[name].publish_times.tolist()
                assert back[name].sequence.tolist() == source[name].sequence.tolist()
                assert (back[name].channel.type_name, back[name].channel.node) == (
                    source[name].channel.type_name,
                    source[name].channel.node,
                )
            assert np.array_equal(back["/camera/image"]["data"][:], source["/camera/image"]["data"][:])
            assert np.array_equal(
                back["/lidar/points"]["points"][:].values, source["/lidar/points"]["points"][:].values
            )
            assert np.array_equal(back["/imu"]["orientation"][:], source["/imu"]["orientation"][:])
            assert (
                back["/status"]["data/battery/volts"][:].tolist() == source["/status"]["data/battery/volts"][:].tolist()
            )
            assert [message.data for message in back["/log"]] == [message.data for message in source["/log"]]


def test_foreign_json_becomes_standard_messages(tmp_path):
    pixels = np.arange(24, dtype=np.uint8)
    packed = np.array([(1, 2, 3, 9)], [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<u2")])
    image = {
        "width": 2,
        "height": 3,
        "encoding": "rgb8",
        "step": 8,
        "data": base64.b64encode(pixels.tobytes()).decode(),
    }
    fields = [
        {"name": n, "offset": packed.dtype.fields[n][1], "type": 7 if n in "xyz" else 3} for n in packed.dtype.names
    ]
    cloud = {"frame_id": "l", "point_stride": 14, "fields": fields, "data": base64.b64encode(packed.tobytes()).decode()}
    pose = {
        "frame_id": "map",
        "pose": {"position": {"x": 1, "y": 2, "z": 3}, "orientation": {"x": 0, "y": 0, "z": 0, "w": 1}},
    }
    rows = [
        ("/image", "foxglove.RawImage", "jsonschema", "{}", "json", json.dumps(image).encode()),
        ("/cloud", "foxglove.PointCloud", "jsonschema", "{}", "json", json.dumps(cloud).encode()),
        ("/pose", "foxglove.PoseInFrame", "jsonschema", "{}", "json", json.dumps(pose).encode()),
        ("/free", "", "", "", "json", b'{"a": {"b": [1, 2]}}'),
        ("/number", "", "", "", "json", b"5"),
        ("/broken", "", "", "", "json", b"{"),
        ("/proto", "x.Y", "protobuf", "", "protobuf", b"\x08\x01"),
    ]
    report = from_mcap(foreign(tmp_path / "f.mcap", rows), tmp_path / "f.h5")
    assert report.undecoded == {"json of /broken": 1, "protobuf of /proto": 1}
    with bag.open(tmp_path / "f.h5") as run:
        found = {name: run[name][0] for name in run}
        assert isinstance(found["/image"], ImageMessage)
        # a row of the image has two bytes too many
        assert found["/image"].data.tolist() == pixels.reshape(3, 8)[:, :6].reshape(3, 2, 3).tolist()
        assert isinstance(found["/cloud"], PointCloudMessage)
        assert (found["/cloud"].points.tolist(), found["/cloud"].intensity.tolist()) == ([[1, 2, 3]], [9])
        assert isinstance(found["/pose"], PoseMessage)
        assert found["/pose"].position.tolist() == [1, 2, 3]
        assert found["/free"] == DictMessage({"a": {"b": [1, 2]}})
        assert found["/number"] == DictMessage({"value": 5})
        assert found["/broken"] == BytesMessage(b"{")
        assert found["/proto"] == BytesMessage(b"\x08\x01")
        assert run["/image"].publish_times.tolist() == [T0 - 7]


def test_ros_2_messages_are_decoded(tmp_path):
    typesys = pytest.importorskip("rosbags.typesys")
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    types = store.types
    time = types["builtin_interfaces/msg/Time"](sec=1, nanosec=2)
    header = types["std_msgs/msg/Header"](stamp=time, frame_id="cam")
    image = types["sensor_msgs/msg/Image"](header, 2, 3, "bgr8", 0, 9, np.arange(18, dtype=np.uint8))
    vector, turn = (
        types["geometry_msgs/msg/Vector3"](1.0, 2.0, 3.0),
        types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
    )
    imu = types["sensor_msgs/msg/Imu"](header, turn, np.zeros(9), vector, np.zeros(9), vector, np.zeros(9))
    text = types["std_msgs/msg/String"]("hello")
    rows = [
        (topic, name, "ros2msg", typesys_text(store, name), "cdr", bytes(store.serialize_cdr(message, name)))
        for topic, name, message in (
            ("/image", "sensor_msgs/msg/Image", image),
            ("/imu", "sensor_msgs/msg/Imu", imu),
            ("/text", "std_msgs/msg/String", text),
        )
    ]
    directory = tmp_path / "rosbag2"
    directory.mkdir()
    foreign(directory / "rosbag2_0.mcap", rows)
    report = from_mcap(directory, tmp_path / "r.h5")
    assert (report.messages, report.undecoded) == (3, {})
    with bag.open(tmp_path / "r.h5") as run:
        assert run["/image"][0].encoding == "bgr8"
        assert run["/image"]["data"][0].tolist() == np.arange(18).reshape(2, 3, 3).tolist()
        assert run["/imu"]["linear_acceleration/y"][0] == 2.0
        assert run["/imu"]["orientation/w"][0] == 1.0
        assert run["/imu"]["header/frame_id"][0] == "cam"
        assert run["/imu"]["orientation_covariance"].shape == (1, 9)
        assert run["/text"][0].data == "hello"


def typesys_text(store, name):
    return store.generate_msgdef(name, ros_version=2)[0]


def test_an_import_appears_whole_or_not_at_all(tmp_path):
    good = foreign(tmp_path / "g.mcap", [("/a", "", "", "", "json", b"{}")])
    (tmp_path / "bad.mcap").write_bytes(good.read_bytes()[:-40])
    with pytest.raises(bag.BagFormatError, match="mcap recover"):
        from_mcap(tmp_path / "bad.mcap", tmp_path / "o.h5")
    with pytest.raises(bag.UsageError, match="/nothing"):
        from_mcap(good, tmp_path / "o.h5", topics=["/nothing"])
    with pytest.raises(FileNotFoundError):
        from_mcap(tmp_path / "no.mcap", tmp_path / "o.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.mcap", "g.mcap"]
    from_mcap(good, tmp_path / "o.h5")
    with pytest.raises(bag.BagExistsError):
        from_mcap(good, tmp_path / "o.h5")
    assert from_mcap(good, tmp_path / "o.h5", force=True).messages == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.mcap", "g.mcap", "o.h5"]


def test_a_bag_survives_the_trip_with_its_gaps(tmp_path):
    with bag.open(sample("gaps")) as source:
        export(source, tmp_path / "g.mcap", "mcap")
        from_mcap(tmp_path / "g.mcap", tmp_path / "g.h5")
        with bag.open(tmp_path / "g.h5") as back:
            assert back["/counter"].sequence.tolist() == source["/counter"].sequence.tolist()
            assert np.array_equal(back["/counter"]["data"][:], source["/counter"]["data"][:])
