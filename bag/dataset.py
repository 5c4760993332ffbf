"""A recording as Python sees it: a mapping of topics, each a sequence of messages whose fields are lazy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from bag.errors import BagError
from bag.records import BagInfo, Channel, Gap, RawMessage, Schema
from bag.storage.plan import buffer_name
from bag.storage.reader import BagReader
from bag.storage.topic_reader import StoredColumn, TopicReader, array_of
from bag.times import Moment, to_bag_time
from cortex.codec import descriptors

READ_ROWS = 256


class Bag(Mapping[str, "Topic"]):
    """An open bag. Nothing but its bookkeeping is read until a message or a slice is asked for.

    Raises:
        FileNotFoundError, BagFormatError, BagBusyError: see `open_bag`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._reader = BagReader(self.path)
        self._open = True
        self._topics = {name: Topic(self, reader) for name, reader in self._reader.topics.items()}

    @property
    def reader(self) -> BagReader:
        """The storage below.

        Raises:
            BagError: the bag was closed.
        """
        if not self._open:
            raise BagError(f"{self.path} was closed; open it again to read from it")
        return self._reader

    @property
    def topics(self) -> tuple[str, ...]:
        """Names of all topics, in the order they came to be known."""
        return tuple(self._topics)

    @property
    def start_ns(self) -> int | None:
        """Log time of the first message, wall ns; None while empty."""
        span = self.reader.span_ns()
        return None if span is None else span[0]

    @property
    def end_ns(self) -> int | None:
        """Log time of the last message on the time line of the first one's clock, wall ns; None while empty."""
        span = self.reader.span_ns()
        return None if span is None else span[0] + span[2] - span[1]

    @property
    def duration(self) -> float:
        """Seconds from the first message to the last."""
        span = self.reader.span_ns()
        return 0.0 if span is None else (span[2] - span[1]) / 1e9

    @property
    def closed_cleanly(self) -> bool:
        """Whether the recording came to its proper end."""
        return self.reader.closed_cleanly

    @property
    def marks(self) -> tuple[tuple[str, int], ...]:
        """Named moments as (text, log time in wall ns)."""
        return tuple(self.reader.marks)

    def info(self) -> BagInfo:
        """Counts, spans and losses of the bag and of every topic, without reading messages."""
        return self.reader.info()

    def messages(
        self,
        topics: Sequence[str] | None = None,
        start: Moment | None = None,
        stop: Moment | None = None,
        order: str = "log",
    ) -> Iterator[RawMessage]:
        """Messages of all or some topics in time order; equal times keep the order of the topics.

        Args:
            topics: names; None means all.
            start, stop: half open range: seconds from the start (negative: from the end), `"1.5s"`, or ISO 8601 text.
            order: by arrival (`log`) or by sending (`publish`).

        Raises:
            KeyError: a topic is not in the bag.
            ValueError: a time or the order cannot be understood.
        """
        if order not in ("log", "publish"):
            raise ValueError(f"order is {order!r}; it can be 'log' or 'publish'")
        names = self.topics if topics is None else tuple(topics)
        for name in names:
            self[name]
        span = self.reader.span_ns()
        if span is None:
            return
        limits = tuple(None if moment is None else to_bag_time(moment, span) for moment in (start, stop))
        for _time, message in self.reader.merged(names, order, *limits):
            yield message

    def __getitem__(self, topic: str) -> Topic:
        try:
            return self._topics[topic]
        except KeyError:
            known = ", ".join(self._topics) or "none"
            raise KeyError(f"{self.path} has no topic {topic!r}; it has: {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._topics)

    def __len__(self) -> int:
        return len(self._topics)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._open = False
        self._reader.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        if not self._open:
            return f"<closed Bag {str(self.path)!r}>"
        return f"<Bag {str(self.path)!r}: {len(self)} topics, {self.duration:.3f} s>"


class Topic(Sequence[Any]):
    """The messages of one topic. Indexing and iterating decode; `raw` does not."""

    def __init__(self, bag: Bag, reader: TopicReader) -> None:
        self.name = reader.name
        self._bag = bag
        self._reader = reader

    def __len__(self) -> int:
        return len(self._reader)

    @overload
    def __getitem__(self, key: int) -> Any: ...
    @overload
    def __getitem__(self, key: slice) -> list[Any]: ...
    @overload
    def __getitem__(self, key: str) -> Field: ...

    def __getitem__(self, key: int | slice | str) -> Any:
        """Message `key`, a list of messages for a slice, or a field by its name."""
        if isinstance(key, str):
            return self._field(key)
        if isinstance(key, slice):
            return [self[number] for number in range(*key.indices(len(self)))]
        return self.raw(key).decode()

    def __iter__(self) -> Iterator[Any]:
        for message in self.raw_messages():
            yield message.decode()

    def raw(self, number: int) -> RawMessage:
        """Message `number` as received (negative: from the end).

        Raises:
            IndexError: there is no such message.
        """
        at = number + len(self) if number < 0 else number
        if not 0 <= at < len(self):
            raise IndexError(f"topic {self.name} has {len(self)} messages, there is no message {number}")
        return self._bag.reader.raw(self.name, at, at + 1)[0]

    def raw_messages(self) -> Iterator[RawMessage]:
        """All messages as received, a block at a time."""
        for start in range(0, len(self), READ_ROWS):
            yield from self._bag.reader.raw(self.name, start, min(start + READ_ROWS, len(self)))

    @property
    def times(self) -> NDArray[np.int64]:
        """Log time of every message, wall ns since the epoch."""
        return self._column("log_time_ns")

    @property
    def publish_times(self) -> NDArray[np.int64]:
        """Publish time of every message from its header, wall ns since the epoch."""
        return self._column("publish_time_ns")

    @property
    def monotonic_times(self) -> NDArray[np.int64]:
        """Log time of every message on the recorder's monotonic clock, ns."""
        return self._column("log_mono_ns")

    @property
    def sequence(self) -> NDArray[np.uint64]:
        """Sequence number of every message, as its publisher counted."""
        return self._column("sequence")

    def gaps(self) -> tuple[Gap, ...]:
        """Every range of sequence numbers that is not in the bag, and whose loss it is."""
        return self._bag.reader.gaps(self.name)

    @property
    def channel(self) -> Channel:
        """What discovery said of the topic when it was first seen."""
        return self._bag.reader.channel_of(self.name)

    @property
    def schema(self) -> Schema | None:
        """Names and annotations of the fields, when the class was known; None otherwise."""
        return self._bag.reader.schema(self.channel.fingerprint)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that are arrays."""
        return tuple(dict.fromkeys(column.spec.name for column in self._columns()))

    def _columns(self) -> list[StoredColumn]:
        self._bag.reader
        return self._reader.buffer_columns()

    def _field(self, name: str) -> Field:
        columns = [column for column in self._columns() if column.spec.name == name]
        if not columns:
            known = ", ".join(self.fields) or "none"
            raise KeyError(f"topic {self.name} has no array field {name!r}; it has: {known}")
        return Field(self, self._reader, name, columns)

    def _column(self, field: str) -> NDArray[Any]:
        self._bag.reader
        return self._reader.times(field)

    def __repr__(self) -> str:
        return f"<Topic {self.name!r}: {len(self)} messages of {self.channel.type_name}>"


class Field:
    """One array field of a topic, read only where it is sliced.

    When every message has the same shape and dtype, it is an array-like of shape (messages, *shape). Otherwise it is
    ragged: `shape` is (messages,), a number gives one array and a slice a list of arrays.
    """

    def __init__(self, topic: Topic, reader: TopicReader, name: str, columns: list[StoredColumn]) -> None:
        self.name = name
        self._topic = topic
        self._reader = reader
        self._columns = columns
        only = columns[0] if len(columns) == 1 and columns[0].spec.kind == "fixed" else None
        whole = only is not None and only.values.shape[0] == len(topic)
        self._fixed = only if whole else None

    @property
    def ragged(self) -> bool:
        """Whether messages differ in shape or dtype."""
        return self._fixed is None

    @property
    def shape(self) -> tuple[int, ...]:
        """(messages, *shape), or (messages,) when ragged."""
        return (len(self._topic), *(self._fixed.spec.shape if self._fixed else ()))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype as published; object when ragged with several dtypes."""
        kinds = {column.spec.dtype for column in self._columns if column.spec.kind != "bytes"}
        return np.dtype(kinds.pop()) if len(kinds) == 1 else np.dtype(object)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole field on the disk."""
        return sum(int(column.values.size) * column.values.dtype.itemsize for column in self._columns)

    def __len__(self) -> int:
        return len(self._topic)

    def __getitem__(self, key: Any) -> Any:
        """Rows by number, slice, mask or index array, optionally with more axes behind; reads only those rows."""
        if self._fixed is not None:
            return self._rows(self._fixed, key)
        if isinstance(key, (int, np.integer)):
            return self._arrays(int(key) + len(self) if key < 0 else int(key))
        return [self._arrays(number) for number in np.arange(len(self))[key].tolist()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The whole field as one array.

        Raises:
            ValueError: the field is ragged.
        """
        if self._fixed is None:
            raise ValueError(f"field {self.name} of {self._topic.name} is ragged; take its messages one by one")
        whole = np.asarray(self[:])
        return whole if dtype is None else whole.astype(dtype)

    # HDF5 takes rows by ascending numbers, each once; numpy does the rest
    def _rows(self, column: StoredColumn, key: Any) -> Any:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is Ellipsis or isinstance(first, (int, np.integer, slice)) and (
            not isinstance(first, slice) or (first.step or 1) > 0
        ):
            return _as_published(column.values[key], column.spec.dtype)
        wanted = np.arange(len(self))[first]
        rows, back = np.unique(wanted, return_inverse=True)
        block = column.values[rows] if len(rows) else column.values[0:0]
        return _as_published(block, column.spec.dtype)[tuple([back.reshape(wanted.shape), *rest])]

    def _arrays(self, number: int) -> NDArray[Any]:
        message = self._topic.raw(number)
        for item in descriptors(bytes(message.frames[1])):
            if buffer_name(item.path, self._topic.schema) == self.name:
                return array_of(message.frames[2 + item.buffer], item.dtype, item.shape)
        raise KeyError(f"message {number} of {self._topic.name} has no array {self.name}")

    def __repr__(self) -> str:
        shape = "ragged" if self.ragged else "x".join(map(str, self.shape))
        return f"<Field {self.name!r} of {self._topic.name!r}: {shape} {self.dtype}>"


def _as_published(values: Any, dtype: str) -> Any:
    return values if values.dtype.str == dtype else values.view(dtype)


def open_bag(path: str | Path) -> Bag:
    """Open a bag for reading; one whose recorder died is brought to its last message first.

    Raises:
        FileNotFoundError: there is no such file.
        BagFormatError: it is not a bag, or of a newer format.
        BagBusyError: it is being recorded.
    """
    return Bag(path)
