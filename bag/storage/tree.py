"""The only way into an HDF5 tree that somebody else may have made: never outside the file, never beyond its size."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bag.errors import BagFormatError, IntegrityError
from bag.storage import layout as names
from bag.storage.filters import NUMBERS, require
from bag.storage.snapshot import FileObject

if TYPE_CHECKING:
    from bag.storage.chunks import InputFile

TOPIC_ATTRIBUTE = "topic"
# a longer text in an attribute is cut; the definitions hold it whole
MAX_TEXT = 60_000


def open_bag_file(path: Path, snapshot: InputFile | None = None) -> h5py.File:
    """Open a bag for reading and check that it is one; `snapshot` is its file while it is being recorded.

    Raises:
        BagFormatError: it is not a bag, not readable HDF5, or of a newer format.
        MissingExtraError: the plugin of its compression is not installed.
    """
    try:
        root = h5py.File(path if snapshot is None else FileObject(snapshot), "r")
    except OSError as error:
        raise BagFormatError(
            f"{path} cannot be read as HDF5 ({error}); if it was a bag, try: cortex bag recover {path}"
        ) from error
    try:
        check_format(root, path)
    except BaseException:
        root.close()
        raise
    return root


def check_format(root: h5py.File, path: Path) -> None:
    """Refuse a file that is no bag, of a newer format, or compressed by a filter that is not there.

    Raises:
        BagFormatError: it is no bag, or too new.
        MissingExtraError: the plugin of its compression is not installed.
    """
    if attribute(root, "format") != names.FORMAT_NAME:
        raise BagFormatError(f"{path} is an HDF5 file but not a bag: it lacks the attribute format={names.FORMAT_NAME}")
    version = np.atleast_1d(np.asarray(attribute(root, "format_version")))
    if version.dtype.kind not in "iu" or version.size < 1:
        raise BagFormatError(f"{path} is not a bag that can be read: its attribute format_version is no number")
    if version[0] > names.FORMAT_MAJOR:
        raise BagFormatError(
            f"{path} has bag format {version[0]}, this version reads up to {names.FORMAT_MAJOR}; "
            f"upgrade with: pip install -U cortex-bag"
        )
    compression = attribute(root, "compression")
    if isinstance(compression, str) and compression in NUMBERS:
        require(compression)


def attribute(node: h5py.HLObject, name: str, default: Any = None) -> Any:
    """The value of an attribute, or `default` where there is none that can be read."""
    try:
        return node.attrs.get(name, default)
    except (OSError, TypeError, ValueError, RuntimeError, MemoryError):
        return default


def child(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """The object behind a hard link of a group; None when there is none, or a link that could lead elsewhere."""
    try:
        link = group.get(name, getlink=True)
        node = group[name] if isinstance(link, h5py.HardLink) else None
    except (KeyError, OSError, RuntimeError, TypeError, ValueError):
        return None
    return node if isinstance(node, (h5py.Group, h5py.Dataset)) else None


def node_at(root: h5py.File, path: str, access: Any = None) -> h5py.Group | h5py.Dataset:
    """The object at a path of hard links; `access` are HDF5's access properties for a dataset.

    Raises:
        IntegrityError: there is none.
    """
    # step by step below h5py's objects, each of which costs more than the step: opening 200 topics shows it
    place: Any = root.id
    parts = path.strip("/").encode(errors="surrogatepass").split(b"/")
    for left, part in zip(range(len(parts) - 1, -1, -1), parts, strict=True):
        place = _hard_linked(place, part, None if left else access) if isinstance(place, h5py.h5g.GroupID) else None
        if place is None:
            raise IntegrityError(f"{root.filename} has no {path}, or only a link that leads elsewhere")
    return h5py.Dataset(place) if isinstance(place, h5py.h5d.DatasetID) else h5py.Group(place)


def _hard_linked(group: Any, name: bytes, access: Any) -> Any:
    try:
        if group.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            return None
        node = h5py.h5o.open(group, name) if access is None else h5py.h5d.open(group, name, access)
    except (KeyError, OSError, RuntimeError, TypeError, ValueError):
        return None
    return node if isinstance(node, (h5py.h5g.GroupID, h5py.h5d.DatasetID)) else None


def dataset_at(root: h5py.File, path: str, *, direct: bool = False) -> h5py.Dataset:
    """The dataset at a path of hard links, stored in this file and nowhere else.

    Args:
        direct: what is not compressed is read straight into the memory of the reader, without a copy in HDF5's cache
            of chunks: whole rows come nearly twice as fast, but single bytes out of many rows far slower.

    Raises:
        IntegrityError: there is none.
    """
    node = node_at(root, path, _without_cache() if direct else None)
    if not isinstance(node, h5py.Dataset) or node.is_virtual or node.external or node.shape is None or node.ndim < 1:
        raise IntegrityError(f"{root.filename}: {path} is not a dataset that is kept in this file")
    if direct and node.id.get_create_plist().get_nfilters():
        # HDF5 keeps to the properties of the first handle while that is open
        node.id.close()
        return dataset_at(root, path)
    return node


@functools.cache
def _without_cache() -> Any:
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(0, 0, 0.0)
    return access


def table(root: h5py.File, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """All rows of a table of the book; fields of a later version are passed over, those an earlier one lacks are 0.

    Raises:
        IntegrityError: it is not there, lacks a field, or claims to be larger than what is stored.
    """
    found = dataset_at(root, f"/{names.BOOK}/{name}")
    fields = dtype_of(found).names
    needed = set(dtype.names or ()) - names.LATER_FIELDS
    if found.ndim != 1 or (dtype.names is None) != (fields is None) or not needed <= set(fields or ()):
        raise IntegrityError(f"{root.filename}: the table {name} does not have the fields of a bag")
    check_stored(found)
    rows = read_rows(found, 0, found.shape[0])
    return rows if rows.dtype == dtype else _converted(rows, dtype)


def dtype_of(dataset: h5py.Dataset) -> np.dtype[Any]:
    """The numpy dtype of a dataset.

    Raises:
        IntegrityError: numpy has none for it.
    """
    try:
        dtype: np.dtype[Any] = dataset.dtype
    except (TypeError, ValueError, RuntimeError) as error:
        raise IntegrityError(f"{dataset.file.filename}: {dataset.name} is of a type no bag has ({error})") from error
    return dtype


def check_stored(dataset: h5py.Dataset) -> None:
    """Refuse an uncompressed dataset that claims more than is stored; reading it would fill the memory with zeros.

    Raises:
        IntegrityError: it does.
    """
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > stored:
        raise IntegrityError(
            f"{dataset.file.filename}: {dataset.name} claims {dataset.nbytes} bytes, but {stored} are stored"
        )


def read_rows(dataset: Any, start: int, stop: int, what: str = "") -> NDArray[Any]:
    """Rows start..stop-1 of a dataset; `what` is what messages call it.

    Raises:
        IntegrityError: it has no such rows, or they cannot be read.
    """
    if not 0 <= start <= stop <= dataset.shape[0]:
        what = what or dataset.name
        raise IntegrityError(f"{what} has {dataset.shape[0]} rows, expected rows {start} to {stop}")
    try:
        rows: NDArray[Any] = dataset[start:stop]
    except (OSError, MemoryError, ValueError, TypeError) as error:
        raise IntegrityError(f"{what or dataset.name} cannot be read ({error})") from error
    return rows


@functools.cache
def record_type(dtype: np.dtype[Any]) -> Any:
    """HDF5's type for rows of this dtype."""
    return h5py.h5t.py_create(dtype)


def read_records(dataset: h5py.Dataset, start: int, stop: int, dtype: np.dtype[Any], what: str = "") -> NDArray[Any]:
    """Rows start..stop-1 of a dataset whose type is the `record_type` of this dtype; far quicker than a slice of h5py.

    Raises:
        IntegrityError: it has no such rows, or they cannot be read.
    """
    space = dataset.id.get_space()
    (count,) = space.get_simple_extent_dims()
    if not 0 <= start <= stop <= count:
        raise IntegrityError(f"{what or dataset.name} has {count} rows, expected rows {start} to {stop}")
    try:
        rows = np.empty(stop - start, dtype)
        space.select_hyperslab((start,), (len(rows),))
        dataset.id.read(h5py.h5s.create_simple((len(rows),)), space, rows, record_type(dtype))
    except (OSError, MemoryError, ValueError, TypeError) as error:
        raise IntegrityError(f"{what or dataset.name} cannot be read ({error})") from error
    return rows


def _converted(rows: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    out = np.zeros(len(rows), dtype)
    for field in rows.dtype.names or ():
        if field in out.dtype.fields:
            out[field] = rows[field]
    return out


def describe(node: h5py.HLObject, /, **texts: str) -> None:
    """Write text attributes, as readable as HDF5 allows: it has no NUL and no half characters."""
    for name, text in texts.items():
        shown = text[:MAX_TEXT].replace("\0", "\\0")
        node.attrs[name] = shown.encode(errors="replace").decode()
