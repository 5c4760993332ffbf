"""``cortex bag demo``: a synthetic robot is recorded and replayed, and every byte is compared."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import click

from bag import demo as show
from bag.cli import options, tables, views


@click.command()
@options.together(options.output_dir_opt, options.demo_duration_opt, options.json_opt)
def demo(output_dir: Path, duration_ns: int, as_json: bool) -> None:
    """Record a synthetic robot, replay it, compare every byte.

    Runs by itself: a private discovery daemon, the robot's nodes, the recorder, the player and a subscriber are real
    processes and never meet a system that is running. Exit code 0 means that all topics agree.

    \b
    Example:
      cortex bag demo -o /tmp/demo --duration 10s
    """
    # so that SIGTERM too ends the demo's processes before its own
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    verdict = show.run(output_dir, duration_ns, report=lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps(views.to_json(verdict), indent=2))
    else:
        views.console().print(tables.verdict(verdict))
    if not verdict.agrees:
        raise click.exceptions.Exit(1)
