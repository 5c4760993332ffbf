"""How a running command shows itself: a live display on a terminal, plain lines elsewhere, JSON lines for programs.

Progress goes to standard error and results to standard output, so that either can be redirected alone. With
``--json`` both are lines on standard output, each an object with an ``event``: ``progress`` ones first, and as the last
line of all the ``summary``.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import click
from rich.console import Console, RenderableType
from rich.live import Live

Snapshot = TypeVar("Snapshot")

# a terminal says how wide it is; a pipe or a file takes the whole table
_PIPE_WIDTH = 180


def console(*, stderr: bool = False) -> Console:
    """Return a console on standard output or standard error; wide where nobody can tell the width."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else _PIPE_WIDTH, highlight=False)


def to_json(value: object) -> Any:
    """Return a frozen value of the library as what ``json`` can write: dicts, lists, numbers, strings, None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def echo_event(event: str, value: object) -> None:
    """Write one JSON line to standard output, at once."""
    click.echo(json.dumps({"event": event, **to_json(value)}))


class View(Generic[Snapshot]):
    """Shows snapshots of a running command, no more often than every ``interval_s`` seconds."""

    interval_s = 1.0

    def __init__(self) -> None:
        self._next = 0.0

    def __enter__(self) -> View[Snapshot]:
        return self

    def __exit__(self, *_: object) -> None:
        """End the display; nothing to do unless it holds the terminal."""

    def update(self, snapshot: Snapshot) -> None:
        """Show ``snapshot`` if it is time to."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self.interval_s
            self.show(snapshot)

    def show(self, snapshot: Snapshot) -> None:
        """Show ``snapshot`` now."""
        raise NotImplementedError


class JsonView(View[Snapshot]):
    """One JSON line on standard output for each snapshot."""

    interval_s = 0.1

    def show(self, snapshot: Snapshot) -> None:
        """Write the snapshot as a ``progress`` event."""
        echo_event("progress", snapshot)


class LineView(View[Snapshot]):
    """One line of text on standard error for each snapshot."""

    def __init__(self, line: Callable[[Snapshot], str]) -> None:
        super().__init__()
        self._line = line

    def show(self, snapshot: Snapshot) -> None:
        """Write the snapshot as one line."""
        click.echo(self._line(snapshot), err=True)


class LiveView(View[Snapshot]):
    """A display on the terminal that is drawn over and over again in its place."""

    interval_s = 0.25

    def __init__(self, render: Callable[[Snapshot], RenderableType]) -> None:
        super().__init__()
        self._render = render
        self._live = Live(console=console(stderr=True), auto_refresh=False, transient=True)

    def __enter__(self) -> LiveView[Snapshot]:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Draw the snapshot in place of the last one."""
        self._live.update(self._render(snapshot), refresh=True)


def open_view(
    *, as_json: bool, render: Callable[[Snapshot], RenderableType], line: Callable[[Snapshot], str]
) -> View[Snapshot]:
    """Return the view that fits: JSON if asked for, else a live display on a terminal, else plain lines."""
    if as_json:
        return JsonView()
    return LiveView(render) if sys.stderr.isatty() else LineView(line)
