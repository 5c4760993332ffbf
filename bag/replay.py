"""A replay around code under test: everything arrives, in a fixed order, as fast as the code can take it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from bag.drain import unread_bytes
from bag.errors import BagError
from bag.options import PlayOptions
from bag.player import Player
from bag.statistics import PlayReport
from cortex.paths import ipc_path

PATIENCE_S = 30.0
LOOK_S = 0.0005


class Replay:
    """Plays bags to subscribers that decide the pace, and loses nothing.

    The topics are announced when the context is entered, so that the code under test finds them; `play` waits until
    every topic has a subscriber. A message on another topic is sent only when the one before has been read, so what
    arrives in which order is the same each time.

        with Replay("run.h5") as replay:
            node = NodeUnderTest()
            replay.play()
            replay.until(lambda: node.seen == 100)

    Args:
        bags: a path, or several.
        options: what to play; it is always lossless and immediate.

    Raises:
        BagError: as `Player`.
    """

    def __init__(self, bags: str | Path | Sequence[str | Path], options: PlayOptions | None = None) -> None:
        chosen = options or PlayOptions(wait_for_subscribers=1, relocate=True)
        self._player = Player(bags, replace(chosen, lossless=True, immediate=True, delay_ns=0))
        self._resources = ExitStack()
        self._resources.callback(self._player.close)
        self._each: Callable[[str], object] | None = None
        self._before: str | None = None
        self._running: threading.Thread | None = None
        self._outcome: list[PlayReport | BaseException] = []

    @property
    def topics(self) -> tuple[str, ...]:
        """Names of the topics that are played."""
        return self._player.topics

    def __enter__(self) -> Replay:
        try:
            self._player.announce()
        except BaseException:
            self._resources.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._player.stop()
        if self._running is not None:
            self._running.join()
        self._resources.close()

    def play(self, each: Callable[[str], object] | None = None) -> PlayReport:
        """Play to the end; returns when subscribers have read the last message.

        Args:
            each: called after each message with its topic, for example to wait until it was dealt with.

        Raises:
            ReplayError: a topic has no subscriber, or one has stopped reading.
        """
        self._each, self._before = each, None
        return self._player.play(self._sent, before=self._hold_order)

    async def play_async(self, each: Callable[[str], object] | None = None) -> PlayReport:
        """Play from a thread while the event loop runs the code under test; see `play`."""
        return await asyncio.to_thread(self.play, each)

    def start(self) -> None:
        """Play from a thread while this one runs the code under test; `join` waits for the end."""
        self._running = threading.Thread(target=self._run, name="bag replay", daemon=True)
        self._running.start()

    def join(self, timeout_s: float = PATIENCE_S) -> PlayReport:
        """Wait for the end of what `start` began, at most so many seconds.

        Raises:
            BagError: it is not over yet; or as `play`.
        """
        if self._running is None:
            raise BagError("nothing was started; call start() first")
        self._running.join(timeout_s)
        if self._running.is_alive():
            raise BagError(f"the replay is not over after {timeout_s:g} s")
        self._running = None
        outcome = self._outcome.pop()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def until(self, condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
        """Wait until the code under test has come to where it should.

        Raises:
            AssertionError: it did not within so many seconds.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"the condition did not come true within {timeout_s:g} s of the replay")
            time.sleep(LOOK_S)

    def _run(self) -> None:
        try:
            self._outcome.append(self.play())
        except BaseException as error:  # noqa: BLE001  raised by join()
            self._outcome.append(error)

    def _sent(self, topic: str) -> None:
        if self._each is not None:
            self._each(topic)

    # topics come through sockets of their own: one must be empty before another may speak
    def _hold_order(self, topic: str) -> None:
        before, self._before = self._before, topic
        if before is None or before == topic:
            return
        path = str(ipc_path(self._player.address_of(before)))
        deadline = time.monotonic() + self._player.options.wait_timeout_ns / 1e9
        while unread_bytes({path}) and not self._player.stopped and time.monotonic() < deadline:
            time.sleep(LOOK_S / 10)
