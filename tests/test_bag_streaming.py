"""Bags larger than memory stream, and loading samples does not make a process grow."""

import numpy as np
import pytest
from helpers import spawn_python
from made_bags import T0

import bag
from cortex.messages.standard import ArrayMessage, ImageMessage

FRAMES = 400
SHAPE = (480, 640, 3)
MB = 1 << 20


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A bag of 350 MB: more than the readers below may take."""
    path = tmp_path_factory.mktemp("large") / "large.h5"
    frames = [np.full(SHAPE, number, np.uint8) for number in range(4)]
    with bag.Writer(path, keep_tail=False) as writer:
        for start in range(0, FRAMES, 20):
            numbers = range(start, start + 20)
            writer.write_many("/c", [(ImageMessage(frames[n % 4]), T0 + n * 10_000_000, None) for n in numbers])
            imu = [(ArrayMessage(np.arange(6.0) + n), T0 + n * 10_000_000, None) for n in numbers]
            writer.write_many("/imu", imu)
    yield path
    path.unlink()


STREAM = """
import resource, sys
import numpy as np
import bag
from bag.export import export
path, out, allowed = sys.argv[1], sys.argv[2], int(sys.argv[3])

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

with bag.open(path) as run:
    run["/c"].raw(0)
    held = resource.getpagesize() * int(open("/proc/self/statm").read().split()[0])
    # no more address space than now and a fraction of the bag
    resource.setrlimit(resource.RLIMIT_AS, (held + allowed, held + allowed))
    before = peak()
    assert sum(len(raw.frames[2]) for raw in run.messages(topics=["/c"])) == 400 * 480 * 640 * 3
    assert sum(int(frame[0, 0, 0]) for frame in run["/c"]["data"]) == 600
    assert sum(int(message.data[0, 0, 0]) for message in run["/c"]) == 600
    aligned = run.align(["/c"], on="/imu")
    for start in range(0, 400, 20):
        assert aligned["/c"].read("data", start, start + 20).shape == (20, 480, 640, 3)
    assert all(len(window["/c"]["data"]) <= 3 for window in run.windows("30ms", stride="30ms"))
    export(run, out + "/o.npz", "npz")
    try:
        run["/c"]["data"][:]
    except MemoryError:
        print("refused by the limit")
    assert peak() - before < allowed
"""


def test_a_bag_larger_than_the_memory_limit_streams(large, tmp_path):
    with spawn_python(["-c", STREAM, str(large), str(tmp_path), str(200 * MB)]) as child:
        out, err = child.communicate(timeout=150)
    assert child.returncode == 0, err
    # the limit was real: the whole topic did not fit
    assert out == "refused by the limit\n"
    (tmp_path / "o.npz").unlink()


LOAD = """
import sys, torch, bag

def resident(process):
    return int(open(f"/proc/{process}/statm").read().split()[1]) * 4096

class Measured(torch.utils.data.Dataset):
    def __init__(self, samples):
        self.samples = samples
    def __len__(self):
        return len(self.samples)
    def __getitem__(self, number):
        import os
        sample = self.samples[number]
        return sample["/c/data"].float().mean(), sample["/imu/data"].shape[0], os.getpid(), resident(os.getpid())

if __name__ == "__main__":
    with bag.open(sys.argv[1]) as run:
        samples = run.torch_dataset(
            {"/c": "data", "/imu": "data"}, past="100ms", stride="10ms", last=["/c"], length={"/imu": 10}
        )
        loader = torch.utils.data.DataLoader(Measured(samples), batch_size=16, num_workers=2, persistent_workers=True)
        sizes = []
        for epoch in range(3):
            peak, seen = {}, 0
            for means, lengths, processes, memory in loader:
                seen += len(means)
                for process, size in zip(processes.tolist(), memory.tolist()):
                    peak[process] = max(peak.get(process, 0), size)
            assert seen == len(samples) and len(peak) == 2, (seen, peak)
            sizes.append(max(peak.values()))
        print(*sizes)
"""


def test_memory_of_loader_workers_is_flat_over_epochs(large, tmp_path):
    pytest.importorskip("torch")
    script = tmp_path / "load.py"
    script.write_text(LOAD)
    with spawn_python([str(script), str(large)]) as child:
        out, err = child.communicate(timeout=170)
    assert child.returncode == 0, err
    sizes = list(map(int, out.split()))
    # an epoch reads 350 MB; what stays of it may be no more than some of the allocator's slack
    assert sizes[2] - sizes[0] < 40 * MB
