"""Follows one topic for a command: from its registry entry to a stream of frames, over restarts of its publisher."""

from __future__ import annotations

import contextlib
import difflib
import sys
import time
from collections.abc import Iterator
from threading import Event

import click

from cortex.core.raw import RawSubscriber
from cortex.core.signals import calling_on_plain_sigint
from cortex.discovery.client import DiscoveryClient
from cortex.discovery.protocol import TopicInfo
from cortex.errors import CortexError

_TICK_MS = 50
_SEARCH_S = 0.1
_SILENCE_S = 1.0


def find_topic(client: DiscoveryClient, name: str) -> TopicInfo:
    """Return the entry of a topic; a click error names the nearest topics when there is none."""
    topics = _topics(client)
    if name in topics:
        return topics[name]
    near = difflib.get_close_matches(name, topics, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`cortex topic list` shows what there is."
    raise click.ClickException(f"topic {name} is not registered at {client.discovery_address}; {hint}")


def wait_for_topic(client: DiscoveryClient, name: str, interrupted: Event) -> TopicInfo | None:
    """Return the entry of a topic as soon as there is one, or None when Ctrl-C came first."""
    info = _topics(client).get(name)
    if info is None:
        click.echo(f"Waiting for topic {name} ...", err=True)
    while info is None and not interrupted.is_set():
        time.sleep(_SEARCH_S)
        info = _topics(client).get(name)
    return info


def follow(
    client: DiscoveryClient, info: TopicInfo | None, interrupted: Event, duration_s: float | None
) -> Iterator[list[bytes] | None]:
    """Yield parts 1..N of each message of a topic, and None every now and then while there is none.

    Ends after `duration_s` seconds, with Ctrl-C, and at once for a topic that Ctrl-C kept from being found.
    A publisher that comes back at its address is found by ZeroMQ; one that comes back elsewhere, by asking again.
    """
    if info is None:
        return
    begin = heard = now = time.monotonic()
    subscriber = RawSubscriber(info.name, info.address)
    try:
        while not interrupted.is_set() and (duration_s is None or now - begin < duration_s):
            frames = subscriber.receive(_TICK_MS)
            yield frames
            now = time.monotonic()
            if frames is not None:
                heard = now
            elif now - heard > _SILENCE_S:
                heard = now
                info, before = _current(client, info), info
                if info.address != before.address:
                    subscriber.close()
                    subscriber = RawSubscriber(info.name, info.address)
    finally:
        subscriber.close()


def _topics(client: DiscoveryClient) -> dict[str, TopicInfo]:
    return {info.name: info for info in client.snapshot().topics}


def _current(client: DiscoveryClient, info: TopicInfo) -> TopicInfo:
    # a daemon that is away does not end the stream: messages do not pass through it
    with contextlib.suppress(CortexError):
        return _topics(client).get(info.name, info)
    return info


@contextlib.contextmanager
def until_interrupted() -> Iterator[Event]:
    """Take the first Ctrl-C as the normal end of a command that goes on and on: it sets the event.

    A KeyboardInterrupt would be lost when it comes while pyzmq releases a frame; the second Ctrl-C raises one.
    """
    interrupted = Event()
    with calling_on_plain_sigint(interrupted.set):
        yield interrupted
    if interrupted.is_set() and sys.stderr.isatty():
        # the shell's prompt belongs on a line of its own, after the ^C
        click.echo(err=True)


__all__ = ["find_topic", "follow", "until_interrupted", "wait_for_topic"]
