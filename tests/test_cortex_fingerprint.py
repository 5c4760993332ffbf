"""Fingerprints: always the value that travels, whenever it is asked for."""

from __future__ import annotations

import gc
import hashlib
import weakref
from dataclasses import dataclass

import pytest

from cortex.errors import CodecError
from cortex.messages.base import Message, MessageType
from cortex.messages.standard import StringMessage
from cortex.utils import hashing


def test_clearing_the_cache_does_not_change_the_value() -> None:
    before = StringMessage.fingerprint()
    hashing.clear_fingerprint_cache()
    assert StringMessage.fingerprint() == hashing.compute_fingerprint(StringMessage) == before == 0xACF8D6475271E065


def test_registered_value_counts_until_the_cache_is_cleared() -> None:
    @dataclass
    class Local(Message):
        x: int = 0

    value = Local.fingerprint()
    hashing.register_fingerprint(Local, 7)
    assert hashing.get_cached_fingerprint(Local) == Local.fingerprint() == 7
    assert hashing.compute_fingerprint(Local) == value
    hashing.clear_fingerprint_cache()
    assert Local.fingerprint() == value


def test_fields_of_a_direct_subclass_do_not_count() -> None:
    def define(fields: dict[str, type]) -> type[Message]:
        namespace = {"__module__": "m", "__qualname__": "Same", "__annotations__": fields}
        return dataclass(type("Same", (Message,), namespace))

    assert define({"x": int}).fingerprint() == define({"y": str, "z": int}).fingerprint()


def test_fields_of_a_plain_dataclass_count() -> None:
    def define(fields: dict[str, type]) -> type:
        namespace = {"__module__": "m", "__qualname__": "Same", "__annotations__": fields}
        return dataclass(type("Same", (), namespace))

    values = {hashing.compute_fingerprint(define(f)) for f in ({}, {"x": int}, {"y": int}, {"x": str})}
    assert len(values) == 4
    assert hashing.compute_fingerprint(define({"x": int, "y": str})) == hashing.compute_fingerprint(
        define({"y": str, "x": int})
    )


def test_slotted_class_keeps_the_value_of_the_surviving_twin() -> None:
    @dataclass(slots=True)
    class Slotted(Message):
        a: int = 0

    assert MessageType.get(Slotted.fingerprint()) is Slotted
    hashing.clear_fingerprint_cache()
    assert MessageType.get(hashing.compute_fingerprint(Slotted)) is Slotted
    # The decorator gives the twin its long name only after its fingerprint was taken.
    digest = hashlib.sha256(
        f"{__name__}.Slotted|_field_names_cache:ClassVar,_sequence_counter:ClassVar,a:int".encode()
    ).digest()
    assert Slotted.fingerprint() == int.from_bytes(digest[:8], "big")
    assert Slotted.from_frames(Slotted(3).to_frames())[0] == Slotted(3)


def test_mixin_dataclass_in_front_counts_as_the_inherited_fields() -> None:
    @dataclass
    class Mixin:
        m: int = 0

    class First(Mixin, Message):
        pass

    class Twin(Mixin):
        pass

    Twin.__qualname__ = First.__qualname__
    assert First.fingerprint() == hashing.compute_fingerprint(Twin)


def test_cache_does_not_keep_classes_alive() -> None:
    cls = type("Fleeting", (), {})
    hashing.get_cached_fingerprint(cls)
    seen = weakref.ref(cls)
    del cls
    gc.collect()
    assert seen() is None


def test_bytes_of_a_fingerprint() -> None:
    assert hashing.fingerprint_to_bytes(0x0102030405060708) == bytes(range(1, 9))
    assert hashing.bytes_to_fingerprint(bytes(range(1, 9)) + b"tail") == 0x0102030405060708


@pytest.mark.parametrize("bad", [-1, 2**64])
def test_fingerprint_beyond_64_bits_is_refused(bad: int) -> None:
    with pytest.raises(CodecError):
        hashing.fingerprint_to_bytes(bad)


def test_short_fingerprint_is_refused() -> None:
    with pytest.raises(CodecError):
        hashing.bytes_to_fingerprint(bytes(7))
