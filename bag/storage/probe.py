"""Lets a child process open a file first: on some damage HDF5 loops for ever or crashes, which no `except` can
catch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
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
# to read and write what a recorder that died had not yet committed
ROLL_FORWARD_CPU_S = 30.0


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

    A bag whose recorder died is brought to its last message there, too, which can be interrupted anywhere. One that is
    being written is left alone: its structures are only whole as of its last commit.

    Raises:
        IntegrityError: HDF5 crashes, hangs, or needs too much memory.
    """
    if not path.is_file():
        return
    sidecars = Sidecars(path)
    if sidecars.exist():
        if not sidecars.is_busy():
            _insist(path, lambda: _finish(path), ROLL_FORWARD_CPU_S)
        if sidecars.exist():
            return
    _insist(path, lambda: _walk(path), CPU_S)


def _insist(path: Path, question: Callable[[], bool], cpu_s: float) -> None:
    if ask(question, timeout_s=TIMEOUT_S, cpu_s=cpu_s) is None:
        raise IntegrityError(
            f"{path} is damaged in a way that HDF5 does not survive; save what is whole with: cortex bag recover {path}"
        )


def _finish(path: Path) -> bool:
    from bag.storage.resume import roll_forward

    # what it has to say is for the real reader to tell
    logging.disable()
    with suppress(BagError, OSError, *SYMPTOMS):
        roll_forward(path)
    return True


# everything that reading a bag touches, short of the messages; errors are for the real reader to tell
def _walk(path: Path) -> bool:
    try:
        with open_bag_file(path) as root:
            for name in root.attrs:
                _ = root.attrs.get(name)
            _visit(root)
    except (BagError, OSError, *SYMPTOMS):
        pass
    return True


def _visit(root: h5py.File) -> None:
    # without h5py's objects around each handle: a bag of 200 topics has 800 datasets
    waiting, seen = [root.id], set[Any]()
    while waiting:
        place = waiting.pop()
        for name in _hard_links(place):
            try:
                node = h5py.h5o.open(place, name)
                if isinstance(node, h5py.h5d.DatasetID):
                    _count_chunks(node)
                elif isinstance(node, h5py.h5g.GroupID) and (address := h5py.h5o.get_info(node).addr) not in seen:
                    # links may lead in a circle
                    seen.add(address)
                    waiting.append(node)
            except (OSError, *SYMPTOMS):
                continue


# as in the rest of the walk, errors are for the real reader to tell
def _hard_links(group: Any) -> list[bytes]:
    found: list[bytes] = []

    def keep(name: bytes, info: Any) -> None:
        if info.type == h5py.h5l.TYPE_HARD:
            found.append(name)

    try:
        group.links.iterate(keep, info=True)
    except (OSError, *SYMPTOMS):
        pass
    return found


def _count_chunks(dataset: Any) -> None:
    if dataset.get_create_plist().get_layout() == h5py.h5d.CHUNKED:
        dataset.get_num_chunks()
