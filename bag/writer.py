"""Makes bags from Python: simulators, converters, tests. The same file and the same guarantees as a recording."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bag.errors import UsageError
from bag.records import Channel, RawMessage, Schema
from bag.schemas import schema_of
from bag.storage import BagWriter
from cortex.messages.base import Message
from cortex.paths import ipc_address
from cortex.wire import HEADER

COMMIT_NS = 500_000_000
COMMIT_BYTES = 256 << 20


class Writer:
    """Writes a new bag. What `write` was given survives the death of the process; `close` (or `with`) completes it.

    Args:
        path: the bag, usually `*.h5`.
        force: replace a file that is already there.
        description: free text kept with the bag.
        custom_data: names and values kept with the bag.
        node: name of the node that publishes what is written, where nothing else says so.
        keep_tail: False for what can be made again: faster, and after a kill the last half second is missing.

    Raises:
        BagExistsError: the file is there and `force` is not given.
        BagBusyError: another process is writing it.
        OSError: it cannot be created.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        force: bool = False,
        description: str = "",
        custom_data: Mapping[str, str] | None = None,
        node: str = "writer",
        keep_tail: bool = True,
    ) -> None:
        self.path = Path(path)
        self._node = node
        self._known: dict[tuple[str, str | None, str | None, int], Channel] = {}
        self._channels: dict[tuple[str, str, str, int, str], Channel] = {}
        self._sequences: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._ahead: int | None = None
        self._uncommitted = 0
        self._committed_ns = time.monotonic_ns()
        self._writer = BagWriter(
            path, force=force, description=description, custom_data=dict(custom_data or {}), keep_tail=keep_tail
        )

    def write(
        self,
        topic: str,
        message: Message | RawMessage | Sequence[Any],
        *,
        log_time_ns: int | None = None,
        publish_time_ns: int | None = None,
        node: str | None = None,
        type_name: str | None = None,
    ) -> None:
        """Append one message.

        Args:
            topic: where it is published; of a `RawMessage` it may be another than its own.
            message: a message, a recorded message (kept as it is, with its times, node and type), or its frames:
                header, metadata, buffers.
            log_time_ns: when it arrived, wall ns; by default now, or for a recorded message its own. It should not go
                down within a topic; where it does, the time line of the bag stands still.
            publish_time_ns: when it was sent; by default `log_time_ns`. Only for messages, whose header is made here.
            node: name of the publishing node.
            type_name: name of the class, for frames whose class is not imported.

        Raises:
            UsageError: frames without a header, or a publish time for what has a header already.
            ValueError: a value of the message cannot be sent.
        """
        self.write_many(topic, [(message, log_time_ns, publish_time_ns)], node=node, type_name=type_name)

    def write_many(
        self,
        topic: str,
        messages: Iterable[tuple[Message | RawMessage | Sequence[Any], int | None, int | None]],
        *,
        node: str | None = None,
        type_name: str | None = None,
    ) -> None:
        """Append many messages of one topic, each as (message, log_time_ns, publish_time_ns); faster than one by one.

        Args and raises: as in `write`.
        """
        name = topic.encode()
        rows: list[tuple[int, int, list[Any]]] = []
        current: Channel | None = None
        for message, log_ns, publish_ns in messages:
            log_ns, mono_ns, frames = self._row(topic, message, log_ns, publish_ns)
            channel = self._channel(topic, message, frames, (node, type_name))
            if current is not None and channel.id != current.id:
                self._writer.append(current.id, rows)
                rows = []
            current = channel
            # they are held until the next commit, and the caller may write to its arrays at once
            kept = [frame if isinstance(frame, bytes) else bytes(frame) for frame in frames]
            rows.append((log_ns, mono_ns, [name, *kept]))
            self._uncommitted += sum(len(frame) for frame in frames)
        if current is not None:
            self._writer.append(current.id, rows)
        if self._uncommitted >= COMMIT_BYTES or time.monotonic_ns() - self._committed_ns >= COMMIT_NS:
            self.commit()

    def add_topic(self, topic: str, cls: type[Message], *, node: str | None = None) -> None:
        """Make a topic known before, or without, any message."""
        address = ipc_address(topic, node or self._node)
        self._enter((topic, node or self._node, cls.__name__, cls.fingerprint(), address), None)

    def mark(self, text: str, log_time_ns: int | None = None) -> None:
        """Keep a named moment, by default now, in wall ns."""
        self._writer.mark(text, time.time_ns() if log_time_ns is None else log_time_ns)

    def commit(self) -> None:
        """Make everything so far visible to any HDF5 tool; done by itself twice a second while writing."""
        self._writer.commit()
        self._uncommitted, self._committed_ns = 0, time.monotonic_ns()

    def close(self) -> None:
        """Complete the bag; a second call does nothing."""
        self._writer.close()

    def abort(self) -> None:
        """Stop at once; the bag opens with what was written, marked as not complete."""
        self._writer.abort()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _row(
        self, topic: str, message: Any, log_ns: int | None, publish_ns: int | None
    ) -> tuple[int, int, Sequence[Any]]:
        raw = message if isinstance(message, RawMessage) else None
        if raw is not None and log_ns is None:
            log_ns, mono_ns = raw.log_time_ns, raw.log_mono_ns
            if self._ahead is None:
                self._ahead = mono_ns - log_ns
        else:
            log_ns = time.time_ns() if log_ns is None else int(log_ns)
            self._ahead = self._ahead or 0
            mono_ns = log_ns + self._ahead
        # within a topic the time line never goes down
        mono_ns = self._last[topic] = max(mono_ns, self._last.get(topic, mono_ns))
        return log_ns, mono_ns, self._frames(topic, message, log_ns, publish_ns)

    def _frames(self, topic: str, message: Any, log_ns: int, publish_ns: int | None) -> Sequence[Any]:
        if isinstance(message, Message):
            number = self._sequences.get(topic, 0)
            self._sequences[topic] = number + 1
            made = message.to_frames(number)
            sent = log_ns if publish_ns is None else int(publish_ns)
            made[0] = HEADER.pack(type(message).fingerprint(), sent, number)
            return made
        if publish_ns is not None:
            raise UsageError(f"topic {topic}: a message that has a header already has its publish time")
        frames = message.frames if isinstance(message, RawMessage) else list(message)
        if not frames or memoryview(frames[0]).nbytes < HEADER.size:
            raise UsageError(f"topic {topic}: the first frame of a message is its header of {HEADER.size} bytes")
        return frames

    def _channel(
        self, topic: str, message: Any, frames: Sequence[Any], given: tuple[str | None, str | None]
    ) -> Channel:
        node, type_name = given
        if isinstance(message, RawMessage) and node is None:
            source = message.channel
            key = (topic, source.node, source.type_name, source.fingerprint, source.address)
            return self._channels.get(key) or self._enter(key, message.schema or schema_of(source.fingerprint))
        fingerprint = int(HEADER.unpack_from(frames[0])[0])
        # schema and address of a class take longer to make than its message to write
        quick = (topic, node, type_name, fingerprint)
        if quick not in self._known:
            self._known[quick] = self._channel_of(topic, fingerprint, node or self._node, type_name)
        return self._known[quick]

    def _channel_of(self, topic: str, fingerprint: int, sender: str, type_name: str | None) -> Channel:
        schema = schema_of(fingerprint)
        name = type_name or (schema.type_name if schema else f"0x{fingerprint:016x}")
        key = (topic, sender, name, fingerprint, ipc_address(topic, sender))
        return self._channels.get(key) or self._enter(key, schema)

    def _enter(self, key: tuple[str, str, str, int, str], schema: Schema | None) -> Channel:
        topic, node, type_name, fingerprint, address = key
        known = self._writer.add_channel(
            Channel(0, topic, type_name, fingerprint, node, address), schema or schema_of(fingerprint)
        )
        self._channels[key] = known
        return known
