"""Replay beside bare senders of the same frames, in the same run: speed, losslessness and timing, as ratios.

    python tests/benchmarks/bench_play.py all|speed|lossless|timing|drift ... [--seconds 10] [--repeat 3] [--drift 60]

speed     the player, --immediate --lossless, and a bare ZeroMQ sender of the same frames from RAM, each into a receiver
          in a process of its own: messages per second until the last one has been received.
lossless  20,000 messages at full speed into a plain subscriber with a queue of 10 that takes 1 ms for each.
timing    W3 at 1x, each to a receiver in a process of its own: the player, a plain absolute-deadline sender from RAM,
          and where they are installed ROS 1 `rosbag play` and `lcm-logplayer` (bench_play_rivals.py). The error of a
          message is its arrival minus when it was due, beyond the best percent of its topic, since a rival does not
          say when it began. For the player, which does, also: arrival minus deadline, beyond the median time that the
          transport alone takes for a message of that topic (from the call of send to the same receiver).
drift     W3 at 1x for a minute: the player's error in the first and in the last ten seconds.
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
from collections.abc import Iterator
from dataclasses import dataclass
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

    def paced(self) -> np.ndarray[Any, Any]:
        """Absolute deadlines, slept out: what a careful person writes by hand; returns when it called send."""
        start = time.monotonic_ns() - self.messages[0][0]
        called = []
        for at, socket, topic, frames in self.messages:
            left = start + at - time.monotonic_ns()
            if left > 0:
                time.sleep(left / 1e9)
            called.append(time.monotonic_ns())
            socket.send_multipart([topic, *frames])
        return np.array(called, np.int64)

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


@dataclass
class Errors:
    """Errors of one run in us: of all messages, of those larger than 64 KiB and of the others, and the drift."""

    p50: float
    p99: float
    worst: float
    p99_large: float
    p99_small: float
    drift: float

    def __str__(self) -> str:
        return (
            f"p50 {self.p50:6.0f} us  p99 {self.p99:7.0f} us (large {self.p99_large:6.0f}, small {self.p99_small:6.0f})"
            f"  max {self.worst:7.0f} us  drift {self.drift:5.0f} us"
        )


class Timetable:
    """When the messages of a load are due, and what arrivals make of it."""

    def __init__(self, load: str, seconds: float) -> None:
        self.seconds = seconds
        self.due = {(number, sequence): at for at, number, sequence in plan(load, seconds)}
        sizes = [sum(memoryview(part).nbytes for part in ms[0].to_frames(0)) for _n, _h, ms in topics_of(load)]
        self.large = np.array([size > 1 << 16 for size in sizes])

    def offsets(self, log: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """When each arrival was due on the time line, and how far behind the time line's 0 it then came, in ns."""
        at = np.array([self.due[number, sequence] for number, sequence, _ in log.tolist()], np.int64)
        return at, log[:, 2] - at

    def errors(self, log: np.ndarray[Any, Any]) -> Errors:
        """Beyond the best percent of each topic."""
        at, off = self.offsets(log)
        error = np.abs(off - self._by_topic(log, off, 1))
        large = self.large[log[:, 0]]
        span = min(10e9, self.seconds * 1e8)
        late, early = off[at >= self.seconds * 1e9 - span], off[at < span]
        return Errors(
            *(float(value) / 1e3 for value in (*np.percentile(error, [50, 99]), error.max())),
            *(float(np.percentile(error[kind], 99)) / 1e3 for kind in (large, ~large)),
            drift=float(np.median(late) - np.median(early)) / 1e3,
        )

    def transport(self, log: np.ndarray[Any, Any], called: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Of each topic the median time from the call of send to the arrival, in ns."""
        sent = dict(zip(self.due, called.tolist(), strict=True))
        took = np.array([arrival - sent[number, sequence] for number, sequence, arrival in log.tolist()])
        return np.array([np.median(took[log[:, 0] == number]) for number in range(len(self.large))])

    def beyond(self, log: np.ndarray[Any, Any], zero: int, transport: np.ndarray[Any, Any]) -> tuple[float, float]:
        """p50 and p99 of arrival minus deadline minus the median time of the transport, in us."""
        _at, off = self.offsets(log)
        p50, p99 = np.percentile(off - zero - transport[log[:, 0]], [50, 99])
        return float(p50) / 1e3, float(p99) / 1e3

    def _by_topic(self, log: np.ndarray[Any, Any], off: np.ndarray[Any, Any], percent: float) -> Any:
        best = [np.percentile(off[log[:, 0] == number], percent) for number in range(len(self.large))]
        return np.array(best)[log[:, 0]]


@dataclass
class Played:
    """What a player in a process of its own says: its report, and the monotonic time of the time line's 0."""

    report: bag.PlayReport
    zero: int


def _play_in_child(path: Path, pipe: Any) -> None:
    clock = bag.PlayerClock()
    with bag.Player(path, bag.PlayOptions(wait_for_subscribers=1), clock=clock) as player:
        pipe.send(Played(player.play(), clock.deadline(0)))


def played(path: Path, count: int) -> tuple[np.ndarray[Any, Any], Played]:
    """Play in one process to a receiver in another."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    with Receiver(path, count) as receiver:
        child = context.Process(target=_play_in_child, args=(path, other))
        child.start()
        log = receiver.log()
        said = pipe.recv()
        child.join()
    return log, said


def by_hand(path: Path, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Send from RAM, as a careful person would."""
    bare = Bare(path, nodrop=False)
    with Receiver(path, count) as receiver:
        bare.wait()
        called = bare.paced()
        log = receiver.log()
    bare.close()
    return log, called


def timing(directory: Path, seconds: float, repeat: int) -> None:
    from bench_play_rivals import rivals

    path = directory / "W3.h5"
    count = make_bag("W3", seconds, path, directory)
    table = Timetable("W3", seconds)
    others = rivals(directory, list(plan("W3", seconds)), topics_of("W3"))
    # the disk is still busy with gigabytes of recordings just written, which is nobody's fault who plays now
    os.sync()
    print(f"timing: W3 at 1x for {seconds:g} s; error at the subscriber, beyond the best percent of the topic")
    results: dict[str, list[Errors]] = {}
    ours: list[tuple[float, float]] = []

    def show(name: str, log: np.ndarray[Any, Any]) -> None:
        results.setdefault(name, []).append(table.errors(log))
        print(f"  {name:18}{results[name][-1]}  {len(log):,} of {count:,}", flush=True)

    for _ in range(repeat):
        log, called = by_hand(path, count)
        show("plain sender, RAM", log)
        transport = table.transport(log, called)
        log, said = played(path, count)
        show("cortex bag play", log)
        ours.append(table.beyond(log, said.zero, transport))
        late, medians = said.report.lateness, ", ".join(f"{value / 1e3:.0f}" for value in transport)
        print(
            f"    at the call of send: p50 {late.p50_ns / 1e3:.0f} us, p99 {late.p99_ns / 1e3:.0f} us, max "
            f"{late.max_ns / 1e3:.0f} us, real-time priority: {'yes' if said.report.realtime else 'no'}\n"
            f"    at the subscriber, beyond the transport's median: p50 {ours[-1][0]:.0f} us, p99 {ours[-1][1]:.0f} us "
            f"(the transport alone, by topic: {medians} us)",
            flush=True,
        )
        for name, run in others.items():
            show(name, run())
    print("  medians:")
    for name, rows in results.items():
        p50, p99 = statistics.median(row.p50 for row in rows), statistics.median(row.p99 for row in rows)
        print(f"  {name:18}p50 {p50:6.0f} us  p99 {p99:7.0f} us")
    p50, p99 = (statistics.median(column) for column in zip(*ours, strict=True))
    print(f"  cortex bag play, beyond the transport's own latency: p50 {p50:.0f} us (wanted: <= 50), p99 {p99:.0f} us")
    if others:
        best = min(statistics.median(row.p99 for row in results[name]) for name in others)
        mine = statistics.median(row.p99 for row in results["cortex bag play"])
        print(f"  p99 of cortex bag play : best rival = {mine / best:.2f} (wanted: <= 0.5)", flush=True)
    path.unlink()


def drift(directory: Path, seconds: float) -> None:
    path = directory / "drift.h5"
    count = make_bag("W3", seconds, path, directory)
    os.sync()
    log, said = played(path, count)
    found = Timetable("W3", seconds).errors(log)
    print(f"drift: W3 at 1x for {seconds:g} s, {len(log):,} of {count:,}, took {said.report.duration_ns / 1e9:.4f} s")
    print(f"  {found} (median of the last ten seconds minus that of the first)", flush=True)
    path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure replay beside bare senders.")
    parser.add_argument("what", nargs="*", default=["all"], help="all, speed, lossless, timing, drift")
    parser.add_argument("--drift", type=float, default=60.0, help="seconds of the run for drift")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeat", type=int, default=3)
    chosen = parser.parse_args()
    parts = {"speed", "lossless", "timing", "drift"} if "all" in chosen.what else set(chosen.what)
    directory = Path(tempfile.mkdtemp(prefix="bp_", dir="/tmp"))
    os.environ["CORTEX_DIR"] = str(directory)
    os.environ.pop("CORTEX_DISCOVERY_ADDRESS", None)
    try:
        if "speed" in parts:
            speed(directory, chosen.repeat)
        if "lossless" in parts:
            lossless(directory)
        if "timing" in parts:
            timing(directory, chosen.seconds, chosen.repeat)
        if "drift" in parts:
            drift(directory, chosen.drift)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
