"""``cortex bag``: record, inspect and replay topics.

The group joins the ``cortex`` command line by the entry point ``cortex.commands``. A command only reads options, calls
the library once and shows what comes back; an error of the library becomes one sentence on standard error and the
error's own exit code: 0 done, 1 error, 2 wrong usage, 3 done but lossy.
"""

from __future__ import annotations

import errno
from typing import Any

import click

from bag.cli.attach_schema import attach_schema
from bag.cli.cat import cat
from bag.cli.completions import completion
from bag.cli.compress import compress, decompress
from bag.cli.convert import convert
from bag.cli.ctl import ctl
from bag.cli.demo import demo
from bag.cli.diff import diff_command
from bag.cli.du import du
from bag.cli.export import export
from bag.cli.filter import filter_command
from bag.cli.info import info
from bag.cli.mark import mark
from bag.cli.merge import merge_command
from bag.cli.play import play
from bag.cli.record import record
from bag.cli.recover import recover_command
from bag.cli.verify import verify_command
from bag.errors import BagError
from bag.render import clean
from cortex.errors import CortexError

__all__ = ["bag"]

# words that hands know from other tools
ALIASES = {"echo": "cat", "doctor": "verify", "reindex": "recover", "cut": "filter"}


class _Group(click.Group):
    """A click group at whose border the library's errors become exit codes."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or of the name it stands for."""
        return super().get_command(ctx, ALIASES.get(cmd_name, cmd_name))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except (BagError, CortexError) as error:
            click.echo(clean(f"Error: {error}"), err=True)
            ctx.exit(error.exit_code if isinstance(error, BagError) else 1)
        except OSError as error:
            # a closed pipe is no error of ours: click ends quietly then
            if error.errno == errno.EPIPE:
                raise
            click.echo(f"Error: {error.filename}: {error.strerror}" if error.filename else f"Error: {error}", err=True)
            ctx.exit(1)


@click.group(name="bag", cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def bag() -> None:
    """Record, inspect and replay topics.

    Example: cortex bag record -a -o run.h5
    """


_COMMANDS: tuple[click.Command, ...] = (record, ctl, info, play, diff_command, demo, export, convert)
_COMMANDS += (cat, verify_command, recover_command, filter_command, merge_command, compress, decompress)
_COMMANDS += (mark, attach_schema, du, completion)

for _command in _COMMANDS:
    bag.add_command(_command)
