"""`cortex bag info` on the sample bags: what people and programs are told."""

import json

import pytest
from click.testing import CliRunner
from made_bags import sample

import bag
from bag.cli import bag as group
from bag.storage import BagWriter


def _info(*arguments):
    return CliRunner().invoke(group, ["info", *map(str, arguments)])


def test_people_see_every_topic_with_its_numbers():
    result = _info(sample("robot"))
    assert result.exit_code == 0, result.output
    row = next(line for line in result.stdout.splitlines() if line.startswith("/camera/image"))
    assert row.split()[1:5] == ["ImageMessage", "camera", "30", "30.0"]
    assert "cleanly" in result.stdout


def test_people_see_what_is_missing_and_who_lost_it():
    result = _info(sample("gaps"))
    row = next(line for line in result.stdout.splitlines() if line.startswith("/counter"))
    assert "3 lost by us, 5 lost before us, 5 sent before we joined" in row
    row = next(line for line in result.stdout.splitlines() if line.startswith("/pose"))
    assert row.rstrip().endswith("1 restart")


def test_programs_get_what_the_library_says_and_the_rates():
    document = json.loads(_info("--json", sample("gaps")).stdout)
    with bag.open(sample("gaps")) as run:
        said = json.loads(json.dumps(run.info().to_json()))
    for found, topic in zip(document["topics"], said["topics"], strict=True):
        assert topic.items() <= found.items()
        assert 0 < found["hz_min"] <= found["hz_median"] <= found["hz_max"]
    assert sum(topic["share"] for topic in document["topics"]) == pytest.approx(1)


def test_one_topic_comes_with_every_gap():
    result = _info(sample("gaps"), "--topic", "/counter")
    assert "sequences 15..19" in result.stdout
    assert "/pose" not in result.stdout
    ledger = json.loads(_info("--json", sample("gaps"), "-t", "/counter").stdout)["topics"][0]["ledger"]
    assert [gap["kind"] for gap in ledger] == ["before_join", "lost_before_us", "lost_by_us"]


@pytest.mark.parametrize(("order", "first"), [("name", "/camera/image"), ("count", "/imu"), ("size", "/camera/image")])
def test_topics_can_be_sorted(order, first):
    document = json.loads(_info("--json", "--sort", order, sample("robot")).stdout)
    assert document["topics"][0]["topic"] == first


def test_a_bag_that_was_not_closed_says_so(tmp_path):
    path = tmp_path / "run.h5"
    writer = BagWriter(path)
    writer.commit()
    writer.abort()
    assert "NOT cleanly" in _info(path).stdout


def test_the_picture_is_drawn_to_the_file(tmp_path):
    pytest.importorskip("matplotlib")
    result = _info(sample("gaps"), "--plot", tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert _info(sample("gaps"), sample("robot"), "--plot", tmp_path / "b.png").exit_code == 2


def test_programs_get_a_list_for_several_bags():
    result = _info("--json", sample("gaps"), sample("custom"))
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
