"""What commands show to people: tables and sentences made of the library's frozen values; nothing is printed here."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from rich.console import Group, OverflowMethod, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bag import BagInfo, PlayProgress, PlayReport, RecorderStatistics
from bag.demo import Verdict
from bag.statistics import Lateness
from bag.units import NS_PER_S, format_count, format_duration, format_hz, format_size
from bag.verdict import Timing

_OVERFLOW: dict[str, OverflowMethod] = {"Topic": "fold", "Type": "ellipsis", "Node": "fold", "Missing": "fold"}


def _table(*columns: str) -> Table:
    # fits 80 columns in the usual case: the type is shortened before a number is
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        if column in _OVERFLOW:
            table.add_column(column, overflow=_OVERFLOW[column], vertical="bottom")
        else:
            table.add_column(column, justify="right", no_wrap=True, vertical="bottom")
    return table


def _plural(count: int, noun: str) -> str:
    return f"{format_count(count)} {noun}{'' if count == 1 else 's'}"


def _missing(*, before_join: int, before_us: int, by_us: int, restarts: int = 0) -> str:
    # "lost before us" and "lost by us" are never summed: they have different cures
    parts = [
        f"{format_count(by_us)} lost by us" if by_us else "",
        f"{format_count(before_us)} lost before us" if before_us else "",
        f"{format_count(before_join)} sent before we joined" if before_join else "",
        _plural(restarts, "restart") if restarts else "",
    ]
    return ", ".join(part for part in parts if part)


# record ----------------------------------------------------------------------------------------------------------


def recording(statistics: RecorderStatistics) -> RenderableType:
    """Return the live display of a recording: one row a topic, and the totals below."""
    table = _table("Topic", "Type", "Node", "Hz", "MB/s", "Messages", "Lost\nbefore us", "by us", "Last\nseen")
    now_ns = time.time_ns()
    for topic in statistics.topics:
        seen = "waiting" if topic.last_log_ns is None else format_duration(max(0, now_ns - topic.last_log_ns))
        state = "publisher gone" if topic.stale else seen
        quiet = topic.stale or topic.last_log_ns is None or now_ns - topic.last_log_ns > 2 * NS_PER_S
        table.add_row(
            topic.topic,
            topic.type_name,
            topic.node,
            format_hz(topic.hz),
            f"{topic.bytes_per_s / 1e6:.2f}",
            format_count(topic.messages),
            _alarm(topic.lost_before_us, "yellow"),
            _alarm(topic.lost_by_us, "bold red"),
            Text(state, style="yellow" if quiet else ""),
        )
    totals = Text(recording_line(statistics), style="dim")
    return Group(table, totals) if statistics.topics else totals


def recording_line(statistics: RecorderStatistics) -> str:
    """Return the totals of a recording in one line, with the losses and the room left on the disk."""
    rate = sum(topic.bytes_per_s for topic in statistics.topics)
    by_us = sum(topic.lost_by_us for topic in statistics.topics)
    parts = [
        format_duration(statistics.elapsed_ns),
        _plural(len(statistics.topics), "topic"),
        _plural(statistics.messages, "message"),
        format_size(statistics.bytes),
        f"{rate / 1e6:.1f} MB/s",
        f"backlog {format_size(statistics.backlog_bytes)}",
        f"lost before us {format_count(statistics.lost_before_us)}",
        f"lost by us {format_count(by_us)}",
    ]
    if rate >= 1:
        parts.append(f"disk full in {_time_left(Path(statistics.path), rate)}")
    if not statistics.discovery_answers:
        parts.append("no discovery daemon answers; start one with: cortex discovery")
    return "  ".join(parts)


def recording_summary(statistics: RecorderStatistics) -> RenderableType:
    """Return the account of a finished recording: where it is, what it holds, and every loss by topic."""
    head = (
        f"{statistics.path}: {_plural(statistics.messages, 'message')} of {_plural(len(statistics.topics), 'topic')}, "
        f"{format_size(statistics.bytes)} in {format_duration(statistics.elapsed_ns)}."
    )
    losses = [
        (
            topic.topic,
            _missing(
                before_join=topic.published_before_join,
                before_us=topic.lost_before_us,
                by_us=topic.lost_by_us,
                restarts=topic.restarts,
            ),
        )
        for topic in statistics.topics
    ]
    lines = [f"  {topic}: {text}" for topic, text in losses if text]
    if not any(topic.lost_before_us or topic.lost_by_us for topic in statistics.topics):
        lines.append("Nothing was lost." if statistics.messages else "No message arrived.")
    elif any(topic.lost_before_us for topic in statistics.topics):
        lines.append("Lost before us: dropped by the publisher's queue; a larger queue_size there helps.")
    return Text("\n".join([head, *lines]))


def _alarm(count: int, style: str) -> Text:
    return Text(format_count(count), style=style if count else "dim")


def _time_left(path: Path, bytes_per_s: float) -> str:
    free = shutil.disk_usage(path.parent).free
    return format_duration(free / bytes_per_s * NS_PER_S)


# info ------------------------------------------------------------------------------------------------------------


def info(one: BagInfo) -> RenderableType:
    """Return what a bag holds: a head of facts and one row a topic."""
    facts = [
        ("Bag", f"{one.path} ({format_size(one.size_bytes)})"),
        ("Start", _local_time(one.start_ns)),
        ("Duration", format_duration(one.duration_ns)),
        ("Messages", f"{format_count(one.messages)} ({format_size(one.bytes)})"),
        ("Closed", "cleanly" if one.closed_cleanly else "no: the recorder was interrupted or is still writing"),
        ("Host", one.host),
        ("Description", one.description),
        *one.custom_data.items(),
    ]
    head = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for name, value in facts:
        if value:
            head.add_row(Text(name, style="bold"), Text(str(value)))
    table = _table("Topic", "Type", "Node", "Messages", "Hz", "Size", "Missing")
    for topic in one.topics:
        text = _missing(
            before_join=topic.published_before_join,
            before_us=topic.lost_before_us,
            by_us=topic.lost_by_us,
            restarts=topic.restarts,
        )
        table.add_row(
            topic.topic,
            topic.type_name,
            topic.node,
            format_count(topic.messages),
            format_hz(topic.hz),
            format_size(topic.bytes),
            text or "-",
        )
    return Group(head, "", table)


def _local_time(time_ns: int | None) -> str:
    if time_ns is None:
        return ""
    return datetime.fromtimestamp(time_ns / NS_PER_S).astimezone().isoformat(sep=" ", timespec="milliseconds")


# play ------------------------------------------------------------------------------------------------------------


def playing(progress: PlayProgress) -> RenderableType:
    """Return the live display of a replay: a bar and a line."""
    total = max(1, progress.duration_ns)
    bar = ProgressBar(total=total, completed=min(total, max(0, progress.position_ns)), width=40)
    # a bar alone does not end its line
    line = Table.grid()
    line.add_row(bar)
    return Group(line, Text(playing_line(progress), style="dim"))


def playing_line(progress: PlayProgress) -> str:
    """Return the state of a replay in one line: position, rate, messages, lateness."""
    return "  ".join(
        [
            f"{format_duration(max(0, progress.position_ns))} of {format_duration(progress.duration_ns)}",
            f"rate {progress.rate:g}",
            f"sent {format_count(progress.sent)}",
            f"late {format_duration(progress.lateness_ns)}",
        ]
    )


def playing_report(report: PlayReport) -> RenderableType:
    """Return the report of a finished replay: per topic what was sent, what was refused and how late."""
    table = _table("Topic", "Node", "Sent", "Refused", "Late p50", "p99", "max")
    for topic in report.topics:
        table.add_row(
            topic.topic, topic.node, format_count(topic.sent), format_count(topic.refused), *_times(topic.lateness)
        )
    table.add_section()
    table.add_row("all", "", format_count(report.sent), format_count(report.refused), *_times(report.lateness))
    notes = ["No discovery daemon answered, so the player ran its own."] if report.embedded_discovery else []
    return Group(table, *notes)


def _times(timing: Lateness | Timing | None) -> Iterable[str]:
    if timing is None:
        return ("-", "-", "-")
    return (format_duration(timing.p50_ns), format_duration(timing.p99_ns), format_duration(timing.max_ns))


# demo ------------------------------------------------------------------------------------------------------------


def verdict(found: Verdict) -> RenderableType:
    """Return the verdict of the demo: per topic the three counts, the identical ones, and the timing error."""
    table = _table("Topic", "Published", "Recorded", "Replayed", "Identical", "p50", "p99", "max", "Verdict")
    for topic in found.topics:
        table.add_row(
            topic.topic,
            format_count(topic.published),
            format_count(topic.recorded),
            format_count(topic.replayed),
            format_count(topic.identical),
            *_times(topic.timing),
            Text("agrees", style="green") if topic.agrees else Text("DIFFERS", style="bold red"),
        )
    lines = [
        "Identical: equal SHA-256 of all parts as published, as recorded, and as received from the replay.",
        "p50, p99, max: |arrival - due| of the replay at a plain subscriber; a message is due at its recorded publish "
        "time, shifted by the median over all messages.",
        "",
        f"Bag       {found.bag}",
        f"Timeline  {found.timeline or found.timeline_note}",
        "All topics agree." if found.agrees else "NOT all topics agree.",
    ]
    return Group(table, "", *(Text(line) for line in lines))
