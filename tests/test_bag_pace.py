"""How long messages gather: slow to wait, quick to hurry, and never so long that the queue is full."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bag.pace import FIRST_NS, QUEUE_SHARE, Pace

MS = 1_000_000
LONGEST_NS = 100 * MS
QUEUE, QUEUE_BYTES = 16_000, 1 << 28


@pytest.fixture
def pace():
    pace = Pace(LONGEST_NS, QUEUE, QUEUE_BYTES)
    pace.begin()
    return pace


def test_after_a_silence_the_wait_is_short_and_doubles_while_little_comes(pace):
    waits = []
    for _ in range(8):
        waits.append(pace.wait_ns)
        pace.took(1, 100)
    assert waits == pytest.approx([min(FIRST_NS * 2**n, LONGEST_NS) for n in range(8)], abs=100)
    pace.begin()
    assert pace.wait_ns == FIRST_NS


def test_a_shorter_interval_is_kept_to_from_the_first_wait_on():
    pace = Pace(MS, QUEUE, QUEUE_BYTES)
    pace.begin()
    pace.took(1, 1)
    assert pace.wait_ns == MS


@given(messages=st.floats(1e-6, 1), nbytes=st.floats(1e-6, 4))
def test_at_a_steady_rate_no_more_gathers_than_a_share_of_the_queue(messages, nbytes):
    # per ns: up to 1 GHz of messages, 4 GB/s
    pace = Pace(LONGEST_NS, QUEUE, QUEUE_BYTES)
    pace.begin()
    for _ in range(40):
        pace.took(int(messages * pace.wait_ns), int(nbytes * pace.wait_ns))
    room = min(QUEUE / messages, QUEUE_BYTES / nbytes)
    assert pace.wait_ns <= room / QUEUE_SHARE * 1.05 + 2
    assert pace.wait_ns >= min(LONGEST_NS, room / QUEUE_SHARE * 0.95) - 2
