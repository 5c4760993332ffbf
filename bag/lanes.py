"""One topic of one bag on the time line of a replay: when its messages are due, and their frames a block at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bag.errors import IntegrityError
from bag.records import Channel, Frame, RawMessage
from bag.storage.price import filter_of
from bag.storage.reader import BagReader

# rows of an index that are turned into times at once
KEY_ROWS = 1 << 18
# bags whose clocks agree this well were recorded in one go: their monotonic clock says what came when
SAME_CLOCK_NS = 5_000_000_000
HEADER_BYTES = 24
FRAMES_BYTES = 16 << 20
# no compression makes more of a byte, gzip and lz4, or zstd; a bag that claims to is made to exhaust the memory
MAX_EXPANSION, ZSTD_EXPANSION = 1100, 33_000

NOT_WANTED = -1


@dataclass(slots=True)
class Block:
    """Consecutive messages of a lane: when they are due, the place of each, their frames, and all their bytes."""

    times: NDArray[np.int64]
    places: NDArray[np.int32]
    frames: list[list[Frame]]
    nbytes: int


class Lane:
    """One topic of one bag; `places` are the numbers of the places it is played from.

    Args:
        reader: the bag.
        topic: the topic as recorded.
        place_of: for each channel of the bag the number of its place on the stage, or NOT_WANTED.
        order: `publish` or `log`.
        zero: monotonic time (ns) of the bag at which the time line begins.
    """

    def __init__(self, reader: BagReader, topic: str, place_of: Sequence[int], order: str, zero: int) -> None:
        self.reader = reader
        self.topic = topic
        self.place_of = place_of
        self._topic = reader.topics[topic]
        _refuse_absurd(reader, topic)
        self.times = self._times(order, zero)
        own = (place_of[channel.id] for channel in reader.channels if channel.topic == topic)
        self.places: tuple[int, ...] = tuple(dict.fromkeys(place for place in own if place != NOT_WANTED))
        self._places = np.array([*place_of, NOT_WANTED], np.int32)
        self._skip = 0

    def __len__(self) -> int:
        return len(self.times)

    @property
    def mean_bytes(self) -> int:
        """Mean size of a message in bytes, at least 1."""
        return max(1, int(self._topic.summary["bytes"]) // max(1, len(self)))

    def _times(self, order: str, zero: int) -> NDArray[np.int64]:
        known = self._topic.metadata_rows().size if len(self._topic) else 0
        out = np.empty(len(self._topic), np.int64)
        latest = np.iinfo(np.int64).min
        for start in range(0, len(out), KEY_ROWS):
            rows = self._topic.index(start, min(start + KEY_ROWS, len(out)))
            ends = rows["metadata_offset"] + rows["metadata_size"]
            if (ends > known).any() or (ends < rows["metadata_offset"]).any():
                raise _absurd(self.reader, f"the index of {self.topic}", "metadata that are not there")
            part = np.maximum(self.reader.due_times(rows, order), latest)
            out[start : start + len(part)] = part - zero
            latest = int(part[-1])
        return out

    def rows(self, start: int | None, stop: int | None) -> tuple[int, int]:
        """First and last (excluded) message of a half open range of the time line."""
        first = 0 if start is None else int(np.searchsorted(self.times, start, side="left"))
        last = len(self) if stop is None else int(np.searchsorted(self.times, stop, side="left"))
        return max(first, self._skip), last

    def identity_of(self, row: int) -> tuple[int, int]:
        """Publish time (ns) and sequence of a message."""
        item = self._topic.index(row, row + 1)[0]
        return int(item["publish_time_ns"]), int(item["sequence"])

    @property
    def first_place(self) -> int:
        """Place of the first message."""
        return self.place_of[self.channel_of(0).id]

    @property
    def last_place(self) -> int:
        """Place of the last message."""
        return self.place_of[self.channel_of(len(self) - 1).id]

    def continue_after(self, other: Lane) -> None:
        """Leave out a first message that only repeats the last one of an earlier split."""
        if len(self) and len(other) and self.identity_of(0) == other.identity_of(len(other) - 1):
            self._skip = 1

    def block(self, start: int, stop: int, max_bytes: int) -> Block:
        """Messages from `start` on, at least one, at most to `stop` and about `max_bytes`."""
        count, nbytes = self._fit(start, stop, max_bytes)
        stop = start + count
        places = np.empty(count, np.int32)
        for segment in self._topic.segments(start, stop):
            places[segment.start - start : segment.stop - start] = self._places[segment.channel]
        return Block(self.times[start:stop], places, self._topic.frames(start, stop), nbytes)

    def index(self, start: int, stop: int) -> NDArray[Any]:
        """Index rows of messages start..stop-1."""
        return self._topic.index(start, stop)

    def frames(self, start: int, stop: int) -> Iterator[list[Frame]]:
        """Parts of messages start..stop-1, large ones a few at a time."""
        while start < stop:
            block = self.block(start, stop, FRAMES_BYTES)
            yield from block.frames
            start += len(block.frames)

    def message(self, row: int) -> RawMessage:
        """One message."""
        return self.reader.raw(self.topic, row, row + 1)[0]

    def channel_of(self, row: int) -> Channel:
        """The channel of a message."""
        return self.reader.channels[next(self._topic.segments(row, row + 1)).channel]

    # how many of the messages fit, and their bytes; sizes that vary stand in the offsets
    def _fit(self, start: int, stop: int, max_bytes: int) -> tuple[int, int]:
        if int(self._topic.summary["bytes"]) <= max_bytes:
            return stop - start, (stop - start) * self.mean_bytes
        sizes = self._topic.index(start, stop)["metadata_size"].astype(np.int64) + HEADER_BYTES
        for segment in self._topic.segments(start, stop):
            part = sizes[segment.start - start : segment.stop - start]
            for column in self._topic.columns_of(self._topic.layout(segment.layout)):
                if column.offsets is None:
                    part += column.spec.row_bytes
                else:
                    row = self._topic.row_of(column.number, segment.start)
                    part += np.diff(column.offsets[row : row + len(part) + 1].astype(np.int64)) * column.spec.row_bytes
        total = np.cumsum(sizes)
        count = max(1, int(np.searchsorted(total, max_bytes, side="right")))
        return count, int(total[count - 1])


def time_line_zeros(spans: Sequence[tuple[int, int, int] | None]) -> list[int]:
    """For each bag the monotonic time at which the common time line begins.

    Args:
        spans: of each bag the wall time of the first message, and the monotonic time of the first and the last, in ns.
    """
    filled = [span for span in spans if span is not None]
    if not filled:
        return [0 for _ in spans]
    wall, mono, _last = min(filled)
    zeros = []
    for span in spans:
        own_wall, own_mono, _last = span or (wall, mono, mono)
        same = abs((own_wall - own_mono) - (wall - mono)) < SAME_CLOCK_NS
        zeros.append(mono if same else own_mono - (own_wall - wall))
    return zeros


# sizes in a bag are claims; those that cannot be true are not followed
def _refuse_absurd(reader: BagReader, topic: str) -> None:
    one: Any = reader.topics[topic]
    limit = (ZSTD_EXPANSION if filter_of(reader) == "zstd" else MAX_EXPANSION) * reader.path.stat().st_size
    for column in one.buffer_columns():
        claimed = column.values.size * column.values.dtype.itemsize
        if claimed > limit or column.spec.row_bytes * min(1, column.values.shape[0]) > limit:
            raise IntegrityError(
                f"{reader.path} claims {claimed} bytes for {column.path}, which cannot be in a file of its size; "
                f"look at it with: cortex bag verify {reader.path}"
            )
        if column.offsets is not None:
            ends = column.offsets[:]
            if len(ends) and (ends[-1] > column.values.shape[0] or (ends[1:] < ends[:-1]).any()):
                raise _absurd(reader, column.path, "rows that are not there")


def _absurd(reader: BagReader, what: str, claim: str) -> IntegrityError:
    return IntegrityError(
        f"{reader.path} is damaged: {what} refers to {claim}; look at it with: cortex bag verify {reader.path}"
    )
