"""Counts, spans and losses of a topic that may be spread over several files, or be a part of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bag.parts import Part, Piece
from bag.records import BagInfo, Gap, TopicSummary
from bag.storage import bulk

if TYPE_CHECKING:
    from bag.topic import Topic

ADDED = ("messages", "bytes", "lost_before_us", "lost_by_us", "restarts", "throttled", "paused", "malformed")
LOST = ("lost_before_us", "lost_by_us", "throttled", "paused")


def gaps_of(pieces: Sequence[Piece]) -> tuple[Gap, ...]:
    """The ledger of a topic; of a part of a topic only what is missing within its times."""
    out: list[Gap] = []
    for number, piece in enumerate(pieces):
        found: Iterable[Gap] = piece.part.reader.gaps(piece.topic)
        if number:
            # what a later split did not see, the split before it has
            found = (gap for gap in found if gap.kind != "before_join")
        if not piece.whole:
            times = piece.index("log_time_ns")
            low, high = (int(times[0]), int(times[-1])) if len(times) else (0, -1)
            found = (gap for gap in found if low < gap.log_time_ns <= high)
        out.extend(found)
    return tuple(out)


def summary_of(topic: Topic) -> TopicSummary:
    """Counts and spans of a topic or a part of one."""
    summaries = [_piece_summary(piece) for piece in topic.pieces]
    return merge_summaries(summaries, len(topic.gaps()))


def _piece_summary(piece: Piece) -> TopicSummary:
    reader = piece.part.reader
    whole = reader._summary(piece.reader)
    if piece.whole:
        return _without_repeated(piece.part, whole)
    index = piece.reader.index(piece.first, piece.last)
    gaps = gaps_of([piece])
    lost: dict[str, Any] = {kind: sum(gap.count for gap in gaps if gap.kind == kind) for kind in LOST}
    if not len(index):
        nothing: dict[str, Any] = dict.fromkeys(ADDED, 0) | {"published_before_join": 0, "gaps": 0}
        times = (f"{end}_{what}" for end in ("first", "last") for what in ("publish_ns", "log_ns"))
        return replace(whole, hz=None, first_sequence=None, **nothing | dict.fromkeys(times))
    span = int(index["log_mono_ns"][-1]) - int(index["log_mono_ns"][0])
    return replace(
        whole,
        messages=len(index),
        bytes=bulk.stored_bytes(piece.reader, piece.first, piece.last),
        hz=(len(index) - 1) / (span / 1e9) if span > 0 else None,
        first_publish_ns=int(index["publish_time_ns"][0]),
        last_publish_ns=int(index["publish_time_ns"][-1]),
        first_log_ns=int(index["log_time_ns"][0]),
        last_log_ns=int(index["log_time_ns"][-1]),
        first_sequence=int(index["sequence"][0]),
        published_before_join=0,
        restarts=int((np.diff(index["sequence"].astype(np.int64)) <= 0).sum()),
        malformed=0,
        gaps=len(gaps),
        **lost,
    )


# the account of a later file goes on from the earlier one, so that its losses do not count the repeated message
def _without_repeated(part: Part, whole: TopicSummary) -> TopicSummary:
    if whole.topic not in part.repeated:
        return whole
    reader = part.reader.topics[whole.topic]
    rest = len(reader) - 1
    index = reader.index(1, 2) if rest else None
    span = int(reader.summary["last_mono_ns"]) - int(index["log_mono_ns"][0]) if index is not None else 0
    return replace(
        whole,
        messages=rest,
        bytes=whole.bytes - bulk.stored_bytes(reader, 0, 1),
        hz=(rest - 1) / (span / 1e9) if span > 0 else None,
        first_publish_ns=None if index is None else int(index["publish_time_ns"][0]),
        first_log_ns=None if index is None else int(index["log_time_ns"][0]),
        first_sequence=None if index is None else int(index["sequence"][0]),
        last_publish_ns=None if index is None else whole.last_publish_ns,
        last_log_ns=None if index is None else whole.last_log_ns,
    )


def merge_summaries(summaries: Sequence[TopicSummary], gaps: int | None = None) -> TopicSummary:
    """The summary of one topic over several files, in their order."""
    if len(summaries) == 1:
        return summaries[0]
    filled = [summary for summary in summaries if summary.messages] or [summaries[0]]
    first, last = filled[0], filled[-1]
    spans = [(one.messages - 1) / one.hz for one in filled if one.hz]
    messages = sum(max(0, one.messages - 1) for one in filled if one.hz)
    return replace(
        first,
        **{name: sum(getattr(one, name) for one in summaries) for name in ADDED},
        hz=messages / sum(spans) if spans else None,
        last_publish_ns=last.last_publish_ns,
        last_log_ns=last.last_log_ns,
        gaps=sum(one.gaps for one in summaries) if gaps is None else gaps,
    )


def merge_infos(parts: Sequence[Part], path: str, span: tuple[int, int, int] | None) -> BagInfo:
    """What `info` says of several files together."""
    infos = [_info(part) for part in parts]
    if len(infos) == 1:
        return infos[0]
    by_topic: dict[str, list[TopicSummary]] = {}
    for info in infos:
        for topic in info.topics:
            by_topic.setdefault(topic.topic, []).append(topic)
    duration = 0 if span is None else span[2] - span[1]
    return replace(
        infos[0],
        path=path,
        size_bytes=sum(info.size_bytes for info in infos),
        duration_ns=duration,
        start_ns=None if span is None else span[0],
        end_ns=None if span is None else span[0] + duration,
        closed_cleanly=all(info.closed_cleanly for info in infos),
        messages=sum(info.messages for info in infos),
        bytes=sum(info.bytes for info in infos),
        topics=tuple(merge_summaries(found) for found in by_topic.values()),
        live=any(info.live for info in infos),
    )


def _info(part: Part) -> BagInfo:
    info = part.reader.info()
    if not part.repeated:
        return info
    topics = tuple(_without_repeated(part, topic) for topic in info.topics)
    messages, size = sum(topic.messages for topic in topics), sum(topic.bytes for topic in topics)
    return replace(info, topics=topics, messages=messages, bytes=size)
