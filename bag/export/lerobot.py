"""LeRobot: a dataset in the v3.0 directory layout; one episode for each file of the bag, cameras as video.

Topics are aligned to an even rate, each moment with the last message before it. Moments before every topic has
begun, or after the first has ended, are in no episode.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bag.errors import UsageError
from bag.export.sink import encoding_of, file_name, image_field
from bag.export.video import encode, to_colour
from bag.extras import need

if TYPE_CHECKING:
    from bag.align import Aligned
    from bag.dataset import Bag
    from bag.export import Progress
    from bag.topic import Topic

FILES_IN_CHUNK = 1000
CHUNK_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
STATISTICS = ("min", "max", "mean", "std", "count")
SCALARS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
BLOCK = 16
LARGEST_VECTOR = 1024


@dataclass
class _Plan:
    """What becomes what: cameras by feature name, vectors as (topic, fields) by feature name."""

    fps: float
    task: str
    cameras: dict[str, str] = field(default_factory=dict)
    vectors: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    @property
    def topics(self) -> tuple[str, ...]:
        named = [*self.cameras.values(), *(topic for parts in self.vectors.values() for topic, _name in parts)]
        return tuple(dict.fromkeys(named))


def write(
    bag: Bag,
    output: Path,
    topics: tuple[str, ...],
    progress: Progress,
    *,
    explicit: bool,
    fps: float | None = None,
    state: Sequence[str] = (),
    action: Sequence[str] = (),
    task: str = "",
) -> None:
    """Write the dataset.

    Args:
        fps: the rate; None: that of the fastest camera, else 30.
        state, action: topics whose numbers make up `observation.state` and `action`, or `topic:field`; without `state`
            all topics with numbers that are not in `action`.
        task: what the robot does, in words.

    Raises:
        UsageError: there is nothing to align, or a vector has no numbers.
    """
    del explicit
    plan = _plan(bag, topics, fps, (tuple(state), tuple(action)), task)
    episodes = []
    first = 0
    features: dict[str, Any] = {}
    for number, part in enumerate(_episodes(bag)):
        made = _episode(part, output, plan, (number, first), progress)
        if made is not None:
            features, row = made
            episodes.append(row)
            first += row["length"]
    if not episodes:
        raise UsageError(f"{bag.path} has no moment at which {', '.join(plan.topics)} all have a message")
    _meta(output, plan, features, episodes)


def _plan(bag: Bag, topics: tuple[str, ...], fps: float | None, given: tuple[Sequence[str], ...], task: str) -> _Plan:
    state, action = ([_split(bag, name) for name in names] for names in given)
    plan = _Plan(fps or 0.0, task)
    for name in topics:
        found = image_field(bag[name], needed=False) if len(bag[name]) else None
        if found is not None and not found.ragged:
            plan.cameras[f"observation.images.{file_name(name)}"] = name
    taken = {topic for topic, _field in action} | set(plan.cameras.values())
    if not state:
        state = [(name, None) for name in topics if name not in taken]
    for feature, wanted in (("observation.state", state), ("action", action)):
        parts = [part for topic, only in wanted for part in _numbers(bag[topic], only)]
        if parts:
            plan.vectors[feature] = parts
        elif feature == "action" and action:
            raise UsageError(f"the topics for action have no numbers: {', '.join(topic for topic, _only in action)}")
    if not plan.topics:
        raise UsageError(f"{bag.path} has neither images nor numbers for a dataset")
    rates = [bag[name].statistics.hz or 0.0 for name in plan.cameras.values()]
    plan.fps = float(fps or round(max(rates, default=30.0)) or 30)
    return plan


def _split(bag: Bag, text: str) -> tuple[str, str | None]:
    if text in bag:
        return text, None
    topic, _colon, name = text.rpartition(":")
    bag[topic or text]
    return topic, name


def _numbers(topic: Topic, only: str | None) -> list[tuple[str, str]]:
    found = []
    for name in topic.fields if only is None else (only,):
        one = topic[name]
        width = int(np.prod(one.shape[1:]))
        if not one.ragged and one.dtype.kind in "biuf" and width <= LARGEST_VECTOR:
            found.append((topic.name, name))
    return found


def _episodes(bag: Bag) -> Iterator[Bag]:
    if len(bag.parts) < 2:
        yield bag
        return
    for part in bag.parts:
        if part.span is not None:
            yield bag.cut(part.span[1] + part.shift_ns, part.span[2] + part.shift_ns + 1)


def _episode(
    part: Bag, output: Path, plan: _Plan, counts: tuple[int, int], progress: Progress
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    clock = part.finest_clock
    times = [part[name].clock_times(clock) for name in plan.topics if name in part]
    if len(times) < len(plan.topics) or any(not len(one) for one in times):
        return None
    low, high = max(int(one[0]) for one in times), min(int(one[-1]) for one in times)
    if high < low:
        return None
    moments = low + np.round(np.arange(int((high - low) * plan.fps / 1e9) + 1) * (1e9 / plan.fps)).astype(np.int64)
    aligned = part.align(plan.topics, on=moments[moments <= high], clock=clock)
    number, first = counts
    place = {"chunk_index": number // FILES_IN_CHUNK, "file_index": number % FILES_IN_CHUNK}
    columns, features, statistics = _vectors(aligned, plan)
    count = len(aligned.times)
    columns |= {
        "timestamp": (np.arange(count) / plan.fps).astype(np.float32),
        "frame_index": np.arange(count),
        "episode_index": np.full(count, number),
        "index": np.arange(first, first + count),
        "task_index": np.zeros(count, np.int64),
    }
    statistics |= {name: _statistics(columns[name][:, None]) for name in SCALARS}
    _table(output / "data" / f"{CHUNK_FILE.format(**place)}.parquet", columns)
    row: dict[str, Any] = {"episode_index": number, "tasks": [plan.task], "length": count}
    row |= {f"data/{name}": value for name, value in place.items()}
    row |= {"dataset_from_index": first, "dataset_to_index": first + count}
    for key, name in plan.cameras.items():
        video = output / "videos" / key / f"{CHUNK_FILE.format(**place)}.mp4"
        features[key], statistics[key] = _video(part[name], aligned[name].rows, video, plan.fps, progress)
        row |= {f"videos/{key}/{one}": value for one, value in place.items()}
        row |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": count / plan.fps}
    row |= {f"stats/{key}/{name}": found[name] for key, found in statistics.items() for name in STATISTICS}
    return features, row


def _vectors(aligned: Aligned, plan: _Plan) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    columns, features, statistics = {}, {}, {}
    for key, parts in plan.vectors.items():
        values, names = [], []
        for topic, name in parts:
            found = np.asarray(aligned[topic][name], np.float32).reshape(len(aligned.times), -1)
            values.append(found)
            width = found.shape[1]
            names += [f"{topic}/{name}"] if width == 1 else [f"{topic}/{name}/{at}" for at in range(width)]
        whole = np.concatenate(values, axis=1)
        columns[key], statistics[key] = whole, _statistics(whole)
        features[key] = {"dtype": "float32", "shape": [whole.shape[1]], "names": names}
    return columns, features, statistics


def _statistics(values: NDArray[Any]) -> dict[str, Any]:
    numbers = values.astype(np.float64)
    found = {name: getattr(np, name)(numbers, axis=0).tolist() for name in ("min", "max", "mean", "std")}
    return {**found, "count": [len(values)]}


def _video(
    topic: Topic, rows: NDArray[np.int64], path: Path, fps: float, progress: Progress
) -> tuple[dict[str, Any], dict[str, Any]]:
    images = image_field(topic, needed=True)
    assert images is not None
    encoding = encoding_of(topic)
    sums = np.zeros((5, 3))
    sums[0], shape = np.inf, [0, 0, 3]

    def frames() -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(rows), BLOCK):
            for image in images[rows[start : start + BLOCK]]:
                pixels = to_colour(image, encoding)[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
                shape[:2] = pixels.shape[:2]
                flat = pixels.reshape(-1, 3)
                # the mean of squares is exact in float64 for eight bits
                sums[0], sums[1] = np.minimum(sums[0], flat.min(axis=0)), np.maximum(sums[1], flat.max(axis=0))
                sums[2] += flat.mean(axis=0)
                sums[3] += np.square(flat, dtype=np.float32).mean(axis=0, dtype=np.float64)
                yield pixels
            progress(topic.name, min(start + BLOCK, len(rows)), len(rows))

    path.parent.mkdir(parents=True, exist_ok=True)
    count = encode(path, frames(), fps)
    mean = sums[2] / count
    spread = np.sqrt(np.maximum(sums[3] / count - mean**2, 0))
    found = {"min": sums[0], "max": sums[1], "mean": mean, "std": spread}
    statistics = {name: (value / 255).reshape(3, 1, 1).tolist() for name, value in found.items()}
    about = {
        "video.height": shape[0], "video.width": shape[1], "video.codec": "h264", "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False, "video.fps": fps, "video.channels": 3, "has_audio": False,
    }  # fmt: skip
    feature = {"dtype": "video", "shape": shape, "names": ["height", "width", "channels"], "info": about}
    return feature, {**statistics, "count": [count]}


def _table(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    arrow, parquet = (need(name, "lerobot", "export to lerobot") for name in ("pyarrow", "pyarrow.parquet"))
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for name, values in columns.items():
        flat = arrow.array(np.ascontiguousarray(values).reshape(-1))
        arrays[name] = flat if values.ndim == 1 else arrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
    parquet.write_table(arrow.table(arrays), path)


def _meta(output: Path, plan: _Plan, features: dict[str, Any], episodes: list[dict[str, Any]]) -> None:
    pandas = need("pandas", "lerobot", "export to lerobot")
    arrow, parquet = (need(name, "lerobot", "export to lerobot") for name in ("pyarrow", "pyarrow.parquet"))
    frames = sum(row["length"] for row in episodes)
    info = {
        "codebase_version": "v3.0",
        "robot_type": None,
        "total_episodes": len(episodes),
        "total_frames": frames,
        "total_tasks": 1,
        "chunks_size": FILES_IN_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(plan.fps) if plan.fps.is_integer() else plan.fps,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": f"data/{CHUNK_FILE}.parquet",
        "video_path": f"videos/{{video_key}}/{CHUNK_FILE}.mp4" if plan.cameras else None,
        "features": features | {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in SCALARS.items()},
    }
    meta = output / "meta"
    (meta / "episodes" / "chunk-000").mkdir(parents=True)
    (meta / "info.json").write_text(json.dumps(info, indent=4), encoding="utf-8")
    rows = [{**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0} for row in episodes]
    parquet.write_table(arrow.Table.from_pylist(rows), meta / "episodes" / "chunk-000" / "file-000.parquet")
    pandas.DataFrame({"task_index": [0]}, index=pandas.Index([plan.task], name="task")).to_parquet(
        meta / "tasks.parquet"
    )
    keys = [*features, *SCALARS]
    whole = {
        key: _joined([{name: row[f"stats/{key}/{name}"] for name in STATISTICS} for row in episodes]) for key in keys
    }
    (meta / "stats.json").write_text(json.dumps(whole, indent=4), encoding="utf-8")


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    counts = np.array([part["count"][0] for part in parts], np.float64)
    means, spreads = (np.array([part[name] for part in parts], np.float64) for name in ("mean", "std"))
    weights = (counts / counts.sum()).reshape(-1, *(1,) * (means.ndim - 1))
    mean = (weights * means).sum(axis=0)
    spread = np.sqrt((weights * (spreads**2 + (means - mean) ** 2)).sum(axis=0))
    low = np.min([part["min"] for part in parts], axis=0)
    high = np.max([part["max"] for part in parts], axis=0)
    found = {"min": low, "max": high, "mean": mean, "std": spread, "count": [int(counts.sum())]}
    return {name: value if isinstance(value, list) else value.tolist() for name, value in found.items()}
