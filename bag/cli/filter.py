"""``cortex bag filter``: cut and thin out a bag into a new one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bag.cli import edit_options, options, views
from bag.edit import EditReport, FilterOptions, filter_bag
from bag.render import clean
from bag.storage.probe import untrusted
from bag.units import format_count, format_size


@click.command(name="filter")
@options.together(
    edit_options.bag_arg,
    edit_options.new_bag_opt,
    edit_options.include_opt,
    edit_options.exclude_opt,
    edit_options.start_opt,
    edit_options.end_opt,
    edit_options.where_opt,
    edit_options.around_opt,
    edit_options.before_opt,
    edit_options.after_opt,
    edit_options.sticky_opt,
    edit_options.remap_opt,
    edit_options.shift_opt,
    edit_options.compression_opt,
    edit_options.force_opt,
    edit_options.dry_run_opt,
    options.json_opt,
)
def filter_command(bag_path: Path, output: Path, force: bool, dry_run: bool, as_json: bool, **chosen: Any) -> None:
    """Write a part of BAG to a new bag: some topics, some time, some messages.

    Times are half open: --start is taken, --end is not. Topics stay even when no message of theirs is left. Messages
    keep their bytes; with --shift their times change. What --where and --around leave out stands in the new bag's
    ledger as left out on purpose, not as lost.

    EXPR is a small language: fields by name (`d.x` or `d["x"]` into dicts, `a[0]` into arrays), numbers and texts,
    + - * / // % **, comparisons, and, or, not, in, and the functions norm abs sum mean median std min max any all sqrt
    exp log sin cos atan2 round isnan isfinite len has startswith lower. Also: sequence, publish_time_ns,
    log_time_ns, nbytes.

    \b
    Examples:
      cortex bag filter run.h5 -o cut.h5 -S 10 -E 20
      cortex bag filter run.h5 -o end.h5 --start -5
      cortex bag filter run.h5 -o small.h5 -n '/camera/.*' --sticky '/map'
      cortex bag filter run.h5 -o hard.h5 --where '/imu: norm(linear_acceleration) > 20'
      cortex bag filter run.h5 -o crash.h5 --around braked --before 10 --after 5
    """
    wanted = FilterOptions(**chosen)
    with untrusted(bag_path):
        report = filter_bag(bag_path, output, wanted, force=force, dry_run=dry_run)
    show_edit(report, as_json=as_json)


def show_edit(report: EditReport, *, as_json: bool) -> None:
    """Say what an edit wrote, or would write."""
    if as_json:
        click.echo(json.dumps(views.to_json(report), indent=2))
        return
    width = max((len(topic.name) for topic in report.topics), default=5)
    for topic in report.topics:
        source = "" if topic.topic == topic.name else f"  (was {topic.topic})"
        of = f"{format_count(topic.kept):>12} of {format_count(topic.messages)}"
        click.echo(clean(f"{topic.name:{width}}  {of}{source}"))
    if report.dropped:
        click.echo(clean(f"Left out: {', '.join(report.dropped)}"))
    if report.dry_run:
        click.echo(f"{report.path} would hold {format_count(report.messages)} messages; nothing was written.")
    else:
        size = format_size(Path(report.path).stat().st_size)
        click.echo(f"{report.path}: {format_count(report.messages)} messages, {size}.")
