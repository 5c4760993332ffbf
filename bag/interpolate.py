"""Values between two samples: straight lines for numbers, great circles for quaternions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# below this angle (rad) a straight line and the arc agree to the last digit
SMALL_ANGLE = 1e-6


def blend(
    before: NDArray[Any], after: NDArray[Any], share: NDArray[np.float64], *, sphere: bool = False
) -> NDArray[Any]:
    """The value at `share` (0: before, 1: after) of the way, row by row; float32 stays so, integers become float64.

    Args:
        before, after: (n, ...) values.
        share: (n,) between 0 and 1.
        sphere: rows of shape (4,) are unit quaternions.
    """
    kind = before.dtype if before.dtype.kind == "f" else np.dtype(np.float64)
    one, other = before.astype(np.float64), after.astype(np.float64)
    if sphere:
        return slerp(one, other, share).astype(kind)
    share = share.reshape(-1, *(1,) * (before.ndim - 1))
    # where both are the same sample the result is that sample, whatever it is (infinity too)
    with np.errstate(invalid="ignore"):
        out = one + (other - one) * share
    return np.where(one == other, one, out).astype(kind)


def slerp(before: NDArray[np.float64], after: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit quaternions on the shorter arc between two; q and -q are the same rotation.

    Args:
        before, after: (n, 4) quaternions; they are normalised.
        share: (n,) between 0 and 1.
    """
    one, other = _unit(before), _unit(after)
    dot = (one * other).sum(axis=1)
    other = np.where(dot[:, None] < 0, -other, other)
    angle = np.arccos(np.clip(np.abs(dot), 0, 1))
    sine = np.sin(angle)
    straight = angle < SMALL_ANGLE
    safe = np.where(straight, 1.0, sine)
    weight = np.where(straight, 1 - share, np.sin((1 - share) * angle) / safe)
    weight_other = np.where(straight, share, np.sin(share * angle) / safe)
    return _unit(one * weight[:, None] + other * weight_other[:, None])


def _unit(quaternions: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(quaternions, axis=1, keepdims=True)
    return quaternions / np.where(length == 0, 1, length)
