"""The other side of a socket, for tests of one side: a bare PUB socket that sends whatever it is told to."""

import asyncio
import contextlib
import time
from dataclasses import dataclass

import zmq

from cortex.core.raw import RawSubscriber
from cortex.discovery.client import DiscoveryClient
from cortex.discovery.protocol import TopicInfo
from cortex.messages.base import MessageHeader
from cortex.messages.standard import IntMessage


async def until(condition, timeout=10, what="a condition"):
    """Do as `helpers.wait_until`, on the event loop."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout} s"
        await asyncio.sleep(0.002)
    return answer


@dataclass
class BarePublisher:
    """An XPUB socket under a registry entry, without any of Cortex's rules."""

    info: TopicInfo
    socket: zmq.Socket

    def send(self, *parts):
        self.socket.send_multipart(parts)

    def send_number(self, value, sequence=0, topic=None):
        frames = IntMessage(value).to_frames(sequence)
        self.send(topic or self.info.name.encode(), *frames)

    def wait_for_subscriber(self, timeout=10):
        """Return once somebody has subscribed; what is sent from then on arrives."""
        event = b""
        while event[:1] != b"\x01":
            assert self.socket.poll(timeout * 1000), "nobody subscribed"
            event = self.socket.recv()


@contextlib.contextmanager
def bare_publisher(directory, topic="/t", message_type=IntMessage, node="bare", discovery=None, name="bare.sock"):
    """Bind a bare publisher in `directory`, and register it when a daemon is given."""
    address = f"ipc://{directory}/{name}"
    info = TopicInfo(topic, address, message_type.__name__, message_type.fingerprint(), node)
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.set_hwm(0)
        socket.linger = 0
        socket.set(zmq.XPUB_VERBOSE, 1)
        socket.bind(address)
        if discovery is not None:
            register(discovery, info)
        yield BarePublisher(info, socket)


def register(discovery, info):
    with DiscoveryClient(discovery.address) as client:
        client.register(info)


def lookup(discovery, topic):
    with DiscoveryClient(discovery.address) as client:
        return client.lookup_topic(topic)


def listen(publisher, **options):
    """Return a raw subscriber of a `Publisher` that is surely connected: an encoded message came through."""
    subscriber = RawSubscriber(publisher.topic_name, publisher.address, **options)
    deadline = time.monotonic() + 10
    while True:
        assert time.monotonic() < deadline, "the subscriber never heard the publisher"
        publisher.publish_frames([b"probe"])
        if subscriber.receive(5):
            break
    # the probes that are still under way come before whatever is sent next
    publisher.publish_frames([b"last probe"])
    while subscriber.receive(10_000) != [b"last probe"]:
        pass
    return subscriber


def sequence_of(frames):
    return MessageHeader.from_bytes(frames[0]).sequence
