"""The protocol's words and the registry's answers, without sockets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.codec import pack_document, unpack_document
from cortex.discovery.protocol import (
    DiscoveryCommand,
    DiscoveryRequest,
    DiscoveryResponse,
    DiscoveryStatus,
    TopicInfo,
)
from cortex.discovery.registry import Registry
from cortex.errors import CodecError

A = TopicInfo("/a", "ipc:///x/a", "StringMessage", 2**64 - 1, "node")
B = TopicInfo("/b", "ipc:///x/b", "IntMessage", 0, "node")


def ask(registry: Registry, command: DiscoveryCommand, **fields: Any) -> DiscoveryResponse:
    data = DiscoveryRequest(command, **fields).to_bytes()
    return DiscoveryResponse.from_bytes(registry.answer(data))


def register(registry: Registry, info: TopicInfo) -> DiscoveryStatus:
    return ask(registry, DiscoveryCommand.REGISTER_TOPIC, topic_info=info).status


# -- words

infos = st.builds(TopicInfo, st.text(), st.text(), st.text(), st.integers(0, 2**64 - 1), st.text())


@given(infos)
def test_topic_info_round_trip(info: TopicInfo) -> None:
    assert TopicInfo.from_bytes(info.to_bytes()) == info
    assert list(unpack_document(info.to_bytes())) == [
        "name",
        "address",
        "message_type",
        "fingerprint",
        "publisher_node",
    ]


@given(st.sampled_from(DiscoveryCommand), st.none() | infos, st.none() | st.text(), st.sampled_from([0, 1]))
def test_request_round_trip(
    command: DiscoveryCommand, info: TopicInfo | None, name: str | None, extensions: int
) -> None:
    request = DiscoveryRequest(command, info, name, extensions)
    assert DiscoveryRequest.from_bytes(request.to_bytes()) == request


responses = st.builds(
    DiscoveryResponse,
    st.sampled_from(DiscoveryStatus),
    st.text(),
    st.none() | infos,
    st.none() | st.lists(infos, min_size=1, max_size=3),
    st.none() | st.text(),
    st.none() | st.lists(st.text(), max_size=3),
)


@given(responses)
def test_response_round_trip(response: DiscoveryResponse) -> None:
    assert DiscoveryResponse.from_bytes(response.to_bytes()) == response


def test_extensions_are_absent_unless_asked_for() -> None:
    assert "extensions" not in unpack_document(DiscoveryRequest(DiscoveryCommand.LIST_TOPICS).to_bytes())
    assert set(unpack_document(DiscoveryResponse(DiscoveryStatus.OK, topics=[]).to_bytes())) == {"status", "message"}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"command": 6},
        {"command": True},
        {"command": 5.0},
        {"command": "5"},
        {"command": 2**63},
        {"command": 5, "topic_name": 7},
        {"command": 5, "topic_name": ["a"]},
        {"command": 1, "topic_info": {"name": "x"}},
        {"command": 1, "topic_info": b""},
        {"command": 1, "topic_info": pack_document({"name": "x"})},
        {"command": 1, "topic_info": pack_document([1])},
        [],
        5,
        None,
    ],
    ids=repr,
)
def test_malformed_request_is_answered_with_an_error(document: Any) -> None:
    data = pack_document(document)
    with pytest.raises(CodecError):
        DiscoveryRequest.from_bytes(data)
    assert unpack_document(Registry().answer(data))["status"] == DiscoveryStatus.ERROR


@pytest.mark.parametrize("changes", [{"address": None}, {"fingerprint": "x"}, {"fingerprint": True}, {"host": "h"}])
def test_malformed_topic_info_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        TopicInfo.from_bytes(pack_document(unpack_document(A.to_bytes()) | changes))


@given(st.binary(max_size=60))
def test_random_bytes_get_an_error_and_change_nothing(data: bytes) -> None:
    registry = Registry()
    answer = unpack_document(registry.answer(data))
    assert answer["status"] in (DiscoveryStatus.ERROR, DiscoveryStatus.OK)
    assert registry.topics == ()


def test_an_error_text_stays_short() -> None:
    document = unpack_document(Registry().answer(pack_document({"command": "x" * 100_000})))
    assert len(document["message"]) <= 500


@pytest.mark.parametrize(
    "document",
    [{"status": 0, "topics": [A.to_bytes(), b""]}, {"status": 0, "topics": ["x"]}, {"status": 0, "topics": 5}, [0]],
    ids=repr,
)
def test_malformed_response_is_refused(document: Any) -> None:
    with pytest.raises(CodecError):
        DiscoveryResponse.from_bytes(pack_document(document))


# -- answers


def test_entry_of_the_same_node_is_replaced_in_place() -> None:
    registry = Registry()
    moved = TopicInfo("/a", "ipc:///elsewhere", "IntMessage", 5, "node")
    assert [register(registry, info) for info in (A, B, moved)] == [DiscoveryStatus.OK] * 3
    assert registry.topics == (moved, B)


def test_entry_of_another_node_is_left_alone() -> None:
    registry = Registry()
    register(registry, A)
    thief = TopicInfo("/a", "ipc:///thief", "StringMessage", 1, "thief")
    response = ask(registry, DiscoveryCommand.REGISTER_TOPIC, topic_info=thief)
    assert response.status is DiscoveryStatus.ALREADY_EXISTS
    assert "node" in response.message
    assert registry.topics == (A,)


def test_revision_counts_changes_and_nothing_else() -> None:
    registry = Registry()
    seen = []
    for step in (
        lambda: register(registry, A),
        lambda: register(registry, A),
        lambda: register(registry, TopicInfo("/a", "x", "x", 1, "other")),
        lambda: ask(registry, DiscoveryCommand.LIST_TOPICS),
        lambda: ask(registry, DiscoveryCommand.UNREGISTER_TOPIC, topic_name="/nope"),
        lambda: ask(registry, DiscoveryCommand.UNREGISTER_TOPIC, topic_name="/a"),
    ):
        step()
        seen.append(registry.revision)
    assert seen == [1, 2, 2, 2, 2, 3]


def test_list_tells_more_only_to_those_who_ask() -> None:
    asked: list[int] = []

    def find_dead(topics: Any) -> list[str]:
        asked.append(len(tuple(topics)))
        return ["/b"]

    registry = Registry(notice="ipc:///n", find_dead=find_dead)
    register(registry, A)
    register(registry, B)
    plain = unpack_document(registry.answer(DiscoveryRequest(DiscoveryCommand.LIST_TOPICS).to_bytes()))
    assert set(plain) == {"status", "message", "topics"}
    assert asked == []
    full = ask(registry, DiscoveryCommand.LIST_TOPICS, extensions=1)
    assert (full.notice, full.dead, full.topics) == ("ipc:///n", ["/b"], [A, B])
    assert asked == [2]


def test_shutdown_is_noted_and_answered() -> None:
    registry = Registry()
    assert ask(registry, DiscoveryCommand.SHUTDOWN).status is DiscoveryStatus.OK
    assert registry.shutting_down


def test_names_of_the_package() -> None:
    import cortex.discovery as discovery

    assert all(hasattr(discovery, name) for name in discovery.__all__)
    with pytest.raises(AttributeError):
        _ = discovery.nonsense
