"""When messages were sent, worked out from the index: clock steps, clocks that are wrong, headers that say nonsense."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_bags import gathered

from bag.lanes import Lane
from bag.storage.layout import INDEX_DTYPE
from bag.storage.reader import CLOCK_STEP_NS, BagReader, sending_times

MS = 1_000_000
S = 1000 * MS
EVERY, INTERVAL, COUNT = 10 * MS, 50 * MS, 400
# of the monotonic clock
BEGIN = 7 * S


def index(*, step_ns=0, ahead_ns=0, on_the_way_ns=0, step_at=COUNT // 2, count=COUNT):
    """Messages sent every 10 ms and received with the next multiple of 50 ms; the clocks of both are stepped midway."""
    sent = BEGIN + EVERY * np.arange(count, dtype=np.int64)
    received = ((sent + on_the_way_ns) // INTERVAL + 1) * INTERVAL
    wall = 10**18 + np.where(np.arange(count) < step_at, 0, step_ns)
    stamped = 10**18 + np.where(received < sent[step_at], 0, step_ns)
    rows = np.zeros(count, INDEX_DTYPE)
    rows["log_mono_ns"], rows["log_time_ns"] = received, received + stamped
    rows["publish_time_ns"] = sent + wall + ahead_ns
    return sent, rows


@given(step_ns=st.integers(-(10**13), 10**13), step_at=st.integers(1, COUNT - 1))
def test_a_step_of_the_wall_clock_moves_no_message_by_more_than_it_gathered(step_ns, step_at):
    sent, rows = index(step_ns=step_ns, step_at=step_at)
    wrong = np.abs(sending_times(rows, gathered=True) - sent)
    assert wrong.max() <= max(abs(step_ns), INTERVAL)
    # where the step is no plausible time on the way, only the few that gathered over it may be wrong
    if abs(step_ns) > CLOCK_STEP_NS + INTERVAL:
        assert wrong.max() <= INTERVAL
        assert (wrong > 0).sum() <= INTERVAL // EVERY


@given(ahead_ns=st.integers(-(10**13), 10**13), on_the_way_ns=st.integers(0, 9 * MS))
def test_a_clock_that_is_wrong_shifts_all_messages_alike(ahead_ns, on_the_way_ns):
    sent, rows = index(ahead_ns=ahead_ns, on_the_way_ns=on_the_way_ns)
    off = set((sending_times(rows, gathered=True) - sent).tolist())
    way = rows["log_mono_ns"] - sent
    # by what is plausible, or so that one of them was on the way for no time
    plausible = 0 <= way.min() - ahead_ns < CLOCK_STEP_NS
    assert off == {ahead_ns if plausible else way.min()}


@pytest.mark.parametrize("ahead_ns", [3 * S, -3 * S])
def test_a_clock_that_is_wrong_and_drifts_is_followed(ahead_ns):
    sent, rows = index(count=60_000)
    rows["publish_time_ns"] += ahead_ns + (sent - BEGIN) // 10_000
    wrong = np.abs(sending_times(rows, gathered=True) - sent)
    # as much as it drifts in a minute, and one way
    assert wrong.max() <= 6 * MS + EVERY


def test_a_clock_that_is_set_back_moves_nothing():
    sent, rows = index()
    rows["publish_time_ns"][COUNT // 2 :] -= 1 * S
    wrong = np.abs(sending_times(rows, gathered=True) - sent)
    assert wrong.max() <= INTERVAL
    assert (wrong[COUNT // 2 :] <= EVERY).all()


@pytest.mark.parametrize("absurd", [0, -(2**63), 2**63 - 1, 5])
def test_an_absurd_header_is_taken_as_arrival_and_harms_no_other(absurd):
    sent, rows = index()
    rows["publish_time_ns"][7::50] = absurd
    found = sending_times(rows, gathered=True)
    assert (found <= rows["log_mono_ns"]).all()
    right = found == sent
    # later ones of the same handful cannot be before it
    assert right.sum() >= COUNT - COUNT // 50 * (INTERVAL // EVERY)


def test_where_arrival_is_exact_it_stands_in_for_what_is_not_plausible():
    _sent, rows = index(ahead_ns=2 * S)
    assert sending_times(rows).tolist() == rows["log_mono_ns"].tolist()


@pytest.mark.parametrize("gathered", [True, False])
def test_of_no_messages_there_are_no_times(gathered):
    assert len(sending_times(np.zeros(0, INDEX_DTYPE), gathered=gathered)) == 0


@pytest.mark.parametrize("ahead_ms", [-10_000, 30, 3000])
def test_messages_come_in_the_order_of_sending_also_where_a_publishers_clock_is_wrong(ahead_ms, tmp_path):
    clocks = {"/n": 0, "/m": ahead_ms * MS}
    path = gathered(tmp_path / "w.h5", ahead_ns=clocks, custom_data={"receive_interval": "50ms"})
    with BagReader(path) as reader:
        merged = [
            (message.channel.topic, message.sequence) for _time, message in reader.merged(["/n", "/m"], "publish")
        ]
        times = {topic: Lane(reader, topic, [0, 1], "publish", 0).times for topic in clocks}
    came = {"/n": 0, "/m": 0}
    for topic, sequence in merged:
        came[topic] = sequence
        # one of them was on the way for 10 ms, of which nobody can know
        assert abs(came["/n"] - came["/m"]) <= 2
    # and that is when they are played
    assert {EVERY} == {int(step) for of_topic in times.values() for step in np.diff(of_topic)}
    assert abs(times["/n"][0] - times["/m"][0]) <= EVERY
