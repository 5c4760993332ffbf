"""Whether two recordings are the same: missing and extra messages, bytes, order, publishers and timing.

A message is known by its sequence and publish time, because a sequence alone repeats when a publisher restarts. What
was due is taken from the first recording (times of sending), what came from the second (times of arrival).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bag.errors import UsageError
from bag.lanes import Lane
from bag.lateness import LatenessLog
from bag.options import PlayOptions
from bag.programme import Programme
from bag.records import Frame
from bag.statistics import Lateness
from cortex.discovery.protocol import TopicInfo

Bags = str | Path | Sequence[str | Path]
KEY = np.dtype([("publish_time_ns", "<i8"), ("sequence", "<u8")])
COMPARE_ROWS = 512
# sequences that are named in a report, as ranges
MAX_RANGES = 20


@dataclass(frozen=True, slots=True)
class TopicDiff:
    """How one topic compares.

    `same` counts messages that are in both with equal bytes, `different` those with other bytes. `missing` are only in
    the first, `extra` only in the second recording; their sequences follow as (first, last) ranges, the first few.
    `in_order` says that common messages come in the same order, `same_identity` that node, address, type and
    fingerprint are the same. `timing` is the error of the time between two messages in ns, `in_time` says that it is
    within the tolerance. `equal` says that nothing differs.
    """

    topic: str
    messages_a: int
    messages_b: int
    same: int
    different: int
    missing: int
    extra: int
    missing_sequences: tuple[tuple[int, int], ...]
    extra_sequences: tuple[tuple[int, int], ...]
    different_sequences: tuple[tuple[int, int], ...]
    in_order: bool
    same_identity: bool
    timing: Lateness
    in_time: bool
    equal: bool


@dataclass(frozen=True, slots=True)
class DiffReport:
    """How two recordings compare; a topic that only one of them has counts as missing or extra."""

    equal: bool
    time_tolerance_ns: int | None
    timing: Lateness
    topics: tuple[TopicDiff, ...]


@dataclass(slots=True)
class _Series:
    """All messages of one topic of one side, over all splits."""

    lanes: list[Lane] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    identity: set[TopicInfo] = field(default_factory=set)

    def __len__(self) -> int:
        return sum(last - first for first, last in self.spans)

    def _parts(self) -> Iterator[tuple[Lane, int, int]]:
        for lane, (first, last) in zip(self.lanes, self.spans, strict=True):
            yield lane, first, last

    def keys(self) -> NDArray[Any]:
        """What messages are known by."""
        out = [np.empty(0, KEY)]
        for lane, first, last in self._parts():
            rows = lane.index(first, last)
            part = np.empty(len(rows), KEY)
            for name in KEY.names or ():
                part[name] = rows[name]
            out.append(part)
        return np.concatenate(out)

    def times(self) -> NDArray[np.int64]:
        """When messages were due, or came."""
        return np.concatenate([np.empty(0, np.int64), *(lane.times[first:last] for lane, first, last in self._parts())])

    def frames(self, rows: NDArray[np.int64]) -> Iterator[list[Frame]]:
        """Parts of messages by ascending number, read in blocks."""
        base = 0
        for lane, first, last in self._parts():
            own = rows[(rows >= base) & (rows < base + last - first)] - base + first
            for start, stop in _runs(own):
                yield from lane.frames(start, stop)
            base += last - first


def diff(
    a: Bags,
    b: Bags,
    *,
    topics: Sequence[str] = (),
    time_tolerance_ns: int | None = None,
    played: PlayOptions | None = None,
) -> DiffReport:
    """Compare recording `a` with `b`, for example with the recording of its replay.

    Args:
        a, b: a path, or several of splits.
        topics: only these; empty means all.
        time_tolerance_ns: largest error of the time between two messages of a topic; None does not judge timing.
        played: how `a` was played to become `b`: selection, range, names and rate then apply to `a`.

    Raises:
        FileNotFoundError, BagFormatError, BagBusyError, IntegrityError: a bag cannot be read.
        UsageError: there is nothing to compare.
    """
    options = played or PlayOptions(topics=tuple(topics))
    with (
        closing(_open(a, options)) as first,
        closing(_open(b, PlayOptions(topics=tuple(topics), order="log"))) as second,
    ):
        left, right = _series(first), _series(second)
        absent = [topic for topic in topics if topic not in left and topic not in right]
        if absent or not (left or right):
            what = f"no topic {absent[0]}" if absent else "nothing"
            raise UsageError(f"there is {what} to compare in either recording; look at: cortex bag info")
        nothing = _Series()
        total = LatenessLog()
        found = [
            _compare(
                topic, left.get(topic, nothing), right.get(topic, nothing), (options.rate, time_tolerance_ns), total
            )
            for topic in dict.fromkeys([*left, *right])
        ]
    return DiffReport(all(topic.equal for topic in found), time_tolerance_ns, total.summary(), tuple(found))


def _open(bags: Bags, options: PlayOptions) -> Programme:
    return Programme([bags] if isinstance(bags, (str, Path)) else list(bags), options, lenient=True)


def _series(programme: Programme) -> dict[str, _Series]:
    out: dict[str, _Series] = {}
    for lane in sorted(programme.lanes, key=lambda lane: int(lane.times[0]) if len(lane) else 0):
        places = [programme.places[number] for number in lane.places]
        series = out.setdefault(places[0].name, _Series())
        series.lanes.append(lane)
        series.spans.append(lane.rows(programme.start_ns, programme.stop_ns))
        series.identity.update(places)
    return out


def _compare(
    topic: str, left: _Series, right: _Series, judge: tuple[float, int | None], total: LatenessLog
) -> TopicDiff:
    rate, tolerance = judge
    keys_a, keys_b = left.keys(), right.keys()
    rows_a, rows_b = _common(keys_a, keys_b)
    order = np.argsort(rows_a, kind="stable")
    rows_a, rows_b = rows_a[order], rows_b[order]
    in_order = bool(np.all(rows_b[1:] > rows_b[:-1]))
    unequal = _unequal(left, right, rows_a, rows_b)
    errors = _errors(left.times()[rows_a] / rate, right.times()[rows_b]) if in_order else np.empty(0, np.int64)
    log = LatenessLog()
    for error in errors.tolist():
        log.append(error)
    total.add(log)
    timing = log.summary()
    in_time = tolerance is None or timing.max_ns <= tolerance
    same_identity = left.identity == right.identity
    missing = np.delete(keys_a["sequence"], rows_a)
    extra = np.delete(keys_b["sequence"], rows_b)
    return TopicDiff(
        topic=topic,
        messages_a=len(keys_a),
        messages_b=len(keys_b),
        same=len(rows_a) - len(unequal),
        different=len(unequal),
        missing=len(missing),
        extra=len(extra),
        missing_sequences=_ranges(missing),
        extra_sequences=_ranges(extra),
        different_sequences=_ranges(keys_a["sequence"][unequal]),
        in_order=in_order,
        same_identity=same_identity,
        timing=timing,
        in_time=in_time,
        equal=not (len(missing) or len(extra) or len(unequal)) and in_order and same_identity and in_time,
    )


def _common(one: NDArray[Any], other: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if len(one) == len(other) and np.array_equal(one, other) and len(np.unique(one)) == len(one):
        same = np.arange(len(one))
        return same, same
    _keys, rows, others = np.intersect1d(one, other, return_indices=True)
    return rows.astype(np.int64), others.astype(np.int64)


def _unequal(left: _Series, right: _Series, rows_a: NDArray[np.int64], rows_b: NDArray[np.int64]) -> NDArray[np.int64]:
    # the second side is read in its own order, and put back in that of the first
    out = []
    for start in range(0, len(rows_a), COMPARE_ROWS):
        part_a, part_b = rows_a[start : start + COMPARE_ROWS], rows_b[start : start + COMPARE_ROWS]
        order = np.argsort(part_b)
        for row, one, other in zip(
            part_a[order].tolist(), _picked(left, part_a, order), right.frames(part_b[order]), strict=True
        ):
            if not _same_frames(one, other):
                out.append(row)
    return np.array(sorted(out), np.int64)


def _picked(series: _Series, rows: NDArray[np.int64], order: NDArray[np.int64]) -> Iterator[list[Frame]]:
    if np.all(order[1:] > order[:-1]):
        yield from series.frames(rows)
        return
    frames = list(series.frames(rows))
    yield from (frames[at] for at in order.tolist())


def _same_frames(one: Sequence[Frame], other: Sequence[Frame]) -> bool:
    if len(one) != len(other):
        return False
    return all(len(a) == len(b) and np.array_equal(_bytes(a), _bytes(b)) for a, b in zip(one, other, strict=True))


def _bytes(frame: Frame) -> NDArray[np.uint8]:
    return np.frombuffer(frame, np.uint8)


def _errors(due: NDArray[np.float64], came: NDArray[np.int64]) -> NDArray[np.int64]:
    errors: NDArray[np.int64] = np.abs(np.diff(came) - np.diff(due)).round().astype(np.int64)
    return errors


# consecutive numbers as (start, stop), no more than can be held at once
def _runs(rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    for part in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
        for start in range(0, len(part), COMPARE_ROWS):
            chunk = part[start : start + COMPARE_ROWS]
            yield int(chunk[0]), int(chunk[-1]) + 1


def _ranges(sequences: NDArray[Any]) -> tuple[tuple[int, int], ...]:
    known = np.unique(sequences)
    parts = np.split(known, np.flatnonzero(np.diff(known) != 1) + 1) if len(known) else []
    return tuple((int(part[0]), int(part[-1])) for part in parts[:MAX_RANGES])
