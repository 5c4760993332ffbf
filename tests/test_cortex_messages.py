"""Message classes: the registry, both forms, and what happens to foreign values."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import zmq
from vectors.loader import same

from cortex.errors import CodecError, WireError
from cortex.messages.base import Message, MessageHeader, MessageType
from cortex.messages.standard import (
    ArrayMessage,
    DictMessage,
    ImageMessage,
    PointCloudMessage,
    StringMessage,
    TimestampMessage,
)
from cortex.utils.hashing import clear_fingerprint_cache


@pytest.fixture
def emptied_registry() -> Iterator[None]:
    saved = MessageType.get_all()
    MessageType.clear()
    clear_fingerprint_cache()
    yield
    MessageType.clear()
    for cls in saved.values():
        MessageType.register(cls)


@pytest.mark.usefixtures("emptied_registry")
def test_after_clearing_new_classes_are_found_and_old_ones_still_work() -> None:
    @dataclass
    class Fresh(Message):
        x: int

    assert MessageType.get(Fresh.fingerprint()) is Fresh
    assert Message.decode(Fresh(3).to_bytes())[0] == Fresh(3)
    assert StringMessage.from_bytes(StringMessage("a").to_bytes())[0] == StringMessage("a")
    with pytest.raises(ValueError, match="import its module"):
        Message.decode(StringMessage("a").to_bytes())


def test_registry_copy_is_a_copy() -> None:
    MessageType.get_all().clear()
    assert MessageType.get(StringMessage.fingerprint()) is StringMessage
    assert MessageType.get(1) is None


@pytest.mark.usefixtures("emptied_registry")
def test_later_class_of_the_same_name_replaces_the_earlier() -> None:
    def define() -> type[Message]:
        class Same(Message):
            pass

        return Same

    first, second = define(), define()
    assert first.fingerprint() == second.fingerprint()
    assert MessageType.get(first.fingerprint()) is second


def test_frames_are_header_metadata_and_a_buffer_per_array() -> None:
    message = PointCloudMessage(np.ones((4, 3), "<f4"), intensity=np.zeros(4))
    frames = message.to_frames(sequence=7)
    assert [len(bytes(f)) for f in frames] == [24, len(bytes(frames[1])), 48, 32]
    header = MessageHeader.from_bytes(frames[0])
    assert (header.fingerprint, header.sequence) == (PointCloudMessage.fingerprint(), 7)
    received, again = PointCloudMessage.from_frames([zmq.Frame(bytes(f)) for f in frames])
    assert again == header
    assert same(received.points, message.points)
    assert received.colors is None


def test_own_counter_starts_at_zero_and_belongs_to_the_class() -> None:
    @dataclass
    class One(Message):
        x: int = 0

    @dataclass
    class Other(One):
        pass

    def sequence(message: Message) -> int:
        return MessageHeader.from_bytes(message.to_frames()[0]).sequence

    assert [sequence(One()), sequence(One()), sequence(Other()), sequence(One())] == [0, 1, 0, 2]
    assert MessageHeader.from_bytes(One().to_bytes()).sequence == 3


def test_counter_gives_every_number_once_to_many_threads() -> None:
    @dataclass
    class Counted(Message):
        pass

    seen: list[int] = []

    def take() -> None:
        for _ in range(500):
            seen.append(MessageHeader.from_bytes(Counted().to_frames()[0]).sequence)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(2000))


@pytest.mark.parametrize("frames", [[], [bytes(24)]])
def test_too_few_frames_are_a_value_error(frames: list[bytes]) -> None:
    with pytest.raises(ValueError, match="at least 2 frames"):
        StringMessage.from_frames(frames)


@pytest.mark.parametrize("metadata", [b"\x90", b"\x92\xa1a\xa1b"])
def test_wrong_number_of_values_is_a_value_error(metadata: bytes) -> None:
    with pytest.raises(ValueError, match="has 1 fields but"):
        StringMessage.from_frames([bytes(24), metadata])
    with pytest.raises(ValueError, match="has 1 fields but"):
        StringMessage.from_bytes(bytes(24) + b"\x05" + len(metadata).to_bytes(4, "big") + metadata)


def test_short_header_is_a_value_error() -> None:
    with pytest.raises(WireError):
        StringMessage.from_frames([bytes(23), b"\x91\xa1a"])
    with pytest.raises(ValueError, match="too short"):
        Message.decode(b"")


def test_parts_of_either_form_are_taken() -> None:
    message = ArrayMessage(np.arange(3), "n")
    for parts in ([message.to_bytes(1)], message.to_frames(1)):
        received, header = ArrayMessage.from_parts(parts)
        assert same(received.data, message.data)
        assert header.sequence == 1


def test_defaults_are_not_applied_to_missing_values() -> None:
    with pytest.raises(CodecError):
        ArrayMessage.from_frames([bytes(24), b"\x91\xc0"])


def test_constructor_that_refuses_received_values_is_a_decoding_error() -> None:
    @dataclass
    class Picky(Message):
        x: int

        def __post_init__(self) -> None:
            if self.x < 0:
                raise RuntimeError("negative")

    frames = Picky(5).to_frames()
    frames[1] = b"\x91\xff"
    with pytest.raises(CodecError, match="Picky refuses the received values: negative"):
        Picky.from_frames(frames)


def test_odd_dataclasses_round_trip() -> None:
    @dataclass
    class KeywordOnly(Message):
        x: int = 0
        y: int = field(kw_only=True, default=1)

    @dataclass
    class Computed(Message):
        x: int
        double: int = field(init=False)

        def __post_init__(self) -> None:
            self.double = 2 * self.x

    @dataclass(slots=True)
    class Slots(Message):
        x: int
        late: int = field(init=False, default=4)

    class Bare(Message):
        pass

    for message in (KeywordOnly(1, y=5), Computed(3), Slots(2), Bare()):
        assert type(message).from_frames(message.to_frames())[0] == message
        assert type(message).from_bytes(message.to_bytes())[0] == message


def test_message_inside_a_message_is_refused() -> None:
    with pytest.raises(CodecError, match="type StringMessage"):
        DictMessage({"inner": StringMessage("a")}).to_frames()


def test_blob_with_a_reserved_key_is_still_readable() -> None:
    message = DictMessage({"__cortex_oob__": "mine"})
    assert DictMessage.from_bytes(message.to_bytes())[0] == message


@pytest.mark.parametrize(
    ("data", "given", "size"),
    [
        (np.zeros((2, 4, 3), "u1"), {}, (4, 2)),
        (np.zeros((2, 4), "u1"), {}, (4, 2)),
        (np.zeros((2, 4), "u1"), {"height": 99}, (4, 2)),
        (np.zeros((2, 4), "u1"), {"width": 9}, (9, 0)),
        (np.zeros(5, "u1"), {}, (0, 0)),
        (None, {}, (0, 0)),
    ],
)
def test_image_takes_its_size_from_its_data(data: Any, given: dict[str, int], size: tuple[int, int]) -> None:
    image = ImageMessage(data, **given)
    assert (image.width, image.height) == size


def test_timestamp_of_now_has_nanoseconds_within_the_second() -> None:
    stamp = TimestampMessage.now()
    assert stamp.sec > 1_600_000_000
    assert 0 <= stamp.nanosec < 1_000_000_000


def test_names_of_the_packages() -> None:
    import cortex.messages as messages

    assert messages.MessageType is MessageType
    assert {name for name in messages.__all__ if name.endswith("Message")} == {
        "ArrayMessage",
        "DictMessage",
        "FloatMessage",
        "IntMessage",
        "Message",
        "StringMessage",
        "TensorMessage",
    }
