"""The demo: its comparison is strict, its processes are reaped, and the real thing agrees."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import spawn_python

import bag
from bag import demo, robot
from bag.cli import bag as group
from bag.errors import BagError
from bag.processes import Child
from bag.verdict import Account, Identity, Seen, compare, read_log

MS = 1_000_000
SAMPLES = Path(__file__).resolve().parent.parent / "sample_data"
CAMERA = Identity("camera", "ipc:///tmp/camera.sock", "ImageMessage", 7)


def _sent(count=5):
    return Account([Seen(sequence, f"digest {sequence}") for sequence in range(count)])


def _recorded(count=5):
    return Account([replace(seen, time_ns=seen.sequence * 10 * MS) for seen in _sent(count).messages], CAMERA)


def _replayed(count=5, late_ns=0):
    arrivals = [replace(seen, time_ns=10**12 + seen.time_ns) for seen in _recorded(count).messages]
    arrivals[-1] = replace(arrivals[-1], time_ns=arrivals[-1].time_ns + late_ns)
    return Account(arrivals, CAMERA)


def _verdict(sent, recorded, replayed):
    (verdict,) = compare({"/camera": sent}, {"/camera": recorded}, {"/camera": replayed})
    return verdict


def test_three_equal_accounts_agree():
    verdict = _verdict(_sent(), _recorded(), _replayed())
    assert verdict.agrees
    assert (verdict.published, verdict.recorded, verdict.replayed, verdict.identical) == (5, 5, 5, 5)
    assert (verdict.node, verdict.type_name) == ("camera", "ImageMessage")


def test_the_timing_error_is_the_distance_from_the_recorded_time():
    verdict = _verdict(_sent(), _recorded(), _replayed(late_ns=3 * MS))
    assert (verdict.timing.p50_ns, verdict.timing.max_ns) == (0, 3 * MS)


def test_all_topics_are_on_one_time_line():
    imu = Account([Seen(0, "a", -10 * MS)], replace(CAMERA, node="imu"))
    heard = Account([Seen(0, "a", 10**12 - 12 * MS)], imu.identity)
    recorded = {"/camera": _recorded(), "/imu": imu}
    verdicts = compare({"/camera": _sent()}, recorded, {"/camera": _replayed(), "/imu": heard})
    assert [verdict.timing.p50_ns for verdict in verdicts] == [0, 2 * MS]


@pytest.mark.parametrize(
    ("recorded", "replayed"),
    [
        pytest.param(_recorded(4), _replayed(4), id="a message that was not recorded"),
        pytest.param(_recorded(), _replayed(4), id="a message that was not replayed"),
        pytest.param(_recorded(), Account(_replayed().messages[::-1], CAMERA), id="another order"),
        pytest.param(_recorded(), replace(_replayed(), identity=replace(CAMERA, node="player")), id="another node"),
        pytest.param(
            _recorded(), replace(_replayed(), identity=replace(CAMERA, address="ipc://x")), id="another address"
        ),
        pytest.param(_recorded(), replace(_replayed(), identity=None), id="nobody registered"),
        pytest.param(_recorded(), Account([*_replayed().messages, Seen(4, "digest 4")], CAMERA), id="a message twice"),
        pytest.param(
            _recorded(), Account([*_replayed().messages[:4], Seen(4, "x")], CAMERA), id="another byte replayed"
        ),
        pytest.param(
            Account([*_recorded().messages[:4], Seen(4, "x")], CAMERA), _replayed(), id="another byte recorded"
        ),
    ],
)
def test_a_difference_is_no_agreement(recorded, replayed):
    assert not _verdict(_sent(), recorded, replayed).agrees


def test_nothing_published_proves_nothing():
    empty = Account([], CAMERA)
    assert not _verdict(empty, empty, empty).agrees


def test_a_topic_that_only_the_replay_has_is_no_agreement():
    (verdict,) = compare({}, {}, {"/ghost": _replayed()})
    assert not verdict.agrees


def test_a_message_the_publisher_could_not_send_was_not_published(tmp_path):
    log = tmp_path / "node.jsonl"
    lines = [{"topic": "/a", "sequence": sequence, "sha256": "d", "sent": sequence != 1} for sequence in range(3)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert [seen.sequence for seen in read_log(log)["/a"].messages] == [0, 2]


def test_the_digest_sees_where_frames_begin():
    assert robot.digest([b"ab", b"c"]) != robot.digest([b"a", b"bc"]) != robot.digest([b"abc"])


@pytest.mark.parametrize(
    "stream", [stream for streams in robot.NODES.values() for stream in streams], ids=lambda s: s.topic
)
def test_the_robot_says_the_same_every_time_and_never_repeats_itself(stream):
    bodies = [robot.digest(stream.make(index).to_frames(0)[1:]) for index in (0, 1, 2, 1)]
    assert bodies[1] == bodies[3]
    assert len(set(bodies)) == 3


def _python(code, tmp_path):
    module = tmp_path / "child_under_test.py"
    module.write_text(code, encoding="utf-8")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    return Child(["child_under_test"], env=env, errors=tmp_path / "child.err")


def _is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_child_that_ignores_everything_is_reaped(tmp_path):
    code = "import os, signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint(os.getpid(), flush=True)\ntime.sleep(600)"
    with _python(code, tmp_path) as child:
        child.grace_s = 0.1
        pid = int(child.wait_line(lambda line: True, timeout_s=30))
        assert _is_running(pid)
    assert not _is_running(pid)


def test_a_child_that_fails_is_quoted(tmp_path):
    with _python("raise SystemExit('the lens is dirty')", tmp_path) as child:
        with pytest.raises(BagError, match="exit code 1; the lens is dirty"):
            child.finish(timeout_s=30)


def test_a_child_that_ends_while_we_wait_is_noticed_at_once(tmp_path):
    started = time.monotonic()
    with _python("print('hello')", tmp_path) as child, pytest.raises(BagError, match="ended too early"):
        child.wait_line(lambda line: line == "ready", timeout_s=60)
    assert time.monotonic() - started < 50


def test_a_child_that_says_nothing_is_not_waited_for_for_ever(tmp_path):
    with (
        _python("import sys; sys.stdin.read()", tmp_path) as child,
        pytest.raises(BagError, match="said nothing of use"),
    ):
        child.wait_line(lambda line: True, timeout_s=0.2)


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo")
    # the path of a Unix socket has at most 107 bytes, so a directory for sockets must have a short name
    temporary = Path(tempfile.mkdtemp(prefix="bag_", dir="/tmp"))
    env = os.environ | {"TMPDIR": str(temporary)}
    command = [sys.executable, "-m", "bag.cli", "demo", "-o", str(output / "out"), "--duration", "1.5s", "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=150)
    leftovers = list(temporary.iterdir())
    shutil.rmtree(temporary)
    return done, output / "out", leftovers


def test_the_real_demo_agrees(demo_run):
    done, _, _ = demo_run
    assert done.returncode == 0, done.stderr + done.stdout
    verdict = json.loads(done.stdout)
    assert verdict["agrees"] is True
    assert {topic["topic"] for topic in verdict["topics"]} == {
        s.topic for streams in robot.NODES.values() for s in streams
    }
    for topic in verdict["topics"]:
        assert topic["published"] == topic["recorded"] == topic["replayed"] == topic["identical"] > 0


def test_the_real_demo_draws_a_timeline(demo_run):
    done, output, _ = demo_run
    assert json.loads(done.stdout)["timeline"] == str(output / "timeline.png")
    assert (output / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_the_real_demo_leaves_nothing_behind(demo_run):
    _, _, leftovers = demo_run
    assert leftovers == []


def _processes_in(temporary):
    # every process of a demo carries the directory for temporary files that the demo was given
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TMPDIR={temporary}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_demo_that_is_stopped_takes_its_processes_along(number, tmp_path, cortex_dir):
    words = ["-m", "bag.cli", "demo", "-o", str(tmp_path / "out"), "--duration", "60s"]
    with spawn_python(words, env={"TMPDIR": str(cortex_dir)}) as process:
        while not (line := process.stderr.readline()).startswith("Recording"):
            assert line
        assert len(_processes_in(cortex_dir)) == 2 + len(robot.NODES)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 1
    assert _processes_in(cortex_dir) == []
    assert list(cortex_dir.iterdir()) == []


def test_without_matplotlib_the_verdict_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with bag.open(SAMPLES / "gaps.h5") as run:
        timeline, note = demo.draw(run, tmp_path / "timeline.png")
    assert timeline is None
    assert "cortex-bag[plot]" in note


@pytest.mark.parametrize(("agrees", "code", "word"), [(True, 0, "All topics agree."), (False, 1, "DIFFERS")])
def test_the_exit_code_is_the_verdict(agrees, code, word, monkeypatch, tmp_path):
    replayed = _replayed() if agrees else _replayed(4)
    topics = compare({"/camera": _sent()}, {"/camera": _recorded()}, {"/camera": replayed})
    verdict = demo.Verdict(agrees, tmp_path / "run.h5", tmp_path / "timeline.png", "", topics)
    monkeypatch.setattr(demo, "run", lambda *_, **__: verdict)
    people = CliRunner().invoke(group, ["demo"])
    assert people.exit_code == code
    assert word in people.stdout
    programs = CliRunner().invoke(group, ["demo", "--json"])
    assert programs.exit_code == code
    assert json.loads(programs.stdout)["agrees"] is agrees
