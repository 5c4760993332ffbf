"""Adds to a finished bag what was not known while it was recorded: named moments, and what message types look like."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from bag.errors import UsageError
from bag.records import Channel, Schema
from bag.schemas import import_modules, schema_of
from bag.storage.amend import amend
from bag.storage.definitions import schema_values
from bag.storage.filters import parse_compression
from bag.storage.layout import ColumnSpec
from bag.storage.output import check_output, new_bag
from bag.storage.plans import Origin, Piece, TopicPlan
from bag.storage.proven import open_proven
from bag.storage.transfer import packing, transfer
from bag.when import Timeline, parse_moment

MAX_MARK = 1000
POSITIONAL = re.compile(r"field(\d+)(.*)", re.DOTALL)


def mark(path: str | Path, text: str, at: str) -> int:
    """Keep a named moment in a bag, in place; returns its wall time in ns.

    Raises:
        UsageError: `at` is no moment of the bag.
        FileNotFoundError, BagFormatError, BagBusyError, IntegrityError: the bag cannot be opened.
    """
    path = Path(path)
    if not text or len(text) > MAX_MARK:
        raise UsageError(f"a mark has 1 to {MAX_MARK} characters, not {len(text)}")
    with open_proven(path) as bag:
        timeline = Timeline.of(bag)
        if timeline.empty:
            raise UsageError(f"{path} holds no message, so it has no time line to mark")
        marks = [(name, timeline.mono_of(wall_ns)) for name, wall_ns in bag.definitions.marks]
        wall_ns = timeline.wall_of(parse_moment(at, timeline, marks))
    amend(path, [("mark", {"text": text, "log_time_ns": wall_ns})])
    return wall_ns


def schemas_for(path: str | Path, imports: tuple[str, ...]) -> list[Schema]:
    """Schemas that imported classes have for types of a bag which has none, or another.

    Raises:
        UsageError: a module cannot be imported, or defines no type of the bag.
    """
    import_modules(imports)
    with open_proven(Path(path)) as bag:
        wanted: dict[int, Channel] = {channel.fingerprint: channel for channel in bag.definitions.channels}
        found = [schema for schema in map(schema_of, wanted) if schema is not None]
        fresh = [schema for schema in found if bag.definitions.schemas.get(schema.fingerprint) != schema]
        missing = [channel for number, channel in wanted.items() if number not in {s.fingerprint for s in found}]
    if not fresh and missing:
        names = ", ".join(sorted({f"{channel.type_name} (0x{channel.fingerprint:016x})" for channel in missing}))
        raise UsageError(f"no imported class has the fingerprint of: {names}; name its module with --import")
    return fresh


def attach_schemas(
    path: str | Path, imports: tuple[str, ...], output: Path | None = None, *, force: bool = False
) -> list[Schema]:
    """Attach schemas of imported classes: in place, or to a copy whose datasets bear the names of the fields, too.

    Raises:
        UsageError: see `schemas_for`.
    """
    path = Path(path)
    schemas = schemas_for(path, imports)
    if output is None:
        if schemas:
            amend(path, [("schema", schema_values(schema)) for schema in schemas])
        return schemas
    check_output(output, [path], force=force)
    by_fingerprint = {schema.fingerprint: schema for schema in schemas}
    with open_proven(path) as bag:
        bag.definitions.schemas.update(by_fingerprint)
        plans = []
        for topic in bag.topics.values():
            origin = Origin(bag, topic, 0, len(topic))
            pieces = [Piece(origin, 0, len(topic))] if len(topic) else []
            channel = next(channel for channel in bag.definitions.channels if channel.topic == topic.name)
            schema = bag.definitions.schemas.get(channel.fingerprint)
            rename = _renamer(schema) if schema is not None else None
            plans.append(TopicPlan(topic.name, [origin], pieces, rename=rename))
        if bag.compression is not None:
            parse_compression(bag.compression)
        with new_bag(output, [path], bag.attributes, force=force) as writer, packing(writer, bag.compression) as packer:
            for text, wall_ns in bag.definitions.marks:
                writer.mark(text, wall_ns)
            for wall_ns, mono_ns in bag.clock.tolist():
                writer.note_clock(wall_ns, mono_ns)
            transfer(writer, plans, packer=packer)
    return schemas


class _renamer:  # noqa: N801  it is used as a function
    """Gives columns that are named by position the name of the field."""

    def __init__(self, schema: Schema) -> None:
        self._names = [item.name for item in schema.fields]

    def __call__(self, spec: ColumnSpec) -> ColumnSpec:
        found = POSITIONAL.fullmatch(spec.name)
        if found is None or int(found[1]) >= len(self._names):
            return spec
        return dataclasses.replace(spec, name=self._names[int(found[1])] + found[2])
