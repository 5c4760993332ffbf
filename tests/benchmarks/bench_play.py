"""Replay beside bare senders of the same frames, in the same run: speed, losslessness and timing, as ratios.

    python tests/benchmarks/bench_play.py [speed] [lossless] [timing] [--seconds 10] [--repeat 3]

speed     the player, --immediate --lossless, and a bare ZeroMQ sender of the same frames from RAM, each into a receiver
          in a process of its own: messages per second until the last one has been received.
lossless  20,000 messages at full speed into a plain subscriber with a queue of 10 that takes 1 ms for each.
timing    W3 at 1x, each to a receiver in a process of its own: the player, a plain absolute-deadline sender from RAM,
          and where they are installed ROS 1 `rosbag play` and `lcm-logplayer` (bench_play_rivals.py). The error of a
          message is its arrival minus when it was due, beyond the best of its topic (the transport's own time).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zmq

import bag
from bag.records import Channel
from bag.storage import BagWriter
from bag.storage.reader import BagReader
from cortex.messages.base import Message
from cortex.messages.standard import ArrayMessage, DictMessage, ImageMessage, MultiArrayMessage, PointCloudMessage

START_NS = 1_767_225_600_000_000_000
Topic = tuple[str, float, list[Message]]


def topics_of(load: str) -> list[Topic]:
    """Topics of a load: name, Hz, and the messages it repeats."""
    random = np.random.default_rng(0)
    small: list[Message] = [ArrayMessage(np.arange(10.0) + k) for k in range(100)]
    if load == "W1":
        return [
            (
                "/camera/image",
                60.0,
                [ImageMessage(random.integers(0, 255, (1080, 1920, 3), np.uint8)) for _ in range(4)],
            )
        ]
    if load == "W2":
        return [("/small", 100_000.0, small)]
    images: list[Message] = [ImageMessage(random.integers(0, 255, (480, 640, 3), np.uint8)) for _ in range(8)]
    return [
        ("/camera/left", 30.0, images),
        ("/camera/right", 30.0, images),
        ("/lidar", 10.0, [PointCloudMessage(np.full((100_000, 4), k, np.float32)) for k in range(3)]),
        ("/imu", 1000.0, small),
        ("/joints", 500.0, [MultiArrayMessage({n: np.arange(7.0) + k for n in "pve"}) for k in range(100)]),
        ("/state", 10.0, [DictMessage({"mode": "auto", "i": k, "pose": [0.1 * k, 2.0]}) for k in range(100)]),
    ]


def plan(load: str, seconds: float) -> Iterator[tuple[int, int, int]]:
    """(due in ns, number of the topic, sequence) in order; topics are shifted against each other."""
    due = []
    for number, (_name, hz, _messages) in enumerate(topics_of(load)):
        count = round(hz * seconds)
        due += [(round(k * 1e9 / hz) + number * 137_000, number, k) for k in range(count)]
    return iter(sorted(due))


def make_bag(load: str, seconds: float, path: Path, directory: Path) -> int:
    """Write a bag as a perfect recorder would have; returns how many messages it has."""
    topics = topics_of(load)
    bodies = [[[bytes(memoryview(p).cast("B")) for p in m.to_frames(0)[1:]] for m in ms] for _n, _h, ms in topics]
    count = 0
    with BagWriter(path, keep_tail=False) as writer:
        channels = []
        for name, _hz, messages in topics:
            address = f"ipc://{directory}/topics/bench__{name.strip('/').replace('/', '_')}.sock"
            cls = type(messages[0])
            channels.append(writer.add_channel(Channel(0, name, cls.__name__, cls.fingerprint(), "bench", address)))
        batches: dict[int, list[Any]] = {}
        for at, number, sequence in plan(load, seconds):
            body = bodies[number][sequence % len(bodies[number])]
            header = struct.pack(">QQQ", channels[number].fingerprint, START_NS + at, sequence)
            batches.setdefault(number, []).append((START_NS + at, at, [topics[number][0].encode(), header, *body]))
            count += 1
            if count % 2000 == 0:
                for key, rows in batches.items():
                    writer.append(channels[key].id, rows)
                batches.clear()
                writer.commit()
        for key, rows in batches.items():
            writer.append(channels[key].id, rows)
    return count


# --- receiving


def receive(places: list[tuple[str, str]], count: int, pipe: Any, busy_s: float = 0.0, rcvhwm: int = 0) -> None:
    """A plain subscriber in a process of its own: sends back [(topic number, sequence, arrival ns)]."""
    context = zmq.Context()
    poller, sockets = zmq.Poller(), {}
    for number, (topic, address) in enumerate(places):
        socket = context.socket(zmq.SUB)
        socket.set(zmq.RCVHWM, rcvhwm)
        socket.set(zmq.RECONNECT_IVL, 1)
        socket.set(zmq.SUBSCRIBE, topic.encode())
        socket.connect(address)
        poller.register(socket, zmq.POLLIN)
        sockets[socket] = number
    pipe.send("ready")
    log: list[tuple[int, int, int]] = []
    while len(log) < count:
        ready = poller.poll(10_000)
        if not ready:
            break
        for socket, _event in ready:
            # a bounded turn for each, so that a fast topic does not hide a slow one
            for _turn in range(50):
                try:
                    frame = socket.recv(zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    break
                arrival = time.monotonic_ns()
                header = socket.recv(copy=False)
                while header.more and socket.recv(copy=False).more:
                    pass
                log.append((sockets[socket], struct.unpack_from(">Q", header.buffer, 16)[0], arrival))
                del frame
                if busy_s:
                    time.sleep(busy_s)
    pipe.send(np.array(log, np.int64).reshape(-1, 3))
    context.destroy(0)


class Receiver:
    """The subscriber of `receive`, as a context; `log` waits for it."""

    def __init__(self, path: Path, count: int, **options: Any) -> None:
        with BagReader(path) as reader:
            places = [(channel.topic, channel.address) for channel in reader.channels]
        self._pipe, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=receive, args=(places, count, other), kwargs=options)

    def __enter__(self) -> Receiver:
        self._process.start()
        assert self._pipe.recv() == "ready"
        return self

    def log(self) -> np.ndarray[Any, Any]:
        got: np.ndarray[Any, Any] = self._pipe.recv()
        return got

    def __exit__(self, *_: object) -> None:
        self._process.join()


# --- sending


class Bare:
    """One XPUB a topic, and the frames in RAM: the least a replay could be."""

    def __init__(self, path: Path, *, nodrop: bool) -> None:
        self._context = zmq.Context()
        self.messages: list[tuple[int, Any, bytes, list[bytes]]] = []
        self._files = []
        with BagReader(path) as reader:
            sockets = {}
            for channel in reader.channels:
                socket = self._context.socket(zmq.XPUB)
                socket.set(zmq.SNDHWM, 1000)
                socket.set(zmq.XPUB_NODROP, int(nodrop))
                file = channel.address.removeprefix("ipc://")
                Path(file).parent.mkdir(parents=True, exist_ok=True)
                socket.bind(channel.address)
                self._files.append(file)
                sockets[channel.topic] = socket
            for at, message in reader.merged(list(reader.topics), "publish"):
                frames = [bytes(frame) for frame in message.frames]
                self.messages.append((at, sockets[message.topic], message.topic.encode(), frames))
        self.sockets = list(sockets.values())

    def wait(self) -> None:
        for socket in self.sockets:
            socket.recv()
        time.sleep(0.2)

    def blast(self) -> None:
        for _at, socket, topic, frames in self.messages:
            send = socket.send
            send(topic, zmq.SNDMORE)
            for frame in frames[:-1]:
                send(frame, zmq.SNDMORE)
            send(frames[-1])

    def paced(self) -> None:
        """Absolute deadlines, slept out: what a careful person writes by hand."""
        start = time.monotonic_ns() - self.messages[0][0]
        for at, socket, topic, frames in self.messages:
            left = start + at - time.monotonic_ns()
            if left > 0:
                time.sleep(left / 1e9)
            socket.send_multipart([topic, *frames])

    def close(self) -> None:
        self._context.destroy()
        for file in self._files:
            os.unlink(file)


def play(path: Path, **options: Any) -> bag.PlayReport:
    with bag.Player(path, bag.PlayOptions(wait_for_subscribers=1, **options)) as player:
        return player.play()


# --- what is measured


def speed(directory: Path, repeat: int) -> None:
    print("speed: messages/s until received, player --immediate --lossless : bare sender from RAM")
    for load, seconds in (("W2", 3.0), ("W3", 8.0), ("W1", 4.0)):
        path = directory / f"{load}.h5"
        count = make_bag(load, seconds, path, directory)
        ratios, rates = [], []
        for _ in range(repeat):
            bare = Bare(path, nodrop=True)
            with Receiver(path, count) as receiver:
                bare.wait()
                begin = time.monotonic_ns()
                bare.blast()
                ours = receiver.log()
            theirs_s = (int(ours[:, 2].max()) - begin) / 1e9
            bare.close()
            with Receiver(path, count) as receiver:
                begins: list[int] = []
                with bag.Player(path, bag.PlayOptions(wait_for_subscribers=1, immediate=True, lossless=True)) as player:
                    player.play(before=lambda _topic: begins or begins.append(time.monotonic_ns()))
                log = receiver.log()
            ours_s = (int(log[:, 2].max()) - begins[0]) / 1e9
            assert len(log) == count, (len(log), count)
            ratios.append(theirs_s / ours_s)
            rates.append((count / ours_s, count / theirs_s))
        ours_rate, bare_rate = (statistics.median(rate) for rate in zip(*rates, strict=True))
        print(f"  {load}: {ours_rate:9,.0f} : {bare_rate:9,.0f}   ratio {statistics.median(ratios):.2f}", flush=True)
        path.unlink()


def lossless(directory: Path, count: int = 20_000) -> None:
    path = directory / "lossless.h5"
    made = make_bag("W2", count / 100_000, path, directory)
    with Receiver(path, made, busy_s=0.001, rcvhwm=10) as receiver:
        report = play(path, immediate=True, lossless=True)
        log = receiver.log()
    in_order = bool(np.array_equal(log[:, 1], np.arange(made)))
    print(
        f"lossless: {len(log):,} of {made:,} arrived, in order: {in_order}, in {report.duration_ns / 1e9:.1f} s",
        flush=True,
    )


def errors(load: str, seconds: float, log: np.ndarray[Any, Any]) -> tuple[float, float, float, float]:
    """p50, p99, max of the error in us, and the drift from the first to the last tenth in us."""
    due = {(number, sequence): at for at, number, sequence in plan(load, seconds)}
    at = np.array([due[number, sequence] for number, sequence, _ in log.tolist()], np.int64)
    off = log[:, 2] - at
    error = np.empty(len(off))
    for number in np.unique(log[:, 0]):
        own = log[:, 0] == number
        error[own] = off[own] - np.percentile(off[own], 1)
    tenth = len(off) // 10
    order = np.argsort(at)
    drift = np.median(off[order][-tenth:]) - np.median(off[order][:tenth])
    error = np.abs(error) / 1e3
    return float(np.percentile(error, 50)), float(np.percentile(error, 99)), float(error.max()), float(drift) / 1e3


def timing(directory: Path, seconds: float, repeat: int) -> None:
    path = directory / "W3.h5"
    count = make_bag("W3", seconds, path, directory)

    def by_player() -> np.ndarray[Any, Any]:
        with Receiver(path, count) as receiver:
            child = multiprocessing.get_context("spawn").Process(target=play, args=(path,))
            child.start()
            log = receiver.log()
            child.join()
        return log

    def by_hand() -> np.ndarray[Any, Any]:
        bare = Bare(path, nodrop=False)
        with Receiver(path, count) as receiver:
            bare.wait()
            bare.paced()
            log = receiver.log()
        bare.close()
        return log

    senders: dict[str, Callable[[], np.ndarray[Any, Any]]] = {
        "cortex bag play": by_player,
        "plain sender, RAM": by_hand,
    }
    try:
        from bench_play_rivals import rivals

        senders |= rivals(directory, list(plan("W3", seconds)), topics_of("W3"))
    except ImportError:
        pass
    print(f"timing: W3 at 1x for {seconds:g} s; error beyond the best of the topic, at the subscriber")
    results: dict[str, list[tuple[float, float, float, float]]] = {}
    for _ in range(repeat):
        for name, sender in senders.items():
            log = sender()
            results.setdefault(name, []).append(errors("W3", seconds, log))
            p50, p99, worst, drift = results[name][-1]
            print(
                f"  {name:18}  p50 {p50:7.0f} us  p99 {p99:7.0f} us  max {worst:7.0f} us  drift {drift:6.0f} us"
                f"  {len(log):,} of {count:,}",
                flush=True,
            )
    print("  medians:")
    for name, rows in results.items():
        p50, p99, *_ = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"  {name:18}  p50 {p50:7.0f} us  p99 {p99:7.0f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure replay beside bare senders.")
    parser.add_argument("what", nargs="*", default=["speed", "lossless", "timing"])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeat", type=int, default=3)
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="bp_", dir="/tmp"))
    os.environ["CORTEX_DIR"] = str(directory)
    os.environ.pop("CORTEX_DISCOVERY_ADDRESS", None)
    try:
        if "speed" in chosen.what:
            speed(directory, chosen.repeat)
        if "lossless" in chosen.what:
            lossless(directory)
        if "timing" in chosen.what:
            timing(directory, chosen.seconds, chosen.repeat)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
