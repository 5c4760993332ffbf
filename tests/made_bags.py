"""Small bags for the tests of the dataset API: the samples made afresh with their truth, and bags of given messages."""

from __future__ import annotations

import functools
import json
import runpy
import tempfile
from collections.abc import Mapping
from pathlib import Path

from helpers import REPOSITORY

import bag
from cortex.messages.standard import IntMessage

T0 = 1_767_225_600_000_000_000
MS = 1_000_000


@functools.cache
def samples() -> tuple[Path, dict[str, dict]]:
    """(directory, truth of each bag by name), made once in a process."""
    holder = tempfile.TemporaryDirectory(prefix="bag_samples_")
    directory = Path(holder.name)
    runpy.run_path(str(REPOSITORY / "sample_data" / "make.py"))["main"](directory)
    samples.holder = holder
    truth = {path.stem: json.loads(path.read_text())["topics"] for path in directory.glob("*.json")}
    return directory, truth


def sample(name: str) -> Path:
    return samples()[0] / f"{name}.h5"


def write(path: Path, topics: dict[str, list[tuple[int, object]]], **options: object) -> Path:
    """A bag of {topic: [(offset in ns, message)]}."""
    with bag.Writer(path, **options) as writer:
        for topic, messages in topics.items():
            writer.write_many(topic, [(message, T0 + offset, None) for offset, message in messages])
    return path


def gathered(path: Path, *, ahead_ns: Mapping[str, int] | None = None, **options: object) -> Path:
    """A bag of 100 messages on each topic, sent every 10 ms, the first at T0, and received five at a time.

    `ahead_ns` are the topics, and how much the clocks of their publishers are ahead; /n alone, and right, if not given.
    """
    sent = range(0, 1000 * MS, 10 * MS)
    received = [50 * MS * (offset // (50 * MS) + 1) for offset in sent]
    with bag.Writer(path, **options) as writer:
        for topic, ahead in (ahead_ns or {"/n": 0}).items():
            times = zip(received, sent, strict=True)
            messages = [(IntMessage(n), T0 + log, T0 + publish + ahead) for n, (log, publish) in enumerate(times)]
            writer.write_many(topic, messages)
    return path
