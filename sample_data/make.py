"""Writes the sample bags and, as JSON, what must be read from them: ``python sample_data/make.py``.

Nothing here depends on the day or the machine: times are fixed, values are computed from a number, no socket
is opened. The truth is noted while the messages are made; it is never read back from a bag.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import msgpack
import numpy as np

from bag import robot
from bag.records import Channel, Schema
from bag.schemas import schema_of
from bag.storage import BagWriter
from cortex.messages.base import Message
from cortex.messages.standard import ArrayMessage, ImageMessage, PointCloudMessage, PoseMessage

HERE = Path(__file__).resolve().parent
START_NS = 1_767_225_600_000_000_000  # 2026-01-01 00:00:00 UTC
MONOTONIC_NS = 5_000_000_000
LATENCY_NS = 300_000
MS = 1_000_000
COMMIT_NS = 50 * MS


@dataclass
class Sample:
    """One bag in the making, and what must be read from it."""

    writer: BagWriter
    truth: dict[str, Any] = field(default_factory=lambda: {"topics": {}})
    next_commit_ns: int = START_NS + COMMIT_NS

    def channel(self, topic: str, node: str, type_name: str, fingerprint: int, schema: Schema | None = None) -> Channel:
        address = f"ipc:///tmp/cortex/topics/{node}__{topic.lstrip('/').replace('/', '_')}.sock"
        known = self.writer.add_channel(Channel(0, topic, type_name, fingerprint, node, address), schema)
        truth = {"type": type_name, "fingerprint": f"0x{fingerprint:016x}", "node": node, "address": address}
        self.truth["topics"].setdefault(topic, {**truth, "messages": []})
        return known

    def channel_of(self, topic: str, node: str, cls: type[Message]) -> Channel:
        return self.channel(topic, node, cls.__name__, cls.fingerprint(), schema_of(cls.fingerprint()))

    def message(self, channel: Channel, sequence: int, offset_ns: int, body: list[Any]) -> None:
        """Append one message; ``body`` is its metadata and buffers, ``offset_ns`` its publish time after START_NS."""
        publish_ns = START_NS + offset_ns
        log_ns = publish_ns + LATENCY_NS
        header = struct.pack(">QQQ", channel.fingerprint, publish_ns, sequence)
        frames = [header, *(bytes(frame) for frame in body)]
        if publish_ns >= self.next_commit_ns:
            self.writer.commit()
            self.next_commit_ns = publish_ns + COMMIT_NS
        row = (log_ns, MONOTONIC_NS + offset_ns, [channel.topic.encode(), *frames])
        self.writer.append(channel.id, [row])
        entry = {"sequence": sequence, "publish_time_ns": publish_ns, "log_time_ns": log_ns, "sha256": digest(frames)}
        self.truth["topics"][channel.topic]["messages"].append(entry)

    def lost_by_us(self, channel: Channel, first: int, last: int, offset_ns: int) -> None:
        """Note that the recorder had to refuse sequences ``first``..``last``."""
        log_ns = START_NS + offset_ns + LATENCY_NS
        self.writer.note(channel.id, "lost_by_us", (first, last), last - first + 1, log_ns)

    def expect(self, topic: str, **facts: Any) -> None:
        """State what else must be read from ``topic``."""
        self.truth["topics"][topic].update(facts)


def digest(frames: list[bytes]) -> str:
    """The SHA-256 over parts 1..N, each after its length as 8 bytes; spelled out, as the truth must not be bag's."""
    total = hashlib.sha256()
    for frame in frames:
        total.update(len(frame).to_bytes(8, "big") + frame)
    return total.hexdigest()


def array_facts(arrays: list[np.ndarray[Any, Any]]) -> dict[str, Any]:
    """What must be read from a field of arrays: dtype, the shapes that occur, and the digest of all bytes in order."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    shapes = sorted({array.shape for array in arrays})
    return {"dtype": arrays[0].dtype.str, "shapes": [list(shape) for shape in shapes], "sha256": total.hexdigest()}


def body_of(message: Message) -> list[Any]:
    """The metadata and buffers of a message."""
    return message.to_frames(0)[1:]


def small_image(index: int) -> ImageMessage:
    return ImageMessage(data=np.ascontiguousarray(robot.image(index).data[::10, ::10]))


def small_cloud(index: int) -> PointCloudMessage:
    whole = robot.point_cloud(index)
    return PointCloudMessage(points=np.ascontiguousarray(whole.points[::20]), frame_id="lidar")


def make_robot(sample: Sample) -> None:
    """One second of the demo's robot, thinned out: fixed arrays, varying arrays, a dict, text, a class of our own."""
    streams: list[tuple[str, str, float, Callable[[int], Message]]] = [
        ("/camera/image", "camera", 30, small_image),
        ("/lidar/points", "lidar", 10, small_cloud),
        ("/imu", "imu", 50, robot.imu),
        ("/joints", "arm", 25, robot.joints),
        ("/status", "system", 10, robot.status),
        ("/log", "system", 10, robot.log_line),
    ]
    channels = {topic: sample.channel_of(topic, node, type(make(0))) for topic, node, _, make in streams}
    timetable = sorted(
        (index * 1000 * MS // int(hz), topic, index, make) for topic, _, hz, make in streams for index in range(int(hz))
    )
    for offset_ns, topic, index, make in timetable:
        sample.message(channels[topic], index, offset_ns, body_of(make(index)))
    sample.expect("/camera/image", arrays={"data": array_facts([small_image(i).data for i in range(30)])})
    sample.expect("/lidar/points", arrays={"points": array_facts([small_cloud(i).points for i in range(10)])})
    sample.expect("/imu", arrays={"orientation": array_facts([robot.imu(i).orientation for i in range(50)])})
    sample.expect("/status", values=[robot.status(i).data for i in range(10)])
    sample.expect("/log", values=[robot.log_line(i).data for i in range(10)])


def make_gaps(sample: Sample) -> None:
    """What a ledger must tell: joined late, a gap before us, a gap by us, and a publisher that was restarted."""
    counter = sample.channel_of("/counter", "counter", ArrayMessage)
    for sequence in range(5, 60):
        if sequence == 33:
            sample.lost_by_us(counter, 30, 32, 30 * 10 * MS)
        if 15 <= sequence < 20 or 30 <= sequence < 33:
            continue
        body = body_of(ArrayMessage(data=np.array([sequence, sequence**2], np.int32)))
        sample.message(counter, sequence, sequence * 10 * MS, body)
    pose = sample.channel_of("/pose", "localiser", PoseMessage)
    for run, (sequences, first_ns) in enumerate([(range(20), 600 * MS), (range(15), 1000 * MS)]):
        if run == 1:
            pose = sample.channel_of("/pose", "localiser_2", PoseMessage)
        for sequence in sequences:
            message = PoseMessage(position=np.array([run, sequence, 0.0]), orientation=np.array([0.0, 0, 0, 1]))
            sample.message(pose, sequence, first_ns + sequence * 10 * MS, body_of(message))
    sample.expect(
        "/counter",
        published_before_join=5,
        lost_before_us=5,
        lost_by_us=3,
        restarts=0,
        gaps=[[0, 4, "before_join"], [15, 19, "lost_before_us"], [30, 32, "lost_by_us"]],
    )
    sample.expect("/pose", published_before_join=0, lost_before_us=0, lost_by_us=0, restarts=1, gaps=[])


def make_custom(sample: Sample) -> None:
    """A type that no class is known for: recorded all the same, fields by position, arrays still native."""
    grip = sample.channel("/grip", "gripper", "GripState", 0x1D5A6F3E9C42B781)
    tactile = [(np.arange(64, dtype=np.uint16) * (index + 1) % 4096).reshape(8, 8) for index in range(40)]
    for index, image in enumerate(tactile):
        descriptor = {"__cortex_oob__": "numpy", "buffer": 0, "dtype": image.dtype.str, "shape": list(image.shape)}
        metadata = msgpack.packb([index % 2 == 0, 0.5 * index, descriptor, {"serial": "G-17"}])
        sample.message(grip, index, index * 25 * MS, [metadata, image.tobytes()])
    sample.expect("/grip", arrays={"field2": array_facts(tactile)})


BAGS: dict[str, Callable[[Sample], None]] = {"robot": make_robot, "gaps": make_gaps, "custom": make_custom}


def main(directory: Path = HERE) -> None:
    """Write every bag and its truth into ``directory``, replacing what is there."""
    for name, make in BAGS.items():
        path = directory / f"{name}.h5"
        with (
            mock.patch("time.time_ns", return_value=START_NS),
            mock.patch("platform.node", return_value="sample"),
            BagWriter(path, force=True, description=(make.__doc__ or "").strip()) as writer,
        ):
            sample = Sample(writer)
            make(sample)
        text = json.dumps(sample.truth, indent=1)
        path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
