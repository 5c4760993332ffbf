"""``cortex bag play``: options in, one ``Player`` run, and a report of what was sent and how late."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import click

from bag import Player, PlayOptions
from bag.cli import options, tables, views
from bag.cli.stopping import Stopping
from bag.errors import LossyError

_TICK_S = 0.1
_ORDERS = {"sent": "publish", "received": "log"}


@click.command()
@options.together(
    options.bags_arg,
    options.rate_opt,
    options.play_topics_opt,
    options.exclude_topics_opt,
    options.message_order_opt,
    options.delay_opt,
    options.start_offset_opt,
    options.end_offset_opt,
    options.lossless_opt,
    options.wait_for_subscribers_opt,
    options.wait_timeout_opt,
    options.queue_size_opt,
    options.embedded_discovery_opt,
    options.discovery_address_opt,
    options.json_opt,
)
def play(bags: tuple[Path, ...], message_order: str, as_json: bool, **chosen: Any) -> None:
    """Publish BAGs again: same nodes, addresses, bytes and timing.

    Ctrl-C or SIGTERM stops and reports; a second one ends at once. A topic that a live node still publishes is refused;
    leave it out with --exclude-topics or stop the node.

    \b
    Examples:
      cortex bag play run.h5
      cortex bag play run.h5 --rate 2 --topics /imu
    """
    player = Player(bags, PlayOptions(order=_ORDERS[message_order], **chosen))
    view = views.open_view(as_json=as_json, render=tables.playing, line=tables.playing_line)
    with Stopping(player.stop), player, view, _Ticker(lambda: view.update(player.progress())):
        report = player.play()
    if as_json:
        views.echo_event("summary", report)
    else:
        views.console().print(tables.playing_report(report))
    if report.refused:
        raise LossyError(f"{report.refused} messages could not be sent; a larger --queue-size or --lossless helps.")


class _Ticker:
    """Calls a function about ten times a second beside the work of the main thread, which must stay on time."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bag-play-progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(_TICK_S):
            self._call()
