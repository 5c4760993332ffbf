"""Plays bags: recreates the recorded publishers under their own names and sends every message at its time.

Headers go out byte for byte unless other stamps are asked for. A message is sent late rather than dropped, and how late
is measured and reported. `play()` sends from the thread that calls it; everything else may be called from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from bag.clock import PlayerClock
from bag.errors import UsageError
from bag.lateness import LatenessLog
from bag.options import PlayOptions
from bag.performance import Hook, Performance
from bag.precedence import Precedence
from bag.programme import Programme
from bag.simclock import clock_place
from bag.stage import Stage
from bag.statistics import PlayProgress, PlayReport, TopicPlayReport
from bag.sticky import StickyTopics


class Player:
    """Plays one bag, or several on one time line.

    Args:
        bags: a path, or several, splits in any order.
        options: what to play, and how.
        clock: paces the replay; a `bag.clock.ManualClock` makes tests independent of time.

    Raises:
        FileNotFoundError, BagFormatError, BagBusyError, IntegrityError: a bag cannot be opened.
        UsageError: nothing would be played, or an option makes no sense for these bags.
    """

    def __init__(
        self,
        bags: str | Path | Sequence[str | Path],
        options: PlayOptions | None = None,
        *,
        clock: PlayerClock | None = None,
    ) -> None:
        self.options = options or PlayOptions()
        self._clock = clock or PlayerClock()
        self._clock.set_rate(self.options.rate)
        self._resources = ExitStack()
        self._programme = Programme([bags] if isinstance(bags, (str, Path)) else list(bags), self.options)
        self._resources.callback(self._programme.close)
        self._places = list(self._programme.places)
        try:
            self._sticky = StickyTopics(self.options.sticky, self._programme.lanes)
            if self.options.clock_hz is not None:
                self._add_clock_place()
        except BaseException:
            self._resources.close()
            raise
        self._precedence = Precedence(wanted=self.options.realtime and not self.options.immediate)
        self._stage: Stage | None = None
        self._on_stage = ExitStack()
        self._playing = threading.RLock()
        self._performance = self._prepare()

    def _prepare(self, *hooks: Hook | None) -> Performance:
        both = (hooks[0], hooks[1]) if hooks else (None, None)
        return Performance(
            self._programme, self.options, self._clock, self._sticky, precedence=self._precedence, hooks=both
        )

    def _add_clock_place(self) -> None:
        place = clock_place(self.options.clock_topic)
        if place.name in [other.name for other in self._places]:
            raise UsageError(f"{place.name} is one of the topics that are played; choose another --clock-topic")
        self._places.append(place)

    # --- the replay

    @property
    def topics(self) -> tuple[str, ...]:
        """Names under which topics are played."""
        return tuple(dict.fromkeys(place.name for place in self._programme.places))

    def address_of(self, topic: str) -> str:
        """Address at which a topic is played first."""
        return next(place.address for place in self._places if place.name == topic)

    @property
    def duration_ns(self) -> int:
        """Where on the time line the last message that is played lies, in ns."""
        return self._programme.end_ns

    def announce(self) -> None:
        """Take the recorded places, so that subscribers find the topics; `play` does it if nobody has.

        Raises:
            ReplayError: a recorded place is taken by a live node, or may not be taken.
            DiscoveryUnavailableError: no daemon answers and none may be started.
        """
        if self._stage is None:
            stage = Stage(
                self.options, self._clock, self._places, self._programme.mean_bytes(), precedence=self._precedence
            )
            self._stage = self._on_stage.enter_context(stage)

    def play(self, sent: Hook | None = None, *, before: Hook | None = None) -> PlayReport:
        """Play to the end, or until `stop`; returns what became of every topic.

        Args:
            sent: called after each message, with its topic as it is played.
            before: called before each message.

        Raises:
            ReplayError: see `announce`; or subscribers do not come in time, or one is stuck (lossless).
            DiscoveryUnavailableError: no daemon answers and none may be started.
        """
        with self._playing:
            if self._performance.passes > 1 or self._performance.sent or sent or before:
                self._performance = self._prepare(before, sent)
            self.announce()
            stage = self._stage
            assert stage is not None
            try:
                # an error must reach the stage, which then does not linger
                with self._on_stage:
                    took = self._performance.run(stage)
            finally:
                self._stage, self._on_stage = None, ExitStack()
            return self._report(stage, took)

    # --- control, from any thread

    def pause(self) -> None:
        """Stand still before the next message."""
        self._clock.pause()

    def resume(self) -> None:
        """Go on after `pause` or `step`."""
        self._clock.resume()

    @property
    def paused(self) -> bool:
        """Whether it stands still."""
        return self._clock.paused

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._clock.stopped

    def step(self) -> None:
        """Send the next message at once, and stand still behind it."""
        self._clock.step()

    def seek(self, seconds: float) -> None:
        """Go on from this position on the time line, within what is played."""
        self._performance.seek(round(seconds * 1e9))

    def seek_by(self, seconds: float) -> None:
        """Go forward, or back when negative."""
        self._performance.seek(self._performance.destination + round(seconds * 1e9))

    def set_rate(self, rate: float) -> None:
        """Change the speed from now on.

        Raises:
            ValueError: the rate is not above 0.
        """
        self._clock.set_rate(rate)

    def stop(self) -> None:
        """End the replay soon."""
        self._clock.stop()

    # --- what became of it

    def progress(self) -> PlayProgress:
        """Where the replay is."""
        it, rate = self._performance, self._clock.rate
        now, next_at = it.now(), it.next_at
        return PlayProgress(
            position_ns=min(now, self.duration_ns),
            duration_ns=self.duration_ns,
            sent=it.sent,
            rate=rate,
            lateness_ns=it.late,
            paused=self._clock.paused,
            next_in_ns=None if next_at is None or self.options.immediate else max(0, round((next_at - now) / rate)),
            passes=it.passes,
        )

    def _report(self, stage: Stage, took: int) -> PlayReport:
        it, total = self._performance, LatenessLog()
        topics = []
        for place, log, refused in zip(self._programme.places, it.logs, stage.refused, strict=False):
            late = log.summary()
            topics.append(TopicPlayReport(place.name, place.publisher_node, place.address, log.count, refused, late))
            total.add(log)
        return PlayReport(
            duration_ns=took,
            sent=it.sent,
            refused=sum(stage.refused),
            embedded_discovery=stage.embedded,
            lateness=total.summary(),
            topics=tuple(topics),
            repeated=it.repeated,
            passes=it.passes,
            completed=not self._clock.stopped,
            realtime=self._precedence.granted,
        )

    def close(self) -> None:
        """Stop, leave the places and close the bags; a second call does nothing."""
        self.stop()
        with self._playing:
            self._on_stage.close()
            self._stage = None
            self._resources.close()

    def __enter__(self) -> Player:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
