"""Publishes the time of a replay on a topic, for programs that want to live in the recording's time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from bag.records import Frame
from cortex.discovery.protocol import TopicInfo
from cortex.messages.standard import TimestampMessage
from cortex.paths import bindable_ipc_address

NODE = "bag_player"


def clock_place(topic: str) -> TopicInfo:
    """The registry entry of a clock topic."""
    address = bindable_ipc_address(topic, NODE)
    return TopicInfo(topic, address, TimestampMessage.__name__, TimestampMessage.fingerprint(), NODE)


class SimulatedClock:
    """A thread that publishes the recorded wall time as `TimestampMessage` at a steady rate.

    Args:
        hz: how often, in real time.
        now_ns: the recorded wall time that is now.
        send: publishes parts 1..N on the clock topic; only this thread uses it.
    """

    def __init__(self, hz: float, now_ns: Callable[[], int], send: Callable[[Sequence[Frame]], object]) -> None:
        self._period_s = 1 / hz
        self._now_ns = now_ns
        self._send = send
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bag clock topic", daemon=True)

    def __enter__(self) -> SimulatedClock:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        sequence = 0
        while not self._done.wait(self._period_s if sequence else 0):
            message = TimestampMessage(*divmod(max(0, self._now_ns()), 1_000_000_000))
            self._send([bytes(part) for part in message.to_frames(sequence)])
            sequence += 1
