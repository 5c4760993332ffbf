"""Where a value stands in a message: from the name a user writes to the position and keys in the metadata.

A path is (position of the field, key, key, ...): `pose/x` of a message whose second field is a dict may be
`(1, "pose", "x")`. List positions count as keys. In names the parts are joined by `/`; `.` is understood too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from cortex.codec import RESERVED_KEY

Path: TypeAlias = "tuple[int | str, ...]"


def split_name(name: str | tuple[str, ...]) -> list[tuple[str, ...]]:
    """The ways a name can be taken apart, the likeliest first; a tuple is taken as it is."""
    if isinstance(name, tuple):
        return [tuple(str(part) for part in name)]
    ways: list[tuple[str, ...]] = [(name,)]
    ways.extend(tuple(name.split(separator)) for separator in ("/", ".") if separator in name)
    return ways


def matches(found: Path, wanted: Path) -> bool:
    """Whether both paths lead to the same place; keys compare as text, as positions in lists are written."""
    return (
        len(found) == len(wanted)
        and found[0] == wanted[0]
        and all(str(one) == str(other) for one, other in zip(found[1:], wanted[1:], strict=True))
    )


def value_at(values: Sequence[Any], path: Path, default: Any = None) -> Any:
    """The value at a path of decoded field values, or `default`."""
    found: Any = values
    for part in path:
        if isinstance(found, dict):
            key = next((key for key in found if _text(key) == str(part)), MISSING_KEY)
            if key is MISSING_KEY:
                return default
            found = found[key]
        elif isinstance(found, list):
            number = int(part) if str(part).isdigit() else -1
            if not 0 <= number < len(found):
                return default
            found = found[number]
        else:
            return default
    return found


MISSING_KEY = object()


def leaf_paths(values: Sequence[Any]) -> Iterator[Path]:
    """Paths of all values that are no containers, and of all arrays; lists are followed where they hold containers."""
    stack: list[tuple[Path, Any]] = [((at,), value) for at, value in reversed(list(enumerate(values)))]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict) and value and not is_array(value):
            stack.extend(((*path, _text(key)), child) for key, child in reversed(list(value.items())))
        elif isinstance(value, list) and any(isinstance(child, (dict, list)) for child in value):
            stack.extend(((*path, at), child) for at, child in reversed(list(enumerate(value))))
        else:
            yield path


def is_array(value: Any) -> bool:
    """Whether a decoded metadata value stands for an array, whose bytes travel beside it."""
    return isinstance(value, dict) and value.get(RESERVED_KEY) in ("numpy", "torch")


def _text(key: Any) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
