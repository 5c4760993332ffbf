"""``cortex bag export`` and ``cortex bag convert``: what they write, and how they refuse."""

import csv
import os

import pytest
from click.testing import CliRunner
from made_bags import sample

import bag
from bag.cli import bag as command


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_export_writes_and_refuses_to_overwrite(tmp_path):
    arguments = ("export", sample("robot"), "-o", tmp_path / "o", "--format", "csv", "--topics", "/imu")
    assert run(*arguments, "--start", "0.2", "--end", "-0.2").exit_code == 0
    with (tmp_path / "o" / "imu.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with bag.open(sample("robot")) as opened:
        assert len(rows) == len(opened.between(0.2, -0.2)["/imu"]) > 10
    again = run(*arguments)
    assert (again.exit_code, "already there" in again.output) == (1, True)
    assert run(*arguments, "-f").exit_code == 0


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--format", "csv", "--topics", "/nothing"], "has no topic /nothing"),
        (["--format", "csv", "--start", "soon"], "soon"),
        (["--format", "csv", "--fps", "3"], "does not know --fps"),
        (["--format", "images", "--topics", "/imu"], "has no images"),
        (["--format", "tar"], "tar"),
        ([], "--format"),
    ],
)
def test_wrong_requests_end_with_two_and_a_sentence(tmp_path, extra, said):
    done = run("export", sample("robot"), "-o", tmp_path / "o", *extra)
    assert (done.exit_code, said in done.output) == (2, True), done.output
    assert not (tmp_path / "o").exists()


def test_each_bag_has_an_output_of_its_own(tmp_path):
    done = run("export", sample("robot"), sample("gaps"), "-o", tmp_path / "o", "--format", "npz", "--each")
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["gaps.npz", "robot.npz"]


def test_a_missing_bag_is_named(tmp_path):
    done = run("export", tmp_path / "no.h5", "-o", tmp_path / "o", "--format", "npz")
    assert (done.exit_code, "no.h5" in done.output) == (1, True)


def test_convert_takes_back_what_export_wrote(tmp_path):
    pytest.importorskip("mcap")
    assert run("export", sample("robot"), "-o", tmp_path / "r.mcap", "--format", "mcap").exit_code == 0
    done = run("convert", tmp_path / "r.mcap")
    assert done.exit_code == 0, done.output
    assert "135 messages of 6 topics" in done.output
    with bag.open(tmp_path / "r.h5") as opened:
        assert len(opened) == 6
    missing = run("convert", tmp_path / "no.mcap")
    assert (missing.exit_code, "no.mcap" in missing.output) == (1, True)


def test_a_damaged_bag_is_one_sentence_and_leaves_no_output(tmp_path):
    content = bytearray(sample("robot").read_bytes())
    content[len(content) // 3 :] = b"\xff" * (len(content) - len(content) // 3)
    (tmp_path / "bad.h5").write_bytes(content)
    done = run("export", tmp_path / "bad.h5", "-o", tmp_path / "o", "--format", "csv")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
    assert str(tmp_path / "bad.h5") in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_bag_that_hdf5_does_not_survive_is_refused_before_it_is_opened_here(tmp_path, monkeypatch):
    from bag.storage import probe

    monkeypatch.setattr(probe, "_walk", lambda _path: os.abort())
    done = run("export", sample("robot"), "-o", tmp_path / "o", "--format", "csv")
    assert done.exit_code == 1
    assert "HDF5 does not survive" in done.stderr


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.9])
def test_a_cut_mcap_file_is_one_sentence_and_leaves_no_bag(tmp_path, keep):
    pytest.importorskip("mcap")
    assert run("export", sample("robot"), "-o", tmp_path / "r.mcap", "--format", "mcap").exit_code == 0
    content = (tmp_path / "r.mcap").read_bytes()
    (tmp_path / "r.mcap").write_bytes(content[: int(keep * len(content))])
    done = run("convert", tmp_path / "r.mcap", "-o", tmp_path / "o.h5")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
    assert [path.name for path in tmp_path.iterdir()] == ["r.mcap"]
