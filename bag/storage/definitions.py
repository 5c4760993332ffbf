"""The definitions of a bag: JSON lines that say what its topics, channels, schemas, columns and layouts are."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from bag.errors import BagFormatError
from bag.records import Channel, Schema, SchemaField
from bag.storage.layout import COLUMN_KINDS, FIRST_COLUMN, ColumnSpec, native_dtype

# kinds of columns that every topic has and that hold no buffers
PLAIN_KINDS = ("index", "metadata", "offsets")


def definition_line(kind: str, values: dict[str, Any]) -> bytes:
    """One definition as it stands in the file."""
    text = json.dumps({kind: values}, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="surrogatepass") + b"\n"


@dataclass(frozen=True, slots=True)
class ColumnDefinition:
    """One dataset of a topic. `spec` is None for the kinds that hold no buffers."""

    number: int
    topic: int
    path: str
    kind: str
    spec: ColumnSpec | None


@dataclass(frozen=True, slots=True)
class LayoutDefinition:
    """Numbers of the columns that take the buffers of a message, in order; None: the parts are kept whole.

    `fingerprint` is that of all its messages; 0 where the parts are kept whole, since each has its own header.
    """

    number: int
    topic: int
    fingerprint: int
    columns: tuple[int, ...] | None


@dataclass(slots=True)
class Definitions:
    """All definitions of a bag, sorted by kind. `topics` holds (name, group path) by topic number."""

    topics: list[tuple[str, str]] = field(default_factory=list)
    channels: list[Channel] = field(default_factory=list)
    schemas: dict[int, Schema] = field(default_factory=dict)
    columns: dict[int, list[ColumnDefinition]] = field(default_factory=lambda: defaultdict(list))
    layouts: dict[int, LayoutDefinition] = field(default_factory=dict)
    marks: list[tuple[str, int]] = field(default_factory=list)
    # topic -> channel -> sequence number expected first, in a file that continues another
    expected: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))

    @property
    def next_number(self) -> int:
        """A number above all columns and layouts."""
        numbers = [column.number for columns in self.columns.values() for column in columns]
        return max([*numbers, *self.layouts, FIRST_COLUMN - 1]) + 1


def parse_definitions(data: bytes, path: str) -> Definitions:
    """Sort the lines of a definitions dataset; kinds of a later minor version are passed over.

    Raises:
        BagFormatError: a line cannot be understood.
    """
    out = Definitions()
    try:
        for line in data.splitlines():
            ((kind, values),) = json.loads(line).items()
            _take(out, kind, values)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise BagFormatError(f"{path} is damaged: its definitions cannot be read ({error})") from error
    return out


def _take(out: Definitions, kind: str, values: dict[str, Any]) -> None:
    if kind == "topic":
        out.topics.append((str(values["name"]), str(values["path"])))
    elif kind == "channel":
        channel = channel_from(values)
        if channel.id != len(out.channels):
            raise ValueError(f"channel {channel.id} stands where number {len(out.channels)} belongs")
        out.channels.append(channel)
    elif kind == "schema":
        schema = schema_from(values)
        out.schemas[schema.fingerprint] = schema
    elif kind == "column":
        out.columns[int(values["topic"])].append(_column_from(values))
    elif kind == "layout":
        layout = _layout_from(values)
        out.layouts[layout.number] = layout
    elif kind == "expected":
        out.expected[int(values["topic"])][int(values["channel"])] = int(values["sequence"])
    elif kind == "mark":
        out.marks.append((str(values["text"]), int(values["log_time_ns"])))


def column_values(column: ColumnDefinition) -> dict[str, Any]:
    """A column as it stands in the definitions."""
    values: dict[str, Any] = {"id": column.number, "topic": column.topic, "path": column.path, "kind": column.kind}
    if column.spec is not None:
        values |= {"name": column.spec.name, "dtype": column.spec.dtype, "shape": list(column.spec.shape)}
    return values


def _column_from(values: dict[str, Any]) -> ColumnDefinition:
    kind = str(values["kind"])
    spec = None
    if kind not in PLAIN_KINDS:
        shape = tuple(int(size) for size in values["shape"])
        spec = ColumnSpec(str(values["name"]), kind, str(values["dtype"]), shape)
        if kind not in COLUMN_KINDS or native_dtype(spec.dtype) is None or min(shape, default=0) < 0:
            raise ValueError(f"{spec} is no column of a bag")
    return ColumnDefinition(int(values["id"]), int(values["topic"]), str(values["path"]), kind, spec)


def layout_values(layout: LayoutDefinition) -> dict[str, Any]:
    """A layout as it stands in the definitions."""
    columns = None if layout.columns is None else list(layout.columns)
    fingerprint = f"0x{layout.fingerprint:016x}"
    return {"id": layout.number, "topic": layout.topic, "fingerprint": fingerprint, "columns": columns}


def _layout_from(values: dict[str, Any]) -> LayoutDefinition:
    columns = None if values["columns"] is None else tuple(int(column) for column in values["columns"])
    return LayoutDefinition(int(values["id"]), int(values["topic"]), int(values["fingerprint"], 16), columns)


def channel_values(channel: Channel) -> dict[str, Any]:
    """A channel as it stands in the definitions."""
    return {
        "id": channel.id,
        "topic": channel.topic,
        "type": channel.type_name,
        "fingerprint": f"0x{channel.fingerprint:016x}",
        "node": channel.node,
        "address": channel.address,
    }


def channel_from(values: dict[str, Any]) -> Channel:
    """The channel of a definition."""
    fingerprint = int(values["fingerprint"], 16)
    topic, type_name, node, address = (str(values[name]) for name in ("topic", "type", "node", "address"))
    return Channel(int(values["id"]), topic, type_name, fingerprint, node, address)


def schema_values(schema: Schema) -> dict[str, Any]:
    """A schema as it stands in the definitions."""
    return {
        "fingerprint": f"0x{schema.fingerprint:016x}",
        "type": schema.type_name,
        "module": schema.module,
        "qualname": schema.qualname,
        "fields": [[item.name, item.annotation] for item in schema.fields],
    }


def schema_from(values: dict[str, Any]) -> Schema:
    """The schema of a definition."""
    fields = tuple(SchemaField(str(name), str(annotation)) for name, annotation in values["fields"])
    type_name, module, qualname = (str(values[name]) for name in ("type", "module", "qualname"))
    return Schema(int(values["fingerprint"], 16), type_name, module, qualname, fields)
