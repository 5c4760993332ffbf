"""Every option of every ``cortex bag`` command, defined once, so that a word means the same thing everywhere.

A command picks the options it understands; it never spells one out itself. Sizes read as ``2G``, durations as
``1.5s``, ``200ms`` or ``5m`` (a bare number is seconds) and rates as ``0.5`` or ``2x``; inside the program they are
bytes, nanoseconds and floats.

| option | commands |
| --- | --- |
| bags (argument) | info, play |
| topics (argument), --all, --output, --force, --duration, --limit, --max-cache-size, --flush-interval | record |
| --polling-interval, --description, --custom-data, --import | record |
| --rate, --topics, --exclude-topics, --message-order, --delay, --start-offset, --end-offset | play |
| --lossless, --wait-for-subscribers, --wait-timeout, --queue-size, --no-embedded-discovery | play |
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

discovery_address_opt = click.option(
    "--discovery-address",
    metavar="ADDRESS",
    envvar="CORTEX_DISCOVERY_ADDRESS",
    show_envvar=True,
    help="Where the discovery daemon listens. Default: discovery.sock in CORTEX_DIR or /tmp/cortex.",
)
json_opt = click.option("--json", "as_json", is_flag=True, help="Write JSON for programs on standard output.")

bags_arg = click.argument("bags", metavar="BAG...", nargs=-1, required=True, type=click.Path(path_type=Path))

# record
topics_arg = click.argument("topics", metavar="[TOPICS]...", nargs=-1)
all_topics_opt = click.option("-a", "--all", "all_topics", is_flag=True, help="Record every topic, late ones too.")
output_opt = click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="bag_%Y_%m_%d-%H_%M_%S.h5",
    show_default=True,
    help="The bag to write; strftime codes such as %H are filled in.",
)
force_opt = click.option("-f", "--force", is_flag=True, help="Replace the file if it exists.")
duration_opt = click.option("--duration", "duration_ns", **_DURATION, help="Stop after this time, as in 90s or 5m.")
limit_opt = click.option("--limit", type=click.IntRange(min=1), help="Stop after this many messages in all.")
max_cache_size_opt = click.option(
    "--max-cache-size",
    "max_cache_bytes",
    default="1G",
    show_default=True,
    help="Memory for messages that wait for the disk; what does not fit is refused and counted.",
    **_SIZE,
)
flush_interval_opt = click.option(
    "--flush-interval",
    "flush_interval_ns",
    default="500ms",
    show_default=True,
    help="Time between two commits of the file.",
    **_DURATION,
)
polling_interval_opt = click.option(
    "-p",
    "--polling-interval",
    "polling_interval_ns",
    default="100ms",
    show_default=True,
    help="Time between two looks for new topics, where the daemon does not announce them.",
    **_DURATION,
)
description_opt = click.option("--description", default="", metavar="TEXT", help="A note to store in the bag.")
custom_data_opt = click.option("--custom-data", help="A pair to store in the bag; repeatable.", **_PAIRS)
imports_opt = click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE",
    help="A Python module that defines message types, so that the bag knows their field names; repeatable.",
)

# play
rate_opt = click.option(
    "-r", "--rate", **_RATE, default="1", show_default=True, help="Speed, where 2 is twice as fast as recorded."
)
play_topics_opt = click.option(
    "--topics", multiple=True, metavar="TOPIC", help="Play only this topic; repeatable. Default: all topics."
)
exclude_topics_opt = click.option(
    "--exclude-topics", multiple=True, metavar="TOPIC", help="Leave this topic out; repeatable."
)
message_order_opt = click.option(
    "--message-order",
    type=click.Choice(["sent", "received"]),
    default="sent",
    show_default=True,
    help="Pace and order by the publishers' clocks or by the recorder's.",
)
lossless_opt = click.option("--lossless", is_flag=True, help="Wait for slow subscribers instead of dropping messages.")
wait_for_subscribers_opt = click.option(
    "--wait-for-subscribers",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Start only when every topic has N subscribers.",
)
wait_timeout_opt = click.option(
    "--wait-timeout",
    "wait_timeout_ns",
    default="30s",
    show_default=True,
    help="Give up waiting for subscribers after this time.",
    **_DURATION,
)
delay_opt = click.option(
    "-d",
    "--delay",
    "delay_ns",
    default="200ms",
    show_default=True,
    help="Time between announcing the topics and the first message.",
    **_DURATION,
)
start_offset_opt = click.option(
    "-s", "--start-offset", "start_ns", **_DURATION, help="Skip this much at the beginning of the bag."
)
end_offset_opt = click.option(
    "--end-offset", "stop_ns", **_DURATION, help="Stop at this offset from the beginning of the bag."
)
queue_size_opt = click.option(
    "--queue-size",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Messages a topic may hold for a slow subscriber.",
)
embedded_discovery_opt = click.option(
    "--no-embedded-discovery",
    "embedded_discovery",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Refuse to play when no discovery daemon answers, instead of starting one.",
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


def together(*decorators: Decorator[Command]) -> Decorator[Command]:
    """Return one decorator that adds several options, in the order in which ``--help`` shows them."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate
