"""The fixture `bag_record`, in a pytest of its own: a bag stays when the test failed, and only then."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers import REPOSITORY

import bag

TEST = """
from helpers import wait_until
from talkers import Talker, wait_written

def test_it(bag_record, discovery, cortex_dir):
    with bag_record(["/t"], discovery_address=discovery.address) as recorder, Talker(cortex_dir) as talker:
        talker.register(discovery).wait_subscribed().send(3)
        wait_written(recorder, 3)
    assert {outcome}
"""


@pytest.mark.parametrize("outcome", [True, False])
def test_the_bag_is_kept_on_failure_only(outcome, tmp_path):
    (tmp_path / "test_one.py").write_text(TEST.format(outcome=outcome))
    (tmp_path / "conftest.py").write_text((REPOSITORY / "tests" / "conftest.py").read_text())
    plugins = ["-p", "no:randomly", "-p", "bag.pytest_recording", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, "--basetemp", str(tmp_path / "base"), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**__import__("os").environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"},
    )
    bags = sorted((tmp_path / "base").rglob("*.h5"))
    if outcome:
        assert run.returncode == 0, run.stdout + run.stderr
        assert bags == []
    else:
        assert run.returncode == 1, run.stdout + run.stderr
        assert str(bags[0]) in run.stdout
        with bag.open(bags[0]) as kept:
            assert len(kept["/t"]) == 3
