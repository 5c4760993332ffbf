"""Walks through the messages of a bag, proven and in bounded memory, one topic or all of them by time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Any

from bag.plain import field_names, known_schema, values_of
from bag.records import RawMessage, Schema
from bag.storage.proven import ProvenBag
from bag.storage.topic_reader import TopicReader
from cortex.errors import CodecError

# what all topics together may hold in memory
BLOCK_BYTES = 32 << 20
MAX_ROWS = 1024


def topic_messages(
    bag: ProvenBag, topic: TopicReader, span: tuple[int, int], block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[int, RawMessage]]:
    """(number, message) of messages start..stop-1 of a topic."""
    mean = max(1, int(topic.summary["bytes"]) // max(1, len(topic)))
    step = max(1, min(MAX_ROWS, block_bytes // mean))
    channels = bag.definitions.channels
    for at in range(*span, step):
        for segment in topic.segments(at, min(at + step, span[1])):
            index = topic.index(segment.start, segment.stop).tolist()
            frames = topic.frames(segment.start, segment.stop)
            for number, (row, parts) in enumerate(zip(index, frames, strict=True), segment.start):
                log, publish, mono, sequence, *_places = row
                yield number, RawMessage(topic.name, sequence, publish, log, mono, parts, channels[segment.channel])


def messages(bag: ProvenBag, spans: Sequence[tuple[str, int, int]]) -> Iterator[RawMessage]:
    """Messages of several topics, each (name, start, stop), by time of arrival; equal times keep the order of
    topics."""
    share = BLOCK_BYTES // max(1, len(spans))

    def stream(order: int, name: str, start: int, stop: int) -> Iterator[tuple[int, int, RawMessage]]:
        for _number, message in topic_messages(bag, bag.topics[name], (start, stop), share):
            yield message.log_mono_ns, order, message

    streams = [stream(order, *span) for order, span in enumerate(spans)]
    for _time, _order, message in heapq.merge(*streams, key=lambda item: item[:2]):
        yield message


def fields_of(bag: ProvenBag, message: RawMessage) -> dict[str, Any] | None:
    """Names and values of the fields of a message; None where its bytes are no message."""
    try:
        values = values_of(message)
    except (CodecError, ValueError):
        return None
    schema: Schema | None = known_schema(bag.definitions.schemas.get(message.fingerprint), message.fingerprint)
    return dict(zip(field_names(schema, len(values)), values, strict=True))
