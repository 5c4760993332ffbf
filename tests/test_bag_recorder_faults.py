"""Faults with real processes: signals, full disks, vanished files, killed publishers and a killed recorder."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import spawn_python, wait_until
from talkers import BODY, Talker, count_of, gaps, recording, sequences, summary, topic_of, wait_written

import bag
from bag.storage.reader import BagReader

# a publisher process: "ready", then messages until it is killed; prints nothing else
SPEAKER = """
import sys, time
import numpy as np
from cortex.core.publisher import Publisher
from cortex.messages.standard import ArrayMessage
publisher = Publisher("/t", ArrayMessage, node_name="speaker", queue_size=10_000)
print("ready", flush=True)
n = 0
while True:
    publisher.publish(ArrayMessage(np.full(10, n)))
    n += 1
    time.sleep(0.001)
"""


@contextlib.contextmanager
def recorder_process(path: Path, *words: object) -> Iterator[subprocess.Popen[str]]:
    with spawn_python(["-m", "bag.cli", "record", "-a", "-o", str(path), "--json", *map(str, words)]) as process:
        yield process


def progress(process: subprocess.Popen[str], condition) -> dict[str, object]:
    assert process.stdout is not None
    for line in process.stdout:
        found = json.loads(line)
        if condition(found):
            return found
    raise AssertionError(f"the recorder ended: {process.stderr and process.stderr.read()}")


def connected(found: dict) -> bool:
    return any(topic["connected"] for topic in found["topics"])


def finish(process: subprocess.Popen[str]) -> tuple[dict, str]:
    output, errors = process.communicate(timeout=60)
    return json.loads(output.splitlines()[-1]), errors


@contextlib.contextmanager
def flood(talker: Talker, size: int = 80) -> Iterator[None]:
    """Send without end from a thread: 20 to 40 MB/s at most, so that the sender's own memory stays small."""
    done = threading.Event()
    body = [*BODY, bytes(size)]

    def run() -> None:
        while not done.is_set():
            talker.send(20 if size < 10_000 else 1, body=body)
            time.sleep(0.0005 if size < 10_000 else size / 40e6)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_flood_drains_and_closes(number, tmp_path, cortex_dir, discovery):
    path = tmp_path / "run.h5"
    with Talker(cortex_dir) as talker, recorder_process(path) as process:
        talker.register(discovery).wait_subscribed()
        with flood(talker):
            progress(process, lambda found: found["messages"] > 1000)
            process.send_signal(number)
            last, errors = finish(process)
    assert process.returncode == 0, errors
    found = sequences(path)
    assert found == list(range(len(found)))
    assert len(found) == last["messages"]
    with bag.open(path) as run:
        assert run.closed_cleanly
    assert os.listdir(tmp_path) == ["run.h5"]


def test_a_second_ctrl_c_aborts_at_once_and_the_bag_opens(tmp_path, cortex_dir, discovery):
    path = tmp_path / "run.h5"
    # a disk that never takes anything more: draining would last for ever
    program = f"""
import sys, threading
from bag.storage.disk import RawFile
gate = threading.Event()
plain, several = RawFile.write_at, RawFile.write_pieces_at
def stuck(self, offset, data):
    if len(data) > 100_000: gate.wait()
    return plain(self, offset, data)
def stuck_too(self, offset, pieces):
    if sum(map(len, pieces)) > 100_000: gate.wait()
    return several(self, offset, pieces)
RawFile.write_at, RawFile.write_pieces_at = stuck, stuck_too
from bag import Recorder
stop = Recorder.stop
def told(self):
    print("stopping", flush=True)
    stop(self)
Recorder.stop = told
from bag.cli import bag
bag(["record", "-a", "-o", {str(path)!r}, "--json"])
"""
    with Talker(cortex_dir) as talker, spawn_python(program) as process:
        talker.register(discovery).wait_subscribed().send(10)
        progress(process, lambda found: found["committed_messages"] == 10)
        talker.send(1, body=[*BODY, bytes(1_000_000)])
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert any(line == "stopping\n" for line in iter(process.stdout.readline, ""))
        process.send_signal(signal.SIGINT)
        _output, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Stopped at once" in errors
    assert sequences(path)[:10] == list(range(10))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("size", [80, 200_000])
def test_a_full_disk_ends_the_recording_with_a_sentence_and_everything_before_it_is_there(
    size, small_disk, tmp_path, cortex_dir, discovery
):
    path = small_disk / "run.h5"
    with Talker(cortex_dir) as talker, recorder_process(path, "--min-free-space", 0) as process:
        talker.register(discovery).wait_subscribed()
        with flood(talker, size):
            last, errors = finish(process)
    assert process.returncode == 3, errors
    assert errors.count("\n") == 1
    assert f"the disk of {path} is full" in errors
    # reading needs no room; what was committed is there even where the tail cannot be brought in
    found = sequences(path)
    assert found == list(range(len(found)))
    assert len(found) >= last["committed_messages"]
    # once there is room again, what had arrived before the disk was full comes in, too
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    later = sequences(path)
    assert later
    assert later == list(range(len(later)))
    assert len(later) >= len(found)


def test_a_guarded_disk_stops_before_it_is_full(small_disk, tmp_path, cortex_dir, discovery):
    path = small_disk / "run.h5"
    with (
        Talker(cortex_dir) as talker,
        recorder_process(path, "--min-free-space", "3M", "--flush-interval", "20ms") as process,
    ):
        talker.register(discovery).wait_subscribed()
        with flood(talker, 1000):
            last, errors = finish(process)
    assert process.returncode == 3, errors
    assert "--min-free-space" in errors
    with bag.open(path) as run:
        assert run.closed_cleanly
        assert len(run["/t"]) == last["messages"]


def test_a_file_that_is_deleted_under_us_ends_the_recording_with_a_sentence(tmp_path, cortex_dir, discovery):
    path = tmp_path / "run.h5"
    with Talker(cortex_dir) as talker, recorder_process(path) as process:
        talker.register(discovery).wait_subscribed().send(10)
        progress(process, lambda found: found["messages"] == 10)
        path.unlink()
        _last, errors = finish(process)
    assert process.returncode == 3
    assert errors.count("\n") == 1
    assert "was deleted or replaced" in errors


def test_a_file_system_that_becomes_read_only_ends_the_recording_with_a_sentence(
    small_disk, tmp_path, cortex_dir, discovery
):
    path = small_disk / "run.h5"
    with Talker(cortex_dir) as talker, recorder_process(path, "--min-free-space", 0) as process:
        talker.register(discovery).wait_subscribed().send(10)
        progress(process, lambda found: found["committed_messages"] == 10)
        # a file system with files open for writing refuses; so the file is made to refuse instead
        frozen = subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], capture_output=True, text=True)
        if frozen.returncode == 0:
            with flood(talker):
                _last, errors = finish(process)
            subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
            assert process.returncode == 3
            assert errors.count("\n") == 1
        else:
            path.chmod(0o400)
            talker.send(10)
            progress(process, lambda found: found["committed_messages"] == 20)
    assert sequences(path)[:10] == list(range(10))


def test_a_publisher_that_is_killed_and_started_again_is_followed(tmp_path, cortex_dir, discovery):
    path = tmp_path / "run.h5"
    with recording(path, discovery) as recorder:
        for number in range(3):
            with spawn_python(SPEAKER) as speaker:
                assert speaker.stdout is not None and speaker.stdout.readline() == "ready\n"
                before = count_of(recorder)
                wait_until(lambda: count_of(recorder) > before + 50)
                speaker.kill()
                speaker.wait()
            wait_until(lambda: not topic_of(recorder).connected)
            wait_until(lambda: topic_of(recorder).stale)
        assert topic_of(recorder).restarts == 2
    assert summary(path).restarts == 2
    runs = sequences(path)
    falls = sum(later < earlier for earlier, later in itertools.pairwise(runs))
    assert falls == 2


def test_a_thousand_forced_splits_at_two_kilohertz_have_no_gap(tmp_path, cortex_dir, discovery):
    path = tmp_path / "run.h5"
    splits = int(os.environ.get("BAG_TEST_SPLITS", "60"))
    with recording(path, discovery) as recorder, Talker(cortex_dir) as talker:
        talker.register(discovery).wait_subscribed()
        done = threading.Event()

        def speak() -> None:
            begin = time.monotonic()
            while not done.is_set():
                while talker.sequence < (time.monotonic() - begin) * 2000:
                    talker.send()
                time.sleep(0.0005)

        speaker = threading.Thread(target=speak)
        speaker.start()
        try:
            for number in range(splits):
                recorder.split()
                wait_until(lambda: len(recorder.statistics().paths) == number + 2, timeout=30)
        finally:
            done.set()
            speaker.join()
        wait_written(recorder, talker.sequence)
        found = topic_of(recorder)
        assert (found.lost_before_us, found.lost_by_us, found.published_before_join) == (0, 0, 0)
    files = [Path(one) for one in recorder.statistics().paths]
    assert len(files) == splits + 1
    assert [n for one in files for n in sequences(one)] == list(range(talker.sequence))
    assert all(gaps(one) == [] for one in files[:: max(1, splits // 20)])


# the recorder writes down what has been handed to storage, by a message it sends back before and after
KILLED = """
import sys
import bag
from bag.bagset import BagSet
append = BagSet.append
def told(self, channel, rows):
    append(self, channel, rows)
    print(channel, int.from_bytes(bytes(rows[-1][2][1][16:24]), "big"), flush=True)
BagSet.append = told
options = bag.RecordOptions(all_topics=True, discovery_address=sys.argv[2], flush_interval_ns=30_000_000)
with bag.Recorder(sys.argv[1], options) as recorder:
    sys.stdin.read()
"""


@pytest.mark.parametrize(("size", "kills"), [(80, 5), (3000, 5), (300_000, 4)])
def test_killed_at_any_moment_nothing_that_had_reached_storage_is_missing(size, kills, tmp_path, cortex_dir, discovery):
    kills = int(os.environ.get("BAG_TEST_KILLS", kills))
    chance = random.Random(size)
    for number in range(kills):
        path = tmp_path / f"run{number}.h5"
        with Talker(cortex_dir, name=f"{number}.sock") as talker:
            talker.register(discovery)
            with spawn_python(["-c", KILLED, str(path), discovery.address], stdin=subprocess.PIPE) as process:
                talker.wait_subscribed()
                with flood(talker, size):
                    assert process.stdout is not None
                    for _ in range(chance.randint(1, 60)):
                        assert process.stdout.readline(), process.stderr and process.stderr.read()
                    # not at the moment of a line, which is always the same one
                    threading.Event().wait(chance.random() / 30)
                    process.kill()
                    told = process.stdout.read().splitlines()
                reached = int(told[-1].split()[1]) if told and told[-1].count(" ") else -1
        found = sequences(path)
        assert found == list(range(len(found)))
        assert len(found) > reached
        with BagReader(path) as reader:
            assert not reader.closed_cleanly
            for _time, message in reader.merged(["/t"], "log"):
                assert bytes(message.frames[-1]) == bytes(size)
        path.unlink()


# prints its peak memory in MB above what it had before, and what was refused
BOUNDED = """
import resource, sys, time
import bag
from bag.storage.disk import RawFile
plain, several = RawFile.write_at, RawFile.write_pieces_at
def slow(self, offset, data):
    time.sleep(len(data) / 20e6)
    return plain(self, offset, data)
def slow_too(self, offset, pieces):
    time.sleep(sum(map(len, pieces)) / 20e6)
    return several(self, offset, pieces)
RawFile.write_at, RawFile.write_pieces_at = slow, slow_too
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
before = resident()
peak = 0
options = bag.RecordOptions(all_topics=True, discovery_address=sys.argv[2], max_cache_bytes=64 << 20)
with bag.Recorder(sys.argv[1], options) as recorder:
    while recorder.statistics().refused < 1000:
        peak = max(peak, resident())
        time.sleep(0.01)
    print("refused", flush=True)
    sys.stdin.readline()
print(round(peak - before), flush=True)
"""


def test_memory_stays_within_its_bound_when_the_disk_is_slower_than_the_wire(tmp_path, cortex_dir, discovery):
    path = tmp_path / "run.h5"
    with Talker(cortex_dir) as talker:
        # a publisher with a queue of its own: what it cannot send, it loses
        talker.socket.set_hwm(100)
        talker.register(discovery)
        with spawn_python(["-c", BOUNDED, str(path), discovery.address], stdin=subprocess.PIPE) as process:
            talker.wait_subscribed()
            with flood(talker, 100_000):
                assert process.stdout is not None
                assert process.stdout.readline() == "refused\n", process.stderr and process.stderr.read()
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert int(output) < 64 * 1.05 + 200
    kept, found = sequences(path), summary(path)
    assert found.lost_by_us >= 1000
    missing = sum(last - first + 1 for kind, first, last in gaps(path) if kind == "lost_by_us")
    assert missing == found.lost_by_us
    assert len(kept) + found.lost_by_us + found.lost_before_us + found.published_before_join <= talker.sequence


# a recorder that takes 100 us a message: what is not taken waits in ZeroMQ; prints its peak in MB as above
SLOW_INTAKE = """
import resource, sys, time
import bag
def wall():
    end = time.perf_counter() + 100e-6
    while time.perf_counter() < end:
        pass
    return time.time_ns()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
before = resident()
peak = 0
options = bag.RecordOptions(all_topics=True, discovery_address=sys.argv[2], max_cache_bytes=16 << 20)
with bag.Recorder(sys.argv[1], options, wall=wall) as recorder:
    taken = 0
    while taken < 10_000:
        statistics = recorder.statistics()
        # a disk that stalls meanwhile makes us refuse some
        taken = statistics.messages + statistics.refused
        peak = max(peak, resident())
        time.sleep(0.01)
print(round(peak - before), flush=True)
"""


def test_memory_stays_within_its_bound_when_we_are_slower_than_the_wire(tmp_path, cortex_dir, discovery):
    with Talker(cortex_dir) as talker:
        talker.register(discovery)
        with spawn_python(["-c", SLOW_INTAKE, str(tmp_path / "run.h5"), discovery.address]) as process:
            talker.wait_subscribed()
            # 400 MB that leave at once, if nobody keeps them back
            talker.send(40_000, body=[*BODY, bytes(10_000)])
            output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert int(output) < 16 * 1.05 + 100
    found = summary(tmp_path / "run.h5")
    assert found.messages + found.lost_by_us >= 10_000
    assert found.lost_before_us == 0


def test_a_reader_of_a_bag_that_is_being_written_sees_a_consistent_beginning_of_it(tmp_path, cortex_dir, discovery):
    path = tmp_path / "run.h5"
    with Talker(cortex_dir) as talker, recording(path, discovery, flush_interval_ns=20_000_000) as recorder:
        talker.register(discovery).wait_subscribed()
        with flood(talker):
            for _ in range(10):
                seen = recorder.statistics().committed_messages
                wait_until(lambda: recorder.statistics().committed_messages > seen)
                program = f"""
import h5py
with h5py.File({str(path)!r}) as file:
    print(len(file["/t/index"]) if "/t/index" in file else -1)
"""
                shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
                # a commit may be under way; a reader never sees half of one as if it were whole
                if shown.returncode == 0:
                    assert int(shown.stdout) <= talker.sequence
                with BagReader(path) as reader:
                    assert reader.live
                    found = reader.topics["/t"].times("sequence").tolist() if "/t" in reader.topics else []
                    assert found == list(range(len(found)))
                    assert len(found) >= seen
    assert sequences(path) == list(range(talker.sequence))
