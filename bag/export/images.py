"""Images: a directory with one picture for each message of a camera topic, and a table of their times."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bag.errors import UsageError
from bag.export.sink import encoding_of, file_names, image_field, to_rgb
from bag.extras import need
from bag.loose_fields import ValueField

if TYPE_CHECKING:
    from bag.dataset import Bag
    from bag.export import Progress
    from bag.fields import Field
    from bag.topic import Topic

ENDINGS = {"png": ".png", "jpeg": ".jpg", "jpg": ".jpg"}
BLOCK = 16


def write(
    bag: Bag, output: Path, topics: tuple[str, ...], progress: Progress, *, explicit: bool, image_format: str = "png"
) -> None:
    """Write `topic/000000.png` and `topic/index.csv`; pictures that were published as PNG or JPEG are kept as they are.

    Raises:
        UsageError: no topic has images, a named one has none, or the format does not exist.
    """
    if image_format not in ENDINGS:
        raise UsageError(f"there is no image format {image_format!r}; it can be {', '.join(ENDINGS)}")
    wrote = False
    for name, directory in file_names(topics).items():
        topic = bag[name]
        compressed = _compressed(topic)
        field = compressed or image_field(topic, needed=explicit)
        if field is None:
            continue
        (output / directory).mkdir()
        _topic(topic, field, output / directory, encoding_of(topic) if compressed else "", image_format, progress)
        wrote = True
    if not wrote:
        raise UsageError(f"no topic of {bag.path} has images")


# a one-dimensional uint8 array with such an encoding is a file already
def _compressed(topic: Topic) -> Field | None:
    if encoding_of(topic).lower() not in ENDINGS or "data" not in topic.array_fields:
        return None
    return topic["data"]


def _topic(topic: Topic, field: Field, output: Path, compressed: str, image_format: str, progress: Progress) -> None:
    ending = ENDINGS[compressed.lower() if compressed else image_format]
    encodings = topic["encoding"] if "encoding" in topic.fields else None
    times = zip(topic.times.tolist(), topic.publish_times.tolist(), topic.sequence.tolist(), strict=True)
    with (output / "index.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["file", "log_time_ns", "publish_time_ns", "sequence"])
        for start in range(0, len(topic), BLOCK):
            stop = min(start + BLOCK, len(topic))
            names = encodings[start:stop] if isinstance(encodings, ValueField) else [""] * (stop - start)
            for number, (image, encoding) in enumerate(zip(field[start:stop], names, strict=True), start):
                file = f"{number:06d}{ending}"
                table.writerow([file, *next(times)])
                if image is not None:
                    _save(output / file, image, str(encoding or ""), bool(compressed))
            progress(topic.name, stop, len(topic))


def _save(path: Path, image: Any, encoding: str, compressed: bool) -> None:
    if compressed:
        path.write_bytes(np.ascontiguousarray(image).data)
        return
    pillow = need("PIL.Image", "images", "export of images")
    pixels = to_rgb(image, encoding)
    if path.suffix == ".jpg":
        pixels = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
        pixels = pixels[..., :3] if pixels.ndim == 3 else pixels
    elif pixels.dtype == np.uint16 and pixels.ndim == 3:
        raise UsageError(f"{path.parent.name}: PNG through pillow has no 16-bit colour; use --image-format jpeg or npz")
    pillow.fromarray(np.ascontiguousarray(pixels)).save(path)
