"""Reads a bag: what is in it without touching a message, and the messages in time order.

A bag whose writer died is rolled forward first (resume.py); one that is being written is read as of its last commit,
and stays so for as long as it is open (snapshot.py). Nothing outside the file is ever opened: external and soft links,
external storage and virtual datasets are refused.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bag.errors import IntegrityError
from bag.records import RECEIVE_INTERVAL, BagInfo, Channel, Gap, RawMessage, Schema, TopicSummary
from bag.storage import layout as names
from bag.storage.account import COUNTS
from bag.storage.definitions import parse_definitions
from bag.storage.disk import FileOpener, RawFile
from bag.storage.opening import open_bag
from bag.storage.topic_reader import TopicReader
from bag.storage.tree import attribute, check_format, dataset_at, table

if TYPE_CHECKING:
    from bag.storage.resume import RollForward
    from bag.storage.snapshot import Snapshot

# what all topics together may hold in memory while messages are merged
MERGE_BYTES = 64 << 20
MERGE_ROWS = 1024
# index rows looked at together
KEY_ROWS = 1 << 16
# a publish time this far from the log time is not a time of sending
SANE_LATENCY_NS = 5_000_000_000
# between two messages that gathered, the time on the way changes by less, unless a clock was set
CLOCK_STEP_NS = 200_000_000
# and meanwhile no clock drifts by much
DRIFT_NS = 60_000_000_000
KIND_NAMES = {number: name for name, number in names.LEDGER_KINDS.items()}
SPANS = ("first_publish_ns", "last_publish_ns", "first_log_ns", "last_log_ns", "first_sequence")
LOSSES = ("before_join", "lost_before_us", "lost_by_us", "throttled", "paused")


class BagReader:
    """An open bag.

    Args:
        path: the bag.
        opener: how files are opened to be rolled forward (for tests).

    Raises:
        FileNotFoundError: there is no such file.
        BagFormatError: it is not a bag, or of a newer format.
        BagBusyError: another process is bringing it in order.
    """

    # the file as it is to be read while it is being recorded
    snapshot: Snapshot | None = None

    def __init__(self, path: str | Path, *, opener: FileOpener = RawFile) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no bag {self.path}")
        bag = open_bag(self.path, opener)
        self.rolled_forward: RollForward | None = bag.rolled_forward
        self._h5, self.snapshot = bag.root, bag.snapshot
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def _load(self) -> None:
        check_format(self._h5, self.path)
        text = table(self._h5, names.DEFINITIONS, np.dtype("u1")).tobytes()
        self._definitions = parse_definitions(text, str(self.path))
        runs = table(self._h5, names.RUNS, names.RUN_DTYPE)
        summaries = table(self._h5, names.TOPICS, names.TOPIC_DTYPE)
        if len(summaries) < len(self._definitions.topics):
            raise IntegrityError(
                f"{self.path} has {len(summaries)} summaries for {len(self._definitions.topics)} topics"
            )
        order = np.argsort(runs["topic"], kind="stable")
        bounds = np.searchsorted(runs["topic"][order], np.arange(len(self._definitions.topics) + 1))
        self.topics: Mapping[str, TopicReader] = {
            name: self._topic(number, name, runs[order[bounds[number] : bounds[number + 1]]], summaries[number])
            for number, (name, _group) in enumerate(self._definitions.topics)
        }
        self._first_channels: dict[str, Channel] = {}
        for channel in self._definitions.channels:
            self._first_channels.setdefault(channel.topic, channel)
        if not self.topics.keys() <= self._first_channels.keys():
            raise IntegrityError(f"{self.path} has topics without a channel")

    def _topic(self, number: int, name: str, runs: NDArray[Any], summary: Any) -> TopicReader:
        layouts = [layout for layout in self._definitions.layouts.values() if layout.topic == number]
        definitions = self._definitions.columns.get(number, []), layouts
        return TopicReader(name, number, self._dataset, definitions, runs, summary, self._definitions.channels)

    def _dataset(self, path: str) -> h5py.Dataset:
        return dataset_at(self._h5, path, direct=True)

    # --- what is in it

    @property
    def channels(self) -> Sequence[Channel]:
        """All channels, by number."""
        return self._definitions.channels

    @property
    def marks(self) -> Sequence[tuple[str, int]]:
        """Named moments: (text, log time in wall ns)."""
        return self._definitions.marks

    @property
    def closed_cleanly(self) -> bool:
        """Whether the recording came to its proper end."""
        return bool(attribute(self._h5, "closed", False))

    @property
    def gathered(self) -> bool:
        """Whether messages were received many at once, so that publish times tell more than log times."""
        return f"custom.{RECEIVE_INTERVAL}" in self._h5.attrs

    @property
    def live(self) -> bool:
        """Whether it was being recorded when it was opened."""
        return self.snapshot is not None and self.rolled_forward is None

    def schema(self, fingerprint: int) -> Schema | None:
        """What is known of a message type."""
        return self._definitions.schemas.get(fingerprint)

    def channel_of(self, topic: str) -> Channel:
        """The first channel of a topic."""
        return self._first_channels[topic]

    def span_ns(self) -> tuple[int, int, int] | None:
        """(first log time in wall ns, first and last log time in monotonic ns) of all topics; None while empty."""
        filled = [topic.summary for topic in self.topics.values() if len(topic)]
        if not filled:
            return None
        first = min(filled, key=lambda row: int(row["first_mono_ns"]))
        return int(first["first_log_ns"]), int(first["first_mono_ns"]), max(int(row["last_mono_ns"]) for row in filled)

    def info(self) -> BagInfo:
        """Summary of the bag, without reading messages."""
        span = self.span_ns()
        topics = tuple(self._summary(topic) for topic in self.topics.values())
        attributes = self._h5.attrs
        custom = {name[7:]: str(value) for name, value in attributes.items() if name.startswith("custom.")}
        start = None if span is None else span[0]
        duration = 0 if span is None else span[2] - span[1]
        return BagInfo(
            path=str(self.path),
            size_bytes=os.path.getsize(self.path) if self.snapshot is None else self.snapshot.size,
            duration_ns=duration,
            start_ns=start,
            end_ns=None if start is None else start + duration,
            closed_cleanly=self.closed_cleanly,
            host=str(attributes.get("host", "")),
            description=str(attributes.get("description", "")),
            custom_data=custom,
            messages=sum(topic.messages for topic in topics),
            bytes=sum(topic.bytes for topic in topics),
            topics=topics,
            live=self.live,
        )

    def _summary(self, topic: TopicReader) -> TopicSummary:
        channel, row = self.channel_of(topic.name), topic.summary
        span = int(row["last_mono_ns"]) - int(row["first_mono_ns"])
        numbers = {name: int(row[name]) for name in ("messages", *COUNTS)}
        spans: dict[str, Any] = {name: int(row[name]) if numbers["messages"] else None for name in SPANS}
        hz = (numbers["messages"] - 1) / (span / 1e9) if span > 0 and numbers["messages"] > 1 else None
        return TopicSummary(
            topic=topic.name,
            type_name=channel.type_name,
            node=channel.node,
            address=channel.address,
            fingerprint=channel.fingerprint,
            hz=hz,
            **numbers,
            **spans,
        )

    def gaps(self, topic: str) -> tuple[Gap, ...]:
        """The ledger of a topic: every range of sequence numbers that is not in the bag."""
        ledger = table(self._h5, names.LEDGER, names.LEDGER_DTYPE)
        rows = ledger[ledger["topic"] == self.topics[topic].number]
        kinds = ((row, KIND_NAMES.get(int(row["kind"]), "")) for row in rows)
        return tuple(
            Gap(int(row["first_sequence"]), int(row["last_sequence"]), int(row["count"]), int(row["log_time_ns"]), kind)
            for row, kind in kinds
            if kind in LOSSES
        )

    # --- messages

    def raw(self, topic: str, start: int, stop: int) -> list[RawMessage]:
        """Messages start..stop-1 of a topic.

        Raises:
            IntegrityError: they are not in the file.
        """
        reader = self.topics[topic]
        index, frames = reader.index(start, stop).tolist(), reader.frames(start, stop)
        out: list[RawMessage] = []
        for segment in reader.segments(start, stop):
            channel = self._definitions.channels[segment.channel]
            fingerprint = reader.layout(segment.layout).fingerprint
            schema = self.schema(channel.fingerprint) or self.schema(fingerprint)
            for at in range(segment.start - start, segment.stop - start):
                log_time, publish_time, log_mono, sequence, *_metadata = index[at]
                out.append(RawMessage(topic, sequence, publish_time, log_time, log_mono, frames[at], channel, schema))
        return out

    def merged(
        self, topics: Sequence[str], order: str, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[int, RawMessage]]:
        """(time, message) of several topics by time; equal times keep the order topics came to be known in.

        The time is on the recorder's monotonic clock in ns: of arrival for order `log`, of sending for `publish`.
        Within a topic the order of arrival is kept. `start_ns` is included, `stop_ns` not. Memory is bounded,
        whatever the size of the bag.
        """
        share = MERGE_BYTES // max(1, len(topics))
        streams = [self._stream(self.topics[name], order, (start_ns, stop_ns), share) for name in topics]
        for key, _number, message in heapq.merge(*streams, key=lambda item: item[:2]):
            yield key, message

    def _stream(
        self, topic: TopicReader, order: str, span: tuple[int | None, int | None], share: int
    ) -> Iterator[tuple[int, int, RawMessage]]:
        mean = max(1, int(topic.summary["bytes"]) // max(1, len(topic)))
        step = max(1, min(MERGE_ROWS, share // mean))
        for first, keys in self._keys(topic, order):
            low = 0 if span[0] is None else int(np.searchsorted(keys, span[0], side="left"))
            high = len(keys) if span[1] is None else int(np.searchsorted(keys, span[1], side="left"))
            for at in range(low, high, step):
                stop = min(at + step, high)
                messages = self.raw(topic.name, first + at, first + stop)
                for key, message in zip(keys[at:stop].tolist(), messages, strict=True):
                    yield key, topic.number, message
            if high < len(keys):
                return

    def due_times(self, index: NDArray[Any], order: str) -> NDArray[np.int64]:
        """When messages are due in an order, `publish` or `log`, on the recorder's monotonic clock (ns).

        Args:
            index: their rows, one after the other; the times never go down.
        """
        if order == "publish":
            return sending_times(index, gathered=self.gathered)
        times: NDArray[np.int64] = np.maximum.accumulate(index["log_mono_ns"])
        return times

    # of a topic's messages in blocks, with the number of the first
    def _keys(self, topic: TopicReader, order: str) -> Iterator[tuple[int, NDArray[np.int64]]]:
        highest = np.iinfo(np.int64).min
        for first in range(0, len(topic), KEY_ROWS):
            index = topic.index(first, min(first + KEY_ROWS, len(topic)))
            keys = np.maximum(self.due_times(index, order), highest)
            highest = keys[-1]
            yield first, keys

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._h5.close()
        if self.snapshot is not None:
            self.snapshot.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sending_times(index: NDArray[Any], *, gathered: bool = False) -> NDArray[np.int64]:
    """When messages were sent, on the recorder's monotonic clock (ns), never going down.

    A step of the wall clock moves publish and log time together, so their difference stays the time on the way;
    where it is no plausible one, the time of arrival stands in. Where messages were `gathered`, that is too coarse, and
    what the publisher's clock is ahead, or more than CLOCK_STEP_NS behind, is taken out: once in DRIFT_NS one message
    was on the way for no time.
    """
    latency = index["log_time_ns"] - index["publish_time_ns"]
    if gathered:
        latency = _without_offsets(latency, index["log_mono_ns"])
    sane = np.where((latency >= 0) & (latency < SANE_LATENCY_NS), latency, 0)
    return np.maximum.accumulate(index["log_mono_ns"] - sane)


# Stretch by stretch, since clocks drift and are set, and headers may be absurd. Of one that is behind by less than a
# message may be on the way, nobody can know.
def _without_offsets(latency: NDArray[np.int64], log_mono: NDArray[np.int64]) -> NDArray[np.int64]:
    if not len(latency) or (latency.min() >= 0 and latency.max() < CLOCK_STEP_NS):
        return latency
    others = (np.abs(np.diff(latency)) > CLOCK_STEP_NS) | (np.diff(log_mono // DRIFT_NS) != 0)
    starts = np.concatenate(([0], np.flatnonzero(others) + 1))
    least = np.minimum.reduceat(latency, starts)
    offsets = np.where((least >= 0) & (least < CLOCK_STEP_NS), 0, least)
    ends = np.append(starts[1:], len(latency))
    without: NDArray[np.int64] = latency - np.repeat(offsets, ends - starts)
    return without
