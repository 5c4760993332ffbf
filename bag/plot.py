"""Pictures of a bag; the only door to matplotlib, which comes with the extra ``cortex-bag[plot]``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bag.errors import MissingExtraError

if TYPE_CHECKING:
    from bag import Bag, Topic

_WIDTH_INCHES = 11.0
_LANE_INCHES = 0.5
_BINS = 600
_BACKGROUND = 0.95
DENSE = (0.12, 0.44, 0.55)
MISSING = (0.84, 0.15, 0.16)
_LOSSES = ("lost_before_us", "lost_by_us")
_S = 1e-9


def timeline(run: Bag, output: Path) -> None:
    """Draw when messages arrived: one lane a topic, darker where they are denser, red where some are missing.

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
    names = list(run.topics)
    start_ns = run.start_ns or 0
    figure = Figure(figsize=(_WIDTH_INCHES, 1.3 + _LANE_INCHES * max(1, len(names))), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    duration_s = max(run.duration, 1e-3)
    for lane, name in enumerate(names):
        _draw_lane(axes, lane, run[name], start_ns, duration_s)
    axes.set_yticks(range(len(names)), [_label(run[name]) for name in names], fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, duration_s)
    axes.set_xlabel("seconds since the first message")
    axes.set_title(f"{Path(run.path).name}: messages by arrival; red = missing", loc="left", fontsize=11)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(output)


def _draw_lane(axes: Any, lane: int, topic: Topic, start_ns: int, duration_s: float) -> None:
    times_s = (np.asarray(topic.times, np.int64) - start_ns) * _S
    counts, _ = np.histogram(times_s, bins=_BINS, range=(0, duration_s))
    typical = float(np.percentile(counts[counts > 0], 95)) if counts.any() else 1.0
    pixels = np.empty((1, _BINS, 4))
    pixels[..., :3] = _BACKGROUND
    pixels[..., 3] = 1
    shade = np.where(counts > 0, 0.35 + 0.65 * np.clip(counts / typical, 0, 1), 0)[None, :, None]
    pixels[..., :3] += shade * (np.array(DENSE) - _BACKGROUND)
    axes.imshow(pixels, extent=(0, duration_s, lane + 0.36, lane - 0.36), aspect="auto", interpolation="nearest")
    for first_s, last_s in _missing_spans(topic, start_ns):
        width_s = max(last_s - first_s, duration_s / _BINS)
        axes.broken_barh([(first_s, width_s)], (lane - 0.36, 0.72), color=MISSING, linewidth=0, zorder=2)


def _missing_spans(topic: Topic, start_ns: int) -> list[tuple[float, float]]:
    # a gap is noticed when the next message arrives, so it reaches back to the arrival before that
    times = np.asarray(topic.times, np.int64)
    spans = []
    for gap in topic.gaps():
        if gap.kind in _LOSSES:
            before = times[times < gap.log_time_ns]
            first_ns = int(before.max()) if before.size else gap.log_time_ns
            spans.append(((first_ns - start_ns) * _S, (gap.log_time_ns - start_ns) * _S))
    return spans


def _label(topic: Topic) -> str:
    return f"{topic.name}\n{len(topic):,} messages"
