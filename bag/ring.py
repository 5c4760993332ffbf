"""Snapshot mode: what arrives is kept in a bounded memory of the past and written to a bag only when asked for."""

from __future__ import annotations

from collections import deque

from bag.bagset import BagSet, Counts
from bag.buffer import Item, Received, Skipped, cost_of
from bag.options import RecordOptions
from bag.records import Channel, Schema


class Ring:
    """Holds the latest messages, and writes them and what follows for a while at each trigger.

    A trigger while one is still being written prolongs it: nothing is written twice.

    Args:
        files: where snapshots go; a new file of the series for each.
        options: bounds in bytes and time, and the post-roll.
    """

    def __init__(self, files: BagSet, options: RecordOptions) -> None:
        self.files = files
        self.snapshots = 0
        self._max_bytes = options.max_cache_bytes // 2
        self._max_age_ns = options.snapshot_duration_ns
        self._post_roll_ns = options.post_roll_ns
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._until_ns: int | None = None
        self._counts: dict[str, Counts] = {}
        self._topics: list[str] = []

    def enter(self, channel: Channel, schema: Schema | None) -> None:
        """Make a channel known."""
        self.files.enter(channel, schema)
        self._topics.append(channel.topic)
        self._counts.setdefault(channel.topic, {"messages": 0, "bytes": 0})

    def take(self, item: Item, mono_ns: int) -> None:
        """Keep an item, and write it if a snapshot is going on."""
        if self._until_ns is not None:
            write(self.files, item)
        if isinstance(item, Skipped):
            self._items.append(item)
        else:
            counts = self._counts[self._topics[item.channel]]
            counts["messages"] += len(item.rows)
            counts["bytes"] += item.nbytes
            # one by one, so that the oldest can leave one by one
            for row in item.rows:
                self._items.append(Received(item.channel, [row], cost_of(row)))
            self._bytes += sum(cost_of(row) for row in item.rows)
        self._expire(mono_ns)

    def trigger(self, mono_ns: int) -> None:
        """Write the past now, and go on for the post-roll."""
        if self._until_ns is None:
            self.files.open(mono_ns)
            for item in self._items:
                write(self.files, item)
            self.snapshots += 1
        self._until_ns = mono_ns + self._post_roll_ns
        self.tick(mono_ns)

    def tick(self, mono_ns: int) -> None:
        """End a snapshot whose post-roll is over."""
        if self._until_ns is not None and mono_ns >= self._until_ns:
            self.close()

    @property
    def writing(self) -> bool:
        """Whether a snapshot is being written."""
        return self._until_ns is not None

    @property
    def held_bytes(self) -> int:
        """Memory the past takes."""
        return self._bytes

    def counts(self, topic: str) -> Counts:
        """Messages and bytes of a topic that were seen so far."""
        return self._counts.get(topic, {"messages": 0, "bytes": 0})

    def close(self) -> None:
        """Close the snapshot that is being written, if any."""
        if self._until_ns is not None:
            self._until_ns = None
            self.files.close()

    def _expire(self, mono_ns: int) -> None:
        while self._items and (self._bytes > self._max_bytes or self._too_old(self._items[0], mono_ns)):
            item = self._items.popleft()
            if isinstance(item, Received):
                self._bytes -= item.nbytes

    def _too_old(self, item: Item, mono_ns: int) -> bool:
        if isinstance(item, Skipped):
            return True
        return self._max_age_ns is not None and item.rows[0][1] < mono_ns - self._max_age_ns


def write(files: BagSet, item: Item) -> None:
    """Bring one item to the files."""
    if isinstance(item, Skipped):
        files.skip(item)
    else:
        files.append(item.channel, item.rows)
