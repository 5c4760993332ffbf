"""Several files as one recording: repeated sticky messages count once, and the wall clock may step in between."""

import struct

import numpy as np
import pytest

import bag
from bag import RecordOptions
from bag.bagset import BagSet
from bag.plain import PlainMessage
from bag.records import Channel, Schema, SchemaField

MS = 1_000_000
WALL = 1_767_225_600_000_000_000
MESSAGE = Schema(7, "Point", "of.another.project", "Point", (SchemaField("x"), SchemaField("y")))


def row(topic, number, at_ms, step=0):
    wall = WALL + at_ms * MS + step
    header = struct.pack(">QQQ", 7, wall, number)
    return (wall, at_ms * MS, [topic.encode(), header, b"\x92" + bytes([number, number + 1])])


def record(directory, files, step=0):
    """Files of (topic, number, ms); the wall clock is `step` ns further in each."""
    written = BagSet(directory / "run.h5", RecordOptions(all_topics=True, sticky=("/map",)), numbered=True)
    written.open(0)
    for number, topic in enumerate(("/map", "/t")):
        written.enter(Channel(number, topic, "Point", 7, "node", "ipc:///x"), MESSAGE)
    for at, messages in enumerate(files):
        if at:
            written.split(0)
        for topic, number, ms in messages:
            rows = [row(topic, number, ms, at * step)]
            written.append(0 if topic == "/map" else 1, rows)
            if topic == "/map":
                written.remember(0, rows)
    written.close()
    return written.paths


FILES = [
    [("/map", 0, 1), ("/map", 1, 2), ("/t", 0, 3), ("/t", 1, 500)],
    [("/t", 2, 1000), ("/t", 3, 1500)],
    [("/t", 4, 2000), ("/map", 2, 2500)],
    *[[("/t", 5 + number, 3000 + number)] for number in range(9)],
]


@pytest.fixture
def series(tmp_path):
    return record(tmp_path, FILES)


def test_what_begins_a_later_file_again_is_there_once(series):
    with bag.open(series) as run:
        assert run["/map"].sequence.tolist() == [0, 1, 2]
        assert run["/map"]["x"][:].tolist() == [0, 1, 2]
        assert len(run["/map"]) == 3
        assert (np.diff(run["/map"].monotonic_times) > 0).all()
        sequences = [(message.topic, message.sequence) for message in run.messages()]
        assert sequences == [(topic, number) for messages in FILES for topic, number, _ms in messages]


@pytest.mark.parametrize("order", ["log", "publish"])
def test_ranges_of_a_series_hold_what_ranges_of_one_file_would(series, order):
    with bag.open(series) as run:
        found = [(m.topic, m.sequence) for m in run.messages(start=1.0, stop=2.6, order=order)]
        assert found == [("/t", 3), ("/t", 4), ("/map", 2)]
        assert run.between(1.0, 2.6)["/map"].sequence.tolist() == [2]
        assert len(run.between(0.9, 1.2)["/map"]) == 0


def test_counts_are_those_of_one_recording(series):
    with bag.open(series) as run:
        info = run.info()
        by_topic = {topic.topic: topic for topic in info.topics}
        assert (info.messages, by_topic["/map"].messages, by_topic["/t"].messages) == (17, 3, 14)
        assert info.bytes == sum(message.nbytes for message in run.messages())
        assert by_topic["/map"] == run["/map"].statistics
        assert by_topic["/map"].restarts == by_topic["/map"].lost_before_us == 0
        assert run["/map"].gaps() == ()
        assert run.duration == pytest.approx((3008 - 1) / 1000)
        assert info.duration_ns == (3008 - 1) * MS


def test_one_file_of_the_series_has_what_it_begins_with(series):
    with bag.open(series[1]) as run:
        assert run["/map"].sequence.tolist() == [1]
    # and a message is only left out where an earlier file really has it
    with bag.open([series[0], series[3]]) as run:
        assert run["/map"].sequence.tolist() == [0, 1, 2]


@pytest.mark.parametrize("step", [3_600 * 10**9, -3_600 * 10**9], ids=["forward", "back"])
def test_a_step_of_the_wall_clock_moves_no_file(tmp_path, step):
    paths = record(tmp_path, FILES, step)
    with bag.open(str(tmp_path / "run_*.h5")) as run:
        assert run.paths == tuple(map(str, paths))
        assert run.duration == pytest.approx((3008 - 1) / 1000)
        assert run["/t"].sequence.tolist() == list(range(14))
        assert (np.diff(run["/t"].monotonic_times) > 0).all()


def test_a_message_of_an_unknown_class_is_decoded_by_what_the_bag_knows(series):
    with bag.open(series) as run:
        message = next(iter(run.messages(topics=["/t"]))).decode()
        assert isinstance(message, PlainMessage)
        assert (message.type_name, message.asdict()) == ("Point", {"x": 0, "y": 1})


def test_a_message_of_which_nothing_is_known_is_decoded_by_position(tmp_path):
    written = BagSet(tmp_path / "run.h5", RecordOptions(all_topics=True))
    written.open(0)
    written.enter(Channel(0, "/t", "Point", 7, "node", "ipc:///x"), None)
    written.append(0, [row("/t", 4, 1)])
    written.close()
    with bag.open(tmp_path / "run.h5") as run:
        assert run["/t"].raw(0).decode().asdict() == {"field0": 4, "field1": 5}


def test_a_copy_keeps_the_names_of_a_class_that_is_not_imported(series, tmp_path):
    with bag.open(series) as source, bag.Writer(tmp_path / "copy.h5") as copy:
        for message in source.messages():
            copy.write(message.topic, message)
    with bag.open(tmp_path / "copy.h5") as run:
        assert run["/t"].schema == MESSAGE
        assert run["/map"]["y"][:].tolist() == [1, 2, 3]
