"""Bags made from Python are recordings: same frames, same account, same guarantees."""

import os
import signal

import numpy as np
import pytest
from helpers import spawn_python
from made_bags import MS, T0, sample

import bag
from bag.robot import digest
from cortex.messages.standard import ArrayMessage, IntMessage, StringMessage


def test_messages_frames_and_recorded_messages_can_be_written(tmp_path):
    message = ArrayMessage(np.arange(3.0))
    frames = message.to_frames(7)
    with bag.Writer(tmp_path / "w.h5", node="maker", description="made", custom_data={"by": "hand"}) as writer:
        writer.write("/a", message, log_time_ns=T0, publish_time_ns=T0 - MS)
        writer.write("/f", frames, log_time_ns=T0 + 1, node="other")
        writer.write("/x", [bytes(24), b"\x90"], log_time_ns=T0 + 2, type_name="Unknown")
        with bag.open(sample("gaps")) as source:
            for raw in source.messages():
                writer.write(raw.topic, raw)
        writer.mark("here", T0)
    with bag.open(tmp_path / "w.h5") as run, bag.open(sample("gaps")) as source:
        (first,) = run["/a"].raw_messages()
        assert (first.publish_time_ns, first.log_time_ns, first.channel.node) == (T0 - MS, T0, "maker")
        assert digest(run["/f"].raw(0).frames) == digest([bytes(frame) for frame in frames])
        assert (run["/f"].channel.node, run["/f"].raw(0).sequence) == ("other", 7)
        assert run["/x"].channel.type_name == "Unknown"
        for name in source:
            assert [digest(raw.frames) for raw in run[name].raw_messages()] == [
                digest(raw.frames) for raw in source[name].raw_messages()
            ]
            assert run[name].times.tolist() == source[name].times.tolist()
        # a publisher that was restarted under another name is two channels here too
        assert {raw.channel.node for raw in run["/pose"].raw_messages()} == {"localiser", "localiser_2"}
        assert run["/counter"].gaps()[0].kind == "before_join"
        assert (run.marks, run.info().description, run.info().custom_data) == ((("here", T0),), "made", {"by": "hand"})
        assert run.closed_cleanly


def test_a_copy_of_a_bag_keeps_its_time_line(tmp_path):
    with bag.open(sample("robot")) as source, bag.Writer(tmp_path / "c.h5") as writer:
        for raw in source.messages():
            writer.write(raw.topic, raw)
    with bag.open(tmp_path / "c.h5") as copy, bag.open(sample("robot")) as source:
        assert copy.duration == source.duration
        assert copy["/imu"].monotonic_times.tolist() == source["/imu"].monotonic_times.tolist()


def test_sequences_count_up_per_topic(tmp_path):
    with bag.Writer(tmp_path / "s.h5") as writer:
        writer.write_many("/a", [(IntMessage(i), T0 + i, None) for i in range(5)])
        writer.write("/b", IntMessage(0), log_time_ns=T0)
    with bag.open(tmp_path / "s.h5") as run:
        assert run["/a"].sequence.tolist() == [0, 1, 2, 3, 4]
        assert run["/b"].sequence.tolist() == [0]


def test_what_cannot_be_a_message_is_refused(tmp_path):
    with bag.Writer(tmp_path / "r.h5") as writer:
        with pytest.raises(bag.UsageError, match="header of 24 bytes"):
            writer.write("/a", [b"short"])
        with pytest.raises(bag.UsageError, match="publish time"):
            writer.write("/a", IntMessage(1).to_frames(0), publish_time_ns=5)
        with pytest.raises(ValueError, match="cannot be sent"):
            writer.write("/a", ArrayMessage(np.array([object()])))
    with pytest.raises(bag.BagExistsError, match="--force"):
        bag.Writer(tmp_path / "r.h5")


def test_what_was_written_survives_a_kill(tmp_path):
    program = f"""
import os, signal, bag
from cortex.messages.standard import IntMessage
writer = bag.Writer({str(tmp_path / "k.h5")!r})
for number in range(500):
    writer.write("/n", IntMessage(number), log_time_ns={T0} + number)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with spawn_python(program) as child:
        assert child.wait(60) == -signal.SIGKILL
    with bag.open(tmp_path / "k.h5") as run:
        assert run["/n"]["data"][:].tolist() == list(range(500))
        assert not run.closed_cleanly


def test_an_error_inside_with_leaves_an_unfinished_bag(tmp_path):
    def fail():
        with bag.Writer(tmp_path / "e.h5") as writer:
            writer.write("/s", StringMessage("kept"), log_time_ns=T0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with bag.open(tmp_path / "e.h5") as run:
        assert run["/s"]["data"][:].tolist() == ["kept"]
        assert not run.closed_cleanly
    assert {name.split(".h5")[0] for name in os.listdir(tmp_path)} == {"e"}


def test_an_array_may_be_used_again_as_soon_as_it_was_written(tmp_path):
    buffer = np.zeros(100)
    with bag.Writer(tmp_path / "w.h5") as writer:
        for number in range(10):
            buffer[:] = number
            writer.write("/x", ArrayMessage(buffer), log_time_ns=T0 + number)
            if number == 4:
                writer.commit()
    with bag.open(tmp_path / "w.h5") as run:
        assert [message.data[0] for message in run["/x"]] == list(range(10))
