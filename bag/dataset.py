"""A recording as Python sees it: a mapping of topics, each a sequence of messages whose fields are lazy arrays."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bag.align import Aligned, align
from bag.parts import Part, Source, cut_by_time, expand, is_url, local_path, open_parts, pieces_of
from bag.plain import decode, known_schema
from bag.records import BagInfo, RawMessage
from bag.storage.reader import BagReader
from bag.streams import Limits, merged
from bag.summaries import merge_infos, summary_of
from bag.times import Moment, to_bag_time
from bag.topic import Topic
from bag.windows import Windows, windows
from cortex.messages.base import Message

if TYPE_CHECKING:
    from pathlib import Path


class Bag(Mapping[str, Topic]):
    """An open bag, of one file or several splits. Only its bookkeeping is read until messages or slices are asked for.

    Args:
        source: a path, a URL that fsspec opens, a glob, or a list of them.

    Raises:
        FileNotFoundError, BagFormatError, BagBusyError, MissingExtraError: see `open_bag`.
    """

    def __init__(self, source: Source) -> None:
        self._setup(open_parts(expand(source)), (None, None))

    def _setup(self, parts: Sequence[Part], limits: Limits) -> None:
        self.parts = tuple(parts)
        self.limits = limits
        self._open = True
        names = (name for part in self.parts for name in part.reader.topics)
        # a topic of a part of a bag costs a look at its index, so each is made when it is asked for
        self._topics: dict[str, Topic | None] = dict.fromkeys(names)

    def _topic(self, name: str) -> Topic:
        pieces = pieces_of(self.parts, name)
        return Topic(self, name, pieces if self.limits == (None, None) else cut_by_time(pieces, *self.limits))

    # --- what is in it

    @property
    def path(self) -> Path | str:
        """The file, or the first of several."""
        return local_path(self.parts[0].path)

    @property
    def paths(self) -> tuple[str, ...]:
        """All files, in order of time."""
        return tuple(part.path for part in self.parts)

    @property
    def reader(self) -> BagReader:
        """The storage below the first file.

        Raises:
            BagError: the bag was closed.
        """
        return self.parts[0].reader

    @property
    def topics(self) -> tuple[str, ...]:
        """Names of all topics, in the order they came to be known."""
        return tuple(self._topics)

    @property
    def time_line(self) -> tuple[int, int, int]:
        """Wall time of the start, monotonic time of start and end, all ns; zeros while empty."""
        return self._span() or (0, 0, 0)

    @property
    def origin(self) -> tuple[int, int]:
        """Wall and monotonic time of the first message of the files, which ties the two together."""
        _ = self.reader
        first = next((part.span for part in self.parts if part.span), (0, 0, 0))
        return first[0], first[1]

    def _span(self) -> tuple[int, int, int] | None:
        _ = self.reader
        spans = [(part.span, part.shift_ns) for part in self.parts]
        filled = [(span[0], span[1] + shift, span[2] + shift) for span, shift in spans if span]
        if not filled:
            return None
        wall, first, last = filled[0][0], filled[0][1], max(span[2] for span in filled)
        low, high = self.limits
        start = first if low is None else min(max(first, low), last)
        # a range ends where its last moment was asked to be, so that seconds from its end mean the same
        return wall + start - first, start, last if high is None else max(start, min(last, high))

    @property
    def start_ns(self) -> int | None:
        """Log time of the first message, wall ns; None while empty."""
        span = self._span()
        return None if span is None else span[0]

    @property
    def end_ns(self) -> int | None:
        """Log time of the last message on the time line of the first one's clock, wall ns; None while empty."""
        span = self._span()
        return None if span is None else span[0] + span[2] - span[1]

    @property
    def duration(self) -> float:
        """Seconds from the first message to the last."""
        span = self._span()
        return 0.0 if span is None else (span[2] - span[1]) / 1e9

    @property
    def closed_cleanly(self) -> bool:
        """Whether the recording came to its proper end."""
        return all(part.reader.closed_cleanly for part in self.parts)

    @property
    def finest_clock(self) -> str:
        """`log`, or `sent` where a receive interval made the log times of a part as coarse as that."""
        return "sent" if any(part.reader.gathered for part in self.parts) else "log"

    @property
    def marks(self) -> tuple[tuple[str, int], ...]:
        """Named moments as (text, log time in wall ns)."""
        return tuple(mark for part in self.parts for mark in part.reader.marks)

    def info(self) -> BagInfo:
        """Counts, spans and losses of the bag and of every topic, without reading messages."""
        whole = merge_infos(self.parts, str(self.path), self._span())
        if self.limits == (None, None):
            return whole
        from dataclasses import replace

        topics = tuple(summary_of(topic) for topic in self.values())
        span = self.time_line
        return replace(
            whole,
            duration_ns=span[2] - span[1],
            start_ns=span[0],
            end_ns=span[0] + span[2] - span[1],
            messages=sum(topic.messages for topic in topics),
            bytes=sum(topic.bytes for topic in topics),
            topics=topics,
        )

    # --- messages

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
        names = self.topics if topics is None else (topics,) if isinstance(topics, str) else tuple(topics)
        for name in names:
            self._known(name)
        if self._span() is None:
            return
        low, high = self._within(start, stop)
        for _time, message in merged(self.parts, names, order, (low, high)):
            yield message

    def _within(self, start: Moment | None, stop: Moment | None) -> Limits:
        low, high = (None if moment is None else to_bag_time(moment, self.time_line) for moment in (start, stop))
        lowest, highest = self.limits
        low = lowest if low is None else low if lowest is None else max(low, lowest)
        return low, highest if high is None else high if highest is None else min(high, highest)

    def decode(self, raw: RawMessage, cls: type[Message] | None = None) -> Any:
        """Decode a message as `cls`, as its imported class, or as plain values under the names this bag knows.

        Raises:
            ValueError: the frames do not fit the class, or are no message.
        """
        if raw.topic in self._topics:
            return decode(raw, self[raw.topic].schema_of(raw), cls)
        return decode(raw, known_schema(None, raw.fingerprint), cls)

    # --- parts of it, and many topics together

    def between(self, start: Moment | None = None, stop: Moment | None = None) -> Bag:
        """The messages that arrived in [start, stop), as a bag; times as in `messages`. Close the whole bag, not this.

        Raises:
            ValueError: a time cannot be understood.
        """
        return self.cut(*self._within(start, stop))

    def cut(self, start_ns: int | None, stop_ns: int | None) -> Bag:
        """The same with monotonic times in ns."""
        lowest, highest = self.limits
        low = start_ns if lowest is None else lowest if start_ns is None else max(lowest, start_ns)
        high = stop_ns if highest is None else highest if stop_ns is None else min(highest, stop_ns)
        part = Bag.__new__(Bag)
        part._setup(self.parts, (low, high))
        return part

    def split(self, train: float = 0.8, by: str = "time") -> tuple[Bag, Bag]:
        """Two bags for training and testing that share no message.

        Args:
            train: the share of the time (`by="time"`) or of the files (`by="bag"`) that comes first.
            by: where to cut.

        Raises:
            UsageError: there is nothing to cut, or no such way.
        """
        from bag.split import split_bag

        return split_bag(self, train, by)

    def align(self, topics: Sequence[str], on: Any, **options: Any) -> Aligned:
        """Rows of several topics at the times of one; see `bag.align.align`."""
        return align(self, topics, on, **options)

    def windows(self, past: Any, future: Any = 0, stride: Any = None, **options: Any) -> Windows:
        """Stretches of time that slide over the bag; see `bag.windows.windows`."""
        return windows(self, past, future, stride, **options)

    # --- into other libraries

    def to_xarray(self, topics: Sequence[str] | None = None) -> dict[str, Any]:
        """One lazy `xarray.Dataset` for each topic."""
        return {name: self[name].to_xarray() for name in (topics or self.topics)}

    def torch_dataset(self, *arguments: Any, **options: Any) -> Any:
        """A `torch.utils.data.Dataset` of windows; see `bag.torch_data.torch_dataset`."""
        from bag.torch_data import torch_dataset

        return torch_dataset(self, *arguments, **options)

    # --- a mapping that is closed

    def _known(self, topic: str) -> None:
        # complains if the bag was closed
        _ = self.reader
        if topic not in self._topics:
            known = ", ".join(self._topics) or "none"
            raise KeyError(f"{self.path} has no topic {topic!r}; it has: {known}")

    def __getitem__(self, topic: str) -> Topic:
        self._known(topic)
        found = self._topics[topic]
        if found is None:
            found = self._topics[topic] = self._topic(topic)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._topics)

    def __len__(self) -> int:
        return len(self._topics)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        self._open = False
        for part in self.parts:
            part.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., Bag], tuple[Any, ...]]:
        return _again, (self.paths, tuple(_stamp(path) for path in self.paths), self.limits)

    def __repr__(self) -> str:
        where = repr(str(self.path)) + (f" and {len(self.parts) - 1} more" if len(self.parts) > 1 else "")
        if not self._open:
            return f"<closed Bag {where}>"
        return f"<Bag {where}: {len(self)} topics, {self.duration:.3f} s>"


# a bag that came from another process is opened once there, however many of its fields came along
def _again(paths: tuple[str, ...], stamps: tuple[Any, ...], limits: Limits) -> Bag:
    whole = _opened(paths, stamps)
    if limits == (None, None):
        return whole
    return whole.cut(*limits)


@functools.lru_cache(maxsize=16)
def _opened(paths: tuple[str, ...], _stamps: tuple[Any, ...]) -> Bag:
    return Bag(paths)


def _stamp(path: str) -> tuple[int, int] | None:
    if is_url(path):
        return None
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size


def open_bag(source: Source) -> Bag:
    """Open a bag for reading; one whose recorder died is brought to its last message first.

    One that is being recorded is read as of its last commit, for as long as it is open (`info().live`).

    Args:
        source: a path, a URL that fsspec opens (`s3://runs/a.h5`), a glob, or a list of them: splits of one recording
            are stitched, and recordings of other times or machines are put behind each other by wall time.

    Raises:
        FileNotFoundError: there is no such file.
        BagFormatError: it is not a bag, or of a newer format.
        BagBusyError: another process brings it in order, and takes long.
        MissingExtraError: a URL needs the extra `remote`.
    """
    return Bag(source)
