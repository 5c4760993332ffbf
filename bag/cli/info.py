"""``cortex bag info``: what is in a bag, and what is missing from it, without reading a message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import bag
from bag.cli import bag_table, edit_options, options, price, views
from bag.errors import UsageError
from bag.records import BagInfo, TopicSummary
from bag.rhythm import Rhythm, rhythms
from bag.storage.price import price_of
from bag.storage.probe import untrusted

_SORTS: dict[str, Callable[[TopicSummary], Any]] = {
    "name": lambda topic: topic.topic,
    "type": lambda topic: (topic.type_name, topic.topic),
    "count": lambda topic: -topic.messages,
    "hz": lambda topic: -(topic.hz or 0),
    "size": lambda topic: -topic.bytes,
    "lost": lambda topic: (-topic.lost_by_us, -topic.lost_before_us),
}


@click.command()
@options.together(
    edit_options.bags_arg,
    edit_options.topic_opt,
    edit_options.sort_opt,
    edit_options.exact_opt,
    edit_options.plot_opt,
    options.json_opt,
)
def info(
    bags: tuple[Path, ...], only: tuple[str, ...], sort: str | None, exact: bool, plot: Path | None, as_json: bool
) -> None:
    """Show what is in each BAG: topics, counts, rates, sizes and losses.

    Hz is the mean rate; beside it stand the slowest, median and fastest rate, from the longest, median and shortest
    interval between two arrivals. Of a long bag a part of the intervals is looked at, and the rates have a ~, unless
    --exact is given. `Lost before us` was dropped by the publisher's queue, `lost by us` by the recorder; the two are
    never summed. --topic also lists every gap. With --json the output is one object for one bag and a list of objects
    for several. --plot draws one picture of one bag.

    \b
    Examples:
      cortex bag info run.h5
      cortex bag info run.h5 --topic /imu
      cortex bag info --sort size run_0.h5 run_1.h5
      cortex bag info run.h5 --plot run.png
      cortex bag info --json run.h5 | jq '.topics[] | {topic, hz_median}'
    """
    if plot is not None and len(bags) != 1:
        raise UsageError(f"--plot draws one bag, not {len(bags)}; call it for each")
    documents = []
    for number, path in enumerate(bags):
        with untrusted(path), bag.open(path) as run:
            one, found = _chosen(run.info(), only, sort), rhythms(run.reader, exact=exact)
            marks = list(run.marks)
            gaps = {topic: run[topic].gaps() for topic in only}
            cost = price_of(run.reader)
            if plot is not None:
                _draw(run, plot)
        if as_json:
            documents.append(_document(one, found, marks, gaps) | {"compression": views.to_json(cost)})
        else:
            table = bag_table.table(one, found, marks, gaps, price.of_bag(cost))
            views.console().print(*[""] * (number > 0), table, sep="\n")
    if as_json:
        click.echo(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2))
    elif plot is not None:
        click.echo(f"Drawn to {plot}.")


def _chosen(one: BagInfo, only: tuple[str, ...], sort: str | None) -> BagInfo:
    import dataclasses

    known = [topic.topic for topic in one.topics]
    for name in only:
        if name not in known:
            raise UsageError(f"{one.path} has no topic {name}; it has: {', '.join(known) or 'none'}")
    topics = [topic for topic in one.topics if not only or topic.topic in only]
    if sort is not None:
        topics.sort(key=_SORTS[sort])
    return dataclasses.replace(one, topics=tuple(topics))


def _document(
    one: BagInfo, found: dict[str, Rhythm], marks: list[tuple[str, int]], gaps: dict[str, Any]
) -> dict[str, Any]:
    document = one.to_json()
    document["marks"] = [{"text": text, "log_time_ns": time_ns} for text, time_ns in marks]
    for topic in document["topics"]:
        topic |= views.to_json(found[topic["topic"]])
        topic["share"] = topic["bytes"] / one.bytes if one.bytes else 0.0
        if topic["topic"] in gaps:
            topic["ledger"] = [views.to_json(gap) for gap in gaps[topic["topic"]]]
    return document


def _draw(run: bag.Bag, output: Path) -> None:
    from bag.plot import timeline

    timeline(run, output)
