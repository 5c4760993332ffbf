"""Fields as lazy arrays of xarray and dask: nothing is read until it is computed, wherever that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bag.errors import UsageError
from bag.extras import need

if TYPE_CHECKING:
    from bag.fields import Field
    from bag.topic import Topic

CHUNK_BYTES = 64 << 20


def to_dask(field: Field, rows: int | None = None) -> Any:
    """A `dask.array.Array` that reads its own chunks, also in another process.

    Args:
        field: any field that is not ragged.
        rows: messages in a chunk; None: about 64 MiB.

    Raises:
        MissingExtraError: dask is not installed.
        UsageError: the field is ragged.
    """
    array = need("dask.array", "dask", "to_dask()")
    if field.ragged:
        raise UsageError(f"field {field.name} of {field.topic.name} is ragged, which dask arrays cannot be")
    each = max(1, field.nbytes // max(1, len(field)))
    unit = field.chunk_rows
    rows = rows or max(1, CHUNK_BYTES // each // unit) * unit
    name = f"bag-{field.topic.name}-{field.name}-{abs(hash((field.topic.bag.paths, field.topic.bag.limits, rows))):x}"
    chunks = (min(rows, max(1, len(field))), *field.shape[1:])
    return array.from_array(field, chunks=chunks, name=name, asarray=False, fancy=True, lock=False)


def to_xarray(topic: Topic, fields: Sequence[str] | None = None) -> Any:
    """A lazy `xarray.Dataset` with the log time as coordinate `time`, and publish time and sequence beside it.

    Args:
        topic: the topic.
        fields: names; None: all that are not ragged (`dataset.attrs["left_out"]` lists the others).

    Raises:
        MissingExtraError: xarray is not installed.
        UsageError: a field that was named is ragged.
    """
    xarray = need("xarray", "xarray", "to_xarray()")
    names = [name for name in topic.fields if not topic[name].ragged] if fields is None else list(fields)
    left_out = [name for name in topic.fields if name not in names] if fields is None else []
    variables = {}
    for name in names:
        field = topic[name]
        if field.ragged:
            raise UsageError(f"field {name} of {topic.name} is ragged, which xarray cannot hold")
        axes = ("time", *(f"{name}_{axis}" for axis in range(1, field.ndim)))
        variables[name] = (axes, _lazy(field))
    times = {"units_note": "wall time of arrival, UTC"}
    coordinates = {
        "time": ("time", topic.times.astype("M8[ns]"), times),
        "publish_time": ("time", topic.publish_times.astype("M8[ns]"), {"units_note": "wall time of sending, UTC"}),
        "sequence": ("time", topic.sequence),
    }
    channel = topic.channel
    attributes = {"topic": topic.name, "type": channel.type_name, "node": channel.node, "left_out": left_out}
    return xarray.Dataset(variables, coordinates, attributes)


def _lazy(field: Field) -> Any:
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class FieldArray(BackendArray):
        """A field behind xarray's own lazy indexing."""

        def __init__(self, source: Field) -> None:
            self.source = source
            self.shape = source.shape
            self.dtype = source.dtype

        def __getitem__(self, key: Any) -> Any:
            return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

        def _read(self, key: tuple[Any, ...]) -> Any:
            out = self.source[key[0]]
            # the axes behind one by one, from the last: each may be a list of numbers
            for axis in range(len(key) - 1, 0, -1):
                lead = 0 if isinstance(key[0], int) else 1
                where = (*(slice(None),) * (lead + axis - 1), key[axis])
                out = out[where]
            return out

    return indexing.LazilyIndexedArray(FieldArray(field))
