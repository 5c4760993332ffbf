"""The `cortex` command line: looking at discovery, topics and nodes, and a place where other packages join in.

A package adds its commands by an entry point in the group ``cortex.commands``.  Commands, our own too, are imported
when they are called, so that each starts quickly, and a broken one costs nothing but its own command.
"""

from __future__ import annotations

import ast
import importlib.util
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import click

from cortex import __version__
from cortex.errors import CortexError

PLUGIN_GROUP = "cortex.commands"
# each is the attribute of this name in the module of this name
OWN = ("discovery", "node", "topic")


class PluginGroup(click.Group):
    """A click group that other packages extend, and at whose border Cortex's errors become one sentence."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except CortexError as err:
            raise click.ClickException(str(err)) from err

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return our own commands, then those of the plugins."""
        own = [*OWN, *super().list_commands(ctx)]
        return own + sorted(_plugins().keys() - set(own))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; only now it is imported."""
        if cmd_name in OWN:
            own: click.Command = getattr(import_module(f"cortex.cli.{cmd_name}"), cmd_name)
            return own
        plugin = _plugins().get(cmd_name)
        return super().get_command(ctx, cmd_name) if plugin is None else _load(plugin)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing the plugins."""
        width = formatter.width - 6 - max(map(len, self.list_commands(ctx)))
        rows = []
        for name in self.list_commands(ctx):
            own = self.get_command(ctx, name) if name in OWN else None
            rows.append((name, own.get_short_help_str(width) if own else _summary(_plugins()[name])))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _plugins() -> dict[str, EntryPoint]:
    return {plugin.name: plugin for plugin in entry_points(group=PLUGIN_GROUP)}


def _load(plugin: EntryPoint) -> click.Command:
    try:
        command = plugin.load()
    except Exception as err:
        raise click.ClickException(
            f"the command {plugin.name!r} cannot be loaded from {plugin.value} ({type(err).__name__}: {err}): "
            "reinstall or remove the package it comes from."
        ) from err
    if not isinstance(command, click.Command):
        raise click.ClickException(f"{plugin.value}, which should be the command {plugin.name!r}, is no click command.")
    return command


# the first line of the module's docstring, read from its file: importing it may take a second
def _summary(plugin: EntryPoint) -> str:
    package, *rest = plugin.module.split(".")
    try:
        spec = importlib.util.find_spec(package)
        origin = Path(spec.origin) if spec is not None and spec.origin else Path()
        inside = origin.parent.joinpath(*rest)
        candidates = (inside / "__init__.py", inside.with_suffix(".py")) if rest else (origin,)
        source = next(path for path in candidates if path.is_file()).read_text(encoding="utf-8")
        docstring = ast.get_docstring(ast.parse(source)) or ""
        summary = docstring.splitlines()[0].replace("`", "").removeprefix(f"cortex {plugin.name}: ")
        return summary[:1].upper() + summary[1:]
    except (StopIteration, IndexError, OSError, SyntaxError, ValueError, ImportError):
        return f"Commands of the package {package}."


@click.group(name="cortex", cls=PluginGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cortex")
def cortex() -> None:
    """Look at a running Cortex system: its discovery daemon, its topics and its nodes.

    Example: cortex topic list
    """


def main() -> None:
    """Entry point of the command ``cortex``."""
    cortex(prog_name="cortex")


__all__ = ["cortex", "main"]
