"""Records live topics into a bag: follower (discovery) -> intake (sockets) -> buffer -> writing, a thread each.

The intake only stamps and hands on; everything about files is the writer's. What a user asks for while it runs (pause,
mark, split, snapshot, stop) may be asked from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from bag import schemas
from bag.buffer import RecordBuffer
from bag.control import ControlServer
from bag.errors import BagBusyError, BagError, UsageError
from bag.follow import Follower, Sighting, find
from bag.intake import Intake
from bag.options import RecordOptions
from bag.rates import RateMeter
from bag.records import Channel
from bag.roster import Roster
from bag.sources import Source
from bag.statistics import RecorderStatistics, TopicStatistics
from bag.storage.disk import FileOpener, RawFile, free_bytes
from bag.writing import Writing
from cortex.discovery.client import DiscoveryClient
from cortex.discovery.protocol import TopicInfo
from cortex.paths import default_discovery_address

# the intake waits for this answer; what comes meanwhile waits in its sockets
LOOKUP_MS = 50


class Recorder:
    """Records topics into one bag, or a series.

    Use it as a context manager, or call `start` and `stop`. It runs until `stop`, or until the duration or limit of
    the options is reached, or an error (`error`) ends it. What is asked of it while it runs returns True, or False when
    it is ending and nothing comes of that; before the start it raises BagError.

    Args:
        output: the bag to write; in a series `_0`, `_1`... stand before its suffix.
        options: what to record, and how.
        wall: wall clock in ns.
        mono: monotonic clock in ns.
        opener: how files are opened (for tests).

    Raises:
        UsageError: nothing is asked for.
    """

    def __init__(
        self,
        output: str | Path,
        options: RecordOptions | None = None,
        *,
        wall: Callable[[], int] = time.time_ns,
        mono: Callable[[], int] = time.monotonic_ns,
        opener: FileOpener = RawFile,
    ) -> None:
        self.path = Path(output)
        self.options = options or RecordOptions()
        if not self.options.selection.takes_anything:
            raise UsageError("nothing to record: name topics, or ask for all of them with -a")
        self.error: BaseException | None = None
        self._wall, self._mono, self._opener = wall, mono, opener
        self._lock = threading.Lock()
        self._roster = Roster(self.options, self._enter, self._look)
        self._rates: dict[str, RateMeter] = {}
        self._totals = {"in": RateMeter(), "out": RateMeter()}
        self._problems: list[str] = []
        self._began = False
        self._ended = False
        self._started_ns: int | None = None
        self._ended_ns: int | None = None
        self._intake: Intake | None = None
        self._resources = ExitStack()

    # --- from beginning to end

    def start(self) -> None:
        """Create the bag and begin to record.

        Raises:
            BagExistsError, BagBusyError, OSError: the bag cannot be created.
        """
        options = self.options
        schemas.import_modules(options.imports)
        address = options.discovery_address or default_discovery_address()
        self._buffer = RecordBuffer(options.buffer_bytes)
        clocks = {"wall": self._wall, "mono": self._mono}
        self._writing = Writing(self.path, options, self._buffer, opener=self._opener, due=self._wind_up, **clocks)
        started = self._mono()
        with ExitStack() as undo:
            if options.control:
                self._open_control(undo)
            self._client = undo.enter_context(DiscoveryClient(address, timeout_ms=LOOKUP_MS, retries=0))
            self._writing.start()
            undo.callback(self._writing.join)
            undo.callback(self._buffer.close)
            intake = Intake(
                self._buffer,
                options.queue_bytes,
                interval_ns=options.receive_interval_ns,
                renew=self._roster.renew,
                **clocks,
            )
            intake.start(paused=options.start_paused)
            self._intake = intake
            undo.callback(intake.stop)
            if not options.wait_for_topics:
                self._begin()
            self._follower = Follower(address, options.polling_interval_ns, self._sighted, failed=self.request_stop)
            self._follower.start()
            undo.callback(self._follower.stop)
            self._resources = undo.pop_all()
        self._started_ns = started

    # one can record without being controlled
    def _open_control(self, undo: ExitStack) -> None:
        control = ControlServer(self.path, self._obey)
        try:
            control.start()
        except BagBusyError:
            raise
        except BagError as error:
            self._problems.append(str(error))
        else:
            undo.callback(control.stop)

    def stop(self) -> None:
        """Stop receiving, write what has arrived, close the bag; a second call does nothing.

        Raises:
            BaseException: what ended the recording early, if anything did.
        """
        self._end()
        if self.error is not None:
            raise self.error

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the recording ends by itself; False when it still runs after `timeout` seconds."""
        return self._writing.finished.wait(timeout)

    def __enter__(self) -> Recorder:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self._end()

    def _end(self) -> None:
        if self._started_ns is None or self._ended:
            return
        self._ended = True
        # in this order: nobody asks or finds anything any more, what has arrived is taken, then written
        self._resources.close()
        self._ended_ns = self._mono()
        self.error = self._writing.error or self._receiving.error or self._follower.error

    # --- asked for while it runs

    def pause(self) -> bool:
        """Record nothing until `resume`; what comes meanwhile is counted as paused, not as lost."""
        return self._receiving.pause(True)

    def resume(self) -> bool:
        """Record again."""
        return self._receiving.pause(False)

    @property
    def paused(self) -> bool:
        """Whether the recording is paused."""
        return self._receiving.paused

    def split(self) -> bool:
        """Begin another file soon."""
        return self._have_written(lambda: self._writing.split())

    def snapshot(self) -> bool:
        """Write the past, as seen from now, soon (snapshot mode); what has come until now is in it."""
        now = self._mono()
        return self._receiving.when_taken(lambda: self._writing.ask(lambda: self._writing.snapshot(now)))

    def mark(self, text: str) -> bool:
        """Keep a named moment: now."""
        now = self._wall()
        return self._have_written(lambda: self._writing.mark(text, now))

    def request_stop(self) -> None:
        """End by itself soon, with what has come until now; `wait` returns then, and `stop` closes."""
        self._receiving.finish()

    # an error may end the writing before anything is received
    def _wind_up(self) -> None:
        if self._intake is not None:
            self._intake.finish()

    # what the intake still hands on before it ends, the writer does before it ends
    def _have_written(self, wish: Callable[[], None]) -> bool:
        return self._receiving.ask(lambda: self._writing.ask(wish))

    @property
    def _receiving(self) -> Intake:
        if self._intake is None:
            raise BagError("the recorder has not been started")
        return self._intake

    def _obey(self, command: str, text: str) -> str:
        actions: dict[str, Callable[[], bool | None]] = {
            "pause": self.pause,
            "resume": self.resume,
            "split": self.split,
            "snapshot": self.snapshot,
            "stop": self.request_stop,
            "mark": lambda: self.mark(text),
        }
        if command not in actions:
            return f"unknown command {command!r}; there are: {', '.join(actions)}"
        if command == "snapshot" and not self.options.snapshot:
            return "this recording is not in --snapshot-mode, there is nothing to snapshot"
        if command == "split" and self.options.snapshot:
            return "this recording is in --snapshot-mode; each snapshot is a file of its own"
        if self._started_ns is None:
            return "the recording is only beginning; ask again"
        return "the recording is ending; it does nothing more" if actions[command]() is False else ""

    # --- the follower's thread

    def _sighted(self, sighting: Sighting) -> None:
        self._roster.note(sighting)
        if not self._began and self._roster.complete:
            self._begin()
        if self._began:
            self._roster.follow(self._receiving)

    def _begin(self) -> None:
        self._began = True
        self._writing.begin()

    # --- the follower's and the intake's thread

    def _enter(self, channel: Channel) -> None:
        self._writing.ask(lambda: self._writing.enter(channel))

    def _look(self, topic: str) -> TopicInfo | None:
        return find(self._client, topic)

    # --- any thread

    def statistics(self) -> RecorderStatistics:
        """The recording at this moment.

        Raises:
            BagError: it has not been started.
        """
        if self._started_ns is None:
            raise BagError("the recorder has not been started")
        now = self._ended_ns or self._mono()
        infos, sources, sighting = self._roster.state()
        with self._lock:
            topics = tuple(self._topic(infos[name], sources[name], sighting, now) for name in infos)
        written = sum(topic.bytes for topic in topics)
        buffer, files, ring = self._buffer.statistics(), self._writing.files, self._writing.ring
        return RecorderStatistics(
            path=str(files.paths[-1] if files.paths else self.path),
            paths=tuple(map(str, files.paths)),
            elapsed_ns=now - self._started_ns,
            messages=sum(topic.messages for topic in topics),
            bytes=written,
            backlog_messages=buffer.messages,
            backlog_bytes=buffer.bytes,
            refused=buffer.refused,
            lost_before_us=sum(topic.lost_before_us for topic in topics),
            committed_messages=files.committed,
            discovery_answers=sighting.answered,
            paused=self.paused,
            waiting=not self._began,
            free_bytes=free_bytes(self.path.absolute()),
            held_bytes=ring.held_bytes if ring else 0,
            snapshots=ring.snapshots if ring else 0,
            complaints=tuple(map(str, self._writing.complaints)),
            problems=(*self._problems, *self._receiving.problems),
            snapshot_mode=ring is not None,
            compression=files.compression,
            in_bytes_per_s=self._rates_of("in", now, buffer.received),
            out_bytes_per_s=self._rates_of("out", now, written),
            topics=topics,
        )

    def _rates_of(self, way: str, now: int, nbytes: int) -> float:
        with self._lock:
            return self._totals[way].rates(now, 0, nbytes)[1]

    def _topic(self, info: TopicInfo, source: Source, sighting: Sighting, now: int) -> TopicStatistics:
        counts = self._writing.counts(info.name)
        messages, nbytes = counts["messages"], counts.get("bytes", 0)
        hz, bytes_per_s = self._rates.setdefault(info.name, RateMeter()).rates(now, messages, nbytes)
        listed = any(known.name == info.name for known in sighting.topics)
        heard = self._writing.heard_ns.get(info.name)
        return TopicStatistics(
            topic=info.name,
            type_name=info.message_type,
            node=info.publisher_node,
            address=info.address,
            connected=source.connected,
            stale=sighting.answered and not source.connected and (not listed or info.name in sighting.dead),
            messages=messages,
            bytes=nbytes,
            hz=hz,
            bytes_per_s=bytes_per_s,
            published_before_join=counts.get("published_before_join", 0),
            lost_before_us=counts.get("lost_before_us", 0),
            lost_by_us=counts.get("lost_by_us", 0),
            throttled=counts.get("throttled", 0),
            paused=counts.get("paused", 0),
            malformed=counts.get("malformed", 0),
            restarts=counts.get("restarts", 0),
            last_log_ns=None if heard is None else heard[0],
            silent_ns=None if heard is None else max(0, now - heard[1]),
        )
