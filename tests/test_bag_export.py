"""Exports, each read back with the library that owns the format; all appear whole or not at all."""

import csv
import json
import zipfile

import numpy as np
import pytest
from made_bags import MS, T0, gathered, sample, write

import bag
from bag.export import FORMATS, export
from cortex.messages.standard import DictMessage, ImageMessage, PoseMessage, StringMessage


@pytest.fixture
def robot():
    with bag.open(sample("robot")) as run:
        yield run


def test_npz(robot, tmp_path):
    export(robot, tmp_path / "o.npz", "npz")
    with np.load(tmp_path / "o.npz", allow_pickle=False) as found:
        for name, topic in robot.items():
            prefix = name.lstrip("/")
            assert found[f"{prefix}/log_time_ns"].tolist() == topic.times.tolist()
            assert found[f"{prefix}/sequence"].tolist() == topic.sequence.tolist()
        assert np.array_equal(found["camera/image/data"], robot["/camera/image"]["data"][:])
        assert found["imu/temperature"].tolist() == robot["/imu"]["temperature"][:].tolist()
        assert found["log/data"].tolist() == robot["/log"]["data"][:].tolist()
        assert [json.loads(text) for text in found["status/data/errors"]] == robot["/status"]["errors"][:].tolist()
        clouds = robot["/lidar/points"]["points"][:]
        assert np.array_equal(found["lidar/points/points.values"].reshape(-1, 3), clouds.values)
        assert (found["lidar/points/points.offsets"] // 3).tolist() == clouds.offsets.tolist()
    assert zipfile.ZipFile(tmp_path / "o.npz").testzip() is None


def test_csv(robot, tmp_path):
    export(robot, tmp_path / "o", "csv")
    with (tmp_path / "o" / "imu.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["log_time_ns"]) for row in rows] == robot["/imu"].times.tolist()
    assert [float(row["orientation.2"]) for row in rows] == robot["/imu"]["orientation"][:, 2].tolist()
    assert [float(row["temperature"]) for row in rows] == robot["/imu"]["temperature"][:].tolist()
    assert json.loads((tmp_path / "o" / "left_out.json").read_text()) == {
        "/camera/image": ["data"],
        "/lidar/points": ["points"],
    }


def test_parquet(robot, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    export(robot, tmp_path / "o", "parquet")
    for name, topic in robot.items():
        table = parquet.read_table(tmp_path / "o" / f"{name.strip('/').replace('/', '_')}.parquet")
        assert table["sequence"].to_pylist() == topic.sequence.tolist()
        assert table.schema.metadata[b"topic"] == name.encode()
    table = parquet.read_table(tmp_path / "o" / "camera_image.parquet")
    assert json.loads(table.schema.field("data").metadata[b"shape"]) == [48, 64, 3]
    first = np.array(table["data"][3].as_py(), np.uint8).reshape(48, 64, 3)
    assert np.array_equal(first, robot["/camera/image"]["data"][3])


def test_parquet_of_values_that_change_their_type(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    from bag.export import sink

    monkeypatch.setattr(sink, "MAX_ROWS", 4)
    values = [{"a": i if i < 4 else i + 0.5, "b": None if i < 4 else "x", "c": i if i < 4 else "t"} for i in range(10)]
    with bag.open(write(tmp_path / "v.h5", {"/v": [(i, DictMessage(value)) for i, value in enumerate(values)]})) as run:
        export(run, tmp_path / "o", "parquet")
    table = parquet.read_table(tmp_path / "o" / "v.parquet")
    assert table["data/a"].to_pylist() == [value["a"] for value in values]
    assert table["data/b"].to_pylist() == [value["b"] for value in values]
    assert table["data/c"].to_pylist()[:2] == ["0", "1"]


def test_zarr(robot, tmp_path):
    zarr = pytest.importorskip("zarr")
    export(robot, tmp_path / "o.zarr", "zarr")
    root = zarr.open_group(str(tmp_path / "o.zarr"), mode="r")
    assert np.array_equal(root["camera/image/data"][:], robot["/camera/image"]["data"][:])
    assert root["imu/log_time_ns"][:].tolist() == robot["/imu"].times.tolist()
    assert root["lidar/points/points/offsets"][:].tolist() == (robot["/lidar/points"]["points"][:].offsets * 3).tolist()
    assert root["log/data"][:].tolist() == robot["/log"]["data"][:].tolist()


def test_images(robot, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    export(robot, tmp_path / "o", "images", topics=["/camera/image"])
    for number, truth in enumerate(robot["/camera/image"]["data"]):
        with pillow.open(tmp_path / "o" / "camera_image" / f"{number:06d}.png") as picture:
            assert np.array_equal(np.asarray(picture), truth)
    with (tmp_path / "o" / "camera_image" / "index.csv").open(newline="") as stream:
        assert [int(row["log_time_ns"]) for row in csv.DictReader(stream)] == robot["/camera/image"].times.tolist()
    export(robot, tmp_path / "j", "images", options={"image_format": "jpeg"})
    with pillow.open(tmp_path / "j" / "camera_image" / "000000.jpg") as picture:
        assert picture.size == (64, 48)
    with pytest.raises(bag.UsageError, match="no images"):
        export(robot, tmp_path / "n", "images", topics=["/imu"])
    assert not (tmp_path / "n").exists()


def test_image_encodings(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    colour = random.integers(0, 255, (16, 24, 3), np.uint8)
    deep = random.integers(0, 65535, (16, 24), np.uint16)
    topics = {
        "/bgr": [(0, ImageMessage(colour, encoding="bgr8"))],
        "/grey": [(0, ImageMessage(colour[..., 0].copy(), encoding="mono8"))],
        "/deep": [(0, ImageMessage(deep, encoding="mono16"))],
        "/file": [(0, ImageMessage(np.frombuffer(b"\x89PNG not really", np.uint8), encoding="png"))],
    }
    with bag.open(write(tmp_path / "e.h5", topics)) as run:
        export(run, tmp_path / "o", "images")
    found = {name: np.asarray(pillow.open(tmp_path / "o" / name / "000000.png")) for name in ("bgr", "grey", "deep")}
    assert np.array_equal(found["bgr"], colour[..., ::-1])
    assert np.array_equal(found["grey"], colour[..., 0])
    assert np.array_equal(found["deep"], deep)
    assert (tmp_path / "o" / "file" / "000000.png").read_bytes() == b"\x89PNG not really"


def _frames(path):
    imageio = pytest.importorskip("imageio_ffmpeg")
    reader = imageio.read_frames(str(path))
    about = next(reader)
    width, height = about["size"]
    return about, [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def test_video(robot, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    export(robot, tmp_path / "o", "video")
    about, frames = _frames(tmp_path / "o" / "camera_image.mp4")
    assert (about["size"], about["fps"]) == ((64, 48), pytest.approx(30, abs=0.1))
    truth = robot["/camera/image"]["data"][:]
    assert len(frames) == len(truth)
    # lossy, so near and not equal; and each frame nearer to its own than to another
    for number in (0, 15, 29):
        errors = np.abs(truth.astype(int) - frames[number].astype(int)).mean(axis=(1, 2, 3))
        assert errors[number] < 30
        assert errors[number] <= errors.min() + 2


def test_mcap(robot, tmp_path):
    reader = pytest.importorskip("mcap.reader")
    export(robot, tmp_path / "o.mcap", "mcap")
    with (tmp_path / "o.mcap").open("rb") as stream:
        found = reader.make_reader(stream, validate_crcs=True)
        summary = found.get_summary()
        assert {channel.topic for channel in summary.channels.values()} == set(robot)
        assert {schema.name for schema in summary.schemas.values()} >= {
            "foxglove.RawImage",
            "foxglove.PointCloud",
            "StringMessage",
        }
        by_topic = {}
        for schema, channel, message in found.iter_messages():
            by_topic.setdefault(channel.topic, []).append((schema, channel, message, json.loads(message.data)))
    for name, topic in robot.items():
        rows = by_topic[name]
        assert [message.log_time for _s, _c, message, _d in rows] == topic.times.tolist()
        assert [message.publish_time for _s, _c, message, _d in rows] == topic.publish_times.tolist()
        assert rows[0][1].metadata["node"] == topic.channel.node
    import base64

    image = by_topic["/camera/image"][4][3]
    assert (image["width"], image["height"], image["encoding"], image["step"]) == (64, 48, "rgb8", 192)
    assert base64.b64decode(image["data"]) == robot["/camera/image"]["data"][4].tobytes()
    cloud = by_topic["/lidar/points"][2][3]
    raw = base64.b64decode(cloud["data"])
    assert cloud["point_stride"] == 12
    assert [field["name"] for field in cloud["fields"]] == ["x", "y", "z"]
    assert np.array_equal(np.frombuffer(raw, "<f4").reshape(-1, 3), robot["/lidar/points"]["points"][2])
    assert by_topic["/status"][1][3] == {"data": robot["/status"][1].data}
    assert by_topic["/imu"][0][3]["orientation"] == robot["/imu"]["orientation"][0].tolist()


def test_mcap_of_poses_and_of_what_json_cannot_hold(tmp_path):
    reader = pytest.importorskip("mcap.reader")
    pose = PoseMessage(position=np.array([1.0, 2, 3]), orientation=np.array([0, 0, 0, 1.0]), frame_id="map")
    topics = {"/pose": [(0, pose)], "/nan": [(0, DictMessage({"x": float("nan"), "raw": b"\xff"}))]}
    path = write(tmp_path / "p.h5", topics)
    with bag.open(path) as run:
        export(run, tmp_path / "o.mcap", "mcap")
    with (tmp_path / "o.mcap").open("rb") as stream:
        found = {
            channel.topic: (schema, json.loads(m.data, parse_constant=pytest.fail))
            for schema, channel, m in reader.make_reader(stream).iter_messages()
        }
    schema, body = found["/pose"]
    assert schema.name == "foxglove.PoseInFrame"
    assert body["pose"] == {
        "position": {"x": 1.0, "y": 2.0, "z": 3.0},
        "orientation": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0},
    }
    assert (body["frame_id"], body["timestamp"]) == ("map", {"sec": T0 // 10**9, "nsec": 0})
    assert found["/nan"][1] == {"data": {"x": None, "raw": "ff"}}


def test_lerobot(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("imageio_ffmpeg")
    with bag.open([sample("robot"), _later(tmp_path)]) as run:
        topics = ["/camera/image", "/imu", "/joints"]
        options = {"fps": 10, "state": ["/imu:orientation"], "action": ["/joints"], "task": "turn"}
        export(run, tmp_path / "o", "lerobot", topics=topics, options=options)
        root = tmp_path / "o"
        info = json.loads((root / "meta/info.json").read_text())
        assert (info["codebase_version"], info["fps"], info["total_episodes"]) == ("v3.0", 10, 2)
        assert info["features"]["observation.images.camera_image"]["shape"] == [48, 64, 3]
        assert info["features"]["observation.state"]["shape"] == [4]
        assert info["features"]["action"]["names"][0] == "/joints/arrays/position/0"
        episodes = parquet.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
        assert [row["tasks"] for row in episodes] == [["turn"], ["turn"]]
        assert episodes[1]["dataset_from_index"] == episodes[0]["dataset_to_index"] == episodes[0]["length"]
        assert episodes[1]["dataset_to_index"] == info["total_frames"]
        place = {"chunk_index": 0, "file_index": 1}
        data = parquet.read_table(root / info["data_path"].format(**place)).to_pydict()
        assert data["index"] == list(range(episodes[1]["dataset_from_index"], episodes[1]["dataset_to_index"]))
        assert data["frame_index"] == list(range(episodes[1]["length"]))
        assert data["timestamp"] == pytest.approx([i / 10 for i in data["frame_index"]])
        part = bag.open(_later(tmp_path))
        with part:
            begin = max(part[name].times[0] for name in topics)
            aligned = part.align(topics, on=begin + np.arange(episodes[1]["length"]) * 100 * MS, clock="log")
            assert np.allclose(data["observation.state"], aligned["/imu"]["orientation"])
        about, frames = _frames(root / info["video_path"].format(video_key="observation.images.camera_image", **place))
        assert len(frames) == episodes[1]["length"]
        assert about["fps"] == 10
        stats = json.loads((root / "meta/stats.json").read_text())
        assert np.shape(stats["observation.images.camera_image"]["mean"]) == (3, 1, 1)
        assert 0 < stats["observation.images.camera_image"]["mean"][0][0][0] < 1
        assert stats["observation.state"]["count"] == [info["total_frames"]]
        assert pandas.read_parquet(root / "meta/tasks.parquet").loc["turn", "task_index"] == 0


def test_lerobot_takes_the_states_of_the_moments_of_sending_where_log_times_are_coarse(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with bag.open(gathered(tmp_path / "w.h5", custom_data={"receive_interval": "50ms"})) as run:
        export(run, tmp_path / "o", "lerobot", topics=["/n"], options={"fps": 50, "state": ["/n"]})
    (path,) = (tmp_path / "o").rglob("data/**/*.parquet")
    states = parquet.read_table(path).to_pydict()["observation.state"]
    assert np.ravel(states).tolist() == list(range(0, 100, 2))


@pytest.mark.parametrize("ahead_ms", [-3_600_000, -6000, -1000, 0, 30, 1000, 3_600_000])
def test_lerobot_takes_states_and_actions_of_one_time_line_whatever_the_clocks_say(ahead_ms, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    clocks = {"/n": 0, "/m": ahead_ms * MS}
    with bag.open(gathered(tmp_path / "w.h5", ahead_ns=clocks, custom_data={"receive_interval": "50ms"})) as run:
        chosen = {"fps": 50, "state": ["/n"], "action": ["/m"]}
        export(run, tmp_path / "o", "lerobot", topics=["/n", "/m"], options=chosen)
    (path,) = (tmp_path / "o").rglob("data/**/*.parquet")
    data = parquet.read_table(path).to_pydict()
    states, actions = np.ravel(data["observation.state"]), np.ravel(data["action"])
    assert np.diff(states).tolist() == [2] * (len(states) - 1)
    # how long messages are on the way at least, nobody knows of a clock that is wrong: here it is 10 ms
    assert set(np.subtract(states, actions).tolist()) <= {0, 1}
    assert len(states) >= 48


def _later(directory):
    path = directory / "later.h5"
    if not path.exists():
        with bag.open(sample("robot")) as source, bag.Writer(path) as writer:
            for raw in source.messages():
                writer.write(raw.topic, list(raw.frames), log_time_ns=raw.log_time_ns + 5 * 10**9)
    return path


def test_rerun(robot, tmp_path):
    pytest.importorskip("rerun")
    export(robot, tmp_path / "o.rrd", "rerun")
    assert (tmp_path / "o.rrd").read_bytes()[:3] == b"RRF"
    columns, rows = _read_rrd(tmp_path / "o.rrd")
    assert any("camera/image" in column and "Image" in column for column in columns)
    assert any("imu/orientation" in column and "Scalars" in column for column in columns)
    assert rows >= 30


# the reader of .rrd files is a server that speaks DataFusion, of exactly the version that rerun was built for
def _read_rrd(path):
    import rerun

    if not hasattr(rerun, "server"):
        table = (
            pytest.importorskip("rerun.dataframe")
            .load_recording(str(path))
            .view(index="log_time", contents="/**")
            .select()
            .read_all()
        )
        return table.column_names, table.num_rows
    try:
        with rerun.server.Server(datasets={"run": [str(path)]}) as server:
            client = server.client()
            dataset = client.get_dataset("run")
            table = dataset.reader(index="log_time").to_arrow_table()
            return table.column_names, table.num_rows
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("format_", FORMATS)
def test_an_output_appears_whole_or_not_at_all(robot, tmp_path, format_, monkeypatch):
    import importlib

    module, ending = FORMATS[format_]
    output = tmp_path / f"o{ending}"

    def half(_bag, fresh, *_arguments, **_options):
        (fresh / "half" if not ending else fresh).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(importlib.import_module(module), "write", half)
    with pytest.raises(OSError, match="disk full"):
        export(robot, output, format_)
    assert list(tmp_path.iterdir()) == []
    output.mkdir() if not ending else output.write_text("mine")
    with pytest.raises(bag.BagExistsError, match="--force"):
        export(robot, output, format_)
    with pytest.raises(OSError, match="disk full"):
        export(robot, output, format_, force=True)
    assert list(tmp_path.iterdir()) == [output]
    if ending:
        assert output.read_text() == "mine"


def test_force_replaces_and_parts_are_parts(robot, tmp_path):
    export(robot, tmp_path / "o", "csv")
    export(robot.between(0.2, 0.4), tmp_path / "o", "csv", topics=["/imu"], force=True)
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["imu.csv"]
    assert len((tmp_path / "o" / "imu.csv").read_text().splitlines()) == 1 + len(robot["/imu"].between(0.2, 0.4))


def test_missing_libraries_and_wrong_words_are_named(robot, tmp_path, monkeypatch):
    import sys

    with pytest.raises(bag.UsageError, match="no format 'tar'"):
        export(robot, tmp_path / "o", "tar")
    with pytest.raises(KeyError, match="/nothing"):
        export(robot, tmp_path / "o", "csv", topics=["/nothing"])
    wanted = {
        "parquet": ("pyarrow.parquet", "pandas"), "zarr": ("zarr", "zarr"), "mcap": ("mcap.writer", "mcap"),
        "images": ("PIL.Image", "images"), "video": ("imageio_ffmpeg", "video"), "rerun": ("rerun", "rerun"),
    }  # fmt: skip
    for format_, (module, extra) in wanted.items():
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(bag.MissingExtraError, match=rf"cortex-bag\[{extra}\]"):
                export(robot, tmp_path / "o", format_)
    assert list(tmp_path.iterdir()) == []


def test_awkward_topic_names_become_file_names(tmp_path):
    topics = {name: [(0, StringMessage(name))] for name in ("/a/b", "/a_b", "/ü ber", "/..", "/x%y")}
    with bag.open(write(tmp_path / "n.h5", topics)) as run:
        export(run, tmp_path / "o", "csv")
    names = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert len(names) == 5
    assert "a_b.csv" in names
    assert "a_b-2.csv" in names


def test_progress_reaches_the_end(robot, tmp_path):
    for format_ in ("npz", "csv"):
        seen = {}
        export(
            robot,
            tmp_path / format_,
            format_,
            progress=lambda topic, done, total: seen.__setitem__(topic, (done, total)),
        )
        assert seen == {name: (len(topic), len(topic)) for name, topic in robot.items()}
