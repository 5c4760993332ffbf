"""Where the bytes of a bag are: per topic and column, as they are in the file, and what is left for HDF5 itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bag.storage import layout as names
from bag.storage.proven import open_proven


@dataclass(frozen=True, slots=True)
class ColumnSize:
    """One dataset: bytes of its chunks in the file, and what they hold without compression."""

    path: str
    stored: int
    plain: int


@dataclass(frozen=True, slots=True)
class TopicSize:
    """One topic: messages, bytes in the file, and its datasets, the largest first."""

    topic: str
    messages: int
    stored: int
    plain: int
    columns: tuple[ColumnSize, ...]


@dataclass(frozen=True, slots=True)
class BagSize:
    """A bag: `overhead` is what belongs to no topic: HDF5's structures, the bag's bookkeeping, unused room."""

    path: str
    size: int
    overhead: int
    compression: str | None
    topics: tuple[TopicSize, ...]


def sizes(path: str | Path) -> BagSize:
    """Add up the chunks of every column; no message is read.

    Raises:
        FileNotFoundError, BagFormatError, BagBusyError, IntegrityError: the bag cannot be opened.
    """
    with open_proven(Path(path)) as bag:
        topics = []
        for name, topic in bag.topics.items():
            columns = []
            for item in bag.definitions.columns.get(topic.number, []):
                column = bag.dataset_at(item.path).column
                stored = sum(chunk.size for chunk in column.chunks.values())
                row = names.INDEX_DTYPE.itemsize if item.kind == "index" else 1
                plain = len(topic) * row if item.kind == "index" else column.size
                columns.append(ColumnSize(item.path, stored, plain))
            columns.sort(key=lambda column: -column.stored)
            stored, plain = sum(column.stored for column in columns), sum(column.plain for column in columns)
            topics.append(TopicSize(name, len(topic), stored, plain, tuple(columns)))
        overhead = bag.file.size - sum(topic.stored for topic in topics)
        return BagSize(str(path), bag.file.size, overhead, bag.compression, tuple(topics))
