"""What the storage tests share: rows as a recorder hands them over, reading a bag back, and files that watch writes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bag.records import Channel, RawMessage, Schema
from bag.storage.disk import RawFile
from bag.storage.reader import BagReader
from bag.storage.writer import BagWriter
from cortex.codec import encode_values
from cortex.wire import HEADER

FINGERPRINT = 0x1122334455667788
WALL, MONO = 1_790_000_000_000_000_000, 5_000_000_000
# parts 1..N of a message
Frames = list[bytes]
Row = tuple[int, int, list[Any]]


def channel_on(topic: str, *, fingerprint: int = FINGERPRINT, node: str = "node", type_name: str = "Type") -> Channel:
    return Channel(0, topic, type_name, fingerprint, node, f"ipc:///tmp/cortex/topics/{node}.sock")


def header(sequence: int, *, fingerprint: int = FINGERPRINT, publish: int | None = None) -> bytes:
    return HEADER.pack(fingerprint, (WALL + sequence) % 2**64 if publish is None else publish, sequence)


def frames_of(values: Sequence[Any], sequence: int, **head: Any) -> Frames:
    """Parts 1..N of a message with these field values."""
    metadata, buffers = encode_values(values)
    return [header(sequence, **head), metadata, *(bytes(buffer) for buffer in buffers)]


def row_of(topic: str, frames: Sequence[bytes], at: int = 0) -> Row:
    """A row as a recorder hands it over; `at` (ns) is added to fixed clocks."""
    return WALL + at, MONO + at, [topic.encode(), *frames]


def rows_of(topic: str, messages: Sequence[Sequence[bytes]], at: int = 0) -> list[Row]:
    return [row_of(topic, frames, at + number) for number, frames in enumerate(messages)]


def plain(frames: Sequence[Any]) -> Frames:
    return [bytes(frame) for frame in frames]


def stored(reader: BagReader, topic: str) -> list[Frames]:
    """Every message of a topic, parts 1..N."""
    return [plain(message.frames) for message in reader.raw(topic, 0, len(reader.topics[topic]))]


def contents(path: Path) -> dict[str, list[Frames]]:
    """Every message of every topic of a bag."""
    with BagReader(path) as reader:
        return {topic: stored(reader, topic) for topic in reader.topics}


def write_bag(path: Path, topics: dict[str, list[Frames]], schema: Schema | None = None) -> None:
    """A closed bag with these messages."""
    with BagWriter(path) as writer:
        for topic, messages in topics.items():
            known = writer.add_channel(channel_on(topic), schema)
            writer.append(known.id, rows_of(topic, messages))


def merged_frames(reader: BagReader, order: str) -> list[tuple[str, Frames]]:
    return [(message.topic, plain(message.frames)) for _time, message in reader.merged(list(reader.topics), order)]


def is_whole(message: RawMessage) -> bool:
    return message.frames[0][16:24] == message.sequence.to_bytes(8, "big")


# --- files that watch or refuse writes

# "write" at an offset, or "truncate" to it; also "rename" to the name in the bytes, and "unlink"
Operation = tuple[str, str, int, bytes]


@dataclass
class Disk:
    """Opens files that tell of every write.

    `before(name, kind, grows)` is called first and may raise; `grows` says whether the file needs more of the disk.
    `operations` are (file name, "write" or "truncate", offset or size, bytes), in order.
    """

    before: Callable[[str, str, bool], None] = lambda name, kind, grows: None
    keep: bool = True
    operations: list[Operation] = field(default_factory=list)
    # what a file is called: the fresh bag is already the bag
    names: Callable[[Path], str] = lambda path: path.name.removeprefix(".").removesuffix(".new")

    def __call__(self, path: Path, *, create: bool = False) -> RawFile:
        return _WatchedFile(self, path, create=create)

    def note(self, file: RawFile, kind: str, at: int, data: bytes) -> None:
        name = self.names(file.path)
        self.before(name, kind, at + len(data) > file.size())
        if self.keep:
            self.operations.append((name, kind, at, data))


class _WatchedFile(RawFile):
    def __init__(self, disk: Disk, path: Path, *, create: bool = False) -> None:
        super().__init__(path, create=create)
        self._disk = disk

    def write_at(self, offset: int, data: Any) -> None:
        self._disk.note(self, "write", offset, bytes(data))
        super().write_at(offset, data)

    def write_pieces_at(self, offset: int, pieces: Sequence[Any]) -> int:
        self._disk.note(self, "write", offset, b"".join(pieces))
        return super().write_pieces_at(offset, pieces)

    def sync(self) -> None:
        """Nothing: a test's power does not fail, and its disk is slow."""

    def truncate(self, size: int) -> None:
        self._disk.note(self, "truncate", size, b"")
        super().truncate(size)


def refusing(number: int, *, code: int, once: bool = False, only_growing: bool = False) -> tuple[Disk, list[int]]:
    """A disk that refuses its write `number` (from 0), and unless `once` all later ones, and a list of one counter."""
    count = [0]

    def before(name: str, kind: str, grows: bool) -> None:
        if kind == "truncate" or (only_growing and not grows):
            return
        count[0] += 1
        if count[0] == number + 1 or (count[0] > number and not once):
            raise OSError(code, os.strerror(code), name)

    return Disk(before, keep=False), count


def images(
    operations: Sequence[Operation], start: dict[str, bytes] | None = None
) -> Iterator[tuple[int, dict[str, bytearray]]]:
    """(operations done, the files then) after each operation, and also with only the first half of each write."""
    files = {name: bytearray(content) for name, content in (start or {}).items()}
    for done, (name, kind, at, data) in enumerate(operations):
        if kind in ("rename", "unlink"):
            content = files.pop(name)
            if kind == "rename":
                files[data.decode()] = content
            yield done + 1, files
            continue
        content = files.setdefault(name, bytearray())
        if kind == "truncate":
            del content[at:]
            content.extend(bytes(at - len(content)))
        else:
            if len(data) > 1:
                before = bytes(content)
                _put(content, at, data[: len(data) // 2])
                yield done, files
                content[:] = before
            _put(content, at, data)
        yield done + 1, files


def lay_out(files: dict[str, bytearray] | dict[str, bytes], directory: Path) -> None:
    """Make a directory hold exactly these files."""
    for path in directory.iterdir():
        if path.name not in files:
            path.unlink()
    for name, content in files.items():
        (directory / name).write_bytes(content)


def _put(content: bytearray, at: int, data: bytes) -> None:
    content.extend(bytes(max(0, at + len(data) - len(content))))
    content[at : at + len(data)] = data


def memory_directory() -> Iterator[Path]:
    """A directory for one test, in memory where there is such a place: these tests write and sync a lot."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="bag_", dir=base))
    try:
        yield path
    finally:
        shutil.rmtree(path)
