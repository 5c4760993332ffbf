"""What a recording and a replay can be asked for; the command line and the Python API share these."""

from __future__ import annotations

from dataclasses import dataclass

SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What to record, and how.

    Args:
        topics: names of topics to record.
        all_topics: record every topic there is and comes to be.
        discovery_address: the daemon's address; None: the environment's.
        duration_ns: stop after this long.
        limit: stop after so many messages.
        max_cache_bytes: bound on the memory of what waits to be written; beyond it messages are refused and counted.
        flush_interval_ns: time between commits.
        sync_interval_ns: time between commits that also survive a power cut.
        polling_interval_ns: time between questions to a discovery daemon that does not announce changes.
        force: replace a bag that is already there.
        description: free text kept with the bag.
        custom_data: (name, value) pairs kept with the bag.
        imports: modules to import for their message classes, whose field names the bag then knows.
    """

    topics: tuple[str, ...] = ()
    all_topics: bool = False
    discovery_address: str | None = None
    duration_ns: int | None = None
    limit: int | None = None
    max_cache_bytes: int = 1 << 30
    flush_interval_ns: int = SECOND // 2
    sync_interval_ns: int = 5 * SECOND
    polling_interval_ns: int = SECOND // 10
    force: bool = False
    description: str = ""
    custom_data: tuple[tuple[str, str], ...] = ()
    imports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlayOptions:
    """What to play, and how.

    Args:
        rate: speed, 1.0 is as recorded.
        topics: only these; empty means all.
        exclude_topics: not these.
        discovery_address: the daemon's address; None: the environment's.
        embedded_discovery: start a daemon inside when none answers; False refuses instead.
        order: pace by time of sending (`publish`) or of arrival (`log`).
        lossless: let the slowest subscriber set the pace instead of dropping.
        wait_for_subscribers: wait until every topic has so many.
        wait_timeout_ns: longest wait for them, and for a stuck subscriber.
        delay_ns: time between registering and the first message, for subscribers to find the topics.
        start_ns: play from this time after the start of the bag.
        stop_ns: play up to (not including) this time after the start of the bag.
        queue_size: messages kept for each slow subscriber.
        linger_ns: longest wait at the end for the last messages to leave.
        read_ahead_bytes: bound on what is read before its time.
    """

    rate: float = 1.0
    topics: tuple[str, ...] = ()
    exclude_topics: tuple[str, ...] = ()
    discovery_address: str | None = None
    embedded_discovery: bool = True
    order: str = "publish"
    lossless: bool = False
    wait_for_subscribers: int = 0
    wait_timeout_ns: int = 30 * SECOND
    delay_ns: int = SECOND // 5
    start_ns: int | None = None
    stop_ns: int | None = None
    queue_size: int = 1000
    linger_ns: int = 2 * SECOND
    read_ahead_bytes: int = 128 << 20
