"""Where topics stand in the HDF5 tree: at their own name, or beside it when something else is there already."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import h5py

from bag.storage.layout import BOOK, topic_path


def free_name(group: h5py.Group, name: str) -> str:
    """`name`, or the first of `name~2`, `name~3`... that is not taken in the group."""
    return next(candidate for candidate in _candidates(name) if candidate not in group)


def topic_group(root: h5py.Group, topic: str) -> h5py.Group:
    """Make the group of a topic; `/a` and `/a/data` both find a place, whatever fields `/a` has."""
    *parents, last = topic_path(topic).strip("/").split("/")
    group = root
    for part in parents:
        group = _parent(group, part)
    existing = group.get(last)
    # a group made only as the parent of a longer topic becomes the shorter topic's own
    if isinstance(existing, h5py.Group) and "topic" not in existing.attrs and not _is_book(existing):
        return existing
    return group.create_group(free_name(group, last))


def _parent(group: h5py.Group, part: str) -> h5py.Group:
    for candidate in _candidates(part):
        child = group.get(candidate)
        if child is None:
            return group.create_group(candidate)
        if isinstance(child, h5py.Group) and not _is_book(child):
            return child
    raise AssertionError("unreachable: candidates never end")


def _candidates(name: str) -> Iterator[str]:
    yield name
    for number in count(2):
        yield f"{name}~{number}"


def _is_book(group: h5py.Group) -> bool:
    return bool(group.name == f"/{BOOK}")
