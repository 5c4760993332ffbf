"""`cortex bag record` with real publishers and a real daemon: what it writes, what it says, and how it ends."""

import io
import json
import signal
import sys
from contextlib import contextmanager
from dataclasses import fields, replace

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import spawn_python
from rich.console import Console

import bag
from bag.cli import bag as group
from bag.cli import tables
from bag.cli.record import output_path
from cortex import Publisher
from cortex.messages.standard import ArrayMessage


@contextmanager
def _publisher(discovery, topic="/force", node="gripper"):
    publisher = Publisher(topic, ArrayMessage, node_name=node, discovery_address=discovery.address, queue_size=1000)
    try:
        yield publisher
    finally:
        publisher.close()


def _record(*arguments):
    return spawn_python(["-m", "bag.cli", "record", *map(str, arguments)])


def _wait_connected(process, count=1):
    for line in process.stdout:
        progress = json.loads(line)
        if sum(topic["connected"] for topic in progress["topics"]) >= count:
            return
    raise AssertionError(f"the recorder ended: {process.stderr.read()}")


def _wait_recorded(process, count):
    for line in process.stdout:
        if json.loads(line)["messages"] >= count:
            return
    raise AssertionError(f"the recorder ended: {process.stderr.read()}")


def _publish(publisher, count):
    for index in range(count):
        publisher.publish(ArrayMessage(data=np.full(3, index)))


def _finish(process):
    output, errors = process.communicate(timeout=60)
    return [json.loads(line) for line in output.splitlines()], errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_closes(number, discovery, tmp_path):
    path = tmp_path / "run.h5"
    with _publisher(discovery) as publisher, _record("-a", "-o", path, "--json") as process:
        _wait_connected(process)
        # messages sent before the subscription has arrived are lost; what matters here is the end
        while not publisher.publish(ArrayMessage(data=np.zeros(3))) or not _one_arrived(process):
            pass
        _publish(publisher, 200)
        _wait_recorded(process, 200)
        process.send_signal(number)
        lines, errors = _finish(process)
    assert process.returncode == 0, errors
    assert lines[-1]["event"] == "summary"
    with bag.open(path) as run:
        assert run.closed_cleanly
        assert len(run["/force"]) == lines[-1]["messages"] >= 200


def _one_arrived(process):
    return json.loads(process.stdout.readline())["messages"] > 0


def test_the_limit_ends_a_recording(discovery, tmp_path):
    path = tmp_path / "run.h5"
    with _publisher(discovery) as publisher, _record("/force", "-o", path, "--limit", 5, "--json") as process:
        while process.poll() is None:
            publisher.publish(ArrayMessage(data=np.zeros(3)))
        lines, errors = _finish(process)
    assert process.returncode == 0, errors
    assert lines[-1]["messages"] == 5
    with bag.open(path) as run:
        assert len(run["/force"]) == 5


def test_the_duration_ends_a_recording_and_people_get_lines(discovery, tmp_path):
    path = tmp_path / "run.h5"
    with _record("-a", "-o", path, "--duration", "1.2s") as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert f"{path}: 0 messages of 0 topics" in output
    assert "No message arrived." in output
    assert "0 messages" in errors


def test_only_the_named_topics_are_recorded(discovery, tmp_path):
    path = tmp_path / "run.h5"
    with (
        _publisher(discovery) as wanted,
        _publisher(discovery, "/force/other") as other,
        _record("/force", "-o", path, "--limit", 3, "--json") as process,
    ):
        while process.poll() is None:
            wanted.publish(ArrayMessage(data=np.zeros(3)))
            other.publish(ArrayMessage(data=np.ones(3)))
        _finish(process)
    with bag.open(path) as run:
        assert list(run.topics) == ["/force"]


def test_description_and_custom_data_are_kept(discovery, tmp_path):
    path = tmp_path / "run.h5"
    words = ["--description", "first flight", "--custom-data", "robot=spot", "--custom-data", "site=lab"]
    with _record("-a", "-o", path, "--duration", "100ms", "--json", *words) as process:
        _, errors = _finish(process)
    assert process.returncode == 0, errors
    with bag.open(path) as run:
        assert run.info().description == "first flight"
        assert run.info().custom_data == {"robot": "spot", "site": "lab"}


def test_nothing_to_record_is_wrong_usage():
    result = CliRunner().invoke(group, ["record"])
    assert result.exit_code == 2
    assert "name topics, or use -a" in result.stderr


@pytest.mark.parametrize("words", [["--duration", "soon"], ["--max-cache-size", "big"], ["--limit", "0"]])
def test_an_option_that_makes_no_sense_is_wrong_usage(words):
    result = CliRunner().invoke(group, ["record", "-a", *words])
    assert result.exit_code == 2
    assert words[0] in result.stderr


def test_a_bag_is_not_overwritten_unless_asked(discovery, tmp_path):
    path = tmp_path / "run.h5"
    path.write_bytes(b"precious")
    with _record("-a", "-o", path, "--duration", "100ms") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert path.read_bytes() == b"precious"
    assert errors.count("\n") == 1
    assert str(path) in errors
    with _record("-a", "-f", "-o", path, "--duration", "100ms") as process:
        process.communicate(timeout=60)
    assert process.returncode == 0
    bag.open(path).close()


def test_the_name_is_filled_in_with_the_time(monkeypatch):
    assert output_path("run.h5").name == "run.h5"
    assert output_path("%Y/x.h5").parent.name.isdigit()
    assert len(output_path("bag_%Y_%m_%d-%H_%M_%S.h5").name) == len("bag_2026_01_31-12_00_00.h5")


def _quiet(kind, **facts):
    # counts of which a test says nothing are zero
    return kind(**{field.name: 0 for field in fields(kind)} | facts)


TOPIC = _quiet(
    bag.TopicStatistics,
    topic="/camera",
    type_name="ImageMessage",
    node="camera",
    address="ipc:///tmp/camera.sock",
    connected=True,
    stale=False,
    messages=90,
    bytes=900,
    hz=30.0,
    bytes_per_s=2e6,
    published_before_join=7,
    lost_before_us=2,
    lost_by_us=1,
    restarts=1,
    last_log_ns=1,
)
STATISTICS = _quiet(
    bag.RecorderStatistics,
    path="run.h5",
    elapsed_ns=3_000_000_000,
    messages=90,
    bytes=900,
    backlog_messages=0,
    backlog_bytes=0,
    refused=1,
    lost_before_us=2,
    committed_messages=90,
    discovery_answers=True,
    topics=(TOPIC,),
)


def _text(renderable):
    console = Console(width=100, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def test_the_summary_states_every_loss_and_who_lost_it():
    text = _text(tables.recording_summary(STATISTICS))
    assert "/camera: 1 lost by us, 2 lost before us, 7 sent before we joined, 1 restart" in text
    assert "a larger queue_size there helps" in text
    assert "Nothing was lost" not in text


def test_the_summary_says_when_nothing_was_lost():
    clean = replace(STATISTICS, topics=(replace(TOPIC, lost_before_us=0, lost_by_us=0),))
    assert "Nothing was lost." in _text(tables.recording_summary(clean))


def test_the_live_table_has_a_row_a_topic_and_the_totals():
    lines = _text(tables.recording(STATISTICS)).splitlines()
    row = next(line for line in lines if line.startswith("/camera"))
    assert row.split()[:8] == ["/camera", "ImageMessage", "camera", "30.0", "2.00", "90", "2", "1"]
    assert "lost before us 2  lost by us 1  disk full in" in _text(tables.recording_line(STATISTICS)).replace("\n", " ")


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        (TOPIC, "h "),
        (replace(TOPIC, last_log_ns=None), "waiting"),
        (replace(TOPIC, stale=True), "publisher gone"),
    ],
)
def test_the_live_table_shows_a_silent_topic(topic, expected):
    assert expected in _text(tables.recording(replace(STATISTICS, topics=(topic,))))


def test_without_a_daemon_the_line_says_how_to_start_one():
    assert "cortex discovery" in tables.recording_line(replace(STATISTICS, discovery_answers=False))


class _LossyRecorder:
    def __init__(self, path, options):
        self.options = options

    def start(self):
        pass

    stop = start

    def wait(self, timeout):
        return True

    def statistics(self):
        return STATISTICS


def test_what_we_lost_is_exit_code_three(monkeypatch):
    # the name bag.cli.record stands for the command once it is imported, no longer for its module
    monkeypatch.setattr(sys.modules["bag.cli.record"], "Recorder", _LossyRecorder)
    result = CliRunner().invoke(group, ["record", "-a"])
    assert result.exit_code == 3
    assert "1 messages reached the recorder but not the bag" in result.stderr
    assert "1 lost by us" in result.stdout
