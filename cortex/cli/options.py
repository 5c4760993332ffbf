"""Every option that several `cortex` commands share, so that a word means the same thing everywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from cortex.discovery.client import DiscoveryClient
from cortex.errors import DiscoveryUnavailableError
from cortex.paths import default_discovery_address

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_ANSWER_TIMEOUT_MS = 2000


def _read_seconds(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(ms|s|m|h|)", value.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not seconds > 0:
        raise click.BadParameter(f"{value!r} is not a duration such as 1.5s, 200ms or 5m.")
    return seconds


_SECONDS: dict[str, Any] = {"metavar": "DURATION", "callback": _read_seconds}

discovery_address_opt = click.option(
    "--discovery-address",
    metavar="ADDRESS",
    envvar="CORTEX_DISCOVERY_ADDRESS",
    show_envvar=True,
    default=default_discovery_address,
    help="Where the discovery daemon listens. Default: discovery.sock in CORTEX_DIR or /tmp/cortex.",
)
json_opt = click.option("--json", "as_json", is_flag=True, help="Write JSON for programs on standard output.")
wait_opt = click.option("-w", "--wait", is_flag=True, help="Wait for the topic when it is not registered yet.")
duration_opt = click.option("--duration", help="Stop after this time, as in 10s.", **_SECONDS)
window_opt = click.option("--window", default="1s", show_default=True, help="Length of one measurement.", **_SECONDS)
windows_opt = click.option("-n", "--count", type=click.IntRange(min=1), help="Stop after this many measurements.")
topic_arg = click.argument("name", metavar="TOPIC")


def measurement_options(command: Command) -> Command:
    """Add what `topic hz` and `topic bw` have in common."""
    for option in (json_opt, discovery_address_opt, wait_opt, duration_opt, windows_opt, window_opt, topic_arg):
        command = option(command)
    return command


@contextmanager
def asking(address: str) -> Iterator[DiscoveryClient]:
    """Give a client for a command; when no daemon answers, say in one sentence how to start one there."""
    try:
        with DiscoveryClient(address, timeout_ms=_ANSWER_TIMEOUT_MS, retries=0) as client:
            yield client
    except DiscoveryUnavailableError as err:
        where = "" if address == default_discovery_address() else f" --address {address}"
        raise click.ClickException(
            f"no discovery daemon answers at {address}; start one with `cortex discovery{where}`."
        ) from err


__all__ = [
    "asking",
    "discovery_address_opt",
    "duration_opt",
    "json_opt",
    "measurement_options",
    "topic_arg",
    "wait_opt",
    "window_opt",
    "windows_opt",
]
