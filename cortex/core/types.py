"""Names the callback shapes that users pass in, so that signatures read the same everywhere."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from cortex.messages.base import Message, MessageHeader

AsyncCallback = Callable[..., Awaitable[Any]]
"""Any coroutine function; what the asynchronous executors call."""

MessageCallback = Callable[[Message, MessageHeader], Awaitable[Any]]
"""Coroutine function called with (message, header) by an asynchronous subscriber."""


def is_coroutine_function(callback: object) -> bool:
    """Tell whether calling `callback` gives a coroutine; objects with an asynchronous ``__call__`` count."""
    call = type(callback).__call__
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(call)


def is_same_callback(one: object, other: object) -> bool:
    """Tell whether two callbacks are one; a bound method is a new object each time it is named."""
    return one is other or (inspect.ismethod(one) and one == other)


__all__ = ["AsyncCallback", "MessageCallback", "is_coroutine_function", "is_same_callback"]
