"""An open bag: its topics, messages, ranges and splits, held against the truth files of the samples."""

import os
import pickle
from multiprocessing import get_context

import numpy as np
import pytest
from made_bags import MS, T0, sample, samples, write

import bag
from bag.plain import PlainMessage
from bag.robot import digest
from bag.storage.topic_reader import TopicReader
from cortex.messages.standard import ArrayMessage, DictMessage, IntMessage, StringMessage

NAMES = ["custom", "gaps", "robot"]


@pytest.fixture(params=NAMES)
def truth(request):
    with bag.open(sample(request.param)) as run:
        yield run, samples()[1][request.param]


def test_times_and_sequences_are_the_true_ones(truth):
    run, topics = truth
    assert set(run) == set(topics)
    for name, facts in topics.items():
        messages = facts["messages"]
        assert run[name].sequence.tolist() == [message["sequence"] for message in messages]
        assert run[name].times.tolist() == [message["log_time_ns"] for message in messages]
        assert run[name].publish_times.tolist() == [message["publish_time_ns"] for message in messages]
        assert (run[name].times.dtype, run[name].sequence.dtype) == (np.int64, np.uint64)


def test_every_message_is_reached_by_number_by_slice_and_by_iterating(truth):
    run, topics = truth
    for name, facts in topics.items():
        hashes = [message["sha256"] for message in facts["messages"]]
        topic = run[name]
        assert [digest(topic.raw(number).frames) for number in range(len(topic))] == hashes
        assert [digest(raw.frames) for raw in topic.raw_messages(2, 7)] == hashes[2:7]
        assert digest(topic.raw(-1).frames) == hashes[-1]
        assert len(list(topic)) == len(topic[:]) == len(hashes)


def test_parts_of_a_bag_hold_what_the_truth_has_there(truth):
    run, topics = truth
    start = run.start_ns
    part = run.between(0.1, 0.4)
    for name, facts in topics.items():
        inside = [m for m in facts["messages"] if start + 100 * MS <= m["log_time_ns"] < start + 400 * MS]
        hashes = [message["sha256"] for message in inside]
        assert [digest(raw.frames) for raw in part.messages(topics=[name])] == hashes
        assert [digest(raw.frames) for raw in part[name].raw_messages()] == hashes
        assert len(part[name]) == len(run[name].between(0.1, 0.4)) == len(inside)
        assert part[name].times.tolist() == [message["log_time_ns"] for message in inside]
        assert part[name].statistics.messages == len(inside)
    assert part.info().messages == sum(len(part[name]) for name in part)


def test_statistics_of_a_part_count_its_bytes():
    with bag.open(sample("robot")) as run:
        part = run.between("200ms", "700ms")
        for name, topic in part.items():
            assert topic.statistics.bytes == sum(raw.nbytes for raw in topic.raw_messages()), name


def test_ranges_are_half_open_and_nest():
    with bag.open(sample("robot")) as run:
        whole = [(raw.topic, raw.sequence) for raw in run.messages()]
        halves = [[(raw.topic, raw.sequence) for raw in half.messages()] for half in run.split(0.5)]
        assert sorted(halves[0] + halves[1]) == sorted(whole)
        assert not set(halves[0]) & set(halves[1])
        inner = run.between(0.2, 0.8).between(0.1, 0.3)
        assert [raw.sequence for raw in inner.messages()] == [raw.sequence for raw in run.messages(start=0.3, stop=0.5)]
        assert len(list(run.messages(start=-0.2))) == len(list(run.between(start=-0.2).messages()))


def test_messages_come_in_order_of_log_and_of_publish(truth):
    run, _topics = truth
    logged = [raw.log_mono_ns for raw in run.messages()]
    assert logged == sorted(logged)
    assert sorted(raw.sequence for raw in run.messages(order="publish")) == sorted(
        raw.sequence for raw in run.messages()
    )


def test_what_is_not_there_is_named():
    with bag.open(sample("robot")) as run:
        with pytest.raises(KeyError, match="/imu"):
            run["/nothing"]
        with pytest.raises(KeyError, match="/nothing"):
            list(run.messages(topics=["/nothing"]))
        with pytest.raises(IndexError, match="50 messages"):
            run["/imu"][50]
        with pytest.raises(KeyError, match="orientation"):
            run["/imu"]["orientatoin"]
        with pytest.raises(bag.UsageError, match="by is"):
            run.split(0.5, by="moon")
    with pytest.raises(bag.BagError, match="was closed"):
        run["/imu"]


def test_messages_are_found_by_time():
    offsets = [0, 10 * MS, 10 * MS, 30 * MS]
    messages = [(offset, IntMessage(number)) for number, offset in enumerate(offsets)]
    with bag.open(write_to("at", {"/n": messages})) as run:
        topic = run["/n"]
        assert topic.at("10ms").data == 2
        assert topic.at("10ms", "next").data == 1
        assert topic.at("15ms").data == 2
        assert topic.at("15ms", "next").data == 3
        assert topic.at("20ms", "nearest").data == 2
        assert topic.at("21ms", "nearest").data == 3
        assert topic.at(-0.02).data == 2
        with pytest.raises(LookupError, match="no next message"):
            topic.at(1.0, "next")
        with pytest.raises(bag.UsageError, match="method"):
            topic.at(0.0, "best")


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    global write_to
    write_to = lambda name, topics, **options: write(tmp_path / f"{name}.h5", topics, **options)  # noqa: E731


def test_splits_are_stitched():
    first = write_to("run_0", {"/n": [(i * MS, IntMessage(i)) for i in range(5)]})
    second = write_to(
        "run_1", {"/n": [((i + 5) * MS, IntMessage(i + 5)) for i in range(4)], "/late": [(9 * MS, StringMessage("x"))]}
    )
    # the second file is given first: order of time decides
    with bag.open([second, first]) as run:
        assert run.topics == ("/n", "/late")
        assert [message.data for message in run["/n"]] == list(range(9))
        assert run["/n"]["data"][3:7].tolist() == [3, 4, 5, 6]
        assert run["/n"]["data"][[8, 0, 5, 5]].tolist() == [8, 0, 5, 5]
        assert [run.decode(raw).data for raw in run.messages(start="3ms", stop="7ms")] == [3, 4, 5, 6]
        assert run.info().messages == 10
        assert len(run.between("4ms", "6ms")["/n"]) == 2
        early, late = run.split(0.5, by="bag")
        assert (len(early["/n"]), len(late["/n"])) == (5, 4)
    with bag.open(str(first.parent / "run_*.h5")) as run:
        assert len(run["/n"]) == 9
    with pytest.raises(FileNotFoundError, match="no bag matches"):
        bag.open(str(first.parent / "nothing_*.h5"))
    with pytest.raises(FileNotFoundError):
        bag.open([])


def test_recordings_that_overlap_are_merged_by_wall_time(tmp_path):
    one = write_to("a", {"/a": [(i * 2 * MS, IntMessage(i * 2)) for i in range(5)]})
    other = write_to("b", {"/b": [((i * 2 + 1) * MS, IntMessage(i * 2 + 1)) for i in range(5)]})
    with bag.open([one, other]) as run:
        assert [run.decode(raw).data for raw in run.messages()] == list(range(10))


def test_messages_are_decoded_without_their_class():
    with bag.open(sample("custom")) as run:
        grip = run["/grip"][4]
        assert isinstance(grip, PlainMessage)
        assert grip.type_name == "GripState"
        assert (grip.field0, grip["field1"], grip.field3) == (True, 2.0, {"serial": "G-17"})
        assert grip.field2.shape == (8, 8)
        assert list(grip) == ["field0", "field1", "field2", "field3"]
        assert pickle.loads(pickle.dumps(grip)).field1 == 2.0
        with pytest.raises(AttributeError, match="field0"):
            grip.data
        (raw,) = [raw for raw in run.messages() if raw.sequence == 4]
        assert run.decode(raw).field1 == 2.0


def test_names_come_from_the_schema_when_the_class_is_gone(monkeypatch):
    from cortex.messages.base import MessageType

    path = write_to("schema", {"/s": [(0, DictMessage({"x": 1}))]})
    monkeypatch.setattr(MessageType, "_classes", {})
    with bag.open(path) as run:
        message = run["/s"][0]
        assert isinstance(message, PlainMessage)
        assert message.data == {"x": 1}
        assert run["/s"]["x"][0] == 1


def test_a_class_can_be_given():
    with bag.open(sample("gaps")) as run:
        assert all(isinstance(message, ArrayMessage) for message in run["/counter"].decode(ArrayMessage))
        with pytest.raises(ValueError, match="IntMessage"):
            next(run["/counter"].decode(IntMessage))


def _in_child(topic, queue):
    queue.put((os.getpid(), topic["data"][3].tolist(), len(topic), topic.bag.duration))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_topics_travel_to_other_processes(method):
    context = get_context(method)
    with bag.open(sample("gaps")) as run:
        part = run.between(0.1, 0.4)["/counter"]
        queue = context.Queue()
        child = context.Process(target=_in_child, args=(part, queue))
        child.start()
        process, value, count, duration = queue.get(timeout=60)
        child.join(60)
        assert child.exitcode == 0
        assert process != os.getpid()
        assert (value, count, duration) == (part["data"][3].tolist(), len(part), part.bag.duration)


def test_an_empty_bag_is_a_bag(tmp_path):
    with bag.Writer(tmp_path / "empty.h5") as writer:
        writer.add_topic("/n", IntMessage)
    with bag.open(tmp_path / "empty.h5") as run:
        assert (run.duration, run.start_ns, list(run.messages()), len(run["/n"])) == (0.0, None, [], 0)
        assert run["/n"]["data"][:].tolist() == []
        assert run.info().messages == 0
        assert run["/n"].times.tolist() == []
        assert len(run.align(["/n"], on="/n").times) == 0
        assert len(run.windows(1)) == 0


def test_wall_clock_steps_do_not_disturb_ranges(tmp_path):
    with bag.Writer(tmp_path / "step.h5") as writer:
        for number in range(10):
            writer.write("/n", IntMessage(number), log_time_ns=T0 + number * MS)
        # the time line stands still rather than go back
        writer.write("/n", IntMessage(10), log_time_ns=T0)
    with bag.open(tmp_path / "step.h5") as run:
        assert (np.diff(run["/n"].monotonic_times) >= 0).all()
        assert [message.data for message in run["/n"].between("8ms")] == [8, 9, 10]


def test_a_range_and_a_moment_cost_a_few_rows_of_a_long_index(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5", {"/a": [(number * MS, IntMessage(number)) for number in range(5000)]})
    with bag.open(path) as run:
        read = []
        index = TopicReader.index
        monkeypatch.setattr(TopicReader, "index", lambda *where: read.append(where[2] - where[1]) or index(*where))
        part = run.between(1.0, 2.0)
        assert (len(part["/a"]), len(run["/a"].between(4.0, -0.1))) == (1000, 899)
        assert [run["/a"].at(1.2345, method).data for method in ("previous", "next", "nearest")] == [1234, 1235, 1234]
        assert sum(read) < 150
        assert part["/a"].times.tolist() == run["/a"].times[1000:2000].tolist()
