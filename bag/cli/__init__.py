"""``cortex bag``: record, inspect and replay topics.

The group joins the ``cortex`` command line by the entry point ``cortex.commands``. A command only reads options, calls
the library once and shows what comes back; an error of the library becomes one sentence on standard error and the
error's own exit code: 0 done, 1 error, 2 wrong usage, 3 done but lossy.
"""

from __future__ import annotations

import errno
from typing import Any

import click

from bag.cli.demo import demo
from bag.cli.info import info
from bag.cli.play import play
from bag.cli.record import record
from bag.errors import BagError
from cortex.errors import CortexError

__all__ = ["bag"]


class _Group(click.Group):
    """A click group at whose border the library's errors become exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except (BagError, CortexError) as error:
            click.echo(f"Error: {error}", err=True)
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


for _command in (record, info, play, demo):
    bag.add_command(_command)
