"""``cortex bag recover``: a new, whole bag of what is left in a damaged one."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bag.cli import edit_options, options, views
from bag.cli.verify import verdict_lines
from bag.render import clean
from bag.storage.damage import reading
from bag.storage.recover import RecoverReport, recover
from bag.units import format_count


@click.command(name="recover")
@options.together(edit_options.bag_arg, edit_options.new_bag_opt, edit_options.force_opt, options.json_opt)
def recover_command(bag_path: Path, output: Path, force: bool, as_json: bool) -> None:
    """Write every message of BAG that is still whole to a new bag.

    BAG may be cut short, overwritten in places, or so damaged that no HDF5 tool opens it: messages are found by their
    checksums, and only those that are proven are kept. BAG itself is never touched. The new bag is checked as by
    `verify` before this command says so. What was lost stands in its ledger as lost by us.
    Exit code: 0 everything, 3 something was lost, 1 nothing could be saved.

    \b
    Examples:
      cortex bag recover broken.h5 -o saved.h5
      cortex bag recover broken.h5 -o saved.h5 --json
    """
    with reading(bag_path):
        report = recover(bag_path, output, force=force)
    if as_json:
        click.echo(json.dumps(views.to_json(report) | {"kept": report.kept, "lost": report.lost}, indent=2))
    else:
        click.echo(clean("\n".join(_lines(report))))
    if report.lost or report.notes or any(not topic.kept and topic.lost for topic in report.topics):
        raise click.exceptions.Exit(3)


def _lines(report: RecoverReport) -> list[str]:
    width = max((len(topic.topic) for topic in report.topics), default=5)
    lines = [f"{'Topic':{width}}  {'Kept':>12}  {'Lost':>12}"]
    lines += [
        f"{topic.topic:{width}}  {format_count(topic.kept):>12}  {format_count(topic.lost):>12}"
        for topic in report.topics
    ]
    lines += [f"Note: {note}." for note in report.notes]
    lines.append(f"{format_count(report.kept)} messages kept, {format_count(report.lost)} lost.")
    return lines + verdict_lines(report.verified)
