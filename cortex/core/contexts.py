"""What ZeroMQ contexts hide: asyncio ones are plain ones in disguise, and ending one may block for ever."""

from __future__ import annotations

import threading
from typing import Any

import zmq
import zmq.asyncio

PATIENCE_S = 1.0


def plain_context(context: zmq.Context[Any]) -> zmq.Context[Any]:
    """Return the same ZeroMQ context without asyncio, whose sockets answer with values instead of coroutines."""
    return zmq.Context.shadow(context) if isinstance(context, zmq.asyncio.Context) else context


def end_context(context: zmq.Context[Any]) -> bool:
    """Terminate a context, waiting at most `PATIENCE_S` seconds for sockets that others still hold.

    Such a socket's next operation fails with ETERM, which lets its thread end; the rest is left to that.
    """
    ending = threading.Thread(target=context.term, name="cortex-context-end", daemon=True)
    ending.start()
    ending.join(PATIENCE_S)
    return not ending.is_alive()


__all__ = ["end_context", "plain_context"]
