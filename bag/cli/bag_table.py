"""The table of ``cortex bag info``: a head of facts, a row a topic, and every gap of the topics asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bag.cli.tables import make_table, missing, plural
from bag.render import clean, local_time
from bag.units import format_count, format_duration, format_hz, format_size

if TYPE_CHECKING:
    from bag.records import BagInfo, Gap, TopicSummary
    from bag.rhythm import Rhythm

MAX_GAPS = 50
KINDS = {
    "before_join": "sent before we joined",
    "lost_before_us": "lost before us",
    "lost_by_us": "lost by us",
    "throttled": "left out on purpose",
    "paused": "while paused",
}


def table(
    one: BagInfo,
    rhythms: Mapping[str, Rhythm],
    marks: Sequence[tuple[str, int]],
    gaps: Mapping[str, Sequence[Gap]],
    compression: str = "",
) -> RenderableType:
    """What a bag holds; `compression` says how it is packed, if it is."""
    parts: list[RenderableType] = [_head(one, marks, compression), "", _topics(one, rhythms)]
    for name, found in gaps.items():
        parts += ["", *_gap_lines(name, found, one.start_ns or 0)]
    return Group(*parts)


def _head(one: BagInfo, marks: Sequence[tuple[str, int]], compression: str) -> Table:
    start = "" if one.start_ns is None else f"{local_time(one.start_ns)} ({one.start_ns} ns)"
    facts = [
        ("Bag", f"{one.path} ({format_size(one.size_bytes)})"),
        ("Start", start),
        ("Duration", format_duration(one.duration_ns)),
        ("Messages", f"{format_count(one.messages)} ({format_size(one.bytes)})"),
        ("Compression", compression),
        ("Closed", _closed(one)),
        ("Host", one.host),
        ("Description", one.description),
        *one.custom_data.items(),
        ("Marks", ", ".join(f"{text} at {(at - (one.start_ns or 0)) / 1e9:.3f} s" for text, at in marks)),
    ]
    head = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for name, value in facts:
        if value:
            head.add_row(Text(name, style="bold"), Text(clean(value)))
    return head


def _closed(one: BagInfo) -> str:
    if one.live:
        return "not yet: it is being recorded, this is its last commit"
    return "cleanly" if one.closed_cleanly else "NOT cleanly: the recorder was interrupted"


def _topics(one: BagInfo, rhythms: Mapping[str, Rhythm]) -> Table:
    rows = make_table("Topic", "Type", "Node", "Messages", "Hz", "min", "median", "max", "Size", "Share", "Missing")
    for topic in one.topics:
        rhythm = rhythms[topic.topic]
        about = "~" if rhythm.hz_sampled else ""
        missing = _missing_text(topic)
        rows.add_row(
            clean(topic.topic),
            clean(topic.type_name),
            clean(topic.node),
            format_count(topic.messages),
            format_hz(topic.hz),
            *(f"{about}{format_hz(hz)}" for hz in (rhythm.hz_min, rhythm.hz_median, rhythm.hz_max)),
            format_size(topic.bytes),
            f"{topic.bytes / one.bytes:.1%}" if one.bytes else "-",
            Text(missing or "-", style="bold red" if topic.lost_by_us or topic.lost_before_us else ""),
        )
    return rows


def _missing_text(topic: TopicSummary) -> str:
    text = missing(
        before_join=topic.published_before_join,
        before_us=topic.lost_before_us,
        by_us=topic.lost_by_us,
        restarts=topic.restarts,
    )
    more = [plural(topic.gaps, "gap") if topic.gaps else ""]
    more += [f"{format_count(topic.throttled)} left out on purpose" if topic.throttled else ""]
    more.append(f"{format_count(topic.malformed)} malformed" if topic.malformed else "")
    return ", ".join(part for part in (text, *more) if part)


def _gap_lines(topic: str, gaps: Sequence[Gap], start_ns: int) -> list[RenderableType]:
    if not gaps:
        return [Text(f"{clean(topic)}: no message is missing.")]
    lines: list[RenderableType] = [Text(f"{clean(topic)}: what is missing", style="bold")]
    for gap in gaps[:MAX_GAPS]:
        at = (gap.log_time_ns - start_ns) / 1e9
        kind = KINDS.get(gap.kind, gap.kind)
        count = f"{format_count(gap.count):>10}"
        lines.append(
            Text(f"{count}  {kind:22} sequences {gap.first_sequence}..{gap.last_sequence}, noticed at {at:.3f} s")
        )
    if len(gaps) > MAX_GAPS:
        lines.append(Text(f"{'':10}  and {format_count(len(gaps) - MAX_GAPS)} more; all of them with --json"))
    return lines
