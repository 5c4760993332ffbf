"""The `cortex` command: what it shows, what it says when something is missing, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import REPOSITORY, spawn_python, start_daemon
from peers import bare_publisher, register

import cortex.cli
from cortex.cli import rates
from cortex.cli.display import message_json, message_text, read_message
from cortex.codec import pack_document
from cortex.core.publisher import Publisher
from cortex.discovery.client import wait_for_discovery
from cortex.discovery.protocol import TopicInfo
from cortex.errors import CodecError
from cortex.messages.base import Message, MessageHeader, MessageType
from cortex.messages.standard import ArrayMessage, DictMessage, FloatMessage, IntMessage


@dataclass
class Odd(Message):
    """A class the command line does not know: it is taken out of the registry below."""

    number: int
    data: np.ndarray
    extra: dict


@pytest.fixture
def run(cortex_dir):
    """Run `cortex` with arguments in this process; the default daemon is the private one."""

    def run(*arguments):
        return CliRunner().invoke(cortex.cli.cortex, list(arguments), prog_name="cortex")

    return run


@pytest.fixture
def publish(discovery):
    """Publish a message of a topic again and again until the test ends."""
    stop, threads, publishers = threading.Event(), [], []

    def begin(topic, message, node="robot", message_type=None):
        publisher = Publisher(topic, message_type or type(message), node, discovery.address)
        publishers.append(publisher)

        def work():
            while not stop.wait(0.005):
                publisher.publish(message)

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return publisher

    yield begin
    stop.set()
    for thread in threads:
        thread.join()
    for publisher in publishers:
        publisher.close()


def _dead(discovery, cortex_dir, topic="/dead", node="crashed"):
    register(discovery, TopicInfo(topic, f"ipc://{cortex_dir}/dead.sock", "IntMessage", 1, node))


# -- the group


def test_help_names_the_commands_and_gives_an_example(run):
    for arguments in ((), ("topic",), ("node",)):
        for option in ("--help", "-h"):
            result = run(*arguments, option)
            assert result.exit_code == 0
            assert "Example: cortex " in result.output
    assert all(word in run("--help").output for word in ("discovery", "topic", "node"))


@pytest.mark.parametrize("command", ["list", "info", "echo", "hz", "bw"])
def test_each_command_has_help_an_example_and_the_common_options(run, command):
    output = run("topic", command, "-h").output
    assert f"Example: cortex topic {command}" in output
    assert "--discovery-address" in output
    assert "CORTEX_DISCOVERY_ADDRESS" in output
    assert "--json" in output


def test_the_version_is_told(run):
    assert run("--version").output == f"cortex, version {cortex.__version__}\n"


PLUGIN = textwrap.dedent(
    '''
    """``cortex hello``: greets people."""
    import click

    @click.group()
    def hello():
        """Greet."""

    @hello.command()
    def world():
        click.echo("hello world")
    '''
)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Offer plugins to the command line: a good one, and broken ones."""
    (tmp_path / "greeting.py").write_text(PLUGIN)
    (tmp_path / "broken.py").write_text("raise RuntimeError('half installed')")
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        EntryPoint("hello", "greeting:hello", "cortex.commands"),
        EntryPoint("worse", "broken:group", "cortex.commands"),
        EntryPoint("gone", "not_there.cli:group", "cortex.commands"),
        EntryPoint("number", "greeting:__name__", "cortex.commands"),
    ]
    monkeypatch.setattr(cortex.cli, "entry_points", lambda group: points if group == "cortex.commands" else [])
    yield
    sys.modules.pop("greeting", None)


def test_help_lists_plugins_without_importing_them(run, plugin):
    output = run("--help").output
    assert "hello      Greets people." in output
    assert "worse      Commands of the package broken." in output
    assert "gone       Commands of the package not_there." in output
    assert "greeting" not in sys.modules
    assert "broken" not in sys.modules


def test_a_plugin_package_is_introduced_by_its_docstring(run, tmp_path, monkeypatch):
    package = tmp_path / "greetings" / "cli"
    package.mkdir(parents=True)
    (tmp_path / "greetings" / "__init__.py").write_text("raise RuntimeError('imported for nothing')")
    (package / "__init__.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cortex.cli, "entry_points", lambda group: [EntryPoint("hello", "greetings.cli:hello", group)])
    assert "hello      Greets people." in run("--help").output


def test_a_plugin_runs(run, plugin):
    assert run("hello", "world").output == "hello world\n"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("worse", "half installed"), ("gone", "ModuleNotFoundError"), ("number", "is no click command")],
)
def test_a_broken_plugin_is_one_sentence_and_the_rest_works(run, plugin, discovery, name, reason):
    result = run(name)
    assert result.exit_code == 1
    assert reason in result.output
    assert len(result.output.splitlines()) == 1
    assert run("topic", "list").exit_code == 0


def test_an_unknown_command_is_a_usage_error(run):
    assert run("frobnicate").exit_code == 2


def test_python_m_works_both_ways():
    for module in ("cortex", "cortex.cli"):
        with spawn_python(["-m", module, "--version"]) as process:
            assert process.communicate(timeout=30) == (f"cortex, version {cortex.__version__}\n", "")


# -- without a daemon


@pytest.mark.parametrize(
    "arguments",
    [
        ("topic", "list"),
        ("topic", "list", "--json"),
        ("topic", "info", "/t"),
        ("topic", "echo", "/t"),
        ("topic", "echo", "/t", "--wait"),
        ("topic", "hz", "/t"),
        ("topic", "bw", "/t"),
        ("node", "list"),
    ],
)
def test_no_daemon_is_one_sentence_with_the_command_that_starts_one(run, cortex_dir, arguments):
    result = run(*arguments)
    address = f"ipc://{cortex_dir}/discovery.sock"
    assert result.output == f"Error: no discovery daemon answers at {address}; start one with `cortex discovery`.\n"
    assert result.exit_code == 1
    other = run(*arguments, "--discovery-address", "ipc:///tmp/nowhere.sock")
    assert "start one with `cortex discovery --address ipc:///tmp/nowhere.sock`" in other.output


def test_the_environment_names_the_daemon(run, cortex_dir, monkeypatch):
    address = f"ipc://{cortex_dir}/elsewhere.sock"
    monkeypatch.setenv("CORTEX_DISCOVERY_ADDRESS", address)
    assert f"no discovery daemon answers at {address}; start one with `cortex discovery`." in run("node", "list").output
    daemon = start_daemon(address)
    assert run("node", "list").output == "No nodes.\n"
    monkeypatch.delenv("CORTEX_DISCOVERY_ADDRESS")
    assert run("node", "list", "--discovery-address", address).exit_code == 0
    daemon.stop()


# -- listings


def test_empty_listings(run, discovery):
    assert (run("topic", "list").output, run("node", "list").output) == ("No topics.\n", "No nodes.\n")
    assert json.loads(run("topic", "list", "--json").output) == json.loads(run("node", "list", "--json").output) == []


def test_topics_are_listed_and_dead_ones_marked(run, discovery, cortex_dir, publish):
    publisher = publish("/imu", IntMessage(1))
    _dead(discovery, cortex_dir)
    lines = run("topic", "list").output.splitlines()
    assert [line.split() for line in lines] == [
        ["TOPIC", "TYPE", "NODE", "STATE"],
        ["/imu", "IntMessage", "robot", "live"],
        ["/dead", "IntMessage", "crashed", "dead"],
    ]
    assert all(line == line.rstrip() for line in lines)
    assert json.loads(run("topic", "list", "--json").output)[0] == {
        "name": "/imu",
        "type": "IntMessage",
        "fingerprint": f"{IntMessage.fingerprint():#018x}",
        "node": "robot",
        "address": publisher.address,
        "state": "live",
    }
    assert [entry["state"] for entry in json.loads(run("topic", "list", "--json").output)] == ["live", "dead"]


def test_an_address_that_cannot_be_probed_is_unknown(run, discovery):
    register(discovery, TopicInfo("/far", "tcp://10.0.0.1:5000", "IntMessage", 1, "far"))
    assert run("topic", "list").output.splitlines()[1].split()[-1] == "unknown"


def test_names_cannot_steer_the_terminal(run, discovery):
    register(discovery, TopicInfo("/\x1b[31mred", "tcp://10.0.0.1:5000", "Evil\nType", 1, "no\tde"))
    output = run("topic", "list").output + run("node", "list").output + run("topic", "info", "/\x1b[31mred").output
    assert "\x1b" not in output
    assert "\t" not in output
    assert r"'/\x1b[31mred'" in output
    assert len(run("topic", "list").output.splitlines()) == 2


def test_nodes_are_listed_with_their_topics(run, discovery, cortex_dir, publish):
    publish("/a", IntMessage(1))
    publish("/b", IntMessage(1))
    _dead(discovery, cortex_dir)
    assert [line.split() for line in run("node", "list").output.splitlines()] == [
        ["NODE", "STATE", "TOPICS"],
        ["crashed", "dead", "/dead"],
        ["robot", "live", "/a", "/b"],
    ]
    assert json.loads(run("node", "list", "--json").output) == [
        {"node": "crashed", "topics": ["/dead"], "dead": ["/dead"]},
        {"node": "robot", "topics": ["/a", "/b"], "dead": []},
    ]


def test_info_shows_one_topic(run, publish):
    publisher = publish("/imu", ArrayMessage(np.zeros(3)))
    output = run("topic", "info", "/imu").output
    for text in ("/imu", "ArrayMessage", "robot", publisher.address, "live", "data, name, frame_id"):
        assert text in output
    assert json.loads(run("topic", "info", "/imu", "--json").output)["fields"] == ["data", "name", "frame_id"]


@pytest.mark.parametrize("command", ["info", "echo", "hz", "bw"])
def test_an_unknown_topic_is_an_error_that_names_near_ones(run, discovery, publish, command):
    publish("/camera/image", IntMessage(1))
    result = run("topic", command, "/camera/imag")
    assert result.exit_code == 1
    assert f"topic /camera/imag is not registered at {discovery.address}; did you mean /camera/image?" in result.output
    assert "`cortex topic list` shows what there is" in run("topic", command, "zzz").output


# -- echo


def test_echo_prints_so_many_messages(run, publish):
    publish("/imu", ArrayMessage(np.arange(20, dtype="<f4").reshape(4, 5), "n"))
    result = run("topic", "echo", "/imu", "-n", "2")
    assert result.exit_code == 0
    assert result.output.count("ArrayMessage\n") == 2
    assert (
        "  data: float32 [4, 5] 0.0 1.0 2.0 3.0 4.0 5.0 6.0 7.0 8.0 9.0 10.0 11.0 ...\n  name: 'n'\n" in result.output
    )
    assert "18.0 19.0\n" in run("topic", "echo", "/imu", "-n", "1", "--full-length").output


def test_echo_knows_no_class_but_shows_all_values(run, publish):
    publish("/odd", Odd(5, np.ones((1, 2), "u1"), {"a": [1, b"\x01\x02"], "b": np.zeros(2)}))
    MessageType._classes.pop(Odd.fingerprint())
    try:
        text, line = run("topic", "echo", "/odd", "-n", "1").output, run("topic", "echo", "/odd", "-n", "1", "--json")
    finally:
        MessageType.register(Odd)
    assert "  Odd\n  [0]: 5\n  [1]: uint8 [1, 2] 1 1\n  [2]: {a: [1, 2 bytes 01 02], b: float64 [2] 0.0 0.0}\n" in text
    document = json.loads(line.output)
    assert (document["type"], document["topic"]) == ("Odd", "/odd")
    assert document["values"] == [
        5,
        {"dtype": "|u1", "shape": [1, 2], "values": [1, 1], "complete": True},
        {
            "a": [1, {"bytes": 2, "hex": "0102"}],
            "b": {"dtype": "<f8", "shape": [2], "values": [0.0, 0.0], "complete": True},
        },
    ]


def test_echo_json_is_one_line_a_message(run, publish):
    publish("/d", DictMessage({"x": float("nan"), "y": float("inf"), "z": None}))
    lines = run("topic", "echo", "/d", "-n", "3", "--json").output.splitlines()
    documents = [json.loads(line) for line in lines]
    assert len(documents) == 3
    assert documents[0]["fields"] == {"data": {"x": "nan", "y": "inf", "z": None}}
    assert documents[2]["sequence"] == documents[0]["sequence"] + 2
    assert documents[0]["publish_time_ns"] > 10**18


def test_echo_raw_decodes_nothing(run, discovery, cortex_dir):
    with bare_publisher(cortex_dir, "/r", discovery=discovery) as peer:
        stop = threading.Event()
        header = MessageHeader(IntMessage.fingerprint(), 0, 4).to_bytes()

        def work():
            while not stop.wait(0.005):
                peer.send(b"/r", header, b"\x91\x05", b"12345")

        thread = threading.Thread(target=work)
        thread.start()
        try:
            text = run("topic", "echo", "/r", "-n", "1", "--raw").output
            line = json.loads(run("topic", "echo", "/r", "-n", "1", "--raw", "--json").output)
        finally:
            stop.set()
            thread.join()
    assert "#4" in text
    assert "parts: 24 + 2 + 5 = 31 bytes" in text
    assert line["part_bytes"] == [24, 2, 5]


def test_echo_survives_malformed_messages(run, discovery, cortex_dir):
    with bare_publisher(cortex_dir, "/m", discovery=discovery) as peer:
        stop = threading.Event()

        def work():
            while not stop.wait(0.005):
                peer.send(b"/m", b"short")
                peer.send(b"/m", b"x" * 24, b"\xc1")
                peer.send(b"/m")
                peer.send_number(7)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            result = run("topic", "echo", "/m", "-n", "8")
        finally:
            stop.set()
            thread.join()
    assert result.exit_code == 0
    assert result.output.count("data: 7") == 2
    assert result.output.count("Malformed message of ") == 6


def test_echo_stops_after_its_duration(run, discovery, cortex_dir):
    _dead(discovery, cortex_dir)
    result = run("topic", "echo", "/dead", "--duration", "60ms")
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize("value", ["soon", "0", "-1s", "1 week"])
def test_a_duration_that_is_none_is_a_usage_error(run, discovery, value):
    result = run("topic", "echo", "/t", "--duration", value)
    assert result.exit_code == 2
    assert "is not a duration such as" in result.output


def test_echo_can_wait_for_its_topic(discovery):
    with spawn_python(["-m", "cortex", "topic", "echo", "/late", "--wait", "-n", "1"]) as process:
        assert process.stderr.readline() == "Waiting for topic /late ...\n"
        publisher = Publisher("/late", IntMessage, "robot", discovery.address)
        while process.poll() is None:
            publisher.publish(IntMessage(3))
            try:
                process.wait(0.005)
            except subprocess.TimeoutExpired:
                continue
        assert "data: 3" in process.stdout.read()
        publisher.close()


def test_echo_imports_modules_with_classes(run, publish, tmp_path, monkeypatch):
    (tmp_path / "my_msgs.py").write_text(
        "from dataclasses import dataclass\nfrom cortex import Message\n\n"
        "@dataclass\nclass Speed(Message):\n    metres_per_second: float\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    result = run("topic", "echo", "/x", "--import", "no_such_module")
    assert result.exit_code == 1
    assert "--import no_such_module failed (ModuleNotFoundError" in result.output
    publish("/x", FloatMessage(1.0))
    assert run("topic", "echo", "/x", "-n", "1", "--import", "my_msgs").exit_code == 0
    assert "my_msgs" in sys.modules
    del sys.modules["my_msgs"]


def test_echo_follows_a_publisher_that_moved(discovery, cortex_dir):
    with bare_publisher(cortex_dir, "/m", discovery=discovery, name="one.sock") as one:
        with spawn_python(["-m", "cortex", "topic", "echo", "/m", "-n", "2", "--json"]) as process:
            one.wait_for_subscriber()
            one.send_number(1)
            assert json.loads(process.stdout.readline())["fields"] == {"data": 1}
            with bare_publisher(cortex_dir, "/m", discovery=discovery, name="two.sock") as two:
                two.wait_for_subscriber()
                two.send_number(2)
                assert json.loads(process.stdout.readline())["fields"] == {"data": 2}


# -- hz and bw


def test_hz_measures(run, publish):
    publish("/imu", IntMessage(1))
    result = run("topic", "hz", "/imu", "-n", "2", "--window", "100ms")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) == 2
    assert all(" Hz   interval min " in line for line in result.output.splitlines())
    document = json.loads(run("topic", "hz", "/imu", "-n", "1", "--window", "0.1", "--json").output)
    assert set(document) == {"topic", "hz", "messages", "min_s", "max_s", "std_s", "lost", "duration_s"}
    assert document["messages"] > 1
    assert document["hz"] > 0


def test_bw_measures(run, publish):
    publish("/image", ArrayMessage(np.zeros(10_000, np.uint8)))
    output = run("topic", "bw", "/image", "-n", "1", "--window", "100ms").output
    assert "B/s   message min 10.08 kB  max 10.08 kB" in output
    document = json.loads(run("topic", "bw", "/image", "-n", "1", "--window", "100ms", "--json").output)
    assert document["smallest"] == document["largest"] == document["bytes"] / document["messages"]


@pytest.mark.parametrize(("command", "text"), [("hz", "no messages\n"), ("bw", "no messages\n")])
def test_silence_is_measured_too(run, discovery, cortex_dir, command, text):
    _dead(discovery, cortex_dir)
    assert run("topic", command, "/dead", "--duration", "60ms").output == text
    assert run("topic", command, "/dead", "-n", "2", "--window", "60ms").output == text * 2


def test_a_window_is_measured_right():
    meter = rates.Meter()
    for k, sequence in enumerate([0, 1, 4]):
        meter.add(k * 10**8, 100 + k, sequence)
    window = meter.close(0.5)
    assert (window.messages, window.bytes, window.lost) == (3, 303, 2)
    assert (window.hz, window.min_s, window.max_s, window.std_s) == pytest.approx((10, 0.1, 0.1, 0))
    assert (window.smallest, window.largest, window.bytes_per_s) == (100, 102, 606)
    # the interval across the border belongs to the later window
    meter.add(5 * 10**8, 1, 5)
    window = meter.close(0.5)
    assert (window.messages, window.hz, window.lost) == (1, pytest.approx(1 / 0.3), 0)
    assert meter.close(0.5).hz == 0


def test_a_restart_is_not_a_loss():
    meter = rates.Meter()
    for k, sequence in enumerate([100, 0, 1]):
        meter.add(k, 1, sequence)
    assert meter.close(1).lost == 0


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.50 kB"), (2.5e9, "2.50 GB")])
def test_sizes_have_units(count, text):
    assert rates.bytes_text(count) == text


# -- showing values


def test_arrays_of_all_kinds_are_shown():
    data = {
        "date": np.array(["2026-01-02"], "M8[D]"),
        "complex": np.array([1 + 2j]),
        "text": np.array(["ab"]),
        "zero": np.array(5),
        "none": np.zeros((0, 3)),
        "bool": np.array([True]),
        "pair": np.array([(1, 2.5)], dtype="<i4,<f4"),
    }
    shown = read_message(DictMessage(data).to_frames(3))
    text = message_text(shown)
    for part in (
        "date: datetime64[D] [1] 2026-01-02",
        "complex: complex128 [1] (1+2j)",
        "zero: int64 [] 5",
        "none: float64 [0, 3]",
        "bool: bool [1] True",
    ):
        assert part in text
    values = json.loads(message_json("/d", shown))["fields"]["data"]
    assert values["date"]["values"] == ["2026-01-02"]
    assert values["complex"]["values"] == ["(1+2j)"]
    assert values["pair"]["values"] == [[1, 2.5]]
    assert values["bool"]["values"] == [True]


def test_the_single_blob_form_is_shown_too():
    blob = IntMessage(5).to_bytes(sequence=9)
    shown = read_message([blob])
    assert (shown.values, shown.names, shown.header.sequence) == ([5], ("data",), 9)


def test_tensors_are_shown_without_torch():
    metadata = (
        IntMessage(0).to_frames(0)[0],
        (
            b"\x91\x86\xae__cortex_oob__\xa5torch\xa6buffer\x00\xa5dtype\xa3<f4\xa5shape\x91\x01"
            b"\xa6device\xa6cuda:0\xadrequires_grad\xc3"
        ),
    )
    assert "float32 [1] 1.5" in message_text(read_message([*metadata, np.float32(1.5).tobytes()]))


@pytest.mark.parametrize(
    "descriptor", [{"buffer": 5}, {"buffer": -1}, {"buffer": "x"}, {"dtype": "zz"}, {"shape": [9]}]
)
def test_a_descriptor_that_does_not_fit_is_malformed(descriptor):
    good = {"__cortex_oob__": "numpy", "buffer": 0, "dtype": "<f4", "shape": [1]}
    header = MessageHeader(1, 0, 0).to_bytes()
    assert read_message([header, pack_document([good]), b"\0" * 4]).values == [np.zeros(1, "<f4")]
    with pytest.raises(CodecError):
        read_message([header, pack_document([good | descriptor]), b"\0" * 4])


def test_times_that_make_no_sense_are_shown_as_numbers():
    shown = read_message([MessageHeader(1, 2**64 - 1, 0).to_bytes(), b"\x90"])
    assert f"{2**64 - 1} ns" in message_text(shown) or "2554" in message_text(shown)


# -- ending


@pytest.mark.parametrize("command", ["echo", "hz", "bw"])
def test_ctrl_c_is_a_normal_end(discovery, publish, command):
    publish("/imu", IntMessage(1))
    options = [] if command == "echo" else ["--window", "20ms"]
    with spawn_python(["-m", "cortex", "topic", command, "/imu", *options]) as process:
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err.strip()) == (0, "")


def test_ctrl_c_while_waiting_is_a_normal_end_too(discovery):
    with spawn_python(["-m", "cortex", "topic", "echo", "/never", "--wait"]) as process:
        assert process.stderr.readline() == "Waiting for topic /never ...\n"
        process.send_signal(signal.SIGINT)
        assert (process.communicate(timeout=30), process.returncode) == (("", ""), 0)


def test_piping_into_head_does_not_trace_back(discovery, publish):
    publish("/imu", IntMessage(1))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = f"{sys.executable} -m cortex topic echo /imu | head -n 3"
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=60)
    assert (len(done.stdout.splitlines()), done.stderr) == (3, "")


def test_discovery_runs_a_daemon_until_sigterm(cortex_dir):
    address = f"ipc://{cortex_dir}/own.sock"
    with spawn_python(["-m", "cortex", "discovery", "--address", address, "--log-level", "warning"]) as process:
        assert wait_for_discovery(address, 30)
        with spawn_python(["-m", "cortex", "discovery", "--address", address]) as second:
            _, err = second.communicate(timeout=30)
            assert second.returncode == 1
            assert address in err
            assert "Traceback" not in err
        process.send_signal(signal.SIGTERM)
        assert (process.communicate(timeout=30), process.returncode) == (("", ""), 0)
    assert list(cortex_dir.iterdir()) == []
