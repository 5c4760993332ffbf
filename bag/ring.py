"""Snapshot mode: what arrives is kept in a bounded memory of the past and written to a bag only when asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from bag.bagset import BagSet, Counts
from bag.buffer import Item, Received, Skipped, cost_of
from bag.options import RecordOptions
from bag.records import Channel, Schema
from bag.storage.batch import HEADER_SIZE, Row
from cortex.wire import HEADER

# so many messages of a topic go to the file at once
DUMP_ROWS = 1024


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
        self._max_bytes = options.past_bytes
        self._max_age_ns = options.snapshot_duration_ns
        # what has come in time may be stamped later by as much
        gathers_ns = options.receive_interval_ns if options.post_roll_ns else 0
        self._post_roll_ns = options.post_roll_ns + gathers_ns
        self._items: deque[Item] = deque()
        self._marks: deque[tuple[int, str, int]] = deque()
        self._bytes = 0
        # when the snapshot that is being written ends; None: none is
        self.until_ns: int | None = None
        self._tallies: dict[str, _Tally] = {}
        self._topics: list[str] = []

    def enter(self, channel: Channel, schema: Schema | None) -> None:
        """Make a channel known."""
        self.files.enter(channel, schema)
        self._topics.append(channel.topic)
        self._tallies.setdefault(channel.topic, _Tally())

    def take(self, item: Item, mono_ns: int) -> None:
        """Keep an item, and write it if a snapshot is going on."""
        tally = self._tallies[self._topics[item.channel]]
        if isinstance(item, Skipped):
            tally.skip(item)
            self._items.append(item)
            if self.until_ns is not None:
                self.files.skip(item)
        else:
            tally.add(item)
            if self.until_ns is not None:
                self.files.append(item.channel, [row for row in item.rows if row[1] <= self.until_ns])
            # one by one, so that the oldest can leave one by one
            for row in item.rows:
                cost = cost_of(row)
                self._items.append(Received(item.channel, [row], cost))
                self._bytes += cost
        self._expire(mono_ns)

    def trigger(self, mono_ns: int) -> None:
        """Write the past now, and go on for the post-roll."""
        if self.until_ns is None:
            self._expire(mono_ns)
            self.files.open(mono_ns)
            self._bridge_sticky()
            for item in _gathered(self._items):
                write(self.files, item)
            for _mono, text, wall_ns in self._marks:
                self.files.mark(text, wall_ns)
            self.snapshots += 1
        self.until_ns = mono_ns + self._post_roll_ns
        self.tick(mono_ns)

    def mark(self, text: str, wall_ns: int, mono_ns: int) -> None:
        """Keep a named moment with the messages around it."""
        self._marks.append((mono_ns, text, wall_ns))
        if self.until_ns is not None:
            self.files.mark(text, wall_ns)

    def tick(self, mono_ns: int) -> None:
        """End a snapshot whose post-roll is over."""
        if self.until_ns is not None and mono_ns >= self.until_ns:
            self.close()

    @property
    def writing(self) -> bool:
        """Whether a snapshot is being written."""
        return self.until_ns is not None

    @property
    def held_bytes(self) -> int:
        """Memory the past takes."""
        return self._bytes

    def counts(self, topic: str) -> Counts:
        """What was seen of a topic so far, whether it was written or not."""
        tally = self._tallies.get(topic)
        return dict(tally.counts) if tally else {"messages": 0}

    def close(self) -> None:
        """Close the snapshot that is being written, if any."""
        if self.until_ns is not None:
            self.until_ns = None
            self.files.close()

    # what lies between the repeated message and the past we hold was not asked for, and is no loss
    def _bridge_sticky(self) -> None:
        for channel, row in self.files.sticky_messages.values():
            last = _sequence(row)
            first = next((item for item in self._items if item.channel == channel), None)
            if last is None or first is None:
                continue
            found = first.first_sequence if isinstance(first, Skipped) else _sequence(first.rows[0])
            if found is not None and found > last + 1:
                between = (last + 1, found - 1)
                self.files.skip(Skipped(channel, "paused", *between, row[0], between[1] - between[0] + 1))

    def _expire(self, mono_ns: int) -> None:
        while self._items and (self._bytes > self._max_bytes or self._too_old(self._items[0], mono_ns)):
            item = self._items.popleft()
            if isinstance(item, Received):
                self._bytes -= item.nbytes
                self.files.remember(item.channel, item.rows)
        begin = self._begin_ns(mono_ns)
        while self._marks and self._marks[0][0] < begin:
            self._marks.popleft()

    def _begin_ns(self, mono_ns: int) -> int:
        first = self._items[0] if self._items else None
        return first.rows[0][1] if isinstance(first, Received) else mono_ns

    def _too_old(self, item: Item, mono_ns: int) -> bool:
        if isinstance(item, Skipped):
            return True
        return self._max_age_ns is not None and item.rows[0][1] < mono_ns - self._max_age_ns


class _Tally:
    """Counts what came of one topic, as the account of a bag would."""

    def __init__(self) -> None:
        self.counts: Counts = dict.fromkeys(("messages", "bytes", "lost_before_us", "malformed", "restarts"), 0)
        self._expected: dict[int, int] = {}

    def add(self, item: Received) -> None:
        for row in item.rows:
            sequence = _sequence(row)
            if sequence is None:
                self._count("malformed", 1)
                continue
            self._meet(item.channel, sequence)
            self._expected[item.channel] = sequence + 1
            self._count("messages", 1)
            self._count("bytes", sum(map(len, row[2])) - len(row[2][0]))

    def skip(self, item: Skipped) -> None:
        self._count(item.kind, item.messages)
        if item.kind != "malformed":
            self._meet(item.channel, item.first_sequence)
            self._expected[item.channel] = item.last_sequence + 1

    def _meet(self, channel: int, found: int) -> None:
        expected = self._expected.get(channel)
        if not self._expected:
            self._count("published_before_join", found)
        elif expected is None or found < expected:
            self._count("restarts", 1)
            self._count("lost_before_us", found)
        else:
            self._count("lost_before_us", found - expected)

    def _count(self, name: str, number: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + number


def write(files: BagSet, item: Item) -> None:
    """Bring one item to the files."""
    if isinstance(item, Skipped):
        files.skip(item)
    else:
        files.append(item.channel, item.rows)


# the same in larger batches, each channel in its order
def _gathered(items: deque[Item]) -> Iterator[Item]:
    waiting: dict[int, list[Row]] = {}
    for item in items:
        rows = waiting.setdefault(item.channel, [])
        if isinstance(item, Received):
            rows.extend(item.rows)
        if rows and (isinstance(item, Skipped) or len(rows) >= DUMP_ROWS):
            yield Received(item.channel, waiting.pop(item.channel), 0)
        if isinstance(item, Skipped):
            yield item
    for channel, rows in waiting.items():
        if rows:
            yield Received(channel, rows, 0)


def _sequence(row: Row) -> int | None:
    parts = row[2]
    if len(parts) < 2 or len(parts[1]) < HEADER_SIZE:
        return None
    sequence: int = HEADER.unpack_from(parts[1])[2]
    return sequence
