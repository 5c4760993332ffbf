"""Decides what a name is: an array where one column holds all messages, ragged where several do, else a value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bag.fields import ArrayField, Field
from bag.loose_fields import RaggedField, ValueField
from bag.parts import Piece
from bag.resolve import Place, places
from bag.storage import bulk
from bag.storage.layout import ColumnSpec

if TYPE_CHECKING:
    from bag.topic import Topic


def make_field(topic: Topic, name: str | tuple[str, ...]) -> Field:
    """The field of this name.

    Raises:
        KeyError: no message of the topic has one.
    """
    text = name if isinstance(name, str) else "/".join(name)
    candidates = list(places(topic.pieces, name))
    for place in candidates:
        columns = [_columns(piece, place) for piece in topic.pieces if len(piece)]
        if any(used - {-1} for used in columns):
            return _from_columns(topic, text, place, columns)
    for place in candidates:
        field = ValueField(topic, text, place)
        if not len(topic) or field.found(0, 1) or field.found(0, len(topic)):
            return field
    raise KeyError(f"topic {topic.name} has no field {text!r}; it has: {', '.join(topic.fields) or 'none'}")


# numbers of the columns that hold the field in a piece; -1 where messages have none
def _columns(piece: Piece, place: Place) -> set[int]:
    runs = bulk.runs_of(piece.reader)
    first, last = runs.of(np.array([piece.first, piece.last - 1])).tolist()
    return set(bulk.column_of_runs(piece.reader, runs, place.names)[first : last + 1].tolist())


def _from_columns(topic: Topic, name: str, place: Place, columns: list[set[int]]) -> Field:
    filled = [piece for piece in topic.pieces if len(piece)]
    if all(len(used) == 1 and used != {-1} for used in columns):
        numbers = [next(iter(used)) for used in columns]
        specs = [piece.reader.column(number).spec for piece, number in zip(filled, numbers, strict=True)]
        if specs[0].kind == "fixed" and len({_shape(spec) for spec in specs}) == 1:
            rows = {piece: (number, _first_row(piece, number)) for piece, number in zip(filled, numbers, strict=True)}
            return ArrayField(topic, name, [rows.get(piece, (-1, 0)) for piece in topic.pieces], specs[0])
    return RaggedField(topic, name, place)


def _shape(spec: ColumnSpec) -> tuple[str, str, tuple[int, ...]]:
    return spec.kind, spec.dtype, spec.shape


def _first_row(piece: Piece, column: int) -> int:
    return int(bulk.rows_of(piece.reader, bulk.runs_of(piece.reader), column, np.array([piece.first]))[0])
