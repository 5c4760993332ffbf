"""Sizes, durations and rates: what people write is understood, and what is printed can be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bag import units


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096b", 4096),
        ("1k", 1024),
        ("1K", 1024),
        ("2G", 2 << 30),
        ("2GiB", 2 << 30),
        ("2GB", 2_000_000_000),
        ("1.5M", 3 << 19),
        (" 10 MB ", 10_000_000),
        ("1T", 1 << 40),
    ],
)
def test_a_size_is_understood(text, expected):
    assert units.parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "G", "-1", "1.2.3", "2X", "1e9", "nan", "2 G B"])
def test_a_text_that_is_no_size_is_refused_by_name(text):
    with pytest.raises(ValueError, match="is no size") as caught:
        units.parse_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("2", 2_000_000_000),
        ("0.1", 100_000_000),
        (".5", 500_000_000),
        ("1.5s", 1_500_000_000),
        ("200ms", 200_000_000),
        ("5m", 300_000_000_000),
        ("5min", 300_000_000_000),
        ("1h30m", 5_400_000_000_000),
        ("1h 30m 2.5s", 5_402_500_000_000),
        ("7us", 7_000),
        ("7µs", 7_000),
        ("7ns", 7),
        ("1d", 86_400_000_000_000),
    ],
)
def test_a_duration_is_understood(text, expected):
    assert units.parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "s", "-1s", "5 parsecs", "1s2", "inf", "1,5s"])
def test_a_text_that_is_no_duration_is_refused_by_name(text):
    with pytest.raises(ValueError, match="is no duration") as caught:
        units.parse_duration(text)
    assert repr(text) in str(caught.value)


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_nanoseconds_survive_exactly(nanoseconds):
    assert units.parse_duration(f"{nanoseconds}ns") == nanoseconds
    assert units.parse_duration(f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}") == nanoseconds


@pytest.mark.parametrize(("text", "expected"), [("1", 1.0), ("0.5", 0.5), ("2x", 2.0), (" 10 x", 10.0)])
def test_a_rate_is_understood(text, expected):
    assert units.parse_rate(text) == expected


@pytest.mark.parametrize("text", ["0", "-1", "x", "fast", "nan", "inf", ""])
def test_a_text_that_is_no_rate_is_refused(text):
    with pytest.raises(ValueError, match="is no rate"):
        units.parse_rate(text)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 << 19, "1.5 MiB"),
        (5 << 40, "5.0 TiB"),
        (5 << 52, "20480.0 TiB"),
    ],
)
def test_a_size_reads_well(count, expected):
    assert units.format_size(count) == expected


@pytest.mark.parametrize(
    ("nanoseconds", "expected"),
    [
        (0, "0 us"),
        (12_345, "12 us"),
        (999_600, "1.0 ms"),
        (3_440_000, "3.4 ms"),
        (-3_440_000, "-3.4 ms"),
        (12_300_000_000, "12.3 s"),
        (59_960_000_000, "1m 00s"),
        (303_000_000_000, "5m 03s"),
        (7_500_000_000_000, "2h 05m"),
    ],
)
def test_a_duration_reads_well(nanoseconds, expected):
    assert units.format_duration(nanoseconds) == expected


@pytest.mark.parametrize(("hz", "expected"), [(None, "-"), (0.5, "0.50"), (29.97, "30.0"), (1234.5, "1234")])
def test_a_frequency_reads_well(hz, expected):
    assert units.format_hz(hz) == expected


def test_a_count_is_grouped():
    assert units.format_count(1234567) == "1,234,567"
