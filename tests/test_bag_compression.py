"""Compression while recording: no bit is lost or dropped, any reader of HDF5 reads it, and what lags stands raw."""

import itertools
import json
import shutil
import signal
import threading
from contextlib import contextmanager

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from helpers import spawn_python, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_kit import channel_on, contents, frames_of, memory_directory, rows_of
from talkers import Talker, recording, sequences, wait_written

import bag
from bag import RecordOptions
from bag.bagset import BagSet
from bag.cli import bag as group
from bag.edit import FilterOptions, filter_bag
from bag.errors import IntegrityError, MissingExtraError, UsageError
from bag.lanes import Lane
from bag.storage.compressor import MAX_WAITING_BYTES, Compressor
from bag.storage.filters import NAMES, decoder_of, encoder_of, parse_compression
from bag.storage.live import MISSES, TRIED
from bag.storage.reader import BagReader
from bag.storage.recover import recover
from bag.storage.verify import verify
from bag.storage.writer import BagWriter
from cortex import Publisher
from cortex.messages.standard import ArrayMessage

DTYPES = ("?", "i1", "<u2", ">i4", "<i8", "<f2", "<f4", ">f8", "<c8", "<c16", "S7", "<M8[ns]", "U3")
KINDS = ("gzip", "gzip:6", "lz4", "lz4:9", "zstd:1", "zstd:9")


@pytest.fixture(params=NAMES)
def kind(request):
    if request.param != "gzip":
        pytest.importorskip("hdf5plugin")
    return request.param


@contextmanager
def compressing(kind, **options):
    compressor = Compressor(kind, **options)
    try:
        yield compressor
    finally:
        compressor.close()


def image(k, smooth=True, shape=(150, 200, 3)):
    pixels = np.full(shape, k % 251, np.uint8)
    if not smooth:
        pixels = np.random.default_rng(k).integers(0, 256, shape, np.uint8)
    return frames_of([k, pixels], k)


def small(k):
    return frames_of([np.arange(k, k + 10, dtype=np.float64)], k)


def cloud(k):
    return frames_of([np.full((k * 1700 % 7000, 4), k, np.float32)], k)


MAKERS = {"/imu": (small, 600), "/camera": (image, 2), "/lidar": (cloud, 2)}


def write(path, compressor, steps=8, commit_every=3, close=True):
    """A bag of several commits; returns what was sent."""
    sent = {topic: [] for topic in MAKERS}
    writer = BagWriter(path, compressor=compressor)
    ids = {topic: writer.add_channel(channel_on(topic)).id for topic in MAKERS}
    for step in range(steps):
        for topic, (make, count) in MAKERS.items():
            first = len(sent[topic])
            messages = [make(k) for k in range(first, first + count)]
            writer.append(ids[topic], rows_of(topic, messages, first))
            sent[topic] += messages
        if step % commit_every == commit_every - 1:
            writer.commit()
    writer.close() if close else writer.abort()
    return sent


def masks(path, dataset):
    """By chunk: whether it is packed."""
    found = []
    with h5py.File(path, "r") as file:
        file[dataset].id.chunk_iter(lambda info: found.append((info.chunk_offset[0], info.filter_mask == 0)))
    return [packed for _place, packed in sorted(found)]


# --- no bit is lost


@st.composite
def arrays(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.sampled_from([(), (3,), (0, 4), (40, 4), (4000, 4), (30, 40, 3)]))
    random = np.random.default_rng(draw(st.integers(0, 9)))
    data = random.integers(0, 2 if draw(st.booleans()) else 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)
    if dtype.kind in "?bU":
        return np.zeros(shape, dtype) if dtype.kind == "U" else (data.reshape(shape) & 1).astype(bool)
    return np.frombuffer(data.tobytes(), dtype).reshape(shape)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(
    batches=st.lists(
        st.tuples(st.lists(arrays(), min_size=1, max_size=3), st.integers(1, 40), st.booleans()), max_size=8
    )
)
def test_every_array_comes_back_bit_for_bit(kind, batches):
    if not kind.startswith("gzip"):
        pytest.importorskip("hdf5plugin")
    for directory in memory_directory():
        path, sent = directory / "run.h5", []
        with compressing(kind) as compressor, BagWriter(path, compressor=compressor) as writer:
            channel = writer.add_channel(channel_on("/t")).id
            for values, count, commit in batches:
                messages = [frames_of(values, k) for k in range(len(sent), len(sent) + count)]
                writer.append(channel, rows_of("/t", messages, len(sent)))
                sent += messages
                if commit:
                    writer.commit()
        assert contents(path) == {"/t": sent}
        assert verify(path).whole


def test_any_reader_of_hdf5_reads_the_arrays_and_verify_finds_the_bag_whole(kind, tmp_path):
    path = tmp_path / "run.h5"
    with compressing(kind) as compressor:
        sent = write(path, compressor)
        counts = compressor.statistics()
    assert contents(path) == sent
    assert verify(path).whole
    assert counts.packed > 5 * counts.stored > 0
    with h5py.File(path) as file:
        assert (file["imu/field0"][()] == [np.arange(k, k + 10) for k in range(4800)]).all()
        assert (file["camera/field1"][:, 0, 0, 0] == range(16)).all()
        ends = file["lidar/field0.offsets"][()]
        assert all((file["lidar/field0"][ends[k] : ends[k + 1]] == k).all() for k in range(16))
        # the price of a plain reader
        assert file["camera/field1"].id.get_create_plist().get_nfilters() == 1
        assert file["imu/field0"].id.get_create_plist().get_nfilters() == 2
    assert all(masks(path, "camera/field1"))
    *whole, last = masks(path, "imu/field0")
    assert whole
    assert all(whole)
    assert not last


def test_a_dark_camera_packs_to_nearly_nothing_and_can_be_played(tmp_path):
    pytest.importorskip("hdf5plugin")
    dark = [image(0, shape=(1000, 1000, 3))] * 60
    with compressing("zstd") as compressor, BagWriter(tmp_path / "run.h5", compressor=compressor) as writer:
        channel = writer.add_channel(channel_on("/camera")).id
        for k in range(0, 60, 10):
            writer.append(channel, rows_of("/camera", dark[k : k + 10], k))
            writer.commit()
    with BagReader(tmp_path / "run.h5") as reader:
        assert len(dark) * len(dark[0][2]) > 2000 * (tmp_path / "run.h5").stat().st_size
        assert len(Lane(reader, "/camera", [0], "log", 0)) == 60


def test_edits_of_such_a_bag_keep_pack_and_unpack_it(kind, tmp_path):
    with compressing(kind) as compressor:
        sent = write(tmp_path / "run.h5", compressor)
    for name, compression in (("kept", None), ("raw", "none"), ("other", "gzip:1")):
        filter_bag(tmp_path / "run.h5", tmp_path / f"{name}.h5", FilterOptions(compression=compression))
        assert verify(tmp_path / f"{name}.h5").whole
        assert contents(tmp_path / f"{name}.h5") == sent
    assert all(masks(tmp_path / "kept.h5", "imu/field0"))
    assert (tmp_path / "kept.h5").stat().st_size < (tmp_path / "raw.h5").stat().st_size / 3


@pytest.mark.parametrize("text", ["gzip", "gzip:0", "gzip:3", "lz4", "lz4:12", "zstd", "zstd:22"])
@pytest.mark.parametrize("size", [1, 8, 4096])
def test_what_is_packed_unpacks_to_as_many_bytes_and_no_more(text, size):
    if not text.startswith("gzip"):
        pytest.importorskip("hdf5plugin")
    name, level = parse_compression(text)
    for data in (bytes(8 * size), np.random.default_rng(size).bytes(8 * size)):
        packed = encoder_of(name, level, 8)(data)
        assert decoder_of(name, 8)(packed, 8 * size) == data
        for wrong in (8 * size - 8, 8 * size + 8):
            with pytest.raises(IntegrityError):
                decoder_of(name, 8)(packed, wrong)


@pytest.mark.parametrize("text", ["brotli", "", "zstd:", "zstd:x", "zstd:23", "gzip:10", "lz4:²"])
def test_a_compression_that_there_is_not_is_refused(text):
    with pytest.raises(UsageError, match=r"compression|level"):
        RecordOptions(all_topics=True, compression=text)


def test_verify_tells_when_the_checksums_and_hdf5_disagree_on_what_is_packed(tmp_path):
    path = tmp_path / "run.h5"
    with compressing("gzip") as compressor:
        write(path, compressor)
    with h5py.File(path, "r+") as file:
        place = file["camera/field1"].id.get_chunk_info(3).byte_offset
        rows = file["_bag/checksums"][()]
        assert rows["packed"][rows["offset"] == place].tolist() == [1]
        rows["packed"][rows["offset"] == place] = 0
        file["_bag/checksums"][...] = rows
    problems = [problem for topic in verify(path).topics for problem in topic.problems]
    assert any("is not packed as its checksum says" in problem for problem in problems), problems


# --- what lags stands raw


def gated(gate):
    """Encoders that wait for an event."""

    def make(name, level, itemsize):
        encode = encoder_of(name, level, itemsize)
        return lambda data: encode(data) if gate.wait(60) else b""

    return make


def test_chunks_that_are_not_ready_at_the_commit_stand_raw(tmp_path):
    gate = threading.Event()
    with compressing("gzip", encoder=gated(gate)) as compressor:
        try:
            sent = write(tmp_path / "run.h5", compressor, steps=4, commit_every=2)
        finally:
            gate.set()
        counts = compressor.statistics()
    assert contents(tmp_path / "run.h5") == sent
    assert verify(tmp_path / "run.h5").whole
    assert (counts.packed, counts.no_gain) == (0, 0)
    assert counts.lagged >= sum(len(frames[2]) for frames in sent["/camera"])
    assert not any(masks(tmp_path / "run.h5", "camera/field1"))


def test_one_who_is_pressed_packs_nothing_and_goes_on_packing_later(tmp_path):
    path, sent = tmp_path / "run.h5", [image(k) for k in range(30)]
    with compressing("gzip") as compressor, BagWriter(path, compressor=compressor) as writer:
        channel = writer.add_channel(channel_on("/camera")).id
        for k, frames in enumerate(sent):
            compressor.pressed = 10 <= k < 20
            writer.append(channel, rows_of("/camera", [frames], k))
            writer.commit()
        counts = compressor.statistics()
    assert contents(path) == {"/camera": sent}
    packed = masks(path, "camera/field1")
    assert not any(packed[10:20])
    assert counts.lagged >= 10 * len(sent[0][2])
    assert sum(packed) == counts.packed / len(sent[0][2]) > 0


def test_work_beyond_what_is_soon_done_is_refused():
    gate = threading.Event()
    with compressing("gzip", encoder=gated(gate)) as compressor:
        encode, data = compressor.encoder(1), bytes(1 << 20)
        jobs = []
        while (job := compressor.submit(encode, data)) is not None:
            jobs.append(job)
        assert 1 <= len(jobs) <= MAX_WAITING_BYTES >> 20
        assert compressor.lags(1 << 20)
        gate.set()
        assert all(len(job.result(60)) < len(data) for job in jobs)
        wait_until(lambda: not compressor.lags(1 << 20), what="being through")


def test_what_packing_makes_no_smaller_stands_raw_and_is_seldom_tried(tmp_path):
    tried = []

    def counting(name, level, itemsize):
        encode = encoder_of(name, level, itemsize)
        return lambda data: tried.append(len(data)) or encode(data)

    count = 4 * TRIED
    sent = [image(k, smooth=False) for k in range(count)]
    size = len(sent[0][2])
    with compressing("gzip", encoder=counting) as compressor:
        with BagWriter(tmp_path / "run.h5", compressor=compressor) as writer:
            channel = writer.add_channel(channel_on("/camera")).id
            for k, frames in enumerate(sent):
                writer.append(channel, rows_of("/camera", [frames], k))
                writer.commit()
        counts = compressor.statistics()
    assert contents(tmp_path / "run.h5") == {"/camera": sent}
    assert counts.no_gain == count * size
    assert not any(masks(tmp_path / "run.h5", "camera/field1"))
    assert MISSES <= tried.count(size) <= MISSES + count // TRIED


# --- what a dead recorder leaves


@pytest.mark.parametrize("commit_every", [3, 99])
def test_what_was_packed_or_waited_when_the_writer_died_comes_back(kind, commit_every, tmp_path):
    path = tmp_path / "run.h5"
    with compressing(kind) as compressor:
        sent = write(path, compressor, commit_every=commit_every, close=False)
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert contents(path) == sent
    assert verify(path).whole
    report = recover(tmp_path / "copy" / "run.h5", tmp_path / "saved.h5")
    assert (report.lost, report.verified.whole) == (0, True)
    assert contents(tmp_path / "saved.h5") == sent


def test_a_damaged_chunk_costs_its_messages_and_no_others(kind, tmp_path):
    path = tmp_path / "run.h5"
    with compressing(kind) as compressor:
        sent = write(path, compressor)
    with h5py.File(path) as file:
        places = [file["camera/field1"].id.get_chunk_info(k) for k in range(16)]
    assert all(place.filter_mask == 0 for place in places)
    with path.open("r+b") as file:
        middle = places[5].byte_offset + places[5].size // 2
        file.seek(middle)
        damaged = bytes(byte ^ 0xFF for byte in file.read(3))
        file.seek(middle)
        file.write(damaged)
    report = verify(path)
    assert [bool(topic.problems) for topic in report.topics] == [False, True, False]
    recover(path, tmp_path / "saved.h5")
    expected = sent | {"/camera": sent["/camera"][:5] + sent["/camera"][6:]}
    assert contents(tmp_path / "saved.h5") == expected


@pytest.mark.parametrize("count", [40, 400])
def test_a_killed_recorder_loses_nothing_that_it_reported(count, kind, tmp_path, cortex_dir, discovery):
    path = tmp_path / "run.h5"
    arguments = ["record", "-a", "--compression", kind, "-o", str(path), "--json", "--flush-interval", "50ms"]
    publisher = Publisher("/force", ArrayMessage, node_name="n", discovery_address=discovery.address, queue_size=1000)
    try:
        with spawn_python(["-m", "bag.cli", *arguments]) as recorder:
            for line in recorder.stdout:
                if any(topic["connected"] for topic in json.loads(line)["topics"]):
                    break
            for k in range(count):
                publisher.publish(ArrayMessage(data=np.full((60, 500), k, np.float64)))
            reported = 0
            for line in recorder.stdout:
                reported = json.loads(line)["messages"]
                if reported >= count // 2:
                    break
            recorder.send_signal(signal.SIGKILL)
            recorder.wait(30)
    finally:
        publisher.close()
    assert reported >= count // 2
    with BagReader(path) as reader:
        assert reader.rolled_forward is None or not reader.rolled_forward.problem
        found = [message.decode(ArrayMessage).data for message in reader.raw("/force", 0, len(reader.topics["/force"]))]
    assert len(found) >= reported
    assert [(row == number).all() for number, row in enumerate(found)] == [True] * len(found)
    assert verify(path).whole


# --- the recorder and the command line


def test_every_file_of_a_series_is_compressed(tmp_path, cortex_dir, discovery):
    path = tmp_path / "run.h5"
    with Talker(cortex_dir) as talker:
        talker.register(discovery)
        options = {"compression": "gzip", "max_bag_duration_ns": 3_600_000_000_000, "sticky": ("/t",)}
        with recording(path, discovery, **options) as recorder:
            talker.wait_subscribed()
            for number in range(1, 4):
                talker.send(5000)
                wait_written(recorder, 5000 * number)
                if number < 3:
                    recorder.split()
                    wait_until(lambda wanted=number + 1: len(recorder.statistics().paths) == wanted, what="a split")
        found = recorder.statistics()
    assert found.compression.packed > found.compression.stored > 0
    paths = [tmp_path / f"run_{number}.h5" for number in range(3)]
    assert all(verify(path).whole for path in paths)
    for one in paths:
        with h5py.File(one) as file:
            assert file.attrs["compression"] == "gzip"
            assert file["t/_index"].id.get_create_plist().get_nfilters() == 2
    with bag.open([str(path) for path in paths]) as run:
        assert list(run["/t"].sequence) == list(range(15_000))


def test_a_snapshot_is_compressed(tmp_path, cortex_dir, discovery):
    with Talker(cortex_dir) as talker:
        talker.register(discovery)
        with recording(tmp_path / "run.h5", discovery, compression="gzip", snapshot=True) as recorder:
            talker.wait_subscribed().send(900)
            for number in (1, 2):
                wait_until(lambda: recorder.statistics().messages == 900, what="900 messages")
                recorder.snapshot()
                wait_until(lambda wanted=number: recorder.statistics().snapshots == wanted, what="a snapshot")
    for number in range(2):
        path = tmp_path / f"run_{number}.h5"
        assert verify(path).whole
        assert sequences(path, "/t") == list(range(900))
        with h5py.File(path) as file:
            assert file.attrs["compression"] == "gzip"


def _cli(*arguments):
    return CliRunner().invoke(group, [*map(str, arguments)], catch_exceptions=False)


def test_record_says_what_became_of_the_bytes_and_info_names_the_price(kind, tmp_path, cortex_dir, discovery):
    path = tmp_path / "run.h5"
    publisher = Publisher("/force", ArrayMessage, node_name="n", discovery_address=discovery.address, queue_size=1000)
    try:
        arguments = ["record", "-a", "--compression", kind, "--limit", "64", "-o", str(path), "--min-free-space", "0"]
        numbers = itertools.count()
        with spawn_python(["-m", "bag.cli", *arguments]) as recorder:

            def publish_or_end():
                publisher.publish(ArrayMessage(data=np.full((500, 30), next(numbers), np.float64)))
                return recorder.poll() is not None

            wait_until(publish_or_end, 60, "the end of the recording")
            out, err = recorder.communicate(timeout=60)
    finally:
        publisher.close()
    assert recorder.returncode == 0, err
    assert f"Compression {kind}:" in out
    assert "of the bytes packed to" in out
    text = _cli("info", path).output
    assert f"Compression  {kind} (" in text
    assert ("hdf5plugin" in text) == ("hdf5plugin" in out) == (kind != "gzip")
    price = json.loads(_cli("info", "--json", path).output)["compression"]
    assert price["filter"] == kind
    assert price["needs"] == ("" if kind == "gzip" else "hdf5plugin")
    assert price["packed_bytes"] > price["stored_bytes"] > 0
    _cli("decompress", path, "-o", tmp_path / "raw.h5")
    assert "Compression" not in _cli("info", tmp_path / "raw.h5").output
    assert json.loads(_cli("info", "--json", tmp_path / "raw.h5").output)["compression"] is None


def test_the_summary_says_that_the_compressor_could_not_keep_up(tmp_path, cortex_dir, discovery, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr("bag.bagset.Compressor", lambda text: Compressor(text, encoder=gated(gate)))
    from bag.cli.recording import summary

    with Talker(cortex_dir) as talker:
        talker.register(discovery)
        try:
            with recording(tmp_path / "run.h5", discovery, compression="gzip") as recorder:
                talker.wait_subscribed().send(2000)
                wait_written(recorder, 2000)
                talker.send(6000)
                wait_written(recorder, 8000)
                wait_until(lambda: recorder.statistics().compression.lagged, what="a commit that did not wait")
                gate.set()
        finally:
            gate.set()
        found = recorder.statistics()
    assert "left raw as the compressor could not keep up" in str(summary(found))
    assert (found.refused, sequences(tmp_path / "run.h5", "/t")) == (0, list(range(8000)))


WITHOUT = """
import sys
sys.modules[sys.argv.pop(1)] = None
from bag.cli import bag
bag(prog_name="cortex bag")
"""


@pytest.mark.parametrize(("kind", "missing"), [("zstd", "hdf5plugin"), ("zstd", "zstandard"), ("lz4", "lz4")])
def test_without_the_extra_nothing_is_created_and_the_extra_is_named(kind, missing, tmp_path, cortex_dir, discovery):
    pytest.importorskip("hdf5plugin")
    place = tmp_path / "place"
    place.mkdir()
    arguments = [missing, "record", "-a", "--compression", kind, "-o", str(place / "run.h5")]
    with spawn_python(["-c", WITHOUT, *arguments]) as recorder:
        _out, err = recorder.communicate(timeout=60)
    assert recorder.returncode == 1
    assert err.count("\n") == 1, err
    assert "cortex-bag[compression]" in err
    assert list(place.iterdir()) == []


def test_the_library_says_so_too(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    pytest.importorskip("hdf5plugin")
    with pytest.raises(MissingExtraError):
        BagSet(tmp_path / "run.h5", RecordOptions(all_topics=True, compression="zstd"))


def test_a_wrong_name_is_told_before_anything_is_created(tmp_path, cortex_dir):
    result = _cli("record", "-a", "--compression", "brotli", "-o", tmp_path / "run.h5")
    assert result.exit_code == 2
    assert "gzip, lz4 or zstd" in result.output
    assert list(tmp_path.iterdir()) == []
