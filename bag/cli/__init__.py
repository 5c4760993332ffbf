"""``cortex bag``: record, inspect and replay topics.

The group joins the ``cortex`` command line by the entry point ``cortex.commands``. A command only reads options, calls
the library once and shows what comes back; an error of the library becomes one sentence on standard error and the
error's own exit code: 0 done, 1 error, 2 wrong usage, 3 done but lossy.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from bag.errors import BagError
from cortex.errors import CortexError

__all__ = ["bag"]

# where each command lives, and what it is called there; it is imported when it is called
COMMANDS = {
    "attach-schema": "attach_schema:attach_schema",
    "cat": "cat:cat",
    "completion": "completions:completion",
    "compress": "compress:compress",
    "convert": "convert:convert",
    "ctl": "ctl:ctl",
    "decompress": "compress:decompress",
    "demo": "demo:demo",
    "diff": "diff:diff_command",
    "du": "du:du",
    "export": "export:export",
    "filter": "filter:filter_command",
    "info": "info:info",
    "mark": "mark:mark",
    "merge": "merge:merge_command",
    "play": "play:play",
    "record": "record:record",
    "recover": "recover:recover_command",
    "verify": "verify:verify_command",
}
# words that hands know from other tools
ALIASES = {"echo": "cat", "doctor": "verify", "reindex": "recover", "cut": "filter"}


class _Group(click.Group):
    """A click group at whose border the library's errors become exit codes; `places` are as in COMMANDS."""

    def __init__(self, *arguments: Any, places: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._places = places or {}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or of the name it stands for."""
        name = ALIASES.get(cmd_name, cmd_name)
        place = self._places.get(name)
        if place is None:
            return super().get_command(ctx, name)
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(import_module(f"bag.cli.{module}"), attribute)
        return command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return sorted({*super().list_commands(ctx), *self._places})

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except (BagError, CortexError) as error:
            from bag.render import clean

            click.echo(clean(f"Error: {error}"), err=True)
            ctx.exit(error.exit_code if isinstance(error, BagError) else 1)
        except OSError as error:
            # a closed pipe is no error of ours: click ends quietly then
            if error.errno == errno.EPIPE:
                raise
            click.echo(f"Error: {error.filename}: {error.strerror}" if error.filename else f"Error: {error}", err=True)
            ctx.exit(1)


@click.group(name="bag", cls=_Group, places=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def bag() -> None:
    """Record, inspect and replay topics.

    Example: cortex bag record -a -o run.h5
    """
