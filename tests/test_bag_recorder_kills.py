"""SIGKILL at random moments of real recorders under three loads: all bags open, nothing is missing that had arrived.

What had arrived is what the recorder itself said at last before it died: the `messages` of its `statistics()`, which
the lines of `--json` show too, copied to shared memory every millisecond. (What it calls backlog has been received, but
is not promised.) Each topic must hold at least so many messages, one after the other without a hole, each as it was
sent.

CORTEX_BAG_KILLS is how often the recorder is killed under each load.
"""

import mmap
import os
import random
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers import spawn_python, wait_until
from kill_loads import COUNTS, LOADS, check, files_of
from storage_kit import plain

from bag.storage.reader import BagReader
from bag.storage.verify import verify

KILLS = int(os.environ.get("CORTEX_BAG_KILLS", "3"))
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).resolve().parent)}


def messages_of(paths):
    """(sequence, parts) of every topic over all files; none of them may be unreadable."""
    out = {}
    for path in paths:
        with BagReader(path) as reader:
            assert reader.rolled_forward is None or not reader.rolled_forward.problem
            for topic, found in reader.topics.items():
                raw = reader.raw(topic, 0, len(found))
                out.setdefault(topic, []).extend((message.sequence, plain(message.frames)) for message in raw)
    return out


@pytest.mark.parametrize("load", LOADS)
def test_a_killed_recorder_loses_nothing_that_it_had(tmp_path, cortex_dir, discovery, load):
    rnd = random.Random(os.environ.get("CORTEX_BAG_KILLS_SEED", load))
    late = LOADS[load].late > 0
    safe = total = files = 0
    with ExitStack() as speaking:
        for number in range(KILLS):
            if late or not number:
                # where topics come late, they must come late to each recorder
                speaking.close()
                words = ["-m", "kill_loads", "send", load, str(cortex_dir), discovery.address]
                speaking.enter_context(spawn_python(words, ENVIRONMENT))
            with tempfile.TemporaryDirectory(dir=tmp_path) as place:
                counts = killed(load, Path(place) / "run.h5", discovery.address, rnd)
                paths = files_of(Path(place) / "run.h5")
                found = messages_of(paths)
                check(load, found)
                for name, count in zip(LOADS[load].names, counts, strict=False):
                    assert len(found.get(name, [])) >= count, name
                if number % 10 == 0:
                    assert all(verify(path).whole for path in paths)
                safe, files = safe + sum(counts), files + len(paths)
                total += sum(map(len, found.values()))
    print(f"{load}: {KILLS} kills, {files} files, {safe} messages had been reported, {total} are there")
    assert total >= safe > 0


def killed(load, output, discovery, rnd):
    """Record, and kill the recorder; returns what it had reported of each topic."""
    counter = output.with_name("counter")
    counter.write_bytes(bytes(COUNTS.size))
    words = ["-m", "kill_loads", "record", load, str(output), discovery, str(counter)]
    with counter.open("r+b") as file, mmap.mmap(file.fileno(), COUNTS.size) as shared:
        with spawn_python(words, ENVIRONMENT) as recorder:
            rate = LOADS[load].hz * LOADS[load].topics
            # a moment within the first second and a half
            enough = rnd.random() * 1.5 * rate
            wait_until(
                lambda: sum(COUNTS.unpack(shared[:])) > enough or recorder.poll() is not None, 60, "enough messages"
            )
            recorder.send_signal(signal.SIGKILL)
            recorder.wait(30)
            assert recorder.returncode == -signal.SIGKILL, recorder.stderr.read()
        return COUNTS.unpack(shared[:])
