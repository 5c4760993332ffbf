"""MCAP: one file that Foxglove and the mcap tools open; channels keep node, address and fingerprint as metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bag.errors import BagError
from bag.export.foxglove import schema_of, to_json
from bag.extras import need

if TYPE_CHECKING:
    from bag.dataset import Bag
    from bag.export import Progress
    from bag.records import RawMessage

CHUNK_BYTES = 4 << 20


def write(bag: Bag, output: Path, topics: tuple[str, ...], progress: Progress, *, explicit: bool) -> None:
    """Write every message in log order; one that no decoder understands is kept as bytes, with encoding `cortex`."""
    del explicit
    library = need("mcap.writer", "mcap", "export to mcap")
    with output.open("wb") as stream:
        compression = _compression(library)
        writer = library.Writer(stream, chunk_size=CHUNK_BYTES, compression=compression)
        writer.start(profile="", library="cortex-bag")
        channels = _Channels(writer)
        done = dict.fromkeys(topics, 0)
        for raw in bag.messages(topics=topics):
            channels.add(bag, raw)
            done[raw.topic] += 1
            if done[raw.topic] % 100 == 0 or done[raw.topic] == len(bag[raw.topic]):
                progress(raw.topic, done[raw.topic], len(bag[raw.topic]))
        for name in topics:
            if not done[name]:
                channels.announce(bag, name)
        writer.finish()


def _compression(library: Any) -> Any:
    try:
        need("zstandard", "mcap", "compression")
    except BagError:
        return library.CompressionType.NONE
    return library.CompressionType.ZSTD


class _Channels:
    """Schemas and channels of the file, registered at their first message."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._schemas: dict[str, int] = {}
        self._channels: dict[tuple[Any, ...], int] = {}

    def add(self, bag: Bag, raw: RawMessage) -> None:
        try:
            name, data = to_json(raw.channel.type_name, bag.decode(raw), raw.publish_time_ns)
            encoding = "json"
        except ValueError:
            name, encoding, data = "", "cortex", b"".join(map(bytes, raw.frames))
        self._writer.add_message(
            self._channel(raw.channel, name, encoding),
            log_time=raw.log_time_ns,
            data=data,
            publish_time=raw.publish_time_ns & 0xFFFFFFFFFFFFFFFF,
            sequence=raw.sequence & 0xFFFFFFFF,
        )

    def announce(self, bag: Bag, topic: str) -> None:
        channel = bag[topic].channel
        self._channel(channel, channel.type_name, "json")

    def _channel(self, channel: Any, schema: str, encoding: str) -> int:
        key = (channel.id, schema, encoding)
        if key not in self._channels:
            metadata = {
                "node": channel.node,
                "address": channel.address,
                "type": channel.type_name,
                "fingerprint": f"0x{channel.fingerprint:016x}",
            }
            number = self._schema(schema) if schema else 0
            self._channels[key] = self._writer.register_channel(channel.topic, encoding, number, metadata)
        return self._channels[key]

    def _schema(self, name: str) -> int:
        if name not in self._schemas:
            data = json.dumps(schema_of(name)).encode()
            self._schemas[name] = self._writer.register_schema(name, "jsonschema", data)
        return self._schemas[name]
