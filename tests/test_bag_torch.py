"""Windows as PyTorch samples, in this process and in workers under fork and spawn, with flat memory."""

from itertools import pairwise

import numpy as np
import pytest
from made_bags import MS, sample, write

import bag
from cortex.messages.standard import ArrayMessage, ImageMessage

torch = pytest.importorskip("torch")

FIELDS = {"/camera/image": "data", "/imu": ["angular_velocity", "temperature"]}


@pytest.fixture
def robot():
    with bag.open(sample("robot")) as run:
        yield run


def dataset(run, **options):
    options = {"past": "200ms", "stride": "20ms", "last": ["/camera/image"], "length": {"/imu": 8}} | options
    return run.torch_dataset(FIELDS, **options)


def test_a_sample_is_a_window(robot):
    samples = dataset(robot)
    windows = robot.windows("200ms", stride="20ms", topics=["/camera/image", "/imu"])
    assert len(samples) == len(windows) > 20
    for number in (0, 7, len(samples) - 1):
        sample_, window = samples[number], windows[number]
        assert sample_["time_ns"] == window.time_ns
        assert np.array_equal(sample_["/camera/image/data"].numpy(), window["/camera/image"].past("data")[-1])
        assert np.array_equal(sample_["/imu/angular_velocity"].numpy(), window["/imu"]["angular_velocity"][-8:])
        assert sample_["/imu/temperature"].shape == (8,)
    with pytest.raises(IndexError):
        samples[len(samples)]


def test_short_windows_are_padded_at_the_front(tmp_path):
    messages = {"/a": [(i * 10 * MS, ArrayMessage(np.array([i]))) for i in range(30)]}
    with bag.open(write(tmp_path / "p.h5", messages)) as run:
        samples = run.torch_dataset({"/a": "data"}, past="30ms", length={"/a": 5})
        first = samples[0]["/a/data"][:, 0].tolist()
        assert first[0] == first[1] == first[2]
        assert len(first) == 5


def test_transforms_and_refusals(robot):
    assert dataset(robot, transform=lambda s: s["/imu/temperature"].mean().item())[0] > 30
    with pytest.raises(bag.UsageError, match="/joints"):
        dataset(robot, length={"/joints": 2})
    with pytest.raises(bag.UsageError, match="style"):
        dataset(robot, style="heap")


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("style", ["map", "iterable"])
def test_workers_give_every_sample_once(robot, style, context):
    samples = dataset(robot, style=style, shuffle=style == "iterable") if style == "iterable" else dataset(robot)
    loader = torch.utils.data.DataLoader(samples, batch_size=4, num_workers=2, multiprocessing_context=context)
    wanted = {samples.samples[i]["time_ns"]: samples.samples[i]["/camera/image/data"] for i in range(len(samples))}
    seen = {}
    for batch in loader:
        for time_ns, image in zip(batch["time_ns"].tolist(), batch["/camera/image/data"], strict=True):
            assert time_ns not in seen
            seen[time_ns] = image
    assert seen.keys() == wanted.keys()
    assert all(torch.equal(seen[time_ns], wanted[time_ns]) for time_ns in wanted)


def test_shuffling_goes_by_chunk_and_differs_by_epoch(tmp_path):
    messages = {"/c": [(i * 10 * MS, ImageMessage(np.full((160, 160, 3), i, np.uint8))) for i in range(200)]}
    with bag.open(write(tmp_path / "s.h5", messages)) as run:
        samples = run.torch_dataset(
            {"/c": "data"}, past="20ms", stride="10ms", style="iterable", shuffle=True, last=["/c"]
        )
        first, second = ([s["time_ns"] for s in samples] for _epoch in range(2))
        assert sorted(first) == sorted(second) == samples.samples.windows.times.tolist()
        assert first != second != sorted(second)
        groups = samples.samples.chunks()
        assert 3 <= len(groups) <= 10
        # samples of a chunk stay together
        of = {int(samples.samples.windows.times[n]): number for number, group in enumerate(groups) for n in group}
        changes = sum(of[one] != of[other] for one, other in pairwise(first))
        assert changes == len(groups) - 1


def test_training_and_test_windows_load_apart(robot):
    windows = robot.windows("100ms", stride="20ms", topics=["/imu"])
    train, test = windows.split(0.7)
    parts = [robot.torch_dataset({"/imu": "orientation"}, windows=part, length={"/imu": 5}) for part in (train, test)]
    assert [len(part) for part in parts] == [len(train), len(test)]
    assert parts[0][0]["/imu/orientation"].shape == (5, 4)
