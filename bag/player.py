"""Plays bags: recreates the recorded publishers under their own names and sends every message at its time.

Headers go out byte for byte unless other stamps are asked for. A message is sent late rather than dropped, and how late
is measured and reported. `play()` sends from the thread that calls it; everything else may be called from any thread.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType

from bag.clock import SLICE_NS, PlayerClock
from bag.errors import UsageError
from bag.lateness import LatenessLog
from bag.options import PlayOptions
from bag.programme import Programme
from bag.readahead import ReadAhead
from bag.schedule import Batch
from bag.simclock import SimulatedClock, clock_place
from bag.stage import Stage
from bag.stamps import Stamps
from bag.statistics import PlayProgress, PlayReport, TopicPlayReport
from bag.sticky import StickyTopics, Value

# threads must hand over quickly, or reading ahead makes sending late
SWITCH_S = 0.0001


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
        self._stage: Stage | None = None
        self._on_stage = ExitStack()
        self._stamps = Stamps(self.options.stamps)
        self._restamping = self.options.stamps != "keep" or self.options.loop
        self._logs = [LatenessLog() for _ in self._places]
        self._lock = threading.Lock()
        self._target: int | None = None
        self._position = self._programme.start_ns
        self._next_at: int | None = None
        self._late = self._sent = self._repeated = 0
        self._passes = 1
        self._look_at = 0

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
            stage = Stage(self.options, self._clock, self._places, self._programme.mean_bytes())
            self._stage = self._on_stage.enter_context(stage)

    def play(self) -> PlayReport:
        """Play to the end, or until `stop`; returns what became of every topic.

        Raises:
            ReplayError: see `announce`; or subscribers do not come in time, or one is stuck (lossless).
            DiscoveryUnavailableError: no daemon answers and none may be started.
        """
        self.announce()
        stage = self._stage
        assert stage is not None
        try:
            # entered last and left first: an error must reach the stage, which then does not linger
            with self._on_stage:
                took = self._perform(stage)
        finally:
            self._stage, self._on_stage = None, ExitStack()
        return self._report(stage, took)

    def _perform(self, stage: Stage) -> int:
        position: int | None = self._programme.start_ns
        started: int | None = None
        while position is not None:
            batches = self._programme.batches(position, self.options.read_ahead_bytes // 2)
            with ReadAhead(batches, self.options.read_ahead_bytes // 2) as ahead:
                ahead.wait_ready()
                if started is None:
                    stage.wait_for_audience()
                    started = self._clock.real_ns()
                    if self.options.start_paused:
                        self._clock.pause()
                    self._stamps.begin_pass(1, self._programme.zero_wall_ns + position)
                self._send_all(self._sticky.values_before(position), stage)
                self._position = position
                self._clock.jump(position)
                with undisturbed(), self._simulated_clock(stage):
                    position = self._walk(ahead, position, stage)
        return self._clock.real_ns() - (started or 0)

    def _simulated_clock(self, stage: Stage) -> SimulatedClock | nullcontext[None]:
        if self.options.clock_hz is None:
            return nullcontext()
        number = len(self._places) - 1
        zero = self._programme.zero_wall_ns
        return SimulatedClock(
            self.options.clock_hz, lambda: zero + self._now(), lambda frames: stage.offer(number, frames)
        )

    # one way through the timetable; returns where to begin another one, or None
    def _walk(self, ahead: ReadAhead, position: int, stage: Stage) -> int | None:
        before = self._sent
        for batch in ahead:
            if not self._send_batch(batch, position, stage):
                return self._next_position()
            position = batch.times[-1]
            for log in self._logs:
                log.fold()
        self._next_at = None
        if self.options.loop and self._sent > before and not self._counted_out():
            if self._clock.sleep_until(self._programme.end_ns, lambda: self._look(stage)) is None:
                return self._next_position()
            self._passes += 1
            self._stamps.begin_pass(self._passes, self._programme.zero_wall_ns + self._programme.start_ns)
            return self._programme.start_ns
        return self._stay(stage)

    # False when the walk ends before the batch does
    def _send_batch(self, batch: Batch, position: int, stage: Stage) -> bool:
        clock, logs, send, places = self._clock, self._logs, stage.send, self._places
        immediate, skip, sticky = self.options.immediate, self.options.skip_empty_ns, bool(self._sticky)
        restamping, limit = self._restamping, self.options.num_messages
        late: int | None = 0
        for at, place, frames in zip(batch.times, batch.places, batch.frames, strict=True):
            if limit is not None and self._sent >= limit:
                return False
            if immediate:
                if clock.held:
                    clock.jump(at)
                    late = clock.sleep_until(at, lambda: self._look(stage))
            else:
                if skip is not None and at - position > skip:
                    clock.jump(at)
                self._next_at = at
                late = clock.sleep_until(at, lambda: self._look(stage))
            if late is None:
                return False
            if restamping:
                frames = self._stamps.restamp(places[place].name, frames)
            if send(place, frames):
                logs[place].append(late)
                self._sent += 1
            self._position = position = at
            self._late = late
            if sticky:
                self._sticky.note(place, frames)
                if clock.real_ns() >= self._look_at:
                    self._look(stage)
        return True

    def _counted_out(self) -> bool:
        return self.options.num_messages is not None and self._sent >= self.options.num_messages

    # after an interruption: where somebody wants to go, or None when it is the end
    def _next_position(self) -> int | None:
        with self._lock:
            target, self._target = self._target, None
            self._clock.clear_interrupt()
        if self._clock.stopped:
            return None
        return self._stay(self._stage) if target is None else target

    # at the end: with keep_alive until somebody stops or seeks
    def _stay(self, stage: Stage | None) -> int | None:
        while self.options.keep_alive and not self._clock.stopped:
            if self._target is not None:
                return self._next_position()
            self._clock.pause_for(SLICE_NS)
            if stage is not None:
                self._look(stage)
        return None

    # --- sticky values

    def _look(self, stage: Stage) -> None:
        self._look_at = self._clock.real_ns() + SLICE_NS
        if self._sticky:
            self._send_all(self._sticky.values_for_late(lambda place: stage.subscribers(self._places[place].name)), stage)

    def _send_all(self, values: Sequence[Value], stage: Stage) -> None:
        for place, frames in values:
            self._repeated += stage.send(place, frames)

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

    def step(self) -> None:
        """Send the next message at once, and stand still behind it."""
        self._clock.step()

    def seek(self, seconds: float) -> None:
        """Go on from this position on the time line, within what is played."""
        with self._lock:
            wanted = round(seconds * 1e9)
            self._target = min(max(wanted, self._programme.start_ns), self._programme.end_ns)
            self._clock.interrupt()

    def seek_by(self, seconds: float) -> None:
        """Go forward, or back when negative."""
        here = self._now() if self._target is None else self._target
        self.seek(here / 1e9 + seconds)

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

    def _now(self) -> int:
        return self._position if self.options.immediate or self._next_at is None else self._clock.now()

    def progress(self) -> PlayProgress:
        """Where the replay is."""
        now, next_at, rate = self._now(), self._next_at, self._clock.rate
        return PlayProgress(
            position_ns=min(now, self.duration_ns),
            duration_ns=self.duration_ns,
            sent=self._sent,
            rate=rate,
            lateness_ns=self._late,
            paused=self._clock.paused,
            next_in_ns=None if next_at is None or self.options.immediate else max(0, round((next_at - now) / rate)),
            passes=self._passes,
        )

    def _report(self, stage: Stage, took: int) -> PlayReport:
        total = LatenessLog()
        topics = []
        for number, place in enumerate(self._programme.places):
            log = self._logs[number]
            topics.append(
                TopicPlayReport(
                    place.name, place.publisher_node, place.address, log.count, stage.refused[number], log.summary()
                )
            )
            total.add(log)
        return PlayReport(
            duration_ns=took,
            sent=self._sent,
            refused=sum(stage.refused),
            embedded_discovery=stage.embedded,
            lateness=total.summary(),
            topics=tuple(topics),
            repeated=self._repeated,
            passes=self._passes,
            completed=not self._clock.stopped,
        )

    def close(self) -> None:
        """Leave the places and close the bags; a second call does nothing."""
        self.stop()
        self._on_stage.close()
        self._stage = None
        self._resources.close()

    def __enter__(self) -> Player:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep garbage collection and long turns of other threads out of the way."""
    collecting, interval = gc.isenabled(), sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if collecting:
            gc.enable()
