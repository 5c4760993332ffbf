"""The name under which programs import serialisation; the code lives in `cortex.inline` and `cortex.codec`."""

from cortex.codec import TORCH_AVAILABLE
from cortex.inline import (
    DataType,
    deserialize,
    deserialize_message_data,
    deserialize_message_frames,
    deserialize_message_values,
    deserialize_numpy,
    deserialize_torch,
    serialize,
    serialize_message_data,
    serialize_message_frames,
    serialize_message_values,
    serialize_numpy,
    serialize_torch,
)

__all__ = [
    "TORCH_AVAILABLE",
    "DataType",
    "deserialize",
    "deserialize_message_data",
    "deserialize_message_frames",
    "deserialize_message_values",
    "deserialize_numpy",
    "deserialize_torch",
    "serialize",
    "serialize_message_data",
    "serialize_message_frames",
    "serialize_message_values",
    "serialize_numpy",
    "serialize_torch",
]
