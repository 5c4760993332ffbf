"""What ``record`` shows to people: the live table, the line, and the account at the end; nothing is printed here."""

from __future__ import annotations

import shutil

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bag import RecorderStatistics, TopicStatistics
from bag.cli import price
from bag.cli.tables import make_table, missing, plural
from bag.units import NS_PER_S, format_count, format_duration, format_hz, format_size

_KEYS = "SPACE pause  m mark  s {s}  q stop"
# below and above the table
_OTHER_LINES = 8
_QUIET_NS = 2 * NS_PER_S


def live(statistics: RecorderStatistics, *, keys: bool = True) -> RenderableType:
    """Return the live display of a recording: its state, one row a topic, totals, and what there is to complain of."""
    rows = make_table("Topic", "Node", "Hz", "MB/s", "Messages", "Lost\nbefore us", "by us", "Last\nseen")
    room = max(3, shutil.get_terminal_size().lines - _OTHER_LINES)
    shown = statistics.topics
    if len(shown) > room:
        # those that need a look come first
        shown = tuple(sorted(shown, key=_urgency))[: room - 1]
    for topic in shown:
        _add(rows, topic)
    parts: list[RenderableType] = [_state(statistics, keys)]
    if statistics.topics:
        parts.append(rows)
    if len(shown) < len(statistics.topics):
        parts.append(Text(f"... and {plural(len(statistics.topics) - len(shown), 'more topic')}", style="dim"))
    parts.append(Text(line(statistics), style="dim"))
    worries = [*statistics.complaints[-2:], *statistics.problems[-2:]]
    parts += [Text(worry, style="bold yellow") for worry in worries]
    return Group(*parts)


def _state(statistics: RecorderStatistics, keys: bool) -> Text:
    words = {"paused": "bold yellow", "waiting for topics": "yellow", "keeping the past": "green", "recording": "green"}
    word = _word(statistics)
    text = Text.assemble((word, words[word]), f" {statistics.path}  ", (format_duration(statistics.elapsed_ns), "bold"))
    if len(statistics.paths) > 1:
        text.append(f"  file {len(statistics.paths)}")
    if statistics.snapshot_mode:
        held = format_size(statistics.held_bytes)
        text.append(f"  holds {held}, {plural(statistics.snapshots, 'snapshot')}")
    if keys:
        text.append("  " + _KEYS.format(s="snapshot" if statistics.snapshot_mode else "split"), style="dim")
    return text


def _word(statistics: RecorderStatistics) -> str:
    if statistics.waiting:
        return "waiting for topics"
    if statistics.paused:
        return "paused"
    return "keeping the past" if statistics.snapshot_mode else "recording"


def _urgency(topic: TopicStatistics) -> tuple[bool, bool, float]:
    return not topic.lost_by_us, not (topic.lost_before_us or topic.stale), -topic.bytes_per_s


def _add(rows: Table, topic: TopicStatistics) -> None:
    seen = "waiting" if topic.silent_ns is None else _age(topic.silent_ns)
    state = "publisher gone" if topic.stale else seen
    quiet = topic.stale or topic.silent_ns is None or topic.silent_ns > _QUIET_NS
    rows.add_row(
        topic.topic,
        topic.node,
        format_hz(topic.hz),
        f"{topic.bytes_per_s / 1e6:.2f}",
        format_count(topic.messages),
        _alarm(topic.lost_before_us, "yellow"),
        _alarm(topic.lost_by_us, "bold red"),
        Text(state, style="yellow" if quiet else ""),
    )


# milliseconds that dance in front of the eyes tell nobody anything
def _age(silent_ns: int) -> str:
    return "now" if silent_ns < NS_PER_S else format_duration(silent_ns)


def line(statistics: RecorderStatistics) -> str:
    """Return the totals of a recording in one line: rates in and out, losses, and the room left on the disk."""
    by_us = sum(topic.lost_by_us for topic in statistics.topics)
    parts = [
        format_duration(statistics.elapsed_ns),
        plural(len(statistics.topics), "topic"),
        plural(statistics.messages, "message"),
        format_size(statistics.bytes),
        f"in {statistics.in_bytes_per_s / 1e6:.1f} MB/s",
        f"out {statistics.out_bytes_per_s / 1e6:.1f} MB/s",
        f"backlog {format_size(statistics.backlog_bytes)}",
        f"lost before us {format_count(statistics.lost_before_us)}",
        f"lost by us {format_count(by_us)}",
    ]
    if statistics.out_bytes_per_s >= 1:
        parts.append(f"disk full in {_minutes(statistics.free_bytes / statistics.out_bytes_per_s)}")
    if statistics.paused:
        parts.append("PAUSED")
    if statistics.waiting:
        parts.append("waiting for topics")
    if not statistics.discovery_answers:
        parts.append("no discovery daemon answers; start one with: cortex discovery")
    return "  ".join(parts)


def summary(statistics: RecorderStatistics) -> RenderableType:
    """Return the account of a finished recording: where it is, what it holds, and every loss by topic."""
    head = (
        f"{statistics.path}: {plural(statistics.messages, 'message')} of {plural(len(statistics.topics), 'topic')}, "
        f"{format_size(statistics.bytes)} in {format_duration(statistics.elapsed_ns)}."
    )
    if statistics.snapshot_mode:
        seen = f"{plural(statistics.messages, 'message')} of {plural(len(statistics.topics), 'topic')} seen"
        head = (
            f"{plural(statistics.snapshots, 'snapshot')} written; {seen} in {format_duration(statistics.elapsed_ns)}."
        )
    lines = [head]
    if len(statistics.paths) > 1:
        lines.append(f"{len(statistics.paths)} files: {statistics.paths[0]} to {statistics.paths[-1]}.")
    lines += [f"  {topic.topic}: {text}" for topic in statistics.topics if (text := _missing(topic))]
    if not any(topic.lost_before_us or topic.lost_by_us for topic in statistics.topics):
        lines.append("Nothing was lost." if statistics.messages else "No message arrived.")
    elif any(topic.lost_before_us for topic in statistics.topics):
        lines.append("Lost before us: dropped by the publisher's queue; a larger queue_size there helps.")
    if statistics.compression is not None and statistics.messages:
        lines.append(price.of_recording(statistics.compression))
    lines += [*statistics.complaints, *statistics.problems]
    return Text("\n".join(lines))


def _missing(topic: TopicStatistics) -> str:
    parts = [
        missing(
            before_join=topic.published_before_join,
            before_us=topic.lost_before_us,
            by_us=topic.lost_by_us,
            restarts=topic.restarts,
        ),
        f"{format_count(topic.throttled)} thinned out" if topic.throttled else "",
        f"{format_count(topic.paused)} while paused" if topic.paused else "",
        f"{format_count(topic.malformed)} malformed" if topic.malformed else "",
    ]
    return ", ".join(part for part in parts if part)


def _alarm(count: int, style: str) -> Text:
    return Text(format_count(count), style=style if count else "dim")


def _minutes(seconds: float) -> str:
    minutes = seconds / 60
    if minutes > 48 * 60:
        return f"{minutes / 60 / 24:.0f} days"
    return f"{minutes:,.0f} min" if minutes >= 10 else f"{minutes:.1f} min"
