"""What tests of the recorder share: publishers of numbered messages on real sockets, and what a bag then holds."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import zmq
from helpers import RunningDaemon, wait_until

import bag
from bag.intake import Intake
from bag.storage.reader import BagReader
from cortex.discovery.client import DiscoveryClient
from cortex.discovery.protocol import TopicInfo
from cortex.messages.standard import IntMessage

FINGERPRINT = IntMessage.fingerprint()
BODY = [bytes(part) for part in IntMessage(7).to_frames(0)[1:]]

# of which only a witness hears
MARKER = b"~marker"


def header(sequence: int, fingerprint: int = FINGERPRINT, time_ns: int | None = None) -> bytes:
    return struct.pack(">QQQ", fingerprint, time.time_ns() if time_ns is None else time_ns, sequence)


class Talker:
    """An XPUB socket that sends numbered messages, and knows when somebody has subscribed."""

    def __init__(
        self,
        directory: Path,
        topic: str = "/t",
        *,
        node: str = "talker",
        name: str | None = None,
        type_name: str = "IntMessage",
        fingerprint: int = FINGERPRINT,
    ) -> None:
        file = name or f"{node}_{topic.strip('/').replace('/', '_')}.sock"
        self.info = TopicInfo(topic, f"ipc://{directory}/{file}", type_name, fingerprint, node)
        self.topic = topic.encode()
        self.sequence = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.XPUB)
        self.socket.set_hwm(0)
        self.socket.linger = 2000
        self.socket.set(zmq.XPUB_VERBOSE, 1)
        self.socket.bind(self.info.address)

    def register(self, discovery: RunningDaemon) -> Talker:
        with DiscoveryClient(discovery.address) as client:
            client.register(self.info)
        return self

    def wait_subscribed(self, times: int = 1) -> Talker:
        """Return once so many subscriptions to exactly this topic have come; later messages arrive."""
        while times:
            assert self.socket.poll(10_000), f"nobody subscribed to {self.info.name}"
            times -= self.socket.recv() == b"\x01" + self.topic
        return self

    def send(self, count: int = 1, *, body: Sequence[bytes] = BODY, topic: bytes | None = None) -> Talker:
        for _ in range(count):
            self.socket.send_multipart(
                [topic or self.topic, header(self.sequence, self.info.fingerprint), *body], copy=True
            )
            self.sequence += 1
        return self

    def send_parts(self, *parts: bytes) -> Talker:
        self.socket.send_multipart([self.topic, *parts])
        return self

    def drop(self, count: int) -> Talker:
        """Lose messages as a full queue does: their numbers are used up."""
        self.sequence += count
        return self

    def close(self) -> None:
        self.socket.close()
        self._context.term()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.info.address.removeprefix("ipc://"))

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def recording(
    path: Path, discovery: RunningDaemon, *, clocks: dict[str, Callable[[], int]] | None = None, **options: object
) -> Iterator[bag.Recorder]:
    """A running recorder; all topics unless the options say otherwise."""
    if not {"topics", "regex", "topic_types", "nodes"} & options.keys():
        options["all_topics"] = True
    chosen = bag.RecordOptions(discovery_address=discovery.address, **options)  # type: ignore[arg-type]
    with bag.Recorder(path, chosen, **(clocks or {})) as recorder:  # type: ignore[arg-type]
        yield recorder


@contextlib.contextmanager
def heard_by_a_witness(talker: Talker, intake: Intake) -> Iterator[Callable[[int], None]]:
    """A function that sends so many messages, one by one, and returns when they have come to the intake's socket, too.

    The witness is read by the same thread of ZeroMQ. What the talker sends it later, twice, that thread reads later.
    """
    with intake._context.socket(zmq.SUB) as witness:
        for topic in (MARKER, talker.topic):
            witness.subscribe(topic)
        witness.connect(talker.info.address)
        talker.wait_subscribed()

        def hear() -> None:
            assert witness.poll(10_000)
            witness.recv_multipart()

        def send(count: int) -> None:
            for _ in range(count):
                talker.send()
                hear()
            for _ in range(2):
                talker.socket.send_multipart([MARKER, b""])
                hear()

        yield send


def topic_of(recorder: bag.Recorder, name: str = "/t") -> bag.TopicStatistics | None:
    return next((topic for topic in recorder.statistics().topics if topic.topic == name), None)


def count_of(recorder: bag.Recorder, name: str = "/t") -> int:
    topic = topic_of(recorder, name)
    return topic.messages if topic else 0


def wait_written(recorder: bag.Recorder, count: int, name: str = "/t") -> None:
    """Wait until exactly so many messages of a topic have reached the bag."""
    wait_until(lambda: count_of(recorder, name) >= count, what=f"{count} messages of {name}")
    assert count_of(recorder, name) == count


def sequences(path: Path, name: str = "/t") -> list[int]:
    with BagReader(path) as reader:
        return reader.topics[name].times("sequence").tolist() if name in reader.topics else []


def summary(path: Path, name: str = "/t") -> bag.TopicSummary:
    with bag.open(path) as run:
        return next(topic for topic in run.info().topics if topic.topic == name)


def gaps(path: Path, name: str = "/t") -> list[tuple[str, int, int]]:
    with bag.open(path) as run:
        return [(gap.kind, gap.first_sequence, gap.last_sequence) for gap in run[name].gaps()]


def ledger(path: Path, name: str = "/t") -> list[tuple[str, int, int]]:
    """All ledger rows of a topic, remarks included."""
    from bag.storage import layout

    kinds = {number: kind for kind, number in layout.LEDGER_KINDS.items()}
    with BagReader(path) as reader:
        rows = reader._dataset(f"/{layout.BOOK}/{layout.LEDGER}")[()]
        number = reader.topics[name].number
        return [
            (kinds[int(row["kind"])], int(row["first_sequence"]), int(row["last_sequence"]))
            for row in rows
            if row["topic"] == number
        ]


def marks(path: Path) -> list[str]:
    with BagReader(path) as reader:
        return [text for text, _time in reader.marks]
