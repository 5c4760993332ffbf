"""Reading beside plain h5py, mcap and rosbags, in one run: ``python tests/benchmarks/bench_read.py [--directory DIR]``.

Prints one JSON object: medians in seconds, the ratios that matter, and at the end a line for each target. All are asked
in turns and a ratio is the median over the turns, so that a busy moment of the machine meets everybody; absolute values
describe the machine of that day. `cpu` is what the processes computed, which a busy machine changes least.
The bags are W3 (two cameras 640x480x3 at 30 Hz, lidar 100k x 4 float32 at 10 Hz, IMU 1 kHz, joints 500 Hz, a dict at
10 Hz), and 1e4 ... 1e7 IMU messages for columns and for `info`. Needs mcap and rosbags: `pip install mcap rosbags`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import bag
from bag.records import Channel
from bag.schemas import schema_of
from bag.storage import BagWriter
from cortex.codec import encode_values
from cortex.messages.standard import ArrayMessage, DictMessage, ImageMessage
from cortex.wire import HEADER

T0 = 1_767_225_600_000_000_000
S = 1_000_000_000
REPEAT = 7


def median(function: Callable[[], Any], repeat: int = REPEAT) -> float:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        found = function()
        times.append(time.perf_counter() - start)
        del found
    return statistics.median(times)


def frames_of(index: int, pool: list[Any]) -> np.ndarray:
    return pool[index % len(pool)]


def robot(seconds: int) -> Iterator[tuple[str, int, np.ndarray]]:
    """(topic, time, array) of W3 in order of time."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (480, 640, 3), np.uint8) for _ in range(8)]
    clouds = [random.random((100_000, 4), np.float32) for _ in range(2)]
    numbers = random.random((512, 10))
    streams = {
        "/camera0/image": (30, images),
        "/camera1/image": (30, images),
        "/lidar": (10, clouds),
        "/imu": (1000, numbers),
        "/joints": (500, numbers),
    }
    timetable = sorted((i * S // hz, topic, i) for topic, (hz, _pool) in streams.items() for i in range(hz * seconds))
    for offset, topic, index in timetable:
        yield topic, T0 + offset, frames_of(index, streams[topic][1])


def write_bag(path: Path, seconds: int) -> None:
    with bag.Writer(path, keep_tail=False) as writer:
        for topic, time_ns, array in robot(seconds):
            writer.write(topic, (ImageMessage if "camera" in topic else ArrayMessage)(array), log_time_ns=time_ns)
        for number in range(10 * seconds):
            writer.write(
                "/status",
                DictMessage({"battery": 24 - number * 1e-3, "mode": "auto"}),
                log_time_ns=T0 + number * S // 10,
            )


def write_mcap(path: Path, messages: Iterator[tuple[str, int, np.ndarray]]) -> None:
    from mcap.writer import CompressionType, Writer

    with path.open("wb") as stream:
        writer = Writer(stream, compression=CompressionType.NONE)
        writer.start()
        channels: dict[str, int] = {}
        for number, (topic, time_ns, array) in enumerate(messages):
            if topic not in channels:
                channels[topic] = writer.register_channel(topic, "raw", 0)
            writer.add_message(channels[topic], time_ns, array.tobytes(), time_ns, number)
        writer.finish()


def write_rosbag(path: Path, messages: Iterator[tuple[str, int, np.ndarray]]) -> None:
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    with Writer(path) as writer:
        connections: dict[str, Any] = {}
        for topic, time_ns, array in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, "std_msgs/msg/UInt8MultiArray", typestore=store)
            writer.write(connections[topic], time_ns, bytes(8) + array.nbytes.to_bytes(4, "little") + array.tobytes())


def imu_messages(count: int) -> Iterator[tuple[str, int, np.ndarray]]:
    numbers = np.random.default_rng(0).random((512, 10))
    for number in range(count):
        yield "/imu", T0 + number * 1_000_000, numbers[number % 512]


def write_imu(path: Path, count: int, topics: int = 1) -> None:
    """`count` messages over `topics` topics, each with an array and a text of its own; straight into storage, as 1e7
    messages are many."""
    numbers = np.random.default_rng(0).random((512, 10))
    buffers = [row.tobytes() for row in numbers]
    metadata, _buffers = encode_values([numbers[0], "imu", ""])
    each, fingerprint = count // topics, ArrayMessage.fingerprint()
    with BagWriter(path, keep_tail=False) as writer:
        for topic in range(topics):
            name = "/imu" if topics == 1 else f"/imu{topic}"
            found = Channel(0, name, "ArrayMessage", fingerprint, "imu", f"ipc:///tmp/cortex/topics/imu{topic}")
            channel = writer.add_channel(found, schema_of(fingerprint)).id
            for start in range(0, each, 10_000):
                times = ((n, T0 + n * 1_000_000) for n in range(start, min(start + 10_000, each)))
                rows = [
                    (at, at, [name.encode(), HEADER.pack(fingerprint, at, n), metadata, buffers[n % 512]])
                    for n, at in times
                ]
                writer.append(channel, rows)
            writer.commit()


# --- the same questions to everybody


def all_frames(path: dict[str, Path]) -> dict[str, Callable[[], Any]]:
    def ours() -> Any:
        with bag.open(path["bag"]) as run:
            return run["/camera0/image"]["data"][:]

    def plain() -> Any:
        with h5py.File(path["bag"]) as file:
            return file["/camera0/image/data"][:]

    def mcap() -> Any:
        from mcap.reader import make_reader

        with path["mcap"].open("rb") as stream:
            found = [
                np.frombuffer(m.data, np.uint8)
                for _s, _c, m in make_reader(stream).iter_messages(topics=["/camera0/image"])
            ]
        return np.stack(found).reshape(-1, 480, 640, 3)

    def rosbags() -> Any:
        from rosbags.rosbag1 import Reader

        with Reader(path["rosbag"]) as reader:
            chosen = [c for c in reader.connections if c.topic == "/camera0/image"]
            found = [np.frombuffer(raw, np.uint8, offset=12) for _c, _t, raw in reader.messages(connections=chosen)]
        return np.stack(found).reshape(-1, 480, 640, 3)

    return {"bag": ours, "h5py": plain, "mcap": mcap, "rosbags": rosbags}


def random_frames(path: dict[str, Path], seconds: int) -> dict[str, Callable[[], Any]]:
    wanted = T0 + np.random.default_rng(1).integers(S // 10, (seconds - 1) * S, 100)

    def ours() -> Any:
        with bag.open(path["bag"]) as run:
            return run.align(["/camera0/image"], on=wanted, clock="log")["/camera0/image"]["data"]

    def one_by_one() -> Any:
        with bag.open(path["bag"]) as run:
            camera = run["/camera0/image"]
            data, rows = camera["data"], np.searchsorted(camera.times, wanted, side="right") - 1
            return [data[row] for row in rows.tolist()]

    def plain() -> Any:
        with h5py.File(path["bag"]) as file:
            data = file["/camera0/image/data"]
            rows = np.searchsorted(file["/camera0/image/_index"]["log_time_ns"], wanted, side="right") - 1
            return [data[row] for row in rows.tolist()]

    def mcap() -> Any:
        from mcap.reader import make_reader

        found = []
        with path["mcap"].open("rb") as stream:
            reader = make_reader(stream)
            for time_ns in wanted.tolist():
                messages = reader.iter_messages(["/camera0/image"], start_time=time_ns, end_time=time_ns + S)
                found.append(np.frombuffer(next(messages)[2].data, np.uint8).reshape(480, 640, 3))
        return found

    def rosbags() -> Any:
        from rosbags.rosbag1 import Reader

        with Reader(path["rosbag"]) as reader:
            chosen = [c for c in reader.connections if c.topic == "/camera0/image"]
            found = []
            for time_ns in wanted.tolist():
                messages = reader.messages(connections=chosen, start=time_ns, stop=time_ns + S)
                found.append(np.frombuffer(next(messages)[2], np.uint8, offset=12).reshape(480, 640, 3))
        return found

    return {"bag": ours, "bag, one by one": one_by_one, "h5py": plain, "mcap": mcap, "rosbags": rosbags}


def imu_columns(path: dict[str, Path]) -> dict[str, Callable[[], Any]]:
    def ours() -> Any:
        with bag.open(path["bag"]) as run:
            imu = run["/imu"]
            return imu.times, imu.publish_times, imu.sequence, imu["data"][:], imu["frame_id"][:]

    def mcap() -> Any:
        from mcap.reader import make_reader

        times, sent, sequence, data = [], [], [], []
        with path["mcap"].open("rb") as stream:
            for _schema, _channel, message in make_reader(stream).iter_messages(topics=["/imu"]):
                times.append(message.log_time)
                sent.append(message.publish_time)
                sequence.append(message.sequence)
                data.append(message.data)
        return np.array(times), np.array(sent), np.array(sequence), np.frombuffer(b"".join(data)).reshape(-1, 10)

    def plain() -> Any:
        with h5py.File(path["bag"]) as file:
            return file["/imu/_index"][:], file["/imu/data"][:]

    return {"bag": ours, "h5py": plain, "mcap": mcap}


# as installed: bytecode is cached (the first run makes it), and plain h5py is the floor no command can go below
def commands(path: Path, cache: Path) -> dict[str, dict[str, float]]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPYCACHEPREFIX": str(cache), "PYTHONPATH": str(Path(bag.__file__).parent.parent)}
    programs = {
        "command": [sys.executable, "-m", "cortex", "bag", "info", str(path)],
        "python, numpy and h5py alone": [sys.executable, "-c", "import numpy, h5py"],
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(8):
        for name, words in programs.items():
            start, used = time.perf_counter(), cpu_of_children()
            subprocess.run(words, check=True, capture_output=True, env=environment)
            taken[name].append((time.perf_counter() - start, cpu_of_children() - used))
    return {
        name: {
            "wall": round(statistics.median(wall for wall, _cpu in rounds[1:]), 4),
            "cpu": round(statistics.median(cpu for _wall, cpu in rounds[1:]), 4),
        }
        for name, rounds in taken.items()
    }


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def info_call(path: Path) -> dict[str, float]:
    def run() -> Any:
        with bag.open(path) as opened:
            return opened.info()

    run()
    walls, used = [], []
    for _ in range(9):
        start, cpu = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - start)
        used.append(time.process_time() - cpu)
    return {"wall": round(statistics.median(walls), 4), "cpu": round(statistics.median(used), 4)}


def ask(questions: dict[str, Callable[[], Any]], repeat: int = REPEAT) -> dict[str, Any]:
    taken: dict[str, list[float]] = {name: [] for name in questions}
    for _ in range(repeat):
        for name, question in questions.items():
            taken[name].append(median(question, 1))
    ratios = {
        f"bag / {name}": round(statistics.median(a / b for a, b in zip(taken["bag"], times, strict=True)), 3)
        for name, times in taken.items()
        if name != "bag"
    }
    return {"seconds": {name: round(statistics.median(times), 4) for name, times in taken.items()}, "ratios": ratios}


def targets(report: dict[str, Any], imu: str) -> Iterator[str]:
    def line(what: str, found: float, most: float) -> str:
        return f"{'ok  ' if found <= most else 'MISS'} {what}: {found:g} (at most {most:g})"

    yield line("all frames, of plain h5py", report["all frames of a camera"]["ratios"]["bag / h5py"], 1.1)
    yield line("all frames, of mcap", report["all frames of a camera"]["ratios"]["bag / mcap"], 1 / 2.3)
    yield line("IMU to columns, of mcap", report[imu]["ratios"]["bag / mcap"], 1 / 20)
    yield line("100 random frames, of plain h5py", report["100 random frames by time"]["ratios"]["bag / h5py"], 1.2)
    yield line("100 random frames, of mcap", report["100 random frames by time"]["ratios"]["bag / mcap"], 1 / 4)
    for count, found in report["open and info of 200 topics, s"].items():
        yield line(f"open and info of {count} messages, s", found["call"]["wall"], 0.15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench_read_") as made:
        directory = options.directory or Path(made)
        path = {"bag": directory / "w3.h5", "mcap": directory / "w3.mcap", "rosbag": directory / "w3.bag"}
        if not path["bag"].exists():
            write_bag(path["bag"], options.seconds)
            write_mcap(path["mcap"], robot(options.seconds))
            write_rosbag(path["rosbag"], robot(options.seconds))
        report: dict[str, Any] = {"all frames of a camera": ask(all_frames(path))}
        report["100 random frames by time"] = ask(random_frames(path, options.seconds))
        imu = {"bag": directory / "imu.h5", "mcap": directory / "imu.mcap"}
        if not imu["bag"].exists():
            write_imu(imu["bag"], options.messages)
            write_mcap(imu["mcap"], imu_messages(options.messages))
        about_imu = f"{options.messages} IMU messages to columns"
        report[about_imu] = ask(imu_columns(imu), 3)
        report["open and info of 200 topics, s"] = {}
        for count in (10_000, 100_000, 1_000_000, 10_000_000):
            if count > 10 * options.messages:
                continue
            many = directory / f"many_{count}.h5"
            if not many.exists():
                write_imu(many, count, topics=200)
            report["open and info of 200 topics, s"][count] = {
                "call": info_call(many),
                **commands(many, directory / "bytecode"),
                "file MB": round(os.path.getsize(many) / 1e6),
            }
        print(json.dumps(report, indent=1))
        print(*targets(report, about_imu), sep="\n")


if __name__ == "__main__":
    main()
