"""Proves a replay: a real recorder in a process of its own records it again, and the recordings are compared."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bag.differences import DiffReport, diff
from bag.errors import BagError, UsageError
from bag.options import PlayOptions
from bag.player import Player
from bag.processes import Child
from bag.statistics import PlayReport
from bag.units import format_size
from cortex.paths import default_discovery_address

PATIENCE_S = 30.0
# what has not reached the recorder this long after the end never will
STRAGGLERS_S = 5.0
# room beside the messages themselves
MARGIN = 1.2


@dataclass(frozen=True, slots=True)
class Proof:
    """A replay and how its recording compares with what was played."""

    equal: bool
    played: PlayReport
    difference: DiffReport


def prove(
    bags: Sequence[str | Path],
    options: PlayOptions,
    *,
    time_tolerance_ns: int | None = None,
    watch: Callable[[Player], None] = lambda _player: None,
) -> Proof:
    """Play bags into a recorder of our own and compare what it got.

    Args:
        bags: what to play.
        options: how; headers must be kept, and nothing may be sent twice.
        time_tolerance_ns: largest error of the time between two messages; None does not judge timing.
        watch: is given the player before it plays.

    Raises:
        BagError, CortexError: as `Player` and `diff`; or the recorder failed.
        UsageError: with these options a replay differs from its recording.
    """
    if options.stamps != "keep" or options.loop or options.sticky or options.keep_alive:
        raise UsageError("--verify compares every byte once: leave out --stamps, --loop, --sticky and --keep-alive")
    chosen = replace(options, wait_for_subscribers=max(1, options.wait_for_subscribers))
    _require_room(bags)
    with tempfile.TemporaryDirectory(prefix="bag-verify-") as directory, Player(bags, chosen) as player:
        path = Path(directory) / "replay.h5"
        watch(player)
        player.announce()
        played = _record(player, chosen, path)
        if not played.completed:
            raise BagError("the replay was stopped, so there is nothing to compare")
        difference = diff(bags, path, time_tolerance_ns=time_tolerance_ns, played=chosen)
    return Proof(difference.equal, played, difference)


def _record(player: Player, options: PlayOptions, path: Path) -> PlayReport:
    arguments = ["bag.cli", "record", "--json", "--output", str(path).replace("%", "%%")]
    arguments += ["--discovery-address", options.discovery_address or default_discovery_address(), "--", *player.topics]
    with Child(arguments, env=dict(os.environ), errors=path.with_suffix(".err")) as recorder:
        recorder.wait_line(lambda line: _connected(line) >= set(player.topics), timeout_s=PATIENCE_S)
        played = player.play()
        deadline = time.monotonic() + STRAGGLERS_S
        recorder.wait_line(
            lambda line: _messages(line) >= played.sent or time.monotonic() > deadline, timeout_s=PATIENCE_S
        )
        recorder.interrupt()
        recorder.finish(timeout_s=PATIENCE_S)
    return played


def _connected(line: str) -> set[str]:
    return {topic["topic"] for topic in json.loads(line).get("topics", ()) if topic["connected"]}


def _messages(line: str) -> int:
    return int(json.loads(line).get("messages", 0))


def _require_room(bags: Sequence[str | Path]) -> None:
    needed = round(MARGIN * sum(Path(bag).stat().st_size for bag in bags))
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed:
        raise BagError(
            f"--verify records the replay again and needs {format_size(needed)} in {tempfile.gettempdir()}, where "
            f"{format_size(free)} are free; choose another place with TMPDIR"
        )
