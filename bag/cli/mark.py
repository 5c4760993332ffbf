"""``cortex bag mark``: keep a named moment in a bag that is finished."""

from __future__ import annotations

from pathlib import Path

import click

from bag import annotate
from bag.cli import edit_options, options
from bag.render import local_time
from bag.storage.probe import untrusted


@click.command()
@options.together(edit_options.bag_arg, edit_options.text_arg, edit_options.at_opt)
def mark(bag_path: Path, text: str, at: str) -> None:
    """Keep the moment --at under the name TEXT in BAG.

    Marks say where something happened: `filter --around TEXT` cuts there, and -S @TEXT begins there. The bag is
    changed in place, by one atomic commit.

    \b
    Examples:
      cortex bag mark run.h5 braked --at 12.5
      cortex bag mark run.h5 "lost the cup" --at 2026-01-31T12:00:00+01:00
    """
    with untrusted(bag_path):
        wall_ns = annotate.mark(bag_path, text, at)
    click.echo(f"{bag_path}: marked {text!r} at {local_time(wall_ns)}.")
