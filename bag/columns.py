"""Joins values of several types into one column, without a guess: what does not fit a number stays an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bag.templates import MISSING

EXACT = 2**53


def join(count: int, pieces: Sequence[tuple[Any, NDArray[Any]]]) -> NDArray[Any]:
    """One array of `count` values from pieces of (where they go, values).

    All integers: int64 (uint64 beyond it). All booleans: bool. Numbers of both kinds, or with some missing: float64
    with NaN where none is. Anything else (text, bytes, lists, dicts, mixtures): objects, None where none is.
    """
    parts = [(where, _plain(values)) for where, values in pieces]
    covered = sum(len(values) for _where, values in parts)
    kinds = {values.dtype.kind for _where, values in parts if not _is_missing(values)}
    missing = covered < count or any(_is_missing(values) for _where, values in parts)
    if kinds and kinds <= {"i", "u", "f"} and (len(kinds) > 1 or missing) and _fits_float(parts):
        return _fill(np.full(count, np.nan), parts)
    if len(kinds) == 1 and not missing and kinds & {"i", "u", "f", "b"}:
        if len(parts) == 1 and isinstance(parts[0][0], slice) and len(parts[0][1]) == count:
            return parts[0][1]
        return _fill(np.empty(count, next(values.dtype for _where, values in parts)), parts)
    if kinds == {"i", "u"} and not missing and all(int(values.min()) >= 0 for _where, values in parts if len(values)):
        return _fill(np.empty(count, np.uint64), parts)
    out = np.full(count, None, object)
    for where, values in parts:
        if not _is_missing(values):
            out[where] = values if values.dtype != object else [None if v is MISSING else v for v in values]
    return out


def _fill(out: NDArray[Any], parts: Sequence[tuple[Any, NDArray[Any]]]) -> NDArray[Any]:
    for where, values in parts:
        if not _is_missing(values):
            out[where] = values
    return out


def _fits_float(parts: Sequence[tuple[Any, NDArray[Any]]]) -> bool:
    whole = [values for _where, values in parts if values.dtype.kind in "iu" and len(values)]
    return all(int(values.min()) >= -EXACT and int(values.max()) <= EXACT for values in whole)


def _is_missing(values: NDArray[Any]) -> bool:
    return values.dtype == object and all(value is MISSING for value in values)


# objects that are all of one plain type become an array of it
def _plain(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype != object or not len(values):
        return values
    kinds = set(map(type, values))
    if kinds == {float}:
        return values.astype(np.float64)
    if kinds == {bool}:
        return values.astype(bool)
    if kinds == {int}:
        low, high = min(values), max(values)
        if low >= np.iinfo(np.int64).min and high <= np.iinfo(np.int64).max:
            return values.astype(np.int64)
        return values.astype(np.uint64) if low >= 0 else values
    return values


def kind_of(value: Any) -> np.dtype[Any]:
    """The dtype of a column of such values."""
    plain = {bool: np.bool_, int: np.int64, float: np.float64}
    return np.dtype(plain.get(type(value), object))
