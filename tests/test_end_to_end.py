"""The whole way with real processes: publishers -> recorder -> bag -> player -> subscriber, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import RunningDaemon, spawn_python, wait_until

import bag
from bag.records import RawMessage
from bag.storage.reader import BagReader

# a node that logs every message it publishes: "ready", then waits for a line, publishes, says "done", waits for the end
NODE = """
import json, sys, hashlib
import numpy as np
from cortex.core.publisher import Publisher
from cortex.messages import standard as std

class Logged(Publisher):
    def publish_frames(self, frames):
        parts = [bytes(memoryview(part).cast("B")) for part in frames]
        digest = hashlib.sha256(b"|".join(parts)).hexdigest()
        print(json.dumps([self.topic_name, int.from_bytes(parts[0][16:24], "big"), digest]), file=log)
        return super().publish_frames(frames)

log = open(sys.argv[1], "w")
queue_size = int(sys.argv[2])
def publisher(topic, cls):
    return Logged(topic, cls, node_name=sys.argv[3], queue_size=queue_size)
{body}
log.close()
print("done", flush=True)
sys.stdin.read()
"""
START = """
print("ready", flush=True)
sys.stdin.readline()
"""
ROBOT = (
    """
camera, lidar = publisher("/camera/image", std.ImageMessage), publisher("/lidar", std.PointCloudMessage)
imu, state = publisher("/imu", std.ArrayMessage), publisher("/state", std.DictMessage)
joints, text = publisher("/joints", std.MultiArrayMessage), publisher("/text", std.StringMessage)
import time
"""
    + START
    + """
for i in range(200):
    imu.publish(std.ArrayMessage(np.arange(10.0) + i, name="imu"))
    if i % 2 == 0:
        joints.publish(std.MultiArrayMessage({"position": np.full(7, i * 0.1), "effort": np.full(7, i, np.float32)}))
    if i % 7 == 0:
        camera.publish(std.ImageMessage(np.full((480, 640, 3), i % 251, np.uint8)))
    if i % 20 == 0:
        lidar.publish(std.PointCloudMessage(np.full((100 + i, 3), i, np.float32)))
        state.publish(std.DictMessage({"mode": "auto", "i": i, "pose": [0.1 * i, 2.0]}))
        text.publish(std.StringMessage(f"step {i}"))
    time.sleep(0.002)
"""
)
BURSTS = (
    """
burst = publisher("/burst", std.ArrayMessage)
import time
"""
    + START
    + """
for i in range(15):
    for k in range(20):
        burst.publish(std.ArrayMessage(np.full(5000, k)))
    time.sleep(0.05)
# alone and slowly, so that the last one surely arrives and every gap has an end
for i in range(3):
    time.sleep(0.1)
    burst.publish(std.ArrayMessage(np.full(5000, i)))
"""
)


def digest(message: RawMessage) -> str:
    return hashlib.sha256(b"|".join(bytes(frame) for frame in message.frames)).hexdigest()


def recorded(path: Path) -> dict[str, dict[int, str]]:
    with bag.open(path) as run:
        found: dict[str, dict[int, str]] = {topic: {} for topic in run}
        for message in run.messages():
            found[message.topic][message.sequence] = digest(message)
    return found


def published(log: Path) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for line in log.read_text().splitlines():
        topic, sequence, sha = json.loads(line)
        found.setdefault(topic, {})[sequence] = sha
    return found


def record_node(
    body: str, tmp_path: Path, discovery: RunningDaemon, *, queue_size: int, topics: int
) -> tuple[Path, Path]:
    """Record one node from its first message to its last; returns the bag and the node's own log."""
    log, path = tmp_path / "log.jsonl", tmp_path / "run.h5"
    code = NODE.format(body=body)
    with spawn_python(["-c", code, str(log), str(queue_size), "robot"], stdin=-1) as node:
        assert node.stdout is not None and node.stdin is not None
        assert node.stdout.readline() == "ready\n", node.stderr and node.stderr.read()
        with bag.Recorder(path, bag.RecordOptions(all_topics=True, discovery_address=discovery.address)) as recorder:
            wait_until(lambda: sum(topic.connected for topic in recorder.statistics().topics) == topics)
            settle(recorder)
            node.stdin.write("go\n")
            node.stdin.flush()
            assert node.stdout.readline() == "done\n", node.stderr and node.stderr.read()
            last = {topic: max(numbers) for topic, numbers in published(log).items()}
            wait_until(lambda: reached(recorder, last), what="the last message of every topic")
    return path, log


def settle(recorder: bag.Recorder) -> None:
    """A subscription reaches a publisher a moment after the connection stands; nothing tells when."""
    start = recorder.statistics().elapsed_ns
    wait_until(lambda: recorder.statistics().elapsed_ns - start > 150_000_000)


def reached(recorder: bag.Recorder, last: dict[str, int]) -> bool:
    topics = {topic.topic: topic for topic in recorder.statistics().topics}
    return all(
        topics[name].messages + topics[name].lost_before_us + topics[name].published_before_join > number
        for name, number in last.items()
    )


def test_recording_of_a_robot_equals_the_publishers_own_log(tmp_path: Path, discovery: RunningDaemon) -> None:
    path, log = record_node(ROBOT, tmp_path, discovery, queue_size=1000, topics=6)
    assert recorded(path) == published(log)
    with bag.open(path) as run:
        info = run.info()
        assert info.closed_cleanly
        assert {topic.topic: topic.lost_before_us + topic.lost_by_us for topic in info.topics} == dict.fromkeys(run, 0)
        assert all(topic.published_before_join == 0 and topic.restarts == 0 for topic in info.topics)


def test_bursts_over_the_default_queue_are_in_the_ledger_as_lost_before_us(
    tmp_path: Path, discovery: RunningDaemon
) -> None:
    path, log = record_node(BURSTS, tmp_path, discovery, queue_size=10, topics=1)
    sent, kept = published(log)["/burst"], recorded(path)["/burst"]
    assert all(sent[sequence] == sha for sequence, sha in kept.items())
    missing = set(sent) - set(kept)
    assert missing, "the bursts were too small for the queue: nothing was tested"
    with bag.open(path) as run:
        (summary,) = run.info().topics
        ledger = {n for gap in run["/burst"].gaps() for n in range(gap.first_sequence, gap.last_sequence + 1)}
        kinds = {gap.kind for gap in run["/burst"].gaps()}
    assert ledger == missing
    assert kinds <= {"lost_before_us", "before_join"}
    assert summary.lost_before_us + summary.published_before_join == len(missing)
    assert summary.lost_by_us == 0


def test_camera_is_one_array_in_plain_h5py_and_the_same_bytes_are_the_frames(
    tmp_path: Path, discovery: RunningDaemon
) -> None:
    path, _log = record_node(ROBOT, tmp_path, discovery, queue_size=1000, topics=6)
    expected = np.stack([np.full((480, 640, 3), i % 251, np.uint8) for i in range(0, 200, 7)])
    with h5py.File(path) as file:
        assert file["/camera/image/data"].shape == (29, 480, 640, 3)
        assert file["/camera/image/data"].dtype == np.uint8
        np.testing.assert_array_equal(file["/camera/image/data"][()], expected)
        group = file["/camera/image"]
        assert group.attrs["topic"] == "/camera/image"
        assert group.attrs["type"] == "ImageMessage"
        assert group.attrs["node"] == "robot"
        assert file["/imu/data"].shape == (200, 10)
        # fifteen clouds of other sizes stand one behind the other, with offsets
        offsets = file["/lidar/points.offsets"][()]
        assert np.diff(offsets).tolist() == [100 + i for i in range(0, 200, 20)]
        assert file["/lidar/points"].shape == (int(offsets[-1]), 3)
        assert file["/joints/arrays.position"].shape == (100, 7)
        assert file["/joints/arrays.effort"].dtype == np.float32
    with bag.open(path) as run:
        frames = [bytes(message.frames[2]) for message in run["/camera/image"].raw_messages()]
    assert frames == [image.tobytes() for image in expected]


# a plain subscriber process: prints a line for every topic discovery lists, then one for every message
LISTENER = """
import hashlib, json, sys, time
import zmq
from cortex.discovery.client import DiscoveryClient

count, total = int(sys.argv[1]), int(sys.argv[2])
client = DiscoveryClient(timeout_ms=200, retries=0)
while len(infos := client.list_topics()) < count:
    time.sleep(0.005)
context, poller = zmq.Context(), zmq.Poller()
for info in infos:
    socket = context.socket(zmq.SUB)
    socket.subscribe(info.name.encode())
    socket.connect(info.address)
    poller.register(socket, zmq.POLLIN)
    entry = [info.name, info.publisher_node, info.address, info.message_type, info.fingerprint]
    print(json.dumps(["topic", *entry]), flush=True)
for _ in range(total):
    ready = poller.poll(20000)
    if not ready:
        break
    topic, *parts = ready[0][0].recv_multipart()
    sequence = int.from_bytes(parts[0][16:24], "big")
    print(json.dumps(["message", topic.decode(), sequence, hashlib.sha256(b"|".join(parts)).hexdigest()]))
print(json.dumps(["end"]), flush=True)
context.destroy(0)
"""


def listen_to_replay(path: Path, total: int, topics: int, discovery: RunningDaemon, **options: Any) -> list[list[Any]]:
    with spawn_python(["-c", LISTENER, str(topics), str(total)]) as listener:
        chosen = bag.PlayOptions(discovery_address=discovery.address, wait_for_subscribers=1, **options)
        with bag.Player(path, chosen) as player:
            report = player.play()
        assert report.sent == total
        out, err = listener.communicate(timeout=60)
    assert not err, err
    return [json.loads(line) for line in out.splitlines()]


def test_replay_gives_a_subscriber_process_the_same_bytes_from_the_same_nodes(
    tmp_path: Path, discovery: RunningDaemon
) -> None:
    path, log = record_node(ROBOT, tmp_path, discovery, queue_size=1000, topics=6)
    sent = published(log)
    total = sum(map(len, sent.values()))
    lines = listen_to_replay(path, total, 6, discovery)
    with BagReader(path) as reader:
        expected = {(c.topic, c.node, c.address, c.type_name, c.fingerprint) for c in reader.channels}
    assert {tuple(line[1:]) for line in lines if line[0] == "topic"} == expected
    heard: dict[str, list[tuple[int, str]]] = {}
    for line in lines:
        if line[0] == "message":
            heard.setdefault(line[1], []).append((line[2], line[3]))
    assert heard == {topic: sorted(numbers.items()) for topic, numbers in sent.items()}


EVERY_TYPE = """
import dataclasses, sys
import numpy as np
from cortex.core.publisher import Publisher
from cortex.messages import standard as std
a = np.arange(6.0).reshape(2, 3)
samples = [
    std.StringMessage("x"), std.IntMessage(-3), std.FloatMessage(2.5), std.BytesMessage(b"\\x00\\xff"),
    std.DictMessage({"k": [1, {"n": None}], "a": a}), std.ListMessage([1, "two", a]), std.ArrayMessage(a, "n", "f"),
    std.MultiArrayMessage({"l": a, "r": a.astype(np.int16)}, "f"), std.ImageMessage(np.zeros((4, 5, 3), np.uint8)),
    std.PointCloudMessage(a.astype(np.float32), intensity=np.ones(2)),
    std.PoseMessage(np.zeros(3), np.array([0, 0, 0, 1.0])),
    std.TransformMessage(np.eye(4)), std.TimestampMessage(1, 2), std.HeaderMessage(1, 2, "f", 3),
]
if std.TORCH_AVAILABLE:
    import torch
    samples += [std.TensorMessage(torch.arange(4.0), "t"), std.MultiTensorMessage({"w": torch.ones(2, 2)})]
"""
SENDER = (
    EVERY_TYPE
    + """
publishers = [Publisher("/" + type(m).__name__, type(m), node_name="sender") for m in samples]
print("ready", flush=True)
for _ in sys.stdin:
    for publisher, message in zip(publishers, samples):
        publisher.publish(message)
    print("sent", flush=True)
"""
)
RECEIVER = (
    EVERY_TYPE
    + """
import asyncio, pickle
from cortex.core.subscriber import Subscriber
def same(x, y):
    if isinstance(x, np.ndarray):
        return x.dtype == y.dtype and x.shape == y.shape and (x == y).all()
    if hasattr(x, "detach"):
        return bool((x == y).all())
    if isinstance(x, dict):
        return list(x) == list(y) and all(same(x[k], y[k]) for k in x)
    if isinstance(x, (list, tuple)):
        return len(x) == len(y) and all(map(same, x, y))
    return x == y
async def main():
    subscribers = [Subscriber("/" + type(m).__name__, type(m)) for m in samples]
    print("ready", flush=True)
    for subscriber, expected in zip(subscribers, samples):
        # None as long as discovery does not list the topic
        while (received := await subscriber.receive()) is None:
            await asyncio.sleep(0.01)
        message, header = received
        good = all(same(getattr(message, f.name), getattr(expected, f.name)) for f in dataclasses.fields(expected))
        print(type(expected).__name__, "ok" if good else repr(message), flush=True)
asyncio.run(main())
"""
)


def test_two_processes_with_a_daemon_process_exchange_every_standard_type(cortex_dir: Path) -> None:
    with (
        spawn_python(["-m", "cortex.discovery.daemon"]) as daemon,
        spawn_python(SENDER, stdin=-1) as sender,
    ):
        assert sender.stdout is not None and sender.stdin is not None
        assert sender.stdout.readline() == "ready\n", sender.stderr and sender.stderr.read()
        with spawn_python(RECEIVER) as receiver:
            assert receiver.stdout is not None
            assert receiver.stdout.readline() == "ready\n", receiver.stderr and receiver.stderr.read()
            results: list[str] = []
            # a subscription arrives a little after the connection: send until everything has been heard
            while receiver.poll() is None:
                sender.stdin.write("again\n")
                sender.stdin.flush()
                assert sender.stdout.readline() == "sent\n"
            results = receiver.stdout.read().splitlines()
            assert receiver.returncode == 0, receiver.stderr and receiver.stderr.read()
        assert len(results) >= 14
        assert [line for line in results if not line.endswith(" ok")] == []
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(10) == 0


def run_and_kill(tmp_path: Path, number: int) -> tuple[Path, dict[str, int]]:
    """SIGKILL a real `cortex bag record --json` at a moment that depends on `number`."""
    path, log = tmp_path / f"run{number}.h5", tmp_path / f"log{number}.jsonl"
    body = ROBOT.replace("range(200)", "range(100000)").replace("time.sleep(0.002)", "time.sleep(0.001)")
    arguments = ["-m", "cortex", "bag", "record", "-a", "-o", str(path), "--json", "--flush-interval", "100ms"]
    with (
        spawn_python(["-c", NODE.format(body=body), str(log), "1000", "robot"], stdin=-1, stderr=-3) as node,
        spawn_python(arguments, stderr=-3) as recorder,
    ):
        assert node.stdout is not None and node.stdin is not None and recorder.stdout is not None
        assert node.stdout.readline() == "ready\n"
        node.stdin.write("go\n")
        node.stdin.flush()
        acknowledged: dict[str, int] = {}
        # every line says what had been written when it was printed; after some of them the recorder is killed
        wanted = 2 + number % 7
        for line in recorder.stdout:
            topics = json.loads(line).get("topics") or []
            acknowledged = {topic["topic"]: topic["messages"] for topic in topics}
            if len(acknowledged) == 6 and all(acknowledged.values()):
                wanted -= 1
            if wanted == 0:
                break
        # a little of the next interval, so that kills fall at any point between commits
        spin = np.random.default_rng(number).integers(0, 60_000)
        sum(range(int(spin) * 20))
        os.kill(recorder.pid, signal.SIGKILL)
        recorder.wait()
    return path, acknowledged


@pytest.mark.parametrize("group", range(4))
def test_sigkill_of_the_recorder_loses_nothing_that_it_had_reported(
    tmp_path: Path, discovery: RunningDaemon, group: int
) -> None:
    for number in range(group * 5, group * 5 + 5):
        path, acknowledged = run_and_kill(tmp_path, number)
        with bag.open(path) as run:
            assert not run.closed_cleanly
            counts = {topic: len(run[topic]) for topic in run}
            assert all(counts[topic] >= count for topic, count in acknowledged.items()), (counts, acknowledged)
            for topic in run:
                sequence = run[topic].sequence
                assert (np.diff(sequence.astype(np.int64)) == 1).all(), f"{topic} has holes"
                assert len(list(run[topic].raw_messages())) == counts[topic]
        with h5py.File(path) as file:
            assert file["/imu/_index"].shape[0] == counts["/imu"]
            assert file["/camera/image/data"].shape[1:] == (480, 640, 3)
        path.unlink()
