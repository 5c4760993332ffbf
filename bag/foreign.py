"""Messages of other worlds (Foxglove's JSON, ROS) as messages of the standard catalogue."""

from __future__ import annotations

import base64
import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cortex.messages.base import Message, MessageType
from cortex.messages.standard import DictMessage, ImageMessage, PointCloudMessage, PoseMessage, StringMessage

# numbers of types in foxglove.PackedElementField and in sensor_msgs/PointField
FOXGLOVE_TYPES = {1: "u1", 2: "i1", 3: "<u2", 4: "<i2", 5: "<u4", 6: "<i4", 7: "<f4", 8: "<f8"}
ROS_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
# channels of an encoding, and its items; everything else stays one row of bytes
PIXELS = {
    "rgb8": (3, "u1"), "bgr8": (3, "u1"), "rgba8": (4, "u1"), "bgra8": (4, "u1"), "mono8": (1, "u1"),
    "8UC1": (1, "u1"), "8UC3": (3, "u1"), "mono16": (1, "u2"), "16UC1": (1, "u2"), "rgb16": (3, "u2"),
    "bgr16": (3, "u2"), "32FC1": (1, "f4"),
}  # fmt: skip


def from_json(schema: str, values: Any, metadata: dict[str, str]) -> Message:
    """A message of a JSON document.

    Args:
        schema: the name of its schema.
        values: the document.
        metadata: of its channel; a fingerprint there names the class it was.

    Raises:
        ValueError, TypeError, KeyError: the document is not what its schema says.
    """
    if schema == "foxglove.RawImage":
        raw = base64.b64decode(values["data"])
        return _image(raw, (values["height"], values["width"], values["step"]), values["encoding"], "<")
    if schema == "foxglove.CompressedImage":
        data = np.frombuffer(base64.b64decode(values["data"]), np.uint8)
        return ImageMessage(data=data, encoding=str(values["format"]))
    if schema == "foxglove.PointCloud":
        fields = [(item["name"], item["offset"], FOXGLOVE_TYPES[item["type"]]) for item in values["fields"]]
        raw = base64.b64decode(values["data"])
        return _cloud(raw, fields, int(values["point_stride"]), str(values.get("frame_id", "")))
    if schema in ("foxglove.PoseInFrame", "foxglove.Pose"):
        return _pose(values.get("pose", values), str(values.get("frame_id", "")))
    known = MessageType.get(int(metadata["fingerprint"], 16)) if "fingerprint" in metadata else None
    if known is not None and isinstance(values, dict) and dataclasses.is_dataclass(known):
        return _known(known, values)
    return DictMessage(data=values if isinstance(values, dict) else {"value": values})


def _known(cls: type[Message], values: dict[str, Any]) -> Message:
    out = {}
    for item in dataclasses.fields(cls):
        value = values[item.name]
        out[item.name] = _arrays(value) if "ndarray" in str(item.type) else value
    return cls(**out)


# where a class wants arrays, lists of numbers were arrays
def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    return np.asarray(value) if isinstance(value, list) else value


def _image(raw: bytes, size: tuple[int, int, int], encoding: str, order: str) -> Message:
    height, width, step = size
    channels, kind = PIXELS.get(encoding, (0, "u1"))
    item = np.dtype(kind).itemsize
    if not channels or step < width * channels * item or len(raw) != height * step:
        return ImageMessage(data=np.frombuffer(raw, np.uint8), encoding=encoding, width=width, height=height)
    rows = np.frombuffer(raw, np.uint8).reshape(height, step)[:, : width * channels * item]
    stored: NDArray[Any] = np.ascontiguousarray(rows).view(order + kind)
    pixels = stored.reshape(height, width, channels).astype(np.dtype(kind))
    return ImageMessage(data=pixels[..., 0] if channels == 1 else pixels, encoding=encoding, width=width, height=height)


def _cloud(raw: bytes, fields: list[tuple[str, int, str]], stride: int, frame_id: str) -> Message:
    names, offsets, formats = zip(*fields, strict=True)
    packed = np.dtype({"names": names, "offsets": offsets, "formats": formats, "itemsize": stride})
    points = np.frombuffer(raw, packed, len(raw) // stride)
    axes = [name for name in ("x", "y", "z") if name in names]
    rest = {name: np.ascontiguousarray(points[name]) for name in names if name not in axes}
    colors = [rest[name] for name in ("red", "green", "blue", "alpha") if name in rest]
    return PointCloudMessage(
        points=np.stack([points[name] for name in axes], axis=1) if axes else np.empty((len(points), 0), np.float32),
        colors=np.stack(colors, axis=1) if colors else None,
        intensity=rest.get("intensity"),
        frame_id=frame_id,
    )


def _pose(pose: Any, frame_id: str) -> Message:
    position, turn = pose["position"], pose["orientation"]
    return PoseMessage(
        position=np.array([position[axis] for axis in "xyz"], np.float64),
        orientation=np.array([turn[axis] for axis in "xyzw"], np.float64),
        frame_id=frame_id,
    )


class RosDecoder:
    """Decodes ROS messages with rosbags, from the definitions in the file; None where that is not possible."""

    def __init__(self) -> None:
        self._stores: dict[tuple[str, bytes], Any] = {}

    def decode(self, encoding: str, schema: Any, data: bytes) -> Message | None:
        """A message of CDR or ROS 1 bytes; None: rosbags is not installed, or does not know the definition."""
        store = self._store(encoding, schema)
        if store is None:
            return None
        found = (store.deserialize_cdr if encoding == "cdr" else store.deserialize_ros1)(data, _ros_name(schema.name))
        return from_ros(schema.name.replace("/msg/", "/"), found)

    def _store(self, encoding: str, schema: Any) -> Any:
        key = (schema.name, schema.data)
        if key not in self._stores:
            self._stores[key] = _make_store(encoding, schema)
        return self._stores[key]


def _make_store(encoding: str, schema: Any) -> Any:
    try:
        from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
    except ImportError:
        return None
    store = get_typestore(Stores.EMPTY)
    store.register(get_typestore(Stores.ROS2_HUMBLE if encoding == "cdr" else Stores.ROS1_NOETIC).fielddefs)
    text = schema.data.decode()
    if text:
        idl = schema.encoding == "ros2idl"
        found = get_types_from_idl(text) if idl else get_types_from_msg(text, _ros_name(schema.name))
        store.register({name: fields for name, fields in found.items() if name not in store.fielddefs})
    return store if _ros_name(schema.name) in store.fielddefs else None


def _ros_name(name: str) -> str:
    return name if "/msg/" in name else name.replace("/", "/msg/", 1)


def from_ros(name: str, found: Any) -> Message:
    """A deserialised ROS message as one of the catalogue: images, clouds, poses and text; the rest as a dict."""
    values = _plain(found)
    frame_id = str(values.get("header", {}).get("frame_id", ""))
    if name == "sensor_msgs/Image":
        order = ">" if values["is_bigendian"] else "<"
        size = (values["height"], values["width"], values["step"])
        return _image(values["data"].tobytes(), size, values["encoding"], order)
    if name == "sensor_msgs/CompressedImage":
        return ImageMessage(data=values["data"], encoding=values["format"])
    if name == "sensor_msgs/PointCloud2" and all(item["count"] <= 1 for item in values["fields"]):
        order = ">" if values["is_bigendian"] else "<"
        fields = [(item["name"], item["offset"], order + ROS_TYPES[item["datatype"]]) for item in values["fields"]]
        return _cloud(values["data"].tobytes(), fields, int(values["point_step"]), frame_id)
    if name in ("geometry_msgs/PoseStamped", "geometry_msgs/Pose"):
        return _pose(values.get("pose", values), frame_id)
    if name == "std_msgs/String":
        return StringMessage(data=values["data"])
    return DictMessage(data=values)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [item.name for item in dataclasses.fields(value) if not item.name.startswith("__")]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
