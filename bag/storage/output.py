"""A new bag that appears under its name when it is whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from bag.errors import BagBusyError, BagExistsError, UsageError
from bag.storage.disk import sync_directory
from bag.storage.sidecars import Sidecars
from bag.storage.tree import describe
from bag.storage.writer import BagWriter

CUSTOM = "custom."


def check_output(output: Path, sources: Sequence[Path], *, force: bool) -> None:
    """Refuse an output that is there already, or is one of the inputs.

    Raises:
        BagExistsError: it is there and `force` is not given.
        UsageError: it is an input, or its directory is not there.
    """
    if any(output.exists() and source.exists() and output.samefile(source) for source in sources):
        raise UsageError(f"{output} is the bag that is read; give the new one another name")
    if output.exists() and not force:
        raise BagExistsError(f"{output} is already there; choose another name or replace it with -f/--force")
    if not output.parent.is_dir():
        raise UsageError(f"there is no directory {output.parent} to write {output.name} to")


@contextmanager
def new_bag(
    output: Path, sources: Sequence[Path], attributes: Mapping[str, Any], *, force: bool
) -> Iterator[BagWriter]:
    """A writer of a bag that takes its place under `output` by an atomic rename at the end of the block.

    When the block fails, nothing is left of it.

    `attributes` are those of the bag it is made from: description, host, custom data are taken over.

    Raises:
        BagExistsError, UsageError: see `check_output`.
        OSError: the disk refuses.
    """
    check_output(output, sources, force=force)
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    texts = {name: text for name, text in attributes.items() if isinstance(text, str)}
    custom = {name[len(CUSTOM) :]: text for name, text in texts.items() if name.startswith(CUSTOM)}
    try:
        writer = BagWriter(
            part, force=True, description=texts.get("description", ""), custom_data=custom, keep_tail=False
        )
        try:
            if "host" in texts:
                describe(writer.h5, host=texts["host"])
            if isinstance(attributes.get("created_ns"), (int, np.integer)):
                writer.h5.attrs["created_ns"] = np.int64(attributes["created_ns"])
            yield writer
            writer.close()
        except BaseException:
            writer.abort()
            raise
        _move(part, output, force=force)
    finally:
        for path in (part, *Sidecars(part).paths.values()):
            with suppress(FileNotFoundError):
                path.unlink()


def _move(part: Path, output: Path, *, force: bool) -> None:
    if force:
        replaced = Sidecars(output)
        if replaced.exist() and not replaced.lock():
            raise BagBusyError(f"{output} is being written by another process; choose another name")
        replaced.close()
        os.replace(part, output)
        # those of a recorder that died; they belonged to what was replaced
        for path in replaced.paths.values():
            path.unlink(missing_ok=True)
    else:
        try:
            # unlike a rename, a link never replaces what appeared meanwhile
            os.link(part, output)
        except FileExistsError:
            raise BagExistsError(f"{output} has appeared meanwhile; choose another name") from None
        part.unlink()
    sync_directory(output.parent)
