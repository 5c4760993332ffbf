"""The part of the registry of options that belongs to ``play`` and ``diff``; ``options`` says how values are read."""

from __future__ import annotations

import re
from typing import Any

import click

from bag import units
from bag.cli import completions
from bag.cli.options import DURATION, RATE, SIZE, read_by
from bag.options import MAX_CLOCK_HZ

# rosbag2's default for a clock without a frequency
CLOCK_HZ = "40"
_OPTIONAL_VALUES = {"--clock": CLOCK_HZ, "--wait-for-subscribers": "1"}
_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+")


def _parse_offset(text: str) -> int:
    stripped = text.strip()
    return -units.parse_duration(stripped[1:]) if stripped.startswith("-") else units.parse_duration(stripped)


def _parse_remap(text: str) -> tuple[str, str]:
    old, arrow, new = text.partition(":=")
    if not (old and arrow and new):
        raise ValueError(f"{text!r} renames nothing; write OLD:=NEW.")
    return old, new


_OFFSET: dict[str, Any] = {"metavar": "OFFSET", "callback": read_by(_parse_offset)}


class PlayCommand(click.Command):
    """A command of which some options may be given with or without a number, also in front of an argument."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Complete such options, then read all as usual."""
        for at, word in enumerate(args):
            if word == "--":
                break
            if word in _OPTIONAL_VALUES and not (at + 1 < len(args) and _NUMBER.fullmatch(args[at + 1])):
                args[at] = f"{word}={_OPTIONAL_VALUES[word]}"
        return super().parse_args(ctx, args)


rate_opt = click.option(
    "-r", "--rate", **RATE, default="1", show_default=True, help="Speed, where 2 is twice as fast as recorded."
)
immediate_opt = click.option(
    "--immediate", is_flag=True, help="Send as fast as possible, without waiting for any time."
)
loop_opt = click.option("-l", "--loop", is_flag=True, help="Begin again at the end; sequence numbers go on upward.")
start_offset_opt = click.option(
    "-s", "--start-offset", "start_ns", **_OFFSET, help="Begin here, as in 10s; -10s counts from the end."
)
end_offset_opt = click.option(
    "--end-offset", "stop_ns", **_OFFSET, help="Stop before this offset from the start; -10s counts from the end."
)
playback_duration_opt = click.option(
    "-u", "--playback-duration", "duration_ns", **DURATION, help="Play this much of the recording."
)
delay_opt = click.option(
    "-d",
    "--delay",
    "delay_ns",
    default="200ms",
    show_default=True,
    help="Time between announcing the topics and the first message.",
    **DURATION,
)
start_paused_opt = click.option("-p", "--start-paused", is_flag=True, help="Stand still until SPACE, or a step.")
topics_opt = click.option(
    "--topics",
    multiple=True,
    metavar="TOPIC",
    shell_complete=completions.topics,
    help="Play only this topic; repeatable. Default: all topics.",
)
regex_opt = click.option(
    "-e", "--regex", multiple=True, metavar="REGEX", help="Play also topics in whose name this is found; repeatable."
)
exclude_regex_opt = click.option(
    "-x", "--exclude-regex", multiple=True, metavar="REGEX", help="Leave topics out in whose name this is found."
)
exclude_topics_opt = click.option(
    "--exclude-topics", multiple=True, metavar="TOPIC", help="Leave this topic out; repeatable."
)
topic_types_opt = click.option(
    "--topic-types", multiple=True, metavar="TYPE", help="Play only messages of this type; repeatable."
)
nodes_opt = click.option("--nodes", multiple=True, metavar="NODE", help="Play only what this node sent; repeatable.")
remap_opt = click.option(
    "-m",
    "--remap",
    multiple=True,
    metavar="OLD:=NEW",
    callback=read_by(_parse_remap),
    help="Play a topic under another name; repeatable.",
)
prefix_opt = click.option("--prefix", default="", metavar="TEXT", help="Put this in front of every topic name.")
relocate_opt = click.option(
    "--relocate",
    is_flag=True,
    help="Play also topics whose recorded address is not in this machine's topic directory, from addresses that are.",
)
clock_opt = click.option(
    "--clock",
    "clock_hz",
    type=click.FloatRange(min=0, min_open=True, max=MAX_CLOCK_HZ),
    metavar="[HZ]",
    help=f"Publish the recorded time as TimestampMessage, {CLOCK_HZ} times a second unless given.",
)
clock_topic_opt = click.option(
    "--clock-topic", default="/clock", show_default=True, metavar="TOPIC", help="Where --clock publishes."
)
message_order_opt = click.option(
    "--message-order",
    type=click.Choice(["sent", "received"]),
    default="sent",
    show_default=True,
    help="Pace and order by the publishers' clocks or by the recorder's.",
)
stamps_opt = click.option(
    "--stamps",
    type=click.Choice(["keep", "shift", "now"]),
    default="keep",
    show_default=True,
    help="Send headers as recorded, with times moved to today by a constant, or stamped anew.",
)
lossless_opt = click.option("--lossless", is_flag=True, help="Wait for slow subscribers instead of dropping messages.")
wait_for_subscribers_opt = click.option(
    "--wait-for-subscribers",
    type=click.IntRange(min=0),
    default=0,
    metavar="[N]",
    help="Start only when every topic has N subscribers, 1 unless given.",
)
wait_timeout_opt = click.option(
    "--wait-timeout",
    "wait_timeout_ns",
    default="30s",
    show_default=True,
    help="Longest wait for subscribers to come, and with --lossless for one to take a message.",
    **DURATION,
)
linger_opt = click.option(
    "--linger",
    "linger_ns",
    help="Longest wait at the end for the last messages to be taken.  [default: 2s]",
    **DURATION,
)
sticky_opt = click.option(
    "--sticky",
    multiple=True,
    metavar="TOPIC",
    help="Send the last value of this topic also at a later start, after a seek, and to late subscribers; repeatable.",
)
skip_empty_opt = click.option(
    "--skip-empty", "skip_empty_ns", **DURATION, help="Pass over stretches without messages that are longer than this."
)
queue_size_opt = click.option(
    "--queue-size",
    type=click.IntRange(min=1),
    help="Messages a topic may hold for a slow subscriber.  [default: 1000, fewer of large ones]",
)
read_ahead_opt = click.option(
    "--read-ahead",
    "read_ahead_bytes",
    default="128M",
    show_default=True,
    help="Memory for messages that are read before their time.",
    **SIZE,
)
num_messages_opt = click.option(
    "-n", "--num-messages", type=click.IntRange(min=1), help="Stop after this many messages in all."
)
keep_alive_opt = click.option("-k", "--keep-alive", is_flag=True, help="Stay registered at the end, until Ctrl-C.")
keyboard_opt = click.option("--disable-keyboard-controls", "no_keys", is_flag=True, help="Leave the keyboard alone.")
verify_opt = click.option(
    "--verify", is_flag=True, help="Record the replay again beside it, compare, and exit with 1 unless it is the same."
)
time_tolerance_opt = click.option(
    "--time-tolerance",
    "time_tolerance_ns",
    help="Largest error of the time between two messages of a topic; timing is not judged unless given.",
    **DURATION,
)
realtime_opt = click.option(
    "--no-realtime",
    "realtime",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Take turns with other processes, instead of running before them where the system permits it.",
)
embedded_discovery_opt = click.option(
    "--no-embedded-discovery",
    "embedded_discovery",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Refuse to play when no discovery daemon answers, instead of starting one.",
)
bag_a_arg = click.argument("bag_a", metavar="A", type=str, shell_complete=completions.bags)
bag_b_arg = click.argument("bag_b", metavar="B", type=str, shell_complete=completions.bags)
diff_topics_opt = click.option(
    "--topics",
    multiple=True,
    metavar="TOPIC",
    shell_complete=completions.topics,
    help="Compare only this topic; repeatable. Default: all topics.",
)
