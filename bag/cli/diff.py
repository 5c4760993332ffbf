"""``cortex bag diff``: two recordings compared message by message, and one word about it as exit code."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bag.cli import options, play_options, views
from bag.differences import DiffReport, TopicDiff, diff
from bag.storage.probe import untrusted
from bag.units import format_count, format_duration


@click.command(name="diff")
@options.together(
    play_options.bag_a_arg,
    play_options.bag_b_arg,
    play_options.diff_topics_opt,
    play_options.time_tolerance_opt,
    options.json_opt,
)
def diff_command(bag_a: str, bag_b: str, as_json: bool, **chosen: Any) -> None:
    """Compare recording A with B, for example with the recording of its replay. Either may be a glob of splits.

    Compared are the messages by sequence, every byte, the order, the publishers and, with --time-tolerance, the time
    between messages. Exit code: 0 when all is equal, otherwise 1.

    \b
    Examples:
      cortex bag diff run.h5 again.h5
      cortex bag diff run.h5 "again_*.h5" --time-tolerance 5ms
    """
    one, other = _files(bag_a), _files(bag_b)
    with untrusted(*map(Path, [*one, *other])):
        report = diff(one, other, **chosen)
    if as_json:
        views.echo_event("summary", report)
    else:
        views.console().print(differences(report))
    if not report.equal:
        raise click.exceptions.Exit(1)


def _files(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern)) or [pattern]


def differences(report: DiffReport) -> RenderableType:
    """Return what differs, topic by topic, and the verdict."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("Topic", overflow="fold")
    for column in ("A", "B", "Same", "Missing", "Extra", "Differ", "Error p50", "p99", "max", "Verdict"):
        table.add_column(column, justify="right", no_wrap=True)
    for topic in report.topics:
        counts = (topic.messages_a, topic.messages_b, topic.same, topic.missing, topic.extra, topic.different)
        timing = topic.timing
        table.add_row(
            topic.topic,
            *map(format_count, counts),
            *map(format_duration, (timing.p50_ns, timing.p99_ns, timing.max_ns)),
            Text("equal", style="green") if topic.equal else Text("DIFFERS", style="bold red"),
        )
    lines = [line for topic in report.topics for line in _reasons(topic)]
    verdict = "The recordings are equal." if report.equal else "The recordings are NOT equal."
    return Group(table, "", *map(Text, lines), Text(verdict))


def _reasons(topic: TopicDiff) -> list[str]:
    found = [
        (topic.missing, "missing in B: sequence " + _ranges(topic.missing_sequences)),
        (topic.extra, "only in B: sequence " + _ranges(topic.extra_sequences)),
        (topic.different, "other bytes: sequence " + _ranges(topic.different_sequences)),
        (not topic.in_order, "another order"),
        (not topic.same_identity, "another node, address or type"),
        (not topic.in_time, f"time between messages off by up to {format_duration(topic.timing.max_ns)}"),
    ]
    return [f"{topic.topic}: {text}" for is_so, text in found if is_so]


def _ranges(ranges: tuple[tuple[int, int], ...]) -> str:
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
