"""What the compression of a bag costs and saves: what a reader needs, and how much of the bag it made smaller."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bag.storage import layout as names
from bag.storage.reader import BagReader
from bag.storage.tree import attribute, table


@dataclass(frozen=True, slots=True)
class Price:
    """`packed_bytes` take `stored_bytes` in the file and need `filter` to be read; `raw_bytes` stand as they are.

    `needs` is what must be installed for other readers of HDF5, empty for nothing.
    """

    filter: str
    needs: str
    packed_bytes: int
    stored_bytes: int
    raw_bytes: int


def filter_of(reader: BagReader) -> str:
    """Name of the filter of a bag, empty when it is not compressed."""
    name = attribute(reader._h5, "compression")
    return name if isinstance(name, str) else ""


def price_of(reader: BagReader) -> Price | None:
    """The price of a bag, from its checksums alone; None when it is not compressed."""
    root, name = reader._h5, filter_of(reader)
    if not name:
        return None
    # most bags are not compressed, and need none of this
    from bag.storage.filters import GZIP
    from bag.storage.proven import checksums_of, filters_of

    filters = filters_of(table(root, names.DEFINITIONS, np.dtype("u1")).tobytes())
    rows = checksums_of(root)
    rows = rows[np.isin(rows["column"], list(filters))]
    is_packed = rows["packed"] != 0
    packed = rows[is_packed]
    columns, counts = np.unique(packed["column"], return_counts=True)
    return Price(
        filter=name,
        needs="" if name == GZIP else "hdf5plugin",
        packed_bytes=sum(
            filters[column][1] * count for column, count in zip(columns.tolist(), counts.tolist(), strict=True)
        ),
        stored_bytes=int(packed["size"].sum(dtype=np.int64)),
        raw_bytes=int(rows["size"][~is_packed].sum(dtype=np.int64)),
    )
