"""``cortex topic``: what is published, what it says, how often and how much."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from cortex.cli.display import message_json, message_text, read_message, sizes_text
from cortex.cli.options import (
    asking,
    discovery_address_opt,
    duration_opt,
    json_opt,
    measurement_options,
    topic_arg,
    wait_opt,
)
from cortex.cli.rates import Meter, Window, bytes_text
from cortex.cli.stream import find_topic, follow, until_interrupted, wait_for_topic
from cortex.cli.tables import print_table, printable
from cortex.discovery.protocol import DiscoverySnapshot, TopicInfo
from cortex.messages.base import MessageHeader, MessageType, field_names
from cortex.paths import ipc_path


@click.group()
def topic() -> None:
    """Look at topics.

    Example: cortex topic echo /imu -n 1
    """


@topic.command("list")
@discovery_address_opt
@json_opt
def list_topics(discovery_address: str, as_json: bool) -> None:
    """List the registered topics.

    A topic whose publisher no longer listens, because it crashed, is marked dead.

    Example: cortex topic list --json
    """
    with asking(discovery_address) as client:
        snapshot = client.snapshot()
    if as_json:
        click.echo(json.dumps([_description(info, snapshot) for info in snapshot.topics]))
    elif snapshot.topics:
        rows = [(info.name, info.message_type, info.publisher_node, _state(info, snapshot)) for info in snapshot.topics]
        print_table(("TOPIC", "TYPE", "NODE", "STATE"), rows)
    else:
        click.echo("No topics.")


@topic.command()
@discovery_address_opt
@json_opt
@topic_arg
def info(name: str, discovery_address: str, as_json: bool) -> None:
    """Show who publishes a topic, where and what.

    Example: cortex topic info /camera/image
    """
    with asking(discovery_address) as client:
        entry = find_topic(client, name)
        document = _description(entry, client.snapshot())
    message_class = MessageType.get(entry.fingerprint)
    document["fields"] = list(field_names(message_class)) if message_class is not None else None
    if as_json:
        click.echo(json.dumps(document))
        return
    document["fields"] = ", ".join(document["fields"] or ()) or "unknown: the class is not known here"
    for key, value in document.items():
        click.echo(f"{key + ':':<13}{printable(value)}")


def _description(entry: TopicInfo, snapshot: DiscoverySnapshot) -> dict[str, Any]:
    return {
        "name": entry.name,
        "type": entry.message_type,
        "fingerprint": f"{entry.fingerprint:#018x}",
        "node": entry.publisher_node,
        "address": entry.address,
        "state": _state(entry, snapshot),
    }


def _state(entry: TopicInfo, snapshot: DiscoverySnapshot) -> str:
    if entry.name in snapshot.dead:
        return "dead"
    return "live" if ipc_path(entry.address) is not None else "unknown"


@topic.command()
@topic_arg
@click.option("-n", "--count", type=click.IntRange(min=1), help="Stop after this many messages.")
@duration_opt
@wait_opt
@click.option("--raw", is_flag=True, help="Show only header and part sizes, without decoding.")
@click.option("-f", "--full-length", is_flag=True, help="Show arrays, bytes and long texts whole.")
@click.option(
    "--import", "imports", multiple=True, metavar="MODULE", help="Python module with message classes; repeatable."
)
@discovery_address_opt
@json_opt
def echo(
    name: str,
    count: int | None,
    duration: float | None,
    wait: bool,
    raw: bool,
    full_length: bool,
    imports: tuple[str, ...],
    discovery_address: str,
    as_json: bool,
) -> None:
    """Print the messages of a topic until Ctrl-C.

    The class is not needed: where it is unknown, fields have numbers instead of names.

    Example: cortex topic echo /imu -n 5 --json
    """
    for module in imports:
        _import(module)

    def shown(frames: list[bytes], entry: TopicInfo | None) -> str:
        message = read_message(frames, entry)
        if as_json:
            return message_json(name, message, full=full_length, raw=raw)
        return sizes_text(message) if raw else message_text(message, full=full_length)

    with until_interrupted() as interrupted, asking(discovery_address) as client:
        left = count
        entry = wait_for_topic(client, name, interrupted) if wait else find_topic(client, name)
        for frames in follow(client, entry, interrupted, duration):
            if frames is None:
                continue
            try:
                click.echo(shown(frames, entry))
            except ValueError as err:
                click.echo(f"Malformed message of {sum(map(len, frames))} bytes: {err}", err=True)
            if left is not None:
                left -= 1
                if left == 0:
                    return


def _import(module: str) -> None:
    # an installed command does not look into the current directory by itself, `python -m` does
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
    except Exception as err:
        raise click.ClickException(f"--import {module} failed ({type(err).__name__}: {err}).") from err


@topic.command()
@measurement_options
def hz(name: str, as_json: bool, **options: Any) -> None:
    """Measure how often a topic is published.

    Prints one measurement per window, until Ctrl-C.

    Example: cortex topic hz /imu --duration 10s
    """

    def shown(window: Window) -> str:
        if as_json:
            keys = ("hz", "messages", "min_s", "max_s", "std_s", "lost", "duration_s")
            return _json(name, window, keys)
        if window.min_s is None or window.max_s is None or window.std_s is None:
            return f"{window.messages or 'no'} message{'s' if window.messages != 1 else ''}"
        return (
            f"{window.hz:.2f} Hz   interval min {window.min_s * 1e3:.3f} ms  max {window.max_s * 1e3:.3f} ms  "
            f"std {window.std_s * 1e3:.3f} ms   {window.messages} messages{_loss(window)}"
        )

    _measure(name, shown, **options)


@topic.command()
@measurement_options
def bw(name: str, as_json: bool, **options: Any) -> None:
    """Measure the bandwidth of a topic.

    Prints one measurement per window, until Ctrl-C.

    Example: cortex topic bw /camera/image -n 3
    """

    def shown(window: Window) -> str:
        if as_json:
            return _json(
                name, window, ("bytes_per_s", "bytes", "messages", "smallest", "largest", "lost", "duration_s")
            )
        if window.smallest is None or window.largest is None:
            return "no messages"
        return (
            f"{bytes_text(window.bytes_per_s)}/s   message min {bytes_text(window.smallest)}  "
            f"max {bytes_text(window.largest)}   {window.messages} messages{_loss(window)}"
        )

    _measure(name, shown, **options)


def _json(name: str, window: Window, keys: tuple[str, ...]) -> str:
    return json.dumps({"topic": name, **{key: getattr(window, key) for key in keys}})


def _loss(window: Window) -> str:
    return f"   {window.lost} lost" if window.lost else ""


def _measure(
    name: str,
    shown: Callable[[Window], str],
    *,
    discovery_address: str,
    window: float,
    count: int | None,
    duration: float | None,
    wait: bool,
) -> None:
    with until_interrupted() as interrupted, asking(discovery_address) as client:
        entry = wait_for_topic(client, name, interrupted) if wait else find_topic(client, name)
        meter, begin, printed = Meter(), time.monotonic(), 0
        for frames in follow(client, entry, interrupted, duration):
            arrival = time.monotonic()
            if arrival - begin >= window:
                click.echo(shown(meter.close(arrival - begin)))
                begin, printed = arrival, printed + 1
                if printed == count:
                    return
            if frames is not None and len(frames[0]) >= MessageHeader.size():
                header = MessageHeader.from_bytes(frames[0])
                meter.add(int(arrival * 1e9), sum(map(len, frames)), header.sequence)
        if not printed and not interrupted.is_set():
            click.echo(shown(meter.close(time.monotonic() - begin)))


__all__ = ["topic"]
