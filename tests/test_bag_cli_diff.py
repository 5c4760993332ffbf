"""`cortex bag diff` and `play --verify` as people run them: exit codes, sentences, JSON."""

import json

import pytest
from click.testing import CliRunner
from helpers import spawn_python
from recordings import Ear, Line, chat, write_bag

from bag.cli import bag as group


def _diff(*words):
    return CliRunner().invoke(group, ["diff", *map(str, words)])


@pytest.fixture
def bags(tmp_path):
    """A bag, one that equals it, and one that lacks a message and has another topic."""
    other = [*chat(10)[:4], *chat(10)[5:], Line("/more", 200, 0)]
    lines = {"a": chat(10), "same": chat(10), "other": other}
    return {name: write_bag(tmp_path / f"{name}.h5", "/d", some) for name, some in lines.items()}


def test_equal_recordings_end_with_0(bags):
    done = _diff(bags["a"], bags["same"])
    assert done.exit_code == 0
    assert done.output.endswith("The recordings are equal.\n")


def test_different_recordings_end_with_1_and_reasons(bags):
    done = _diff(bags["a"], bags["other"])
    assert done.exit_code == 1
    assert "/chat: missing in B: sequence 4" in done.output
    assert "/more: only in B: sequence 0" in done.output
    assert done.output.endswith("NOT equal.\n")


def test_one_topic_can_be_compared(bags):
    assert _diff(bags["a"], bags["other"], "--topics", "/more").exit_code == 1
    assert _diff(bags["a"], bags["same"], "--topics", "/chat").exit_code == 0
    assert _diff(bags["a"], bags["same"], "--topics", "/nowhere").exit_code == 2


def test_programs_get_json(bags):
    done = _diff(bags["a"], bags["other"], "--json")
    report = json.loads(done.output)
    assert (report["event"], report["equal"]) == ("summary", False)
    assert [(topic["topic"], topic["equal"], topic["missing"]) for topic in report["topics"]] == [
        ("/chat", False, 1),
        ("/more", False, 0),
    ]


def test_splits_come_as_a_glob(tmp_path, bags):
    for number in range(2):
        write_bag(tmp_path / f"part_{number}.h5", "/d", chat(10)[number * 5 : number * 5 + 5])
    assert _diff(bags["a"], tmp_path / "part_*.h5").exit_code == 0


@pytest.mark.parametrize("words", [["only_one.h5"], ["absent.h5", "absent.h5"]])
def test_what_cannot_be_compared_is_one_sentence(words):
    done = _diff(*words)
    assert done.exit_code in (1, 2)
    assert done.output.splitlines()[-1].startswith("Error: ")


# --- play --verify


def _verify(path, *words):
    return spawn_python(["-m", "bag.cli", "play", str(path), "--verify", "--json", *words])


@pytest.mark.parametrize("words", [[], ["--prefix", "/again", "--start-offset", "20ms"]])
def test_verify_proves_a_replay(words, tmp_path, cortex_dir):
    lines = [*chat(20), *(Line("/map", 3 + 50 * n, n, "mapper") for n in range(4))]
    path = write_bag(tmp_path / "run.h5", cortex_dir, sorted(lines, key=lambda line: line.at_ms))
    with _verify(path, *words) as process:
        output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    proof = json.loads(output.splitlines()[-1])
    assert proof["equal"] is True
    assert sum(topic["same"] for topic in proof["difference"]["topics"]) == proof["played"]["sent"] > 20


def test_verify_says_when_timing_was_not_as_asked(tmp_path, cortex_dir):
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(5))
    with _verify(path, "--time-tolerance", "1ns") as process:
        output, errors = process.communicate(timeout=90)
    assert process.returncode == 1, errors
    assert json.loads(output.splitlines()[-1])["difference"]["topics"][0]["in_time"] is False


def test_verify_tells_people_the_verdict(tmp_path, cortex_dir):
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(5))
    with spawn_python(["-m", "bag.cli", "play", str(path), "--verify"]) as process:
        output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    assert output.endswith("The recordings are equal.\n")


@pytest.mark.parametrize("word", ["--loop", "--stamps=now", "--sticky=/chat", "--keep-alive"])
def test_what_would_differ_anyway_is_not_verified(word, tmp_path, cortex_dir):
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(5))
    assert CliRunner().invoke(group, ["play", str(path), "--verify", word]).exit_code == 2


# --- words of play


@pytest.mark.parametrize(
    "order", [("--clock", "BAG"), ("BAG", "--clock"), ("--clock", "100", "BAG"), ("--clock=7", "BAG")]
)
def test_the_clock_takes_a_number_or_none(order, tmp_path, cortex_dir):
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(2))
    words = [str(path) if word == "BAG" else word for word in order]
    assert CliRunner().invoke(group, ["play", "--immediate", *words]).exit_code == 0


def test_subscribers_are_waited_for_without_a_number(tmp_path, cortex_dir):
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(2))
    with Ear(cortex_dir, "/chat") as ear:
        done = CliRunner().invoke(group, ["play", "--immediate", "--wait-for-subscribers", str(path)])
        assert done.exit_code == 0
        ear.hear(2)
    done = CliRunner().invoke(group, ["play", "--wait-timeout=0.05", "--wait-for-subscribers=3", str(path)])
    assert done.exit_code == 1
    assert "0 of 3 subscribers" in done.output


@pytest.mark.parametrize("words", [["--remap", "/a"], ["--stamps", "new"], ["--clock=0"], ["-s", "soon"], ["-e", "("]])
def test_words_that_make_no_sense_are_wrong_usage(words, tmp_path, cortex_dir):
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(2))
    assert CliRunner().invoke(group, ["play", str(path), *words]).exit_code == 2
