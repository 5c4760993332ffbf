"""``cortex bag merge``: several bags as one, ordered by time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bag.cli import edit_options, options
from bag.cli.filter import show_edit
from bag.merging import merge
from bag.storage.probe import untrusted


@click.command(name="merge")
@options.together(
    edit_options.bags_arg,
    edit_options.new_bag_opt,
    edit_options.shifts_opt,
    edit_options.align_start_opt,
    edit_options.compression_opt,
    edit_options.force_opt,
    edit_options.dry_run_opt,
    options.json_opt,
)
def merge_command(bags: tuple[Path, ...], output: Path, as_json: bool, **chosen: Any) -> None:
    """Write the messages of every BAG to one bag, ordered by time.

    A topic of several bags becomes one topic; the splits of a recording become the recording. Counts, losses and
    restarts are worked out anew. Bags of one machine are ordered by its monotonic clock, those of others by wall time.

    \b
    Examples:
      cortex bag merge run_0.h5 run_1.h5 run_2.h5 -o run.h5
      cortex bag merge front.h5 rear.h5 -o both.h5 --shift 0 --shift 2.5s
      cortex bag merge try1.h5 try2.h5 -o overlaid.h5 --align-start
    """
    with untrusted(*bags):
        report = merge(bags, output, **chosen)
    show_edit(report, as_json=as_json)
