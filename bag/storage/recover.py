"""Makes a new, whole bag of what can still be proven in a damaged one, and never touches the damaged one.

HDF5 is not needed for that: the checksums are carved out of the file, the definitions they prove say what there was,
and every message whose bytes are all proven is copied. What HDF5 alone knows (description, host, how many messages
there should be) is asked for in a child process, since HDF5 may crash on such a file. The result is proven by `verify`.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bag.errors import BagBusyError, BagFormatError, IntegrityError
from bag.storage import layout as names
from bag.storage.guard import ask
from bag.storage.output import check_output, new_bag
from bag.storage.plans import Origin, Piece, TopicPlan
from bag.storage.probe import ROLL_FORWARD_CPU_S
from bag.storage.proven import ProvenBag, carve
from bag.storage.rescue import Rescued, rescue
from bag.storage.resume import roll_forward
from bag.storage.sidecars import Sidecars
from bag.storage.transfer import transfer
from bag.storage.tree import attribute, open_bag_file, table
from bag.storage.verify import VerifyReport, verify


@dataclass(frozen=True, slots=True)
class TopicRecovery:
    """Messages of a topic that are in the new bag, and those known to have been in the old one that are not."""

    topic: str
    kept: int
    lost: int


@dataclass(frozen=True, slots=True)
class RecoverReport:
    """What was recovered. `notes` are sentences; `verified` is the check of the new bag."""

    source: str
    path: str
    topics: tuple[TopicRecovery, ...]
    notes: tuple[str, ...]
    verified: VerifyReport

    @property
    def kept(self) -> int:
        """Messages in the new bag."""
        return sum(topic.kept for topic in self.topics)

    @property
    def lost(self) -> int:
        """Messages known to be lost."""
        return sum(topic.lost for topic in self.topics)


def recover(
    source: str | Path, output: str | Path, *, force: bool = False, progress: Callable[[int], None] | None = None
) -> RecoverReport:
    """Write every message of `source` that is still whole to the new bag `output`.

    Raises:
        FileNotFoundError: there is no such file.
        BagBusyError: it is being written.
        BagFormatError: nothing of a bag is left in it.
        BagExistsError, UsageError: see `check_output`.
    """
    source, output = Path(source), Path(output)
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {source}")
    check_output(output, [source], force=force)
    notes: list[str] = []
    with _finished(source, output.parent, notes) as path, _carved(path, source) as bag:
        told: dict[str, Any] = ask(lambda: _glimpse(path)) or {}
        if not told:
            notes.append("HDF5 cannot read the file, so description, host and custom data are lost")
        rescued = rescue(bag)
        if not any(item.kept for item in rescued) and any(item.messages for item in rescued):
            raise BagFormatError(f"{source} holds no message that is still whole")
        plans = [plan for plan in (_plan(bag, item) for item in rescued) if plan is not None]
        with new_bag(output, [source], told.get("attributes", {}), force=force) as writer:
            for text, log_time_ns in bag.definitions.marks:
                writer.mark(text, log_time_ns)
            for wall_ns, mono_ns in bag.clock.tolist():
                writer.note_clock(wall_ns, mono_ns)
            transfer(writer, plans, progress)
    report = verify(output)
    if not report.whole:
        raise IntegrityError(f"{output} was recovered but does not pass verify; please report this")
    stated = told.get("messages", {})
    topics = tuple(_recovery(item, stated.get(item.topic.name, 0)) for item in rescued)
    return RecoverReport(str(source), str(output), topics, tuple(notes), report)


def _recovery(item: Rescued, stated: int) -> TopicRecovery:
    # a number that HDF5 read from a damaged file may be anything
    known = stated if item.messages <= stated <= 2 * item.messages + 1000 else item.messages
    return TopicRecovery(item.topic.name, item.kept, known - item.kept)


def _plan(bag: ProvenBag, item: Rescued) -> TopicPlan | None:
    if not any(channel.topic == item.topic.name for channel in bag.definitions.channels):
        return None
    last = item.ranges[-1][1] if item.ranges else 0
    origin = Origin(bag, item.topic, 0, max(last, len(item.topic)), "lost_by_us")
    return TopicPlan(item.topic.name, [origin], [Piece(origin, start, stop) for start, stop in item.ranges])


@contextmanager
def _carved(path: Path, source: Path) -> Iterator[ProvenBag]:
    try:
        bag = carve(path)
    except BagFormatError as error:
        raise BagFormatError(str(error).replace(str(path), str(source))) from None
    with bag:
        yield bag


# the file as its recorder would have left it; where the recorder died, a copy that is brought to its last message
@contextmanager
def _finished(source: Path, directory: Path, notes: list[str]) -> Iterator[Path]:
    beside = [path for path in Sidecars(source).paths.values() if path.exists()]
    if not beside:
        yield source
        return
    _refuse_busy(source, beside)
    with tempfile.TemporaryDirectory(prefix=".recover.", dir=directory) as place:
        copy = Path(place) / source.name
        for path in (source, *beside):
            shutil.copyfile(path, copy.with_name(path.name))
        if ask(lambda: roll_forward(copy) is not None, timeout_s=600, cpu_s=ROLL_FORWARD_CPU_S) is None:
            notes.append("what the recorder had not yet committed could not be used")
        yield copy


def _refuse_busy(source: Path, beside: list[Path]) -> None:
    for path in beside:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BagBusyError(f"{source} is being written by another process; wait until it is closed") from None


# what only HDF5 knows of a file
def _glimpse(path: Path) -> dict[str, Any]:
    with open_bag_file(path) as root:
        attributes = {str(name): _plain(attribute(root, name)) for name in root.attrs}
        found: dict[str, Any] = {"attributes": {name: value for name, value in attributes.items() if value is not None}}
        definitions = table(root, names.DEFINITIONS, np.dtype("u1")).tobytes()
        counts = table(root, names.TOPICS, names.TOPIC_DTYPE)["messages"].tolist()
    from bag.storage.definitions import parse_definitions

    try:
        topics = [name for name, _path in parse_definitions(definitions, str(path)).topics]
    except BagFormatError:
        return found
    return found | {"messages": dict(zip(topics, counts, strict=False))}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return int(value) if isinstance(value, (int, np.integer)) else None
