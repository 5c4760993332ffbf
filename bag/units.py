"""Sizes, durations and rates as people write and read them; pure text in, numbers out and back.

Inside the program a size is an int of bytes, a duration an int of nanoseconds and a rate a float. This module is the
only place that knows how they are spelled: ``2G``, ``512MiB``, ``1.5s``, ``200ms``, ``1h30m``, ``0.5x``.
A text that cannot be read raises ``ValueError`` with one sentence that says what would have been understood.
"""

from __future__ import annotations

import re
from decimal import Decimal

NS_PER_S = 1_000_000_000

# As in GNU tools: one letter or "iB" counts in 1024, "B" after the letter in 1000.
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(?:([kmgt])(ib|b)?|b)?", re.IGNORECASE)
_SIZE_LETTERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ns|us|µs|μs|ms|min|s|m|h|d)")
_DURATION_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": NS_PER_S,
    "m": 60 * NS_PER_S,
    "min": 60 * NS_PER_S,
    "h": 3_600 * NS_PER_S,
    "d": 86_400 * NS_PER_S,
}
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")


def parse_size(text: str) -> int:
    """Return the bytes meant by ``text``: a bare number, or with ``k M G T`` (1024), ``kB MB GB TB`` (1000), ``KiB``...

    Raises:
        ValueError: when ``text`` is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size; write bytes, or a number with k, M, G or T, as in 512M or 2G.")
    number, letter, suffix = match.groups()
    base = 1000 if (suffix or "").lower() == "b" else 1024
    return int(Decimal(number) * base ** _SIZE_LETTERS[(letter or "").lower()])


def format_size(count: float) -> str:
    """Return ``count`` bytes in the largest binary unit that leaves at least 1, as in ``1.5 GiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def parse_duration(text: str) -> int:
    """Return the nanoseconds meant by ``text``: ``1.5s``, ``200ms``, ``5m``, ``1h30m``; a bare number is seconds.

    Raises:
        ValueError: when ``text`` is no duration.
    """
    stripped = text.strip()
    if _NUMBER.fullmatch(stripped):
        return int(Decimal(stripped) * NS_PER_S)
    parts = _DURATION_PART.findall(stripped)
    if not parts or _DURATION_PART.sub("", stripped).strip():
        raise ValueError(f"{text!r} is no duration; write seconds, or a number with ns, us, ms, s, m, h or d.")
    return int(sum(Decimal(number) * _DURATION_UNITS[unit] for number, unit in parts))


def format_duration(duration_ns: float) -> str:
    """Return a duration in nanoseconds as people read it: ``12 us``, ``3.4 ms``, ``12.3 s``, ``5m 03s``, ``2h 05m``."""
    sign = "-" if duration_ns < 0 else ""
    value = abs(float(duration_ns))
    if value < 999.5e3:
        return f"{sign}{value / 1e3:.0f} us"
    if value < 999.95e6:
        return f"{sign}{value / 1e6:.1f} ms"
    if value < 59.95e9:
        return f"{sign}{value / 1e9:.1f} s"
    minutes, seconds = divmod(round(value / NS_PER_S), 60)
    if minutes < 60:
        return f"{sign}{minutes}m {seconds:02d}s"
    return f"{sign}{minutes // 60}h {minutes % 60:02d}m"


def parse_rate(text: str) -> float:
    """Return the factor meant by ``text``, as in ``0.5``, ``2`` or ``2x``; it is above zero.

    Raises:
        ValueError: when ``text`` is no factor above zero.
    """
    stripped = text.strip().removesuffix("x").rstrip()
    rate = float(stripped) if _NUMBER.fullmatch(stripped) else 0.0
    if rate <= 0:
        raise ValueError(f"{text!r} is no rate; write a number above zero, as in 0.5 or 2.")
    return rate


def format_hz(hz: float | None) -> str:
    """Return a frequency with three or four figures, and ``-`` where none is known."""
    if hz is None:
        return "-"
    return f"{hz:.0f}" if hz >= 1000 else f"{hz:.1f}" if hz >= 10 else f"{hz:.2f}"


def format_count(count: int) -> str:
    """Return a count in groups of three digits, as in ``12,345``."""
    return f"{count:,}"
