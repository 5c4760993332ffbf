"""``cortex bag ctl``: one order to a recording that runs elsewhere."""

from __future__ import annotations

from pathlib import Path

import click

from bag.cli import options, record_options
from bag.control import command as order


@click.command()
@options.together(record_options.bag_path_arg, record_options.command_arg, record_options.text_arg)
def ctl(bag_path: Path, command: str, text: str | None) -> None:
    """Tell the recorder of BAG to pause, resume, split, snapshot, stop, or keep a mark.

    Only the user who records can do so.

    \b
    Examples:
      cortex bag ctl run.h5 pause
      cortex bag ctl run.h5 mark "the arm hit the table"
    """
    if (command == "mark") != bool(text):
        raise click.UsageError(
            "mark needs a TEXT, as in: mark 'bump'." if text is None else f"{command} takes no TEXT."
        )
    order(bag_path, command, text or "")
