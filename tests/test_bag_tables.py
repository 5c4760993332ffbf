"""Topics as tables and lazy arrays of other libraries; each part runs where its library is installed."""

import numpy as np
import pytest
from made_bags import MS, sample, write

import bag
from bag.errors import MissingExtraError
from cortex.messages.standard import ArrayMessage, DictMessage, ImageMessage


@pytest.fixture
def robot():
    with bag.open(sample("robot")) as run:
        yield run


def test_a_missing_library_is_named_with_its_extra(robot, monkeypatch):
    import sys

    for module, call, extra in (
        ("pandas", robot["/imu"].to_pandas, "pandas"),
        ("pyarrow", robot["/imu"].to_arrow, "pandas"),
        ("polars", robot["/imu"].to_polars, "polars"),
        ("xarray", robot["/imu"].to_xarray, "xarray"),
        ("dask.array", robot["/imu"]["orientation"].to_dask, "dask"),
        ("torch.utils.data", lambda: robot.torch_dataset({"/imu": "orientation"}, past=0.1), "torch"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=rf"cortex-bag\[{extra}\]"):
            call()


def test_pandas(robot):
    pandas = pytest.importorskip("pandas")
    for name, topic in robot.items():
        frame = topic.to_pandas()
        assert frame.index.tolist() == [pandas.Timestamp(t, tz="UTC") for t in topic.times]
        assert frame["sequence"].tolist() == topic.sequence.tolist(), name
    imu = robot["/imu"].to_pandas()
    assert (
        imu[["orientation.0", "orientation.3"]].to_numpy().tolist() == robot["/imu"]["orientation"][:, [0, 3]].tolist()
    )
    assert imu["temperature"].dtype == np.float64
    assert (
        robot["/lidar/points"].to_pandas(["points"])["points"].iloc[2].shape
        == robot["/lidar/points"]["points"][2].shape
    )


def test_large_rows_are_left_out_and_named(tmp_path):
    pytest.importorskip("pandas")
    messages = [(i * MS, ImageMessage(np.zeros((200, 200, 3), np.uint8))) for i in range(2)]
    with bag.open(write(tmp_path / "l.h5", {"/c": messages})) as run:
        frame = run["/c"].to_pandas()
        assert frame.attrs["left_out"] == ["data"]
        assert "data" not in frame
        assert run["/c"].to_pandas(["data"])["data"].iloc[1].shape == (200, 200, 3)


def test_arrow_and_polars(robot):
    pytest.importorskip("pyarrow")
    for topic in robot.values():
        table = topic.to_arrow(topic.fields)
        assert table["sequence"].to_pylist() == topic.sequence.tolist()
        for name in topic.fields:
            found = topic[name][:]
            assert len(table[name]) == len(topic)
            if isinstance(found, np.ndarray) and found.dtype.kind in "iuf":
                assert np.array_equal(np.array(table[name].to_pylist()).reshape(found.shape), found)
    clouds = robot["/lidar/points"]
    assert clouds.to_arrow()["points"][3].as_py() == clouds["points"][3].reshape(-1).tolist()
    assert robot["/log"].to_arrow()["data"].to_pylist() == robot["/log"]["data"][:].tolist()
    polars = pytest.importorskip("polars")
    frame = robot["/imu"].to_polars()
    assert isinstance(frame, polars.DataFrame)
    assert frame["temperature"].to_list() == robot["/imu"]["temperature"][:].tolist()


def test_mixed_values_become_text_in_arrow(tmp_path):
    pytest.importorskip("pyarrow")
    values = [1, "a", None, [1, "b"], {"k": b"\xff"}]
    with bag.open(write(tmp_path / "m.h5", {"/m": [(i, DictMessage({"x": v})) for i, v in enumerate(values)]})) as run:
        found = run["/m"].to_arrow([("x")])["x"].to_pylist()
        assert found == ["1", '"a"', None, '[1, "b"]', '{"k": "ff"}']


def test_xarray_is_lazy(robot, monkeypatch):
    pytest.importorskip("xarray")
    from bag.fields import ArrayField

    read = []
    real = ArrayField.__getitem__
    monkeypatch.setattr(ArrayField, "__getitem__", lambda self, key: (read.append(key), real(self, key))[1])
    camera = robot["/camera/image"]
    data = camera.to_xarray()
    assert read == []
    assert data.sizes["time"] == 30
    assert data["time"].values.astype(np.int64).tolist() == camera.times.tolist()
    truth = np.stack([message.data for message in camera])
    assert np.array_equal(data["data"].isel(time=slice(3, 6)).values, truth[3:6])
    assert len(read) == 1
    assert np.array_equal(data["data"].isel(time=[5, 2], data_3=[2, 0]).values, truth[[5, 2]][..., [2, 0]])
    assert np.array_equal(data["data"].isel(time=4, data_1=7).values, truth[4, 7])
    assert robot["/lidar/points"].to_xarray().attrs["left_out"] == ["points"]
    with pytest.raises(bag.UsageError, match="ragged"):
        robot["/lidar/points"].to_xarray(["points"])
    assert set(robot.to_xarray()) == set(robot)


def test_dask_arrays_read_their_own_chunks(robot):
    pytest.importorskip("dask.array")
    field = robot["/camera/image"]["data"]
    array = field.to_dask(rows=7)
    assert array.chunks[0] == (7, 7, 7, 7, 2)
    assert np.array_equal(array.compute(scheduler="synchronous"), field[:])
    assert np.array_equal(array[3:9, ::2].compute(scheduler="threads"), field[3:9, ::2])
    assert np.array_equal(
        robot.between(0.5)["/imu"]["orientation"].to_dask().compute(), robot["/imu"].between(0.5)["orientation"][:]
    )
    with pytest.raises(bag.UsageError, match="ragged"):
        robot["/lidar/points"]["points"].to_dask()


def test_big_endian_arrays_reach_libraries_that_know_none(tmp_path):
    pytest.importorskip("pyarrow")
    messages = [(i, ArrayMessage(np.array([i, 2.5], ">f8"))) for i in range(3)]
    with bag.open(write(tmp_path / "b.h5", {"/b": messages})) as run:
        assert run["/b"].to_arrow()["data"].to_pylist() == [[float(i), 2.5] for i in range(3)]
        pytest.importorskip("pandas")
        assert run["/b"].to_pandas()["data.0"].tolist() == [0.0, 1.0, 2.0]
