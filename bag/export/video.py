"""Video: an .mp4 for each camera topic, through imageio and its ffmpeg, with a table of the true times beside it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bag.errors import UsageError
from bag.export.sink import encoding_of, file_names, image_field, to_rgb
from bag.extras import need

if TYPE_CHECKING:
    from bag.dataset import Bag
    from bag.export import Progress
    from bag.fields import Field
    from bag.topic import Topic

BLOCK = 16


def write(
    bag: Bag, output: Path, topics: tuple[str, ...], progress: Progress, *, explicit: bool, fps: float | None = None
) -> None:
    """Write `topic.mp4` (H.264) with every frame at a constant rate, and `topic.csv` with the times of the frames.

    Raises:
        UsageError: no topic has images of one shape, or a named one has none.
    """
    wrote = False
    for name, file in file_names(topics).items():
        topic = bag[name]
        field = image_field(topic, needed=explicit)
        if field is None or field.ragged:
            if explicit and field is not None:
                raise UsageError(f"topic {name} has images of several shapes, which one video cannot hold")
            continue
        rate = fps or topic.statistics.hz or 30.0
        encode(output / f"{file}.mp4", frames(topic, field, progress), rate)
        _times(output / f"{file}.csv", topic)
        wrote = True
    if not wrote:
        raise UsageError(f"no topic of {bag.path} has images of one shape")


def frames(topic: Topic, field: Field, progress: Progress) -> Iterator[NDArray[np.uint8]]:
    """The images of a topic as (rows, columns, 3) uint8."""
    encoding = encoding_of(topic)
    for start in range(0, len(topic), BLOCK):
        for image in field[start : start + BLOCK]:
            yield to_colour(image, encoding)
        progress(topic.name, min(start + BLOCK, len(topic)), len(topic))


def to_colour(image: Any, encoding: str) -> NDArray[np.uint8]:
    """One image as (rows, columns, 3) uint8; of 16 bits the upper eight."""
    pixels = to_rgb(image, encoding)
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    return np.ascontiguousarray(pixels[..., :3])


def encode(path: Path, images: Iterator[NDArray[np.uint8]], fps: float, quality: float = 7) -> int:
    """Write images as a video and return how many there were; odd sizes are cut to even ones, as H.264 wants."""
    imageio = need("imageio_ffmpeg", "video", "export of video")
    count, writer = 0, None
    try:
        for image in images:
            height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
            if writer is None:
                writer = imageio.write_frames(
                    str(path), (width, height), fps=fps, codec="libx264", quality=quality, macro_block_size=2,
                    output_params=["-bf", "0"], ffmpeg_log_level="error",
                )  # fmt: skip
                writer.send(None)
            writer.send(np.ascontiguousarray(image[:height, :width]))
            count += 1
    finally:
        if writer is not None:
            writer.close()
    return count


def _times(path: Path, topic: Topic) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["frame", "log_time_ns", "publish_time_ns", "sequence"])
        table.writerows(
            zip(
                range(len(topic)),
                topic.times.tolist(),
                topic.publish_times.tolist(),
                topic.sequence.tolist(),
                strict=True,
            )
        )
