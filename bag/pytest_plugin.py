"""Regression tests on recordings: the fixture `bag_replay` plays a bag to the code under test and loses nothing.

def test_the_detector_finds_everything(bag_replay):
    with bag_replay("run.h5", topics=["/camera/image"]) as replay:
        detector = Detector()
        replay.play()
        replay.until(lambda: detector.count == 300)
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from bag.options import PlayOptions
from bag.replay import Replay
from cortex.core.node import Node
from cortex.core.publisher import Publisher
from cortex.core.subscriber import Subscriber
from cortex.core.sync_subscriber import ThreadedSubscriber
from cortex.discovery.daemon import DiscoveryDaemon
from cortex.discovery.protocol import DEFAULT_DISCOVERY_ADDRESS

READY_S = 30.0


class BagReplay(Protocol):
    """What the fixture gives: call it with a bag, or several, and fields of `bag.PlayOptions`."""

    def __call__(self, bags: str | Path | Sequence[str | Path], **options: Any) -> Replay:
        """Make a replay, to be entered as a context."""
        ...


@pytest.fixture
def cortex_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Cortex of this test's own, with a discovery daemon: its directory. Child processes inherit it."""
    # the path of a socket is short, and pytest's own directories are not
    directory = Path(tempfile.mkdtemp(prefix="cortex-", dir="/tmp"))
    monkeypatch.setenv("CORTEX_DIR", str(directory))
    monkeypatch.delenv("CORTEX_DISCOVERY_ADDRESS", raising=False)
    address = f"ipc://{directory}/discovery.sock"
    _set_default_address(monkeypatch, address)
    daemon = DiscoveryDaemon(address)
    thread = threading.Thread(target=daemon.start, name="discovery of a test", daemon=True)
    thread.start()
    try:
        assert daemon.ready.wait(READY_S), f"the discovery daemon did not start at {address}"
        yield directory
    finally:
        daemon.stop()
        thread.join()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def bag_replay(cortex_world: Path) -> BagReplay:  # noqa: ARG001  it is what the replay happens in
    """Plays bags to the code under test: every message arrives, in a fixed order, as fast as the code takes them.

    The test gets a Cortex of its own. `play()` waits until every topic has a subscriber; give `topics` if the code
    does not subscribe to all.
    """

    def play(bags: str | Path | Sequence[str | Path], **options: Any) -> Replay:
        lists = {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
        return Replay(bags, PlayOptions(**{"wait_for_subscribers": 1, "relocate": True, **options, **lists}))

    return play


# constructors took the default address when they were defined, long before this test
def _set_default_address(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    constructors: list[Callable[..., None]] = [
        one.__init__ for one in (Node, Publisher, Subscriber, ThreadedSubscriber)
    ]
    for function in constructors:
        defaults = getattr(function, "__defaults__", None) or ()
        changed = tuple(address if value == DEFAULT_DISCOVERY_ADDRESS else value for value in defaults)
        monkeypatch.setattr(function, "__defaults__", changed)
