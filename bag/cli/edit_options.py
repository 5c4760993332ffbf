"""Options of the commands that inspect, check and edit bags, each defined once; those of all commands are in
`options`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bag.cli import completions
from bag.cli.options import read_by
from bag.units import parse_duration

_DURATION: dict[str, Any] = {"metavar": "DURATION", "callback": read_by(parse_duration)}
_PATH = click.Path(path_type=Path)


def _parse_remap(text: str) -> tuple[str, str]:
    old, colon, new = text.partition(":=")
    if not colon or not old or not new:
        raise ValueError(f"{text!r} renames nothing; write OLD:=NEW.")
    return old, new


def _parse_shift(text: str) -> int:
    return -parse_duration(text[1:]) if text.startswith("-") else parse_duration(text)


bag_arg = click.argument("bag_path", metavar="BAG", type=_PATH, shell_complete=completions.bags)
bags_arg = click.argument(
    "bags", metavar="BAG...", nargs=-1, required=True, type=_PATH, shell_complete=completions.bags
)
new_bag_opt = click.option(
    "-o", "--output", metavar="FILE", required=True, type=_PATH, help="The bag to write; it appears when it is whole."
)
maybe_output_opt = click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=_PATH,
    help="Write a copy whose datasets bear the names of the fields, instead of changing BAG.",
)
force_opt = click.option("-f", "--force", is_flag=True, help="Replace the output if it exists.")
dry_run_opt = click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
include_opt = click.option(
    "-y",
    "--include-topic-regex",
    "include",
    multiple=True,
    metavar="REGEX",
    shell_complete=completions.topics,
    help="Keep topics whose whole name matches; repeatable. Default: all.",
)
exclude_opt = click.option(
    "-n",
    "--exclude-topic-regex",
    "exclude",
    multiple=True,
    metavar="REGEX",
    shell_complete=completions.topics,
    help="Leave out topics whose whole name matches, even if included; repeatable.",
)
start_opt = click.option(
    "-S",
    "--start",
    metavar="WHEN",
    help="First moment to take: 12.5 (seconds from the start), -5 (from the end), 2026-01-31T12:00:00, ns, or @MARK.",
)
end_opt = click.option("-E", "--end", "stop", metavar="WHEN", help="First moment not to take any more; as --start.")
where_opt = click.option(
    "--where",
    multiple=True,
    metavar="TOPIC: EXPR",
    help="Keep only messages of TOPIC for which EXPR is true, as in '/imu: norm(orientation) > 1'; repeatable.",
)
around_opt = click.option(
    "--around",
    multiple=True,
    metavar="MARK",
    help="Keep only what is near this mark, or near messages for which a 'TOPIC: EXPR' is true; repeatable.",
)
before_opt = click.option(
    "--before", "before_ns", default="5s", show_default=True, help="How long before --around.", **_DURATION
)
after_opt = click.option(
    "--after", "after_ns", default="5s", show_default=True, help="How long after --around.", **_DURATION
)
sticky_opt = click.option(
    "-l",
    "--sticky",
    multiple=True,
    metavar="REGEX",
    shell_complete=completions.topics,
    help="Carry the last message before the cut to its start, for topics whose whole name matches; repeatable.",
)
remap_opt = click.option(
    "--remap",
    multiple=True,
    metavar="OLD:=NEW",
    callback=read_by(_parse_remap),
    help="Give a topic another name; repeatable.",
)
shift_opt = click.option(
    "--shift",
    "shift_ns",
    default="0",
    metavar="DURATION",
    callback=read_by(_parse_shift),
    help="Add this to all times, as in 2s or -1h.",
)
shifts_opt = click.option(
    "--shift",
    "shifts_ns",
    multiple=True,
    metavar="DURATION",
    callback=read_by(_parse_shift),
    help="Add this to all times of the first BAG; given again, of the second, and so on.",
)
align_start_opt = click.option(
    "--align-start", is_flag=True, help="Shift the bags so that all begin when the first one begins."
)
compression_opt = click.option(
    "--compression",
    metavar="KIND",
    help="Compress with gzip, lz4 or zstd (a level as in zstd:9), or none. Default: as the bag is.",
)
compress_to_opt = click.option(
    "--compression",
    metavar="KIND",
    default="gzip",
    show_default=True,
    help="gzip, which any HDF5 reads, or lz4 or zstd, which need plugins; a level as in zstd:9.",
)
topics_opt = click.option(
    "--topics",
    multiple=True,
    metavar="TOPIC",
    shell_complete=completions.topics,
    help="Only this topic; repeatable. Default: all.",
)
format_opt = click.option(
    "--format",
    "style",
    type=click.Choice(["text", "ndjson", "csv"]),
    default="text",
    show_default=True,
    help="A line for people, a JSON object a line, or a table of one topic.",
)
full_opt = click.option("--full", is_flag=True, help="All of every array and text, instead of a summary.")
count_opt = click.option(
    "-n", "--num-messages", "limit", type=click.IntRange(min=1), metavar="N", help="Stop after so many messages."
)
text_arg = click.argument("text", metavar="TEXT")
at_opt = click.option(
    "--at",
    required=True,
    metavar="WHEN",
    help="The moment: 12.5 (seconds from the start), -5 (from the end), 2026-01-31T12:00:00, or ns since 1970.",
)
columns_opt = click.option("--columns", is_flag=True, help="Show every dataset, not only topics.")
topic_opt = click.option(
    "-t", "--topic", "only", multiple=True, metavar="TOPIC", shell_complete=completions.topics,
    help="Show only this topic; repeatable.",
)  # fmt: skip
sort_opt = click.option(
    "--sort",
    type=click.Choice(["name", "type", "count", "hz", "size", "lost"]),
    help="Order of the topics. Default: as they came.",
)
exact_opt = click.option(
    "--exact",
    is_flag=True,
    help="Look at the interval before each message of a long bag, not at a part of them; takes longer.",
)
plot_opt = click.option(
    "--plot",
    metavar="FILE",
    type=_PATH,
    help="Draw when messages arrived, with holes in red, to this PNG (needs the extra `plot`).",
)
