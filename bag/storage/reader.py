"""Reads a bag: what is in it without touching a message, and the messages in time order.

A bag whose writer died is rolled forward first (resume.py); one that is being written is refused. Nothing outside the
file is ever opened: external and soft links, external storage and virtual datasets are refused.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bag.errors import BagFormatError, IntegrityError
from bag.records import BagInfo, Channel, Gap, RawMessage, Schema, TopicSummary
from bag.storage import layout as names
from bag.storage.definitions import parse_definitions
from bag.storage.resume import RollForward, roll_forward
from bag.storage.topic_reader import TopicReader

# what all topics together may hold in memory while messages are merged
MERGE_BYTES = 64 << 20
MERGE_ROWS = 1024
# a publish time this far from the log time is not a time of sending
SANE_LATENCY_NS = 5_000_000_000
KIND_NAMES = {number: name for name, number in names.LEDGER_KINDS.items()}
LOSSES = ("before_join", "lost_before_us", "lost_by_us", "throttled", "paused")


class BagReader:
    """An open bag.

    Args:
        path: the bag.

    Raises:
        FileNotFoundError: there is no such file.
        BagFormatError: it is not a bag, or of a newer format.
        BagBusyError: it is being written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no bag {self.path}")
        self.rolled_forward: RollForward | None = roll_forward(self.path)
        try:
            self._h5 = h5py.File(self.path, "r")
        except OSError as error:
            raise BagFormatError(
                f"{self.path} cannot be read as HDF5 ({error}); if it was a bag, try: cortex bag recover {self.path}"
            ) from error
        try:
            self._load()
        except BaseException:
            self._h5.close()
            raise

    def _load(self) -> None:
        attributes = self._h5.attrs
        if attributes.get("format") != names.FORMAT_NAME:
            raise BagFormatError(
                f"{self.path} is an HDF5 file but not a bag: it lacks the attribute format={names.FORMAT_NAME}"
            )
        major = int(np.asarray(attributes["format_version"]).flat[0])
        if major > names.FORMAT_MAJOR:
            raise BagFormatError(
                f"{self.path} has bag format {major}, this version reads up to {names.FORMAT_MAJOR}; "
                f"upgrade with: pip install -U cortex-bag"
            )
        book = f"/{names.BOOK}/"
        text = self._dataset(book + names.DEFINITIONS)[()].tobytes()
        self._definitions = parse_definitions(text, str(self.path))
        runs = self._dataset(book + names.RUNS)[()]
        summaries = self._dataset(book + names.TOPICS)[()]
        order = np.argsort(runs["topic"], kind="stable")
        bounds = np.searchsorted(runs["topic"][order], np.arange(len(self._definitions.topics) + 1))
        self.topics: Mapping[str, TopicReader] = {
            name: self._topic(number, name, runs[order[bounds[number] : bounds[number + 1]]], summaries)
            for number, (name, _group) in enumerate(self._definitions.topics)
        }

    def _topic(self, number: int, name: str, runs: NDArray[Any], summaries: NDArray[Any]) -> TopicReader:
        if number >= len(summaries):
            raise IntegrityError(f"{self.path} has no summary of topic {name}")
        layouts = [layout for layout in self._definitions.layouts.values() if layout.topic == number]
        columns = self._definitions.columns.get(number, [])
        return TopicReader(
            name, number, self._dataset, (columns, layouts), runs, summaries[number], self._definitions.channels
        )

    def _dataset(self, path: str) -> h5py.Dataset:
        node: Any = self._h5
        for part in path.strip("/").split("/"):
            link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
            if not isinstance(link, h5py.HardLink):
                raise IntegrityError(f"{self.path} has no dataset {path}, or only a link to somewhere else")
            node = node[part]
        if not isinstance(node, h5py.Dataset) or node.is_virtual or node.external:
            raise IntegrityError(f"{self.path}: {path} is not a dataset that is kept in this file")
        return node

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
        return bool(self._h5.attrs.get("closed", False))

    def schema(self, fingerprint: int) -> Schema | None:
        """What is known of a message type."""
        return self._definitions.schemas.get(fingerprint)

    def channel_of(self, topic: str) -> Channel:
        """The first channel of a topic."""
        return next(channel for channel in self._definitions.channels if channel.topic == topic)

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
            size_bytes=os.path.getsize(self.path),
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
        )

    def _summary(self, topic: TopicReader) -> TopicSummary:
        channel, row = self.channel_of(topic.name), topic.summary
        span = int(row["last_mono_ns"]) - int(row["first_mono_ns"])
        numbers = {
            name: int(row[name])
            for name in (
                "messages bytes published_before_join lost_before_us lost_by_us restarts throttled paused malformed gaps".split()
            )
        }
        known = {
            name: int(row[name]) if numbers["messages"] else None
            for name in "first_publish_ns last_publish_ns first_log_ns last_log_ns first_sequence".split()
        }
        hz = (numbers["messages"] - 1) / (span / 1e9) if span > 0 and numbers["messages"] > 1 else None
        return TopicSummary(
            topic=topic.name,
            type_name=channel.type_name,
            node=channel.node,
            address=channel.address,
            fingerprint=channel.fingerprint,
            hz=hz,
            **numbers,  # type: ignore[arg-type]
            **known,  # type: ignore[arg-type]
        )

    def gaps(self, topic: str) -> tuple[Gap, ...]:
        """The ledger of a topic: every range of sequence numbers that is not in the bag."""
        ledger = self._dataset(f"/{names.BOOK}/{names.LEDGER}")[()]
        rows = ledger[ledger["topic"] == self.topics[topic].number]
        kinds = ((row, KIND_NAMES.get(int(row["kind"]), "")) for row in rows)
        return tuple(
            Gap(int(row["first_sequence"]), int(row["last_sequence"]), int(row["count"]), int(row["log_time_ns"]), kind)
            for row, kind in kinds
            if kind in LOSSES
        )

    # --- messages

    def raw(self, topic: str, start: int, stop: int) -> list[RawMessage]:
        """Messages start..stop-1 of a topic."""
        reader = self.topics[topic]
        channels = [segment for segment in reader.segments(start, stop)]
        index, frames = reader.index(start, stop), reader.frames(start, stop)
        out: list[RawMessage] = []
        for segment in channels:
            channel = self._definitions.channels[segment.channel]
            for at in range(segment.start - start, segment.stop - start):
                row = index[at]
                out.append(
                    RawMessage(
                        topic,
                        int(row["sequence"]),
                        int(row["publish_time_ns"]),
                        int(row["log_time_ns"]),
                        int(row["log_mono_ns"]),
                        frames[at],
                        channel,
                    )
                )
        return out

    def merged(
        self, topics: Sequence[str], order: str, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[int, RawMessage]]:
        """(time, message) of several topics by time; equal times keep the order topics came to be known in.

        The time is on the recorder's monotonic clock in ns: of arrival for order `log`, of sending for `publish`.
        Within a topic the order of arrival is kept. `start_ns` is included, `stop_ns` not.
        """
        share = MERGE_BYTES // max(1, len(topics))
        streams = [self._stream(self.topics[name], order, (start_ns, stop_ns), share) for name in topics]
        for key, _number, message in heapq.merge(*streams, key=lambda item: item[:2]):
            yield key, message

    def _stream(
        self, topic: TopicReader, order: str, span: tuple[int | None, int | None], share: int
    ) -> Iterator[tuple[int, int, RawMessage]]:
        if not len(topic):
            return
        keys = sending_times(topic.index(0, len(topic))) if order == "publish" else topic.times("log_mono_ns")
        first = 0 if span[0] is None else int(np.searchsorted(keys, span[0], side="left"))
        last = len(topic) if span[1] is None else int(np.searchsorted(keys, span[1], side="left"))
        mean = max(1, int(topic.summary["bytes"]) // len(topic))
        step = max(1, min(MERGE_ROWS, share // mean))
        for at in range(first, last, step):
            stop = min(at + step, last)
            for key, message in zip(keys[at:stop].tolist(), self.raw(topic.name, at, stop), strict=True):
                yield key, topic.number, message

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._h5.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sending_times(index: NDArray[Any]) -> NDArray[np.int64]:
    """When messages were sent, on the recorder's monotonic clock (ns), never going down.

    A step of the wall clock moves publish and log time together, so their difference stays the time on the way;
    where it is no plausible one, the time of arrival stands in.
    """
    latency = index["log_time_ns"] - index["publish_time_ns"]
    sane = np.where((latency >= 0) & (latency < SANE_LATENCY_NS), latency, 0)
    return np.maximum.accumulate(index["log_mono_ns"] - sane)
