"""The small frozen values that cross from one room of bag to another; no behaviour beyond reading themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bag.values import PlainMessage, field_names, values_of_frames
from cortex.messages.base import Message, MessageType
from cortex.wire import HEADER

Frame = bytes | memoryview

# under this name the custom data tells how long messages gathered before they were received
RECEIVE_INTERVAL = "receive_interval"


@dataclass(frozen=True, slots=True)
class SchemaField:
    """One field of a message class: its name and its annotation as text."""

    name: str
    annotation: str = ""


@dataclass(frozen=True, slots=True)
class Schema:
    """What a message type looks like; kept in the bag so that reading never needs the class.

    `fingerprint` is the 64-bit wire fingerprint, `fields` are in wire order.
    """

    fingerprint: int
    type_name: str
    module: str
    qualname: str
    fields: tuple[SchemaField, ...]


@dataclass(frozen=True, slots=True)
class Channel:
    """One topic as published by one node at one address: what discovery said of it.

    `id` counts the channels of one bag from 0.
    """

    id: int
    topic: str
    type_name: str
    fingerprint: int
    node: str
    address: str


@dataclass(frozen=True, slots=True)
class RawMessage:
    """One recorded message, undecoded.

    `frames` are the parts 1..N as received: header, metadata, buffers. Times are nanoseconds:
    `publish_time_ns` and `log_time_ns` since the epoch, `log_mono_ns` on the recorder's monotonic clock.
    """

    topic: str
    sequence: int
    publish_time_ns: int
    log_time_ns: int
    log_mono_ns: int
    frames: Sequence[Frame]
    channel: Channel
    # what the bag knows of its type
    schema: Schema | None = field(default=None, repr=False, compare=False)

    @property
    def fingerprint(self) -> int:
        """Fingerprint in the header, which may differ from the registered one of the channel."""
        return int(HEADER.unpack_from(self.frames[0])[0])

    @property
    def nbytes(self) -> int:
        """Bytes of all frames together, header included, topic not."""
        return sum(memoryview(frame).nbytes for frame in self.frames)

    def decode(self, cls: type[Message] | None = None) -> Any:
        """Rebuild the message as `cls`, as the imported class of its fingerprint, or as plain values.

        Plain values (`PlainMessage`) stand under the names that the bag knows, else under `field0`, `field1`...

        Raises:
            ValueError: the frames do not fit the class, or are no message.
        """
        target = cls or MessageType.get(self.fingerprint)
        if target is None:
            values = values_of_frames(self.frames)
            return PlainMessage(self.channel.type_name, field_names(self.schema, len(values)), values)
        if len(self.frames) == 1:
            return target.from_bytes(bytes(self.frames[0]))[0]
        return target.from_frames(list(self.frames))[0]


@dataclass(frozen=True, slots=True)
class Compression:
    """What became of the bytes of a recording that were to be compressed while it went on.

    `filter` is its name and level. `packed` bytes take `stored` in the file; the others stand raw: `no_gain`, since
    packing made them no smaller, and `lagged`, since the compressor could not keep up.
    """

    filter: str
    packed: int = 0
    stored: int = 0
    no_gain: int = 0
    lagged: int = 0


@dataclass(frozen=True, slots=True)
class Gap:
    """A range of sequence numbers that is not in the bag, both ends included.

    `kind` says whose loss it is: `before_join`, `lost_before_us`, `lost_by_us`, `throttled` or
    `paused`.
    """

    first_sequence: int
    last_sequence: int
    count: int
    log_time_ns: int
    kind: str


@dataclass(frozen=True, slots=True)
class TopicSummary:
    """Counts and spans of one topic; times in nanoseconds since the epoch, None while empty."""

    topic: str
    type_name: str
    node: str
    address: str
    fingerprint: int
    messages: int
    bytes: int
    hz: float | None
    first_publish_ns: int | None
    last_publish_ns: int | None
    first_log_ns: int | None
    last_log_ns: int | None
    first_sequence: int | None
    published_before_join: int
    lost_before_us: int
    lost_by_us: int
    restarts: int
    throttled: int
    malformed: int
    gaps: int
    paused: int = 0


@dataclass(frozen=True, slots=True)
class BagInfo:
    """What `info` says of a bag without reading a message; times in nanoseconds.

    `live`: it is being recorded, and this is as of its last commit.
    """

    path: str
    size_bytes: int
    duration_ns: int
    start_ns: int | None
    end_ns: int | None
    closed_cleanly: bool
    host: str
    description: str
    custom_data: dict[str, str]
    messages: int
    bytes: int
    topics: tuple[TopicSummary, ...]
    live: bool = False

    def to_json(self) -> dict[str, Any]:
        """The same as plain dicts, lists, numbers and strings; fingerprints as hex text."""
        from dataclasses import asdict

        out = asdict(self)
        for topic in out["topics"]:
            topic["fingerprint"] = f"0x{topic['fingerprint']:016x}"
        return out
