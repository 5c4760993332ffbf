"""Messages as Foxglove's JSON schemas know them: images, point clouds and poses; everything else as plain JSON."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np

from bag.plain import PlainMessage
from bag.tables import plain
from cortex.messages.base import Message, field_names

NUMERIC_TYPES = {"u1": 1, "i1": 2, "u2": 3, "i2": 4, "u4": 5, "i4": 6, "f4": 7, "f8": 8}
TIME = {"type": "object", "title": "time", "properties": {"sec": {"type": "integer"}, "nsec": {"type": "integer"}}}
BASE64 = {"type": "string", "contentEncoding": "base64"}
TEXT, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


XYZ = _object(x=NUMBER, y=NUMBER, z=NUMBER)
POSE = _object(position=XYZ, orientation=_object(x=NUMBER, y=NUMBER, z=NUMBER, w=NUMBER))
SCHEMAS: dict[str, dict[str, Any]] = {
    "foxglove.RawImage": _object(
        timestamp=TIME, frame_id=TEXT, width=INTEGER, height=INTEGER, encoding=TEXT, step=INTEGER, data=BASE64
    ),
    "foxglove.PointCloud": _object(
        timestamp=TIME,
        frame_id=TEXT,
        pose=POSE,
        point_stride=INTEGER,
        fields={"type": "array", "items": _object(name=TEXT, offset=INTEGER, type=INTEGER)},
        data=BASE64,
    ),
    "foxglove.PoseInFrame": _object(timestamp=TIME, frame_id=TEXT, pose=POSE),
}


def fields_of(message: Any) -> dict[str, Any]:
    """Field names and values of a decoded message."""
    if isinstance(message, PlainMessage):
        return message.asdict()
    if isinstance(message, Message):
        return {name: getattr(message, name) for name in field_names(type(message))}
    return {"value": message}


def to_json(type_name: str, message: Any, time_ns: int) -> tuple[str, bytes]:
    """(schema name, JSON) of a decoded message; the schema is Foxglove's where the values fit one of its types.

    Args:
        type_name: name of the message class.
        message: the decoded message.
        time_ns: when it was published, wall ns.
    """
    values = fields_of(message)
    make = {"ImageMessage": _image, "PointCloudMessage": _cloud, "PoseMessage": _pose}.get(type_name)
    made = None if make is None else make(values)
    if made is None:
        return type_name, dump(values)
    name, body = made
    stamp = {"sec": time_ns // 1_000_000_000, "nsec": time_ns % 1_000_000_000}
    return name, dump({"timestamp": stamp, "frame_id": str(values.get("frame_id") or ""), **body})


def dump(values: Any) -> bytes:
    """Values as JSON that every parser takes: what is no number (NaN, infinity) is null there."""
    try:
        return json.dumps(values, default=plain, allow_nan=False).encode()
    except ValueError:
        return json.dumps(_finite(json.loads(json.dumps(values, default=plain)))).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def schema_of(name: str) -> dict[str, Any]:
    """The JSON schema of a name that `to_json` gave."""
    return {"title": name, **SCHEMAS.get(name, {"type": "object"})}


def _data(array: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).decode("ascii")


def _image(values: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    data = np.asarray(values.get("data"))
    if data.ndim not in (2, 3) or data.dtype.kind not in "u" or data.size == 0:
        return None
    height, width = data.shape[:2]
    encoding = str(values.get("encoding") or "")
    if data.ndim == 2 and not encoding.startswith(("mono", "bayer", "16UC")):
        encoding = "mono8" if data.itemsize == 1 else "mono16"
    step = data.nbytes // height
    return "foxglove.RawImage", {
        "width": width,
        "height": height,
        "encoding": encoding,
        "step": step,
        "data": _data(data),
    }


def _cloud(values: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    points = np.asarray(values.get("points"))
    if points.ndim != 2 or not 2 <= points.shape[1] <= 4 or points.dtype.str[1:] not in NUMERIC_TYPES:
        return None
    names = ["x", "y", "z", "intensity"][: points.shape[1]]
    columns = [(name, points[:, at]) for at, name in enumerate(names)]
    columns += _more(values, len(points))
    kinds = np.dtype([(name, column.dtype.newbyteorder("<")) for name, column in columns])
    packed = np.empty(len(points), kinds)
    for name, column in columns:
        packed[name] = column
    fields = [
        {"name": name, "offset": kinds.fields[name][1], "type": NUMERIC_TYPES[kinds[name].str[1:]]}  # type: ignore[index]
        for name, _column in columns
    ]
    still = {"position": {"x": 0.0, "y": 0.0, "z": 0.0}, "orientation": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}}
    return "foxglove.PointCloud", {
        "pose": still, "point_stride": kinds.itemsize, "fields": fields, "data": _data(packed)
    }  # fmt: skip


def _more(values: dict[str, Any], count: int) -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for name, parts in (("intensity", ("intensity",)), ("colors", ("red", "green", "blue", "alpha"))):
        array = values.get(name)
        if not isinstance(array, np.ndarray) or len(array) != count or array.dtype.str[1:] not in NUMERIC_TYPES:
            continue
        flat = array.reshape(count, -1)
        if flat.shape[1] <= len(parts):
            out += [(part, flat[:, at]) for at, part in enumerate(parts[: flat.shape[1]])]
    return out


def _pose(values: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    position, turn = np.asarray(values.get("position")), np.asarray(values.get("orientation"))
    if position.shape != (3,) or turn.shape != (4,) or {position.dtype.kind, turn.dtype.kind} - set("fiu"):
        return None
    place = dict(zip("xyz", map(float, position), strict=True))
    return "foxglove.PoseInFrame", {
        "pose": {"position": place, "orientation": dict(zip("xyzw", map(float, turn), strict=True))}
    }
