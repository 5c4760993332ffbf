"""A set of asyncio tasks that end together: when the first one fails, when it is told to, or when all are done."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class TaskSet:
    """Tasks of one event loop; more may be added while they are waited for."""

    def __init__(self) -> None:
        """Bind to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._over: asyncio.Future[None] = self._loop.create_future()

    def add(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Start a coroutine as one more task; only in the event loop's thread."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def wait(self) -> None:
        """Return when no task is left or `cancel()` was called; raise the first error of a task."""
        if self._tasks:
            await self._over

    def cancel(self) -> None:
        """Make `wait()` return and cancel all tasks; only in the event loop's thread."""
        if not self._over.done():
            self._over.set_result(None)
        for task in self._tasks:
            task.cancel()

    async def finish(self) -> None:
        """Cancel what is left and wait until it is over, the calling task excepted."""
        self.cancel()
        left = self._tasks - {asyncio.current_task()}
        if left:
            await asyncio.wait(left)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if self._over.done():
            return
        if error is not None:
            self._over.set_exception(error)
        elif not self._tasks:
            self._over.set_result(None)


__all__ = ["TaskSet"]
