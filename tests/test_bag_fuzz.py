"""Bags nobody vouches for: every command ends by itself with one sentence, and touches nothing but its output."""

import random
import signal
import time

import pytest
from fuzzing import COMMANDS, HOSTILE, borders, make_hostile, mutate, run_all
from made_bags import sample

from bag.errors import IntegrityError
from bag.storage import probe
from bag.storage.guard import ask

NAMES = ("gaps", "custom", "robot")
CASES = 8


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_bag_is_told_in_one_sentence(name, tmp_path):
    make_hostile(sample("robot"), tmp_path / "x.h5", name)
    chosen = random.Random(name).sample(COMMANDS, 3)
    assert run_all(tmp_path / "x.h5", tuple(chosen)) == []


@pytest.mark.parametrize("block", range(8))
def test_a_damaged_bag_is_told_in_one_sentence(block, tmp_path):
    for number in range(block * CASES, block * CASES + CASES):
        chance = random.Random(number)
        kind, data = mutate(sample(NAMES[number % 2]).read_bytes(), chance)
        (tmp_path / "x.h5").write_bytes(data)
        complaints = run_all(tmp_path / "x.h5", tuple(chance.sample(COMMANDS, 2)))
        assert complaints == [], f"case {number}: {kind}"


@pytest.mark.parametrize("name", ["gaps", "custom"])
def test_a_bag_cut_at_the_border_of_a_chunk_is_told_in_one_sentence(name, tmp_path):
    data = sample(name).read_bytes()
    for border in borders(sample(name)):
        (tmp_path / "x.h5").write_bytes(data[:border])
        assert run_all(tmp_path / "x.h5", ("info {bag}", "recover {bag} -o {out} -f")) == [], f"cut at {border}"


def test_a_child_that_dies_hangs_or_grows_gives_no_answer():
    def die():
        signal.raise_signal(signal.SIGKILL)

    def hang():
        while True:
            time.sleep(60)

    assert ask(lambda: {"a": [1, "b"]}) == {"a": [1, "b"]}
    assert ask(die) is None
    assert ask(hang, timeout_s=0.2) is None
    assert ask(lambda: len(bytearray(8 << 30))) is None
    assert ask(lambda: 1 / 0) is None


def test_a_file_that_hdf5_does_not_survive_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(probe, "_walk", lambda _path: signal.raise_signal(signal.SIGKILL))
    with pytest.raises(IntegrityError, match="does not survive"), probe.untrusted(sample("gaps")):
        pass
