"""Pictures of a bag; the only door to matplotlib, which comes with the extra ``cortex-bag[plot]``.

One lane a topic. The height of the blue is the rate, so an even stream is an even band; a few messages are lines. A
hole is white with a red band across the lane and a red tag that says how many messages are missing; where a regular
topic fell silent without a message being lost, band and tag are orange. Bars on the right compare rates and sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bag.errors import MissingExtraError
from bag.units import format_count, format_duration, format_hz, format_size

if TYPE_CHECKING:
    from bag import Bag, Topic

_WIDTH_INCHES = 13.0
_LANE_INCHES = 0.55
_BINS = 500
DENSE = (0.12, 0.44, 0.55)
MISSING = (0.84, 0.15, 0.16)
SILENT = (0.93, 0.55, 0.12)
_LANE = (0.94, 0.95, 0.96)
_LOSSES = ("lost_before_us", "lost_by_us")
_S = 1e-9
# a regular topic is silent when nothing comes for so many of its usual intervals
_SILENCE = 8
# holes closer together than this part of the picture are drawn as one
_NEAR = 1 / 150
_TAGS = 4
# so few messages are drawn one by one
_FEW = 20


@dataclass(frozen=True, slots=True)
class Hole:
    """A stretch of time (s since the start) without messages; `missing` of them are known to be lost."""

    first_s: float
    last_s: float
    missing: int


def timeline(run: Bag, output: Path) -> None:
    """Draw when messages arrived and where some are missing, how fast they came and how large they are.

    Args:
        run: an open bag; only its times and gaps are read, no message.
        output: the PNG to write; replaced if it exists.

    Raises:
        MissingExtraError: when matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("Drawing a timeline", "plot") from error
    topics = [run[name] for name in run.topics]
    height = 1.5 + _LANE_INCHES * max(1, len(topics))
    figure = Figure(figsize=(_WIDTH_INCHES, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    lanes, rates, sizes = figure.subplots(1, 3, sharey=True, width_ratios=(8, 1, 1))
    start_ns, duration_s = run.start_ns or 0, max(run.duration, 1e-3)
    shown = [_holes(topic, start_ns, duration_s) for topic in topics]
    for number, (topic, holes) in enumerate(zip(topics, shown, strict=True)):
        _draw_lane(lanes, number, topic, holes, start_ns, duration_s)
    _draw_marks(lanes, run, start_ns)
    _finish_lanes(lanes, run, topics, shown, duration_s)
    summaries = {item.topic: item for item in run.info().topics}
    hz = [summaries[topic.name].hz for topic in topics]
    nbytes = [summaries[topic.name].bytes for topic in topics]
    _draw_bars(rates, "Hz", [value or 0 for value in hz], [format_hz(value) for value in hz])
    _draw_bars(sizes, "size", [float(value) for value in nbytes], [format_size(value) for value in nbytes])
    figure.savefig(output, format="png")


def _times(topic: Topic, start_ns: int) -> NDArray[np.float64]:
    return np.asarray((np.asarray(topic.times, np.int64) - start_ns) * _S, np.float64)


def _draw_lane(axes: Any, lane: int, topic: Topic, holes: list[Hole], start_ns: int, duration_s: float) -> None:
    axes.barh(lane, duration_s, 0.8, left=0, color=_LANE, linewidth=0, zorder=0)
    times_s = _times(topic, start_ns)
    if 0 < len(times_s) < _FEW:
        # a rate would be made up
        axes.vlines(times_s, lane - 0.4, lane + 0.4, color=DENSE, linewidth=2, zorder=1)
    elif len(times_s):
        heights, edges = _heights(times_s, duration_s)
        top = lane + 0.4 - 0.8 * heights
        axes.fill_between(edges, np.append(top, top[-1]), lane + 0.4, step="post", color=DENSE, linewidth=0, zorder=1)
    for hole in holes:
        width_s = max(hole.last_s - hole.first_s, duration_s / 300)
        colour = MISSING if hole.missing else SILENT
        left_s = min(hole.first_s, duration_s - width_s)
        axes.barh(lane, width_s, 0.98, left=left_s, color=colour, linewidth=0, zorder=3)
    for hole in sorted(holes, key=lambda hole: (-hole.missing, hole.first_s - hole.last_s))[:_TAGS]:
        _draw_tag(axes, lane, hole, duration_s)


# messages per stretch of time, as a part of what is usual; a rate below what the stretches can show is a full band
def _heights(times_s: NDArray[np.float64], duration_s: float) -> tuple[NDArray[Any], NDArray[Any]]:
    usual_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else duration_s
    bins = int(np.clip(duration_s / max(usual_s * 4, 1e-9), 1, _BINS))
    counts, edges = np.histogram(times_s, bins=bins, range=(0, duration_s))
    usual = float(np.percentile(counts[counts > 0], 90)) if counts.any() else 1.0
    # where a stretch ends between two messages, one more or less says nothing
    return np.clip((counts + (counts > 0)) / usual, 0, 1), edges


def _draw_tag(axes: Any, lane: int, hole: Hole, duration_s: float) -> None:
    colour = MISSING if hole.missing else SILENT
    long = format_duration((hole.last_s - hole.first_s) * 1e9)
    text = f"{format_count(hole.missing)} lost" if hole.missing else f"silent {long}"
    at_s = (hole.first_s + hole.last_s) / 2
    right = at_s > 0.9 * duration_s
    axes.annotate(
        text,
        (max(0.0, hole.first_s) if right else min(duration_s, hole.last_s), lane),
        xytext=(-4 if right else 4, 0),
        textcoords="offset points",
        ha="right" if right else "left",
        va="center",
        fontsize=8,
        fontweight="bold",
        color="white",
        bbox={"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": "white", "linewidth": 0.8},
        zorder=5,
        annotation_clip=False,
    )


def _draw_marks(axes: Any, run: Bag, start_ns: int) -> None:
    for text, time_ns in run.marks:
        at_s = (time_ns - start_ns) * _S
        axes.axvline(at_s, color="black", linewidth=0.9, linestyle=(0, (4, 3)), zorder=4)
        axes.annotate(
            text, (at_s, 1), xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points",
            ha="center", fontsize=8,
        )  # fmt: skip


def _finish_lanes(axes: Any, run: Bag, topics: list[Topic], shown: list[list[Hole]], duration_s: float) -> None:
    axes.set_yticks(range(len(topics)), [f"{topic.name}\n{len(topic):,} messages" for topic in topics], fontsize=9)
    axes.set_ylim(max(len(topics), 1) - 0.4, -0.6)
    axes.set_xlim(0, duration_s)
    axes.set_xlabel(
        "seconds since the first message      height: rate      red: messages lost      orange: fell silent"
    )
    lost = sum(hole.missing for holes in shown for hole in holes)
    verdict = f"{format_count(lost)} messages missing (red)" if lost else "no message missing"
    unclean = "" if run.closed_cleanly else ", not closed cleanly"
    axes.set_title(f"{Path(run.path).name}: {verdict}{unclean}", loc="left", fontsize=12, fontweight="bold", pad=16)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    for label, holes in zip(axes.get_yticklabels(), shown, strict=True):
        if any(hole.missing for hole in holes):
            label.set_color(MISSING)
            label.set_fontweight("bold")


def _draw_bars(axes: Any, title: str, values: list[float], texts: list[str]) -> None:
    # rates and sizes of topics differ by powers of ten
    lengths = np.log10(1 + np.array(values, float)) if values else np.zeros(0)
    top = float(lengths.max()) if len(lengths) and lengths.max() > 0 else 1.0
    axes.barh(range(len(values)), lengths / top, 0.5, color=(0.78, 0.83, 0.86), linewidth=0)
    for lane, text in enumerate(texts):
        axes.text(0.04, lane, text, va="center", fontsize=8)
    axes.set_xlim(0, 1.05)
    axes.set_xticks([])
    axes.set_title(title, loc="left", fontsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(axis="y", length=0)


def _holes(topic: Topic, start_ns: int, duration_s: float) -> list[Hole]:
    times_s = _times(topic, start_ns)
    found = []
    for gap in topic.gaps():
        if gap.kind in _LOSSES:
            # a gap is noticed when the next message arrives, so it reaches back to the arrival before that
            last_s = (gap.log_time_ns - start_ns) * _S
            before = int(np.searchsorted(times_s, last_s, side="left"))
            found.append(Hole(float(times_s[before - 1]) if before else last_s, last_s, gap.count))
    found += [hole for hole in _silences(times_s, duration_s) if not any(_meet(hole, other, 0) for other in found)]
    return _joined(found, _NEAR * duration_s)


def _silences(times_s: NDArray[np.float64], duration_s: float) -> list[Hole]:
    if len(times_s) < 10:
        return []
    steps = np.diff(times_s)
    usual_s = float(np.median(steps))
    # of a topic that comes when it likes, silence says nothing
    if usual_s <= 0 or float(np.percentile(steps, 90)) > 3 * usual_s:
        return []
    long = np.flatnonzero((steps > _SILENCE * usual_s) & (steps > 0.005 * duration_s))
    out = [Hole(float(times_s[at]), float(times_s[at + 1]), 0) for at in long.tolist()]
    if duration_s - float(times_s[-1]) > max(_SILENCE * usual_s, 0.02 * duration_s):
        out.append(Hole(float(times_s[-1]), duration_s, 0))
    return out


def _meet(one: Hole, other: Hole, near_s: float) -> bool:
    return one.first_s <= other.last_s + near_s and other.first_s <= one.last_s + near_s


def _joined(holes: list[Hole], near_s: float) -> list[Hole]:
    out: list[Hole] = []
    for hole in sorted(holes, key=lambda hole: hole.first_s):
        last = out[-1] if out else None
        if last is not None and bool(last.missing) == bool(hole.missing) and _meet(last, hole, near_s):
            out[-1] = Hole(last.first_s, max(last.last_s, hole.last_s), last.missing + hole.missing)
        else:
            out.append(hole)
    return out
