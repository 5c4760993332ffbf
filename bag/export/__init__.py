"""Writes bags in the formats of other tools. Each format is one module, thin over the library that owns the format.

An export appears whole or not at all: it is written under a temporary name and renamed at the end. An output that is
already there is refused unless `force` is given.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bag.errors import UsageError
from bag.export.sink import fresh_output

if TYPE_CHECKING:
    from bag.dataset import Bag

# called with a topic, the messages done and the messages of the topic
Progress: TypeAlias = Callable[[str, int, int], None]

# module, and the ending of an output that is one file ("" where it is a directory)
FORMATS = {
    "npz": ("bag.export.npz", ".npz"),
    "csv": ("bag.export.csv_tables", ""),
    "parquet": ("bag.export.parquet", ""),
    "zarr": ("bag.export.zarr_store", ""),
    "mcap": ("bag.export.mcap_file", ".mcap"),
    "images": ("bag.export.images", ""),
    "video": ("bag.export.video", ""),
    "lerobot": ("bag.export.lerobot", ""),
    "rerun": ("bag.export.rerun_file", ".rrd"),
}


def export(
    bag: Bag,
    output: str | Path,
    format_: str,
    *,
    topics: Sequence[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
    options: dict[str, Any] | None = None,
) -> Path:
    """Write an open bag, or a part of one, in another format.

    Args:
        bag: what to write; `bag.between(...)` for a stretch of it.
        output: the file or directory to make.
        format_: one of `FORMATS`.
        topics: names; None: all that the format can hold.
        force: replace an output that is already there.
        progress: called as the work goes on.
        options: for the format: `fps` (video, lerobot), `image_format` (images), `state`, `action`, `task` (lerobot).

    Returns:
        The output.

    Raises:
        BagExistsError: the output is already there.
        UsageError: there is no such format, or the format cannot hold what was asked for.
        MissingExtraError: the library for the format is not installed.
        KeyError: a topic is not in the bag.
    """
    if format_ not in FORMATS:
        raise UsageError(f"there is no format {format_!r}; it can be {', '.join(FORMATS)}")
    module, ending = FORMATS[format_]
    names = tuple(bag) if topics is None else tuple(topics)
    for name in names:
        bag[name]
    write = importlib.import_module(module).write
    with fresh_output(Path(output), force=force, directory=not ending) as fresh:
        write(bag, fresh, names, progress or _silent, explicit=topics is not None, **(options or {}))
    return Path(output)


def _silent(_topic: str, _done: int, _total: int) -> None:
    return None
