"""What a recording and a replay can be asked for; the command line and the Python API share these."""

from __future__ import annotations

from dataclasses import dataclass

from bag.errors import UsageError
from bag.records import RECEIVE_INTERVAL
from bag.selection import Selection

SECOND = 1_000_000_000
MAX_CLOCK_HZ = 10_000
# below, not even one image of a small camera finds room
MIN_CACHE = 1 << 20
# longer, and what ZeroMQ holds meanwhile would count against the cache
MAX_RECEIVE_INTERVAL_NS = SECOND // 10
# and for shorter ones a smaller cache
LEAST_CACHE_OF_LONGEST = 1 << 30


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What to record, and how.

    Args:
        topics, all_topics, regex, exclude_topics, exclude_regex, topic_types, nodes: which topics, see `Selection`.
        discovery_address: the daemon's address; None: the environment's.
        polling_interval_ns: time between questions to a discovery daemon that does not announce changes.
        follow: join topics that appear after the start, too.
        wait_for_topics: begin only when every named topic is there.
        duration_ns: stop after this long.
        limit: stop after so many messages.
        max_bag_bytes: begin another file when one has grown to this size.
        max_bag_duration_ns: begin another file after this long.
        max_bag_files: keep only so many of the latest files.
        min_free_bytes: stop when the disk has less than this left.
        max_cache_bytes: bound on the memory of what waits, ZeroMQ's queues included; beyond it messages are refused and
            counted.
        receive_interval_ns: let messages gather this long (100 ms at most) before they are received, which takes less
            processor time; log times are as coarse as that, publish times are not. 0: receive each at once.
        flush_interval_ns: time between commits.
        sync_interval_ns: time between commits that also survive a power cut.
        force: replace a bag that is already there.
        description: free text kept with the bag.
        custom_data: (name, value) pairs kept with the bag.
        imports: modules to import for their message classes, whose field names the bag then knows.
        start_paused: record nothing until `resume`.
        sticky: topics whose last message is repeated at the start of each further file.
        require: (topic, Hz or None) that must be heard; silence and slowness are warned of and marked in the bag.
        throttle: (topic, Hz) to thin out to at most this rate, counted apart from loss.
        snapshot: keep what arrives in memory, and write it only when asked to.
        snapshot_duration_ns: how much of the past a snapshot holds; None: as much as the cache takes.
        post_roll_ns: how long a snapshot goes on after it was asked for.
        control: open a control socket for `cortex bag ctl`.
        compression: `gzip`, `lz4` or `zstd`, with `:level`: compress while recording, raw where that cannot keep up.
    """

    topics: tuple[str, ...] = ()
    all_topics: bool = False
    regex: tuple[str, ...] = ()
    exclude_topics: tuple[str, ...] = ()
    exclude_regex: tuple[str, ...] = ()
    topic_types: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    discovery_address: str | None = None
    polling_interval_ns: int = SECOND // 10
    follow: bool = True
    wait_for_topics: bool = False
    duration_ns: int | None = None
    limit: int | None = None
    max_bag_bytes: int | None = None
    max_bag_duration_ns: int | None = None
    max_bag_files: int | None = None
    min_free_bytes: int = 0
    max_cache_bytes: int = 1 << 30
    receive_interval_ns: int = 0
    flush_interval_ns: int = SECOND // 2
    sync_interval_ns: int = 5 * SECOND
    force: bool = False
    description: str = ""
    custom_data: tuple[tuple[str, str], ...] = ()
    imports: tuple[str, ...] = ()
    start_paused: bool = False
    sticky: tuple[str, ...] = ()
    require: tuple[tuple[str, float | None], ...] = ()
    throttle: tuple[tuple[str, float], ...] = ()
    snapshot: bool = False
    snapshot_duration_ns: int | None = None
    post_roll_ns: int = 0
    control: bool = False
    compression: str | None = None

    def __post_init__(self) -> None:
        positive = {
            "the polling interval": self.polling_interval_ns,
            "the flush interval": self.flush_interval_ns,
            "the duration": self.duration_ns,
            "the limit": self.limit,
            "the largest size of a bag": self.max_bag_bytes,
            "the longest duration of a bag": self.max_bag_duration_ns,
            "the number of files to keep": self.max_bag_files,
            "the duration of snapshots": self.snapshot_duration_ns,
            **{f"the rate that {topic} is thinned out to": hz for topic, hz in self.throttle},
            **{f"the rate that is required of {topic}": hz for topic, hz in self.require},
        }
        for what, value in positive.items():
            if value is not None and not value > 0:
                raise UsageError(f"{what} is {value}; it must be above 0")
        if self.max_cache_bytes < MIN_CACHE:
            raise UsageError(f"the cache has {self.max_cache_bytes} bytes; it needs at least {MIN_CACHE}")
        if RECEIVE_INTERVAL in dict(self.custom_data):
            raise UsageError(f"the custom data name {RECEIVE_INTERVAL!r} is the recorder's own; choose another")
        self._check_receive_interval()
        if self.wait_for_topics and not self.topics:
            raise UsageError("there is nothing to wait for: name the topics that must be there before recording begins")
        if self.snapshot and (self.max_bag_bytes is not None or self.max_bag_duration_ns is not None):
            raise UsageError("in snapshot mode each snapshot is a file of its own; it cannot be split as well")
        if not self.snapshot and (self.snapshot_duration_ns is not None or self.post_roll_ns):
            raise UsageError("the duration and the post-roll of snapshots need snapshot mode")
        if self.compression is not None:
            from bag.storage.filters import parse_compression

            parse_compression(self.compression)

    def _check_receive_interval(self) -> None:
        interval = self.receive_interval_ns
        if not 0 <= interval <= MAX_RECEIVE_INTERVAL_NS:
            raise UsageError(f"the receive interval is {interval / 1e6:g} ms; it must be from 0 to 100 ms")
        needed = LEAST_CACHE_OF_LONGEST * interval // MAX_RECEIVE_INTERVAL_NS
        if self.max_cache_bytes < needed:
            raise UsageError(
                f"the cache has {self.max_cache_bytes} bytes; a receive interval of {interval / 1e6:g} ms needs "
                f"{needed}, so that bursts find room"
            )
        for topic, hz in self.throttle:
            # what is received together has one log time, and of it thinning keeps one
            if hz * interval > SECOND:
                raise UsageError(
                    f"{topic} cannot be thinned out to {hz:g} Hz while messages are received only every "
                    f"{interval / 1e6:g} ms; shorten the receive interval"
                )

    # max_cache_bytes is shared out, so that together they keep to it
    @property
    def queue_bytes(self) -> int:
        """What ZeroMQ may hold for us."""
        return self.max_cache_bytes // 4

    @property
    def past_bytes(self) -> int:
        """What snapshot mode may keep of the past."""
        return (self.max_cache_bytes - self.queue_bytes) // 2 if self.snapshot else 0

    @property
    def buffer_bytes(self) -> int:
        """What may wait to be written."""
        return self.max_cache_bytes - self.queue_bytes - self.past_bytes

    @property
    def kept_data(self) -> dict[str, str]:
        """The pairs to keep with the bag: `custom_data`, and how coarse its log times are when they are."""
        interval = self.receive_interval_ns
        return dict(self.custom_data) | ({RECEIVE_INTERVAL: f"{interval / 1e6:g}ms"} if interval else {})

    @property
    def selection(self) -> Selection:
        """Which topics."""
        return Selection(
            self.all_topics,
            self.topics,
            self.regex,
            self.exclude_topics,
            self.exclude_regex,
            self.topic_types,
            self.nodes,
        )


@dataclass(frozen=True, slots=True)
class PlayOptions:
    """What to play, and how. Offsets count from the start of the time line, or from its end when negative.

    Args:
        rate: speed, 1.0 is as recorded.
        immediate: without waiting for any time, as fast as it can be sent.
        topics, regex, exclude_topics, exclude_regex, topic_types, nodes: which topics, see `Selection`; none: all.
        remap: (recorded, new) topic names.
        prefix: put in front of every topic name.
        relocate: bind in this machine's topic directory where the recorded address lies elsewhere.
        discovery_address: the daemon's address; None: the environment's.
        embedded_discovery: start a daemon inside when none answers; False refuses instead.
        order: pace by time of sending (`publish`) or of arrival (`log`).
        stamps: send recorded headers (`keep`), shift their times to now by a constant (`shift`), or stamp anew (`now`).
        lossless: let the slowest subscriber set the pace instead of dropping.
        wait_for_subscribers: wait until every topic has so many.
        wait_timeout_ns: longest wait for them, and for a stuck subscriber.
        delay_ns: time between registering and the first message, for subscribers to find the topics.
        start_paused: stand still before the first message.
        start_ns: play from here.
        stop_ns: play up to (not including) here.
        duration_ns: play so much of the time line.
        num_messages: stop after so many messages.
        skip_empty_ns: pass over stretches without messages that are longer than this.
        loop: begin again at the end; sequences continue upward.
        keep_alive: stay registered at the end until stopped.
        sticky: topics whose last value is sent when playing begins later, after a seek, and to late subscribers.
        clock_hz: publish the replay's time so often; None: never.
        clock_topic: where.
        queue_size: messages kept for each slow subscriber; None: 1000, fewer of large ones.
        linger_ns: longest wait at the end for the last messages to leave; None: 2 s, `wait_timeout_ns` when lossless.
        read_ahead_bytes: bound on what is read before its time.
        realtime: run before other processes, at real-time priority, where the system permits it (never if immediate).
    """

    rate: float = 1.0
    immediate: bool = False
    topics: tuple[str, ...] = ()
    regex: tuple[str, ...] = ()
    exclude_topics: tuple[str, ...] = ()
    exclude_regex: tuple[str, ...] = ()
    topic_types: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    remap: tuple[tuple[str, str], ...] = ()
    prefix: str = ""
    relocate: bool = False
    discovery_address: str | None = None
    embedded_discovery: bool = True
    order: str = "publish"
    stamps: str = "keep"
    lossless: bool = False
    wait_for_subscribers: int = 0
    wait_timeout_ns: int = 30 * SECOND
    delay_ns: int = SECOND // 5
    start_paused: bool = False
    start_ns: int | None = None
    stop_ns: int | None = None
    duration_ns: int | None = None
    num_messages: int | None = None
    skip_empty_ns: int | None = None
    loop: bool = False
    keep_alive: bool = False
    sticky: tuple[str, ...] = ()
    clock_hz: float | None = None
    clock_topic: str = "/clock"
    queue_size: int | None = None
    linger_ns: int | None = None
    read_ahead_bytes: int = 128 << 20
    realtime: bool = True

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise UsageError(f"the rate is {self.rate}; it must be above 0 (for no waiting at all: immediate)")
        if self.order not in ("publish", "log"):
            raise UsageError(f"the order is {self.order!r}; it can be 'publish' or 'log'")
        if self.stamps not in ("keep", "shift", "now"):
            raise UsageError(f"stamps is {self.stamps!r}; it can be 'keep', 'shift' or 'now'")
        if self.clock_hz is not None and not 0 < self.clock_hz <= MAX_CLOCK_HZ:
            raise UsageError(f"the clock has {self.clock_hz} Hz; it must be above 0 and at most {MAX_CLOCK_HZ}")

    @property
    def selection(self) -> Selection:
        """Which topics to play."""
        return Selection(
            everything=not (self.topics or self.regex),
            topics=self.topics,
            regex=self.regex,
            exclude_topics=self.exclude_topics,
            exclude_regex=self.exclude_regex,
            topic_types=self.topic_types,
            nodes=self.nodes,
        )
