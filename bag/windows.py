"""Stretches of time that slide over a bag: what a model sees at once, from topics of different rates.

The window of moment t holds the messages with t - past < time <= t (the past: everything known at t) and
t < time <= t + future. A window in which something is known to be missing (a gap in the sequence numbers, a restart of
a publisher, the end of the recording) is left out unless asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bag.errors import UsageError
from bag.times import to_ns

if TYPE_CHECKING:
    from bag.dataset import Bag
    from bag.topic import Topic

Times = NDArray[np.int64]


class WindowTopic(Mapping[str, Any]):
    """The messages of one topic in one window: `window["/imu"]["data"]` reads those rows.

    `start`, `now` and `stop` are message numbers: the past is start..now-1, the future now..stop-1.
    """

    def __init__(self, topic: Topic, start: int, now: int, stop: int) -> None:
        self.topic = topic
        self.start, self.now, self.stop = start, now, stop

    def __getitem__(self, field: str) -> Any:
        return self.topic[field][self.start : self.stop]

    def past(self, field: str) -> Any:
        """Rows of a field up to the moment."""
        return self.topic[field][self.start : self.now]

    def future(self, field: str) -> Any:
        """Rows of a field after the moment."""
        return self.topic[field][self.now : self.stop]

    def __iter__(self) -> Iterator[str]:
        return iter(self.topic.fields)

    def __len__(self) -> int:
        return self.stop - self.start


class Window(Mapping[str, WindowTopic]):
    """One window; `time_ns` is its moment in wall ns."""

    def __init__(self, time_ns: int, topics: dict[str, WindowTopic]) -> None:
        self.time_ns = time_ns
        self._topics = topics

    def __getitem__(self, topic: str) -> WindowTopic:
        return self._topics[topic]

    def __iter__(self) -> Iterator[str]:
        return iter(self._topics)

    def __len__(self) -> int:
        return len(self._topics)

    def __repr__(self) -> str:
        inside = ", ".join(
            f"{name}: {topic.now - topic.start}+{topic.stop - topic.now}" for name, topic in self.items()
        )
        return f"<Window at {self.time_ns}: {inside}>"


class Windows(Sequence[Window]):
    """Windows in order of time.

    Attributes:
        bag: where they are from.
        times: (n,) moments in wall ns.
        bounds: for each topic (n, 3) message numbers: start, now, stop.
        left_out: windows that were not taken because something is missing in them, by reason.
    """

    def __init__(
        self, bag: Bag, times: Times, bounds: dict[str, Times], reach: tuple[int, int], left_out: Mapping[str, int]
    ) -> None:
        self.bag = bag
        self.times = times
        self.bounds = bounds
        self.reach = reach
        self.left_out = dict(left_out)

    @property
    def topics(self) -> tuple[str, ...]:
        """Names of the topics."""
        return tuple(self.bounds)

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, key: Any) -> Any:
        """One window, or fewer windows for a slice, mask or array of numbers."""
        if not isinstance(key, (int, np.integer)):
            bounds = {name: rows[key] for name, rows in self.bounds.items()}
            return Windows(self.bag, self.times[key], bounds, self.reach, self.left_out)
        topics = {name: WindowTopic(self.bag[name], *rows[key].tolist()) for name, rows in self.bounds.items()}
        return Window(int(self.times[key]), topics)

    def split(self, train: float = 0.8, by: str = "time") -> tuple[Windows, Windows]:
        """Windows for training and testing that share no message; those astride the cut are in neither.

        Args:
            train: share of the windows (`by="time"`) or of the files (`by="bag"`) that comes first.
            by: where to cut.

        Raises:
            UsageError: there is nothing to cut, or no such way.
        """
        from bag.split import split_windows

        return split_windows(self, train, by)

    def __repr__(self) -> str:
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.left_out.items() if count)
        return f"<Windows: {len(self)} of {', '.join(self.topics)}; left out: {reasons or 'none'}>"


def windows(
    bag: Bag,
    past: float | str,
    future: float | str = 0,
    stride: float | str | None = None,
    *,
    topics: Sequence[str] | None = None,
    on: str | None = None,
    clock: str | None = None,
    allow_gaps: bool = False,
) -> Windows:
    """Windows over several topics.

    Args:
        bag: the open bag.
        past, future: how far a window reaches before and after its moment: seconds, or text with a unit.
        stride: time from one moment to the next; None: the length of a window, or every message with `on`.
        topics: names; None: all.
        on: a topic whose messages are the moments (at least `stride` apart), instead of evenly spaced ones.
        clock: `log` for times of arrival, `publish` for times of sending; None: of arrival, unless the bag was recorded
            with a receive interval, which makes these coarse.
        allow_gaps: also windows in which messages are missing.

    Raises:
        KeyError: a topic is not in the bag.
        UsageError: the window has no length, or the stride is not above zero.
    """
    names = tuple(bag) if topics is None else tuple(topics)
    reach = to_ns(past), to_ns(future)
    step = None if stride is None else to_ns(stride)
    if min(reach) < 0 or sum(reach) <= 0 or (step is not None and step <= 0):
        raise UsageError(
            f"windows of past={past!r}, future={future!r}, stride={stride!r} have no length or do not move"
        )
    # those in the headers may go down
    clock = bag.finest_clock if clock is None else "sent" if clock == "publish" else clock
    times = {name: bag[name].clock_times(clock) for name in names}
    if any(not len(one) for one in times.values()) or not times:
        return Windows(bag, np.empty(0, np.int64), {name: np.empty((0, 3), np.int64) for name in names}, reach, {})
    moments = _moments(bag, times, on, clock, step or sum(reach))
    if on is not None and step is not None:
        moments = _thinned(moments, step)
    low = max(int(one[0]) for one in times.values()) + reach[0]
    high = min(int(one[-1]) for one in times.values()) - reach[1]
    outside = (moments < low) | (moments > high)
    missing = np.zeros(len(moments), bool)
    for name in names:
        missing |= _astride(times[name], bag[name].sequence, moments, reach)
    keep = ~outside & (allow_gaps | ~missing)
    left_out = {"beyond the recording": int(outside.sum()), "messages missing": int((missing & ~outside & ~keep).sum())}
    moments = moments[keep]
    bounds = {name: _bounds(times[name], moments, reach) for name in names}
    return Windows(bag, moments, bounds, reach, left_out)


def _moments(bag: Bag, times: Mapping[str, Times], on: str | None, clock: str, step: int) -> Times:
    if on is not None:
        return times[on] if on in times else bag[on].clock_times(clock)
    first = max(int(one[0]) for one in times.values())
    last = min(int(one[-1]) for one in times.values())
    return np.arange(first, last + 1, step)


def _thinned(moments: Times, step: int) -> Times:
    kept: list[int] = []
    at = 0
    while at < len(moments):
        kept.append(at)
        at = max(at + 1, int(np.searchsorted(moments, moments[at] + step)))
    return moments[kept]


def _bounds(times: Times, moments: Times, reach: tuple[int, int]) -> Times:
    edges = (moments - reach[0], moments, moments + reach[1])
    return np.stack([np.searchsorted(times, edge, side="right") for edge in edges], axis=1).astype(np.int64)


# windows that reach into a stretch between two messages whose sequence numbers do not follow each other
def _astride(times: Times, sequence: NDArray[np.uint64], moments: Times, reach: tuple[int, int]) -> NDArray[np.bool_]:
    breaks = np.flatnonzero(sequence[1:] != sequence[:-1] + np.uint64(1))
    if not len(breaks):
        return np.zeros(len(moments), bool)
    begins, ends = times[breaks], times[breaks + 1]
    first, last = moments - reach[0], moments + reach[1]
    # breaks that end after the window begins, and begin before it ends
    after = np.searchsorted(ends, first, side="right")
    before = np.searchsorted(begins, last, side="left")
    return before > after
