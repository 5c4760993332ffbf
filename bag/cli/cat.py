"""``cortex bag cat``: the messages themselves, as text, JSON lines or a table."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from bag import render
from bag.cli import edit_options, options
from bag.errors import UsageError
from bag.records import RawMessage
from bag.storage.probe import untrusted
from bag.storage.proven import ProvenBag, open_proven
from bag.walk import fields_of, messages
from bag.when import Timeline, parse_moment


@click.command()
@options.together(
    edit_options.bags_arg,
    edit_options.topics_opt,
    edit_options.start_opt,
    edit_options.end_opt,
    edit_options.count_opt,
    edit_options.format_opt,
    edit_options.full_opt,
)
def cat(
    bags: tuple[Path, ...],
    topics: tuple[str, ...],
    start: str | None,
    stop: str | None,
    limit: int | None,
    style: str,
    full: bool,
) -> None:
    """Print the messages of every BAG in the order they arrived.

    Arrays are summarised (dtype, shape, first values) unless --full is given. Field names are those the bag knows; see
    attach-schema. csv is a table of one topic; its columns are those of the first message.

    \b
    Examples:
      cortex bag cat run.h5 --topics /imu -n 5
      cortex bag cat run.h5 --start -2 --format ndjson | jq .fields
      cortex bag cat run.h5 --topics /joints --format csv > joints.csv
    """
    if style == "csv" and len(topics) != 1:
        raise UsageError("csv is a table of one topic; name it with --topics")
    table = _Table()
    left = limit
    for path in bags:
        with untrusted(path), open_proven(path) as bag:
            shown = 0
            for message in islice(_messages(bag, topics, start, stop), left):
                shown += 1
                fields = fields_of(bag, message)
                if style == "csv":
                    table.write(render.csv_cells(message, fields, full=full))
                elif style == "ndjson":
                    click.echo(render.json_line(message, fields, full=full))
                else:
                    click.echo(render.clean(render.text_line(message, fields, Timeline.of(bag).first_ns, full=full)))
            left = None if left is None else left - shown


def _messages(bag: ProvenBag, topics: tuple[str, ...], start: str | None, stop: str | None) -> Iterator[RawMessage]:
    for name in topics:
        if name not in bag.topics:
            raise UsageError(f"{bag.path} has no topic {name}; it has: {', '.join(bag.topics) or 'none'}")
    timeline = Timeline.of(bag)
    marks = [(text, timeline.mono_of(wall_ns)) for text, wall_ns in bag.definitions.marks]
    low = None if start is None else parse_moment(start, timeline, marks)
    high = None if stop is None else parse_moment(stop, timeline, marks)
    spans = []
    for name in topics or bag.topics:
        topic = bag.topics[name]
        first = 0 if low is None else Timeline.position(topic, low)
        last = len(topic) if high is None else Timeline.position(topic, high)
        spans.append((name, first, max(first, last)))
    return messages(bag, spans)


class _Table:
    """Writes CSV whose columns are those of the first message; what later ones have beyond them is left out."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._writer = csv.writer(sys.stdout, lineterminator="\n")

    def write(self, cells: dict[str, Any]) -> None:
        """Write one row, and the names of the columns before the first."""
        if not self._names:
            self._names = list(cells)
            self._writer.writerow(self._names)
        self._writer.writerow([cells.get(name, "") for name in self._names])
