"""What is known of message classes: read off those that are imported, never needed to record or to read."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence

import cortex.messages.standard  # noqa: F401  the standard catalogue is always known
from bag.errors import UsageError
from bag.records import Schema, SchemaField
from cortex.messages.base import MessageType


def import_modules(modules: Sequence[str]) -> None:
    """Import modules that the user named, so that their message classes are known.

    Raises:
        UsageError: one cannot be imported.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(f"--import {name} failed: {error}; is it on PYTHONPATH?") from error


def schema_of(fingerprint: int) -> Schema | None:
    """The schema of the imported class with this fingerprint, or None."""
    cls = MessageType.get(fingerprint)
    if cls is None or not dataclasses.is_dataclass(cls):
        return None
    fields = tuple(SchemaField(item.name, _annotation(item.type)) for item in dataclasses.fields(cls))
    return Schema(fingerprint, cls.__name__, cls.__module__, cls.__qualname__, fields)


def _annotation(kind: object) -> str:
    if isinstance(kind, str):
        return kind
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__origin__") else str(kind)
