"""Finds what a field's name means in a topic: an array column, several of them, or a value inside the metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bag.parts import Piece
from bag.paths import Path, is_array, leaf_paths, split_name, value_at
from bag.plain import field_names, known_schema, values_or_none
from bag.records import Schema
from bag.storage import bulk
from cortex.codec import unpack_metadata
from cortex.errors import CodecError

POSITIONAL = re.compile(r"field(\d+)")
ABSENT = object()
NO_SCHEMA = Schema(0, "", "", "", ())


@dataclass(frozen=True)
class Place:
    """What a name means: columns with one of these names, and the value at `rest` behind the field `first`.

    `first` is the name of a field, or None when the name begins inside the field at position `inside`.
    """

    names: frozenset[str]
    first: str | None
    rest: tuple[str, ...]
    inside: int = 0

    def path(self, schema: Schema | None) -> Path | None:
        """Where the value stands in messages of this schema; None when they do not have the field."""
        if self.first is None:
            return (self.inside, *self.rest)
        position = position_of(schema, self.first)
        return None if position is None else (position, *self.rest)


def position_of(schema: Schema | None, name: str) -> int | None:
    """Position of a field by its name, or by `field3`."""
    for position, item in enumerate(schema.fields if schema is not None else ()):
        if item.name == name:
            return position
    match = POSITIONAL.fullmatch(name)
    return int(match[1]) if match else None


def schema_of_run(piece: Piece, channel: int, fingerprint: int) -> Schema | None:
    """The schema of the messages of one run."""
    reader = piece.part.reader
    registered = reader.channels[channel].fingerprint
    return known_schema(reader.schema(registered), registered) or known_schema(reader.schema(fingerprint), fingerprint)


def schemas_of(piece: Piece) -> list[Schema | None]:
    """The schema of each run of a piece's topic."""
    runs = bulk.runs_of(piece.reader)
    known: dict[tuple[int, int], Schema | None] = {}
    out = []
    for key in zip(runs.channels.tolist(), runs.fingerprints.tolist(), strict=True):
        if key not in known:
            known[key] = schema_of_run(piece, *key)
        out.append(known[key])
    return out


def _registered(piece: Piece) -> list[Schema | None]:
    reader = piece.part.reader
    prints = [channel.fingerprint for channel in reader.channels if channel.topic == piece.topic]
    return [known_schema(reader.schema(one), one) for one in prints]


def places(pieces: Sequence[Piece], name: str | tuple[str, ...]) -> Iterator[Place]:
    """The things a name could mean, the likeliest first."""
    schemas = {schema for piece in pieces for schema in (*schemas_of(piece), *_registered(piece))}
    samples = list(_samples(pieces))
    ways = split_name(name)
    for parts in ways:
        positions = {position_of(schema, parts[0]) for schema in schemas} - {None}
        if positions:
            aliases = {f"field{position}" for position in positions} | {parts[0]}
            yield Place(frozenset(".".join((alias, *parts[1:])) for alias in aliases), parts[0], parts[1:])
    for parts in ways:
        for position in _containers(samples, parts):
            tail = ".".join(parts)
            firsts = {field_names(schema, position + 1)[position] for schema in schemas} | {f"field{position}"}
            yield Place(frozenset(f"{first}.{tail}" for first in firsts), None, parts, position)


# positions of dict or list fields that hold something under these keys
def _containers(samples: Sequence[list[Any]], parts: tuple[str, ...]) -> list[int]:
    found = {
        position
        for values in samples
        for position, value in enumerate(values)
        if isinstance(value, (dict, list))
        and not is_array(value)
        and value_at([value], (0, *parts), ABSENT) is not ABSENT
    }
    return sorted(found)


def _samples(pieces: Sequence[Piece]) -> Iterator[list[Any]]:
    filled = [piece for piece in pieces if len(piece)]
    if filled:
        yield from (sample for sample in (sample_values(filled[0], 0), sample_values(filled[-1], -1)) if sample)


def sample_values(piece: Piece, number: int) -> list[Any] | None:
    """Field values of one message of a piece, arrays left as descriptions where they stand beside the metadata."""
    at = piece.first + number if number >= 0 else piece.last + number
    runs = bulk.runs_of(piece.reader)
    run = int(runs.of(np.array([at]))[0])
    if bulk.whole_runs(piece.reader, runs)[run]:
        return values_or_none(piece.part.reader.raw(piece.topic, at, at + 1)[0])
    try:
        return unpack_metadata(bulk.read_metadata(piece.reader, np.array([at])).frame(0))
    except CodecError:
        return None


def names_of(pieces: Sequence[Piece]) -> tuple[str, ...]:
    """Names of all fields: those of the first message, dicts followed to their leaves, then other array columns."""
    found: dict[str, None] = {}
    columns: dict[str, str] = {}
    for piece in pieces:
        for column in bulk.buffer_names(piece.reader):
            columns.setdefault(column, "/".join(column.split(".")))
    filled = next((piece for piece in pieces if len(piece)), None)
    if filled is None:
        named = (schema for piece in pieces for schema in _registered(piece) if schema is not None)
        return tuple(item.name for item in next(named, NO_SCHEMA).fields)
    if (values := sample_values(filled, 0)) is not None:
        runs = bulk.runs_of(filled.reader)
        run = int(runs.of(np.array([filled.first]))[0])
        schema = schemas_of(filled)[run]
        firsts = field_names(schema, len(values))
        for path in leaf_paths(values):
            parts = (firsts[int(path[0])], *map(str, path[1:]))
            found["/".join(parts)] = None
            columns.pop(".".join(parts), None)
            columns.pop(".".join((f"field{path[0]}", *parts[1:])), None)
    return (*found, *columns.values())
