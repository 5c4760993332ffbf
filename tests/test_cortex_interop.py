"""Whole processes talk to each other: every standard type, a daemon of its own, crashes and restarts of each side."""

import json
import os
import signal

import pytest
from helpers import spawn_python, wait_until
from peers import listen

from cortex.codec import TORCH_AVAILABLE
from cortex.core.publisher import Publisher
from cortex.discovery.client import DiscoveryClient, wait_for_discovery
from cortex.errors import DiscoveryUnavailableError
from cortex.messages.standard import IntMessage
from cortex.paths import default_discovery_address

# Both sides build the same messages from this; what arrives is compared value by value.
MESSAGES = """
import numpy as np
from cortex.messages import standard as std

def messages():
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    cloud = np.linspace(0, 1, 30, dtype="<f4").reshape(10, 3)
    made = [
        std.StringMessage("caméra"), std.IntMessage(-2**63), std.FloatMessage(0.1), std.BytesMessage(b"\\x00\\xff"),
        std.DictMessage({"a": [1, {"b": image}], "n": None}), std.ListMessage([1, "x", cloud, [True]]),
        std.ArrayMessage(np.array(5.0), "scalar", "f"), std.ArrayMessage(np.zeros((0, 3))),
        std.ArrayMessage(np.array(["2026-01-02"], "M8[ns]")), std.ArrayMessage(np.asfortranarray(image[:, :, 0])),
        std.ArrayMessage(np.array([(1, 2.5)], dtype="<i4,<f4")), std.ArrayMessage(np.arange(5, dtype=">i2")),
        std.MultiArrayMessage({"image": image, "cloud": cloud}, "f"), std.ImageMessage(image),
        std.PointCloudMessage(cloud, colors=None, intensity=cloud[:, 0], frame_id="lidar"),
        std.PoseMessage(np.zeros(3), np.array([0, 0, 0, 1.0]), "map", "base"),
        std.TransformMessage(np.eye(4), "a", "b"),
        std.TimestampMessage(1, 2), std.HeaderMessage(1, 2, "f", 3),
    ]
    if TORCH:
        import torch
        made += [std.TensorMessage(torch.arange(6.0).reshape(2, 3), "t"), std.MultiTensorMessage({"x": torch.ones(3)})]
    else:
        made += [std.TensorMessage(cloud, "t"), std.MultiTensorMessage({"x": cloud})]
    return {f"/{k}/{type(m).__name__}": m for k, m in enumerate(made)}

def shown(value):
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(item) for item in value]
    if hasattr(value, "detach"):
        return ["torch", str(value.dtype), list(value.shape), value.tolist()]
    if isinstance(value, np.ndarray):
        return [value.dtype.descr if value.dtype.names else value.dtype.str, list(value.shape), value.tobytes().hex()]
    return repr(value)
"""

PUBLISHER = (
    MESSAGES
    + """
import asyncio, sys
from cortex import Node

async def main():
    async with Node("sender") as node:
        pairs = [(node.create_publisher(topic, type(message)), message) for topic, message in messages().items()]
        async def tick():
            for publisher, message in pairs:
                assert publisher.publish(message), publisher.topic_name
        node.create_timer(0.02, tick)
        await node.run()

asyncio.run(main())
"""
)

SUBSCRIBER = (
    MESSAGES
    + """
import json
import cortex
from cortex import Node

class Receiver(Node):
    def __init__(self):
        super().__init__("receiver")
        self.got = {}
        self.wanted = messages()
        for topic, message in self.wanted.items():
            self.create_subscriber(topic, type(message), self.keeping(topic), strict_fingerprint=True)

    def keeping(self, topic):
        async def keep(message, header):
            assert header.fingerprint == message.fingerprint()
            self.got[topic] = message
            if len(self.got) == len(self.wanted):
                self.stop()
        return keep

async def main():
    async with Receiver() as node:
        await node.run()
        return node.got, node.wanted

got, wanted = cortex.run(main())
print(json.dumps({topic: [shown(vars(got[topic])), shown(vars(wanted[topic]))] for topic in wanted}))
"""
)


@pytest.fixture
def daemon(cortex_dir):
    """A real daemon process on the private default address."""
    with spawn_python(["-m", "cortex.discovery.daemon"]) as process:
        assert wait_for_discovery(timeout=30)
        yield process


def _exchange(torch):
    switch = f"TORCH = {torch}\n"
    # the subscriber comes first: it has to wait for its topics
    with spawn_python(switch + SUBSCRIBER) as receiver, spawn_python(switch + PUBLISHER) as sender:
        out, err = receiver.communicate(timeout=60)
        assert (receiver.returncode, err) == (0, "")
        sender.send_signal(signal.SIGTERM)
        assert (sender.communicate(timeout=30), sender.returncode) == (("", ""), 0)
    return json.loads(out)


@pytest.mark.skipif(TORCH_AVAILABLE, reason="with torch, TensorMessage takes tensors only")
def test_two_processes_exchange_every_standard_type(daemon, cortex_dir):
    _check(_exchange(torch=False), cortex_dir)


@pytest.mark.skipif(not TORCH_AVAILABLE, reason="torch is not installed")
def test_two_processes_exchange_every_standard_type_and_tensors(daemon, cortex_dir):
    _check(_exchange(torch=True), cortex_dir)


def _check(exchanged, cortex_dir):
    assert len({topic.rsplit("/")[-1] for topic in exchanged}) == 16
    for topic, (received, sent) in exchanged.items():
        assert received == sent, topic
    assert list((cortex_dir / "topics").iterdir()) == []
    with DiscoveryClient() as client:
        assert client.snapshot().topics == ()


ROBOT = """
import asyncio
from cortex import Node
from cortex.messages.standard import IntMessage

async def main():
    async with Node("robot") as node:
        publisher = node.create_publisher("/t", IntMessage)
        async def tick():
            publisher.publish(IntMessage(PUBLISHER_NUMBER))
        node.create_timer(0.005, tick)
        print("up", flush=True)
        await node.run()

asyncio.run(main())
"""


def test_a_subscriber_outlives_crashes_and_restarts_of_its_publisher(daemon):
    watcher = """
import asyncio, json
from cortex import Node
from cortex.messages.standard import IntMessage

async def main():
    async with Node("watcher") as node:
        seen = []
        async def receive(message, header):
            if message.data not in seen:
                seen.append(message.data)
                print(json.dumps([message.data, subscriber.dropped_count]), flush=True)
        subscriber = node.create_subscriber("/t", IntMessage, receive)
        await node.run()

asyncio.run(main())
"""
    with spawn_python(watcher) as process:
        for number, end in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)):
            with spawn_python(ROBOT.replace("PUBLISHER_NUMBER", str(number))) as robot:
                assert robot.stdout.readline() == "up\n"
                assert json.loads(process.stdout.readline())[0] == number
                robot.send_signal(end)
                robot.wait(30)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")


def test_a_killed_publisher_is_called_dead_and_its_node_may_come_back(daemon):
    with spawn_python(ROBOT.replace("PUBLISHER_NUMBER", "1")) as robot:
        assert robot.stdout.readline() == "up\n"
        with DiscoveryClient() as client:
            assert client.snapshot().dead == frozenset()
            robot.kill()
            robot.wait()
            wait_until(lambda: client.snapshot().dead == {"/t"}, what="noticing the crash")
            with spawn_python(ROBOT.replace("PUBLISHER_NUMBER", "2")) as again:
                assert again.stdout.readline() == "up\n"
                wait_until(lambda: client.snapshot().dead == frozenset(), what="noticing the return")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_publishers_return_to_a_daemon_that_was_replaced(cortex_dir, end):
    with spawn_python(["-m", "cortex.discovery.daemon"]) as first:
        assert wait_for_discovery(timeout=30)
        publishers = [Publisher(f"/{k}", IntMessage, "robot", default_discovery_address()) for k in range(3)]
        assert all(publisher.is_registered for publisher in publishers)
        first.send_signal(end)
        first.wait(30)
    with spawn_python(["-m", "cortex.discovery.daemon"]), DiscoveryClient() as client:
        assert wait_for_discovery(timeout=30)
        wait_until(lambda: len(client.snapshot().topics) == 3, what="registration at the new daemon")
        assert all(wait_until(lambda: publisher.is_registered) for publisher in publishers)
        for publisher in publishers:
            publisher.close()
        assert client.snapshot().topics == ()
    with DiscoveryClient() as client, pytest.raises(DiscoveryUnavailableError):
        client.snapshot()


def test_messages_flow_while_no_daemon_runs(cortex_dir):
    with spawn_python(["-m", "cortex.discovery.daemon"]) as daemon:
        assert wait_for_discovery(timeout=30)
        publisher = Publisher("/t", IntMessage, "robot", default_discovery_address())
        with listen(publisher) as subscriber:
            daemon.kill()
            daemon.wait()
            assert publisher.publish(IntMessage(1))
            assert IntMessage.from_frames(subscriber.receive(10_000))[0] == IntMessage(1)
        publisher.close()
    assert os.listdir(cortex_dir / "topics") == []
