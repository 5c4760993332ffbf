"""The catalogue of ready-made messages; names, order and defaults of the fields are part of the protocol.

So are the annotations, as objects: classes derived from these have them in their fingerprint.  This module must
therefore neither postpone annotations nor write ``np.ndarray`` in another way.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from cortex.codec_torch import TORCH_AVAILABLE, is_tensor
from cortex.messages.base import Message

__all__ = [
    "TORCH_AVAILABLE",
    "ArrayMessage",
    "BytesMessage",
    "DictMessage",
    "FloatMessage",
    "HeaderMessage",
    "ImageMessage",
    "IntMessage",
    "ListMessage",
    "MultiArrayMessage",
    "MultiTensorMessage",
    "PointCloudMessage",
    "PoseMessage",
    "StringMessage",
    "TensorMessage",
    "TimestampMessage",
    "TransformMessage",
]


@dataclass
class StringMessage(Message):
    """A text."""

    data: str


@dataclass
class IntMessage(Message):
    """An integer from -2**63 to 2**64-1."""

    data: int


@dataclass
class FloatMessage(Message):
    """A 64-bit float."""

    data: float


@dataclass
class BytesMessage(Message):
    """Raw bytes."""

    data: bytes


@dataclass
class DictMessage(Message):
    """A dict with str or bytes keys; values may nest and hold arrays."""

    data: dict[str, Any]


@dataclass
class ListMessage(Message):
    """A list; items may nest and hold arrays.  Tuples arrive as lists."""

    data: list[Any]


@dataclass
class ArrayMessage(Message):
    """One numpy array of any shape and dtype that has no Python objects."""

    data: np.ndarray
    name: str = ""
    frame_id: str = ""


@dataclass
class MultiArrayMessage(Message):
    """Several named numpy arrays."""

    arrays: dict[str, np.ndarray]
    frame_id: str = ""


@dataclass
class TensorMessage(Message):
    """One torch tensor.

    Raises:
        TypeError: torch is installed and `data` is not a tensor.
    """

    data: Any
    name: str = ""

    def __post_init__(self) -> None:
        if TORCH_AVAILABLE and not is_tensor(self.data):
            raise TypeError(f"TensorMessage.data is a {type(self.data).__name__} where a torch.Tensor belongs.")


@dataclass
class MultiTensorMessage(Message):
    """Several named torch tensors."""

    tensors: dict[str, Any]


@dataclass
class ImageMessage(Message):
    """An image of shape (height, width) or (height, width, channels), or encoded bytes as a 1-d array.

    With ``width`` 0 both sizes in pixels are taken from the first two axes of 2-d and 3-d data, on decoding too.
    """

    data: np.ndarray
    encoding: str = "rgb8"
    width: int = 0
    height: int = 0

    def __post_init__(self) -> None:
        # np.ndim would copy a list or open a tensor; foreign data without axes keeps its sizes.
        if self.width == 0 and getattr(self.data, "ndim", 0) in (2, 3):
            self.height, self.width = (int(n) for n in self.data.shape[:2])


@dataclass
class PointCloudMessage(Message):
    """Points of shape (n, 3) with optional colors, intensity and normals of the same first axis."""

    points: np.ndarray
    colors: np.ndarray | None = None
    intensity: np.ndarray | None = None
    normals: np.ndarray | None = None
    frame_id: str = ""


@dataclass
class PoseMessage(Message):
    """Position (x, y, z) and orientation as a quaternion (x, y, z, w)."""

    position: np.ndarray
    orientation: np.ndarray
    frame_id: str = ""
    child_frame_id: str = ""


@dataclass
class TransformMessage(Message):
    """A homogeneous transform as a 4x4 matrix."""

    matrix: np.ndarray
    frame_id: str = ""
    child_frame_id: str = ""


@dataclass
class TimestampMessage(Message):
    """A point in time: whole seconds since the epoch and nanoseconds within the second."""

    sec: int
    nanosec: int

    @classmethod
    def now(cls) -> "TimestampMessage":
        """Return the wall clock's present time."""
        return cls(*divmod(time.time_ns(), 1_000_000_000))


@dataclass
class HeaderMessage(Message):
    """A time stamp with a coordinate frame and a counter."""

    stamp_sec: int
    stamp_nanosec: int
    frame_id: str = ""
    sequence: int = 0
