"""Finding topics: the protocol, the client that asks, and the daemon that knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cortex.discovery.client import ChangeListener, DiscoveryClient, wait_for_discovery
from cortex.discovery.protocol import (
    DEFAULT_DISCOVERY_ADDRESS,
    DiscoveryCommand,
    DiscoverySnapshot,
    DiscoveryStatus,
    TopicInfo,
)

if TYPE_CHECKING:
    from cortex.discovery.daemon import DiscoveryDaemon

__all__ = [
    "DEFAULT_DISCOVERY_ADDRESS",
    "ChangeListener",
    "DiscoveryClient",
    "DiscoveryCommand",
    "DiscoveryDaemon",
    "DiscoverySnapshot",
    "DiscoveryStatus",
    "TopicInfo",
    "wait_for_discovery",
]


# Lazy, so that `python -m cortex.discovery.daemon` does not find itself imported already.
def __getattr__(name: str) -> Any:
    if name == "DiscoveryDaemon":
        from cortex.discovery.daemon import DiscoveryDaemon

        return DiscoveryDaemon
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
