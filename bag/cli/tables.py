"""What commands show to people: tables and sentences made of the library's frozen values; nothing is printed here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Group, OverflowMethod, RenderableType
from rich.table import Table
from rich.text import Text

from bag.cli.quick_table import QuickTable
from bag.units import NS_PER_S, format_count, format_duration

if TYPE_CHECKING:
    from bag.demo import Verdict
    from bag.statistics import Lateness, PlayProgress, PlayReport
    from bag.verdict import Timing

_OVERFLOW: dict[str, OverflowMethod] = {"Topic": "fold", "Type": "ellipsis", "Node": "fold", "Missing": "fold"}


def make_table(*columns: str) -> QuickTable:
    """An empty table of these columns."""
    # fits 80 columns in the usual case: the type is shortened before a number is
    table = QuickTable(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        if column in _OVERFLOW:
            table.add_column(column, overflow=_OVERFLOW[column], vertical="bottom")
        else:
            table.add_column(column, justify="right", no_wrap=True, vertical="bottom")
    return table


def plural(count: int, noun: str) -> str:
    """A count and its noun."""
    return f"{format_count(count)} {noun}{'' if count == 1 else 's'}"


def missing(*, before_join: int, before_us: int, by_us: int, restarts: int = 0) -> str:
    """What is missing, and who lost it."""
    # "lost before us" and "lost by us" are never summed: they have different cures
    parts = [
        f"{format_count(by_us)} lost by us" if by_us else "",
        f"{format_count(before_us)} lost before us" if before_us else "",
        f"{format_count(before_join)} sent before we joined" if before_join else "",
        plural(restarts, "restart") if restarts else "",
    ]
    return ", ".join(part for part in parts if part)


# play ------------------------------------------------------------------------------------------------------------


def playing(progress: PlayProgress, keys: str = "") -> RenderableType:
    """Return the live display of a replay: a bar, a line, and what keys do."""
    from rich.progress_bar import ProgressBar

    total = max(1, progress.duration_ns)
    bar = ProgressBar(total=total, completed=min(total, max(0, progress.position_ns)), width=40)
    # a bar alone does not end its line
    line = Table.grid()
    line.add_row(bar)
    lines = [Text(playing_line(progress), style="dim"), *([Text(keys, style="dim")] if keys else [])]
    return Group(line, *lines)


def playing_line(progress: PlayProgress) -> str:
    """Return the state of a replay in one line: position, rate, messages, lateness, and what it is waiting for."""
    parts = [
        f"{format_duration(max(0, progress.position_ns))} of {format_duration(progress.duration_ns)}",
        f"rate {progress.rate:g}",
        f"sent {format_count(progress.sent)}",
        f"late {format_duration(progress.lateness_ns)}",
    ]
    if progress.passes > 1:
        parts.append(f"pass {progress.passes}")
    if progress.paused:
        parts.append("PAUSED")
    elif progress.next_in_ns is not None and progress.next_in_ns >= NS_PER_S:
        parts.append(f"next message in {progress.next_in_ns / NS_PER_S:.0f} s")
    return "  ".join(parts)


def playing_report(report: PlayReport) -> RenderableType:
    """Return the report of a finished replay: per topic what was sent, what was refused and how late."""
    table = make_table("Topic", "Node", "Sent", "Refused", "Late p50", "p99", "max")
    for topic in report.topics:
        table.add_row(
            topic.topic, topic.node, format_count(topic.sent), format_count(topic.refused), *_times(topic.lateness)
        )
    table.add_section()
    table.add_row("all", "", format_count(report.sent), format_count(report.refused), *_times(report.lateness))
    rate = report.sent / (report.duration_ns / NS_PER_S) if report.duration_ns else 0
    sent, took = plural(report.sent, "message"), format_duration(report.duration_ns)
    notes = [f"{sent} in {took}, {format_count(round(rate))} a second."]
    if report.repeated:
        notes.append(f"{plural(report.repeated, 'sticky value')} sent again.")
    if not report.completed:
        notes.append("Stopped before the end.")
    if report.embedded_discovery:
        notes.append("No discovery daemon answered, so the player ran its own.")
    return Group(table, *notes)


def _times(timing: Lateness | Timing | None) -> Iterable[str]:
    if timing is None:
        return ("-", "-", "-")
    return (format_duration(timing.p50_ns), format_duration(timing.p99_ns), format_duration(timing.max_ns))


# demo ------------------------------------------------------------------------------------------------------------


def verdict(found: Verdict) -> RenderableType:
    """Return the verdict of the demo: per topic the three counts, the identical ones, and the timing error."""
    table = make_table("Topic", "Published", "Recorded", "Replayed", "Identical", "p50", "p99", "max", "Verdict")
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
