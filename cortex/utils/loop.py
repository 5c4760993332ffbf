"""Run a program's main coroutine on the fastest event loop that is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(coro: Coroutine[Any, Any, T], *, debug: bool = False) -> T:
    """Run `coro` to its end and return its result; on uvloop where it is installed, else on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coro, debug=debug)
    result: T = uvloop.run(coro, debug=debug)
    return result
