"""The demo: a synthetic robot is recorded and replayed by real processes, and every byte and time is compared.

The walk: a private directory and discovery daemon, the robot's nodes, ``cortex bag record``; the nodes go; the recorder
is stopped when it has what they sent; then a plain subscriber and ``cortex bag play``. Three accounts come out of it,
each a map from sequence to SHA-256 per topic: what the publishers sent, what lies in the bag, what the subscriber of
the replay got. ``bag.verdict`` compares them; nothing here needs a terminal or knows click.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bag
from bag import plot
from bag.errors import BagError, MissingExtraError
from bag.processes import Child
from bag.robot import NODES
from bag.units import NS_PER_S, format_count, format_duration, format_size
from bag.verdict import Account, TopicVerdict, compare, read_bag, read_log
from cortex.discovery.daemon import DiscoveryDaemon

TOPICS = tuple(stream.topic for streams in NODES.values() for stream in streams)

# the longest a process may take to start, or to end when told to, on a busy machine
_PATIENCE_S = 30.0
# a subscription is one message on its way to the publisher's socket; a publisher of Cortex cannot tell us it came
_SETTLE_S = 0.2
# what has not reached the recorder this long after the last message was sent never will
_STRAGGLERS_S = 5.0

Report = Callable[[str], None]


@dataclass(frozen=True)
class Verdict:
    """The outcome of a demo: where its files are and what each topic shows.

    ``timeline`` is None where no picture could be drawn; then ``timeline_note`` says what is missing.
    """

    agrees: bool
    bag: Path
    timeline: Path | None
    timeline_note: str
    topics: tuple[TopicVerdict, ...]


def run(output_dir: Path, duration_ns: int = 6 * NS_PER_S, *, report: Report = lambda _: None) -> Verdict:
    """Record the robot for ``duration_ns``, replay it, compare, and leave bag, timeline and logs in ``output_dir``.

    Args:
        output_dir: made if needed; files of an earlier demo in it are replaced.
        duration_ns: how long the robot publishes.
        report: called with one line of text at each step.

    Raises:
        BagError: when a process of the demo fails; the sentence names it and its log.
    """
    path = output_dir / "run.h5"
    logs = output_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with _private_discovery() as env:
        report(f"Starting {len(NODES)} robot nodes and the recorder.")
        _record(path, duration_ns / NS_PER_S, env=env, logs=logs, report=report)
        report("Playing it to a plain subscriber.")
        _replay(path, duration_ns / NS_PER_S, env=env, logs=logs, report=report)
    report("Comparing what was published, recorded and replayed.")
    sent: dict[str, Account] = {}
    for node in NODES:
        sent |= read_log(logs / f"{node}.jsonl")
    with bag.open(path) as recording:
        topics = compare(sent, read_bag(recording), read_log(logs / "listener.jsonl"))
        timeline, note = draw(recording, output_dir / "timeline.png")
    return Verdict(all(topic.agrees for topic in topics), path, timeline, note, topics)


@contextmanager
def _private_discovery() -> Iterator[dict[str, str]]:
    # yields the environment that keeps a process tree away from any Cortex that is running on this machine
    with tempfile.TemporaryDirectory(prefix="cortex-demo-") as directory:
        address = f"ipc://{directory}/discovery.sock"
        daemon = DiscoveryDaemon(address=address)
        thread = threading.Thread(target=daemon.start, name="demo-discovery")
        thread.start()
        try:
            if not daemon.ready.wait(_PATIENCE_S):
                raise BagError(f"The demo's discovery daemon did not start at {address}.")
            yield os.environ | {"CORTEX_DIR": directory, "CORTEX_DISCOVERY_ADDRESS": address}
        finally:
            daemon.stop()
            thread.join()


def _record(path: Path, duration_s: float, *, env: dict[str, str], logs: Path, report: Report) -> None:
    with ExitStack() as stack:
        nodes = [stack.enter_context(_node(name, duration_s, env=env, logs=logs)) for name in NODES]
        recorder = stack.enter_context(_recorder(path, duration_s, env=env, logs=logs))
        for node in nodes:
            node.wait_line(lambda line: line == "ready", timeout_s=_PATIENCE_S)
        recorder.wait_line(lambda line: _connected(line) >= set(TOPICS), timeout_s=_PATIENCE_S)
        time.sleep(_SETTLE_S)
        report(f"Recording {len(TOPICS)} topics for {format_duration(duration_s * NS_PER_S)}.")
        for node in nodes:
            node.tell("go")
        sent = sum(_sent(node, duration_s) for node in nodes)
        deadline = time.monotonic() + _STRAGGLERS_S
        recorder.wait_line(
            lambda line: json.loads(line)["messages"] >= sent or time.monotonic() > deadline, timeout_s=_PATIENCE_S
        )
        recorder.interrupt()
        recorder.finish(timeout_s=_PATIENCE_S)
        for node in nodes:
            node.finish(timeout_s=_PATIENCE_S)
    recorded = json.loads(recorder.last_line)["messages"]
    report(f"Recorded {format_count(recorded)} of {format_count(sent)} messages, {format_size(path.stat().st_size)}.")


def _node(name: str, duration_s: float, *, env: dict[str, str], logs: Path) -> Child:
    arguments = ["bag.robot", name, "--duration", str(duration_s), "--log", str(logs / f"{name}.jsonl")]
    arguments += ["--discovery-address", env["CORTEX_DISCOVERY_ADDRESS"]]
    return Child(arguments, env=env, errors=logs / f"{name}.err")


def _recorder(path: Path, duration_s: float, *, env: dict[str, str], logs: Path) -> Child:
    arguments = ["bag.cli", "record", "--all", "--force", "--json", "--output", str(path).replace("%", "%%")]
    # its own end only matters when this process dies before it can stop the recorder
    arguments += ["--duration", f"{duration_s + 4 * _PATIENCE_S:.3f}s"]
    return Child(arguments, env=env, errors=logs / "record.err")


def _connected(line: str) -> set[str]:
    progress: dict[str, Any] = json.loads(line)
    return {topic["topic"] for topic in progress["topics"] if topic["connected"]}


def _sent(node: Child, duration_s: float) -> int:
    line = node.wait_line(lambda line: line.startswith("done "), timeout_s=duration_s + _PATIENCE_S)
    return int(line.split()[1])


def _replay(path: Path, duration_s: float, *, env: dict[str, str], logs: Path, report: Report) -> None:
    listening = ["bag.listener", *TOPICS, "--discovery-address", env["CORTEX_DISCOVERY_ADDRESS"]]
    listening += ["--log", str(logs / "listener.jsonl")]
    playing = ["bag.cli", "play", str(path), "--json", "--no-embedded-discovery", "--wait-for-subscribers", "1"]
    with (
        Child(listening, env=env, errors=logs / "listener.err") as listener,
        Child(playing, env=env, errors=logs / "play.err") as player,
    ):
        player.finish(timeout_s=duration_s + 2 * _PATIENCE_S)
        listener.finish(timeout_s=_PATIENCE_S)
    late = json.loads(player.last_line)["lateness"]
    report(f"The player was late by {format_duration(late['p50_ns'])} (p50), {format_duration(late['p99_ns'])} (p99).")


def draw(recording: bag.Bag, output: Path) -> tuple[Path | None, str]:
    """Draw the timeline; return its path, or None and a sentence when the library for it is not installed."""
    try:
        plot.timeline(recording, output)
    except MissingExtraError as error:
        return None, str(error)
    return output, ""
