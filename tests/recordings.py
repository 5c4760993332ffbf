"""Small bags for tests of the player, and plain subscribers that take down what a replay sends them."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from helpers import wait_until

from bag.records import Channel
from bag.storage import BagWriter
from cortex.core.raw import RawSubscriber
from cortex.messages.standard import StringMessage

MS = 1_000_000
START_NS = 1_767_225_600_000_000_000


class Line(NamedTuple):
    """One message of a bag: its topic, when it was sent (ms after the start), its sequence and its node."""

    topic: str
    at_ms: float
    sequence: int
    node: str = "talker"
    late_ms: float = 0.0


def address_of(directory: Path, topic: str, node: str = "talker") -> str:
    return f"ipc://{directory}/topics/{node}_{topic.strip('/').replace('/', '_')}.sock"


def frames_of(line: Line) -> list[bytes]:
    body = StringMessage(data=f"{line.topic} {line.sequence}").to_frames(0)[1:]
    time_ns = START_NS + round(line.at_ms * MS)
    return [struct.pack(">QQQ", StringMessage.fingerprint(), time_ns, line.sequence), *map(bytes, body)]


def write_bag(
    path: Path, directory: Path, lines: Iterable[Line], *, mono_ns: int = 0, addresses: dict[str, str] | None = None
) -> Path:
    """Write messages in the given order; `mono_ns` is the recorder's monotonic clock at the start."""
    channels: dict[tuple[str, str], int] = {}
    with BagWriter(path) as writer:
        for line in lines:
            key = (line.topic, line.node)
            if key not in channels:
                address = (addresses or {}).get(line.topic, address_of(directory, line.topic, line.node))
                fingerprint = StringMessage.fingerprint()
                channel = Channel(0, line.topic, "StringMessage", fingerprint, line.node, address)
                channels[key] = writer.add_channel(channel).id
            offset = round((line.at_ms + line.late_ms) * MS)
            writer.append(
                channels[key], [(START_NS + offset, mono_ns + offset, [line.topic.encode(), *frames_of(line)])]
            )
    return path


def chat(count: int, step_ms: float = 10, topic: str = "/chat") -> list[Line]:
    """A topic that speaks regularly."""
    return [Line(topic, number * step_ms, number) for number in range(count)]


class Ear:
    """A plain subscriber in a thread of its own; `frames` is what it got so far."""

    def __init__(self, directory: Path, topic: str, node: str = "talker", **options: int) -> None:
        self.frames: list[list[bytes]] = []
        self._subscriber = RawSubscriber(topic, address_of(directory, topic, node), **options)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"ear {topic}")

    @property
    def sequences(self) -> list[int]:
        return [struct.unpack(">QQQ", frames[0])[2] for frames in self.frames]

    @property
    def stamps(self) -> list[int]:
        return [struct.unpack(">QQQ", frames[0])[1] for frames in self.frames]

    def hear(self, count: int) -> Ear:
        wait_until(lambda: len(self.frames) >= count, what=f"{count} messages, {len(self.frames)} came,")
        return self

    def _run(self) -> None:
        while not self._done.is_set():
            frames = self._subscriber.receive(timeout_ms=20)
            if frames is not None:
                self.frames.append(frames)

    def __enter__(self) -> Ear:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._subscriber.close()
