"""Bags nobody vouches for: every command ends by itself with one sentence, and touches nothing but its output.

Cases in the suite, each a whole command on a bag of its own unless it says otherwise:

| damaged bags: bytes flipped, zeroed, swapped, inserted, cut off | DAMAGED |
| bags that lie under right checksums (hypothesis) | LIES |
| recordings that died, with damaged sidecars | DEAD |
| bags cut at every border of a chunk, one byte before it and behind it | about 400 |
| hostile bags: links, bombs, dtypes, counts; three commands each | about 230 |
| what the parsers are given (hypothesis): no whole command, see test_bag_fuzz_parsers.py | PARSED |

More of them with CORTEX_BAG_FUZZ=10 in the environment; then hypothesis looks at other examples each time.
"""

import functools
import os
import random
import signal
import time

import pytest
from fuzzing import COMMANDS, Case, borders, mutate, run_all, run_many
from hostile import HOSTILE, make_hostile, tell_lie
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_bags import sample
from storage_kit import channel_on, frames_of, rows_of
from test_bag_fuzz_parsers import PARSED

from bag.edit import FilterOptions, filter_bag
from bag.errors import IntegrityError
from bag.storage import BagWriter, probe
from bag.storage.guard import ask

MORE = int(os.environ.get("CORTEX_BAG_FUZZ", "1"))
BLOCKS, BATCH = 16, 50
DAMAGED = 3000 * MORE
LIES = 1200 * MORE
DEAD = 400 * MORE
READING = tuple(command for command in COMMANDS if "{out}" not in command)


def test_the_suite_runs_ten_thousand_cases():
    assert DAMAGED + LIES + DEAD + PARSED >= 10_000
    assert DAMAGED + LIES + DEAD >= 4_500


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """Contents of bags by name: recorded ones, a packed one, and one whose recorder died."""
    place = tmp_path_factory.mktemp("fuzzed")
    filter_bag(sample("custom"), place / "packed.h5", FilterOptions(compression="gzip"))
    found = {name: sample(name).read_bytes() for name in ("gaps", "custom", "robot")}
    return found | {"packed": (place / "packed.h5").read_bytes()}


@pytest.fixture(scope="module")
def dead(tmp_path_factory):
    """Contents of the files of a bag whose recorder died, by suffix."""
    path = tmp_path_factory.mktemp("dead") / "x.h5"
    writer = BagWriter(path)
    known = writer.add_channel(channel_on("/imu"))
    messages = [frames_of([1.5, bytes(k), [k] * 3], k) for k in range(40)]
    writer.append(known.id, rows_of("/imu", messages[:20]))
    writer.commit()
    writer.append(known.id, rows_of("/imu", messages[20:], 20))
    writer.abort()
    return {item.name.removeprefix("x.h5"): item.read_bytes() for item in path.parent.iterdir()}


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_damaged_bag_is_told_in_one_sentence(block, bags, tmp_path):
    each = DAMAGED // BLOCKS
    cases = [_damaged(number, bags) for number in range(block * each, block * each + each)]
    assert run_many(cases, tmp_path) == []


def _damaged(number, bags):
    chance = random.Random(number)
    name = "robot" if number % 40 == 0 else chance.choice(("gaps", "custom", "packed"))
    kind, data = mutate(bags[name], chance)
    return Case(f"case {number}, {name}, {kind}", lambda path: path.write_bytes(data), (chance.choice(COMMANDS),))


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("name", ["gaps", "custom", "robot"])
def test_a_bag_cut_at_the_border_of_a_chunk_is_told_in_one_sentence(name, half, bags, tmp_path):
    data, commands = bags[name], ("info {bag}", "recover {bag} -o {out} -f")
    ends = [border + by for border in borders(sample(name)) for by in (-1, 0, 1)][half::2]
    cases = [
        Case(f"cut at {end}", functools.partial(_write, data=data[:end]), (commands[number % 2],))
        for number, end in enumerate(ends)
    ]
    assert len(cases) >= 19
    assert run_many(cases, tmp_path) == []


def _write(path, data):
    path.write_bytes(data)


@pytest.mark.parametrize("share", range(4))
def test_a_hostile_bag_is_told_in_one_sentence(share, tmp_path):
    cases = []
    for name in list(HOSTILE)[share::4]:
        make = functools.partial(make_hostile, sample("robot"), name=name)
        cases.append(Case(name, make, tuple(random.Random(name).sample(COMMANDS, 3))))
    assert run_many(cases, tmp_path) == []


lies = st.tuples(*(st.integers(0, 2**16) for _ in range(4)))


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("name", ["gaps", "custom"])
@settings(
    max_examples=LIES // 8 // BATCH,
    derandomize=MORE == 1,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(told=st.lists(lies, min_size=BATCH, max_size=BATCH))
def test_a_bag_that_lies_under_right_checksums_is_told_in_one_sentence(name, part, bags, tmp_path, told):
    cases = []
    for first, second, *more in told:
        # where the examples are the same in each part, the lies are not
        lie = (first + part, second + part, *more)
        make = functools.partial(_lie, data=bags[name], lie=lie)
        cases.append(Case(f"lie {lie} of {name}", make, (COMMANDS[sum(lie) % len(COMMANDS)],)))
    assert run_many(cases, tmp_path) == []


def _lie(path, data, lie):
    path.write_bytes(data)
    tell_lie(path, lie)


@pytest.mark.parametrize("block", range(4))
def test_a_recording_that_died_beside_damaged_sidecars_is_told_in_one_sentence(block, dead, tmp_path):
    each = DEAD // 4
    cases = [_dead(number, dead) for number in range(block * each, block * each + each)]
    assert run_many(cases, tmp_path) == []


def _dead(number, dead):
    chance = random.Random(number)
    files = dict(dead)
    hurt = chance.choice([".tail", ".tail", ".journal", ""])
    kind, files[hurt] = mutate(files[hurt], chance) if any(files[hurt]) else ("noise", chance.randbytes(700))

    def make(path):
        for suffix, data in files.items():
            path.with_name(path.name + suffix).write_bytes(data)
        path.with_name(f"{path.name}.died").touch()

    return Case(f"case {number}, {kind} in x.h5{hurt}", make, (chance.choice((*READING, COMMANDS[-1])),))


def test_a_case_on_which_the_child_dies_is_found_and_the_others_are_still_run(monkeypatch, tmp_path):
    def refuse(path):
        if path.read_bytes() == b"deadly":
            signal.raise_signal(signal.SIGKILL)
        if path.read_bytes() == b"wrong":
            raise ZeroDivisionError("as if by a fault of ours")

    monkeypatch.setattr("fuzzing._run", lambda _command, path, _output: refuse(path) or [])
    cases = [Case(f"{data}", functools.partial(_write, data=data), ("x",)) for data in (b"", b"deadly", b"", b"wrong")]
    found = run_many(cases, tmp_path)
    assert [complaint[:9] for complaint in found] == ["b'deadly'", "b'wrong':"]
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_behind_or_changed_is_a_complaint(monkeypatch, tmp_path):
    def meddle(_command, path, output):
        path.write_bytes(b"changed")
        output.with_name("more").touch()
        return []

    monkeypatch.setattr("fuzzing._run", meddle)
    (tmp_path / "x.h5").write_bytes(b"as it was")
    assert run_all(tmp_path / "x.h5", ("x",)) == ["more was left behind", "x.h5 was changed"]


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


def test_a_recording_that_died_is_brought_to_its_end_where_a_crash_harms_nobody(dead, monkeypatch, tmp_path):
    def fill():
        for suffix, data in dead.items():
            (tmp_path / f"x.h5{suffix}").write_bytes(data)

    fill()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(probe, "_finish", lambda _path: signal.raise_signal(signal.SIGKILL))
        with pytest.raises(IntegrityError, match="does not survive"), probe.untrusted(tmp_path / "x.h5"):
            pass
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with probe.untrusted(tmp_path / "x.h5"):
        assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]
