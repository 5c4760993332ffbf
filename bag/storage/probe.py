"""Lets a child process open a file first: on some damage HDF5 loops for ever or crashes, which no `except` can
catch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py

from bag.errors import BagError, IntegrityError
from bag.storage.damage import SYMPTOMS, reading
from bag.storage.guard import ask
from bag.storage.sidecars import Sidecars
from bag.storage.tree import open_bag_file

# a cold disk may be slow, but a walk through millions of chunks computes for less than this
TIMEOUT_S = 120.0
CPU_S = 5.0


@contextmanager
def untrusted(*paths: Path) -> Iterator[None]:
    """Read bags that come from anywhere: `probe` each, then turn what goes wrong into one sentence.

    Raises:
        IntegrityError: one is damaged.
    """
    for path in paths:
        probe(path)
    with ExitStack() as stack:
        stack.enter_context(reading(" or ".join(map(str, paths))))
        yield


def probe(path: Path) -> None:
    """Make sure that HDF5 survives what it meets in a file.

    A bag whose recorder died is left alone: until it is rolled forward, its structures need not be whole.

    Raises:
        IntegrityError: HDF5 crashes, hangs, or needs too much memory.
    """
    if not path.is_file() or Sidecars(path).exist():
        return
    if ask(lambda: _walk(path), timeout_s=TIMEOUT_S, cpu_s=CPU_S) is None:
        raise IntegrityError(
            f"{path} is damaged in a way that HDF5 does not survive; save what is whole with: cortex bag recover {path}"
        )


# everything that reading a bag touches, short of the messages; errors are for the real reader to tell
def _walk(path: Path) -> bool:
    try:
        with open_bag_file(path) as root:
            for name in root.attrs:
                _ = root.attrs.get(name)
            _visit(root, set())
    except (BagError, OSError, *SYMPTOMS):
        pass
    return True


def _visit(group: h5py.Group, seen: set[Any]) -> None:
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        try:
            node = group[name]
            place = h5py.h5o.get_info(node.id).addr
        except (OSError, *SYMPTOMS):
            continue
        if place in seen:
            continue
        seen.add(place)
        if isinstance(node, h5py.Group):
            _visit(node, seen)
        elif isinstance(node, h5py.Dataset) and node.chunks and not node.is_virtual and not node.external:
            node.id.get_num_chunks()
