"""The places of a replay: under which name, node and address each recorded channel is published again.

A bag is untrusted input. Every place is looked at before the first one is taken, so that a hostile bag is refused with
nothing touched: only sockets in Cortex's topic directory are bound, whatever the bag says.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from bag.errors import ReplayError, UsageError
from bag.options import PlayOptions
from bag.records import Channel
from cortex.discovery.client import DiscoveryClient
from cortex.discovery.protocol import TopicInfo
from cortex.paths import MAX_IPC_PATH, bindable_ipc_address, ipc_path, topics_dir
from cortex.probe import is_live

WAYS_OUT = "stop that node, leave the topic out (--exclude-topics), or give it another name (--remap, --prefix)"
# longer names are no names; discovery and every list of topics would carry them
MAX_NAME_BYTES = 4096
MAX_PLACES = 10_000


class Renaming:
    """Gives channels the names and addresses they are played under.

    Args:
        options: of the replay.
        topics: all recorded topics that are played.

    Raises:
        UsageError: a remapped topic is not among them, or two topics would get one name.
    """

    def __init__(self, options: PlayOptions, topics: Iterable[str]) -> None:
        known = list(dict.fromkeys(topics))
        self._relocate = options.relocate
        self._new = dict(options.remap)
        for old, new in self._new.items():
            if old not in known:
                raise UsageError(f"--remap {old}:={new}: topic {old} is not played; played are: {', '.join(known)}")
        self._prefix = options.prefix
        taken: dict[str, str] = {}
        for topic in known:
            other = taken.setdefault(self.topic(topic), topic)
            if other != topic:
                raise UsageError(
                    f"{other} and {topic} would both be played as {self.topic(topic)}; give one of them another name"
                )

    def topic(self, recorded: str) -> str:
        """The name a recorded topic is played under."""
        return self._prefix + self._new.get(recorded, recorded)

    def place(self, channel: Channel) -> TopicInfo:
        """The registry entry and address a channel is played under.

        Raises:
            CortexError: no socket can be bound under these names.
        """
        topic = self.topic(channel.topic)
        address = channel.address
        if topic != channel.topic or (self._relocate and _fault(address) is not None):
            address = bindable_ipc_address(topic, channel.node)
        return TopicInfo(topic, address, channel.type_name, channel.fingerprint, channel.node)


def require_harmless(places: Sequence[TopicInfo]) -> None:
    """Look at every place before any is taken.

    Raises:
        ReplayError: a place may not be taken, or two topics claim one address.
    """
    if len(places) > MAX_PLACES:
        raise ReplayError(f"the bags have {len(places)} publishers; more than {MAX_PLACES} are not played at once")
    owners: dict[str, str] = {}
    for place in places:
        if (
            max(map(len, (place.name.encode(), place.publisher_node.encode(), place.message_type.encode())))
            > MAX_NAME_BYTES
        ):
            raise ReplayError(
                f"topic {place.name[:60]!r}... has a name longer than {MAX_NAME_BYTES} bytes; leave it out with -x"
            )
        fault = _fault(place.address)
        if fault is not None:
            raise ReplayError(
                f"topic {place.name!r} asks for the address {place.address!r}, {fault}; "
                f"--relocate plays it from {topics_dir()}, --exclude-topics leaves it out"
            )
        other = owners.setdefault(place.address, place.name)
        if other != place.name:
            raise ReplayError(
                f"topics {other!r} and {place.name!r} claim the same address {place.address}; "
                f"leave one out with --exclude-topics, or move it with --remap"
            )


def require_free(client: DiscoveryClient, places: Sequence[TopicInfo]) -> None:
    """Make sure that nobody lives in any of the places; what a crashed node left at discovery is removed.

    Raises:
        ReplayError: a live node publishes there.
        DiscoveryUnavailableError: no daemon answers.
    """
    listed = client.snapshot().topics
    by_topic = {info.name: info for info in listed}
    by_address = {info.address: info for info in listed}
    for place in places:
        owner = by_topic.get(place.name)
        if owner is not None and is_live(owner.address) is not False:
            raise _taken(place, owner)
        if is_live(place.address):
            raise _taken(place, by_address.get(place.address))
    for place in places:
        owner = by_topic.get(place.name)
        if owner is not None and owner.publisher_node != place.publisher_node:
            # the daemon would refuse us in favour of the dead
            client.unregister_own(owner)


def _taken(place: TopicInfo, owner: TopicInfo | None) -> ReplayError:
    if owner is None:
        reason = f"a process that discovery does not list is alive at {place.address}"
    else:
        reason = f"node {owner.publisher_node} is alive and publishes {owner.name} at {owner.address}"
    return ReplayError(f"{place.name} cannot be played as node {place.publisher_node}: {reason}; {WAYS_OUT}")


# why an address may not be bound, or None
def _fault(address: str) -> str | None:
    path = ipc_path(address)
    if path is None:
        return "which is no socket file"
    if "\0" in address or len(os.fsencode(path)) > MAX_IPC_PATH:
        return f"which is no path of at most {MAX_IPC_PATH} bytes"
    allowed = topics_dir().absolute()
    if ".." in path.parts or not path.is_relative_to(allowed) or path == allowed:
        return f"which is outside the topic directory {allowed}"
    return _fault_of_parents(path, allowed) or _fault_of_file(path)


def _fault_of_parents(path: Path, allowed: Path) -> str | None:
    # links above the topic directory are the administrator's, those below it somebody else's
    for parent in path.parents:
        if parent == allowed:
            return None
        if parent.is_symlink():
            return f"which leads through the symbolic link {parent}"
    return None


def _fault_of_file(path: Path) -> str | None:
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(mode):
        return f"where {path} is a symbolic link"
    return None if stat.S_ISSOCK(mode) else f"where {path} is no socket"
