"""Parquet: a directory with one file for each topic, written in row groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bag.export.sink import blocks, file_names
from bag.extras import need
from bag.loose_fields import ValueField
from bag.tables import arrow_column, arrow_table, chosen_fields

if TYPE_CHECKING:
    from bag.dataset import Bag
    from bag.export import Progress
    from bag.topic import Topic


def write(bag: Bag, output: Path, topics: tuple[str, ...], progress: Progress, *, explicit: bool) -> None:
    """Write `topic.parquet` files; fields with rows above 64 KiB only of topics that were named."""
    parquet = need("pyarrow.parquet", "pandas", "export to parquet")
    for name, file in file_names(topics).items():
        topic = bag[name]
        names, left_out = chosen_fields(topic, topic.fields if explicit else None)
        schema = _schema(topic, names, left_out)
        with parquet.ParquetWriter(output / f"{file}.parquet", schema, compression="zstd") as writer:
            for start, stop in blocks(topic, *(topic[field] for field in names)):
                table = arrow_table(topic, names, left_out, start, stop)
                writer.write_table(_fitted(table, schema))
                progress(name, stop, len(topic))


# one schema for all row groups: a value may be an integer in the first block and a float in the last
def _schema(topic: Topic, names: list[str], left_out: list[str]) -> Any:
    arrow = need("pyarrow", "pandas", "export to parquet")
    found = arrow_table(topic, names, left_out, 0, min(1, len(topic))).schema
    for name in names:
        if not len(topic):
            continue
        field = topic[name]
        whole = field[:] if isinstance(field, ValueField) else field[: min(len(field), 64)] if field.ragged else None
        if whole is not None:
            at = found.get_field_index(name)
            array, shape = arrow_column(arrow, whole)
            metadata = None if shape is None else {"shape": json.dumps(shape)}
            found = found.set(at, arrow.field(name, array.type, metadata=metadata))
    return found


def _fitted(table: Any, schema: Any) -> Any:
    arrow = need("pyarrow", "pandas", "export to parquet")
    columns = []
    for field in schema:
        column = table.column(field.name)
        if column.type != field.type and arrow.types.is_string(field.type) and not arrow.types.is_string(column.type):
            # a mixture that is text as a whole: numbers of a block become JSON too
            column = arrow.array([None if v is None else json.dumps(v) for v in column.to_pylist()], field.type)
        columns.append(column if column.type == field.type else column.cast(field.type))
    return arrow.Table.from_arrays(columns, schema=schema)
