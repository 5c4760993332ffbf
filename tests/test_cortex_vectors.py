"""Every recorded fixture, in both directions: what we encode equals it, what we decode from it is right."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import types
from typing import Any

import numpy as np
import pytest
from vectors.loader import frames, load, same, to_python

from cortex import inline
from cortex.codec import TORCH_AVAILABLE
from cortex.discovery.protocol import (
    DiscoveryCommand,
    DiscoveryRequest,
    DiscoveryResponse,
    DiscoveryStatus,
    TopicInfo,
    unpack_document,
)
from cortex.discovery.registry import Registry
from cortex.errors import CodecError, CortexError
from cortex.fingerprint import compute_fingerprint
from cortex.messages import standard
from cortex.messages.base import Message, MessageHeader, MessageType
from cortex.paths import bindable_ipc_address, ipc_address, ipc_path

FINGERPRINTS = load("fingerprints")
MESSAGES = load("messages")["cases"]
RECEIVED = load("receive")["cases"]
SERIALIZED = load("serialize")
DISCOVERY = load("discovery")
ADDRESSES = load("ipc_addresses")

# Where the recorded sender loses data or sends what nobody can read, we differ on purpose; each has a test of its own.
REFUSED = {"int_too_big", "int_too_small", "dict_int_key", "dict_marker_key"}
IMPROVED = {"array_0d", "array_structured", "tensor_0d"}
# The recorded receiver is laxer than it need be; the protocol leaves that free.
STRICTER = {"shape_minus_one", "buffer_index_negative", "metadata_not_array", "metadata_is_string"}


def named(rows: list[dict[str, Any]], key: str = "name") -> list[Any]:
    return [pytest.param(row, id=row[key]) for row in rows]


def needs_torch(case: object) -> bool:
    return "$tensor" in repr(case)


def arguments(case: dict[str, Any]) -> dict[str, Any]:
    if needs_torch(case) and not TORCH_AVAILABLE:
        pytest.skip("needs torch")
    return {name: to_python(value) for name, value in case["args"].items()}


def build(case: dict[str, Any]) -> Message:
    return getattr(standard, case["type"])(**arguments(case))


@pytest.fixture
def frozen_clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda now: monkeypatch.setattr("cortex.messages.base.time", types.SimpleNamespace(time_ns=lambda: now))


# -- fingerprints and catalogue


@pytest.mark.parametrize("row", named(FINGERPRINTS["standard"], "class"))
def test_standard_class_has_its_fingerprint(row: dict[str, Any]) -> None:
    cls = getattr(standard, row["class"])
    assert cls.fingerprint() == compute_fingerprint(cls) == int(row["decimal"])


@pytest.mark.parametrize("row", named(FINGERPRINTS["standard"], "class"))
def test_class_derived_from_a_standard_one_hashes_its_parents_annotations(row: dict[str, Any]) -> None:
    parent = getattr(standard, row["class"])
    child = type("Child", (parent,), {"__module__": "m", "__qualname__": "Child"})
    fields = row["not_on_wire"]["canonical"].split("|", 1)[1]
    digest = hashlib.sha256(f"m.Child|{fields}".encode()).digest()
    assert compute_fingerprint(child) == int.from_bytes(digest[:8], "big")


@pytest.fixture(scope="module")
def custom_classes() -> Any:
    for name, source in FINGERPRINTS["custom_sources"].items():
        module = sys.modules[name] = types.ModuleType(name)
        exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)
    yield
    for name in FINGERPRINTS["custom_sources"]:
        del sys.modules[name]


@pytest.mark.parametrize("row", [pytest.param(r, id=f"{r['module']}.{r['qualname']}") for r in FINGERPRINTS["custom"]])
@pytest.mark.usefixtures("custom_classes")
def test_custom_class_has_its_fingerprint(row: dict[str, Any]) -> None:
    cls: Any = sys.modules[row["module"]]
    for part in row["qualname"].replace("factory.<locals>.", "").split("."):
        cls = getattr(cls, part)
    expected = row.get("python_3_14", row) if sys.version_info >= (3, 14) else row
    assert f"{cls.fingerprint():#018x}" == expected["fingerprint"]
    assert compute_fingerprint(cls) == cls.fingerprint()


@pytest.mark.parametrize("row", named(load("catalogue")["classes"], "class"))
def test_standard_class_has_its_fields_in_order(row: dict[str, Any]) -> None:
    fields = dataclasses.fields(getattr(standard, row["class"]))
    assert [f.name for f in fields] == [f["name"] for f in row["fields"]]
    assert [f.default for f in fields] == [f.get("default", dataclasses.MISSING) for f in row["fields"]]


# -- messages


@pytest.mark.parametrize("row", named(load("headers")["cases"], "hex"))
def test_header(row: dict[str, Any]) -> None:
    header = MessageHeader(int(row["fingerprint"], 16), int(row["timestamp_ns"]), int(row["sequence"]))
    assert header.to_bytes().hex() == row["hex"]
    assert MessageHeader.from_bytes(bytes.fromhex(row["hex"])) == header


@pytest.mark.parametrize("case", named([c for c in MESSAGES if c["name"] not in REFUSED and "frames" in c]))
def test_message_encodes_to_the_recorded_frames(case: dict[str, Any], frozen_clock: Any) -> None:
    message = build(case)
    frozen_clock(case["timestamp_ns"])
    sent = [bytes(frame).hex() for frame in message.to_frames(sequence=case["sequence"])]
    if case["name"] in IMPROVED:
        assert sent[0] == case["frames"][1]
        assert sent[1] != case["frames"][2]
    else:
        assert sent == case["frames"][1:]


@pytest.mark.parametrize("case", named([c for c in MESSAGES if c.get("decodes")]))
def test_recorded_frames_decode_to_the_message(case: dict[str, Any]) -> None:
    cls = getattr(standard, case["type"])
    expected = case["args"] | case.get("filled", {}) | case.get("decoded_differs", {})
    if needs_torch(case) and not TORCH_AVAILABLE:
        with pytest.raises(CodecError, match="install torch"):
            cls.from_frames(frames(case)[1:])
        return
    message, header = cls.from_frames(frames(case)[1:])
    assert (header.timestamp_ns, header.sequence) == (case["timestamp_ns"], case["sequence"])
    assert header.fingerprint == cls.fingerprint()
    for field in dataclasses.fields(cls):
        assert same(getattr(message, field.name), to_python(expected[field.name])), field.name


@pytest.mark.parametrize("case", named([c for c in MESSAGES if "filled" in c]))
def test_constructor_fills_the_remaining_fields(case: dict[str, Any]) -> None:
    message = build(case)
    assert all(same(getattr(message, name), to_python(value)) for name, value in case["filled"].items())


@pytest.mark.parametrize("case", named([c for c in MESSAGES if "inline" in c and c["name"] not in REFUSED]))
def test_message_encodes_to_the_recorded_blob(case: dict[str, Any], frozen_clock: Any) -> None:
    message = build(case)
    frozen_clock(case["timestamp_ns"])
    blob = message.to_bytes(sequence=case["sequence"]).hex()
    assert (blob == case["inline"]) is (case["name"] not in IMPROVED)


@pytest.mark.parametrize("case", named([c for c in MESSAGES if c.get("inline_decodes")]))
def test_recorded_blob_decodes_by_its_fingerprint(case: dict[str, Any]) -> None:
    cls = getattr(standard, case["type"])
    MessageType.register(cls)
    expected = case["args"] | case.get("filled", {}) | case.get("decoded_differs", {})
    if case["name"] == "array_structured":
        expected |= {"data": case["decoded_differs"]["data"]}
    if needs_torch(case) and not TORCH_AVAILABLE:
        with pytest.raises(CodecError, match="install torch"):
            Message.decode(bytes.fromhex(case["inline"]))
        return
    message, _ = Message.decode(bytes.fromhex(case["inline"]))
    assert type(message) is cls
    for field in dataclasses.fields(cls):
        assert same(getattr(message, field.name), to_python(expected[field.name])), field.name


@pytest.mark.parametrize("case", named([c for c in MESSAGES if c["name"] in REFUSED]))
def test_what_no_receiver_takes_is_refused_by_the_sender(case: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        build(case).to_frames()


@pytest.mark.parametrize("case", named([c for c in MESSAGES if "constructor_error" in c]))
@pytest.mark.skipif(not TORCH_AVAILABLE, reason="needs torch")
def test_constructor_refuses(case: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        build(case)


@pytest.mark.parametrize("case", named(RECEIVED))
def test_received_frames(case: dict[str, Any]) -> None:
    cls = getattr(standard, case["type"])
    parts = frames(case)[1:]
    if not case["accepted"] or case["name"] in STRICTER:
        assert case["required"] != "accept"
        with pytest.raises(ValueError, match=r"."):
            cls.from_parts(parts) if parts else cls.from_frames(parts)
        return
    message, header = cls.from_parts(parts)
    assert all(same(getattr(message, name), to_python(value)) for name, value in case["decoded"].items())
    if "header" in case:
        assert header.fingerprint == int(case["header"]["fingerprint"], 16)


# -- serialize()


@pytest.mark.parametrize("row", named(SERIALIZED["serialize"]))
def test_serialize(row: dict[str, Any]) -> None:
    data = bytes.fromhex(row["hex"])
    if needs_torch(row) and not TORCH_AVAILABLE:
        with pytest.raises(CodecError, match="install torch"):
            inline.deserialize(data)
        return
    value = to_python(row["value"])
    if row["name"] == "array_0d":
        assert inline.serialize(value).hex() == "0200" + "00033c6934" + "07000000"
    else:
        assert inline.serialize(value) == data
    back, used = inline.deserialize(data)
    assert used == row["consumed"]
    assert same(back, to_python(row.get("decoded", row["value"])))


@pytest.mark.parametrize("row", named([r for r in SERIALIZED["serialize_numpy"] if r["name"] != "array_0d"]))
def test_serialize_numpy(row: dict[str, Any]) -> None:
    value = to_python(row["value"])
    assert inline.serialize_numpy(value).hex() == row["hex"]
    back, used = inline.deserialize_numpy(bytes.fromhex(row["hex"]))
    assert used == len(row["hex"]) // 2
    assert same(back, value)


# -- discovery


def test_command_and_status_numbers() -> None:
    assert {c.name: c.value for c in DiscoveryCommand} == DISCOVERY["commands"]
    assert {s.name: s.value for s in DiscoveryStatus} == DISCOVERY["status"]


@pytest.mark.parametrize("row", DISCOVERY["encodings"]["TopicInfo"], ids=lambda r: r["decoded"]["name"] or "empty")
def test_topic_info(row: dict[str, Any]) -> None:
    info = TopicInfo(**row["decoded"])
    assert info.to_bytes().hex() == row["hex"]
    assert TopicInfo.from_bytes(bytes.fromhex(row["hex"])) == info


@pytest.mark.parametrize("row", DISCOVERY["encodings"]["responses"], ids=lambda r: r["hex"][:24])
def test_response(row: dict[str, Any]) -> None:
    response = DiscoveryResponse.from_bytes(bytes.fromhex(row["hex"]))
    assert response.to_bytes().hex() == row["hex"]
    assert response.status == row["decoded"]["status"]
    assert [info.name for info in response.topics or []] == [t["name"] for t in row["decoded"].get("topics", [])]


@pytest.mark.parametrize("row", named(DISCOVERY["client_side"]))
def test_client_takes_or_refuses_a_response(row: dict[str, Any]) -> None:
    data = bytes.fromhex(row["hex"])
    if row["client_accepts"]:
        assert not DiscoveryResponse.from_bytes(data).topics
    else:
        with pytest.raises(CodecError):
            DiscoveryResponse.from_bytes(data)


# Replies that mirror the laxness of the recorded daemon; ours answers ERROR and so has no such entry later.
LAX = {"command_as_float", "lookup_integer_name", "register_info_wrong_types", "lookup_wrong_types"}


def test_recorded_session_gets_the_recorded_answers() -> None:
    registry = Registry()
    for row in DISCOVERY["session"]:
        answer = unpack_document(registry.answer(bytes.fromhex(row["request"])))
        expected = unpack_document(bytes.fromhex(row["response"]))
        assert isinstance(answer.pop("message"), str)
        expected.pop("message")
        assert answer == expected or (row["step"] in LAX and answer["status"] != 0), row["step"]
    assert registry.shutting_down


# A reordered or bare request of the session means the same, but is not what we would write.
OTHER_SPELLING = {
    "ping_without_topic_name_key",
    "ping_extra_keys",
    "lookup_key_order",
    "register_info_reordered",
    "register_info_empty_bin",
}


def test_requests_of_the_session_are_written_as_recorded() -> None:
    written = 0
    for row in DISCOVERY["session"]:
        data = bytes.fromhex(row["request"])
        try:
            request = DiscoveryRequest.from_bytes(data)
        except CodecError:
            continue
        if row["step"] not in OTHER_SPELLING:
            assert request.to_bytes() == data, row["step"]
            written += 1
    assert written > 20


# -- addresses


@pytest.fixture
def default_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CORTEX_DIR", raising=False)


@pytest.mark.parametrize("row", ADDRESSES["cases"])
@pytest.mark.usefixtures("default_directory")
def test_address(row: dict[str, Any]) -> None:
    assert ipc_address(row["topic"], row["node"]) == row["address"]
    path = ipc_path(bindable_ipc_address(row["topic"], row["node"]))
    assert path is not None
    assert len(bytes(path)) <= ADDRESSES["path_limit_bytes"]
    assert str(path.parent) == "/tmp/cortex/topics"


@pytest.mark.parametrize("pair", ADDRESSES["collisions"])
@pytest.mark.usefixtures("default_directory")
def test_colliding_names_are_bound_apart(pair: list[list[str]]) -> None:
    (node_1, topic_1), (node_2, topic_2) = pair
    assert ipc_address(topic_1, node_1) == ipc_address(topic_2, node_2)
    assert bindable_ipc_address(topic_1, node_1) != bindable_ipc_address(topic_2, node_2)


def test_loader_notices_a_difference() -> None:
    assert not same(np.zeros(2, "<f4"), np.zeros(2, ">f4"))
    assert not same(-0.0, 0.0)
    assert issubclass(CodecError, CortexError)
