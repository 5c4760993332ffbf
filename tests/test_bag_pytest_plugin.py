"""The fixture for regression tests on recordings: everything arrives, in one order, in a world of its own."""

import asyncio
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recordings import Line, chat, write_bag

from bag.errors import ReplayError
from cortex import Node
from cortex.core.sync_subscriber import ThreadedSubscriber
from cortex.messages.standard import StringMessage
from cortex.paths import base_dir

pytest_plugins = ["bag.pytest_plugin"]
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def recording(tmp_path):
    """Two topics that take turns irregularly, recorded in a directory that is not this test's."""
    lines = [*chat(300, step_ms=1), *(Line("/map", 0.5 + 7 * n, n) for n in range(40))]
    return write_bag(tmp_path / "run.h5", Path("/var/lib/robot"), sorted(lines, key=lambda line: line.at_ms))


class CodeUnderTest:
    """Subscribes with a short queue, and takes its time."""

    def __init__(self, *topics, pause_s=0.0, queue_size=10):
        self.seen = []
        self._pause_s = pause_s
        self._subscribers = [
            ThreadedSubscriber(topic, StringMessage, self._take, queue_size=queue_size) for topic in topics
        ]
        for subscriber in self._subscribers:
            subscriber.start()

    def _take(self, message, header):
        time.sleep(self._pause_s)
        self.seen.append(message.data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for subscriber in self._subscribers:
            subscriber.close()


def test_code_that_is_slower_than_the_recording_gets_everything_in_order(bag_replay, recording):
    with bag_replay(recording, topics=["/chat"]) as replay, CodeUnderTest("/chat", pause_s=0.002) as code:
        report = replay.play()
        replay.until(lambda: len(code.seen) == 300)
    assert code.seen == [f"/chat {number}" for number in range(300)]
    assert report.sent == 300


def test_topics_arrive_in_the_order_of_the_recording_every_time(bag_replay, recording):
    orders = []
    for _ in range(2):
        with bag_replay(recording) as replay, CodeUnderTest("/chat", "/map") as code:
            sent = []

            def wait_for_it(topic):
                sent.append(topic)
                replay.until(lambda: len(code.seen) == len(sent))

            replay.play(each=wait_for_it)
        orders.append(code.seen)
    assert len(orders[0]) == 340
    assert orders[0] == orders[1]
    assert orders[0][:3] == ["/chat 0", "/map 0", "/chat 1"]


def test_nodes_that_run_in_an_event_loop_are_tested_from_one(bag_replay, recording):
    seen = []

    async def listen(message, header):
        seen.append(message.data)

    async def scenario():
        node = Node("under_test")
        node.create_subscriber("/chat", StringMessage, listen)
        running = asyncio.create_task(node.run())
        with bag_replay(recording, topics=["/chat"]) as replay:
            await replay.play_async()
            while len(seen) < 300:
                await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await node.close()

    asyncio.run(scenario())
    assert seen == [f"/chat {number}" for number in range(300)]


def test_a_replay_runs_beside_the_test(bag_replay, recording):
    with bag_replay(recording, topics=["/map"]) as replay, CodeUnderTest("/map") as code:
        replay.start()
        assert replay.join().sent == 40
        replay.until(lambda: len(code.seen) == 40)


def test_code_that_does_not_subscribe_is_told_so(bag_replay, recording):
    with (
        bag_replay(recording, wait_timeout_ns=50_000_000) as replay,
        pytest.raises(ReplayError, match="0 of 1 subscribers"),
    ):
        replay.play()


def test_code_that_hangs_is_told_so(bag_replay, tmp_path):
    path = write_bag(tmp_path / "run.h5", Path("/d"), chat(3000, step_ms=0.01))
    with bag_replay(path, wait_timeout_ns=200_000_000) as replay, CodeUnderTest("/chat", pause_s=0.9):
        with pytest.raises(ReplayError, match="subscriber of /chat has taken nothing"):
            replay.play()


def test_a_condition_that_does_not_come_true_fails_the_test(bag_replay, recording):
    with bag_replay(recording) as replay, pytest.raises(AssertionError, match="within 0"):
        replay.until(lambda: False, timeout_s=0.01)


def test_each_test_has_a_world_of_its_own(cortex_world):
    assert base_dir() == cortex_world
    assert cortex_world != Path("/tmp/cortex")
    assert (cortex_world / "discovery.sock").is_socket()
    node = Node("somebody")
    assert node.discovery_address == f"ipc://{cortex_world}/discovery.sock"


def test_the_examples_in_the_readme_run(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = [block for block in re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S) if "def test_" in block]
    assert examples
    (tmp_path / "test_example.py").write_text("\n\n".join(examples), encoding="utf-8")
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "bag.pytest_plugin",
        "-p",
        "bag.pytest_recording",
        "test_example.py",
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(examples)} passed" in done.stdout
