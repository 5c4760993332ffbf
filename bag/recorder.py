"""Records live topics into a bag: follower (discovery) -> intake (sockets) -> buffer -> writer, each in its own thread.

The intake only stamps and hands on; all decisions about files are the writer's. The writer thread also ends the
recording: on a limit, on an error, or when it is told to.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

from bag import schemas
from bag.buffer import Item, RecordBuffer, Refused
from bag.errors import BagError, UsageError
from bag.follow import Follower, Sighting
from bag.intake import Intake, Source
from bag.options import RecordOptions
from bag.records import Channel
from bag.rates import RateMeter
from bag.statistics import RecorderStatistics, TopicStatistics
from bag.storage.account import Account
from bag.storage.batch import Row
from bag.storage.writer import BagWriter
from cortex.discovery.protocol import TopicInfo
from cortex.paths import default_discovery_address

# while little arrives, the writer waits this long for more: one batch instead of many
COALESCE_S = 0.01
COALESCE_BYTES = 1 << 20


class Recorder:
    """Records topics into one bag.

    Use it as a context manager, or call `start` and `stop`. It runs until `stop`, or until the duration or limit of
    the options is reached, or an error (`error`) ends it.

    Args:
        output: the bag to write.
        options: what to record, and how.

    Raises:
        UsageError: neither topics nor all topics are asked for.
        BagExistsError: the output is there already (from `start`).
    """

    def __init__(self, output: str | Path, options: RecordOptions | None = None) -> None:
        self.path = Path(output)
        self.options = options or RecordOptions()
        if not self.options.topics and not self.options.all_topics:
            raise UsageError("nothing to record: name topics, or ask for all of them")
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._sources: dict[str, Source] = {}
        self._infos: dict[str, TopicInfo] = {}
        self._sighting = Sighting()
        self._new_channels: list[tuple[Channel, TopicInfo]] = []
        self._channel_count = 0
        self._rates: dict[str, RateMeter] = {}
        self._accounts: dict[str, Account] = {}
        self._topic_of: list[str] = []
        self._last_log: dict[str, int] = {}
        self._finished = threading.Event()
        self._stopping = False
        self._started_ns: int | None = None
        self._ended_ns: int | None = None
        self._committed = 0

    def start(self) -> None:
        """Create the bag and begin to record.

        Raises:
            BagExistsError, BagBusyError, OSError: the bag cannot be created.
        """
        options = self.options
        schemas.import_modules(options.imports)
        self._writer = BagWriter(
            self.path, force=options.force, description=options.description, custom_data=dict(options.custom_data)
        )
        self._buffer = RecordBuffer(options.max_cache_bytes)
        self._intake = Intake(self._buffer)
        address = options.discovery_address or default_discovery_address()
        self._follower = Follower(address, options.polling_interval_ns, self._sighted)
        self._thread = threading.Thread(target=self._write, name="bag writer", daemon=True)
        self._started_ns = time.monotonic_ns()
        self._intake.start()
        self._thread.start()
        self._follower.start()

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
        return self._finished.wait(timeout)

    def __enter__(self) -> Recorder:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.stop()
        else:
            self._end()

    def _end(self) -> None:
        if self._started_ns is None or self._stopping:
            return
        self._stopping = True
        self._follower.stop()
        self._intake.stop()
        self._thread.join()
        self.error = self.error or self._intake.error or self._follower.error

    # --- the follower's thread

    def _sighted(self, sighting: Sighting) -> None:
        with self._lock:
            self._sighting = sighting
            for info in sighting.topics:
                if self._wanted(info.name) and self._infos.get(info.name) != info:
                    self._join(info)

    def _wanted(self, topic: str) -> bool:
        return self.options.all_topics or topic in self.options.topics

    # a publisher that is gone stays connected: it may come back at the same address, and nothing else would tell
    def _join(self, info: TopicInfo) -> None:
        before = self._infos.get(info.name)
        self._infos[info.name] = info
        number = self._channel_count
        self._channel_count += 1
        channel = Channel(
            number, info.name, info.message_type, info.fingerprint, info.publisher_node, info.address
        )
        self._new_channels.append((channel, info))
        old = self._sources.get(info.name)
        source = Source(number, info.name.encode(), info.address)
        if old is not None and before is not None and before.address == info.address:
            old.channel = number
            return
        if old is not None:
            self._intake.disconnect(old)
        self._sources[info.name] = source
        self._intake.connect(source)

    # --- the writer's thread

    def _write(self) -> None:
        try:
            self._write_until_closed()
            self._writer.close()
            self._committed = self._total()
        except BaseException as error:  # noqa: BLE001  kept for whoever waits for the recording
            self.error = error
            self._writer.abort()
        finally:
            self._ended_ns = time.monotonic_ns()
            self._finished.set()

    def _write_until_closed(self) -> None:
        options = self.options
        now = time.monotonic_ns()
        next_commit, next_sync = now + options.flush_interval_ns, now + options.sync_interval_ns
        while True:
            now = time.monotonic_ns()
            items, closed = self._buffer.take(max(0.0, (next_commit - now) / 1e9))
            self._enter_channels()
            self._append(items)
            if closed or self._enough(now):
                return
            now = time.monotonic_ns()
            if now >= next_commit:
                sync = now >= next_sync
                self._writer.note_clock(time.time_ns(), time.monotonic_ns())
                self._writer.commit(sync=sync)
                self._committed = self._total()
                next_commit = now + options.flush_interval_ns
                next_sync = now + options.sync_interval_ns if sync else next_sync
            elif sum(item.nbytes for item in items if not isinstance(item, Refused)) < COALESCE_BYTES:
                self._finished.wait(COALESCE_S)

    def _enter_channels(self) -> None:
        with self._lock:
            new, self._new_channels = self._new_channels, []
        for channel, info in new:
            known = self._writer.add_channel(channel, schemas.schema_of(info.fingerprint))
            self._accounts[channel.topic] = self._writer.account(known.id)
            self._rates.setdefault(channel.topic, RateMeter())
            self._topic_of.append(channel.topic)

    # one append per channel, in the order its messages arrived
    def _append(self, items: list[Item]) -> None:
        rows: dict[int, list[Row]] = {}
        for item in items:
            if isinstance(item, Refused):
                self._writer.append(item.channel, rows.pop(item.channel, []))
                sequences = (item.first_sequence, item.last_sequence)
                number = item.last_sequence - item.first_sequence + 1
                self._writer.note(item.channel, "lost_by_us", sequences, number, item.log_time_ns)
            else:
                rows.setdefault(item.channel, []).extend(item.rows)
        limit = self.options.limit
        for channel, messages in rows.items():
            if limit is not None:
                messages = messages[: max(0, limit - self._total())]
            self._writer.append(channel, messages)
            if messages:
                self._last_log[self._topic_of[channel]] = messages[-1][0]

    def _enough(self, now: int) -> bool:
        limit, duration = self.options.limit, self.options.duration_ns
        if limit is not None and self._total() >= limit:
            return True
        return duration is not None and self._started_ns is not None and now - self._started_ns >= duration

    def _total(self) -> int:
        return sum(account.messages for account in self._accounts.values())

    # --- any thread

    def statistics(self) -> RecorderStatistics:
        """The recording at this moment."""
        if self._started_ns is None:
            raise BagError("the recorder has not been started")
        now = self._ended_ns or time.monotonic_ns()
        with self._lock:
            infos, sources, sighting = dict(self._infos), dict(self._sources), self._sighting
        alive = {info.name for info in sighting.topics} - sighting.dead
        topics = tuple(
            self._topic(infos[name], sources[name], stale=sighting.answered and name not in alive, now=now)
            for name in infos
        )
        buffer = self._buffer.statistics()
        return RecorderStatistics(
            path=str(self.path),
            elapsed_ns=now - self._started_ns,
            messages=sum(topic.messages for topic in topics),
            bytes=sum(topic.bytes for topic in topics),
            backlog_messages=buffer.messages,
            backlog_bytes=buffer.bytes,
            refused=buffer.refused,
            lost_before_us=sum(topic.lost_before_us for topic in topics),
            committed_messages=self._committed,
            discovery_answers=sighting.answered,
            topics=topics,
        )

    def _topic(self, info: TopicInfo, source: Source, *, stale: bool, now: int) -> TopicStatistics:
        account = self._accounts.get(info.name)
        messages = account.messages if account else 0
        nbytes = account.counts["bytes"] if account else 0
        meter = self._rates.get(info.name)
        hz, bytes_per_s = meter.rates(now, messages, nbytes) if meter else (0.0, 0.0)
        counts = account.counts if account else {}
        return TopicStatistics(
            topic=info.name,
            type_name=info.message_type,
            node=info.publisher_node,
            address=info.address,
            connected=source.connected,
            stale=stale,
            messages=messages,
            bytes=nbytes,
            hz=hz,
            bytes_per_s=bytes_per_s,
            published_before_join=counts.get("published_before_join", 0),
            lost_before_us=counts.get("lost_before_us", 0),
            lost_by_us=counts.get("lost_by_us", 0),
            restarts=counts.get("restarts", 0),
            last_log_ns=self._last_log.get(info.name),
        )
