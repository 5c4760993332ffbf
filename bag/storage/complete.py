"""Puts definitions that lost lines in order again: topics and channels are known by their place, so none may be
missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bag.storage.definitions import definition_line
from bag.storage.layout import topic_path

UNKNOWN = {"type": "unknown", "fingerprint": "0x0", "node": "unknown", "address": ""}


def completed(lines: Sequence[bytes]) -> list[bytes]:
    """The lines that are definitions, topics and channels first, in their order and with a stand-in for each lost
    one."""
    found: dict[str, dict[int, dict[str, Any]]] = {"topic": {}, "channel": {}}
    rest: list[tuple[str, dict[str, Any]]] = []
    for kind, values in filter(None, map(_parsed, lines)):
        if kind in found and isinstance(values.get("id"), int):
            found[kind].setdefault(values["id"], values)
        else:
            rest.append((kind, values))
    topics, channels = found["topic"], found["channel"]
    for number, path in _groups(rest).items():
        if number not in topics:
            topics[number] = {"id": number, "name": _name_of(path, channels), "path": path}
    for number in range(max(topics, default=-1)):
        topics.setdefault(number, {"id": number, "name": f"/lost_{number}", "path": f"/lost_{number}"})
    for number in range(max(channels, default=-1)):
        channels.setdefault(number, {"id": number, "topic": f"/lost_channel_{number}", **UNKNOWN})
    entries = [("topic", topics[number]) for number in sorted(topics)]
    entries += [("channel", channels[number]) for number in sorted(channels)]
    return [definition_line(kind, values) for kind, values in (*entries, *rest)]


def _parsed(line: bytes) -> tuple[str, dict[str, Any]] | None:
    try:
        ((kind, values),) = json.loads(line).items()
    except (ValueError, AttributeError, RecursionError):
        return None
    return (kind, values) if isinstance(values, dict) else None


# the group of each topic, from the paths of its columns
def _groups(rest: Sequence[tuple[str, dict[str, Any]]]) -> dict[int, str]:
    out: dict[int, str] = {}
    for kind, values in rest:
        if kind == "column" and isinstance(values.get("topic"), int) and isinstance(values.get("path"), str):
            out.setdefault(values["topic"], values["path"].rpartition("/")[0])
    return out


def _name_of(path: str, channels: dict[int, dict[str, Any]]) -> str:
    for values in channels.values():
        if isinstance(values.get("topic"), str) and topic_path(values["topic"]) == path:
            return str(values["topic"])
    return path
