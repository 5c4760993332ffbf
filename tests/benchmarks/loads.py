"""The workloads of the recording benchmarks, published by a process of its own: W1 frames, W2 small, W3 robot, W4 many.

    python loads.py LOAD DIRECTORY RATE COUNT

It prints "ready", waits for a line, publishes, and prints how many it sent in how many seconds.

RATE is messages per second (0 = as fast as they go, W3 and W4: as a factor). The sockets are plain PUB sockets with
an unlimited queue, the messages real 4-part Cortex messages made beforehand: the publisher costs as little as it can.
"""

from __future__ import annotations

import heapq
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from cortex.discovery.client import DiscoveryClient
from cortex.discovery.protocol import TopicInfo
from cortex.messages.base import Message
from cortex.messages.standard import ArrayMessage, DictMessage, ImageMessage, MultiArrayMessage, PointCloudMessage
from cortex.wire import HEADER

TICK_S = 0.001


class Source:
    """One topic: its socket and the messages it repeats."""

    def __init__(self, context: zmq.Context[Any], directory: Path, topic: str, messages: list[Message]) -> None:
        self.topic = topic.encode()
        self.fingerprint = type(messages[0]).fingerprint()
        self.bodies = [[bytes(memoryview(part).cast("B")) for part in m.to_frames(sequence=0)[1:]] for m in messages]
        self.sequence = 0
        self.socket = context.socket(zmq.PUB, socket_class=zmq.Socket)
        self.socket.set(zmq.SNDHWM, 0)
        self.address = f"ipc://{directory}/{topic.strip('/').replace('/', '_')}.sock"
        self.socket.bind(self.address)
        info = TopicInfo(topic, self.address, type(messages[0]).__name__, self.fingerprint, "bench")
        DiscoveryClient().register(info)

    def send(self) -> None:
        header = HEADER.pack(self.fingerprint, time.time_ns(), self.sequence)
        # part by part: send_multipart() costs half as much again
        send, body = self.socket.send, self.bodies[self.sequence % len(self.bodies)]
        send(self.topic, zmq.SNDMORE)
        send(header, zmq.SNDMORE)
        for part in body[:-1]:
            send(part, zmq.SNDMORE)
        send(body[-1])
        self.sequence += 1


def frames(height: int, width: int, count: int = 8) -> list[Message]:
    random = np.random.default_rng(0)
    return [ImageMessage(random.integers(0, 255, (height, width, 3), np.uint8)) for _ in range(count)]


def sources(load: str, context: zmq.Context[Any], directory: Path) -> list[tuple[Source, float]]:
    """The topics of a load with their rates in Hz."""
    small: list[Message] = [ArrayMessage(np.arange(10.0) + k) for k in range(100)]

    def make(topic: str, messages: list[Message]) -> Source:
        return Source(context, directory, topic, messages)

    if load == "W1":
        return [(make("/camera/image", frames(1080, 1920, 4)), 1.0)]
    if load == "W2":
        return [(make("/small", small), 1.0)]
    if load == "W3":
        cloud: list[Message] = [PointCloudMessage(np.full((100_000, 4), k, np.float32)) for k in range(3)]
        joints: list[Message] = [MultiArrayMessage({n: np.arange(7.0) + k for n in "pve"}) for k in range(100)]
        state: list[Message] = [DictMessage({"mode": "auto", "i": k, "pose": [0.1 * k, 2.0]}) for k in range(100)]
        images = frames(480, 640)
        return [
            (make("/camera/left", images), 30.0),
            (make("/camera/right", images), 30.0),
            (make("/lidar", cloud), 10.0),
            (make("/imu", small), 1000.0),
            (make("/joints", joints), 500.0),
            (make("/state", state), 10.0),
        ]
    return [(make(f"/t/{number:03d}", small), 50.0) for number in range(200)]


def flat_out(source: Source, count: int) -> None:
    for _ in range(count):
        source.send()


def paced(plan: list[tuple[Source, float]], rate: float, count: int) -> None:
    """Send `count` messages in all, each topic at its rate times `rate`, in ticks of a millisecond."""
    start = time.monotonic()
    due = [(start + k / max(1, len(plan)) / (hz * rate), k) for k, (_source, hz) in enumerate(plan)]
    heapq.heapify(due)
    for _ in range(count):
        at, k = due[0]
        source, hz = plan[k]
        wait = at - time.monotonic()
        if wait > TICK_S:
            time.sleep(wait)
        source.send()
        heapq.heapreplace(due, (at + 1 / (hz * rate), k))


def main() -> None:
    load, directory, rate, count = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    context: zmq.Context[Any] = zmq.Context()
    plan = sources(load, context, directory)
    print("ready", flush=True)
    sys.stdin.readline()
    begin = time.perf_counter()
    if rate == 0:
        flat_out(plan[0][0], count)
    else:
        paced(plan, rate, count)
    seconds = time.perf_counter() - begin
    print(json.dumps({"sent": count, "seconds": seconds}), flush=True)
    sys.stdin.readline()
    context.destroy(0)


if __name__ == "__main__":
    main()
