"""Rerun: one .rrd; images, point clouds and poses under Rerun's own types, numbers as time series, the rest as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bag.export.foxglove import dump, fields_of
from bag.export.sink import to_rgb
from bag.extras import need

if TYPE_CHECKING:
    from bag.dataset import Bag
    from bag.export import Progress
    from bag.records import RawMessage

LARGEST_SERIES = 256


def write(bag: Bag, output: Path, topics: tuple[str, ...], progress: Progress, *, explicit: bool) -> None:
    """Write every message at its log time (`log_time`) and publish time (`publish_time`)."""
    del explicit
    rerun = need("rerun", "rerun", "export to rerun")
    recording = rerun.RecordingStream("cortex-bag")
    recording.save(str(output))
    done = dict.fromkeys(topics, 0)
    for raw in bag.messages(topics=topics):
        recording.set_time("log_time", timestamp=np.datetime64(raw.log_time_ns, "ns"))
        recording.set_time("publish_time", timestamp=np.datetime64(raw.publish_time_ns, "ns"))
        _log(rerun, recording, bag, raw)
        done[raw.topic] += 1
        if done[raw.topic] % 100 == 0 or done[raw.topic] == len(bag[raw.topic]):
            progress(raw.topic, done[raw.topic], len(bag[raw.topic]))
    recording.flush()
    recording.disconnect()


def _log(rerun: Any, recording: Any, bag: Bag, raw: RawMessage) -> None:
    entity = raw.topic.strip("/") or "root"
    try:
        values = fields_of(bag.decode(raw))
    except ValueError as error:
        recording.log(entity, rerun.TextLog(f"a message that cannot be decoded: {error}"))
        return
    special = {"ImageMessage": _image, "PointCloudMessage": _cloud, "PoseMessage": _pose}.get(raw.channel.type_name)
    made = special(rerun, values) if special else None
    if made is not None:
        recording.log(entity, made)
        return
    rest = {}
    for name, value in values.items():
        series = _series(value)
        if series is not None:
            recording.log(f"{entity}/{name}", rerun.Scalars(series))
        else:
            rest[name] = value
    if rest:
        texts = [value for value in rest.values() if isinstance(value, str)]
        alone = len(rest) == 1 and texts
        recording.log(entity, rerun.TextLog(texts[0]) if alone else rerun.TextDocument(dump(rest).decode()))


def _series(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.ndarray)):
        return None
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "iuf" or not 0 < numbers.size <= LARGEST_SERIES:
        return None
    return numbers.reshape(-1).astype(np.float64)


def _image(rerun: Any, values: dict[str, Any]) -> Any:
    data = np.asarray(values.get("data"))
    if data.ndim not in (2, 3) or data.size == 0 or data.dtype.kind not in "uf":
        return None
    return rerun.Image(np.ascontiguousarray(to_rgb(data, str(values.get("encoding") or ""))))


def _cloud(rerun: Any, values: dict[str, Any]) -> Any:
    points = np.asarray(values.get("points"))
    if points.ndim != 2 or points.shape[1] < 3 or points.dtype.kind not in "iuf":
        return None
    colors = values.get("colors")
    fits = isinstance(colors, np.ndarray) and len(colors) == len(points) and colors.dtype == np.uint8
    return rerun.Points3D(points[:, :3].astype(np.float32), colors=colors if fits else None)


def _pose(rerun: Any, values: dict[str, Any]) -> Any:
    position, turn = np.asarray(values.get("position")), np.asarray(values.get("orientation"))
    if position.shape != (3,) or turn.shape != (4,):
        return None
    return rerun.Transform3D(translation=position.astype(float), quaternion=rerun.Quaternion(xyzw=turn.astype(float)))
