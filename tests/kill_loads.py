"""Loads for recorders that are killed: publishers of numbered messages that anybody can make again, and the recorder.

Every message, its header included, follows from its topic and number, so what a bag holds can be checked byte by byte.
Both run in processes of their own: `python -m kill_loads send|record ...`.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zmq

import bag
from cortex.codec import encode_values
from cortex.discovery.client import DiscoveryClient
from cortex.discovery.protocol import TopicInfo
from cortex.wire import HEADER

FINGERPRINT = 0x1122334455667788
START_NS = 1_790_000_000_000_000_000
# topics of a load at most
TOPICS = 50
COUNTS = struct.Struct(f"<{TOPICS}Q")


@dataclass(frozen=True)
class Load:
    """`topics` of which the last `late` come one after the other, `hz` each; files are split after `split_ns`."""

    topics: int
    hz: float
    late: int = 0
    split_ns: int | None = None

    @property
    def names(self) -> list[str]:
        return [f"/robot/{number}" if number % 3 else f"/robot/{number}/state" for number in range(self.topics)]


LOADS = {
    "small": Load(2, 1000),
    "camera": Load(2, 30),
    "mixed": Load(TOPICS, 40, late=15, split_ns=150_000_000),
}


def values(load: str, topic: int, k: int) -> list:
    """What message `k` of a topic says."""
    if load == "small":
        return [1.5, np.arange(k, k + 10, dtype=np.float64)]
    if load == "camera":
        if topic == 0:
            return [k % 7, np.full((480, 640, 3), k % 251, np.uint8)]
        return [np.full(300_000 + k * 7919 % 200_000, k % 251, np.uint8)]
    kind = topic % 5
    if kind == 0:
        return [np.arange(k, k + 10, dtype=np.float64)]
    if kind == 1:
        return [{"k": k, "text": f"line {k}" * (k % 5)}]
    if kind == 2:
        return [np.full((k * 7 % 5 * 60, 4), k, np.float32)]
    if kind == 3:
        return [np.zeros((2, 3) if k % 2 else (5,), np.float32 if k % 3 else np.int16)]
    return [k, np.full((60, 80, 3), k % 251, np.uint8)]


def frames(load: str, topic: int, k: int) -> list[bytes]:
    """Parts 1..N of message `k` of a topic."""
    metadata, buffers = encode_values(values(load, topic, k))
    return [HEADER.pack(FINGERPRINT, START_NS + k, k), metadata, *(bytes(buffer) for buffer in buffers)]


def send(load: str, directory: str, discovery: str) -> None:
    """Register the topics and send until killed."""
    chosen = LOADS[load]
    context: zmq.Context = zmq.Context()
    sockets: list[zmq.Socket] = []
    with DiscoveryClient(discovery) as client:
        began = time.monotonic()
        turn = 0
        while True:
            due = chosen.topics if turn > 20 * chosen.late else chosen.topics - chosen.late + turn // 20
            while len(sockets) < due:
                number = len(sockets)
                socket = context.socket(zmq.PUB)
                socket.set_hwm(0)
                address = f"ipc://{directory}/{load}_{number}.sock"
                socket.bind(address)
                sockets.append(socket)
                client.register(TopicInfo(chosen.names[number], address, "Type", FINGERPRINT, "robot"))
            # what is late is made up for
            while turn < (time.monotonic() - began) * chosen.hz:
                for number, socket in enumerate(sockets):
                    socket.send_multipart([chosen.names[number].encode(), *frames(load, number, turn)])
                turn += 1
            time.sleep(0.001)


def record(load: str, output: str, discovery: str, counter: str) -> None:
    """Record until killed; write all the while into shared memory how many messages the recorder says it has."""
    chosen = LOADS[load]
    options = bag.RecordOptions(
        all_topics=True,
        discovery_address=discovery,
        polling_interval_ns=20_000_000,
        flush_interval_ns=100_000_000,
        max_bag_duration_ns=chosen.split_ns,
    )
    place = {name: 8 * number for number, name in enumerate(chosen.names)}
    with (
        open(counter, "r+b") as file,
        mmap.mmap(file.fileno(), COUNTS.size) as shared,
        bag.Recorder(output, options) as recorder,
    ):
        while not recorder.wait(0.001):
            for topic in recorder.statistics().topics:
                struct.pack_into("<Q", shared, place[topic.topic], topic.messages)
    raise SystemExit(f"the recorder ended by itself: {recorder.error}")


def files_of(output: Path) -> list[Path]:
    """The files of a series that are there, in order."""
    found = output.parent.glob(f"{output.stem}_*{output.suffix}")
    return [output] if output.exists() else sorted(found, key=lambda path: int(path.stem.rpartition("_")[2]))


def check(load: str, messages: dict[str, list[tuple[int, list[bytes]]]]) -> None:
    """Messages (sequence, parts) of every topic: one after the other, each byte for byte as it was sent."""
    numbers = {name: number for number, name in enumerate(LOADS[load].names)}
    for name, found in messages.items():
        first = found[0][0] if found else 0
        for at, (sequence, parts) in enumerate(found):
            assert sequence == first + at, f"{name}: {sequence} comes after {first + at - 1}"
            assert parts == frames(load, numbers[name], sequence), f"message {sequence} of {name} is another"


if __name__ == "__main__":
    {"send": send, "record": record}[sys.argv[1]](*sys.argv[2:])
