"""Every option of every ``cortex bag`` command, defined once, so that a word means the same thing everywhere.

A command picks the options it understands; it never spells one out itself. Sizes read as ``2G``, durations as
``1.5s``, ``200ms`` or ``5m`` (a bare number is seconds) and rates as ``0.5`` or ``2x``; inside the program they are
bytes, nanoseconds and floats.

| option | commands |
| --- | --- |
| bags (argument) | info, play |
| all of record and ctl | see `record_options` |
| all of play and diff | see `play_options` |
| --discovery-address | record, play |
| --json | record, info, play, demo |
| --output-dir, --demo-duration | demo |
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bag import units
from bag.cli import completions

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]


def _parse_pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"{text!r} is no pair; write KEY=VALUE.")
    return key, value


def _read_by(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return the callback of an option whose text, or each of whose texts, ``parse`` reads."""

    def callback(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(parse(text) for text in value)
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


_SIZE: dict[str, Any] = {"metavar": "SIZE", "callback": _read_by(units.parse_size)}
_DURATION: dict[str, Any] = {"metavar": "DURATION", "callback": _read_by(units.parse_duration)}
_RATE: dict[str, Any] = {"metavar": "RATE", "callback": _read_by(units.parse_rate)}
_PAIRS: dict[str, Any] = {"metavar": "KEY=VALUE", "multiple": True, "callback": _read_by(_parse_pair)}

# the same for options that are registered elsewhere
read_by, SIZE, DURATION, RATE, PAIRS = _read_by, _SIZE, _DURATION, _RATE, _PAIRS

discovery_address_opt = click.option(
    "--discovery-address",
    metavar="ADDRESS",
    envvar="CORTEX_DISCOVERY_ADDRESS",
    show_envvar=True,
    help="Where the discovery daemon listens. Default: discovery.sock in CORTEX_DIR or /tmp/cortex.",
)
json_opt = click.option("--json", "as_json", is_flag=True, help="Write JSON for programs on standard output.")

bags_arg = click.argument(
    "bags",
    metavar="BAG...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    shell_complete=completions.bags,
)

# demo
output_dir_opt = click.option(
    "-o",
    "--output",
    "output_dir",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default="bag_demo",
    show_default=True,
    help="Where the bag, the timeline and the logs go.",
)
demo_duration_opt = click.option(
    "--duration",
    "duration_ns",
    default="6s",
    show_default=True,
    help="How long the robot runs.",
    **_DURATION,
)


# export, convert
export_format_opt = click.option(
    "--format",
    "format_",
    type=click.Choice(["npz", "csv", "parquet", "zarr", "mcap", "images", "video", "lerobot", "rerun"]),
    required=True,
    help="What to write.",
)
export_output_opt = click.option(
    "-o",
    "--output",
    metavar="OUT",
    required=True,
    type=click.Path(path_type=Path),
    help="The file or directory to make; it appears when it is complete.",
)
export_topics_opt = click.option(
    "--topics",
    multiple=True,
    metavar="TOPIC",
    shell_complete=completions.topics,
    help="Take only this topic; repeatable. Default: all topics.",
)
export_start_opt = click.option(
    "--start", metavar="TIME", help="Begin here: seconds from the start, negative from the end, 1.5s, or ISO 8601."
)
export_end_opt = click.option("--end", metavar="TIME", help="End before this time; written as --start.")
image_format_opt = click.option(
    "--image-format", type=click.Choice(["png", "jpeg"]), help="images: how to store them.  [default: png]"
)
fps_opt = click.option(
    "--fps", type=click.FloatRange(min=0, min_open=True), help="video, lerobot: frames a second. Default: as recorded."
)
state_opt = click.option(
    "--state", multiple=True, metavar="TOPIC[:FIELD]", help="lerobot: numbers for observation.state; repeatable."
)
action_opt = click.option(
    "--action", multiple=True, metavar="TOPIC[:FIELD]", help="lerobot: numbers for action; repeatable."
)
task_opt = click.option("--task", metavar="TEXT", help="lerobot: what the robot does.")
each_opt = click.option("--each", is_flag=True, help="One output for each BAG, in the directory OUT.")
scheduler_opt = click.option(
    "--scheduler", metavar="ADDRESS", help="Export each BAG as a task of this Dask scheduler, as in tcp://host:8786."
)
overwrite_opt = click.option("-f", "--force", is_flag=True, help="Replace what is there.")
import_source_arg = click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
import_output_opt = click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="The bag to write. Default: SOURCE as .h5."
)
bag_sources_arg = click.argument("bags", metavar="BAG...", nargs=-1, required=True, shell_complete=completions.bags)


def together(*decorators: Decorator[Command]) -> Decorator[Command]:
    """Return one decorator that adds several options, in the order in which ``--help`` shows them."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate
