"""``cortex node``: who publishes."""

from __future__ import annotations

import json

import click

from cortex.cli.options import asking, discovery_address_opt, json_opt
from cortex.cli.tables import print_table
from cortex.discovery.protocol import DiscoverySnapshot


@click.group()
def node() -> None:
    """Look at nodes.

    Example: cortex node list
    """


@node.command("list")
@discovery_address_opt
@json_opt
def list_nodes(discovery_address: str, as_json: bool) -> None:
    """List the nodes that publish something.

    A node is dead when the publishers of all its topics are.

    Example: cortex node list --json
    """
    with asking(discovery_address) as client:
        snapshot = client.snapshot()
    nodes = _topics_by_node(snapshot)
    if as_json:
        found = [
            {"node": name, "topics": topics, "dead": [topic for topic in topics if topic in snapshot.dead]}
            for name, topics in nodes.items()
        ]
        click.echo(json.dumps(found))
    elif nodes:
        print_table(
            ("NODE", "STATE", "TOPICS"),
            [
                (name, "dead" if snapshot.dead.issuperset(topics) else "live", "  ".join(topics))
                for name, topics in nodes.items()
            ],
        )
    else:
        click.echo("No nodes.")


def _topics_by_node(snapshot: DiscoverySnapshot) -> dict[str, list[str]]:
    nodes: dict[str, list[str]] = {}
    for info in snapshot.topics:
        nodes.setdefault(info.publisher_node, []).append(info.name)
    return dict(sorted(nodes.items()))


__all__ = ["node"]
