"""The raw twins: frames in and out, unchanged, under somebody else's name but never at a live owner's expense."""

import signal
import threading
from dataclasses import replace

import pytest
import zmq
from helpers import spawn_python, start_daemon, wait_until
from peers import bare_publisher, lookup, register

from cortex.core.publisher import Publisher
from cortex.core.raw import RawPublisher, RawSubscriber
from cortex.core.registrar import Registrar
from cortex.core.subscriber import Subscriber
from cortex.discovery.protocol import TopicInfo
from cortex.errors import AddressInUseError, CortexError, DiscoveryUnavailableError, TopicOwnedError
from cortex.messages.standard import IntMessage
from cortex.paths import bindable_ipc_address, ipc_path

FRAMES = [b"h" * 24, b"\x91\x05", b"", bytes(range(256))]


@pytest.fixture
def info(cortex_dir):
    return TopicInfo("/t", bindable_ipc_address("/t", "robot"), "Custom", 2**64 - 1, "robot")


def _sockets(cortex_dir):
    return sorted(path.name for path in (cortex_dir / "topics").rglob("*.sock"))


# -- subscriber


def test_it_returns_the_parts_after_the_topic(cortex_dir):
    with bare_publisher(cortex_dir) as peer, RawSubscriber("/t", peer.info.address) as subscriber:
        peer.wait_for_subscriber()
        peer.send(b"/t", *FRAMES)
        assert subscriber.receive() == FRAMES
        peer.send(b"/t", *FRAMES)
        frames = subscriber.receive(10_000, copy=False)
        assert [type(frame) for frame in frames] == [zmq.Frame] * 4
        assert [frame.bytes for frame in frames] == FRAMES
        peer.send(b"/t")
        assert subscriber.receive() == []


def test_it_takes_exactly_its_topic(cortex_dir):
    with bare_publisher(cortex_dir) as peer, RawSubscriber("/t", peer.info.address) as subscriber:
        peer.wait_for_subscriber()
        for topic in (b"/ta", b"/t/a", b"/t\0", b"/t"):
            peer.send(topic, topic)
        assert subscriber.receive(10_000) == [b"/t"]
        assert subscriber.receive(0) is None


def test_it_waits_as_long_as_it_is_told(cortex_dir):
    with RawSubscriber("/t", f"ipc://{cortex_dir}/nobody.sock") as subscriber:
        assert subscriber.receive(0) is None
        assert subscriber.receive(20) is None


def test_foreign_topics_do_not_prolong_the_wait(cortex_dir):
    stop = threading.Event()
    with bare_publisher(cortex_dir) as peer, RawSubscriber("/t", peer.info.address) as subscriber:
        peer.wait_for_subscriber()

        def chatter():
            while not stop.wait(0.001):
                peer.send(b"/tx", b"noise")

        thread = threading.Thread(target=chatter)
        thread.start()
        assert subscriber.receive(50) is None
        stop.set()
        thread.join()


def test_it_connects_before_its_publisher_exists(cortex_dir):
    with RawSubscriber("/t", f"ipc://{cortex_dir}/bare.sock") as subscriber, bare_publisher(cortex_dir) as peer:
        peer.wait_for_subscriber()
        peer.send(b"/t", b"first")
        assert subscriber.receive(10_000) == [b"first"]


def test_it_keeps_all_that_came_while_it_was_busy(cortex_dir):
    with bare_publisher(cortex_dir) as peer, RawSubscriber("/t", peer.info.address) as subscriber:
        peer.wait_for_subscriber()
        for number in range(5000):
            peer.send(b"/t", str(number).encode())
        assert [subscriber.receive(10_000)[0] for _ in range(5000)] == [str(k).encode() for k in range(5000)]


def test_the_options_reach_the_socket(cortex_dir):
    with zmq.Context() as context:
        subscriber = RawSubscriber("/t", f"ipc://{cortex_dir}/x", rcvhwm=7, reconnect_ms=33, context=context)
        assert (subscriber.socket.get(zmq.RCVHWM), subscriber.socket.get(zmq.RECONNECT_IVL)) == (7, 33)
        subscriber.close()
        subscriber.close()
        assert not context.closed


def test_an_address_that_means_nothing_is_one_sentence():
    with pytest.raises(CortexError, match="'/t' cannot be received: connecting to nonsense failed"):
        RawSubscriber("/t", "nonsense")


# -- publisher


def test_it_publishes_frames_unchanged_under_the_given_entry(discovery, cortex_dir, info):
    with (
        RawPublisher(info, discovery_address=discovery.address) as publisher,
        RawSubscriber("/t", info.address) as subscriber,
    ):
        assert publisher.info is info
        assert lookup(discovery, "/t") == info
        assert publisher.wait_for_subscribers(1, 10_000)
        assert publisher.send([FRAMES[0], memoryview(FRAMES[1]), *FRAMES[2:]])
        assert subscriber.receive(10_000) == FRAMES
    assert lookup(discovery, "/t") is None
    assert _sockets(cortex_dir) == []


def test_a_plain_subscriber_cannot_tell(discovery, info):
    info = replace(info, message_type="IntMessage", fingerprint=IntMessage.fingerprint())
    with RawPublisher(info, discovery_address=discovery.address) as publisher:
        subscriber = Subscriber("/t", IntMessage, discovery_address=discovery.address, strict_fingerprint=True)
        assert subscriber.topic_info == info
        subscriber.close()
        assert publisher.info.publisher_node == "robot"


def test_the_environment_names_the_daemon(discovery, info):
    with RawPublisher(info):
        assert lookup(discovery, "/t") == info


def test_it_can_publish_unseen(cortex_dir, info):
    with RawPublisher(info, register=False) as publisher:
        assert publisher.subscribers == 0
        assert _sockets(cortex_dir) == ["robot__t.sock"]
    assert _sockets(cortex_dir) == []


def test_subscribers_of_the_topic_and_its_prefixes_are_counted(cortex_dir, info):
    with RawPublisher(info, register=False) as publisher, zmq.Context() as context:
        sockets = []
        for prefix in (b"/t", b"/t", b"", b"/tx", b"/other"):
            sockets.append(context.socket(zmq.SUB))
            sockets[-1].subscribe(prefix)
            sockets[-1].connect(info.address)
        assert publisher.wait_for_subscribers(3, 10_000)
        wait_until(lambda: sum(publisher._subscriptions.values()) == 0 or publisher.subscribers == 3)
        assert not publisher.wait_for_subscribers(4, 20)
        sockets[0].close()
        wait_until(lambda: publisher.subscribers == 2, what="noticing that one has left")


def test_waiting_for_nobody_is_no_wait(cortex_dir, info):
    with RawPublisher(info, register=False) as publisher:
        assert publisher.wait_for_subscribers(0, 0)
        assert not publisher.wait_for_subscribers(1, 0)


def test_lossless_waits_for_a_slow_subscriber_and_says_when_it_cannot(cortex_dir, info):
    big = [bytes(200_000)]
    with (
        RawPublisher(info, register=False, lossless=True, sndhwm=5, send_timeout_ms=20) as publisher,
        RawSubscriber("/t", info.address, rcvhwm=5) as subscriber,
    ):
        assert publisher.wait_for_subscribers(1, 10_000)
        sent = 0
        while publisher.send(big):
            sent += 1
            assert sent < 10_000, "nothing ever blocked"
        # nothing of the refused message was sent, and nothing of the others lost
        assert [subscriber.receive(10_000) for _ in range(sent)] == [big] * sent
        assert subscriber.receive(0) is None
        assert publisher.send([b"last"])
        assert subscriber.receive(10_000) == [b"last"]


def test_without_lossless_a_slow_subscriber_loses_and_nobody_waits(cortex_dir, info):
    big = [bytes(200_000)]
    with (
        RawPublisher(info, register=False, sndhwm=5) as publisher,
        RawSubscriber("/t", info.address, rcvhwm=5) as subscriber,
    ):
        assert publisher.wait_for_subscribers(1, 10_000)
        assert all(publisher.send(big) for _ in range(200))
        got = 0
        while subscriber.receive(100):
            got += 1
        assert 0 < got < 200


def test_what_is_queued_still_leaves_at_close(cortex_dir, info):
    with RawSubscriber("/t", info.address) as subscriber:
        with RawPublisher(info, register=False, linger_ms=10_000) as publisher:
            assert publisher.wait_for_subscribers(1, 10_000)
            for number in range(500):
                publisher.send([bytes(50_000), str(number).encode()])
        assert [subscriber.receive(10_000)[1] for _ in range(500)] == [str(k).encode() for k in range(500)]


# -- whom it does not push aside


def test_a_live_socket_is_never_stolen(discovery, info):
    owner = Publisher("/t", IntMessage, "robot", discovery.address)
    assert owner.address == info.address
    with pytest.raises(AddressInUseError, match="'/t' is being published by node 'robot'"):
        RawPublisher(info, discovery_address=discovery.address)
    with pytest.raises(AddressInUseError, match="a live socket listens"):
        RawPublisher(info, register=False)
    assert lookup(discovery, "/t").fingerprint == IntMessage.fingerprint()
    assert ipc_path(owner.address).is_socket()
    owner.close()


@pytest.mark.parametrize("node", ["other", "robot"])
def test_a_topic_that_lives_elsewhere_is_refused_before_anything_is_bound(discovery, cortex_dir, info, node):
    with bare_publisher(cortex_dir, node=node, discovery=discovery) as owner:
        with pytest.raises(TopicOwnedError, match=f"'/t' belongs to node '{node}'") as caught:
            RawPublisher(info, discovery_address=discovery.address)
        assert (caught.value.topic, caught.value.node) == ("/t", node)
        assert lookup(discovery, "/t") == owner.info
    assert not (cortex_dir / "topics").exists()


def test_a_dead_entry_of_the_same_node_is_replaced_of_another_node_it_is_not(discovery, cortex_dir, info):
    register(discovery, replace(info, address=f"ipc://{cortex_dir}/dead.sock"))
    with RawPublisher(info, discovery_address=discovery.address):
        assert lookup(discovery, "/t") == info
    register(discovery, replace(info, address=f"ipc://{cortex_dir}/dead.sock", publisher_node="crashed"))
    with pytest.raises(TopicOwnedError, match="crashed"):
        RawPublisher(info, discovery_address=discovery.address)
    assert lookup(discovery, "/t").publisher_node == "crashed"
    assert _sockets(cortex_dir) == []


def test_without_a_daemon_it_says_so(cortex_dir, info):
    with pytest.raises(DiscoveryUnavailableError, match="no discovery daemon answers"):
        RawPublisher(info)
    assert not (cortex_dir / "topics").exists()


def test_a_stale_file_is_replaced(cortex_dir, info):
    program = """
import sys
from cortex.core.raw import RawPublisher
from cortex.discovery.protocol import TopicInfo
publisher = RawPublisher(TopicInfo(*eval(sys.stdin.readline())), register=False)
print("up", flush=True)
sys.stdin.readline()
"""
    with spawn_python(program, stdin=-1) as process:
        process.stdin.write(repr((info.name, info.address, "X", 1, "robot")) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert _sockets(cortex_dir) == ["robot__t.sock"]
    with RawPublisher(info, register=False) as publisher, RawSubscriber("/t", info.address):
        assert publisher.wait_for_subscribers(1, 10_000)


@pytest.mark.parametrize(
    "address",
    [
        "ipc://{dir}/outside.sock",
        "ipc://{dir}/topics/../outside.sock",
        "ipc://{dir}/topics/link/outside.sock",
        "ipc://{dir}/topics/..",
        "ipc://{dir}/topics",
        "ipc://relative.sock",
        "ipc://@abstract",
        "tcp://127.0.0.1:*",
    ],
)
def test_addresses_outside_the_topic_directory_are_not_bound(cortex_dir, info, address):
    (cortex_dir / "topics").mkdir(mode=0o700)
    (cortex_dir / "topics" / "link").symlink_to(cortex_dir)
    info = replace(info, address=address.format(dir=cortex_dir))
    with pytest.raises(CortexError, match=r"'/t' asks for the address .* outside|cannot be bound|binding .* failed"):
        RawPublisher(info, register=False)
    assert sorted(path.name for path in cortex_dir.rglob("*")) == ["link", "topics"]


def test_any_address_may_be_allowed(cortex_dir, info):
    info = replace(info, address=f"ipc://{cortex_dir}/elsewhere.sock")
    with RawPublisher(info, register=False, allow_any_address=True) as publisher:
        with RawSubscriber("/t", info.address):
            assert publisher.wait_for_subscribers(1, 10_000)
        tcp = replace(info, address="tcp://127.0.0.1:*")
        with RawPublisher(tcp, register=False, allow_any_address=True):
            assert publisher.send([b"x"])


def test_subdirectories_of_the_topic_directory_are_made(cortex_dir, info):
    info = replace(info, address=f"ipc://{cortex_dir}/topics/ns/sub__t.sock")
    with RawPublisher(info, register=False):
        assert (cortex_dir / "topics/ns/sub__t.sock").is_socket()


def test_a_path_that_is_too_long_is_one_sentence(cortex_dir, info):
    info = replace(info, address=f"ipc://{cortex_dir}/topics/{'x' * 120}.sock")
    with pytest.raises(CortexError, match="'/t' cannot be published: binding"):
        RawPublisher(info, register=False)


# -- leaving


def test_close_removes_only_its_own_file_and_entry(discovery, cortex_dir, info):
    publisher = RawPublisher(info, discovery_address=discovery.address)
    path = ipc_path(info.address)
    with bare_publisher(path.parent, topic="/t", name=path.name):
        register(discovery, replace(info, address="ipc:///elsewhere"))
        publisher.close()
        publisher.close()
        assert path.is_socket()
        assert lookup(discovery, "/t").address == "ipc:///elsewhere"


def test_close_works_when_the_daemon_is_gone(cortex_dir, info):
    daemon = start_daemon()
    publisher = RawPublisher(info)
    daemon.stop()
    publisher.close()
    assert _sockets(cortex_dir) == []


def test_a_registrar_keeps_the_entry_alive(cortex_dir, info):
    daemon = start_daemon()
    registrar = Registrar(daemon.address, interval=0.01)
    publisher = RawPublisher(info, registrar=registrar)
    daemon.stop()
    daemon = start_daemon()
    wait_until(lambda: lookup(daemon, "/t") == info, what="registration at the new daemon")
    publisher.close()
    assert lookup(daemon, "/t") is None
    registrar.close()
    daemon.stop()


def test_many_share_a_context(discovery, cortex_dir):
    with zmq.Context() as context:
        publishers = [
            RawPublisher(TopicInfo(f"/{k}", bindable_ipc_address(f"/{k}", "robot"), "X", 1, "robot"), context=context)
            for k in range(20)
        ]
        assert len(_sockets(cortex_dir)) == 20
        for publisher in publishers:
            publisher.close()
        assert _sockets(cortex_dir) == []
        assert not context.closed
