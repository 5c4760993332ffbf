"""Where things stand in the HDF5 tree: at their own name, or beside it when something else is there already."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import h5py

from bag.records import Channel, Schema
from bag.storage.layout import BOOK, topic_path
from bag.storage.tree import TOPIC_ATTRIBUTE, child, describe


def free_name(group: h5py.Group, name: str, *suffixes: str) -> str:
    """`name`, or the first of `name~2`, `name~3`... that is not taken, neither alone nor with a suffix behind it."""
    names = (candidate for candidate in _candidates(name))
    return next(free for free in names if all(free + suffix not in group for suffix in ("", *suffixes)))


def topic_group(root: h5py.Group, channel: Channel, schema: Schema | None) -> h5py.Group:
    """Make and describe the group of a channel's topic; `/a` and `/a/data` both find a place, whatever fields `/a` has.

    `schema` is that of the channel's type, if known.
    """
    *parents, last = topic_path(channel.topic).strip("/").split("/")
    group = root
    for part in parents:
        group = _group_at(group, part)
    group = _group_at(group, last, unowned=True)
    describe(
        group,
        topic=channel.topic,
        type=channel.type_name,
        fingerprint=f"0x{channel.fingerprint:016x}",
        node=channel.node,
        address=channel.address,
    )
    if schema is not None:
        describe(group, fields=", ".join(f"{item.name}: {item.annotation}" for item in schema.fields))
    return group


# a group made only as the parent of a longer topic may become the shorter topic's own
def _group_at(parent: h5py.Group, name: str, *, unowned: bool = False) -> h5py.Group:
    for candidate in _candidates(name):
        if candidate not in parent:
            return parent.create_group(candidate)
        group = child(parent, candidate)
        if not isinstance(group, h5py.Group) or group.name == f"/{BOOK}":
            continue
        if not unowned or TOPIC_ATTRIBUTE not in group.attrs:
            return group
    raise AssertionError("unreachable: candidates never end")


def _candidates(name: str) -> Iterator[str]:
    yield name
    for number in count(2):
        yield f"{name}~{number}"
