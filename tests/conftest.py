"""Fixtures of all tests: private directories under /tmp (socket paths are short), and a daemon of one's own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import RunningDaemon, start_daemon
from hypothesis import HealthCheck, settings

# No deadline: the machine may be busy, and a slow example is no failure.
settings.register_profile("suite", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture
def cortex_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A private CORTEX_DIR, removed afterwards; child processes inherit it."""
    path = Path(tempfile.mkdtemp(prefix="cx_", dir="/tmp"))
    monkeypatch.setenv("CORTEX_DIR", str(path))
    monkeypatch.delenv("CORTEX_DISCOVERY_ADDRESS", raising=False)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def discovery(cortex_dir: Path) -> Iterator[RunningDaemon]:
    """A running daemon on the default address of a private CORTEX_DIR."""
    running = start_daemon()
    yield running
    running.stop()
