"""One topic of an open bag: a sequence of messages, and a mapping of its fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from bag import tables
from bag.errors import UsageError
from bag.fields import Field
from bag.lazy_arrays import to_xarray
from bag.loose_fields import ValueField
from bag.make_fields import make_field
from bag.parts import Piece, cut_pieces
from bag.plain import decode, known_schema
from bag.records import Channel, Gap, RawMessage, Schema, TopicSummary
from bag.resolve import names_of
from bag.summaries import gaps_of, summary_of
from bag.times import Moment, to_bag_time
from cortex.messages.base import Message

if TYPE_CHECKING:
    from bag.dataset import Bag

READ_BYTES = 32 << 20
READ_ROWS = 1024


class Topic(Sequence[Any]):
    """The messages of one topic in the order they arrived. Indexing and iterating decode; `raw` does not.

    Args:
        bag: the bag it belongs to.
        name: the topic.
        pieces: where its messages are.
    """

    def __init__(self, bag: Bag, name: str, pieces: Sequence[Piece]) -> None:
        self.name = name
        self.bag = bag
        self.pieces = tuple(pieces)
        self._count = sum(len(piece) for piece in self.pieces)
        self._fields: dict[str | tuple[str, ...], Field] = {}

    def __len__(self) -> int:
        return self._count

    # --- messages

    @overload
    def __getitem__(self, key: int) -> Any: ...
    @overload
    def __getitem__(self, key: slice) -> list[Any]: ...
    @overload
    def __getitem__(self, key: str | tuple[str, ...]) -> Field: ...

    def __getitem__(self, key: Any) -> Any:
        """Message `key`, a list of messages for a slice, or a field by its name (`"pose/x"` inside dicts).

        Raises:
            IndexError: there is no such message.
            KeyError: there is no such field.
        """
        if isinstance(key, (str, tuple)):
            if key not in self._fields:
                self._fields[key] = make_field(self, key)
            return self._fields[key]
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return [self._decoded(raw) for raw in self.raw_messages(start, stop)]
            return [self[number] for number in range(start, stop, step)]
        return self._decoded(self.raw(key))

    def __iter__(self) -> Iterator[Any]:
        for message in self.raw_messages():
            yield self._decoded(message)

    def raw(self, number: int) -> RawMessage:
        """Message `number` as received (negative: from the end).

        Raises:
            IndexError: there is no such message.
        """
        at = int(number) + len(self) if number < 0 else int(number)
        if not 0 <= at < len(self):
            raise IndexError(f"topic {self.name} has {len(self)} messages, there is no message {number}")
        return next(self.raw_messages(at, at + 1))

    def raw_messages(self, start: int = 0, stop: int | None = None) -> Iterator[RawMessage]:
        """Messages start..stop-1 as received; a bounded number of bytes is in memory at a time."""
        stop = len(self) if stop is None else stop
        for piece in self.pieces:
            low = max(start - piece.start, 0) + piece.first
            high = min(stop - piece.start, len(piece)) + piece.first
            reader = piece.part.reader
            mean = max(1, int(piece.reader.summary["bytes"]) // max(1, len(piece.reader)))
            step = max(1, min(READ_ROWS, READ_BYTES // mean))
            for at in range(low, high, step):
                yield from reader.raw(piece.topic, at, min(at + step, high))

    def decode(self, cls: type[Message] | None = None) -> Iterator[Any]:
        """All messages as `cls`; without it as their imported class, else as `PlainMessage`.

        Raises:
            ValueError: a message does not fit the class.
        """
        for raw in self.raw_messages():
            yield self._decoded(raw, cls)

    def _decoded(self, raw: RawMessage, cls: type[Message] | None = None) -> Any:
        return decode(raw, self.schema_of(raw), cls)

    def schema_of(self, raw: RawMessage) -> Schema | None:
        """The schema of one message, which may be of another type than the topic."""
        return self._stored(raw.channel.fingerprint) or self._stored(raw.fingerprint)

    def _stored(self, fingerprint: int) -> Schema | None:
        found = (piece.part.reader.schema(fingerprint) for piece in self.pieces)
        return known_schema(next((schema for schema in found if schema is not None), None), fingerprint)

    # --- times and the account

    @property
    def times(self) -> NDArray[np.int64]:
        """Log time of every message, wall ns since the epoch."""
        return self._index("log_time_ns")

    @property
    def publish_times(self) -> NDArray[np.int64]:
        """Publish time of every message from its header, wall ns since the epoch."""
        return self._index("publish_time_ns")

    @property
    def monotonic_times(self) -> NDArray[np.int64]:
        """Log time of every message on the recorder's monotonic clock, ns; never goes down within a recording."""
        return self._index("log_mono_ns")

    @property
    def sequence(self) -> NDArray[np.uint64]:
        """Sequence number of every message, as its publisher counted."""
        return self._index("sequence")

    def _index(self, field: str) -> NDArray[Any]:
        found = [piece.index(field) for piece in self.pieces]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def clock_times(self, clock: str) -> NDArray[np.int64]:
        """Times in wall ns by a clock.

        Args:
            clock: `publish`: of the headers; `log`: of arrival, on the bag's time line, which no clock step breaks;
                `sent`: of sending, on that line, so that they never go down (absurd headers are taken as arrival).

        Raises:
            UsageError: there is no such clock.
        """
        if clock not in ("publish", "log", "sent"):
            raise UsageError(f"clock is {clock!r}; it can be 'publish', 'log' or 'sent'")
        if clock == "publish":
            return self.publish_times
        wall, mono = self.bag.origin
        if clock == "log":
            times: NDArray[np.int64] = self.monotonic_times
        else:
            found = [
                piece.part.reader.due_times(piece.reader.index(piece.first, piece.last), "publish")
                + piece.part.shift_ns
                for piece in self.pieces
            ]
            times = np.maximum.accumulate(np.concatenate(found))
        return times + (wall - mono)

    def gaps(self) -> tuple[Gap, ...]:
        """Every range of sequence numbers that is not in the bag, and whose loss it is."""
        return gaps_of(self.pieces)

    @property
    def statistics(self) -> TopicSummary:
        """Counts, spans and losses; of a part of a topic they are those of the part."""
        return summary_of(self)

    # --- finding messages

    def index_at(self, time: Moment, method: str = "previous") -> int:
        """Number of the message at a time.

        Args:
            time: seconds from the start of the bag (negative: from its end), `"1.5s"`, or ISO 8601 text.
            method: `previous` (the last at or before it), `next` (the first at or after it) or `nearest`.

        Raises:
            LookupError: there is no such message.
            UsageError: there is no such method.
        """
        wanted = to_bag_time(time, self.bag.time_line)
        before = sum(piece.position(wanted, after=True) for piece in self.pieces) - 1
        after = sum(piece.position(wanted) for piece in self.pieces)
        if method == "nearest" and len(self):
            if after >= len(self) or (before >= 0 and wanted - self._time(before) <= self._time(after) - wanted):
                return before
            return after
        if method == "previous" and before >= 0:
            return before
        if method == "next" and after < len(self):
            return after
        if method not in ("previous", "next", "nearest"):
            raise UsageError(f"method is {method!r}; it can be 'previous', 'next' or 'nearest'")
        raise LookupError(f"topic {self.name} has no {method} message at {time}")

    def _time(self, number: int) -> int:
        piece = next(piece for piece in self.pieces if piece.start <= number < piece.start + len(piece))
        return piece.time(number - piece.start)

    def at(self, time: Moment, method: str = "previous") -> Any:
        """The decoded message at a time; arguments and errors as in `index_at`."""
        return self[self.index_at(time, method)]

    def between(self, start: Moment | None = None, stop: Moment | None = None) -> Topic:
        """The messages that arrived in [start, stop), as a topic of their own; nothing is read.

        Raises:
            ValueError: a time cannot be understood.
        """
        low, high = (None if moment is None else to_bag_time(moment, self.bag.time_line) for moment in (start, stop))
        return self.bag.cut(low, high)[self.name]

    def rows(self, start: int, stop: int) -> Topic:
        """Messages start..stop-1 as a topic of their own; nothing is read."""
        return Topic(self.bag, self.name, cut_pieces(self.pieces, start, stop))

    # --- fields

    @property
    def channel(self) -> Channel:
        """What discovery said of the topic when it was first seen."""
        return self.pieces[0].part.reader.channel_of(self.name)

    @property
    def schema(self) -> Schema | None:
        """Names and annotations of the fields, when the class was known; None otherwise."""
        return self._stored(self.channel.fingerprint)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of all fields; dicts are followed to their leaves (`data/pose/x`)."""
        return names_of(self.pieces)

    @property
    def array_fields(self) -> tuple[str, ...]:
        """Names of the fields that are arrays."""
        return tuple(name for name in self.fields if not isinstance(self[name], ValueField))

    # --- into other libraries

    def to_pandas(self, fields: Sequence[str] | None = None) -> Any:
        """A `pandas.DataFrame`; see `bag.tables.to_pandas`."""
        return tables.to_pandas(self, fields)

    def to_arrow(self, fields: Sequence[str] | None = None) -> Any:
        """A `pyarrow.Table`; see `bag.tables.to_arrow`."""
        return tables.to_arrow(self, fields)

    def to_polars(self, fields: Sequence[str] | None = None) -> Any:
        """A `polars.DataFrame`; see `bag.tables.to_polars`."""
        return tables.to_polars(self, fields)

    def to_xarray(self, fields: Sequence[str] | None = None) -> Any:
        """A lazy `xarray.Dataset`; see `bag.lazy_arrays.to_xarray`."""
        return to_xarray(self, fields)

    def __reduce__(self) -> Any:
        ranges = [(piece.first, piece.last) for piece in self.pieces]
        return _rebuild, (self.bag, self.name, [piece.part.path for piece in self.pieces], ranges)

    def __repr__(self) -> str:
        return f"<Topic {self.name!r}: {len(self)} messages of {self.channel.type_name}>"


def _rebuild(bag: Bag, name: str, paths: list[str], ranges: list[tuple[int, int]]) -> Topic:
    parts = {part.path: part for part in bag.parts}
    pieces, start = [], 0
    for path, (first, last) in zip(paths, ranges, strict=True):
        pieces.append(Piece(parts[path], name, first, last, start))
        start += last - first
    return Topic(bag, name, pieces)
