"""Where sockets live: the one place that turns environment variables, topics and nodes into addresses.

``CORTEX_DIR`` moves everything (default ``/tmp/cortex``), ``CORTEX_DISCOVERY_ADDRESS`` moves the daemon alone; both
are read at call time and inherited by child processes.

Two names exist for a publisher's socket.  `ipc_address` is the historical rule, which other programs may compute; it
is neither injective nor always bindable.  `bindable_ipc_address` is what our publishers bind: the same name where that
is safe, otherwise a readable prefix with a hash, so that no two (node, topic) pairs ever share a file.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cortex.errors import CortexError

DEFAULT_BASE_DIR = "/tmp/cortex"
MAX_IPC_PATH = 107
"""Longest path of a Unix-domain socket in bytes (Linux: ``sun_path`` has 108 with its terminator)."""

IPC_PREFIX = "ipc://"
_MARK = "~"
_DIGITS = 16


def base_dir() -> Path:
    """Return the directory of all sockets: ``$CORTEX_DIR`` or ``/tmp/cortex``."""
    return Path(os.environ.get("CORTEX_DIR") or DEFAULT_BASE_DIR)


def topics_dir() -> Path:
    """Return the directory in which publishers bind their sockets."""
    return base_dir() / "topics"


def default_discovery_address() -> str:
    """Return ``$CORTEX_DISCOVERY_ADDRESS``, or the daemon's socket inside `base_dir`."""
    return os.environ.get("CORTEX_DISCOVERY_ADDRESS") or f"{IPC_PREFIX}{base_dir()}/discovery.sock"


def ipc_path(address: str) -> Path | None:
    """Return the file behind an ``ipc://`` address, or None for any other address (tcp, abstract ``@``, wildcard)."""
    path = address.removeprefix(IPC_PREFIX)
    return None if path == address or path in ("", "*") or path.startswith("@") else Path(path)


def ensure_private_dir(path: Path) -> Path:
    """Create `path` and its missing parents for this user alone (mode 0700); leave existing directories as they are.

    Raises:
        CortexError: the directory cannot be created.
    """
    missing = [p for p in (path, *path.parents) if not p.exists()]
    try:
        for directory in reversed(missing):
            directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as err:
        raise CortexError(
            f"Cannot create the socket directory {path} ({err.strerror}): choose another one with CORTEX_DIR."
        ) from err
    if not path.is_dir():
        raise CortexError(f"{path} should be a directory for sockets but is not: choose another one with CORTEX_DIR.")
    return path


def ipc_address(topic: str, node: str) -> str:
    """Return the address that every Cortex computes for a publisher, even when it cannot be bound.

    Args:
        topic: topic name; ``/`` becomes ``_`` and leading underscores go.
        node: node name, taken as it is.
    """
    return f"{IPC_PREFIX}{topics_dir()}/{node}__{_slug(topic)}.sock"


def bindable_ipc_address(topic: str, node: str) -> str:
    """Return an address that can be bound and that no other (topic, node) shares.

    It is `ipc_address` where that is safe.  Long names, names that would leave the directory, control characters, and
    topics that share their plain name with a more ordinary one (``/a_b`` with ``/a/b``) get a hash in the file name.
    The answer depends on nothing but the arguments and ``CORTEX_DIR``: a restarted publisher is found again.

    Raises:
        CortexError: the directory itself is too long for a socket.
    """
    plain = ipc_address(topic, node)
    if _is_plain(topic, node) and _path_bytes(plain) <= MAX_IPC_PATH:
        return plain
    return _hashed_address(topic, node)


def _slug(topic: str) -> str:
    return topic.replace("/", "_").lstrip("_")


# A plain file name can be read back: "/" + slug with "_" as "/" is the topic, the last "__" ends the node.
def _is_plain(topic: str, node: str) -> bool:
    slug = _slug(topic)
    return (
        bool(slug)
        and "__" not in slug
        and topic == "/" + slug.replace("_", "/")
        and not any(c in "/\0" for c in node)
        and (node + slug).isprintable()
        and _MARK not in node + slug
        and ".." not in node
    )


def _hashed_address(topic: str, node: str) -> str:
    digest = hashlib.sha256(f"{node}\0{topic}".encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    tail = f"{_MARK}{digest}.sock"
    directory = f"{IPC_PREFIX}{topics_dir()}/"
    room = MAX_IPC_PATH - _path_bytes(directory) - len(tail)
    if room < 0:
        raise CortexError(
            f"The socket directory {topics_dir()} is too long: a socket path may have {MAX_IPC_PATH} bytes, "
            "choose a shorter CORTEX_DIR."
        )
    readable = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in f"{node}__{_slug(topic)}")
    return f"{directory}{readable[:room]}{tail}"


def _path_bytes(address: str) -> int:
    return len(address.removeprefix(IPC_PREFIX).encode("utf-8", "surrogatepass"))
