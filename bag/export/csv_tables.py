"""CSV: a directory with one table for each topic; arrays of one short axis are spread over columns."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bag.export.sink import blocks, file_names
from bag.tables import SPREAD, plain

if TYPE_CHECKING:
    from bag.dataset import Bag
    from bag.export import Progress
    from bag.fields import Field
    from bag.topic import Topic


def write(bag: Bag, output: Path, topics: tuple[str, ...], progress: Progress, *, explicit: bool) -> None:
    """Write `topic.csv` files; fields whose rows are no short lists (images, clouds) are named in `left_out.json`."""
    del explicit
    left_out: dict[str, list[str]] = {}
    for name, file in file_names(topics).items():
        topic = bag[name]
        fields = [topic[field] for field in topic.fields]
        kept = [field for field in fields if _fits(field)]
        left_out[name] = [field.name for field in fields if not _fits(field)]
        with (output / f"{file}.csv").open("w", newline="", encoding="utf-8") as stream:
            _table(csv.writer(stream), topic, kept, progress)
    if any(left_out.values()):
        listed = {name: fields for name, fields in left_out.items() if fields}
        (output / "left_out.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


def _fits(field: Field) -> bool:
    return not field.ragged and (field.ndim == 1 or (field.ndim == 2 and field.shape[1] <= SPREAD))


def _table(table: Any, topic: Topic, fields: list[Field], progress: Progress) -> None:
    head = ["log_time_ns", "publish_time_ns", "sequence"]
    for field in fields:
        head += [field.name] if field.ndim == 1 else [f"{field.name}.{at}" for at in range(field.shape[1])]
    table.writerow(head)
    for start, stop in blocks(topic, *fields):
        part = topic.rows(start, stop)
        columns: list[Any] = [part.times.tolist(), part.publish_times.tolist(), part.sequence.tolist()]
        for field in fields:
            values = field[start:stop]
            columns += [list(map(_cell, values.tolist()))] if values.ndim == 1 else np.transpose(values).tolist()
        table.writerows(zip(*columns, strict=True))
        progress(topic.name, stop, len(topic))


def _cell(value: Any) -> Any:
    return json.dumps(value, default=plain) if isinstance(value, (list, dict, bytes)) else value
