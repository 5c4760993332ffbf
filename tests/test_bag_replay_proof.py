"""Record, play, record: all types come back byte for byte, known or not; and deaths of the player harm nobody."""

import json
import os
import signal
import struct
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from helpers import spawn_python, wait_until
from recordings import Ear, Line, address_of, chat, frames_of, write_bag

import bag
from bag.proof import prove
from bag.records import Channel
from bag.robot import NODES
from bag.storage import BagWriter
from cortex import Publisher
from cortex.codec import pack_document
from cortex.discovery.client import DiscoveryClient
from cortex.messages import standard
from cortex.messages.base import Message
from cortex.messages.standard import StringMessage

MS = 1_000_000
START_NS = 1_767_225_600_000_000_000


def samples():
    """Fingerprint and frames of every standard type, and of two that nobody here can decode."""
    grid = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    made = [
        standard.StringMessage("text"),
        standard.IntMessage(-5),
        standard.FloatMessage(0.25),
        standard.BytesMessage(b"\0\xff"),
        standard.DictMessage({"a": [1, {"b": grid}], "c": None}),
        standard.ListMessage([1, "two", grid[0]]),
        standard.ArrayMessage(grid),
        standard.MultiArrayMessage({"x": grid, "y": grid[:, :0]}),
        standard.ImageMessage(np.zeros((4, 5, 3), np.uint8)),
        standard.PointCloudMessage(np.ones((7, 3), np.float32)),
        standard.PoseMessage(position=np.zeros(3), orientation=np.array([0.0, 0, 0, 1])),
        standard.TransformMessage(matrix=np.eye(4)),
        standard.TimestampMessage(1, 2),
        standard.HeaderMessage(1, 2, "map", 3),
    ]
    frames = {type(message).__name__: (message.fingerprint(), message.to_frames(0)[1:]) for message in made}
    # torch is not needed to carry tensors
    tensor = {"__cortex_oob__": "torch", "buffer": 0, "dtype": "<f4", "shape": [2, 3, 4], "device": "cpu"}
    metadata = [pack_document([tensor | {"requires_grad": False}, ""]), pack_document([{"t": tensor}])]
    for cls, one in zip((standard.TensorMessage, standard.MultiTensorMessage), metadata, strict=True):
        frames[cls.__name__] = (cls.fingerprint(), [one, grid.tobytes()])
    frames["UnknownToUs"] = (0xDEADBEEF, [b"\x92\x01\x02"])
    frames["NoMsgpackAtAll"] = (0xDEADBEEF + 1, [b"\xc1\xc1", b"raw", b"", bytes(range(256)) * 40])
    return frames


@pytest.fixture
def of_all_types(tmp_path, cortex_dir):
    path = tmp_path / "types.h5"
    with BagWriter(path) as writer:
        for number, (name, (fingerprint, body)) in enumerate(samples().items()):
            topic = f"/types/{name}"
            address = address_of(cortex_dir, topic, f"node_{number % 3}")
            channel = writer.add_channel(Channel(0, topic, name, fingerprint, f"node_{number % 3}", address))
            for sequence in range(3):
                offset = (number + 20 * sequence) * MS
                header = struct.pack(">QQQ", fingerprint, START_NS + offset, sequence + 7)
                frames = [topic.encode(), header, *(bytes(memoryview(part).cast("B")) for part in body)]
                writer.append(channel.id, [(START_NS + offset, offset, frames)])
    return path


def test_every_standard_type_and_unknown_ones_come_back_byte_for_byte(of_all_types):
    known = {name for name, one in vars(standard).items() if isinstance(one, type) and issubclass(one, Message)}
    assert known - {"Message"} <= samples().keys()
    proof = prove([of_all_types], bag.PlayOptions())
    assert proof.equal, [topic for topic in proof.difference.topics if not topic.equal]
    assert {topic.topic.split("/")[-1] for topic in proof.difference.topics} == samples().keys()
    assert proof.played.sent == 3 * len(samples())


def test_the_replay_of_the_demo_robot_recorded_again_is_the_recording(tmp_path, cortex_dir, discovery):
    path = tmp_path / "robot.h5"
    options = bag.RecordOptions(all_topics=True, discovery_address=discovery.address)
    with ExitStack() as stack:
        recorder = stack.enter_context(bag.Recorder(path, options))
        for node in NODES:
            words = [node, "--discovery-address", discovery.address, "--log", str(tmp_path / node), "--duration", "1.5"]
            process = stack.enter_context(spawn_python(["-m", "bag.robot", *words], stdin=-1))
            process.stdin.write("go\n")
            process.stdin.flush()
        wait_until(
            lambda: len([topic for topic in recorder.statistics().topics if topic.messages > 5]) >= 6, timeout=60
        )
    info = recorded_info(path)
    proof = prove([path], bag.PlayOptions(discovery_address=discovery.address))
    assert proof.equal, [topic for topic in proof.difference.topics if not topic.equal]
    assert {topic.topic: topic.same for topic in proof.difference.topics} == info
    assert all(topic.same_identity and topic.in_order for topic in proof.difference.topics)


def recorded_info(path):
    with bag.open(path) as run:
        return {topic.topic: topic.messages for topic in run.info().topics}


@pytest.mark.parametrize("name", ["robot", "gaps", "custom"])
def test_the_sample_bags_come_back_as_they_are(name, cortex_dir):
    sample = Path(__file__).resolve().parent.parent / "sample_data" / f"{name}.h5"
    proof = prove([sample], bag.PlayOptions(relocate=True, lossless=True))
    assert proof.equal, [topic for topic in proof.difference.topics if not topic.equal]
    assert {topic.topic: topic.same for topic in proof.difference.topics} == recorded_info(sample)


def test_what_is_still_being_recorded_is_played_as_of_its_last_commit(tmp_path, cortex_dir, discovery):
    path = tmp_path / "run.h5"
    with BagWriter(path) as writer:
        fingerprint, address = StringMessage.fingerprint(), address_of(cortex_dir, "/chat")
        channel = writer.add_channel(Channel(0, "/chat", "StringMessage", fingerprint, "talker", address))
        for line in chat(40):
            if line.sequence == 20:
                writer.commit()
            writer.append(channel.id, [(START_NS, line.sequence * MS, [b"/chat", *frames_of(line)])])
        with Ear(cortex_dir, "/chat") as ear, _play(path, "--wait-for-subscribers", "--immediate") as process:
            _output, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
            ear.hear(20)
        writer.append(channel.id, [(START_NS, 40 * MS, [b"/chat", *frames_of(Line("/chat", 400, 40))])])
    assert ear.frames == [frames_of(line) for line in chat(20)]
    assert recorded_info(path) == {"/chat": 41}


# --- deaths of the player


def _play(path, *words):
    return spawn_python(["-m", "bag.cli", "play", str(path), "--json", *words])


def _sockets(directory: Path):
    return sorted(path.name for path in (directory / "topics").iterdir())


def _until_it_sends(process):
    while json.loads(process.stdout.readline())["sent"] < 1:
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(number, tmp_path, cortex_dir, discovery):
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(20))
    other = Publisher("/alive", StringMessage, node_name="alive", discovery_address=discovery.address)
    try:
        with _play(path, "--rate", "0.0001") as process:
            _until_it_sends(process)
            process.send_signal(number)
            output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        summary = json.loads(output.splitlines()[-1])
        assert (summary["event"], summary["completed"]) == ("summary", False)
        assert len(_sockets(cortex_dir)) == 1
        with DiscoveryClient(discovery.address) as client:
            assert [info.name for info in client.list_topics()] == ["/alive"]
    finally:
        other.close()


@pytest.mark.parametrize("words", [[], ["--lossless"]])
def test_after_sigkill_a_restart_works_and_no_live_node_was_harmed(words, tmp_path, cortex_dir, discovery):
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(20))
    live = Publisher("/alive", StringMessage, node_name="alive", discovery_address=discovery.address, queue_size=100)
    try:
        with Ear(cortex_dir, "/chat") as ear:
            with _play(path, "--rate", "0.0001", *words) as process:
                _until_it_sends(process)
                process.kill()
                process.wait(60)
            with _play(path, "--wait-for-subscribers", *words) as process:
                output, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
            wait_until(lambda: ear.frames[-20:] == [frames_of(line) for line in chat(20)])
        assert json.loads(output.splitlines()[-1])["sent"] == 20
        with DiscoveryClient(discovery.address) as client:
            assert [info.name for info in client.list_topics()] == ["/alive"]
        assert os.path.exists(live.address.removeprefix("ipc://"))
    finally:
        live.close()


def test_after_sigkill_with_a_daemon_inside_a_restart_works(tmp_path, cortex_dir):
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(20))
    with _play(path, "--rate", "0.0001") as process:
        _until_it_sends(process)
        process.kill()
        process.wait(60)
    with _play(path) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    summary = json.loads(output.splitlines()[-1])
    assert (summary["sent"], summary["embedded_discovery"]) == (20, True)
    assert _sockets(cortex_dir) == []
