"""Values that hold until the next one: the last message before a position, and subscribers that came too late."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bag.errors import UsageError
from bag.lanes import NOT_WANTED, Lane
from bag.records import Frame


class Value(NamedTuple):
    """A message and the number of the place it is sent from."""

    place: int
    frames: Sequence[Frame]


class StickyTopics:
    """Remembers the last value of each sticky topic.

    Args:
        topics: names as recorded.
        lanes: all lanes of the replay.

    Raises:
        UsageError: a topic is not played.
    """

    def __init__(self, topics: Sequence[str], lanes: Sequence[Lane]) -> None:
        self._lanes = {topic: [lane for lane in lanes if lane.topic == topic] for topic in topics}
        for topic, own in self._lanes.items():
            if not own:
                raise UsageError(f"--sticky {topic}: that topic is not played; look at: cortex bag info")
        self._last: dict[str, Value] = {}
        self._audience: dict[str, int] = {}
        self._topic_of = {place: topic for topic, own in self._lanes.items() for lane in own for place in lane.places}

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def begin(self, subscribers: Callable[[int], int]) -> None:
        """Whoever has subscribed by now is not late."""
        for topic, own in self._lanes.items():
            self._audience[topic] = subscribers(own[0].places[0])

    def note(self, place: int, frames: Sequence[Frame]) -> None:
        """A message was sent."""
        topic = self._topic_of.get(place)
        if topic is not None:
            self._last[topic] = Value(place, frames)

    def values_before(self, at: int) -> list[Value]:
        """The value of every topic at a time of the time line; none for those that have none yet."""
        self._last = {topic: value for topic, own in self._lanes.items() if (value := _value_before(own, at))}
        return list(self._last.values())

    def values_for_late(self, subscribers: Callable[[int], int]) -> list[Value]:
        """The values of topics that have more subscribers than at the last look.

        Args:
            subscribers: tells how many subscribers the topic of a place has.
        """
        late = []
        for topic, value in self._last.items():
            count = subscribers(value.place)
            if count > self._audience.get(topic, 0):
                late.append(value)
            self._audience[topic] = count
        return late


def _value_before(lanes: Sequence[Lane], at: int) -> Value | None:
    best: tuple[int, Lane, int] | None = None
    for lane in lanes:
        row = lane.rows(None, at)[1] - 1
        if row >= 0 and (best is None or lane.times[row] >= best[0]):
            best = (int(lane.times[row]), lane, row)
    if best is None:
        return None
    _at, lane, row = best
    place = lane.place_of[lane.channel_of(row).id]
    return None if place == NOT_WANTED else Value(place, lane.message(row).frames)
