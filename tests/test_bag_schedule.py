"""The timetable against the plain truth: every message once, by time, equal times in the order of the recording."""

import threading
from types import SimpleNamespace

import pytest
from helpers import wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import Line, frames_of, write_bag

from bag import lanes, schedule
from bag.errors import IntegrityError
from bag.lanes import Lane, time_line_zeros
from bag.readahead import REST, ReadAhead
from bag.schedule import Batch, timetable
from bag.storage.reader import BagReader

S = 1_000_000_000
TOPICS = ("/a", "/b", "/c")


def lanes_of(reader, order="publish"):
    numbers = {channel.topic: TOPICS.index(channel.topic) for channel in reader.channels}
    place_of = [numbers[channel.topic] for channel in reader.channels]
    return [Lane(reader, topic, place_of, order, 0) for topic in reader.topics]


def played(reader, start=None, stop=None, block_bytes=1 << 20):
    out = []
    for batch in timetable(lanes_of(reader), start, stop, block_bytes, max_rows=3):
        out += zip(batch.times, batch.places, [[bytes(part) for part in parts] for parts in batch.frames], strict=True)
    return out


def truth(lines, topics, start=None, stop=None):
    # sending times of a topic never go down
    due, latest = [], {}
    for row, line in enumerate(lines):
        latest[line.topic] = max(latest.get(line.topic, -1), round(line.at_ms * 1_000_000))
        due.append((latest[line.topic], topics.index(line.topic), row))
    rows = [item for item in sorted(due) if (start is None or item[0] >= start) and (stop is None or item[0] < stop)]
    return [(at, TOPICS.index(lines[row].topic), frames_of(lines[row])) for at, _topic, row in rows]


@st.composite
def recordings(draw):
    steps = draw(st.lists(st.tuples(st.sampled_from(TOPICS), st.integers(0, 3)), min_size=1, max_size=60))
    at, lines = 0, []
    for number, (topic, step) in enumerate(steps):
        at += step
        lines.append(Line(topic, at, number))
    return lines


@given(recordings(), st.integers(1, 400), st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_timetable_is_the_sorted_recording(monkeypatch, tmp_path_factory, lines, block_bytes, data):
    monkeypatch.setattr(schedule, "FIRST_ROWS", 2)
    path = write_bag(tmp_path_factory.mktemp("bags") / "run.h5", "/d", lines)
    topics = list(dict.fromkeys(line.topic for line in lines))
    bound = st.none() | st.integers(0, 60_000_000)
    start, stop = data.draw(bound), data.draw(bound)
    with BagReader(path) as reader:
        assert played(reader, start, stop, block_bytes) == truth(lines, topics, start, stop)


def test_equal_times_keep_the_order_of_the_topics_across_blocks(monkeypatch, tmp_path):
    monkeypatch.setattr(schedule, "FIRST_ROWS", 2)
    lines = [Line(topic, 1, number) for number in range(40) for topic in TOPICS]
    path = write_bag(tmp_path / "run.h5", "/d", lines)
    with BagReader(path) as reader:
        assert [place for _at, place, _frames in played(reader)] == [0] * 40 + [1] * 40 + [2] * 40


def test_blocks_are_bounded_in_bytes(tmp_path):
    lines = [Line("/a", number, number) for number in range(200)]
    path = write_bag(tmp_path / "run.h5", "/d", lines)
    with BagReader(path) as reader:
        sizes = [batch.nbytes for batch in timetable(lanes_of(reader), None, None, 500)]
        total = sum(reader.topics["/a"].summary["bytes"] for _ in range(1))
    assert max(sizes) <= 500
    assert sum(sizes) == total


def test_a_column_that_cannot_be_in_the_file_is_refused(monkeypatch, tmp_path):
    path = write_bag(tmp_path / "run.h5", "/d", [Line("/a", 0, 0)])
    monkeypatch.setattr(lanes, "MAX_EXPANSION", 0)
    with BagReader(path) as reader:
        monkeypatch.setattr(type(reader.topics["/a"]), "buffer_columns", lambda self: [_Absurd()])
        with pytest.raises(IntegrityError, match="cannot be in a file of its size"):
            lanes_of(reader)


class _Absurd:
    path = "/a/data"

    class values:
        size, shape = 1 << 60, (1 << 30, 1 << 30)

        class dtype:
            itemsize = 1

    class spec:
        row_bytes = 1 << 30


@pytest.mark.parametrize(
    ("spans", "zeros"),
    [
        ([(100 * S, 5 * S, 9 * S)], [5 * S]),
        # splits of one recording: the monotonic clock counts, although the wall clock was corrected by a second
        ([(100 * S, 5 * S, 9 * S), (105 * S, 9 * S, 12 * S)], [5 * S, 5 * S]),
        # two machines: the wall clock is all there is
        ([(100 * S, 5 * S, 9 * S), (102 * S, 9000 * S, 9001 * S)], [5 * S, 8998 * S]),
        ([None, (100 * S, 5 * S, 9 * S)], [5 * S, 5 * S]),
        ([None], [0]),
    ],
)
def test_bags_are_laid_on_one_time_line(spans, zeros):
    assert time_line_zeros(spans) == zeros


def _batch(number, nbytes=100):
    return Batch([number], [0], [[b""]], nbytes)


def test_reading_ahead_is_bounded_and_hands_over_in_order():
    read = []

    def batches():
        for number in range(50):
            read.append(number)
            yield _batch(number)

    with ReadAhead(batches(), 300) as ahead:
        ahead.wait_ready()
        wait_until(lambda: len(read) >= 3)
        for number, batch in enumerate(ahead):
            assert batch.times == [number]
            assert len(read) <= number + 4
    assert len(read) == 50


def test_an_error_while_reading_is_raised_where_messages_are_taken():
    def batches():
        yield _batch(0)
        raise IntegrityError("broken")

    with ReadAhead(batches(), 1000) as ahead, pytest.raises(IntegrityError, match="broken"):
        list(ahead)


def test_reading_ends_when_nobody_wants_more():
    before = threading.active_count()
    with ReadAhead((_batch(number) for number in range(10**9)), 1000) as ahead:
        ahead.wait_ready()
    assert threading.active_count() == before


def test_reading_rests_unless_what_is_ready_runs_short(monkeypatch):
    rests = []
    monkeypatch.setattr("bag.readahead.time", SimpleNamespace(sleep=rests.append))
    with ReadAhead([Batch([0], [0], [[b""]], 60)], 100) as ahead:
        ahead.wait_ready()
        ahead.rest(1_000_000)
        batches = iter(ahead)
        next(batches)
        assert next(batches, None) is None
        ahead.rest(1_000_000)
    assert rests == [REST * 0.001]
