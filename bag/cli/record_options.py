"""The part of the registry of options that belongs to ``record`` and ``ctl``; ``options`` says how values are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bag.cli.options import DURATION, PAIRS, SIZE, read_by
from bag.control import COMMANDS


def _parse_demand(text: str) -> tuple[str, float | None]:
    topic, at, hz = text.rpartition("@")
    return (topic, _parse_hz(hz)) if at else (text, None)


def _parse_throttle(text: str) -> tuple[str, float]:
    topic, equals, hz = text.rpartition("=")
    if not topic or not equals:
        raise ValueError(f"{text!r} says no rate; write TOPIC=HZ, as in /camera/image=2.")
    return topic, _parse_hz(hz)


def _parse_hz(text: str) -> float:
    try:
        hz = float(text)
    except ValueError:
        hz = 0.0
    if not 0 < hz < float("inf"):
        raise ValueError(f"{text!r} is no rate; write messages per second, above 0.")
    return hz


def _several(metavar: str, parse: Any = None) -> dict[str, Any]:
    callback = {} if parse is None else {"callback": read_by(parse)}
    return {"multiple": True, "metavar": metavar, **callback}


topics_arg = click.argument("topics", metavar="[TOPICS]...", nargs=-1)
all_topics_opt = click.option("-a", "--all", "all_topics", is_flag=True, help="Record every topic, late ones too.")
regex_opt = click.option(
    "-e", "--regex", **_several("REGEX"), help="Record also topics in whose name this is found; repeatable."
)
exclude_regex_opt = click.option(
    "-x", "--exclude-regex", **_several("REGEX"), help="Leave topics out in whose name this is found; repeatable."
)
exclude_topics_opt = click.option("--exclude-topics", **_several("TOPIC"), help="Leave this topic out; repeatable.")
topic_types_opt = click.option("--topic-types", **_several("TYPE"), help="Record only topics of this type; repeatable.")
nodes_opt = click.option("--nodes", **_several("NODE"), help="Record only what this node publishes; repeatable.")
output_opt = click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="bag_%Y_%m_%d-%H_%M_%S.h5",
    show_default=True,
    help="The bag to write; strftime codes such as %H are filled in.",
)
force_opt = click.option("-f", "--force", is_flag=True, help="Replace the file if it exists.")
max_bag_size_opt = click.option(
    "-b",
    "--max-bag-size",
    "max_bag_bytes",
    help="Begin another file when one has this size, as in 2G: run_0.h5, run_1.h5...",
    **SIZE,
)
max_bag_duration_opt = click.option(
    "-d",
    "--max-bag-duration",
    "max_bag_duration_ns",
    help="Begin another file after this time, as in 10m.",
    **DURATION,
)
max_bag_files_opt = click.option(
    "--max-bag-files", type=click.IntRange(min=1), help="Keep only so many files, the latest ones."
)
duration_opt = click.option("--duration", "duration_ns", **DURATION, help="Stop after this time, as in 90s or 5m.")
limit_opt = click.option("--limit", type=click.IntRange(min=1), help="Stop after this many messages in all.")
min_free_space_opt = click.option(
    "--min-free-space",
    "min_free_bytes",
    default="256M",
    show_default=True,
    help="Stop when the disk has less than this left.",
    **SIZE,
)
max_cache_size_opt = click.option(
    "--max-cache-size",
    "max_cache_bytes",
    default="1G",
    show_default=True,
    help="Memory for messages that wait for the disk; what does not fit is refused and counted.",
    **SIZE,
)
receive_interval_opt = click.option(
    "--receive-interval",
    "receive_interval_ns",
    default="0",
    show_default=True,
    help="Receive what has come only this often, 100ms at most: less CPU, but log times as coarse.",
    **DURATION,
)
flush_interval_opt = click.option(
    "--flush-interval",
    "flush_interval_ns",
    default="500ms",
    show_default=True,
    help="Time between two commits of the file.",
    **DURATION,
)
polling_interval_opt = click.option(
    "-p",
    "--polling-interval",
    "polling_interval_ns",
    default="100ms",
    show_default=True,
    help="Time between two looks for new topics, where the daemon does not announce them.",
    **DURATION,
)
no_discovery_opt = click.option(
    "--no-discovery",
    "follow",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Record only topics that are there at the start, wherever they move.",
)
wait_for_topics_opt = click.option(
    "--wait-for-topics", is_flag=True, help="Begin when all named topics are there; --duration counts from then."
)
require_opt = click.option(
    "--require",
    **_several("TOPIC[@HZ]", _parse_demand),
    help="Warn when this topic is silent, or slower than HZ, mark it in the bag, and exit with 3; repeatable.",
)
throttle_opt = click.option(
    "--throttle",
    **_several("TOPIC=HZ", _parse_throttle),
    help="Record at most HZ messages a second of this topic; the others are counted apart from loss. Repeatable.",
)
sticky_opt = click.option(
    "--sticky",
    "--repeat-latched",
    **_several("TOPIC"),
    help="Repeat the last message of this topic at the start of each further file; repeatable.",
)
start_paused_opt = click.option("--start-paused", is_flag=True, help="Record nothing until SPACE or `bag ctl resume`.")
snapshot_mode_opt = click.option(
    "--snapshot-mode",
    "snapshot",
    is_flag=True,
    help="Keep the past in memory; write it on `s`, SIGUSR1 or `bag ctl snapshot`, each time to a file of its own.",
)
max_cache_duration_opt = click.option(
    "--max-cache-duration",
    "snapshot_duration_ns",
    help="How much of the past a snapshot holds. Default: what three eighths of --max-cache-size take.",
    **DURATION,
)
post_roll_opt = click.option(
    "--post-roll",
    "post_roll_ns",
    default="0s",
    show_default=True,
    help="How long a snapshot goes on after it was asked for.",
    **DURATION,
)
compression_opt = click.option(
    "--compression",
    metavar="NAME[:LEVEL]",
    help="Compress while recording, raw where that cannot keep up: gzip, which any HDF5 reads, or lz4 or zstd, which "
    "need plugins; a level as in zstd:3.",
)
keyboard_opt = click.option("--disable-keyboard-controls", "no_keys", is_flag=True, help="Leave the keyboard alone.")
description_opt = click.option("--description", default="", metavar="TEXT", help="A note to store in the bag.")
custom_data_opt = click.option("--custom-data", help="A pair to store in the bag; repeatable.", **PAIRS)
imports_opt = click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE",
    help="A Python module that defines message types, so that the bag knows their field names; repeatable.",
)

# ctl
bag_path_arg = click.argument("bag_path", metavar="BAG", type=click.Path(path_type=Path))
command_arg = click.argument("command", type=click.Choice(COMMANDS))
text_arg = click.argument("text", metavar="[TEXT]", required=False)
