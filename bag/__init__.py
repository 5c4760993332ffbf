"""Record live Cortex topics into HDF5, replay them as they were, and read them as arrays.

import bag

with bag.Recorder("run.h5", bag.RecordOptions(all_topics=True)):
    ...
with bag.Player("run.h5") as player:
    player.play()
with bag.open("run.h5") as run:
    run["/camera/image"]["data"][100:200]

Names are fetched when they are first used, so that a command that reads a bag does not wait for what records one.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bag.catalog import Bags, open_many
    from bag.clock import ManualClock, PlayerClock
    from bag.dataset import Bag, open_bag
    from bag.dataset import open_bag as open
    from bag.differences import DiffReport, TopicDiff, diff
    from bag.errors import (
        BagBusyError,
        BagError,
        BagExistsError,
        BagFormatError,
        IntegrityError,
        LossyError,
        MissingExtraError,
        ReplayError,
        UsageError,
    )
    from bag.fields import Field
    from bag.options import PlayOptions, RecordOptions
    from bag.player import Player
    from bag.recorder import Recorder
    from bag.records import BagInfo, Channel, Gap, RawMessage, Schema, SchemaField, TopicSummary
    from bag.statistics import Lateness, PlayProgress, PlayReport, RecorderStatistics, TopicPlayReport, TopicStatistics
    from bag.topic import Topic
    from bag.writer import Writer

__all__ = [
    "Bag",
    "BagBusyError",
    "BagError",
    "BagExistsError",
    "BagFormatError",
    "BagInfo",
    "Bags",
    "Channel",
    "DiffReport",
    "Field",
    "Gap",
    "IntegrityError",
    "Lateness",
    "LossyError",
    "ManualClock",
    "MissingExtraError",
    "PlayOptions",
    "PlayProgress",
    "PlayReport",
    "Player",
    "PlayerClock",
    "RawMessage",
    "RecordOptions",
    "Recorder",
    "RecorderStatistics",
    "ReplayError",
    "Schema",
    "SchemaField",
    "Topic",
    "TopicDiff",
    "TopicPlayReport",
    "TopicStatistics",
    "TopicSummary",
    "UsageError",
    "Writer",
    "diff",
    "open",
    "open_bag",
    "open_many",
]

# where each name lives, and what it is called there if not the same
_HOMES = {
    "Bag": "bag.dataset",
    "BagBusyError": "bag.errors",
    "BagError": "bag.errors",
    "BagExistsError": "bag.errors",
    "BagFormatError": "bag.errors",
    "BagInfo": "bag.records",
    "Bags": "bag.catalog",
    "Channel": "bag.records",
    "diff": "bag.differences",
    "DiffReport": "bag.differences",
    "Field": "bag.fields",
    "Gap": "bag.records",
    "IntegrityError": "bag.errors",
    "Lateness": "bag.statistics",
    "LossyError": "bag.errors",
    "ManualClock": "bag.clock",
    "MissingExtraError": "bag.errors",
    "open": "bag.dataset:open_bag",
    "open_bag": "bag.dataset",
    "open_many": "bag.catalog",
    "Player": "bag.player",
    "PlayerClock": "bag.clock",
    "PlayOptions": "bag.options",
    "PlayProgress": "bag.statistics",
    "PlayReport": "bag.statistics",
    "RawMessage": "bag.records",
    "Recorder": "bag.recorder",
    "RecorderStatistics": "bag.statistics",
    "RecordOptions": "bag.options",
    "ReplayError": "bag.errors",
    "Schema": "bag.records",
    "SchemaField": "bag.records",
    "Topic": "bag.topic",
    "TopicDiff": "bag.differences",
    "TopicPlayReport": "bag.statistics",
    "TopicStatistics": "bag.statistics",
    "TopicSummary": "bag.records",
    "UsageError": "bag.errors",
    "Writer": "bag.writer",
}

# hidden from type checkers, which would take any misspelt name for one of these
if not TYPE_CHECKING:

    def __getattr__(name):
        """Fetch a name of this face."""
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module 'bag' has no attribute {name!r}")
        module, _, there = _HOMES[name].partition(":")
        return globals().setdefault(name, getattr(import_module(module), there or name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
