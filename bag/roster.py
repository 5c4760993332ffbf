"""Who is recorded: which topics discovery lists that are wanted, where each is received, and as which channel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from bag.follow import Sighting
from bag.intake import Intake
from bag.options import RecordOptions
from bag.records import Channel
from bag.sources import Renewal, Source
from cortex.discovery.protocol import TopicInfo


class Roster:
    """Follows the sightings of discovery and opens a channel for every publisher of a wanted topic.

    Args:
        options: of the recording.
        enter: makes a channel known to the writer, before the first message of it comes.
        look: asks discovery for a topic; None when there is none, or nobody answers.
    """

    def __init__(
        self, options: RecordOptions, enter: Callable[[Channel], None], look: Callable[[str], TopicInfo | None]
    ) -> None:
        self._options = options
        self._enter = enter
        self._look = look
        self._lock = threading.Lock()
        self._sighting = Sighting()
        self._infos: dict[str, TopicInfo] = {}
        self._sources: dict[str, Source] = {}
        # what each channel was opened for
        self._opened: list[TopicInfo] = []

    def note(self, sighting: Sighting) -> None:
        """Keep what discovery said last."""
        with self._lock:
            self._sighting = sighting

    @property
    def complete(self) -> bool:
        """Whether every topic that was named has a publisher."""
        sighting = self._sighting
        return ({info.name for info in sighting.topics} - sighting.dead).issuperset(self._options.topics)

    def follow(self, intake: Intake) -> None:
        """Receive every wanted topic from where it is now."""
        with self._lock:
            # without following late topics, those of the first sighting are still followed to where they go
            closed = not self._options.follow and bool(self._infos)
            for info in self._sighting.topics:
                known = self._infos.get(info.name)
                if self._wants(info) and known != info and not (closed and known is None):
                    self._join(info, intake)

    def state(self) -> tuple[dict[str, TopicInfo], dict[str, Source], Sighting]:
        """What is known of each topic that is recorded, where it is received, and what discovery said last."""
        with self._lock:
            return dict(self._infos), dict(self._sources), self._sighting

    # A publisher registers before it speaks, but its first message may be here before we have been told of it. One that
    # lives for milliseconds may be gone when we ask, and the next one there.
    def renew(self, source: Source, why: Renewal) -> int:
        """A channel for a source, whose fingerprint is the next message's; from the intake's thread.

        Without news it is the one it has, except where it is reborn.
        """
        name = source.topic.decode()
        before = self._listed(name)
        current = None if why is Renewal.TOLD else self._look(name)
        with self._lock:
            if current is not None and (current.address != source.address or not self._wants(current)):
                current = None
            # what a sighting said of it while we asked may be newer than the answer
            if current is not None and self._listed(name) == before:
                self._infos[name] = current
            info = self._who_speaks(source, current)
            if why is not Renewal.REBORN and self._opened[source.channel] == info:
                return source.channel
            return self._open_channel(info)

    # whoever was last known to speak there and to use this type, else whoever is there now
    def _who_speaks(self, source: Source, current: TopicInfo | None) -> TopicInfo:
        latest = self._infos[source.topic.decode()]
        known = (latest, current or latest, *reversed(self._opened))
        there = (info for info in known if (info.name, info.address) == (latest.name, source.address))
        same_type = (info for info in there if info.fingerprint == source.fingerprint)
        return next(same_type, replace(latest, address=source.address))

    def _listed(self, name: str) -> TopicInfo | None:
        return next((info for info in self._sighting.topics if info.name == name), None)

    def _wants(self, info: TopicInfo) -> bool:
        return self._options.selection.wants(info.name, info.message_type, info.publisher_node)

    # a publisher that is gone stays connected: it may come back at the same address, and nothing else would tell
    def _join(self, info: TopicInfo, intake: Intake) -> None:
        self._infos[info.name] = info
        old = self._sources.get(info.name)
        if old is not None and old.address == info.address:
            intake.renew(old)
            return
        if old is not None:
            intake.disconnect(old)
        hz = dict(self._options.throttle).get(info.name)
        period = 0 if hz is None else round(1e9 / hz)
        channel = self._open_channel(info)
        source = Source(channel, info.name.encode(), info.address, fingerprint=info.fingerprint, period_ns=period)
        self._sources[info.name] = source
        intake.connect(source)

    # numbers in the order in which the writer hears of them: the lock is held
    def _open_channel(self, info: TopicInfo) -> int:
        number = len(self._opened)
        self._opened.append(info)
        self._enter(Channel(number, info.name, info.message_type, info.fingerprint, info.publisher_node, info.address))
        return number
