"""The only way into an HDF5 tree that somebody else may have made: never outside the file, never beyond its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bag.errors import BagFormatError, IntegrityError
from bag.storage import layout as names
from bag.storage.filters import NUMBERS, require

TOPIC_ATTRIBUTE = "topic"
# a longer text in an attribute is cut; the definitions hold it whole
MAX_TEXT = 60_000


def open_bag_file(path: Path) -> h5py.File:
    """Open a bag for reading and check that it is one.

    Raises:
        BagFormatError: it is not a bag, not readable HDF5, or of a newer format.
        MissingExtraError: the plugin of its compression is not installed.
    """
    try:
        root = h5py.File(path, "r")
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


def node_at(root: h5py.File, path: str) -> h5py.Group | h5py.Dataset:
    """The object at a path of hard links.

    Raises:
        IntegrityError: there is none.
    """
    node: Any = root
    for part in path.strip("/").split("/"):
        node = child(node, part) if isinstance(node, h5py.Group) else None
        if node is None:
            raise IntegrityError(f"{root.filename} has no {path}, or only a link that leads elsewhere")
    return node


def dataset_at(root: h5py.File, path: str) -> h5py.Dataset:
    """The dataset at a path of hard links, stored in this file and nowhere else.

    Raises:
        IntegrityError: there is none.
    """
    node = node_at(root, path)
    if not isinstance(node, h5py.Dataset) or node.is_virtual or node.external or node.shape is None or node.ndim < 1:
        raise IntegrityError(f"{root.filename}: {path} is not a dataset that is kept in this file")
    return node


def table(root: h5py.File, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """All rows of a table of the book; fields of a later minor version are passed over.

    Raises:
        IntegrityError: it is not there, lacks a field, or claims to be larger than what is stored.
    """
    found = dataset_at(root, f"/{names.BOOK}/{name}")
    fields = dtype_of(found).names
    if found.ndim != 1 or (dtype.names is None) != (fields is None) or not set(dtype.names or ()) <= set(fields or ()):
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


def _converted(rows: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    out = np.empty(len(rows), dtype)
    for field in dtype.names or ():
        out[field] = rows[field]
    return out


def describe(node: h5py.HLObject, /, **texts: str) -> None:
    """Write text attributes, as readable as HDF5 allows: it has no NUL and no half characters."""
    for name, text in texts.items():
        shown = text[:MAX_TEXT].replace("\0", "\\0")
        node.attrs[name] = shown.encode(errors="replace").decode()
