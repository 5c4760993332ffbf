"""``cortex bag du``: which topics and datasets take the room in a bag."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bag.cli import edit_options, options, views
from bag.render import clean
from bag.sizes import BagSize, sizes
from bag.storage.probe import untrusted
from bag.units import format_count, format_size


@click.command()
@options.together(edit_options.bags_arg, edit_options.columns_opt, options.json_opt)
def du(bags: tuple[Path, ...], columns: bool, as_json: bool) -> None:
    """Show how the bytes of every BAG are shared among its topics, the largest first.

    No message is read. The rest is what belongs to no topic: HDF5's own structures and the bag's bookkeeping.

    \b
    Examples:
      cortex bag du run.h5
      cortex bag du --columns run.h5
    """
    found = []
    for path in bags:
        with untrusted(path):
            found.append(sizes(path))
    if as_json:
        documents = [views.to_json(one) for one in found]
        click.echo(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2))
        return
    for one in found:
        _show(one, columns=columns)


def _show(one: BagSize, *, columns: bool) -> None:
    def line(stored: int, plain: int, name: str) -> None:
        saved = f"  ({format_size(plain)} unpacked)" if stored != plain and one.compression else ""
        click.echo(clean(f"{format_size(stored):>10} {stored / max(1, one.size):6.1%}  {name}{saved}"))

    line(one.size, one.size, one.path)
    for topic in sorted(one.topics, key=lambda topic: -topic.stored):
        line(topic.stored, topic.plain, f"{topic.topic}  {format_count(topic.messages)} messages")
        for column in topic.columns if columns else ():
            line(column.stored, column.plain, f"  {column.path}")
    line(one.overhead, one.overhead, "the rest")
