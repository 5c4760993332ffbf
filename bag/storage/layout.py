"""Every name, dtype and size that stands on the disk; FORMAT.md says what they mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import Any
from zlib import crc32

import numpy as np

FORMAT_NAME = "cortex-bag"
FORMAT_MAJOR = 1
FORMAT_MINOR = 0

# root group of the bag's own bookkeeping; a topic of this name is moved aside by the path rule
BOOK = "_bag"
INDEX = "_index"
METADATA = "_metadata"
FRAMES = "_frames"
OFFSETS_SUFFIX = ".offsets"

DEFINITIONS = "definitions"
RUNS = "runs"
LEDGER = "ledger"
CLOCK = "clock"
CHECKSUMS = "checksums"
OPEN_CHUNKS = "open_chunks"
TOPICS = "topics"

INDEX_DTYPE = np.dtype(
    [
        ("log_time_ns", "<i8"),
        ("publish_time_ns", "<i8"),
        ("log_mono_ns", "<i8"),
        ("sequence", "<u8"),
        ("metadata_offset", "<u8"),
        ("metadata_size", "<u4"),
    ]
)
RUN_DTYPE = np.dtype([("topic", "<u4"), ("channel", "<u4"), ("layout", "<u4"), ("first", "<u8")])
LEDGER_DTYPE = np.dtype(
    [
        ("topic", "<u4"),
        ("channel", "<u4"),
        ("kind", "u1"),
        ("first_sequence", "<u8"),
        ("last_sequence", "<u8"),
        ("count", "<u8"),
        ("message", "<u8"),
        ("log_time_ns", "<i8"),
    ]
)
CLOCK_DTYPE = np.dtype([("wall_ns", "<i8"), ("mono_ns", "<i8")])
# the first bags were written without them
LATER_FIELDS = frozenset({"packed"})
CHECKSUM_DTYPE = np.dtype(
    [("column", "<u4"), ("crc", "<u4"), ("size", "<u4"), ("chunk", "<u8"), ("offset", "<u8"), ("packed", "u1")]
)
TOPIC_DTYPE = np.dtype(
    [
        ("messages", "<u8"),
        ("bytes", "<u8"),
        ("first_log_ns", "<i8"),
        ("last_log_ns", "<i8"),
        ("first_publish_ns", "<i8"),
        ("last_publish_ns", "<i8"),
        ("first_mono_ns", "<i8"),
        ("last_mono_ns", "<i8"),
        ("first_sequence", "<u8"),
        ("last_sequence", "<u8"),
        ("published_before_join", "<u8"),
        ("lost_before_us", "<u8"),
        ("lost_by_us", "<u8"),
        ("throttled", "<u8"),
        ("paused", "<u8"),
        ("restarts", "<u8"),
        ("malformed", "<u8"),
        ("gaps", "<u8"),
    ]
)

# what a ledger row tells; the numbers are part of the format
LEDGER_KINDS = {
    "before_join": 1,
    "lost_before_us": 2,
    "lost_by_us": 3,
    "throttled": 4,
    "restart": 5,
    "malformed": 6,
    "silent": 7,
    "paused": 8,
    "repeated": 9,
}

# kinds of messages that we know of and did not keep
LOST_HERE = ("lost_by_us", "throttled", "paused")

# columns of the book, which have fixed numbers; those of topics are numbered from FIRST_COLUMN
BOOK_COLUMNS = {DEFINITIONS: 0, RUNS: 1, LEDGER: 2, CLOCK: 3, CHECKSUMS: 4}
FIRST_COLUMN = 16

# what the numbers of a dataset are, in its attribute `units`
INDEX_UNITS = (
    "log_time_ns, publish_time_ns: ns since 1970-01-01 UTC; log_mono_ns: ns of a monotonic clock; "
    "metadata_offset, metadata_size: bytes"
)
LEDGER_UNITS = "log_time_ns: ns since 1970-01-01 UTC"
TOPIC_UNITS = (
    "*_log_ns, *_publish_ns: ns since 1970-01-01 UTC; *_mono_ns: ns of a monotonic clock; bytes: bytes; others: counts"
)
METADATA_UNITS = "bytes (msgpack)"
CLOCK_UNITS = "wall_ns: ns since 1970-01-01 UTC; mono_ns: ns of a monotonic clock"
COLUMN_KINDS = ("fixed", "ragged", "bytes")
OFFSET_UNITS = {"ragged": "rows", "bytes": "bytes"}

SMALL_CHUNK = 4 << 10
LARGE_CHUNK = 256 << 10
HUGE_CHUNK = 1 << 20
# a row this large is a chunk of its own and goes from the socket to the file without a copy
LARGE_ROW = 64 << 10
# bounds on what a hostile or erratic publisher can make us create for one topic
MAX_LAYOUTS = 64
MAX_FIXED_PER_BUFFER = 16
MAX_BUFFERS = 64
MAX_COLUMNS = 256
# bounds on what a name can make us create
MAX_LINK_BYTES = 255
MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """How the buffers of one place in a message are stored.

    `kind` is `fixed` (row k is the array of message k), `ragged` (arrays that differ in the first axis only, one
    behind the other, with offsets) or `bytes` (anything, one behind the other, with offsets). `shape` is the shape
    of a row: the array's for `fixed`, without the first axis for `ragged`, () for `bytes`. `dtype` is numpy's string.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the dataset."""
        return np.dtype(self.dtype).itemsize * prod(self.shape)

    def accepts(self, dtype: str, shape: tuple[int, ...]) -> bool:
        """Whether an array of this dtype and shape can be a row (or rows) of this column."""
        if self.kind == "bytes":
            return True
        if dtype != self.dtype:
            return False
        return shape == self.shape if self.kind == "fixed" else len(shape) > 0 and shape[1:] == self.shape


def native_dtype(text: str) -> np.dtype[Any] | None:
    """The dtype whose arrays HDF5 holds bit for bit under their own type, or None: those are kept as bytes."""
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError, SyntaxError):
        return None
    largest = {"b": 1, "i": 8, "u": 8, "f": 8, "c": 16, "M": 8, "m": 8, "S": dtype.itemsize}
    return dtype if 0 < dtype.itemsize <= largest.get(dtype.kind, 0) else None


def stored_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of the dataset: HDF5 has no times, so they stand as integers of the same bytes."""
    return np.dtype(dtype.str[0] + "i8") if dtype.kind in "Mm" else dtype


def chunk_rows(row_bytes: int, expected_bytes: int, limit: int = LARGE_CHUNK) -> int:
    """Rows per chunk, a power of two, for a column of which about `expected_bytes` come within a few seconds."""
    if row_bytes >= LARGE_ROW:
        return 1
    target = min(max(expected_bytes, SMALL_CHUNK), limit)
    return 1 << max(0, (target // row_bytes).bit_length() - 1)


def path_component(text: str) -> str:
    """A name as an HDF5 link: what HDF5 would read otherwise is written as %XX, what is too long is cut short."""
    if text in ("", ".", ".."):
        return text.replace(".", "%2E") or "%"
    link = re.sub("[%/\x00-\x1f\x7f\ud800-\udfff]", lambda found: f"%{ord(found[0]):02X}", text)
    if len(link.encode()) <= MAX_LINK_BYTES:
        return link
    short = link.encode()[: MAX_LINK_BYTES - 15].decode(errors="ignore")
    return f"{short}~{crc32(link.encode()):08x}"


def topic_path(topic: str) -> str:
    """Where a topic's group stands: its own name, each part escaped by `path_component`."""
    parts = topic.removeprefix("/").split("/", MAX_DEPTH - 1)
    return "/" + "/".join(map(path_component, parts))
