"""``cortex bag info``: what is in a bag, and what is missing from it, without reading a message."""

from __future__ import annotations

import json
from pathlib import Path

import click

import bag
from bag.cli import options, tables, views


@click.command()
@options.together(options.bags_arg, options.json_opt)
def info(bags: tuple[Path, ...], as_json: bool) -> None:
    """Show what is in each BAG: topics, counts, rates, sizes and losses.

    With --json the output is one object for one bag and a list of objects for several.

    \b
    Examples:
      cortex bag info run.h5
      cortex bag info --json run.h5
    """
    found = []
    for path in bags:
        with bag.open(path) as run:
            found.append(run.info())
    if as_json:
        documents = [one.to_json() for one in found]
        click.echo(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2))
        return
    for number, one in enumerate(found):
        views.console().print(*[""] * (number > 0), tables.info(one), sep="\n")
