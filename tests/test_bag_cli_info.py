"""`cortex bag info` on the sample bags: what people and programs are told."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import bag
from bag.cli import bag as group

SAMPLES = Path(__file__).resolve().parent.parent / "sample_data"


def _info(*arguments):
    return CliRunner().invoke(group, ["info", *map(str, arguments)])


def test_people_see_every_topic_with_its_numbers():
    result = _info(SAMPLES / "robot.h5")
    assert result.exit_code == 0, result.output
    row = next(line for line in result.stdout.splitlines() if line.startswith("/camera/image"))
    assert row.split()[1:5] == ["ImageMessage", "camera", "30", "30.0"]
    assert "cleanly" in result.stdout


def test_people_see_what_is_missing_and_who_lost_it():
    result = _info(SAMPLES / "gaps.h5")
    row = next(line for line in result.stdout.splitlines() if line.startswith("/counter"))
    assert "3 lost by us, 5 lost before us, 5 sent before we joined" in row
    row = next(line for line in result.stdout.splitlines() if line.startswith("/pose"))
    assert row.rstrip().endswith("1 restart")


def test_programs_get_what_the_library_says():
    result = _info("--json", SAMPLES / "gaps.h5")
    with bag.open(SAMPLES / "gaps.h5") as run:
        assert json.loads(result.stdout) == json.loads(json.dumps(run.info().to_json()))


def test_programs_get_a_list_for_several_bags():
    result = _info("--json", SAMPLES / "gaps.h5", SAMPLES / "custom.h5")
    assert [one["messages"] for one in json.loads(result.stdout)] == [82, 40]


@pytest.mark.parametrize("content", [None, b"no bag at all"], ids=["absent", "not a bag"])
def test_what_is_no_bag_is_one_sentence_that_names_the_file(content, tmp_path):
    path = tmp_path / "run.h5"
    if content is not None:
        path.write_bytes(content)
    result = _info(path)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert str(path) in result.stderr


def test_no_bag_is_wrong_usage():
    assert _info().exit_code == 2
