"""Many bags: a catalogue, alignment and export as tasks, on a Dask cluster of processes and on object storage."""

import os
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
from helpers import spawn_python, wait_until
from made_bags import MS, sample, write

import bag
from bag.catalog import Task
from bag.exporting import ExportBag
from cortex.messages.standard import IntMessage


@pytest.fixture
def runs(tmp_path):
    directory = tmp_path / "runs"
    directory.mkdir()
    for number in range(4):
        messages = [(number * 10**9 + i * 10 * MS, IntMessage(number * 100 + i)) for i in range(20 + number)]
        write(directory / f"run_{number}.h5", {"/n": messages, "/other": messages[:2]})
    return directory


def count(run):
    return str(run.path), len(run["/n"]), os.getpid()


def test_bags_are_opened_one_at_a_time(runs):
    many = bag.open_many(str(runs / "*.h5"))
    assert len(many) == 4
    with many[2] as run:
        assert len(run["/n"]) == 22
    assert [found[1] for found in many.map(count)] == [20, 21, 22, 23]
    assert len(many[1:3]) == 2
    with pytest.raises(FileNotFoundError):
        bag.open_many(str(runs / "x*.h5"))


def test_a_catalogue_stands_for_the_bags(runs):
    many = bag.open_many(str(runs / "*.h5"))
    rows = many.catalog()
    assert len(rows) == 8
    assert {row["messages"] for row in rows if row["topic"] == "/n"} == {20, 21, 22, 23}
    long = many.where(lambda row: row["topic"] == "/n" and row["messages"] > 21)
    assert [os.path.basename(path) for path in long.paths] == ["run_2.h5", "run_3.h5"]
    pytest.importorskip("pyarrow")
    many.save_catalog(runs / "catalog.parquet")
    for path in many.paths:
        os.rename(path, path + ".away")
    # the bags themselves are not touched
    again = bag.open_many(runs / "catalog.parquet")
    assert again.paths == many.paths
    assert again.catalog() == rows
    assert len(again.where(lambda row: row["messages"] > 22)) == 1


def test_stretches_of_bags_cover_them_once(runs):
    many = bag.open_many(str(runs / "*.h5"))
    found = many.map(lambda run: [message.data for message in run["/n"]], each="50ms")
    values = [value for part in found for value in part]
    assert sorted(values) == sorted(number * 100 + i for number in range(4) for i in range(20 + number))
    assert max(len(part) for part in found) == 5
    with pytest.raises(bag.UsageError, match="no length"):
        many.tasks(0)


def test_many_bags_are_aligned(runs):
    many = bag.open_many(str(runs / "*.h5"))
    found = many.align(["/n"], on="/n", fields={"/n": "data"}, method="previous")
    assert [len(one["times"]) for one in found] == [20, 21, 22, 23]
    assert found[3]["/n/data"].tolist() == list(range(300, 323))
    assert found[0]["/n/valid"].all()


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("dask.distributed")
    import dask

    with (
        dask.config.set({"distributed.worker.daemon": True}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            memory_limit="1GiB",
            silence_logs=50,
        ) as made,
        distributed.Client(made) as client,
    ):
        yield client


def test_a_cluster_of_processes_gives_the_same(runs, cluster, tmp_path):
    many = bag.open_many(str(runs / "*.h5"))
    # by value: the workers cannot import this file
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    found = many.map(count, scheduler=cluster)
    assert [(path, number) for path, number, _process in found] == [(path, n) for path, n, _process in many.map(count)]
    assert os.getpid() not in {process for _path, _number, process in found}
    here = many.align(["/n"], on="10ms", fields={"/n": "data"}, each="100ms")
    there = many.align(["/n"], on="10ms", fields={"/n": "data"}, each="100ms", scheduler=cluster)
    assert len(here) == len(there) > 4
    assert all(np.array_equal(one[key], other[key]) for one, other in zip(here, there, strict=True) for key in one)
    work = ExportBag(str(tmp_path / "out"), "npz").into_directory(many.paths)
    made = list(many.iterate(work, scheduler=cluster))
    assert sorted(os.listdir(tmp_path / "out")) == [f"run_{number}.npz" for number in range(4)]
    with np.load(made[1]) as archive:
        assert archive["n/data"].tolist() == list(range(100, 121))
    array = bag.open(sample("robot"))["/camera/image"]["data"].to_dask(rows=5)
    assert array.mean().compute() == pytest.approx(array.compute().mean())


def test_the_command_exports_on_a_scheduler(runs, cluster, tmp_path):
    arguments = ["bag", "export", *map(str, sorted(runs.glob("*.h5"))), "-o", str(tmp_path / "o"), "--format", "csv"]
    command = [sys.executable, "-m", "cortex", *arguments, "--scheduler", cluster.scheduler.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "o").glob("run_*/n.csv"))) == 4


SERVER = """
from werkzeug.serving import make_server
from moto.server import DomainDispatcherApplication, create_backend_app
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def store(monkeypatch):
    pytest.importorskip("moto.server")
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs")
    with spawn_python(SERVER, stderr=subprocess.DEVNULL) as child:
        port = int(child.stdout.readline())
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(url), 30, "the object store")
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": url,
        }.items():
            monkeypatch.setenv(name, value)
        filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
        filesystem.mkdir("runs")
        yield filesystem
        filesystem.clear_instance_cache()


def _answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def test_bags_in_object_storage(store, runs, tmp_path):
    for path in runs.glob("*.h5"):
        store.put(str(path), f"runs/{path.name}")
    store.put(str(sample("robot")), "runs/robot.bag")
    many = bag.open_many("s3://runs/*.h5")
    assert many.paths == tuple(f"s3://runs/run_{number}.h5" for number in range(4))
    assert [found[1] for found in many.map(count)] == [20, 21, 22, 23]
    assert {row["path"] for row in many.catalog()} == set(many.paths)
    with bag.open("s3://runs/robot.bag") as remote, bag.open(sample("robot")) as local:
        assert np.array_equal(remote["/camera/image"]["data"][3:5], local["/camera/image"]["data"][3:5])
        assert [raw.sequence for raw in remote.messages(start=0.2, stop=0.3)] == [
            raw.sequence for raw in local.messages(start=0.2, stop=0.3)
        ]
        assert remote.info().size_bytes == os.path.getsize(sample("robot"))
        assert str(remote.path) == "s3://runs/robot.bag"
    store.put(os.fspath(write(tmp_path / "x.h5", {})), "runs/empty.bag")
    with store.open("runs/broken.bag", "wb") as stream:
        stream.write(b"no bag")
    with pytest.raises(bag.BagFormatError, match=r"s3://runs/broken\.bag"):
        bag.open("s3://runs/broken.bag")
    with pytest.raises(FileNotFoundError):
        bag.open("s3://runs/nothing.bag")


def _set(values):
    os.environ.update(values)


def test_workers_of_a_cluster_read_object_storage_themselves(store, cluster, runs, tmp_path):
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster.run(_set, {name: value for name, value in os.environ.items() if name.startswith("AWS_")})
    for path in runs.glob("*.h5"):
        store.put(str(path), f"runs/{path.name}")
    many, here = bag.open_many("s3://runs/*.h5"), bag.open_many(str(runs / "*.h5"))
    found = many.map(count, scheduler=cluster)
    assert [number for _path, number, _process in found] == [20, 21, 22, 23]
    assert os.getpid() not in {process for _path, _number, process in found}
    options = {"on": "10ms", "fields": {"/n": "data"}, "each": "100ms"}
    aligned, expected = many.align(["/n"], scheduler=cluster, **options), here.align(["/n"], **options)
    assert [one["/n/data"].tolist() for one in aligned] == [one["/n/data"].tolist() for one in expected]
    rows = bag.open_many(many.save_catalog(tmp_path / "c.parquet", scheduler=cluster)).catalog()
    assert [row["messages"] for row in rows] == [row["messages"] for row in here.catalog()]


def test_urls_without_fsspec_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(bag.MissingExtraError, match=r"cortex-bag\[remote\]"):
        bag.open("s3://runs/a.h5")


def test_a_task_is_small(runs):
    import pickle

    assert len(pickle.dumps(Task(str(runs / "run_0.h5"), 0.0, 1.0))) < 300
