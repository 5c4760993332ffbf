"""Lateness is exact for short replays, and right to a percent in bounded memory for long ones."""

import numpy as np
import pytest

from bag import lateness
from bag.lateness import LatenessLog


def log_of(values):
    log = LatenessLog()
    for value in values:
        log.append(value)
        log.fold()
    return log


def test_few_values_are_exact():
    summary = log_of([1, 2, 3, 4, 1_000_000]).summary()
    assert (summary.p50_ns, summary.max_ns) == (3, 1_000_000)


def test_nothing_was_late():
    assert log_of([]).summary().max_ns == 0


def test_many_values_are_right_to_a_percent_and_take_no_memory(monkeypatch):
    monkeypatch.setattr(lateness, "FOLD", 1000)
    values = np.random.default_rng(1).lognormal(11, 1.5, 20_000).astype(np.int64).tolist()
    log = log_of(values)
    assert len(log._values) < 1000
    summary = log.summary()
    assert log.count == 20_000
    assert summary.p50_ns == pytest.approx(np.percentile(values, 50), rel=0.02)
    assert summary.p99_ns == pytest.approx(np.percentile(values, 99), rel=0.03)
    assert summary.max_ns == max(values)


@pytest.mark.parametrize(("left", "right"), [(10, 10), (3000, 10), (10, 3000), (3000, 3000)])
def test_logs_add_up(left, right, monkeypatch):
    monkeypatch.setattr(lateness, "FOLD", 1000)
    one, other = log_of(range(left)), log_of(range(50_000, 50_000 + right))
    one.add(other)
    assert one.count == left + right
    assert one.summary().max_ns == 50_000 + right - 1
