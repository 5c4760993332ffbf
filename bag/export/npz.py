"""NumPy's .npz: one file, an array for each `topic/field`; written a block at a time, so size does not matter."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from bag.export.sink import blocks, texts
from bag.fields import Field

if TYPE_CHECKING:
    from bag.dataset import Bag
    from bag.export import Progress
    from bag.topic import Topic


def write(bag: Bag, output: Path, topics: tuple[str, ...], progress: Progress, *, explicit: bool) -> None:
    """Write `topic/field`, and `topic/log_time_ns`, `publish_time_ns`, `sequence`; ragged ones as values and offsets.

    Values that are no numbers are text, lists and dicts among them as JSON.
    """
    del explicit
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for name in topics:
            topic = bag[name]
            prefix = name.lstrip("/")
            _whole(archive, f"{prefix}/log_time_ns", topic.times)
            _whole(archive, f"{prefix}/publish_time_ns", topic.publish_times)
            _whole(archive, f"{prefix}/sequence", topic.sequence)
            names = topic.fields
            for done, field in enumerate(names, 1):
                _field(archive, f"{prefix}/{field}", topic, topic[field])
                progress(name, len(topic) * done // len(names), len(topic))


def _field(archive: zipfile.ZipFile, name: str, topic: Topic, field: Field) -> None:
    if field.ragged:
        _ragged(archive, name, topic, field)
    elif field.dtype == object:
        found = field[:]
        _whole(archive, name, texts(found) if found.dtype == object else found)
    elif field.ndim == 1:
        _whole(archive, name, _plain(field[:]))
    else:
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            _head(file, field.dtype, field.shape)
            for start, stop in blocks(topic, field):
                file.write(np.ascontiguousarray(field[start:stop]).reshape(-1).view(np.uint8).data)


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    return texts(values) if values.dtype == object else values


def _ragged(archive: zipfile.ZipFile, name: str, topic: Topic, field: Field) -> None:
    lengths, shapes = [], []
    kind = field.dtype if field.dtype != object else np.dtype(np.uint8)
    for start, stop in blocks(topic, field):
        for array in field[start:stop]:
            lengths.append(-1 if array is None else array.nbytes // kind.itemsize)
            shapes.append("" if array is None else f"{array.dtype.str} {'x'.join(map(str, array.shape))}")
    total = sum(max(0, length) for length in lengths)
    with archive.open(f"{name}.values.npy", "w", force_zip64=True) as file:
        _head(file, kind, (total,))
        for start, stop in blocks(topic, field):
            for array in field[start:stop]:
                if array is not None and array.size:
                    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    _whole(archive, f"{name}.offsets", np.concatenate([[0], np.cumsum(np.maximum(lengths, 0))]).astype(np.int64))
    _whole(archive, f"{name}.shapes", np.array(shapes, dtype=np.str_))


def _head(file: IO[bytes], kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
    npy.write_array_header_2_0(file, {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": shape})


def _whole(archive: zipfile.ZipFile, name: str, values: NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        npy.write_array(file, values, allow_pickle=False)
