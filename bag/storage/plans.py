"""What a new bag shall be made of: for each of its topics, which messages of which old topics, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bag.records import Channel, Schema
from bag.storage.layout import ColumnSpec
from bag.storage.proven import ProvenBag
from bag.storage.topic_reader import TopicReader


@dataclass(frozen=True, slots=True)
class Origin:
    """A topic of an old bag, all its times shifted by `shift_ns` and the monotonic ones by `mono_shift_ns` further.

    Of its messages `first`..`last`-1 those that no piece takes are noted in the ledger as `left_out`
    (None: they are passed over, as what was before and after).
    """

    bag: ProvenBag
    topic: TopicReader
    first: int
    last: int
    left_out: str | None = None
    shift_ns: int = 0
    mono_shift_ns: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Messages start..stop-1 of an old topic.

    `arrived` (wall, monotonic ns) is given for a message that is carried to another time; its publish time stays.
    """

    origin: Origin
    start: int
    stop: int
    arrived: tuple[int, int] | None = None


@dataclass(slots=True)
class TopicPlan:
    """One topic of the new bag. `channels` are those of the old bags that it continues, in order."""

    name: str
    origins: list[Origin]
    pieces: list[Piece]
    schema: Schema | None = None
    rename: Callable[[ColumnSpec], ColumnSpec] | None = None
    messages: int = field(init=False)

    def __post_init__(self) -> None:
        self.messages = sum(piece.stop - piece.start for piece in self.pieces)


def moved_address(channel: Channel, topic: str) -> str:
    """The address of a channel under a new topic name, where it is made of the node's and the topic's names."""
    if topic == channel.topic:
        return channel.address
    ending = f"__{channel.topic.strip('/').replace('/', '_')}.sock"
    if channel.address.endswith(ending):
        return f"{channel.address[: -len(ending)]}__{topic.strip('/').replace('/', '_')}.sock"
    return channel.address
