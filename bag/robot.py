"""A synthetic robot: nodes as real processes whose every message is known, so that a recording can be checked.

``python -m bag.robot NODE --discovery-address ADDRESS --log FILE --duration SECONDS`` runs one node of ``NODES``. It
registers its topics, prints ``ready``, waits for a line on standard input, publishes for so many seconds, prints
``done COUNT`` and stays until standard input ends, so that nothing it sent is thrown away with its sockets.

For every message the publisher itself writes one JSON line to the log: topic, sequence, and the SHA-256 over all parts
after the topic. That log is the truth a bag and its replay are held against.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from cortex.core.publisher import Publisher
from cortex.messages.base import Message, MessageHeader
from cortex.messages.standard import DictMessage, ImageMessage, MultiArrayMessage, PointCloudMessage, StringMessage

QUEUE_SIZE = 1000
IMAGE_SHAPE = (480, 640, 3)


@dataclass
class ImuMessage(Message):
    """An inertial measurement; defined here so that the demo records a type that is not in the catalogue.

    ``linear_acceleration`` in m/s^2 and ``angular_velocity`` in rad/s are float64 of shape (3,), ``orientation`` is a
    unit quaternion (x, y, z, w), float64 of shape (4,), and ``temperature`` is in degrees Celsius.
    """

    linear_acceleration: np.ndarray[Any, np.dtype[np.float64]]
    angular_velocity: np.ndarray[Any, np.dtype[np.float64]]
    orientation: np.ndarray[Any, np.dtype[np.float64]]
    temperature: float = 0.0


def image(index: int) -> ImageMessage:
    """Return camera frame ``index``: a colour ramp that drifts a column a frame, the index in its first bytes."""
    height, width, _ = IMAGE_SHAPE
    data = np.empty(IMAGE_SHAPE, np.uint8)
    data[..., 0] = (np.arange(width) + index) % 256
    data[..., 1] = (np.arange(height)[:, None] + 2 * index) % 256
    data[..., 2] = 255 - data[..., 0]
    data[0, :2].reshape(-1)[:4] = np.frombuffer(index.to_bytes(4, "big"), np.uint8)
    return ImageMessage(data=data)


def wave(turns: Any) -> Any:
    """Return a wave between -1 and 1 that repeats with every whole number of ``turns`` (a float or an array).

    It is made of parabolas and not a sine, because sines differ in the last bit from one processor to the next.
    """
    x = 2 * (turns % 1) - 1
    return 4 * x * (abs(x) - 1)


def point_cloud(index: int) -> PointCloudMessage:
    """Return lidar sweep ``index``: a turning ring of 800 to 1,600 points, float32 (n, 3), with intensities."""
    count = 800 + (index * 137) % 801
    turns = np.arange(count) / count + index / 500
    points = np.stack([5 * wave(turns + 0.25), 5 * wave(turns), wave(7 * turns)], axis=1).astype(np.float32)
    return PointCloudMessage(points=points, intensity=np.abs(points[:, 2]), frame_id="lidar")


def imu(index: int) -> ImuMessage:
    """Return inertial measurement ``index`` of a robot that sways once in two seconds at 200 Hz."""
    turns = index / 400
    return ImuMessage(
        linear_acceleration=np.array([0.1 * wave(turns), 0.1 * wave(turns + 0.25), 9.81]),
        angular_velocity=np.array([0.0, 0.0, 0.2 * wave(turns)]),
        orientation=np.array([0.0, 0.0, 0.6, 0.8]) * (1 if index % 400 < 200 else -1),
        temperature=36.5 + 0.001 * index,
    )


def joints(index: int) -> MultiArrayMessage:
    """Return joint state ``index`` of an arm with seven joints: position in rad, velocity in rad/s, effort in N m."""
    turns = index / 300 + np.arange(7) / 7
    arrays = {"position": wave(turns), "velocity": 2 * wave(turns + 0.25), "effort": np.full(7, 0.5 + index % 10)}
    return MultiArrayMessage(arrays=arrays, frame_id="arm")


def status(index: int) -> DictMessage:
    """Return status report ``index``: nested values as a real robot sends them."""
    data = {"battery": {"volts": 24.0 - 0.001 * index, "charging": False}, "mode": "auto", "errors": [], "tick": index}
    return DictMessage(data=data)


def log_line(index: int) -> StringMessage:
    """Return log line ``index``: text whose length varies."""
    return StringMessage(data=f"step {index}: " + "all well " * (1 + index % 5))


@dataclass(frozen=True)
class Stream:
    """One topic of a node: what it publishes and how often."""

    topic: str
    hz: float
    message_type: type[Message]
    make: Callable[[int], Message]


NODES: dict[str, tuple[Stream, ...]] = {
    "camera": (Stream("/camera/image", 30, ImageMessage, image),),
    "lidar": (Stream("/lidar/points", 10, PointCloudMessage, point_cloud),),
    "imu": (Stream("/imu", 200, ImuMessage, imu),),
    "arm": (Stream("/joints", 100, MultiArrayMessage, joints),),
    "system": (Stream("/status", 10, DictMessage, status), Stream("/log", 10, StringMessage, log_line)),
}


def digest(frames: Iterable[Any]) -> str:
    """Return the SHA-256 over parts 1..N of a message (any buffers), each after its length as 8 bytes, as hex text."""
    total = hashlib.sha256()
    for frame in frames:
        view = memoryview(frame)
        total.update(view.nbytes.to_bytes(8, "big"))
        if view.nbytes:
            total.update(view.cast("B"))
    return total.hexdigest()


class LoggedPublisher(Publisher):
    """A publisher that writes down what it sent, from the very frames it sent."""

    log: TextIO

    def publish_frames(self, frames: list[Any]) -> bool:
        """Send parts 1..N, then write one line about them."""
        sent = super().publish_frames(frames)
        header = MessageHeader.from_bytes(bytes(frames[0]))
        entry = {"topic": self.topic_name, "sequence": header.sequence, "sha256": digest(frames), "sent": sent}
        self.log.write(json.dumps(entry) + "\n")
        return sent


def run_node(name: str, *, discovery_address: str, log: TextIO, duration_s: float) -> None:
    """Run node ``name`` of ``NODES`` as the module's opening says; standard input and output are the orchestrator's."""
    streams = NODES[name]
    with ExitStack() as stack:
        publishers = []
        for stream in streams:
            publisher = LoggedPublisher(
                stream.topic,
                stream.message_type,
                node_name=name,
                discovery_address=discovery_address,
                queue_size=QUEUE_SIZE,
            )
            stack.callback(publisher.close)
            publisher.log = log
            publishers.append(publisher)
        _say("ready")
        if not sys.stdin.readline():
            return
        count = 0
        for number, index in _ticks([stream.hz for stream in streams], duration_s):
            count += publishers[number].publish(streams[number].make(index))
        log.flush()
        _say(f"done {count}")
        sys.stdin.read()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _ticks(rates_hz: list[float], duration_s: float) -> Iterator[tuple[int, int]]:
    # deadlines count from the start, so that a late tick delays none after it
    start = time.monotonic()
    due = [(0.0, number, 0) for number in range(len(rates_hz))]
    while due[0][0] < duration_s:
        offset, number, index = due[0]
        time.sleep(max(0.0, start + offset - time.monotonic()))
        yield number, index
        heapq.heapreplace(due, ((index + 1) / rates_hz[number], number, index + 1))


def main(arguments: list[str] | None = None) -> None:
    """Run the node that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bag.robot", description="Run one node of the synthetic robot.")
    parser.add_argument("node", choices=sorted(NODES))
    parser.add_argument("--discovery-address", required=True)
    parser.add_argument("--log", required=True, metavar="FILE", help="where to write the JSON lines")
    parser.add_argument("--duration", type=float, default=6.0, metavar="SECONDS")
    chosen = parser.parse_args(arguments)
    with open(chosen.log, "w", encoding="utf-8") as log:
        run_node(chosen.node, discovery_address=chosen.discovery_address, log=log, duration_s=chosen.duration)


if __name__ == "__main__":
    # a class defined in __main__ has another fingerprint than the one other programs import
    from bag import robot

    robot.main()
