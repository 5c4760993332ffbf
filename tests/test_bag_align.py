"""Alignment against a slow and obvious reference, and what it says of what it could not fill."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bags import MS, T0, sample, write

import bag
from bag.align import choose, search
from bag.interpolate import slerp
from cortex.messages.standard import ArrayMessage, DictMessage, PointCloudMessage, PoseMessage, StringMessage

# few distinct times, so that duplicates and steps back are common; now and then a gap
TIMES = st.lists(st.integers(0, 12) | st.integers(500, 520), max_size=25)
TOLERANCES = st.none() | st.integers(0, 20)


def reference(times, moment, method, tolerance):
    """(rows that are used, age, valid), by looking at every message."""
    before = [row for row, time in enumerate(times) if time <= moment]
    after = [row for row, time in enumerate(times) if time >= moment]
    # of equal times the last to arrive is before, and the first is after
    low = max(before, key=lambda row: (times[row], row)) if before else None
    high = min(after, key=lambda row: (times[row], row)) if after else None
    if method == "linear":
        if low is None or high is None:
            return (-1,), 0, False
        back, ahead = moment - times[low], times[high] - moment
        age = -ahead if ahead > back else back
        return (low, high), age, tolerance is None or max(back, ahead) <= tolerance
    if method == "nearest":
        if low is not None and high is not None:
            chosen = low if moment - times[low] <= times[high] - moment else high
        else:
            chosen = low if high is None else high
    else:
        chosen = low if method == "previous" else high
    if chosen is None:
        return (-1,), 0, False
    age = moment - times[chosen]
    return (chosen,), age, tolerance is None or abs(age) <= tolerance


@settings(max_examples=400, deadline=None)
@given(
    TIMES,
    st.lists(st.integers(-5, 530), max_size=15),
    st.sampled_from(["previous", "nearest", "next", "linear"]),
    TOLERANCES,
)
def test_rows_ages_and_validity_are_those_of_the_reference(times, moments, method, tolerance):
    found = search(np.array(times, np.int64), np.array(moments, np.int64))
    rows, ages, valid = choose(found, method, tolerance)
    for at, moment in enumerate(moments):
        wanted, age, good = reference(times, moment, method, tolerance)
        assert (rows[at], ages[at], valid[at]) == (wanted[0], age, good)
        if method == "linear" and wanted[0] >= 0:
            assert (found.before[at], found.after[at]) == wanted


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=20),
    st.lists(st.integers(0, 40), min_size=1, max_size=10),
    st.sampled_from(["previous", "nearest", "next", "linear"]),
)
def test_a_bag_is_aligned_as_the_reference_says(tmp_path_factory, times, moments, method):
    path = tmp_path_factory.mktemp("align") / "a.h5"
    with bag.Writer(path) as writer:
        for number, time in enumerate(times):
            writer.write(
                "/v", ArrayMessage(np.array([number, time], float)), log_time_ns=T0 + number, publish_time_ns=T0 + time
            )
        for moment in sorted(moments):
            writer.write("/on", StringMessage("x"), log_time_ns=T0 + moment, publish_time_ns=T0 + moment)
    with bag.open(path) as run:
        aligned = run.align(["/v"], on="/on", method=method, tolerance="5ns")
        values = aligned["/v"]["data"]
        for at, moment in enumerate(sorted(moments)):
            rows, age, good = reference(times, moment, method, 5)
            assert (aligned["/v"].valid[at], aligned["/v"].age_ns[at]) == (good, age)
            if not good:
                assert np.isnan(values[at]).all()
            elif method == "linear":
                low, high = rows
                span = times[high] - times[low]
                share = (moment - times[low]) / span if span else 0.0
                assert values[at] == pytest.approx([low + (high - low) * share, moment])
            else:
                assert values[at].tolist() == [rows[0], times[rows[0]]]
    path.unlink()


def test_every_topic_of_the_robot_aligns_to_its_camera():
    with bag.open(sample("robot")) as run:
        aligned = run.align(run.topics, on="/camera/image", tolerance="20ms", clock="log")
        camera = run["/camera/image"]
        assert aligned.times.tolist() == camera.times.tolist()
        assert aligned["/camera/image"].rows.tolist() == list(range(30))
        for name in run:
            times = run[name].times
            for at, moment in enumerate(aligned.times):
                rows, age, good = reference(times.tolist(), int(moment), "previous", 20 * MS)
                assert (aligned[name].rows[at], aligned[name].age_ns[at], aligned[name].valid[at]) == (
                    rows[0],
                    age,
                    good,
                )
        assert aligned.unfilled["/imu"] == 0
        assert aligned.unfilled["/lidar/points"] == int((~aligned["/lidar/points"].valid).sum()) > 0
        assert "/lidar/points 20" in repr(aligned)
        assert aligned.valid.sum() == 10
        modes = aligned["/status"]["mode"]
        assert [mode is None for mode in modes] == (~aligned["/status"].valid).tolist()
        clouds = aligned["/lidar/points"]["points"]
        assert [cloud is None for cloud in clouds] == (~aligned["/lidar/points"].valid).tolist()


def test_alignment_reads_only_chosen_rows(monkeypatch):
    from bag.storage import bulk

    read = []
    real = bulk.take_into
    monkeypatch.setattr(bulk, "take_into", lambda column, rows, out: (read.extend(rows), real(column, rows, out)))
    with bag.open(sample("robot")) as run:
        aligned = run.align(["/camera/image"], on="/lidar/points")
        assert read == []
        assert aligned["/camera/image"]["data"].shape == (10, 48, 64, 3)
        assert read == aligned["/camera/image"].rows.tolist()


def test_moments_can_be_a_period_or_an_array():
    with bag.open(sample("robot")) as run:
        even = run.align(["/imu", "/joints"], on="20ms", clock="log")
        assert set(np.diff(even.times)) == {20 * MS}
        mine = run.align(["/imu"], on=run["/imu"].publish_times[[3, 5]])
        assert mine["/imu"].rows.tolist() == [3, 5]
        cut = run.align(["/imu"], on="/imu", start=0.2, stop=0.4)
        assert 0 < len(cut.times) < 15
        with pytest.raises(bag.UsageError, match="no topic"):
            run.align(["/imu"], on="/nothing")
        with pytest.raises(bag.UsageError, match="method"):
            run.align(["/imu"], on="/imu", method="best")
        with pytest.raises(bag.UsageError, match="clock"):
            run.align(["/imu"], on="/imu", clock="sun")
        with pytest.raises(KeyError, match="/nothing"):
            run.align(["/nothing"], on="/imu")


def test_methods_and_tolerances_can_differ_by_topic(tmp_path):
    topics = {
        "/on": [(10 * MS, StringMessage("x"))],
        "/a": [(8 * MS, DictMessage({"x": 1, "s": "one"})), (11 * MS, DictMessage({"x": 4, "s": "two"}))],
        "/b": [(8 * MS, DictMessage({"x": 1})), (11 * MS, DictMessage({"x": 4}))],
    }
    with bag.open(write(tmp_path / "m.h5", topics)) as run:
        aligned = run.align(["/a", "/b"], on="/on", method={"/a": "linear", "/b": "nearest"}, tolerance={"/b": "500us"})
        assert aligned["/a"]["x"].tolist() == [3.0]
        assert aligned["/a"]["s"].tolist() == ["one"]
        assert aligned["/b"].age_ns.tolist() == [-MS]
        assert aligned["/b"].valid.tolist() == [False]
        assert aligned.unfilled == {"/a": 0, "/b": 1}


def test_poses_turn_on_the_shorter_arc(tmp_path):
    half = np.sqrt(0.5)
    # a quarter turn about z, given once as q and once as -q, which is the same rotation
    poses = [np.array([0, 0, 0, 1.0]), -np.array([0, 0, half, half])]
    topics = {
        "/pose": [
            (i * 10 * MS, PoseMessage(position=np.array([i, 0.0, 0]), orientation=turn)) for i, turn in enumerate(poses)
        ],
        "/on": [(5 * MS, StringMessage("x"))],
    }
    with bag.open(write(tmp_path / "p.h5", topics)) as run:
        aligned = run.align(["/pose"], on="/on", method={"/pose": "slerp"})
        eighth = np.pi / 8
        assert aligned["/pose"]["orientation"][0] == pytest.approx([0, 0, np.sin(eighth), np.cos(eighth)])
        assert aligned["/pose"]["position"][0] == pytest.approx([0.5, 0, 0])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=8, max_size=8).filter(
        lambda v: min(np.linalg.norm(v[:4]), np.linalg.norm(v[4:])) > 0.01
    ),
    st.floats(0, 1),
)
def test_slerp_is_even_and_stays_on_the_sphere(values, share):
    one, other = np.array([values[:4]]), np.array([values[4:]])
    found = slerp(one, other, np.array([share]))
    assert np.linalg.norm(found) == pytest.approx(1)
    start, end = one / np.linalg.norm(one), other / np.linalg.norm(other)
    whole = np.arccos(np.clip(abs((start * end).sum()), 0, 1))
    part = np.arccos(np.clip(abs((start * found).sum()), 0, 1))
    assert part == pytest.approx(share * whole, abs=1e-6)


def test_clouds_follow_the_nearest(tmp_path):
    topics = {
        "/on": [(i * MS, StringMessage("x")) for i in range(4)],
        "/c": [(i * 3 * MS, PointCloudMessage(points=np.zeros((i + 1, 3), np.float32))) for i in range(2)],
    }
    with bag.open(write(tmp_path / "n.h5", topics)) as run:
        assert run.align(["/c"], on="/on", method="nearest")["/c"]["points"].lengths.tolist() == [1, 1, 2, 2]
