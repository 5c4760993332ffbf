"""Outputs that appear whole or not at all, and the walks over a topic that every format shares."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bag.errors import BagExistsError, UsageError
from bag.fields import Field
from bag.tables import plain, row_bytes

if TYPE_CHECKING:
    from bag.topic import Topic

BLOCK_BYTES = 32 << 20
MAX_ROWS = 16384


@contextlib.contextmanager
def fresh_output(output: Path, *, force: bool, directory: bool) -> Iterator[Path]:
    """A temporary place beside `output` that takes its name at the end; after an error nothing is left.

    Raises:
        BagExistsError: the output is already there and `force` is not given.
    """
    if output.exists() and not force:
        raise BagExistsError(f"{output} is already there; choose another name or overwrite it with -f/--force")
    fresh = output.with_name(f".{output.name}.part")
    remove(fresh)
    if directory:
        fresh.mkdir(parents=True)
    else:
        fresh.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield fresh
        old = output.with_name(f".{output.name}.old")
        remove(old)
        if output.exists():
            os.replace(output, old)
        os.replace(fresh, output)
        remove(old)
    except BaseException:
        remove(fresh)
        raise


def remove(path: Path) -> None:
    """Delete a file or a directory with all that is in it, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def file_name(topic: str) -> str:
    """A topic as the name of a file: slashes become underscores; what a file system dislikes is written as %XX."""
    text = topic.strip("/").replace("/", "_") or "root"
    safe = "".join(char if char.isalnum() or char in "-_." else f"%{ord(char):02X}" for char in text)
    return safe if safe.strip(".") else f"topic{safe}"


def file_names(topics: tuple[str, ...]) -> dict[str, str]:
    """A file name for each topic, all different."""
    out: dict[str, str] = {}
    for topic in topics:
        name, number = file_name(topic), 1
        while name in out.values():
            number += 1
            name = f"{file_name(topic)}-{number}"
        out[topic] = name
    return out


def blocks(topic: Topic, *fields: Field) -> Iterator[tuple[int, int]]:
    """Ranges of messages whose rows of these fields fit into memory together."""
    each = max(1, sum(row_bytes(field) for field in fields))
    step = max(1, min(MAX_ROWS, BLOCK_BYTES // each))
    for start in range(0, len(topic), step):
        yield start, min(start + step, len(topic))


def texts(values: NDArray[Any]) -> NDArray[np.str_]:
    """Objects as a numpy array of text: text as it is, everything else as JSON; None is empty."""
    found = ["" if v is None else v if isinstance(v, str) else json.dumps(v, default=plain) for v in values.tolist()]
    return np.array(found, dtype=np.str_)


def image_field(topic: Topic, *, needed: bool) -> Field | None:
    """The field that holds a topic's images: (rows, columns) or (rows, columns, 1..4), uint8 or uint16.

    Raises:
        UsageError: it is `needed` and there is none.
    """
    for name in ("data", *topic.array_fields):
        if name in topic.array_fields and _looks_like_image(topic[name]):
            return topic[name]
    if needed:
        raise UsageError(f"topic {topic.name} has no images; it has: {', '.join(topic.fields)}")
    return None


def _looks_like_image(field: Field) -> bool:
    if not len(field):
        return False
    row = np.asarray(field[0])
    flat = row.ndim == 2 and min(row.shape) >= 8
    return row.dtype in (np.uint8, np.uint16) and (flat or (row.ndim == 3 and row.shape[-1] in (1, 3, 4)))


def encoding_of(topic: Topic) -> str:
    """What the images of a topic say of their pixels: `rgb8`, `bgr8`, `mono16`, ...; empty when nothing."""
    if "encoding" not in topic.fields or not len(topic):
        return ""
    return str(topic["encoding"][0] or "")


def to_rgb(image: NDArray[Any], encoding: str) -> NDArray[Any]:
    """An image with its channels in the order of other tools: RGB, RGBA or none."""
    if image.ndim == 3 and encoding.lower().startswith("bgr"):
        order = [2, 1, 0, 3][: image.shape[-1]]
        image = image[..., order]
    return image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
