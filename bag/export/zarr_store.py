"""Zarr: a directory store with one group for each topic; arrays keep their shape, chunked as they were recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bag.export.sink import blocks, texts
from bag.extras import need
from bag.fields import Field

if TYPE_CHECKING:
    from bag.dataset import Bag
    from bag.export import Progress
    from bag.topic import Topic

CHUNK_BYTES = 1 << 20


def write(bag: Bag, output: Path, topics: tuple[str, ...], progress: Progress, *, explicit: bool) -> None:
    """Write a group for each topic with its fields; ragged fields as groups of `values` (flat) and `offsets`."""
    del explicit
    zarr = need("zarr", "zarr", "export to zarr")
    # format 2 is what every version of zarr and its relatives in other languages read
    options = {"zarr_format": 2} if int(zarr.__version__.split(".")[0]) >= 3 else {}
    root = zarr.open_group(str(output), mode="w", **options)
    for name in topics:
        topic, group = bag[name], root.require_group(name.strip("/") or "root")
        channel = topic.channel
        group.attrs.update(
            {"topic": name, "type": channel.type_name, "node": channel.node, "times": "ns since 1970, UTC"}
        )
        _whole(group, "log_time_ns", topic.times)
        _whole(group, "publish_time_ns", topic.publish_times)
        _whole(group, "sequence", topic.sequence)
        for field in topic.fields:
            _field(group, topic, topic[field])
        progress(name, len(topic), len(topic))


def _field(group: Any, topic: Topic, field: Field) -> None:
    if field.ragged:
        inner = group.require_group(field.name)
        arrays = [np.asarray(array).reshape(-1) for array in field[:] if array is not None]
        sizes = [0 if array is None else array.size for array in field[:]]
        _whole(inner, "values", np.concatenate(arrays) if arrays else np.empty(0))
        _whole(inner, "offsets", np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
        _whole(inner, "shapes", np.array(["" if a is None else "x".join(map(str, a.shape)) for a in field[:]], np.str_))
    elif field.ndim == 1:
        values = field[:]
        _whole(group, field.name, texts(values) if values.dtype == object else values)
    else:
        each = max(1, field.nbytes // max(1, len(field)))
        rows = max(1, min(len(field), CHUNK_BYTES // each))
        array = _create(group, field.name, field.shape, field.dtype, (rows, *field.shape[1:]))
        for start, stop in blocks(topic, field):
            array[start:stop] = field[start:stop]


def _whole(group: Any, name: str, values: NDArray[Any]) -> None:
    array = _create(group, name, values.shape, values.dtype, (max(1, min(len(values), 65536)), *values.shape[1:]))
    if values.size:
        array[:] = values


def _create(group: Any, name: str, shape: tuple[int, ...], kind: Any, chunks: tuple[int, ...]) -> Any:
    chunks = tuple(max(1, size) for size in chunks)
    create = getattr(group, "create_array", None) or group.create_dataset
    return create(name, shape=shape, dtype=kind, chunks=chunks)
