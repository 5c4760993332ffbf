"""`cortex bag record` with real publishers and a real daemon: what it writes, what it says, and how it ends."""

import fcntl
import gc
import io
import json
import os
import pty
import select
import signal
import sys
import termios
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import spawn_python, wait_until
from rich.console import Console

import bag
from bag.cli import bag as group
from bag.cli import recording
from bag.cli.record import output_path
from bag.storage.reader import BagReader
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
    silent_ns=7_200_000_000_000,
)
STATISTICS = _quiet(
    bag.RecorderStatistics,
    compression=None,
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
    paths=("run.h5",),
    complaints=(),
    problems=(),
    free_bytes=6 * 10**9,
    in_bytes_per_s=2e6,
    out_bytes_per_s=1e6,
    topics=(TOPIC,),
)


def _text(renderable):
    console = Console(width=100, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def test_the_summary_states_every_loss_and_who_lost_it():
    text = _text(recording.summary(STATISTICS))
    assert "/camera: 1 lost by us, 2 lost before us, 7 sent before we joined, 1 restart" in text
    assert "a larger queue_size there helps" in text
    assert "Nothing was lost" not in text


def test_the_summary_says_when_nothing_was_lost():
    clean = replace(STATISTICS, topics=(replace(TOPIC, lost_before_us=0, lost_by_us=0),))
    assert "Nothing was lost." in _text(recording.summary(clean))


def test_the_live_table_has_a_row_a_topic_and_the_totals():
    lines = _text(recording.live(STATISTICS)).splitlines()
    row = next(line for line in lines if line.startswith("/camera"))
    assert row.split()[:7] == ["/camera", "camera", "30.0", "2.00", "90", "2", "1"]
    assert "in 2.0 MB/s  out 1.0 MB/s" in recording.line(STATISTICS)
    assert "lost before us 2  lost by us 1  disk full in 100 min" in recording.line(STATISTICS)


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        (TOPIC, "h "),
        (replace(TOPIC, silent_ns=None), "waiting"),
        (replace(TOPIC, stale=True), "publisher gone"),
    ],
)
def test_the_live_table_shows_a_silent_topic(topic, expected):
    assert expected in _text(recording.live(replace(STATISTICS, topics=(topic,))))


def test_without_a_daemon_the_line_says_how_to_start_one():
    assert "cortex discovery" in recording.line(replace(STATISTICS, discovery_answers=False))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "recording run.h5"),
        ({"paused": True}, "paused run.h5"),
        ({"waiting": True}, "waiting for topics run.h5"),
        ({"snapshot_mode": True, "held_bytes": 1 << 20, "snapshots": 2}, "holds 1.0 MiB, 2 snapshots"),
        ({"paths": ("run_0.h5", "run_1.h5")}, "file 2"),
        ({"complaints": ("/imu is silent",)}, "/imu is silent"),
        ({"problems": ("/bad cannot be received",)}, "/bad cannot be received"),
    ],
)
def test_the_live_display_says_what_is_going_on(changes, expected):
    assert expected in _text(recording.live(replace(STATISTICS, **changes)))


def test_of_more_topics_than_the_screen_holds_the_troubled_ones_are_shown(monkeypatch):
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((100, 24)))
    quiet = replace(TOPIC, lost_before_us=0, lost_by_us=0)
    topics = [replace(quiet, topic=f"/t{number}") for number in range(100)] + [TOPIC]
    text = _text(recording.live(replace(STATISTICS, topics=tuple(topics))))
    assert "/camera" in text
    assert "... and 86 more topics" in text
    assert len(text.splitlines()) <= 24


class _LossyRecorder:
    paused = False

    def __init__(self, path, options):
        self.options = options

    def split(self):
        pass

    snapshot = request_stop = split

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


def test_what_was_required_and_not_there_is_exit_code_three(monkeypatch):
    class Complaining(_LossyRecorder):
        def statistics(self):
            return replace(STATISTICS, topics=(), complaints=("/imu is silent",))

    monkeypatch.setattr(sys.modules["bag.cli.record"], "Recorder", Complaining)
    result = CliRunner().invoke(group, ["record", "-a"])
    assert result.exit_code == 3
    assert "/imu is silent" in result.stderr


@pytest.fixture
def asked(monkeypatch):
    """The options of each recording that is begun, which records nothing."""
    seen = []

    class Noting(_LossyRecorder):
        def __init__(self, path, options):
            super().__init__(path, options)
            seen.append(options)

        def statistics(self):
            return replace(STATISTICS, topics=())

    monkeypatch.setattr(sys.modules["bag.cli.record"], "Recorder", Noting)
    return seen


def test_every_option_reaches_the_recorder(asked):
    words = (
        "/a -e ^/b -x c --exclude-topics /d --topic-types T --nodes n -b 2G -d 10m --max-bag-files 3 --duration 90s "
        "--limit 5 --min-free-space 1G --max-cache-size 256M --receive-interval 20ms --flush-interval 1s "
        "-p 200ms --no-discovery --wait-for-topics --require /a@9.5 --require /b --throttle /c=2 --sticky /map "
        "--start-paused --compression gzip:6 --description text --custom-data k=v --disable-keyboard-controls"
    )
    result = CliRunner().invoke(group, ["record", *words.split()])
    assert result.exit_code == 0, result.stderr
    assert asked[0] == bag.RecordOptions(
        topics=("/a",),
        regex=("^/b",),
        exclude_regex=("c",),
        exclude_topics=("/d",),
        topic_types=("T",),
        nodes=("n",),
        max_bag_bytes=2 << 30,
        max_bag_duration_ns=600 * 10**9,
        max_bag_files=3,
        duration_ns=90 * 10**9,
        limit=5,
        min_free_bytes=1 << 30,
        max_cache_bytes=256 << 20,
        receive_interval_ns=20_000_000,
        flush_interval_ns=10**9,
        polling_interval_ns=200_000_000,
        follow=False,
        wait_for_topics=True,
        require=(("/a", 9.5), ("/b", None)),
        throttle=(("/c", 2.0),),
        sticky=("/map",),
        start_paused=True,
        description="text",
        custom_data=(("k", "v"),),
        control=True,
        compression="gzip:6",
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--throttle", "/a"], "TOPIC=HZ"),
        (["--throttle", "/a=0"], "above 0"),
        (["--require", "/a@fast"], "above 0"),
        (["-e", "("], "regular expression"),
        (["--snapshot-mode", "-b", "1G"], "snapshot"),
        (["--wait-for-topics"], "wait for"),
    ],
)
def test_options_that_cannot_be_are_wrong_usage(words, expected):
    result = CliRunner().invoke(group, ["record", "-a", *words])
    assert result.exit_code == 2, result.output
    assert expected in result.stderr


def test_a_running_recording_is_told_what_to_do(discovery, tmp_path):
    path = tmp_path / "run.h5"
    with _publisher(discovery) as publisher, _record("-a", "-o", path, "--json") as process:
        _wait_connected(process)
        for words in (["mark", "bump"], ["split"]):
            assert CliRunner().invoke(group, ["ctl", str(path), *words]).exit_code == 0
        _wait_for(process, lambda line: len(line["paths"]) == 2)
        process.send_signal(signal.SIGHUP)
        _wait_for(process, lambda line: len(line["paths"]) == 3)
        assert CliRunner().invoke(group, ["ctl", str(path), "pause"]).exit_code == 0
        _wait_for(process, lambda line: line["paused"])
        refused = CliRunner().invoke(group, ["ctl", str(path), "snapshot"])
        assert refused.exit_code == 1
        assert "snapshot-mode" in refused.stderr
        assert CliRunner().invoke(group, ["ctl", str(path), "stop"]).exit_code == 0
        lines, errors = _finish(process)
        publisher.close()
    assert process.returncode == 0, errors
    assert [one.name for one in map(Path, lines[-1]["paths"])] == ["run.h5", "run_1.h5", "run_2.h5"]


def test_sigusr1_writes_a_snapshot(discovery, tmp_path):
    path = tmp_path / "run.h5"
    with _publisher(discovery) as publisher, _record("-a", "-o", path, "--snapshot-mode", "--json") as process:
        _wait_connected(process)
        while not _one_arrived(process):
            publisher.publish(ArrayMessage(data=np.zeros(3)))
        process.send_signal(signal.SIGUSR1)
        _wait_for(process, lambda line: line["snapshots"] == 1)
        process.send_signal(signal.SIGINT)
        _lines, errors = _finish(process)
    assert process.returncode == 0, errors
    with bag.open(tmp_path / "run_0.h5") as run:
        assert len(run["/force"]) >= 1


def _wait_for(process, condition):
    for line in process.stdout:
        if condition(json.loads(line)):
            return
    raise AssertionError(f"the recorder ended: {process.stderr.read()}")


@pytest.mark.parametrize("words", [["mark"], ["split", "text"], ["dance"]])
def test_orders_that_make_no_sense_are_wrong_usage(words, tmp_path):
    assert CliRunner().invoke(group, ["ctl", str(tmp_path / "run.h5"), *words]).exit_code == 2


def test_nobody_there_to_be_told_is_an_error(cortex_dir, tmp_path):
    result = CliRunner().invoke(group, ["ctl", str(tmp_path / "run.h5"), "pause"])
    assert result.exit_code == 1
    assert "nobody is recording" in result.stderr


def test_keys_work_on_a_terminal_and_it_is_left_as_it_was(discovery, tmp_path):
    path = tmp_path / "run.h5"
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    with spawn_python(
        ["-m", "bag.cli", "record", "-a", "-o", str(path)],
        stdin=slave,
        stderr=slave,
        preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    ) as process:
        screen = _Screen(master)
        screen.wait_for("recording")
        os.write(master, b" ")
        screen.wait_for("paused")
        os.write(master, b"m")
        os.write(master, b"s")
        screen.wait_for("file 2")
        os.write(master, b"q")
        while process.poll() is None:
            screen.read()
        output = process.stdout.read()
    assert process.returncode == 0, output
    assert "Nothing was lost." in output or "No message arrived." in output
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)
    with BagReader(path) as reader:
        assert [text for text, _time in reader.marks] == ["mark 1"]


class _Screen:
    """What a program wrote to a pseudo terminal."""

    def __init__(self, master):
        self._master = master
        self._text = ""

    def read(self):
        if select.select([self._master], [], [], 0.05)[0]:
            self._text += os.read(self._master, 65536).decode(errors="replace")

    def wait_for(self, words):
        def there():
            self.read()
            return words in self._text

        wait_until(there, timeout=30, what=f"{words!r} on the screen")


def test_what_was_imported_is_spared_from_garbage_collection_while_recording(discovery, tmp_path, monkeypatch):
    frozen = []
    monkeypatch.setattr(bag.Recorder, "wait", lambda _recorder, _seconds: frozen.append(gc.get_freeze_count()) or True)
    monkeypatch.setenv("CORTEX_DISCOVERY_ADDRESS", discovery.address)
    result = CliRunner().invoke(group, ["record", "-a", "--json", "-o", str(tmp_path / "run.h5")])
    assert result.exit_code == 0, result.output
    assert frozen[0] > 1000
    assert gc.get_freeze_count() == 0


def test_nothing_gathers_unless_it_was_asked_for(asked):
    assert CliRunner().invoke(group, ["record", "-a"]).exit_code == 0
    assert asked[0].receive_interval_ns == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--receive-interval 101ms", "the receive interval is 101 ms; it must be from 0 to 100 ms"),
        ("--receive-interval 20ms --max-cache-size 200M", "the cache has 209715200 bytes; a receive interval of 20 ms"),
        ("--receive-interval 20ms --throttle /a=50 --throttle /b=51", "/b cannot be thinned out to 51 Hz"),
    ],
)
def test_a_receive_interval_that_cannot_be_kept_to_is_a_usage_error(words, complaint, tmp_path):
    path = tmp_path / "run.h5"
    result = CliRunner().invoke(group, ["record", "-a", "-o", str(path), *words.split()])
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert list(tmp_path.iterdir()) == []
