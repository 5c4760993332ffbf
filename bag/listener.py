"""A plain subscriber as a real process that writes down what it got and when, to hold a replay against a recording.

``python -m bag.listener --discovery-address ADDRESS --log FILE TOPIC...`` waits until discovery lists every topic, then
subscribes as any Cortex subscriber does. The log holds one JSON line for each topic as discovery described it, and one
for each message: topic, sequence, SHA-256 over its parts, and arrival on the monotonic clock in nanoseconds. It stops
when standard input has ended and nothing more arrives.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import threading
import time
from typing import Any, TextIO

from bag.robot import digest
from cortex.core.raw import RawSubscriber
from cortex.discovery.client import DiscoveryClient
from cortex.discovery.protocol import TopicInfo
from cortex.errors import DiscoveryUnavailableError
from cortex.messages.base import MessageHeader

_DISCOVERY_TIMEOUT_S = 30.0
_POLL_S = 0.02
# after the end of standard input, silence of this length on a topic means that no more will come
_QUIET_MS = 300


class Listener:
    """Receives topics, each in its own thread, and logs every message.

    Args:
        log: text stream for the JSON lines; written under a lock.
    """

    def __init__(self, log: TextIO) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def listen(self, infos: list[TopicInfo]) -> list[threading.Thread]:
        """Log and subscribe to every topic; return the threads that receive them."""
        threads = [threading.Thread(target=self._receive, args=(info,), name=info.name) for info in infos]
        for info, thread in zip(infos, threads, strict=True):
            self._write({"registered": dataclasses.asdict(info)})
            thread.start()
        return threads

    def stop(self) -> None:
        """Let every thread end when its topic falls silent."""
        self._stopping.set()

    def _receive(self, info: TopicInfo) -> None:
        with RawSubscriber(info.name, info.address) as subscriber:
            while True:
                frames = subscriber.receive(timeout_ms=_QUIET_MS)
                arrival_ns = time.monotonic_ns()
                if frames is not None:
                    header = MessageHeader.from_bytes(frames[0])
                    entry = {"topic": info.name, "sequence": header.sequence, "sha256": digest(frames)}
                    self._write(entry | {"arrival_ns": arrival_ns})
                elif self._stopping.is_set():
                    return

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry) + "\n"
        with self._lock:
            self._log.write(line)


def find_topics(discovery_address: str, topics: list[str]) -> list[TopicInfo]:
    """Return what discovery says of ``topics``, waiting until it lists them all.

    Raises:
        TimeoutError: when some topic does not appear in time.
    """
    deadline = time.monotonic() + _DISCOVERY_TIMEOUT_S
    with DiscoveryClient(discovery_address, timeout_ms=1000) as client:
        while True:
            try:
                found = {info.name: info for info in client.snapshot().topics}
            except DiscoveryUnavailableError:
                found = {}
            if all(topic in found for topic in topics):
                return [found[topic] for topic in topics]
            if time.monotonic() > deadline:
                absent = ", ".join(topic for topic in topics if topic not in found)
                raise TimeoutError(f"Discovery at {discovery_address} does not list {absent}.")
            time.sleep(_POLL_S)


def main(arguments: list[str] | None = None) -> None:
    """Listen as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bag.listener", description="Log every message of some topics.")
    parser.add_argument("topics", nargs="+", metavar="TOPIC")
    parser.add_argument("--discovery-address", required=True)
    parser.add_argument("--log", required=True, metavar="FILE", help="where to write the JSON lines")
    chosen = parser.parse_args(arguments)
    with open(chosen.log, "w", encoding="utf-8") as log:
        listener = Listener(log)
        threads = listener.listen(find_topics(chosen.discovery_address, chosen.topics))
        sys.stdin.read()
        listener.stop()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
