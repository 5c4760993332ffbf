"""`cortex bag play` with a real daemon and a plain subscriber: what arrives, what is said, and how it ends."""

import io
import json
import signal
import struct

import pytest
from click.testing import CliRunner
from helpers import spawn_python
from rich.console import Console

import bag
from bag.cli import bag as group
from bag.cli import tables
from bag.records import Channel
from bag.storage import BagWriter
from cortex import Publisher
from cortex.core.raw import RawSubscriber
from cortex.messages.standard import StringMessage

MS = 1_000_000
START_NS = 1_767_225_600_000_000_000


@pytest.fixture
def address(cortex_dir):
    return f"ipc://{cortex_dir}/topics/talker__chat.sock"


@pytest.fixture
def recording(address, tmp_path):
    """A bag of 20 text messages in 190 ms; its frames by sequence."""
    path = tmp_path / "run.h5"
    frames = {}
    with BagWriter(path) as writer:
        channel = writer.add_channel(
            Channel(0, "/chat", "StringMessage", StringMessage.fingerprint(), "talker", address)
        )
        for sequence in range(20):
            time_ns = START_NS + sequence * 10 * MS
            body = StringMessage(data=f"line {sequence}").to_frames(0)[1:]
            frames[sequence] = [struct.pack(">QQQ", channel.fingerprint, time_ns, sequence), *map(bytes, body)]
            writer.append(channel.id, [(time_ns, time_ns - START_NS, [b"/chat", *frames[sequence]])])
    return path, list(frames.values())


def _play(path, *arguments):
    return spawn_python(["-m", "bag.cli", "play", str(path), *map(str, arguments)])


def _finish(process):
    output, errors = process.communicate(timeout=60)
    return [json.loads(line) for line in output.splitlines()], errors


def test_a_plain_subscriber_gets_the_recorded_bytes_in_order(recording, address, discovery):
    path, frames = recording
    with RawSubscriber("/chat", address) as subscriber, _play(path, "--wait-for-subscribers", 1, "--json") as process:
        received = [subscriber.receive(timeout_ms=30_000) for _ in frames]
        lines, errors = _finish(process)
    assert process.returncode == 0, errors
    assert received == frames
    summary = lines[-1]
    assert (summary["event"], summary["sent"], summary["refused"]) == ("summary", 20, 0)
    assert summary["embedded_discovery"] is False
    (topic,) = summary["topics"]
    assert (topic["topic"], topic["node"], topic["address"], topic["sent"]) == ("/chat", "talker", address, 20)


def test_people_get_a_report_by_topic(recording, discovery):
    path, _ = recording
    with _play(path) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    row = next(line for line in output.splitlines() if line.startswith("/chat"))
    assert row.split()[:4] == ["/chat", "talker", "20", "0"]


def test_without_a_daemon_it_brings_its_own_and_says_so(recording):
    path, _ = recording
    with _play(path, "--rate", 4) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "the player ran its own" in output


def test_without_a_daemon_it_refuses_if_told_so(recording):
    path, _ = recording
    with _play(path, "--no-embedded-discovery") as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output == ""
    assert errors.startswith("Error: ")
    assert "Traceback" not in errors


def test_a_live_node_is_not_replaced(recording, discovery):
    path, _ = recording
    publisher = Publisher("/chat", StringMessage, node_name="talker", discovery_address=discovery.address)
    try:
        with _play(path) as process:
            _, errors = process.communicate(timeout=60)
    finally:
        publisher.close()
    assert process.returncode == 1
    assert "/chat" in errors
    assert "talker" in errors
    assert "Traceback" not in errors


def test_a_signal_ends_it_with_a_report(recording, discovery):
    path, _ = recording
    # at this rate the bag would last for more than half an hour
    with _play(path, "--rate", "0.0001", "--json") as process:
        while json.loads(process.stdout.readline())["sent"] < 1:
            pass
        process.send_signal(signal.SIGINT)
        lines, errors = _finish(process)
    assert process.returncode == 0, errors
    assert lines[-1]["event"] == "summary"
    assert 1 <= lines[-1]["sent"] < 20


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["--start-offset", "100ms"], 10), (["--end-offset", "50ms"], 5), (["--exclude-topics", "/other"], 20)],
)
def test_a_part_can_be_played(words, expected, recording, discovery):
    path, _ = recording
    with _play(path, "--json", *words) as process:
        lines, errors = _finish(process)
    assert process.returncode == 0, errors
    assert lines[-1]["sent"] == expected


def test_what_is_no_bag_is_one_sentence(tmp_path, discovery):
    with _play(tmp_path / "absent.h5") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "absent.h5" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("words", [[], ["x.h5", "--rate", "0"], ["x.h5", "--message-order", "random"]])
def test_what_makes_no_sense_is_wrong_usage(words):
    assert CliRunner().invoke(group, ["play", *words]).exit_code == 2


def test_the_live_display_is_a_bar_above_a_line():
    console = Console(width=60, file=io.StringIO())
    console.print(tables.playing(bag.PlayProgress(2_000_000_000, 8_000_000_000, 1234, 0.5, 40_000)))
    bar, line = console.file.getvalue().splitlines()
    assert "━" in bar
    assert line == "2.0 s of 8.0 s  rate 0.5  sent 1,234  late 40 us"


def test_the_live_display_says_what_keys_do_where_there_are_keys():
    console = Console(width=80, file=io.StringIO())
    console.print(tables.playing(bag.PlayProgress(0, 8_000_000_000, 0, 1, 0, next_in_ns=184_000_000_000), "q quit"))
    _bar, line, keys = console.file.getvalue().splitlines()
    assert line.endswith("next message in 184 s")
    assert keys == "q quit"
