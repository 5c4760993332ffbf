"""Recordings of tests: the fixture `bag_record` records the topics of a test, and keeps the bag when the test fails.

def test_the_gripper_closes(bag_record):
    with bag_record(["/force"]):
        close_gripper()
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bag.options import RecordOptions
from bag.recorder import Recorder

FAILED: pytest.StashKey[bool] = pytest.StashKey()


class BagRecord:
    """What the fixture gives: call it with topics, or nothing for all, and fields of `bag.RecordOptions`.

    Args:
        directory: where the bags go.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.paths: list[Path] = []

    @contextlib.contextmanager
    def __call__(self, topics: Sequence[str] = (), **options: Any) -> Iterator[Recorder]:
        """Record until the block ends."""
        path = self.directory / f"recording_{len(self.paths)}.h5"
        self.paths.append(path)
        with Recorder(path, RecordOptions(topics=tuple(topics), all_topics=not topics, **options)) as recorder:
            yield recorder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember that a test failed, for the fixture to see."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture
def bag_record(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BagRecord]:
    """Records the topics of a test; the bags are removed when it passes, and named in the report when it fails."""
    record = BagRecord(tmp_path)
    yield record
    if request.node.stash.get(FAILED, False):
        kept = "\n".join(str(path) for path in record.paths if path.exists())
        request.node.add_report_section("teardown", "recordings of this test", kept)
        return
    for path in record.paths:
        for one in path.parent.glob(f"{path.stem}*"):
            one.unlink()
