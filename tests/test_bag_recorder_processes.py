"""The recorder as a process of its own among others that misbehave: garbage, a daemon that is killed, 500 topics."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from helpers import RunningDaemon, spawn_python, wait_until
from talkers import BODY, FINGERPRINT, Talker, gaps, header, sequences

import bag
from cortex.discovery.client import DiscoveryClient
from cortex.discovery.protocol import TopicInfo

CLAIMED_1_GB = b"\x91\x83\xa4kind\xa5numpy\xa5dtype\xa3<f8\xa5shape\x91\xce\x07\x73\x59\x40"
# registers a topic and says "ready"; then, at each line, sends so many messages
SPEAKER = """
import sys
from cortex.core.publisher import Publisher
from cortex.messages.standard import IntMessage
publisher = Publisher(sys.argv[1], IntMessage, node_name="speaker", queue_size=10_000)
print("ready", flush=True)
for line in sys.stdin:
    for number in range(int(line)):
        publisher.publish(IntMessage(number))
    print("sent", flush=True)
"""
DAEMON = ["-m", "cortex.discovery.daemon", "--log-level", "ERROR"]


@contextlib.contextmanager
def recorder_process(path: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    with spawn_python(["-m", "bag.cli", "record", "-a", "-o", str(path), "--json", *words]) as process:
        yield process


def until(process: subprocess.Popen[str], condition) -> dict:
    """The first progress line for which a condition holds."""
    for line in process.stdout:
        found = json.loads(line)
        if condition({topic["topic"]: topic for topic in found["topics"]}):
            return found
    raise AssertionError(f"the recorder ended: {process.stderr.read()}")


def end(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    _output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    return errors


def test_a_peer_that_sends_garbage_harms_nobody_and_is_kept_or_counted(tmp_path, cortex_dir, discovery):
    path = tmp_path / "run.h5"
    with Talker(cortex_dir) as peer, Talker(cortex_dir, "/good") as good, recorder_process(path) as process:
        peer.register(discovery).wait_subscribed().send(1)
        good.register(discovery).wait_subscribed().send(5)
        peer.send_parts()  # one part: the topic alone
        peer.send_parts(b"short")
        peer.send_parts(header(1)[:23], *BODY)
        peer.socket.send_multipart([b"/t\xff\xfe not text", header(9), *BODY])
        peer.send_parts(header(1), *[b"x"] * 10_000)
        peer.send_parts(header(2), CLAIMED_1_GB, b"only this")
        peer.send_parts(header(3), b"\xc1 no msgpack", b"y" * 10)
        peer.send_parts(header(4))
        good.send(5)
        until(process, lambda topics: topics["/t"]["messages"] == 5 and topics["/good"]["messages"] == 10)
        end(process)
    assert sequences(path) == [0, 1, 2, 3, 4]
    with bag.open(path) as run:
        summary = {topic.topic: topic for topic in run.info().topics}
        assert summary["/t"].malformed == 3
        assert run["/good"].sequence.tolist() == list(range(10))
        frames = [[bytes(part) for part in message.frames] for message in run["/t"].raw_messages()]
    assert frames[1][1:] == [b"x"] * 10_000
    assert frames[2][1:] == [CLAIMED_1_GB, b"only this"]


@contextlib.contextmanager
def daemon_process(directory: Path) -> Iterator[subprocess.Popen[str]]:
    with spawn_python(DAEMON) as process, DiscoveryClient(f"ipc://{directory}/discovery.sock") as client:
        wait_until(client.ping, what="the daemon")
        yield process


def test_a_daemon_that_is_killed_and_comes_back_is_followed_and_those_who_speak_are_recorded(tmp_path, cortex_dir):
    path = tmp_path / "run.h5"

    def say(speaker: subprocess.Popen[str], count: int) -> None:
        speaker.stdin.write(f"{count}\n")
        speaker.stdin.flush()
        assert speaker.stdout.readline() == "sent\n"

    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(daemon_process(cortex_dir))
        speaker = stack.enter_context(spawn_python(["-c", SPEAKER, "/t"], stdin=subprocess.PIPE))
        assert speaker.stdout.readline() == "ready\n"
        recorder = stack.enter_context(recorder_process(path))
        until(recorder, lambda topics: "/t" in topics and topics["/t"]["connected"])
        say(speaker, 5)
        until(recorder, lambda topics: topics["/t"]["messages"] == 5)
        daemon.kill()
        daemon.wait()
        say(speaker, 5)
        until(recorder, lambda topics: topics["/t"]["messages"] == 10)
        stack.enter_context(daemon_process(cortex_dir))
        late = stack.enter_context(spawn_python(["-c", SPEAKER, "/late"], stdin=subprocess.PIPE))
        assert late.stdout.readline() == "ready\n"
        until(recorder, lambda topics: "/late" in topics and topics["/late"]["connected"])
        say(late, 3)
        say(speaker, 5)
        until(recorder, lambda topics: topics["/t"]["messages"] == 15 and topics["/late"]["messages"] == 3)
        end(recorder)
    assert sequences(path, "/t") == list(range(15))
    assert sequences(path, "/late") == list(range(3))
    assert gaps(path, "/t") == []


def test_five_hundred_topics_are_recorded_by_one_process(tmp_path, cortex_dir, discovery: RunningDaemon):
    path = tmp_path / "run.h5"
    with contextlib.ExitStack() as stack:
        talkers = [stack.enter_context(Talker(cortex_dir, f"/{n}", name=f"{n}.sock")) for n in range(20)]
        names = {talker: [f"/{n}/{k}" for k in range(25)] for n, talker in enumerate(talkers)}
        with DiscoveryClient(discovery.address) as client:
            for talker, topics in names.items():
                for topic in topics:
                    client.register(TopicInfo(topic, talker.info.address, "IntMessage", FINGERPRINT, "talker"))
        process = stack.enter_context(recorder_process(path))
        for talker, topics in names.items():
            wanted = {b"\x01" + topic.encode() for topic in topics}
            while wanted:
                assert talker.socket.poll(60_000), f"{len(wanted)} subscriptions never came"
                wanted.discard(talker.socket.recv())
        for number in range(4):
            for talker, topics in names.items():
                for topic in topics:
                    talker.socket.send_multipart([topic.encode(), header(number), *BODY])
        until(process, lambda topics: sum(topic["messages"] for topic in topics.values()) == 2000)
        end(process)
    with bag.open(path) as run:
        assert len(run.topics) == 500
        assert all(run[name].sequence.tolist() == [0, 1, 2, 3] for name in run.topics)
