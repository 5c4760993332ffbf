"""Cuts a bag or its windows into a part for training and a part for testing, so that no message is in both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bag.errors import UsageError

if TYPE_CHECKING:
    from bag.dataset import Bag
    from bag.windows import Windows


def split_bag(bag: Bag, train: float, by: str) -> tuple[Bag, Bag]:
    """Two parts of a bag, the earlier one first; see `Bag.split`."""
    _check(train, by)
    cut = _cut_time(bag, train) if by == "time" else _cut_file(bag, train)
    return bag.cut(None, cut), bag.cut(cut, None)


def split_windows(windows: Windows, train: float, by: str) -> tuple[Windows, Windows]:
    """Windows before and after a cut; see `Windows.split`."""
    _check(train, by)
    if not len(windows):
        raise UsageError("there is no window to split")
    if by == "bag":
        wall, mono = windows.bag.origin
        moment = _cut_file(windows.bag, train) - mono + wall
    else:
        moment = int(windows.times[min(len(windows) - 1, int(len(windows) * train))])
    early = windows.times + windows.reach[1] < moment
    late = windows.times - windows.reach[0] >= moment
    if by == "bag":
        # a file's first message has exactly this time
        late = windows.times - windows.reach[0] >= moment - 1
    return windows[early], windows[late]


def _check(train: float, by: str) -> None:
    if not 0 < train < 1:
        raise UsageError(f"train is {train}; it is a share between 0 and 1")
    if by not in ("time", "bag"):
        raise UsageError(f"by is {by!r}; it can be 'time' or 'bag'")


def _cut_time(bag: Bag, train: float) -> int:
    _wall, first, last = bag.time_line
    return first + round((last - first) * train)


def _cut_file(bag: Bag, train: float) -> int:
    if len(bag.parts) < 2:
        raise UsageError(f'{bag.path} is one file; split it by="time", or open several')
    number = min(max(1, round(len(bag.parts) * train)), len(bag.parts) - 1)
    part = bag.parts[number]
    return (part.span[1] if part.span else 0) + part.shift_ns
