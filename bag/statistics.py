"""What a recorder and a player say of themselves: immutable, taken at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from bag.records import Compression


@dataclass(frozen=True, slots=True)
class TopicStatistics:
    """One topic of a running recording; rates are over the last second or so.

    `last_log_ns` is when the last message came (wall ns), `silent_ns` how long ago that was; None before the first.
    `stale`: discovery lists it, or did, but nobody is there.
    """

    topic: str
    type_name: str
    node: str
    address: str
    connected: bool
    stale: bool
    messages: int
    bytes: int
    hz: float
    bytes_per_s: float
    published_before_join: int
    lost_before_us: int
    lost_by_us: int
    throttled: int
    paused: int
    malformed: int
    restarts: int
    last_log_ns: int | None
    silent_ns: int | None = None


@dataclass(frozen=True, slots=True)
class RecorderStatistics:
    """A recording at one moment.

    `path` is the current file, `paths` are all that are kept. `backlog_*` is received but not yet written; `refused`
    did not fit the cache.
    `waiting`: not all of the awaited topics are there. `held_bytes` and `snapshots` belong to snapshot mode;
    `complaints` say which required topics fell silent or slow, `problems` what else is wrong. `in_bytes_per_s` is what
    arrives, `out_bytes_per_s` what is written. `compression` says what became of bytes that were to be compressed.
    """

    path: str
    paths: tuple[str, ...]
    elapsed_ns: int
    messages: int
    bytes: int
    backlog_messages: int
    backlog_bytes: int
    refused: int
    lost_before_us: int
    committed_messages: int
    discovery_answers: bool
    paused: bool
    waiting: bool
    free_bytes: int
    held_bytes: int
    snapshots: int
    complaints: tuple[str, ...]
    topics: tuple[TopicStatistics, ...]
    problems: tuple[str, ...] = ()
    snapshot_mode: bool = False
    in_bytes_per_s: float = 0.0
    out_bytes_per_s: float = 0.0
    compression: Compression | None = None


@dataclass(frozen=True, slots=True)
class Lateness:
    """How late messages were sent, in ns (0 when nothing was sent)."""

    p50_ns: int = 0
    p99_ns: int = 0
    max_ns: int = 0


@dataclass(frozen=True, slots=True)
class TopicPlayReport:
    """What became of one topic of a replay."""

    topic: str
    node: str
    address: str
    sent: int
    refused: int
    lateness: Lateness


@dataclass(frozen=True, slots=True)
class PlayReport:
    """What became of a replay.

    `duration_ns` is how long it took, `repeated` counts sticky values that were sent again (not part of `sent`),
    `passes` is above 1 after loops, `completed` says whether it came to its end and was not stopped, and `realtime`
    whether it ran at real-time priority.
    """

    duration_ns: int
    sent: int
    refused: int
    embedded_discovery: bool
    lateness: Lateness
    topics: tuple[TopicPlayReport, ...]
    repeated: int = 0
    passes: int = 1
    completed: bool = True
    realtime: bool = False


@dataclass(frozen=True, slots=True)
class PlayProgress:
    """Where a replay is: position on the time line, and how late the last message was; times in ns.

    `next_in_ns` is the time until the next message at the present rate, None when that is not known.
    """

    position_ns: int
    duration_ns: int
    sent: int
    rate: float
    lateness_ns: int
    paused: bool = False
    next_in_ns: int | None = None
    passes: int = 1
