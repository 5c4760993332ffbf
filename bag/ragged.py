"""Arrays of different shapes in one value: what a slice of a ragged field gives, honest about not being a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


class Ragged(Sequence[Any]):
    """One array per message; None where a message has none.

    Args:
        arrays: the arrays, in the order of the messages.
    """

    def __init__(self, arrays: Sequence[NDArray[Any] | None]) -> None:
        self._arrays = list(arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    @overload
    def __getitem__(self, key: int) -> NDArray[Any] | None: ...
    @overload
    def __getitem__(self, key: slice) -> Ragged: ...

    def __getitem__(self, key: Any) -> Any:
        """The array of one message, or a smaller `Ragged` for a slice, mask or list of numbers."""
        if isinstance(key, (int, np.integer)):
            return self._arrays[key]
        if isinstance(key, slice):
            return Ragged(self._arrays[key])
        return Ragged([self._arrays[number] for number in np.arange(len(self))[key].tolist()])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Size of the first axis of each array; -1 where there is none, 1 for an array without axes."""
        return np.array([-1 if a is None else a.shape[0] if a.ndim else 1 for a in self._arrays], np.int64)

    @property
    def values(self) -> NDArray[Any]:
        """All arrays one behind the other: (sum of lengths, *rest); `offsets` says where each begins.

        Raises:
            ValueError: they differ in more than the first axis.
        """
        present = [array for array in self._arrays if array is not None]
        if not present:
            return np.empty(0)
        return np.concatenate(present)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(N + 1,) bounds in `values`."""
        return np.concatenate([[0], np.cumsum(np.maximum(self.lengths, 0))]).astype(np.int64)

    def padded(self, fill: Any = 0) -> NDArray[Any]:
        """One array (N, longest, *rest), the missing rows filled with `fill`.

        Raises:
            ValueError: the arrays differ in more than the first axis.
        """
        present = [array for array in self._arrays if array is not None]
        rests = {array.shape[1:] for array in present}
        if len(rests) > 1 or any(array.ndim == 0 for array in present):
            raise ValueError(f"arrays that differ in more than the first axis cannot be padded: {sorted(rests)}")
        longest = max((len(array) for array in present), default=0)
        kind = np.result_type(*present) if present else np.dtype(float)
        out = np.full((len(self), longest, *(rests.pop() if rests else ())), fill, kind)
        for row, array in zip(out, self._arrays, strict=True):
            if array is not None:
                row[: len(array)] = array
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Refuse: a matrix with holes would be a guess.

        Raises:
            ValueError: always; use `padded()`, `values` or the arrays one by one.
        """
        raise ValueError(
            "ragged arrays are no matrix; use .padded(fill), .values with .offsets, or one message at a time"
        )

    def __repr__(self) -> str:
        present = [array for array in self._arrays if array is not None]
        holes = len(self) - len(present)
        text = f"<Ragged: {len(self)} arrays, {describe([(a.dtype.str, a.shape) for a in present])}"
        return text + (f", {holes} missing>" if holes else ">")


def describe(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    """What arrays have in common, as text: `800..1600 x 3 float32`."""
    if not shapes:
        return "none present"
    kinds = ", ".join(str(np.dtype(kind)) for kind in dict.fromkeys(kind for kind, _shape in shapes))
    dimensions = {len(shape) for _kind, shape in shapes}
    if len(dimensions) > 1:
        return f"of {min(dimensions)} to {max(dimensions)} axes, {kinds}"
    ranges = [(min(sizes), max(sizes)) for sizes in zip(*(shape for _kind, shape in shapes), strict=True)]
    return " x ".join(str(low) if low == high else f"{low}..{high}" for low, high in ranges) + f" {kinds}"
