"""What a replay consists of: the bags, which of their topics under which names, and one time line for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from bag.direct import DirectFile
from bag.errors import UsageError
from bag.lanes import NOT_WANTED, Lane, time_line_zeros
from bag.options import PlayOptions
from bag.places import Renaming
from bag.schedule import Batch, timetable
from bag.storage.reader import BagReader
from cortex.discovery.protocol import TopicInfo

# rows that are read at once: many cost less, few leave the sending thread in peace
IMMEDIATE_ROWS = 8192
PACED_ROWS = 1024


class Programme:
    """Bags laid on one time line, whose 0 is the first arrival in the earliest of them.

    Attributes:
        places: everything that will be registered; batches refer to it by number.
        topics: of each place the topic as recorded.
        start_ns, end_ns: the part of the time line that is played; `stop_ns` is its bound, None for all.
        zero_wall_ns: recorded wall time at 0.

    Args:
        paths: the bags, in any order.
        options: of the replay.
        lenient: pass over topics that are not there, also when none is left.

    Raises:
        FileNotFoundError, BagFormatError, BagBusyError: a bag cannot be opened.
        IntegrityError: a bag claims what cannot be.
        UsageError: nothing would be played, or the same topic by two nodes at once.
    """

    def __init__(self, paths: Sequence[str | Path], options: PlayOptions, *, lenient: bool = False) -> None:
        self._options = options
        self._resources = ExitStack()
        self.places: list[TopicInfo] = []
        self.topics: list[str] = []
        self._files: list[DirectFile] = []
        try:
            # the last one first, as in parts.py
            readers = [self._resources.enter_context(BagReader(path)) for path in reversed(paths)]
            readers.reverse()
            # splits in their order, whatever the order of the arguments; empty bags last
            self.readers = sorted(readers, key=lambda reader: reader.span_ns() or (1 << 63, 0, 0))
            if not lenient:
                self._require_topics()
            self.lanes = self._lay_out(lenient=lenient)
        except BaseException:
            self._resources.close()
            raise
        self._set_range()

    def _require_topics(self) -> None:
        named = self._options.topics
        known = list(dict.fromkeys(name for reader in self.readers for name in reader.topics))
        for topic in named:
            if topic not in known:
                raise UsageError(f"there is no topic {topic} to play; there are: {', '.join(known) or 'none'}")

    def _lay_out(self, *, lenient: bool) -> list[Lane]:
        selection = self._options.selection
        wanted = [
            [selection.wants(channel.topic, channel.type_name, channel.node) for channel in reader.channels]
            for reader in self.readers
        ]
        chosen = [
            list(dict.fromkeys(channel.topic for channel, want in zip(reader.channels, wants, strict=True) if want))
            for reader, wants in zip(self.readers, wanted, strict=True)
        ]
        if not any(chosen) and not lenient:
            names = ", ".join(str(reader.path) for reader in self.readers)
            raise UsageError(f"no topic of {names} is left to play; look at: cortex bag info")
        for reader, topics in zip(self.readers, chosen, strict=True):
            # what is being recorded is read as it was at one commit
            if reader.live:
                continue
            file = DirectFile(reader.path)
            self._files.append(file)
            self._resources.callback(file.close)
            for topic in topics:
                file.improve(reader.topics[topic])
        renaming = Renaming(self._options, (topic for topics in chosen for topic in topics))
        zeros = time_line_zeros([reader.span_ns() for reader in self.readers])
        self.zero_wall_ns = min((span[0] for span in self._spans()), default=0)
        lanes: list[Lane] = []
        for reader, wants, topics, zero in zip(self.readers, wanted, chosen, zeros, strict=True):
            place_of = [
                self._place(renaming.place(channel), channel.topic) if want else NOT_WANTED
                for channel, want in zip(reader.channels, wants, strict=True)
            ]
            lanes += [Lane(reader, topic, place_of, self._options.order, zero) for topic in topics]
        _stitch(lanes)
        return lanes

    def _spans(self) -> Iterator[tuple[int, int, int]]:
        for reader in self.readers:
            span = reader.span_ns()
            if span is not None:
                yield span

    def _place(self, place: TopicInfo, topic: str) -> int:
        if place not in self.places:
            self.places.append(place)
            self.topics.append(topic)
        return self.places.index(place)

    def _set_range(self) -> None:
        options = self._options
        filled = [lane.times for lane in self.lanes if len(lane)]
        first = min((int(times[0]) for times in filled), default=0)
        self.end_ns = max((int(times[-1]) for times in filled), default=0)
        self.start_ns = min(0, first) if options.start_ns is None else self._offset(options.start_ns)
        self.stop_ns = None if options.stop_ns is None else self._offset(options.stop_ns)
        if options.duration_ns is not None:
            stop = self.start_ns + options.duration_ns
            self.stop_ns = stop if self.stop_ns is None else min(stop, self.stop_ns)
        if self.stop_ns is not None:
            self.end_ns = min(self.end_ns, self.stop_ns)

    # a negative offset counts from the end of everything
    def _offset(self, offset: int) -> int:
        return offset if offset >= 0 else max(0, self.end_ns + offset)

    def mean_bytes(self) -> dict[str, int]:
        """Of each topic as it is played the mean size of a message."""
        out: dict[str, int] = {}
        for lane in self.lanes:
            for number in lane.places:
                name = self.places[number].name
                out[name] = max(out.get(name, 1), lane.mean_bytes)
        return out

    def batches(
        self, start: int, block_bytes: int, rest: Callable[[int], object] = lambda _took_ns: None
    ) -> Iterator[Batch]:
        """The timetable from `start` (ns on the time line) to the end of what is played.

        Args:
            start: on the time line, in ns.
            block_bytes: what may be held in memory to merge the topics.
            rest: called after a large piece was read, with the time that took in ns.
        """
        for file in self._files:
            file.rest = rest
        rows = IMMEDIATE_ROWS if self._options.immediate else PACED_ROWS
        return timetable(self.lanes, start, self.stop_ns, block_bytes, max_rows=rows)

    def close(self) -> None:
        """Close the bags; a second call does nothing."""
        self._resources.close()


# the same topic in several bags: splits follow each other; two publishers of one topic at one time cannot be played
def _stitch(lanes: Sequence[Lane]) -> None:
    by_topic: dict[str, list[Lane]] = {}
    for lane in lanes:
        if len(lane):
            by_topic.setdefault(lane.topic, []).append(lane)
    for topic, own in by_topic.items():
        own.sort(key=lambda lane: int(lane.times[0]))
        for before, after in pairwise(own):
            if before.times[-1] > after.times[0] and before.last_place != after.first_place:
                raise UsageError(
                    f"{topic} is published by two nodes at the same time, in {before.reader.path} and in "
                    f"{after.reader.path}; play them one by one, or leave one out with --nodes"
                )
            after.continue_after(before)
