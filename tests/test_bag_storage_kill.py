"""SIGKILL at random moments of a real writer: everything it had acknowledged is in the bag, which opens every time."""

import mmap
import random
import shutil
import signal
import struct

import h5py
import pytest
from helpers import spawn_python, wait_until
from storage_kit import contents, memory_directory


@pytest.fixture
def tmp_path():
    yield from memory_directory()


TOPICS = ("/imu", "/camera", "/lidar", "/words", "/late")
COUNTS = struct.Struct(f"<{len(TOPICS)}Q")

# appends forever, and after each append writes into shared memory how many messages of each topic are safe
CHILD = """
import mmap, random, struct, sys
import numpy as np
from storage_kit import channel_on, frames_of, rows_of
from bag.storage.writer import BagWriter


path, counter, seed = sys.argv[1:]
TOPICS = ("/imu", "/camera", "/lidar", "/words", "/late")
COUNTS = struct.Struct("<5Q")
rnd = random.Random(int(seed))
file = open(counter, "r+b")
acknowledged = mmap.mmap(file.fileno(), COUNTS.size)

def message(topic, k):
    if topic == "/camera":
        return frames_of([np.full((120, 200, 3), k % 251, np.uint8)], k)
    if topic == "/lidar":
        return frames_of([np.full((k * 13 % 4000, 4), k, np.float32)], k)
    if topic == "/words":
        return frames_of([{"k": k, "text": "x" * (k % 50)}], k)
    return frames_of([np.arange(k, k + 10, dtype=np.float64)], k)

counts = dict.fromkeys(TOPICS, 0)
writer = BagWriter(path)
ids = {topic: writer.add_channel(channel_on(topic)).id for topic in TOPICS[:4]}
while True:
    if "/late" not in ids and counts["/imu"] > 300:
        ids["/late"] = writer.add_channel(channel_on("/late")).id
    topic = rnd.choice(list(ids))
    n = rnd.randint(1, 3) if topic in ("/camera", "/lidar") else rnd.randint(1, 40)
    first = counts[topic]
    writer.append(ids[topic], rows_of(topic, [message(topic, k) for k in range(first, first + n)], first))
    counts[topic] += n
    acknowledged[:] = COUNTS.pack(*counts.values())
    if rnd.random() < 0.05:
        writer.commit()
"""


def expected(topic, count):
    # the same messages again, from the same source
    space = {}
    exec(CHILD[CHILD.index("def message") : CHILD.index("counts =")], _names(), space)
    return [space["message"](topic, k) for k in range(count)]


def _names():
    import numpy as np
    from storage_kit import frames_of

    return {"np": np, "frames_of": frames_of}


@pytest.mark.parametrize("seed", range(20))
def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path, seed):
    path, counter = tmp_path / "run.h5", tmp_path / "counter"
    counter.write_bytes(bytes(COUNTS.size))
    rnd = random.Random(seed)
    with counter.open("r+b") as file, mmap.mmap(file.fileno(), COUNTS.size) as acknowledged:
        with spawn_python(["-c", CHILD, str(path), str(counter), str(seed)], {"PYTHONPATH": _search_path()}) as child:
            enough = rnd.choice((1, 50, 400, 1500, 3000)) * rnd.random()
            wait_until(
                lambda: sum(COUNTS.unpack(acknowledged[:])) > enough or child.poll() is not None, 60, "enough messages"
            )
            child.send_signal(signal.SIGKILL)
            child.wait(30)
            assert child.returncode == -signal.SIGKILL, child.stderr.read()
        counts = dict(zip(TOPICS, COUNTS.unpack(acknowledged[:]), strict=True))
    if (tmp_path / "run.h5.journal").stat().st_size == 0:
        shutil.copyfile(path, tmp_path / "plain.h5")
        read_all(tmp_path / "plain.h5")
    found = contents(path)
    for topic, count in counts.items():
        messages = found.get(topic, [])
        assert len(messages) >= count, topic
        assert messages == expected(topic, len(messages)), topic
    read_all(path)
    assert sorted(p.name for p in tmp_path.glob("run.h5*")) == ["run.h5"]


def read_all(path):
    with h5py.File(path, "r") as file:
        file.visititems(lambda _name, node: node[()] if isinstance(node, h5py.Dataset) else None)


def _search_path():
    import os
    from pathlib import Path

    tests = Path(__file__).resolve().parent
    return os.pathsep.join((str(tests.parent), str(tests)))
