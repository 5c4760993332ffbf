"""Windows hold the messages of their stretch, cross nothing that is missing, and split without leaking."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bags import MS, T0, gathered, sample, write

import bag
from bag.windows import _astride
from cortex.messages.standard import IntMessage


def numbered(path, offsets, topic="/n"):
    return write(path, {topic: [(offset * MS, IntMessage(number)) for number, offset in enumerate(offsets)]})


def test_a_window_holds_its_past_and_its_future(tmp_path):
    with bag.open(numbered(tmp_path / "w.h5", range(0, 1000, 10))) as run:
        windows = run.windows(past="50ms", future="20ms", stride="100ms")
        assert len(windows) > 5
        for window in windows:
            moment = (window.time_ns - T0) // MS
            assert window["/n"].past("data").tolist() == [n for n in range(100) if moment - 50 < n * 10 <= moment]
            assert window["/n"].future("data").tolist() == [n for n in range(100) if moment < n * 10 <= moment + 20]
            assert window["/n"]["data"].tolist() == [*window["/n"].past("data"), *window["/n"].future("data")]
        assert {len(window["/n"]) for window in windows} == {7}


def test_moments_can_be_those_of_a_topic():
    with bag.open(sample("robot")) as run:
        windows = run.windows(past="100ms", topics=["/imu", "/camera/image"], on="/camera/image")
        assert set(windows.times) <= set(run["/camera/image"].times)
        assert all(window["/camera/image"].past("data").shape == (3, 48, 64, 3) for window in windows)
        thin = run.windows(past="100ms", topics=["/imu"], on="/camera/image", stride="200ms")
        assert (np.diff(thin.times) >= 200 * MS).all()


@pytest.mark.parametrize("topic", ["/counter", "/pose"])
def test_windows_cross_no_gap_and_no_restart_unless_told(topic):
    with bag.open(sample("gaps")) as run:
        safe = run.windows(past="30ms", stride="10ms", topics=[topic])
        every = run.windows(past="30ms", stride="10ms", topics=[topic], allow_gaps=True)
        assert 0 < len(safe) < len(every)
        assert safe.left_out["messages missing"] == len(every) - len(safe)
        for window in safe:
            numbers = run[topic].sequence[window[topic].start : window[topic].stop].astype(int)
            assert (np.diff(numbers) == 1).all()
            assert len(numbers) == 3
        counts = {len(window[topic]) for window in every}
        assert min(counts) < 3


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([1, 1, 1, 2, 7, -4])), min_size=1, max_size=15),
    st.integers(0, 6),
    st.integers(0, 6),
)
def test_breaks_are_found_where_a_slow_look_finds_them(steps, past, future):
    times = np.cumsum([step for step, _jump in steps]).astype(np.int64)
    sequence = (100 + np.cumsum([jump for _step, jump in steps])).astype(np.uint64)
    moments = np.arange(int(times[-1]) + 2)
    found = _astride(times, sequence, moments, (past, future))
    for moment, crosses in zip(moments.tolist(), found.tolist(), strict=True):
        low, high = moment - past, moment + future
        breaks = [i for i in range(len(times) - 1) if int(sequence[i + 1]) != int(sequence[i]) + 1]
        # what is missing was sent between the two messages around the break
        assert crosses == any(low < times[i + 1] and high > times[i] for i in breaks)


def test_windows_that_make_no_sense_are_refused():
    with bag.open(sample("robot")) as run:
        for options in ({"past": 0}, {"past": -1}, {"past": 1, "stride": 0}):
            with pytest.raises(bag.UsageError, match="no length"):
                run.windows(**options)
        with pytest.raises(ValueError, match="duration"):
            run.windows(past="soon")
        assert len(run.windows(past=10)) == 0


@settings(max_examples=50, deadline=None)
@given(st.floats(0.05, 0.95), st.integers(1, 20), st.integers(0, 20))
def test_a_split_shares_no_message(share, past, future):
    with bag.open(sample("robot")) as run:
        windows = run.windows(
            past=f"{past * 10}ms", future=f"{future * 10}ms", stride="10ms", topics=["/imu", "/joints"]
        )
        train, test = windows.split(share)
        for topic in ("/imu", "/joints"):
            seen = [
                {row for start, _now, stop in part.bounds[topic].tolist() for row in range(start, stop)}
                for part in (train, test)
            ]
            assert not seen[0] & seen[1]
        assert all(one < other for one in train.times[-1:] for other in test.times[:1])


def test_a_split_by_bag_keeps_files_whole(tmp_path):
    paths = [
        write(tmp_path / f"r_{part}.h5", {"/n": [((part * 100 + i * 10) * MS, IntMessage(i)) for i in range(10)]})
        for part in range(4)
    ]
    with bag.open(paths) as run:
        windows = run.windows(past="30ms", stride="10ms", allow_gaps=True)
        train, test = windows.split(0.75, by="bag")
        last = max(stop for _start, _now, stop in train.bounds["/n"].tolist())
        first = min(start for start, _now, _stop in test.bounds["/n"].tolist())
        assert 20 < last <= 30 <= first < 35
    with bag.open(paths[0]) as run, pytest.raises(bag.UsageError, match="one file"):
        run.split(0.5, by="bag")


def test_windows_are_sliced_and_masked():
    with bag.open(sample("robot")) as run:
        windows = run.windows(past="100ms", stride="50ms", topics=["/imu"])
        assert windows[2:4].times.tolist() == windows.times[2:4].tolist()
        assert len(windows[windows.times > windows.times[3]]) == len(windows) - 4
        assert windows[-1].time_ns == windows.times[-1]


@pytest.mark.parametrize(
    ("options", "clock", "apart"),
    [
        ({}, None, {0, 50 * MS}),
        ({"custom_data": {"receive_interval": "50ms"}}, None, {10 * MS}),
        ({"custom_data": {"receive_interval": "50ms"}}, "log", {0, 50 * MS}),
    ],
)
def test_windows_go_by_publish_times_where_log_times_are_coarse(options, clock, apart, tmp_path):
    with bag.open(gathered(tmp_path / "w.h5", **options)) as run:
        times = run.windows(past="20ms", on="/n", clock=clock).times
        assert set(np.diff(times).tolist()) == apart


@pytest.mark.parametrize("ahead_ms", [-10_000, -1000, 30, 3000])
def test_windows_hold_what_was_sent_together_also_where_a_publishers_clock_is_wrong(ahead_ms, tmp_path):
    clocks = {"/n": 0, "/m": ahead_ms * MS}
    with bag.open(gathered(tmp_path / "w.h5", ahead_ns=clocks, custom_data={"receive_interval": "50ms"})) as run:
        windows = run.windows(past="20ms", future="20ms", on="/n")
        # one of five was on the way for 10 ms at least
        assert {n - m for w in windows for n, m in zip(w["/n"]["data"], w["/m"]["data"], strict=True)} <= {0, 1}


def test_an_absurd_header_takes_no_window_away(tmp_path):
    with bag.Writer(tmp_path / "w.h5") as writer:
        for n in range(20):
            sent = T0 + n * 10 * MS if n != 5 else 1
            writer.write_many("/n", [(IntMessage(n), T0 + n * 10 * MS, sent)])
    with bag.open(tmp_path / "w.h5") as run:
        windows = run.windows(past="20ms", on="/n", clock="publish")
        assert [window["/n"]["data"].tolist() for window in windows] == [[n - 1, n] for n in range(2, 20)]
