"""``cortex bag play``: options in, one ``Player`` run, and a report of what was sent and how late."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from bag import Player, PlayOptions
from bag.cli import options, play_options, tables, views
from bag.cli.diff import differences
from bag.cli.keys import Keys
from bag.cli.stopping import Stopping
from bag.errors import LossyError
from bag.precedence import DISPLAY, Precedence
from bag.proof import prove
from bag.storage.probe import untrusted

_TICK_S = 0.1
_SEEK_S = 5.0
_RATE_STEP = 0.1
_HINT = "SPACE pause   s step   up/down speed   [ ] seek 5 s   q quit"
_ORDERS = {"sent": "publish", "received": "log"}


@click.command(cls=play_options.PlayCommand)
@options.together(
    options.bags_arg,
    play_options.rate_opt,
    play_options.immediate_opt,
    play_options.loop_opt,
    play_options.start_offset_opt,
    play_options.end_offset_opt,
    play_options.playback_duration_opt,
    play_options.num_messages_opt,
    play_options.delay_opt,
    play_options.start_paused_opt,
    play_options.topics_opt,
    play_options.regex_opt,
    play_options.exclude_topics_opt,
    play_options.exclude_regex_opt,
    play_options.topic_types_opt,
    play_options.nodes_opt,
    play_options.remap_opt,
    play_options.prefix_opt,
    play_options.relocate_opt,
    play_options.clock_opt,
    play_options.clock_topic_opt,
    play_options.message_order_opt,
    play_options.stamps_opt,
    play_options.lossless_opt,
    play_options.wait_for_subscribers_opt,
    play_options.wait_timeout_opt,
    play_options.linger_opt,
    play_options.sticky_opt,
    play_options.skip_empty_opt,
    play_options.queue_size_opt,
    play_options.read_ahead_opt,
    play_options.realtime_opt,
    play_options.keep_alive_opt,
    play_options.keyboard_opt,
    play_options.verify_opt,
    play_options.time_tolerance_opt,
    play_options.embedded_discovery_opt,
    options.discovery_address_opt,
    options.json_opt,
)
def play(
    bags: tuple[Path, ...],
    message_order: str,
    verify: bool,
    time_tolerance_ns: int | None,
    no_keys: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Publish BAGs again: same nodes, addresses, bytes and timing. Several bags and splits are one recording.

    Keys: SPACE pause, right or s next message, up and down speed, left or [ and ] back and forward 5 s, q quit.
    Ctrl-C or SIGTERM stops and reports; a second one ends at once. A topic that a live node still publishes is refused;
    leave it out with --exclude-topics, rename it with --remap or --prefix, or stop the node.

    \b
    Examples:
      cortex bag play run.h5
      cortex bag play run.h5 --nodes camera --rate 2
      cortex bag play run.h5 --lossless --immediate --wait-for-subscribers
      cortex bag play run.h5 --verify
    """
    wanted = PlayOptions(order=_ORDERS[message_order], **chosen)
    with untrusted(*bags), ExitStack() as stack:
        show = _Show(stack, as_json=as_json, keys=not no_keys)
        if verify:
            proof = prove(bags, wanted, time_tolerance_ns=time_tolerance_ns, watch=show.begin)
            report = proof.played
        else:
            player = stack.enter_context(Player(bags, wanted))
            show.begin(player)
            report, proof = player.play(), None
    if as_json:
        views.echo_event("summary", proof or report)
    else:
        views.console().print(tables.playing_report(report))
        if proof:
            views.console().print(differences(proof.difference))
    if proof and not proof.equal:
        raise click.exceptions.Exit(1)
    if report.refused:
        raise LossyError(f"{report.refused} messages could not be sent; a larger --queue-size or --lossless helps.")


class _Show:
    """Signals, keys and progress of a replay, from its beginning until the stack is left."""

    def __init__(self, stack: ExitStack, *, as_json: bool, keys: bool) -> None:
        self._stack = stack
        self._as_json = as_json
        self._keys = keys

    def begin(self, player: Player) -> None:
        """Listen to signals and keys, and show progress."""
        enter = self._stack.enter_context
        enter(Stopping(player.stop))
        hint = _HINT if self._keys and enter(Keys(_actions(player))).active else ""
        view = enter(
            views.open_view(
                as_json=self._as_json,
                render=lambda progress: tables.playing(progress, hint),
                line=tables.playing_line,
            )
        )
        precedence = Precedence(wanted=player.options.realtime and not player.options.immediate)
        enter(_Ticker(lambda: view.update(player.progress()), precedence))


def _actions(player: Player) -> dict[str, Callable[[], object]]:
    def change_rate(step: float) -> None:
        rate = player.progress().rate
        player.set_rate(round(rate + step, 3) if rate + step >= _RATE_STEP else rate * (2 if step > 0 else 0.5))

    return {
        " ": lambda: player.resume() if player.paused else player.pause(),
        "right": player.step,
        "s": player.step,
        "up": lambda: change_rate(_RATE_STEP),
        "down": lambda: change_rate(-_RATE_STEP),
        "left": lambda: player.seek_by(-_SEEK_S),
        "[": lambda: player.seek_by(-_SEEK_S),
        "]": lambda: player.seek_by(_SEEK_S),
        "q": player.stop,
    }


class _Ticker:
    """Calls a function about ten times a second beside the work of the main thread, which must stay on time.

    Python lets one thread run at a time: one that other processes hold up would hold up the main thread, too.
    """

    def __init__(self, call: Callable[[], object], precedence: Precedence) -> None:
        self._call = call
        self._precedence = precedence
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bag-play-progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        with self._precedence.of_this_thread(DISPLAY):
            while not self._done.wait(_TICK_S):
                self._call()
