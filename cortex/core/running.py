"""Runs the parts of a node, coroutines on the event loop and loops in threads, and ends them together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Coroutine, Sequence
from threading import Thread
from typing import Any, Protocol

from cortex.core.executor import SyncRateExecutor
from cortex.core.signals import calling_on_plain_sigint, calling_on_sigterm
from cortex.core.tasks import TaskSet

logger = logging.getLogger(__name__)

JOIN_S = 2.0


class ThreadedPart(Protocol):
    """Something that works in a thread of its own."""

    def start(self) -> None:
        """Begin; nothing happens when it has begun."""

    def stop(self, timeout: float | None = None) -> None:
        """End, waiting at most `timeout` seconds for the thread."""


class ThreadedTimer:
    """A `SyncRateExecutor` with the thread that runs it."""

    def __init__(self, executor: SyncRateExecutor) -> None:
        self._executor = executor
        self._thread: Thread | None = None

    def start(self) -> None:
        """Begin to call the function."""
        if not self._executor.running:
            self._executor.start()
            self._thread = Thread(target=self._executor.run_started, name="cortex-timer", daemon=True)
            self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """End after the current call, waiting at most `timeout` seconds for it."""
        self._executor.stop()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)


class Runner:
    """The life of a node: nothing runs before `run()` or `spin()`, and everything ends with them.

    Attributes:
        running: whether one of the two is active.
        terminated: whether SIGTERM ended the last one.
        stop_event: set by `stop()`; threads watch it.
    """

    def __init__(self) -> None:
        self.running = False
        self.terminated = False
        self.stop_event = threading.Event()
        self._stop_heeded = False
        self._coroutines: list[Callable[[], Coroutine[Any, Any, Any]]] = []
        self._threaded: list[ThreadedPart] = []
        self._spawned: list[Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: TaskSet | None = None
        # put() may be called in a signal handler, unlike Event.set() while the same thread waits for that event
        self._wake_spin: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def is_asynchronous(self) -> bool:
        """Whether anything needs an event loop."""
        return bool(self._coroutines)

    def add_coroutine(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Run this coroutine function too; at once when running."""
        self._coroutines.append(function)
        loop, tasks = self._loop, self._tasks
        if self.running and loop is not None and tasks is not None:
            loop.call_soon_threadsafe(lambda: tasks.add(function()))

    def add_threaded(self, part: ThreadedPart) -> None:
        """Run this part too; at once when running."""
        self._threaded.append(part)
        if self.running:
            part.start()

    def spawn(self, target: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], name: str) -> Thread:
        """Start ``target(stop_event, *args, **kwargs)`` in a thread now, and return the thread."""
        thread = Thread(target=target, args=(self.stop_event, *args), kwargs=kwargs, name=name, daemon=True)
        self._spawned.append(thread)
        thread.start()
        return thread

    async def run(self) -> None:
        """Run until all coroutines have ended, `stop()`, a signal or cancellation; raise a coroutine's first error."""
        if not self._begin():
            return
        self._loop = asyncio.get_running_loop()
        self._tasks = tasks = TaskSet()
        try:
            with calling_on_sigterm(self._terminate), calling_on_plain_sigint(self.stop):
                for function in self._coroutines:
                    tasks.add(function())
                if self._threaded:
                    self._start_threaded()
                    tasks.add(_for_ever())
                await tasks.wait()
        except asyncio.CancelledError:
            logger.debug("running was cancelled")
        finally:
            await tasks.finish()
            if self._threaded:
                # not in the loop's thread: what is waited for may itself be waiting for the loop
                await asyncio.to_thread(self._stop_threaded)
            self._loop = self._tasks = None
            self._end()

    def spin(self, timeout: float | None = None) -> None:
        """Block until `stop()`, SIGTERM, Ctrl-C, or for `timeout` seconds."""
        if not self._begin():
            return
        try:
            with calling_on_sigterm(self._terminate):
                self._start_threaded()
                self._wake_spin.get(timeout=timeout)
        except KeyboardInterrupt:
            self.stop()
        except queue.Empty:
            logger.debug("spinning ended after %s s", timeout)
        finally:
            self._stop_threaded()
            self._end()

    def stop(self) -> None:
        """End `run()` or `spin()`, also one that begins only after this; from any thread or signal handler."""
        self.stop_event.set()
        self._wake_spin.put(None)
        loop, tasks = self._loop, self._tasks
        if loop is not None and tasks is not None:
            # a loop that is closed meanwhile has nothing left to stop
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(tasks.cancel)

    async def finish(self) -> None:
        """Stop, and wait for the event loop's part to be over; a task of ours that calls this is not waited for."""
        self.stop()
        if self._tasks is not None:
            await self._tasks.finish()
        await asyncio.to_thread(self.join)

    def join(self) -> None:
        """Stop, and wait for all threads, a limited time each."""
        self.stop()
        self._stop_threaded()
        for thread in self._spawned:
            if thread is not threading.current_thread():
                thread.join(JOIN_S)
                if thread.is_alive():
                    logger.warning("thread %s does not heed the stop event; left alone", thread.name)

    def _begin(self) -> bool:
        if self.running:
            raise RuntimeError("the node is running already: stop it first, or make another one.")
        if self._stop_heeded:
            self._stop_heeded = False
            self.stop_event = threading.Event()
            self._wake_spin = queue.SimpleQueue()
        if self.stop_event.is_set():
            self._stop_heeded = True
            return False
        self.terminated = False
        self.running = True
        return True

    def _end(self) -> None:
        self.running = False
        self._stop_heeded = self.stop_event.is_set()

    def _terminate(self) -> None:
        self.terminated = True
        self.stop()

    def _start_threaded(self) -> None:
        for part in self._threaded:
            part.start()

    def _stop_threaded(self) -> None:
        for part in self._threaded:
            part.stop(JOIN_S)


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


__all__ = ["Runner", "ThreadedPart", "ThreadedTimer"]
