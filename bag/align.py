"""Rows of topics of different rates at the same moments, with how old each is and whether there is one at all.

Everything is found by binary search in the columns of times; a field is read when it is asked for, and then only the
rows that were chosen. Nothing is guessed in silence: what could not be filled is `valid == False`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bag.errors import UsageError
from bag.fields import Field
from bag.interpolate import blend
from bag.ragged import Ragged
from bag.times import Moment, to_bag_time, to_ns

if TYPE_CHECKING:
    from bag.dataset import Bag
    from bag.topic import Topic

Method = Literal["previous", "nearest", "next", "linear", "slerp"]
METHODS = ("previous", "nearest", "next", "linear", "slerp")
Times = NDArray[np.int64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """For each moment the row before it and after it (-1: none), and their ages (moment - time of the row, ns)."""

    before: Rows
    after: Rows
    age_before: Times
    age_after: Times


def search(times: Times, moments: Times) -> Found:
    """Find the neighbours of each moment in `times`, which may repeat and go down.

    A row at the very moment is both neighbours. Of equal times the last to arrive is `before`, the first is `after`.
    """
    order = None if len(times) < 2 or (times[1:] >= times[:-1]).all() else np.argsort(times, kind="stable")
    ascending = times if order is None else times[order]
    low = np.searchsorted(ascending, moments, side="right") - 1
    high = np.searchsorted(ascending, moments, side="left")
    high = np.where(high >= len(ascending), -1, high)
    age_low, age_high = _ages(ascending, low, moments), _ages(ascending, high, moments)
    if order is not None:
        low, high = (np.where(rows < 0, -1, order[rows]) for rows in (low, high))
    return Found(low.astype(np.int64), high.astype(np.int64), age_low, age_high)


def _ages(ascending: Times, rows: Rows, moments: Times) -> Times:
    if not len(ascending):
        return np.zeros(len(moments), np.int64)
    return np.where(rows < 0, 0, moments - ascending[rows])


def choose(found: Found, method: str, tolerance_ns: int | None) -> tuple[Rows, Times, NDArray[np.bool_]]:
    """(rows, age, valid) by a method; `linear` and `slerp` name the row before, and the larger distance as age.

    An age beyond the tolerance is not valid; where there is no row it is -1 with age 0.
    """
    if method == "previous":
        rows, age = found.before, found.age_before
    elif method == "next":
        rows, age = found.after, found.age_after
    elif method == "nearest":
        use_after = (found.before < 0) | ((found.after >= 0) & (-found.age_after < found.age_before))
        rows = np.where(use_after, found.after, found.before)
        age = np.where(use_after, found.age_after, found.age_before)
    else:
        both = (found.before >= 0) & (found.after >= 0)
        rows = np.where(both, found.before, -1)
        later = -found.age_after > found.age_before
        age = np.where(both, np.where(later, found.age_after, found.age_before), 0)
    valid = rows >= 0
    if tolerance_ns is not None:
        valid &= np.abs(age) <= tolerance_ns
    return rows, np.where(rows < 0, 0, age), valid


class AlignedTopic(Mapping[str, Any]):
    """One topic of an `Aligned`: `topic["field"]` is an array with a row for each moment.

    `rows` are message numbers (-1: none), `age_ns` is moment minus time of the message (negative: it is younger),
    `valid` says whether there is one within the tolerance. Rows that are not valid read as NaN, 0, "" or None.
    """

    def __init__(self, topic: Topic, found: Found, method: str, tolerance_ns: int | None) -> None:
        self.topic = topic
        self.method = method
        self.rows, self.age_ns, self.valid = choose(found, method, tolerance_ns)
        self._found = found

    def __getitem__(self, name: str) -> Any:
        return self.read(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """The field at moments start..stop-1: an array, or a `Ragged`; only the chosen messages are read.

        Raises:
            KeyError: the topic has no such field.
        """
        field = self.topic[name]
        cut = slice(start, stop)
        rows, valid = self.rows[cut], self.valid[cut]
        if self.method in ("linear", "slerp") and not field.ragged and field.dtype.kind in "iuf":
            return self._blended(field, cut)
        if field.ragged:
            arrays = field[rows[valid]] if valid.any() else Ragged([])
            whole: list[Any] = [None] * len(rows)
            for at, array in zip(np.flatnonzero(valid).tolist(), arrays, strict=True):
                whole[at] = array
            return Ragged(whole)
        return spread(field[rows[valid]], valid)

    def _blended(self, field: Field, cut: slice) -> NDArray[Any]:
        valid = self.valid[cut]
        before, after = self._found.before[cut][valid], self._found.after[cut][valid]
        back, ahead = self._found.age_before[cut][valid], -self._found.age_after[cut][valid]
        share = back / np.maximum(back + ahead, 1)
        sphere = self.method == "slerp" and field.shape[1:] == (4,)
        return spread(blend(field[before], field[after], share, sphere=sphere), valid)

    def __iter__(self) -> Iterator[str]:
        return iter(self.topic.fields)

    def __len__(self) -> int:
        return len(self.topic.fields)

    def __repr__(self) -> str:
        missing = int((~self.valid).sum())
        return f"<AlignedTopic {self.topic.name!r}: {self.method}, {len(self.valid)} moments, {missing} not filled>"


def spread(values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
    """Put values at the valid places; the others are NaN, NaT, 0, empty or None, as the dtype has it."""
    if valid.all():
        return values
    fills = {"f": np.nan, "c": np.nan, "O": None, "M": np.datetime64("NaT"), "m": np.timedelta64("NaT")}
    fill = fills.get(values.dtype.kind, np.zeros((), values.dtype))
    out = np.full((len(valid), *values.shape[1:]), fill, values.dtype)
    out[valid] = values
    return out


class Aligned(Mapping[str, AlignedTopic]):
    """Several topics at the same moments. `times` are the moments in wall ns; `aligned["/imu"]` is one topic."""

    def __init__(self, times: Times, topics: dict[str, AlignedTopic], clock: str) -> None:
        self.times = times
        self.clock = clock
        self._topics = topics

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Moments at which every topic could be filled."""
        whole = np.ones(len(self.times), bool)
        for topic in self.values():
            whole &= topic.valid
        return whole

    @property
    def unfilled(self) -> dict[str, int]:
        """For each topic the number of moments that could not be filled."""
        return {name: int((~topic.valid).sum()) for name, topic in self.items()}

    def __getitem__(self, topic: str) -> AlignedTopic:
        return self._topics[topic]

    def __iter__(self) -> Iterator[str]:
        return iter(self._topics)

    def __len__(self) -> int:
        return len(self._topics)

    def __repr__(self) -> str:
        missing = ", ".join(f"{name} {count}" for name, count in self.unfilled.items() if count)
        return f"<Aligned {len(self.times)} moments of {', '.join(self)}; not filled: {missing or 'none'}>"


def align(
    bag: Bag,
    topics: Sequence[str],
    on: str | Sequence[int] | Times,
    *,
    method: Method | Mapping[str, Method] = "previous",
    tolerance: float | str | Mapping[str, float | str] | None = None,
    clock: str = "publish",
    start: Moment | None = None,
    stop: Moment | None = None,
) -> Aligned:
    """Rows of several topics at the times of one of them, or at moments of your own.

    Args:
        bag: the open bag.
        topics: names of the topics wanted.
        on: whose times count: a topic; a period such as `"20ms"` for evenly spaced moments; or moments in wall ns.
        method: for all, or for each topic: `previous` (the last message at or before the moment), `next`, `nearest`
            (the earlier one of two as near), `linear` (numbers are interpolated between both neighbours, all else is
            of the one before) or `slerp` (as linear, and fields of shape (4,) are turned as quaternions x, y, z, w).
        tolerance: the largest age, as seconds or text with a unit, for all or for each topic; None: any.
        clock: `publish` for the times in the headers, `log` for the times of arrival, `sent` for the times of sending
            on the line of these (what a clock of another machine is ahead, or a step of the clock, matters there less).
        start, stop: half open range of moments, as in `Bag.messages`; messages before it may still fill them.

    Raises:
        KeyError: a topic is not in the bag.
        UsageError: a method, clock or `on` makes no sense.
    """
    names = (topics,) if isinstance(topics, str) else tuple(dict.fromkeys(topics))
    moments = _moments(bag, on, clock, names)
    wall, mono = bag.time_line[0], bag.time_line[1]
    for limit, keep_later in ((start, True), (stop, False)):
        if limit is not None:
            edge = to_bag_time(limit, bag.time_line) - mono + wall
            moments = moments[moments >= edge] if keep_later else moments[moments < edge]
    found = {name: search(bag[name].clock_times(clock), moments) for name in names}
    out = {
        name: AlignedTopic(bag[name], found[name], _method(method, name), _tolerance(tolerance, name)) for name in names
    }
    return Aligned(moments, out, clock)


def _moments(bag: Bag, on: Any, clock: str, names: Sequence[str]) -> Times:
    if not isinstance(on, str):
        given = np.asarray(on)
        if given.dtype.kind not in "iu" or given.ndim != 1:
            raise UsageError("on is neither a topic, nor a period such as '20ms', nor an array of moments in wall ns")
        return given.astype(np.int64)
    if on in bag:
        return bag[on].clock_times(clock)
    try:
        period = to_ns(on)
    except ValueError:
        raise UsageError(f"on={on!r} is no topic of {bag.path} and no period such as '20ms'") from None
    times = [bag[name].clock_times(clock) for name in names if len(bag[name])]
    if not times or period <= 0:
        return np.empty(0, np.int64)
    return np.arange(min(int(t.min()) for t in times), max(int(t.max()) for t in times) + 1, period)


def _method(method: Any, name: str) -> str:
    chosen = method.get(name, "previous") if isinstance(method, Mapping) else method
    if chosen not in METHODS:
        raise UsageError(f"method {chosen!r} for {name} does not exist; choose one of: {', '.join(METHODS)}")
    return str(chosen)


def _tolerance(tolerance: Any, name: str) -> int | None:
    chosen = tolerance.get(name) if isinstance(tolerance, Mapping) else tolerance
    return None if chosen is None else to_ns(chosen)
