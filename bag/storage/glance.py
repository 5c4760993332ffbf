"""The topics of a bag without opening it as one: nothing is rolled forward, nothing is written, damage is no news."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from bag.storage import layout as names
from bag.storage.damage import reading
from bag.storage.definitions import parse_definitions
from bag.storage.sidecars import Sidecars
from bag.storage.snapshot import take_snapshot
from bag.storage.tree import open_bag_file, table


def topics_at_a_glance(path: Path) -> list[tuple[str, str]]:
    """(topic, type) as of the last commit.

    Raises:
        OSError, BagFormatError, IntegrityError: it cannot be read.
    """
    with ExitStack() as opened:
        snapshot = take_snapshot(path) if Sidecars(path).exist() else None
        if snapshot is not None:
            opened.callback(snapshot.close)
        opened.enter_context(reading(path))
        root = opened.enter_context(open_bag_file(path, snapshot))
        text = table(root, names.DEFINITIONS, np.dtype("u1")).tobytes()
    return [(channel.topic, channel.type_name) for channel in parse_definitions(text, str(path)).channels]
