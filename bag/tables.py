"""A topic as a table of pandas, Arrow or polars: times, sequence and one column for each field.

Fields whose rows are large (images, point clouds) are left out unless they are named: the table says which.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bag.extras import need
from bag.fields import Field
from bag.ragged import Ragged

if TYPE_CHECKING:
    from bag.topic import Topic

LARGE_ROW = 64 << 10
# rows of one axis up to this long become columns of their own in pandas
SPREAD = 64
TIME_COLUMNS = ("log_time", "publish_time", "sequence")


def chosen_fields(topic: Topic, fields: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Names of the fields to take, and of those left out for their size."""
    if fields is not None:
        return list(fields), []
    small = {name: row_bytes(topic[name]) <= LARGE_ROW for name in topic.fields}
    return [name for name, fits in small.items() if fits], [name for name, fits in small.items() if not fits]


def row_bytes(field: Field) -> int:
    """Bytes of a row, on average for ragged fields."""
    return field.nbytes // max(1, len(field))


def to_pandas(topic: Topic, fields: Sequence[str] | None = None) -> Any:
    """A `pandas.DataFrame` by log time (UTC); arrays of one short axis become columns `name.0`, `name.1`, ...

    Args:
        topic: the topic.
        fields: names; None: all whose rows have at most 64 KiB (`frame.attrs["left_out"]` lists the others).

    Raises:
        MissingExtraError: pandas is not installed.
        KeyError: there is no such field.
    """
    pandas = need("pandas", "pandas", "to_pandas()")
    names, left_out = chosen_fields(topic, fields)
    columns: dict[str, Any] = {
        "publish_time": pandas.to_datetime(topic.publish_times, unit="ns", utc=True),
        "sequence": topic.sequence,
    }
    for name in names:
        columns |= _pandas_columns(name, topic[name][:])
    index = pandas.DatetimeIndex(pandas.to_datetime(topic.times, unit="ns", utc=True), name="log_time")
    frame = pandas.DataFrame(columns, index=index)
    frame.attrs |= {"topic": topic.name, "left_out": left_out}
    return frame


def _pandas_columns(name: str, values: Any) -> dict[str, Any]:
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return {name: native(values)}
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1] <= SPREAD:
        return {f"{name}.{at}": native(values[:, at]) for at in range(values.shape[1])}
    out = np.empty(len(values), object)
    for at, value in enumerate(values):
        out[at] = value
    return {name: out}


def native(values: NDArray[Any]) -> NDArray[Any]:
    """The same values in this machine's byte order, which is all most libraries know."""
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def to_arrow(topic: Topic, fields: Sequence[str] | None = None) -> Any:
    """A `pyarrow.Table`; arrays become (fixed size) lists, their shape stands in the metadata of the column.

    Args and raises: as in `to_pandas`, with the extra `polars` or `pandas`; what is left out stands in the metadata.
    """
    names, left_out = chosen_fields(topic, fields)
    return arrow_table(topic, names, left_out, 0, len(topic))


def arrow_table(topic: Topic, names: Sequence[str], left_out: Sequence[str], start: int, stop: int) -> Any:
    """Messages start..stop-1 as a table."""
    arrow = need("pyarrow", "pandas", "to_arrow()")
    part = topic.rows(start, stop)
    stamp = arrow.timestamp("ns", tz="UTC")
    arrays = [
        arrow.array(part.times.astype("M8[ns]"), stamp),
        arrow.array(part.publish_times.astype("M8[ns]"), stamp),
        arrow.array(part.sequence),
    ]
    schema = [arrow.field(name, array.type) for name, array in zip(TIME_COLUMNS, arrays, strict=True)]
    for name in names:
        array, shape = arrow_column(arrow, topic[name][start:stop])
        arrays.append(array)
        schema.append(
            arrow.field(name, array.type, metadata={"shape": json.dumps(shape)} if shape is not None else None)
        )
    metadata = {"topic": topic.name, "type": topic.channel.type_name, "left_out": json.dumps(list(left_out))}
    return arrow.Table.from_arrays(arrays, schema=arrow.schema(schema, metadata=metadata))


def arrow_column(arrow: Any, values: Any) -> tuple[Any, list[int] | None]:
    """(Arrow array, shape of a row) of what a field's slice gave; -1 stands for the axis that varies."""
    if isinstance(values, Ragged):
        return _ragged_column(arrow, values)
    if values.ndim == 1:
        return (_object_column(arrow, values) if values.dtype == object else arrow.array(native(values))), None
    size = int(np.prod(values.shape[1:]))
    if values.dtype.kind == "c":
        values = np.ascontiguousarray(values).view(values.real.dtype).reshape(*values.shape, 2)
        size *= 2
    flat = arrow.array(native(np.ascontiguousarray(values)).reshape(-1))
    if size == 0:
        return arrow.array([[] for _ in values], arrow.list_(flat.type)), list(values.shape[1:])
    return arrow.FixedSizeListArray.from_arrays(flat, size), list(values.shape[1:])


def _ragged_column(arrow: Any, values: Ragged) -> tuple[Any, list[int] | None]:
    present = [array for array in values if array is not None]
    if len({(array.dtype, array.shape[1:]) for array in present}) > 1 or any(array.ndim == 0 for array in present):
        return _object_column(arrow, np.array([None if a is None else a.tolist() for a in values], object)), None
    if not present:
        return arrow.nulls(len(values)), None
    sizes = np.array([0 if array is None else array.size for array in values])
    flat = arrow.array(native(values.values.reshape(-1)))
    mask = arrow.array([array is None for array in values])
    offsets = arrow.array(np.concatenate([[0], np.cumsum(sizes)]), arrow.int64())
    return arrow.LargeListArray.from_arrays(offsets, flat, mask=mask), [-1, *present[0].shape[1:]]


def _object_column(arrow: Any, values: NDArray[Any]) -> Any:
    try:
        return arrow.array(values.tolist())
    except (arrow.ArrowInvalid, arrow.ArrowTypeError, OverflowError):
        return arrow.array([None if value is None else json.dumps(value, default=plain) for value in values.tolist()])


def plain(value: Any) -> Any:
    """What JSON cannot hold, as something it can."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    return str(value)


def to_polars(topic: Topic, fields: Sequence[str] | None = None) -> Any:
    """A `polars.DataFrame`; see `to_arrow`.

    Raises:
        MissingExtraError: polars is not installed.
    """
    polars = need("polars", "polars", "to_polars()")
    return polars.from_arrow(to_arrow(topic, fields))
