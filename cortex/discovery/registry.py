"""What the daemon knows and how it answers: a state machine over requests, without sockets, clock or threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cortex.discovery.protocol import DiscoveryCommand, DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, TopicInfo
from cortex.errors import CodecError

_LONGEST_TEXT = 500

FindDead = Callable[[Iterable[TopicInfo]], "list[str]"]


class Registry:
    """The topics of one daemon, in order of first registration.

    Args:
        notice: address of the daemon's change announcements, told to clients that ask with extensions.
        find_dead: names those topics whose publisher no longer listens; asked only by such clients.

    Attributes:
        revision: counts the changes; whoever remembers it sees whether anything happened.
        shutting_down: a client asked the daemon to end.
    """

    def __init__(self, *, notice: str | None = None, find_dead: FindDead = lambda _: []) -> None:
        self.revision = 0
        self.shutting_down = False
        self._notice = notice
        self._find_dead = find_dead
        self._topics: dict[str, TopicInfo] = {}
        self._handlers: dict[DiscoveryCommand, Callable[[DiscoveryRequest], DiscoveryResponse]] = {
            DiscoveryCommand.REGISTER_TOPIC: self._register,
            DiscoveryCommand.UNREGISTER_TOPIC: self._unregister,
            DiscoveryCommand.LOOKUP_TOPIC: self._lookup,
            DiscoveryCommand.LIST_TOPICS: self._list,
            DiscoveryCommand.PING: lambda _: DiscoveryResponse(DiscoveryStatus.OK, "pong"),
            DiscoveryCommand.SHUTDOWN: self._shutdown,
        }

    @property
    def topics(self) -> tuple[TopicInfo, ...]:
        """All entries in order of first registration."""
        return tuple(self._topics.values())

    def answer(self, data: bytes) -> bytes:
        """Answer one request; whatever the bytes are, there is an answer."""
        try:
            request = DiscoveryRequest.from_bytes(data)
        except CodecError as err:
            return DiscoveryResponse(DiscoveryStatus.ERROR, str(err)[:_LONGEST_TEXT]).to_bytes()
        return self.handle(request).to_bytes()

    def handle(self, request: DiscoveryRequest) -> DiscoveryResponse:
        """Do what a request asks for."""
        return self._handlers[request.command](request)

    def _register(self, request: DiscoveryRequest) -> DiscoveryResponse:
        info = request.topic_info
        if info is None:
            return DiscoveryResponse(DiscoveryStatus.ERROR, "Registering needs a topic_info.")
        current = self._topics.get(info.name)
        if current is not None and current.publisher_node != info.publisher_node:
            text = f"Topic {info.name} belongs to node {current.publisher_node}."
            return DiscoveryResponse(DiscoveryStatus.ALREADY_EXISTS, text)
        self._topics[info.name] = info
        self.revision += 1
        return DiscoveryResponse(DiscoveryStatus.OK)

    def _unregister(self, request: DiscoveryRequest) -> DiscoveryResponse:
        name = request.topic_name or (request.topic_info.name if request.topic_info else "")
        if not name:
            return DiscoveryResponse(DiscoveryStatus.ERROR, "Unregistering needs a topic name.")
        if self._topics.pop(name, None) is None:
            return _not_found(name)
        self.revision += 1
        return DiscoveryResponse(DiscoveryStatus.OK)

    def _lookup(self, request: DiscoveryRequest) -> DiscoveryResponse:
        name = request.topic_name
        if not name:
            return DiscoveryResponse(DiscoveryStatus.ERROR, "A lookup needs a topic name.")
        info = self._topics.get(name)
        return _not_found(name) if info is None else DiscoveryResponse(DiscoveryStatus.OK, topic_info=info)

    def _list(self, request: DiscoveryRequest) -> DiscoveryResponse:
        response = DiscoveryResponse(DiscoveryStatus.OK, topics=list(self.topics))
        if request.extensions:
            response.notice = self._notice
            response.dead = self._find_dead(self.topics)
        return response

    def _shutdown(self, _: DiscoveryRequest) -> DiscoveryResponse:
        self.shutting_down = True
        return DiscoveryResponse(DiscoveryStatus.OK)


def _not_found(name: str) -> DiscoveryResponse:
    return DiscoveryResponse(DiscoveryStatus.NOT_FOUND, f"Topic {name} is not registered.")
