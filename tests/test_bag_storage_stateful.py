"""A writer that lives, commits, dies and is read back in any order of events, held against plain lists."""

import gc

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from storage_kit import Disk, channel_on, frames_of, memory_directory, merged_frames, rows_of, stored

from bag.storage import commits
from bag.storage.reader import BagReader
from bag.storage.writer import BagWriter

NAMES = ("/a", "/a/b", "/camera", "/late", "")


def words(k):
    return frames_of([{"k": k, "text": "x" * (k % 7)}], k)


def imu(k):
    return frames_of([1.0, np.arange(k, k + 3, dtype=np.float64)], k)


def cloud(k):
    return frames_of([np.full((k * 5 % 4, 2), k, np.float32)], k)


def image(k):
    return frames_of([np.full((3, 30_000), k % 251, np.uint8)], k)


def odd(k):
    return [*frames_of([np.zeros(k % 3)], k)[: 2 + k % 2], b"surplus"]


@pytest.fixture(autouse=True)
def few_topics_are_many(monkeypatch):
    monkeypatch.setattr(commits, "MANY_TOPICS", 1)


MAKERS = (words, imu, cloud, image, odd)


class Recording(RuleBasedStateMachine):
    """`model` holds what was appended, by topic, in the order topics came to be known."""

    def __init__(self):
        super().__init__()
        self._place = memory_directory()
        self.directory = next(self._place)
        self.path = self.directory / "run.h5"

    @initialize()
    def begin(self):
        self.disk = Disk(keep=False)
        self.writer = BagWriter(self.path, force=True, opener=self.disk)
        self.model, self.ids, self.sequences = {}, {}, {}
        self.marks = []
        self.clock = 0

    def teardown(self):
        if self.writer is not None:
            self.writer.abort()
        self._place.close()

    @property
    def alive(self):
        return self.writer is not None

    @precondition(lambda self: self.alive)
    @rule(topic=st.sampled_from(NAMES), node=st.sampled_from("xy"))
    def see_publisher(self, topic, node):
        """A new topic, or another publisher of it."""
        self.ids[topic] = self.writer.add_channel(channel_on(topic, node=node)).id
        self.model.setdefault(topic, [])

    @precondition(lambda self: self.alive and self.ids)
    @rule(data=st.data(), make=st.sampled_from(MAKERS), count=st.integers(1, 6))
    def append(self, data, make, count):
        topic = data.draw(st.sampled_from(sorted(self.ids)))
        messages = [make(len(self.model[topic]) + k) for k in range(count)]
        self.writer.append(self.ids[topic], rows_of(topic, messages, self.clock))
        self.clock += count
        self.model[topic] += messages

    @precondition(lambda self: self.alive and self.ids)
    @rule(data=st.data(), first=st.integers(0, 50), count=st.integers(1, 3))
    def lose(self, data, first, count):
        topic = data.draw(st.sampled_from(sorted(self.ids)))
        self.writer.note(self.ids[topic], "lost_by_us", (first, first + count - 1), count, self.clock)

    @precondition(lambda self: self.alive)
    @rule(text=st.text(max_size=5))
    def mark(self, text):
        self.writer.mark(text, self.clock)
        self.marks.append((text, self.clock))

    @precondition(lambda self: self.alive)
    @rule(sync=st.booleans())
    def commit(self, sync):
        self.writer.commit(sync=sync)

    @precondition(lambda self: self.alive)
    @rule(parts=st.integers(1, 12))
    def commit_some(self, parts):
        for _ in range(parts):
            self.writer.commit_some(0)

    @precondition(lambda self: self.alive)
    @rule()
    def close(self):
        self.writer.close()
        self.writer = None

    @precondition(lambda self: self.alive)
    @rule()
    def kill(self):
        self.writer.abort()
        self.writer = None

    @precondition(lambda self: self.alive)
    @rule()
    def drop(self):
        self.writer = None
        gc.collect()

    @precondition(lambda self: not self.alive)
    @rule()
    def restart(self):
        self.begin()

    @invariant()
    def a_bag_that_nobody_writes_holds_all_that_was_appended(self):
        if self.alive:
            return
        for _ in range(2):
            with BagReader(self.path, opener=self.disk) as reader:
                assert list(reader.topics) == list(self.model)
                assert {topic: stored(reader, topic) for topic in self.model} == self.model
                assert list(reader.marks) == self.marks
                assert {t.topic: t.messages for t in reader.info().topics} == {t: len(m) for t, m in self.model.items()}
                everything = sorted((topic, frames) for topic, messages in self.model.items() for frames in messages)
                assert sorted(merged_frames(reader, "log")) == everything
        assert [path.name for path in self.directory.iterdir()] == ["run.h5"]


TestRecording = Recording.TestCase
TestRecording.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
