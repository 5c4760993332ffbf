"""Plays bags: recreates the recorded publishers under their own names and sends every message at its time.

Headers go out byte for byte. A message is sent late rather than dropped, and how late is measured and reported.
"""

from __future__ import annotations

import gc
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np

from bag.clock import PlayerClock
from bag.errors import UsageError
from bag.options import PlayOptions
from bag.records import Channel
from bag.schedule import Due, ReadAhead, timetable
from bag.statistics import Lateness, PlayProgress, PlayReport, TopicPlayReport
from bag.stage import Stage
from bag.storage.reader import BagReader

# threads must hand over quickly, or reading ahead makes sending late
SWITCH_S = 0.0002


class Player:
    """Plays one bag, or several on one time line.

    Args:
        bags: a path, or several.
        options: what to play, and how.

    Raises:
        FileNotFoundError, BagFormatError, BagBusyError: a bag cannot be opened.
        UsageError: nothing would be played.
    """

    def __init__(self, bags: str | Path | Sequence[str | Path], options: PlayOptions | None = None) -> None:
        self.options = options or PlayOptions()
        paths = [bags] if isinstance(bags, (str, Path)) else list(bags)
        if self.options.rate <= 0:
            raise UsageError(f"the rate is {self.options.rate}; it must be above 0")
        self._resources = ExitStack()
        self._clock = PlayerClock(self.options.rate)
        self._position = self._sent = self._late = 0
        try:
            self._readers = [self._resources.enter_context(BagReader(path)) for path in paths]
            self._topics = [[name for name in reader.topics if self._wanted(name)] for reader in self._readers]
            if not any(self._topics):
                raise UsageError(f"no topic of {', '.join(map(str, paths))} is left to play; look at: cortex bag info")
        except BaseException:
            self._resources.close()
            raise

    def _wanted(self, topic: str) -> bool:
        options = self.options
        return (not options.topics or topic in options.topics) and topic not in options.exclude_topics

    @property
    def duration_ns(self) -> int:
        """Length of the time line in ns."""
        spans = [span for span in (reader.span_ns() for reader in self._readers) if span is not None]
        if not spans:
            return 0
        start = min(wall for wall, _first, _last in spans)
        return max(wall + last - first for wall, first, last in spans) - start

    def play(self) -> PlayReport:
        """Play to the end, or until `stop`; returns what became of every topic.

        Raises:
            ReplayError: a recorded place is taken by a live node, or a subscriber is stuck (lossless).
            DiscoveryUnavailableError: no daemon answers and none may be started.
        """
        span = (self.options.start_ns, self.options.stop_ns)
        dues = timetable(self._readers, self._topics, self.options.order, span)
        with ReadAhead(dues, self.options.read_ahead_bytes) as ahead, Stage(self.options, self._clock) as stage:
            stage.announce(self._first_channels())
            ahead.wait_ready()
            stage.wait_for_audience()
            started = time.monotonic_ns()
            with undisturbed():
                lateness = self._send(ahead, stage)
            took = time.monotonic_ns() - started
        return self._report(stage, lateness, took)

    def _first_channels(self) -> list[Channel]:
        named = {name for names in self._topics for name in names}
        firsts: dict[str, Channel] = {}
        for reader in self._readers:
            for channel in reader.channels:
                if channel.topic in named:
                    firsts.setdefault(channel.topic, channel)
        return list(firsts.values())

    def _send(self, ahead: ReadAhead, stage: Stage) -> dict[str, array[int]]:
        clock = self._clock
        lateness: dict[str, array[int]] = {name: array("q") for names in self._topics for name in names}
        first = True
        for due in ahead:
            if first:
                clock.start(self.options.start_ns or min(0, due.at_ns))
                first = False
            late = clock.sleep_until(due.at_ns)
            if late is None:
                break
            if stage.send(due.message):
                lateness[due.message.topic].append(late)
                self._sent += 1
            self._note(due, late)
        return lateness

    def _note(self, due: Due, late: int) -> None:
        self._position, self._late = due.at_ns, late

    def _report(self, stage: Stage, lateness: dict[str, array[int]], took: int) -> PlayReport:
        topics = tuple(
            TopicPlayReport(
                channel.topic,
                channel.node,
                channel.address,
                len(lateness[channel.topic]),
                stage.refused.get(channel.topic, 0),
                summary(lateness[channel.topic]),
            )
            for channel in self._first_channels()
        )
        every = array("q")
        for values in lateness.values():
            every.extend(values)
        refused = sum(stage.refused.values())
        return PlayReport(took, len(every), refused, stage.embedded, summary(every), topics)

    def stop(self) -> None:
        """End the replay soon; may be called from any thread."""
        self._clock.stop()

    def progress(self) -> PlayProgress:
        """Where the replay is."""
        return PlayProgress(self._position, self.duration_ns, self._sent, self._clock.rate, self._late)

    def close(self) -> None:
        """Close the bags; a second call does nothing."""
        self.stop()
        self._resources.close()

    def __enter__(self) -> Player:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def summary(late: array[int]) -> Lateness:
    """Median, 99th percentile and maximum of lateness values in ns."""
    if not late:
        return Lateness()
    values = np.frombuffer(late, np.int64)
    p50, p99 = np.percentile(values, [50, 99])
    return Lateness(int(p50), int(p99), int(values.max()))


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


