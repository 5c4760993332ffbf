"""``cortex discovery``: the daemon, under the same options as the command ``cortex-discovery``."""

from __future__ import annotations

import click

from cortex.discovery.daemon import run_daemon
from cortex.paths import default_discovery_address
from cortex.utils.logging import LEVELS


@click.command()
@click.option(
    "--address",
    metavar="ADDRESS",
    envvar="CORTEX_DISCOVERY_ADDRESS",
    show_envvar=True,
    default=default_discovery_address,
    help="Where to listen. Default: discovery.sock in CORTEX_DIR or /tmp/cortex.",
)
@click.option(
    "--log-level",
    type=click.Choice(list(LEVELS), case_sensitive=False),
    default="INFO",
    show_default=True,
    help="What to log on standard error.",
)
@click.pass_context
def discovery(ctx: click.Context, address: str, log_level: str) -> None:
    """Run the discovery daemon.

    It keeps the list of topics, until Ctrl-C or SIGTERM.

    Example: cortex discovery --log-level WARNING
    """
    ctx.exit(run_daemon(address, log_level))


__all__ = ["discovery"]
