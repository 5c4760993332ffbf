"""Record live Cortex topics into HDF5, replay them as they were, and read them as arrays.

import bag

with bag.Recorder("run.h5", bag.RecordOptions(all_topics=True)):
    ...
with bag.Player("run.h5") as player:
    player.play()
with bag.open("run.h5") as run:
    run["/camera/image"]["data"][100:200]
"""

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
