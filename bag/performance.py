"""One performance of a programme: walks through the timetable and sends, until it is over or somebody stops it.

A seek or a loop is no step within a walk: the walk is dropped and another one begins.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from bag.clock import SLICE_NS, PlayerClock
from bag.lateness import LatenessLog
from bag.options import PlayOptions
from bag.precedence import SENDER, Precedence
from bag.programme import Programme
from bag.readahead import ReadAhead
from bag.schedule import Batch
from bag.simclock import SimulatedClock
from bag.stage import Stage
from bag.stamps import Stamps
from bag.sticky import StickyTopics, Value

# threads must hand over quickly, or reading ahead makes sending late
SWITCH_S = 0.0001
PR_SET_TIMERSLACK = 29
# later than this for so long, it cannot keep up, and others are not to suffer for it
BEHIND_NS = 20_000_000
BEHIND_FOR_NS = 500_000_000

Hook = Callable[[str], object]


class Performance:
    """Sends a programme from one thread; `seek` and the attributes may be used from others.

    Attributes:
        position, next_at: of the last message that was sent, and of the next one, in ns on the time line.
        late: how late the last message was, in ns.
        sent, repeated, passes: counts of messages, of sticky values sent again, of ways through the programme.
        logs: lateness by number of place.

    Args:
        programme: what to play.
        options: how.
        clock: when.
        sticky: topics whose last value is repeated.
        precedence: of the threads that work for it.
        hooks: called before and after each message, with its topic.
    """

    def __init__(
        self,
        programme: Programme,
        options: PlayOptions,
        clock: PlayerClock,
        sticky: StickyTopics,
        *,
        precedence: Precedence,
        hooks: tuple[Hook | None, Hook | None] = (None, None),
    ) -> None:
        self._programme = programme
        self._options = options
        self._clock = clock
        self._sticky = sticky
        self._precedence = precedence
        self._hooks = hooks
        self._stamps = Stamps(options.stamps)
        self._restamping = options.stamps != "keep" or options.loop
        self.logs = [LatenessLog() for _ in programme.places]
        self.position = programme.start_ns
        self.next_at: int | None = None
        self.late = self.sent = self.repeated = 0
        self.passes = 1
        self._look_at = 0
        self._behind_since: int | None = None
        self._ahead: ReadAhead | None = None
        self._lock = threading.Lock()
        self._target: int | None = None

    def now(self) -> int:
        """Where it is on the time line, in ns."""
        return self.position if self._options.immediate or self.next_at is None else self._clock.now()

    def seek(self, target: int) -> None:
        """Go on from this position (ns on the time line), within what is played."""
        with self._lock:
            self._target = min(max(target, self._programme.start_ns), self._programme.end_ns)
            self._clock.interrupt()

    @property
    def destination(self) -> int:
        """Where it will be in a moment: the target of a seek, or where it is."""
        target = self._target
        return self.now() if target is None else target

    def run(self, stage: Stage) -> int:
        """Play on a stage; returns how long it took from the first message, in ns.

        Raises:
            ReplayError: subscribers do not come in time, or one is stuck (lossless).
        """
        position: int | None = self._programme.start_ns
        started: int | None = None
        while position is not None:
            batches = self._programme.batches(position, self._options.read_ahead_bytes // 2, self._rest)
            with ReadAhead(batches, self._options.read_ahead_bytes // 2) as ahead:
                self._ahead = ahead
                ahead.wait_ready()
                if started is None:
                    started = self._begin(stage)
                self.position = position
                self._clock.jump(position)
                self._send_values(self._sticky.values_before(position), stage)
                with undisturbed(), self._precedence.of_this_thread(SENDER), self._simulated_clock(stage):
                    position = self._walk(ahead, position, stage)
        return self._clock.real_ns() - (started or 0)

    # whoever wants everything at once wants no rest
    def _rest(self, took_ns: int) -> None:
        if self._ahead is not None and not self._options.immediate:
            self._ahead.rest(took_ns)

    def _begin(self, stage: Stage) -> int:
        stage.wait_for_audience()
        self._sticky.begin(stage.subscribers)
        if self._options.start_paused:
            self._clock.pause()
        self._stamps.begin_pass(1, self._programme.zero_wall_ns + self._programme.start_ns)
        return self._clock.real_ns()

    def _simulated_clock(self, stage: Stage) -> AbstractContextManager[object]:
        if self._options.clock_hz is None:
            return nullcontext()
        zero = self._programme.zero_wall_ns
        return SimulatedClock(self._options.clock_hz, lambda: zero + self.now(), stage.offer_last)

    # one way through the timetable; returns where to begin another one, or None
    def _walk(self, ahead: ReadAhead, position: int, stage: Stage) -> int | None:
        before = self.sent
        for batch in ahead:
            if not self._send_batch(batch, position, stage):
                return self._next_position(stage)
            position = batch.times[-1]
            for log in self.logs:
                log.fold()
        self.next_at = None
        if not self._options.loop or self.sent == before or self._counted_out():
            return self._stay(stage)
        if self._clock.sleep_until(self._programme.end_ns, lambda: self._look(stage)) is None:
            return self._next_position(stage)
        self.passes += 1
        self._stamps.begin_pass(self.passes, self._programme.zero_wall_ns + self._programme.start_ns)
        return self._programme.start_ns

    # False when the walk ends before the batch does
    def _send_batch(self, batch: Batch, position: int, stage: Stage) -> bool:
        logs, send, topics = self.logs, stage.send, self._programme.places
        limit, restamping, sticky = self._options.num_messages, self._restamping, bool(self._sticky)
        before, after = self._hooks
        for at, place, frames in zip(batch.times, batch.places, batch.frames, strict=True):
            if limit is not None and self.sent >= limit:
                return False
            late = self._wait(at, position, stage)
            if late is None:
                return False
            if late > BEHIND_NS or self._behind_since is not None:
                self._mind_others(late)
            if restamping:
                frames = self._stamps.restamp(topics[place].name, frames)
            if before is not None:
                before(topics[place].name)
            if send(place, frames):
                logs[place].append(late)
                self.sent += 1
            self.position, self.late = at, late
            position = at
            if after is not None:
                after(topics[place].name)
            if sticky:
                self._sticky.note(place, frames)
                if self._clock.real_ns() >= self._look_at:
                    self._look(stage)
        return True

    # a hiccup of the machine is no reason to step back
    def _mind_others(self, late: int) -> None:
        now = self._clock.real_ns()
        if late <= BEHIND_NS:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        since = self._behind_since
        yielding = since is not None and now - since >= BEHIND_FOR_NS
        if yielding is not self._precedence.yielding:
            self._precedence.set_yielding(yielding)

    # how late it is then, or None when the wait was ended
    def _wait(self, at: int, position: int, stage: Stage) -> int | None:
        clock, options = self._clock, self._options
        if options.immediate:
            if not clock.held:
                return 0
            clock.jump(at)
        elif options.skip_empty_ns is not None and at - position > options.skip_empty_ns:
            clock.jump(at)
        self.next_at = at
        return clock.sleep_until(at, lambda: self._look(stage))

    def _counted_out(self) -> bool:
        return self._options.num_messages is not None and self.sent >= self._options.num_messages

    # after a walk was ended: where somebody wants to go, or None when it is the end
    def _next_position(self, stage: Stage) -> int | None:
        with self._lock:
            target, self._target = self._target, None
            self._clock.clear_interrupt()
        if self._clock.stopped:
            return None
        return self._stay(stage) if target is None else target

    # at the end: with keep_alive until somebody stops or seeks
    def _stay(self, stage: Stage) -> int | None:
        while self._options.keep_alive and not self._clock.stopped:
            if self._target is not None:
                return self._next_position(stage)
            self._clock.pause_for(SLICE_NS)
            self._look(stage)
        return None

    # whoever subscribed since the last look is given what holds now
    def _look(self, stage: Stage) -> None:
        self._look_at = self._clock.real_ns() + SLICE_NS
        if self._sticky:
            self._send_values(self._sticky.values_for_late(stage.subscribers), stage)

    def _send_values(self, values: Sequence[Value], stage: Stage) -> None:
        for place, frames in values:
            self.repeated += stage.send(place, frames)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep garbage collection and long turns of other threads out of the way, and be woken on time."""
    collecting, interval = gc.isenabled(), sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(SWITCH_S)
    _set_timer_slack(1)
    try:
        yield
    finally:
        _set_timer_slack(0)
        sys.setswitchinterval(interval)
        if collecting:
            gc.enable()


# how much later than asked Linux may wake this thread, in ns; it is 50 us by default, to which 0 goes back
def _set_timer_slack(slack_ns: int) -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(slack_ns))
