"""The words between clients and the discovery daemon: one msgpack map each way; pure, no sockets.

`TopicInfo` is fixed for ever: other implementations reject any other set of keys.  What this implementation adds stands
in the outer maps, whose unknown keys everybody ignores, and only when the request asked with ``"extensions": 1``:

- ``notice``: address of the socket on which the daemon announces changes, absent when it has none;
- ``dead``: names of topics whose publisher no longer listens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from enum import IntEnum
from typing import Any, TypeVar

from cortex.arrays import Buffer
from cortex.codec import pack_document, unpack_document
from cortex.errors import CodecError
from cortex.paths import default_discovery_address

DEFAULT_DISCOVERY_ADDRESS = default_discovery_address()

T = TypeVar("T")
Code = TypeVar("Code", bound=IntEnum)


class DiscoveryCommand(IntEnum):
    """What a client asks for."""

    REGISTER_TOPIC = 1
    UNREGISTER_TOPIC = 2
    LOOKUP_TOPIC = 3
    LIST_TOPICS = 4
    PING = 5
    SHUTDOWN = 99


class DiscoveryStatus(IntEnum):
    """How it went."""

    OK = 0
    NOT_FOUND = 1
    ALREADY_EXISTS = 2
    ERROR = 3


@dataclass(frozen=True)
class TopicInfo:
    """One publisher of one topic.

    Attributes:
        name: topic name.
        address: ZeroMQ address at which its publisher is bound.
        message_type: bare class name of its messages, informative.
        fingerprint: 64-bit fingerprint of that class.
        publisher_node: name of the node that owns the topic.
    """

    name: str
    address: str
    message_type: str
    fingerprint: int
    publisher_node: str

    def to_bytes(self) -> bytes:
        """Return the msgpack document of exactly five keys."""
        return pack_document(dict(zip(_INFO_KEYS, astuple(self), strict=True)))

    @classmethod
    def from_bytes(cls, data: Buffer) -> TopicInfo:
        """Read such a document.  Raises CodecError for other keys or value types."""
        document = _document(data)
        if document.keys() != set(_INFO_KEYS):
            raise CodecError(f"A topic entry has the keys {', '.join(_INFO_KEYS)}; these came: {_listed(document)}.")
        info = cls(**document)
        texts = (info.name, info.address, info.message_type, info.publisher_node)
        if not all(isinstance(text, str) for text in texts) or type(info.fingerprint) is not int:
            raise CodecError("A topic entry holds four strings and an integer fingerprint; this one does not.")
        return info


_INFO_KEYS = tuple(field.name for field in fields(TopicInfo))


@dataclass
class DiscoveryRequest:
    """What a client sends.

    Attributes:
        command: what to do.
        topic_info: the entry to register.
        topic_name: the topic to look up or unregister.
        extensions: 1 asks for the additions of this implementation, 0 for the bare protocol.
    """

    command: DiscoveryCommand
    topic_info: TopicInfo | None = None
    topic_name: str | None = None
    extensions: int = 0

    def to_bytes(self) -> bytes:
        """Return the msgpack map."""
        document: dict[str, object] = {"command": int(self.command), "topic_name": self.topic_name}
        if self.topic_info is not None:
            document["topic_info"] = self.topic_info.to_bytes()
        if self.extensions:
            document["extensions"] = self.extensions
        return pack_document(document)

    @classmethod
    def from_bytes(cls, data: Buffer) -> DiscoveryRequest:
        """Read such a map; unknown keys are ignored.  Raises CodecError when it is malformed."""
        document = _document(data)
        return cls(
            command=_member(DiscoveryCommand, document.get("command")),
            topic_info=_optional(document, "topic_info", bytes, TopicInfo.from_bytes),
            topic_name=_optional(document, "topic_name", str, str),
            extensions=1 if document.get("extensions") == 1 else 0,
        )


@dataclass
class DiscoveryResponse:
    """What the daemon answers.

    Attributes:
        status: how it went.
        message: free text for people.
        topic_info: the entry that was looked up.
        topics: all entries in order of first registration, or None for none.
        notice: address of the daemon's change announcements (extension).
        dead: names of topics whose publisher no longer listens (extension).
    """

    status: DiscoveryStatus
    message: str = ""
    topic_info: TopicInfo | None = None
    topics: list[TopicInfo] | None = None
    notice: str | None = None
    dead: list[str] | None = None

    def to_bytes(self) -> bytes:
        """Return the msgpack map; what is empty is left out."""
        document: dict[str, object] = {"status": int(self.status), "message": self.message}
        if self.topic_info is not None:
            document["topic_info"] = self.topic_info.to_bytes()
        if self.topics:
            document["topics"] = [info.to_bytes() for info in self.topics]
        if self.notice is not None:
            document["notice"] = self.notice
        if self.dead is not None:
            document["dead"] = self.dead
        return pack_document(document)

    @classmethod
    def from_bytes(cls, data: Buffer) -> DiscoveryResponse:
        """Read such a map; unknown keys are ignored.  Raises CodecError when it is malformed."""
        document = _document(data)
        return cls(
            status=_member(DiscoveryStatus, document.get("status")),
            message=_optional(document, "message", str, str) or "",
            topic_info=_optional(document, "topic_info", bytes, TopicInfo.from_bytes),
            topics=_optional(document, "topics", list, lambda items: [_entry(item) for item in items]) or None,
            notice=_optional(document, "notice", str, str),
            dead=_optional(document, "dead", list, lambda items: [str(item) for item in items]),
        )


@dataclass(frozen=True)
class DiscoverySnapshot:
    """What a daemon knows at one moment.

    Attributes:
        topics: all entries in order of first registration.
        dead: names of topics whose publisher no longer listens.
        notice_address: where the daemon announces changes, or None when it does not.
    """

    topics: tuple[TopicInfo, ...]
    dead: frozenset[str]
    notice_address: str | None


# -- private


def _document(data: Buffer) -> dict[str, Any]:
    document = unpack_document(data)
    if not isinstance(document, dict):
        raise CodecError(f"A discovery message is a map, this one is {type(document).__name__}.")
    return document


def _member(kind: type[Code], number: object) -> Code:
    try:
        if type(number) is int:
            return kind(number)
    except ValueError:
        pass
    raise CodecError(f"{number!r:.50} is not a {kind.__name__}.")


def _optional(document: dict[str, Any], key: str, kind: type, read: Callable[[Any], T]) -> T | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, kind):
        raise CodecError(f"The value of {key!r} is {type(value).__name__} where {kind.__name__} belongs.")
    return read(value)


def _entry(item: object) -> TopicInfo:
    if not isinstance(item, bytes):
        raise CodecError("A topic entry is not binary.")
    return TopicInfo.from_bytes(item)


def _listed(document: dict[Any, Any]) -> str:
    return ", ".join(map(str, document)) or "none"
