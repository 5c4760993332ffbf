"""What a recorder and a player say of themselves: immutable, taken at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TopicStatistics:
    """One topic of a running recording; rates are over the last second or so, times in wall ns."""

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
    restarts: int
    last_log_ns: int | None


@dataclass(frozen=True, slots=True)
class RecorderStatistics:
    """A recording at one moment. `backlog_*` is received but not yet written; `refused` did not fit the cache."""

    path: str
    elapsed_ns: int
    messages: int
    bytes: int
    backlog_messages: int
    backlog_bytes: int
    refused: int
    lost_before_us: int
    committed_messages: int
    discovery_answers: bool
    topics: tuple[TopicStatistics, ...]


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
    """What became of a replay. `duration_ns` is how long it took."""

    duration_ns: int
    sent: int
    refused: int
    embedded_discovery: bool
    lateness: Lateness
    topics: tuple[TopicPlayReport, ...]


@dataclass(frozen=True, slots=True)
class PlayProgress:
    """Where a replay is: position on the bag's time line, and how late the last message was."""

    position_ns: int
    duration_ns: int
    sent: int
    rate: float
    lateness_ns: int
