"""A publisher: what it puts on the wire, whom it refuses, and what it leaves behind."""

import contextlib
import gc
import logging
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zmq
import zmq.asyncio
from helpers import spawn_python, start_daemon, wait_until
from peers import bare_publisher, listen, lookup, register, sequence_of

from cortex.core import endpoint
from cortex.core.publisher import Publisher, generate_ipc_address
from cortex.core.subscriber import Subscriber
from cortex.discovery.protocol import TopicInfo
from cortex.errors import AddressInUseError, CortexError
from cortex.messages.base import Message, MessageHeader
from cortex.messages.standard import ArrayMessage, DictMessage, IntMessage, StringMessage
from cortex.paths import ipc_path
from cortex.probe import is_live


@dataclass
class Renamed(IntMessage):
    """The declared fields under another name."""


@dataclass
class Extended(IntMessage):
    """One field more than declared."""

    unit: str = "m"


@pytest.fixture
def publisher(discovery):
    publisher = Publisher("/t", IntMessage, "n", discovery.address)
    yield publisher
    publisher.close()


def test_it_registers_topic_address_type_and_node(publisher, discovery):
    assert publisher.is_registered
    assert lookup(discovery, "/t") == TopicInfo("/t", publisher.address, "IntMessage", IntMessage.fingerprint(), "n")


def test_it_keeps_what_it_was_given(discovery):
    publisher = Publisher("/t", IntMessage, discovery_address=discovery.address, queue_size=3, auto_register=False)
    assert (publisher.topic_name, publisher.message_type, publisher.node_name) == ("/t", IntMessage, "anonymous")
    assert (publisher.discovery_address, publisher.queue_size) == (discovery.address, 3)
    assert not publisher.is_registered
    assert lookup(discovery, "/t") is None
    publisher.close()


def test_generate_ipc_address_creates_the_directory(cortex_dir):
    address = generate_ipc_address("/camera/image", "robot")
    assert address == f"ipc://{cortex_dir}/topics/robot__camera_image.sock"
    assert (cortex_dir / "topics").is_dir()


def test_a_message_travels_as_topic_header_metadata_and_buffers(discovery):
    publisher = Publisher("/a", ArrayMessage, "n", discovery.address)
    with listen(publisher) as subscriber:
        data = np.arange(6, dtype="<f4").reshape(2, 3)
        assert publisher.publish(ArrayMessage(data, "x"))
        header, metadata, buffer = subscriber.receive(10_000)
    assert MessageHeader.from_bytes(header).fingerprint == ArrayMessage.fingerprint()
    assert ArrayMessage.from_frames([header, metadata, buffer])[0].name == "x"
    assert buffer == data.tobytes()
    publisher.close()


def test_an_array_may_change_right_after_publish(discovery):
    publisher = Publisher("/a", ArrayMessage, "n", discovery.address)
    with listen(publisher) as subscriber:
        data = np.zeros(1_000_000, np.uint8)
        publisher.publish(ArrayMessage(data))
        data[:] = 1
        assert subscriber.receive(10_000)[2] == bytes(1_000_000)
    publisher.close()


def test_counts_and_times(publisher):
    assert (publisher.publish_count, publisher.last_publish_time) == (0, None)
    assert publisher.publish(IntMessage(1))
    assert publisher.publish(IntMessage(2), zmq.NOBLOCK)
    assert publisher.publish_count == 2
    assert isinstance(publisher.last_publish_time, float)


def test_another_class_is_refused_and_takes_no_number(publisher):
    with pytest.raises(TypeError, match="'/t' carries IntMessage, not StringMessage"):
        publisher.publish(StringMessage("x"))
    assert publisher._sequence == 0


def test_a_message_that_cannot_be_encoded_takes_a_number(discovery, caplog):
    publisher = Publisher("/d", DictMessage, "n", discovery.address)
    with listen(publisher) as subscriber:
        assert not publisher.publish(DictMessage({"bad": object()}))
        assert "'/d': message 0 not sent" in caplog.text
        assert publisher.publish(DictMessage({"good": 1}))
        assert sequence_of(subscriber.receive(10_000)) == 1
    publisher.close()


def test_any_failure_while_encoding_is_logged_not_raised(publisher, caplog):
    class Broken(IntMessage):
        def to_frames(self, sequence=None):
            raise RuntimeError("no frames today")

    assert publisher.publish(Broken(1)) is False
    assert "no frames today" in caplog.text
    assert publisher._sequence == 1


def test_a_subclass_with_the_same_fields_goes_out_under_the_registered_fingerprint(publisher):
    with listen(publisher) as subscriber:
        assert publisher.publish(Renamed(5))
        frames = subscriber.receive(10_000)
    assert IntMessage.from_frames(frames)[0] == IntMessage(5)
    assert MessageHeader.from_bytes(frames[0]).fingerprint == IntMessage.fingerprint()


def test_a_subclass_with_other_fields_is_refused(publisher):
    with pytest.raises(TypeError, match="subclass Extended has other fields"):
        publisher.publish(Extended(5))


def test_a_publisher_of_the_base_class_takes_any_message(discovery):
    publisher = Publisher("/any", Message, "n", discovery.address)
    with listen(publisher) as subscriber:
        assert publisher.publish(IntMessage(5))
        assert MessageHeader.from_bytes(subscriber.receive(10_000)[0]).fingerprint == IntMessage.fingerprint()
    publisher.close()


def test_threads_may_share_it(discovery):
    publisher = Publisher("/t", IntMessage, "n", discovery.address, queue_size=0)
    with listen(publisher) as subscriber:
        threads = [
            threading.Thread(target=lambda: [publisher.publish(IntMessage(k)) for k in range(300)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [sequence_of(subscriber.receive(10_000)) for _ in range(1200)] == list(range(1200))
    publisher.close()


def test_publish_frames_can_be_overridden_to_see_what_is_sent(discovery):
    seen = []

    class Watched(Publisher):
        def publish_frames(self, frames):
            seen.append([bytes(frame) for frame in frames])
            return super().publish_frames(frames)

    publisher = Watched("/t", IntMessage, "n", discovery.address)
    with listen(publisher) as subscriber:
        seen.clear()
        publisher.publish(IntMessage(7))
        assert [subscriber.receive(10_000)] == seen
    publisher.close()


def test_a_context_for_asyncio_may_be_shared(discovery):
    with zmq.asyncio.Context() as context:
        publisher = Publisher("/t", IntMessage, "n", discovery.address, context=context)
        assert publisher.is_registered
        assert publisher.publish(IntMessage(1)) is True
        publisher.close()


# -- addresses


def test_a_live_socket_is_never_stolen(publisher, discovery):
    with listen(publisher) as subscriber:
        with pytest.raises(
            AddressInUseError, match=r"'/t' of node 'n' is already .* live socket listens at .*n__t.sock"
        ):
            Publisher("/t", IntMessage, "n", discovery.address)
        assert publisher.publish(IntMessage(1))
        assert subscriber.receive(10_000)
    assert lookup(discovery, "/t").address == publisher.address


def test_of_several_that_start_at_once_exactly_one_wins(discovery):
    program = """
import sys
from cortex.core import endpoint
from cortex.core.publisher import Publisher
from cortex.errors import AddressInUseError
from cortex.messages.standard import IntMessage
print("ready", flush=True)
sys.stdin.readline()
try:
    publisher = Publisher("/race", IntMessage, "n", auto_register=False)
    print("won", flush=True)
except AddressInUseError:
    print("refused", flush=True)
sys.stdin.readline()
"""
    with (
        spawn_python(program, stdin=-1) as one,
        spawn_python(program, stdin=-1) as two,
        spawn_python(program, stdin=-1) as three,
    ):
        rivals = (one, two, three)
        assert [rival.stdout.readline() for rival in rivals] == ["ready\n"] * 3
        for rival in rivals:
            rival.stdin.write("go\n")
            rival.stdin.flush()
        assert sorted(rival.stdout.readline() for rival in rivals) == ["refused\n", "refused\n", "won\n"]


def test_probing_and_binding_are_one_step(cortex_dir, monkeypatch):
    path = ipc_path(generate_ipc_address("/race", "n"))
    with bare_publisher(path.parent, name=path.name):
        pass  # leaves a stale file, which both will probe
    both = threading.Barrier(2)

    def probe(address):
        answer = is_live(address)
        # without the lock both get here before either binds, and both would believe the file to be dead
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.3)
        return answer

    monkeypatch.setattr(endpoint, "is_live", probe)
    won, refused = [], []

    def attempt():
        try:
            won.append(Publisher("/race", IntMessage, "n", auto_register=False))
        except AddressInUseError as err:
            refused.append(err)

    threads = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 1)
    won[0].close()


def test_the_socket_file_of_a_killed_publisher_is_replaced(discovery):
    program = """
from cortex.core import endpoint
from cortex.core.publisher import Publisher
from cortex.messages.standard import IntMessage
publisher = Publisher("/t", IntMessage, "n")
print(publisher.address, flush=True)
input()
"""
    with spawn_python(program, stdin=-1) as process:
        address = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert ipc_path(address).is_socket()
    publisher = Publisher("/t", IntMessage, "n", discovery.address)
    assert publisher.address == address
    listen(publisher).close()
    publisher.close()


def test_a_file_that_is_no_socket_is_left_alone(cortex_dir):
    path = ipc_path(generate_ipc_address("/t", "n"))
    path.write_text("precious")
    with pytest.raises(CortexError, match="is not a socket"):
        Publisher("/t", IntMessage, "n", auto_register=False)
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("node", "topic"),
    [
        ("n", "/" + "long/" * 60),
        ("n" * 200, "/t"),
        ("ns/sub", "/t"),
        ("..", "/../../x"),
        ("my node", "/caméra/画像 *"),
        ("n", "/line\nbreak"),
        ("", "/"),
    ],
)
def test_long_and_odd_names_work(discovery, cortex_dir, node, topic):
    publisher = Publisher(topic, IntMessage, node, discovery.address)
    assert ipc_path(publisher.address).resolve().is_relative_to((cortex_dir / "topics").resolve())
    assert lookup(discovery, topic).address == publisher.address
    with listen(publisher) as subscriber:
        publisher.publish(IntMessage(3))
        assert subscriber.receive(10_000)
    publisher.close()
    assert list((cortex_dir / "topics").rglob("*.sock")) == []


def test_names_that_used_to_collide_live_side_by_side(discovery):
    publishers = [Publisher(topic, IntMessage, "n", discovery.address) for topic in ("/a/b", "/a_b", "a/b", "//a/b")]
    assert len({publisher.address for publisher in publishers}) == 4
    for publisher in publishers:
        publisher.close()


# -- leaving


def test_close_removes_file_and_entry_and_can_be_repeated(publisher, discovery):
    publisher.close()
    publisher.close()
    assert not ipc_path(publisher.address).exists()
    assert lookup(discovery, "/t") is None
    assert not publisher.is_registered


def test_a_closed_publisher_refuses_to_publish(publisher, caplog):
    publisher.close()
    assert publisher.publish(IntMessage(1)) is False
    assert "'/t': message not sent: the publisher is closed" in caplog.text
    assert publisher._sequence == 1


def test_close_leaves_a_successors_file_and_entry_alone(publisher, discovery, cortex_dir):
    path = ipc_path(publisher.address)
    with bare_publisher(path.parent, topic="/t", name=path.name, node="n") as successor:
        # somebody without our manners has taken the path over; libzmq lets him
        register(discovery, TopicInfo("/t", "ipc:///elsewhere", "IntMessage", 1, "n"))
        publisher.close()
        assert path.is_socket()
        assert lookup(discovery, "/t").address == "ipc:///elsewhere"
        assert successor.info.address == publisher.address


def test_a_forgotten_publisher_cleans_up_when_it_is_collected(discovery):
    publisher = Publisher("/t", IntMessage, "n", discovery.address)
    path = ipc_path(publisher.address)
    del publisher
    gc.collect()
    assert not path.exists()
    assert lookup(discovery, "/t") is None


def test_a_forgotten_publisher_cleans_up_when_the_program_ends(discovery, cortex_dir):
    program = """
from cortex.core import endpoint
from cortex.core.publisher import Publisher
from cortex.messages.standard import IntMessage
kept = Publisher("/t", IntMessage, "n")
print(kept.is_registered)
"""
    with spawn_python(program) as process:
        out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("True\n", "", 0)
    assert list((cortex_dir / "topics").iterdir()) == []
    assert lookup(discovery, "/t") is None


def test_a_forked_child_does_not_tear_down_its_parents_publisher(discovery):
    program = """
import os, sys
from cortex.core import endpoint
from cortex.core.publisher import Publisher
from cortex.messages.standard import IntMessage
kept = Publisher("/t", IntMessage, "n")
pid = os.fork()
if pid == 0:
    sys.exit(0)
os.waitpid(pid, 0)
print(kept.address, flush=True)
input()
"""
    with spawn_python(program, stdin=-1) as process:
        path = ipc_path(process.stdout.readline().strip())
        assert path.is_socket()
        assert lookup(discovery, "/t") is not None
        process.communicate("\n", timeout=30)
    assert not path.exists()


def test_a_constructor_that_fails_leaves_nothing(cortex_dir, monkeypatch):
    monkeypatch.setenv("CORTEX_DIR", "/proc/nowhere")
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with pytest.raises(CortexError, match="CORTEX_DIR"):
        Publisher("/t", IntMessage, "n", auto_register=False)
    gc.collect()
    wait_until(lambda: threading.active_count() <= before[0] and len(os.listdir("/proc/self/fd")) <= before[1])


# -- registration


def test_without_a_daemon_it_publishes_unseen_and_registers_when_one_appears(cortex_dir, caplog):
    address = f"ipc://{cortex_dir}/late.sock"
    publisher = Publisher("/t", IntMessage, "n", address)
    assert not publisher.is_registered
    assert f"no discovery daemon answers at {address}" in caplog.text
    assert publisher.publish(IntMessage(1))
    daemon = start_daemon(address)
    wait_until(lambda: publisher.is_registered, what="registration at a late daemon")
    assert lookup(daemon, "/t").address == publisher.address
    publisher.close()
    assert lookup(daemon, "/t") is None
    daemon.stop()


def test_it_registers_again_after_the_daemon_was_restarted(cortex_dir):
    daemon = start_daemon()
    publisher = Publisher("/t", IntMessage, "n", daemon.address)
    daemon.stop()
    daemon = start_daemon()
    wait_until(lambda: lookup(daemon, "/t"), what="registration at the new daemon")
    wait_until(lambda: publisher.is_registered)
    publisher.close()
    daemon.stop()


def test_a_topic_of_another_node_is_taken_once_that_node_has_left(discovery, caplog):
    first = Publisher("/t", IntMessage, "first", discovery.address)
    with caplog.at_level(logging.WARNING):
        second = Publisher("/t", IntMessage, "second", discovery.address)
    assert not second.is_registered
    assert "first" in caplog.text
    assert lookup(discovery, "/t").publisher_node == "first"
    first.close()
    wait_until(lambda: second.is_registered, what="registration of the second node")
    assert lookup(discovery, "/t").publisher_node == "second"
    second.close()


def test_closing_a_refused_publisher_leaves_the_owners_entry(discovery):
    first = Publisher("/t", IntMessage, "first", discovery.address)
    second = Publisher("/t", IntMessage, "second", discovery.address)
    second.close()
    assert lookup(discovery, "/t").publisher_node == "first"
    first.close()


def test_the_socket_directory_is_private(discovery, cortex_dir):
    publisher = Publisher("/t", IntMessage, "n", discovery.address)
    assert Path(cortex_dir / "topics").stat().st_mode & 0o077 == 0
    publisher.close()


def test_a_subscriber_finds_a_hashed_address(discovery):
    publisher = Publisher("/x_y" * 60, IntMessage, "n", discovery.address)
    subscriber = Subscriber("/x_y" * 60, IntMessage, discovery_address=discovery.address)
    assert subscriber.topic_info.address == publisher.address
    subscriber.close()
    publisher.close()
