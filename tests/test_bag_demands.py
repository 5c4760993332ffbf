"""Required topics: when silence and slowness are complained of, and when not."""

from __future__ import annotations

from bag.demands import SECOND, Demand


def judged(demand, counts, step_ns=SECOND // 5, start=0):
    found = [demand.judge(start + (number + 1) * step_ns, count) for number, count in enumerate(counts)]
    return [str(news) for news in found if news is not None]


def test_a_topic_that_keeps_its_rate_is_left_alone():
    assert judged(Demand("/imu", 100, 0), [20 * n for n in range(1, 60)]) == []


def test_a_slow_topic_is_named_once_with_what_came():
    assert judged(Demand("/imu", 100, 0), [10 * n for n in range(1, 60)]) == [
        "/imu comes at 50.0 Hz, 100 Hz are required"
    ]


def test_a_topic_that_never_came_is_silent():
    assert judged(Demand("/imu", 10, 0), [0] * 60) == ["/imu is silent"]
    assert judged(Demand("/imu", None, 0), [0] * 60) == ["/imu is silent"]


def test_silence_is_not_called_before_its_time():
    assert judged(Demand("/imu", None, 0), [0] * 24) == []
    assert judged(Demand("/slow", 0.1, 0), [0] * 200) == []


def test_a_topic_that_recovers_is_well_again_and_may_fail_again():
    counts = [20] * 10 + [20 + 20 * n for n in range(1, 11)] + [220] * 10
    assert judged(Demand("/imu", 100, 0), counts) == [
        "/imu comes at 20.0 Hz, 100 Hz are required",
        "/imu is well again",
        "/imu comes at 80.0 Hz, 100 Hz are required",
    ]


def test_a_topic_without_a_rate_may_be_slow():
    assert judged(Demand("/map", None, 0), [n // 20 for n in range(1, 200)]) == []
