"""The 64-bit fingerprint of a message class, exactly as it travels.

It is the first 8 bytes of SHA-256 over ``module.qualname|fields``.  The protocol fixes the moment at which `fields` is
taken: while the class statement runs, before ``@dataclass`` has seen the class.  So the inherited fields count, not the
class's own, and a direct child of ``Message`` has always the same two constant names.  `remember_text` is called at
that moment and keeps the text on the class, so that the value can be computed at any time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import weakref

from cortex.errors import CodecError

# Constants of the protocol: they stand in every fingerprint, whatever the base class looks like here.
_PSEUDO_FIELDS = ("_field_names_cache:ClassVar", "_sequence_counter:ClassVar")
_REMEMBERED = "_cortex_fingerprint_text"
_ROOT = "_cortex_message_root"

_known: weakref.WeakKeyDictionary[type, int] = weakref.WeakKeyDictionary()


def compute_fingerprint(cls: type) -> int:
    """Return the fingerprint that `cls` has on the wire; for a dataclass that is no message, of its own fields."""
    text = cls.__dict__.get(_REMEMBERED) or _text(cls)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def remember_text(cls: type) -> None:
    """Keep the text that counts for `cls`; call it from ``__init_subclass__``, before ``@dataclass`` runs."""
    setattr(cls, _REMEMBERED, _text(cls))


def get_cached_fingerprint(cls: type) -> int:
    """Return the fingerprint of `cls`, computed once or as given to `register_fingerprint`."""
    fingerprint = _known.get(cls)
    if fingerprint is None:
        fingerprint = _known[cls] = compute_fingerprint(cls)
    return fingerprint


def register_fingerprint(cls: type, fingerprint: int) -> None:
    """Let `get_cached_fingerprint` answer `fingerprint` for `cls` until the cache is cleared."""
    _known[cls] = fingerprint


def clear_fingerprint_cache() -> None:
    """Forget computed and registered fingerprints; computing again gives the same wire values."""
    _known.clear()


def fingerprint_to_bytes(fingerprint: int) -> bytes:
    """Return the 8 big-endian bytes of a fingerprint; raise CodecError unless it has 64 unsigned bits."""
    try:
        return fingerprint.to_bytes(8, "big")
    except OverflowError as err:
        raise CodecError(f"{fingerprint} is not an unsigned 64-bit fingerprint.") from err


def bytes_to_fingerprint(data: bytes) -> int:
    """Return the fingerprint in the first 8 bytes of `data`; raise CodecError when there are fewer."""
    if len(data) < 8:
        raise CodecError(f"A fingerprint has 8 bytes, {len(data)} came.")
    return int.from_bytes(data[:8], "big")


def _text(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}|{_fields_text(cls)}"


def _fields_text(cls: type) -> str:
    entries: set[str] = set()
    for owner in cls.__mro__:
        fields = owner.__dict__.get("__dataclass_fields__")
        if fields is not None:
            entries = {f"{name}:{_type_name(field)}" for name, field in fields.items()}
            if hasattr(owner, _ROOT):
                entries.update(_PSEUDO_FIELDS)
            break
    return ",".join(sorted(entries))


def _type_name(field: dataclasses.Field[object]) -> str:
    return str(getattr(field.type, "__name__", field.type))
