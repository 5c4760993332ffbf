"""Makes a bag of an .mcap file, or of a rosbag2 directory that holds such files.

JSON messages (Foxglove's images, clouds and poses among them) become messages of the standard catalogue, ROS messages
too (with the extra `ros`); what no decoder is there for is kept as bytes, and the report says so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bag.errors import BagExistsError, BagFormatError, UsageError
from bag.extras import need
from bag.foreign import RosDecoder, from_json
from bag.storage.damage import SYMPTOMS
from bag.writer import Writer
from cortex.messages.base import Message
from cortex.messages.standard import BytesMessage
from cortex.wire import HEADER

BATCH = 64


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What became of an import; `undecoded` counts messages kept as bytes, by `encoding of topic`."""

    path: str
    messages: int
    topics: tuple[str, ...]
    undecoded: dict[str, int]


def from_mcap(
    source: str | Path,
    output: str | Path,
    *,
    topics: Sequence[str] | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ConvertReport:
    """Import an .mcap file, or all in a directory, into a new bag.

    Args:
        source: the file or directory.
        output: the bag.
        topics: names; None: all.
        force: replace a bag that is already there.
        progress: called with the messages done and their number in all (0: unknown).

    Raises:
        FileNotFoundError: there is no such file, or none in the directory.
        BagFormatError: it is no MCAP file, or a damaged one.
        BagExistsError: the bag is already there.
        UsageError: a topic is not in the file.
        MissingExtraError: mcap is not installed.
    """
    files = _files(Path(source))
    out = Path(output)
    if out.exists() and not force:
        raise BagExistsError(f"{out} is already there; choose another name or overwrite it with -f/--force")
    fresh = out.with_name(f".{out.name}.part")
    try:
        report = _convert(files, fresh, topics, progress)
        fresh.replace(out)
    except BaseException:
        for leftover in fresh.parent.glob(f"{fresh.name}*"):
            leftover.unlink()
        raise
    return ConvertReport(str(out), report.messages, report.topics, report.undecoded)


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        found = sorted(source.glob("*.mcap"))
        if not found:
            raise FileNotFoundError(f"there is no .mcap file in {source}; other kinds of rosbag2 storage are not read")
        return found
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {source}")
    return [source]


def _convert(
    files: Sequence[Path], output: Path, topics: Sequence[str] | None, progress: Callable[[int, int], None] | None
) -> ConvertReport:
    total = sum(_count(path) for path in files)
    undecoded: Counter[str] = Counter()
    known: dict[str, None] = {}
    done = 0
    description = "imported from " + ", ".join(path.name for path in files)
    with Writer(output, force=True, description=description, keep_tail=False, node="mcap") as writer:
        decode = _Decoder(undecoded)
        for schema, channel, message in _messages(files, topics):
            known[channel.topic] = None
            made = decode(schema, channel, message)
            number = decode.sequence(channel, message)
            frames = made.to_frames(number)
            frames[0] = HEADER.pack(made.fingerprint(), message.publish_time & 0x7FFFFFFFFFFFFFFF, number)
            writer.write(channel.topic, frames, log_time_ns=message.log_time, node=channel.metadata.get("node"))
            done += 1
            if progress is not None and (done % BATCH == 0 or done == total):
                progress(done, total)
    missing = [topic for topic in topics or () if topic not in known]
    if missing:
        raise UsageError(f"{', '.join(map(str, files))} has no messages of {', '.join(missing)}")
    return ConvertReport(str(output), done, tuple(known), dict(undecoded))


def _count(path: Path) -> int:
    reader = need("mcap.reader", "mcap", "import of .mcap")
    with path.open("rb") as stream:
        try:
            summary = reader.make_reader(stream).get_summary()
        except (need("mcap.exceptions", "mcap", "import of .mcap").McapError, *SYMPTOMS) as error:
            raise BagFormatError(f"{path} cannot be read as MCAP ({error}); mcap recover may mend it") from error
    return int(summary.statistics.message_count) if summary is not None and summary.statistics is not None else 0


def _messages(files: Sequence[Path], topics: Sequence[str] | None) -> Iterator[tuple[Any, Any, Any]]:
    reader = need("mcap.reader", "mcap", "import of .mcap")
    errors = need("mcap.exceptions", "mcap", "import of .mcap")
    for path in files:
        with path.open("rb") as stream:
            try:
                yield from reader.make_reader(stream, validate_crcs=True).iter_messages(topics=topics)
            except (errors.McapError, *SYMPTOMS) as error:
                raise BagFormatError(f"{path} cannot be read as MCAP ({error}); mcap recover may mend it") from error


class _Decoder:
    """Decodes messages by the encoding of their channel."""

    def __init__(self, undecoded: Counter[str]) -> None:
        self._undecoded = undecoded
        self._ros = RosDecoder()
        self._sequences: Counter[str] = Counter()

    def __call__(self, schema: Any, channel: Any, message: Any) -> Message:
        name = schema.name if schema is not None else ""
        if channel.message_encoding == "json":
            try:
                return from_json(name, json.loads(message.data), channel.metadata)
            except (ValueError, TypeError, KeyError):
                return self._bytes(channel, message)
        if channel.message_encoding in ("cdr", "ros1") and schema is not None:
            made = self._ros.decode(channel.message_encoding, schema, message.data)
            if made is not None:
                return made
        return self._bytes(channel, message)

    def _bytes(self, channel: Any, message: Any) -> Message:
        self._undecoded[f"{channel.message_encoding or 'unknown'} of {channel.topic}"] += 1
        return BytesMessage(bytes(message.data))

    def sequence(self, channel: Any, message: Any) -> int:
        """The number the message had when we exported it, else a count: foreign writers mostly leave it at 0."""
        if "fingerprint" in channel.metadata:
            return int(message.sequence)
        self._sequences[channel.topic] += 1
        return self._sequences[channel.topic] - 1
