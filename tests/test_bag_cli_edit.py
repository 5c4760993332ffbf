"""The commands that inspect and edit: exit codes, JSON, aliases, completion; what they do is tested with the
library."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from damaging import contents
from helpers import REPOSITORY
from made_bags import sample

from bag.cli import ALIASES, completions
from bag.cli import bag as group


def _run(*arguments):
    return CliRunner().invoke(group, list(map(str, arguments)))


@pytest.fixture
def damaged(tmp_path):
    path = tmp_path / "bad.h5"
    data = bytearray(sample("robot").read_bytes())
    del data[-2000:]
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    return path


def test_verify_says_0_for_whole_and_1_for_no_bag(tmp_path):
    assert _run("verify", sample("robot")).exit_code == 0
    (tmp_path / "x.h5").write_bytes(b"x" * 3000)
    result = _run("verify", tmp_path / "x.h5")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1


def test_verify_damage_recover_verify(tmp_path):
    bad, new = tmp_path / "bad.h5", tmp_path / "new.h5"
    data = bytearray(sample("robot").read_bytes())
    at = data.index(sample_image())
    data[at] ^= 1
    bad.write_bytes(data)
    result = _run("verify", "--json", bad)
    assert result.exit_code == 3
    assert json.loads(result.stdout)["whole"] is False
    result = _run("recover", bad, "-o", new, "--json")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert 0 < document["lost"] == 135 - document["kept"]
    assert _run("verify", new).exit_code == 0


def sample_image():
    frames = contents(sample("robot"))["/camera/image"][4][4]
    return frames[2][:64]


def test_recover_of_a_torn_file_keeps_something_and_says_so(damaged, tmp_path):
    result = _run("recover", damaged, "-o", tmp_path / "new.h5")
    assert result.exit_code in (1, 3)
    assert (result.exit_code == 3) is (tmp_path / "new.h5").exists()


@pytest.mark.parametrize(("alias", "command"), ALIASES.items())
def test_old_hands_find_their_words(alias, command):
    assert _run(alias, "--help").stdout.split("\n", 2)[2] == _run(command, "--help").stdout.split("\n", 2)[2]


def test_cat_as_text_summarises_arrays_unless_full():
    line = _run("cat", sample("robot"), "--topics", "/camera/image", "-n", "1").stdout
    assert "data=uint8 48x64x3 [" in line
    assert len(line) < 300
    assert len(_run("cat", sample("robot"), "--topics", "/camera/image", "-n", "1", "--full").stdout) > 9216


def test_cat_as_json_lines_is_json_on_every_line():
    lines = _run("cat", sample("gaps"), "--format", "ndjson", "--start", "0.2").stdout.splitlines()
    documents = [json.loads(line) for line in lines]
    assert {document["topic"] for document in documents} == {"/counter", "/pose"}
    assert (
        documents[0]["fields"]["data"] == {"dtype": "<i4", "shape": [2], "data": [26, 676]} or documents[0]["sequence"]
    )


def test_cat_as_csv_is_a_table_of_one_topic():
    rows = _run("cat", sample("gaps"), "--topics", "/counter", "--format", "csv", "-n", "2").stdout.splitlines()
    assert rows[0] == "log_time_ns,publish_time_ns,sequence,data[0],data[1],name,frame_id"
    assert ",5,5,25," in rows[1]
    assert len(rows) == 3
    assert _run("cat", sample("gaps"), "--format", "csv").exit_code == 2


def test_cat_says_which_topics_there_are():
    result = _run("echo", sample("gaps"), "--topics", "/nope")
    assert result.exit_code == 2
    assert "/counter, /pose" in result.stderr


def test_filter_merge_compress_and_back(tmp_path):
    cut, whole, small, big = (tmp_path / f"{name}.h5" for name in ("cut", "whole", "small", "big"))
    assert _run("cut", sample("robot"), "-o", cut, "-E", "0.5").exit_code == 0
    assert _run("merge", cut, sample("gaps"), "-o", whole, "--json").exit_code == 0
    assert _run("compress", whole, "-o", small).exit_code == 0
    assert _run("decompress", small, "-o", big).exit_code == 0
    assert contents(big) == contents(whole)
    assert small.stat().st_size < whole.stat().st_size


def test_mark_and_attach_schema(tmp_path):
    path = tmp_path / "run.h5"
    path.write_bytes(sample("custom").read_bytes())
    assert _run("mark", path, "here", "--at", "0.5").exit_code == 0
    assert "here at 0.500 s" in _run("info", path).stdout
    result = _run("attach-schema", path)
    assert result.exit_code == 2
    assert "GripState" in result.stderr


def test_du_adds_up():
    document = json.loads(_run("du", sample("robot"), "--json").stdout)
    assert document["overhead"] + sum(topic["stored"] for topic in document["topics"]) == document["size"]


def test_text_from_a_bag_cannot_command_the_terminal():
    from bag.render import clean

    assert clean("a\x1b[2Jb\udcd4") == "a\\x1b[2Jb\\udcd4"


@pytest.mark.parametrize("shell", completions.SHELLS)
def test_each_shell_gets_its_script(shell):
    assert "_CORTEX_COMPLETE" in _run("completion", shell).stdout


def test_topics_and_bags_are_completed(tmp_path):
    (tmp_path / "a.h5").write_bytes(sample("gaps").read_bytes())
    (tmp_path / "a.txt").touch()
    (tmp_path / "adir").mkdir()
    found = completions.bags(None, None, f"{tmp_path}/a")
    assert [item.value for item in found] == [f"{tmp_path}/a.h5", f"{tmp_path}/adir/"]

    context = SimpleNamespace(params={"bags": (tmp_path / "a.h5",)}, args=[])
    assert [item.value for item in completions.topics(context, None, "/p")] == ["/pose"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ver", ["verify"]),
        ("info a", ["a.h5", "adir/"]),
        ("cat a.h5 --topics /p", ["/pose"]),
        ("filter a.h5 -y /", ["/counter", "/pose"]),
        ("play a.h5 --topics /p", ["/pose"]),
        ("export a.h5 --format csv --topics /p", ["/pose"]),
        ("diff a.h5 a.h5 --topics /p", ["/pose"]),
    ],
)
def test_a_word_that_is_begun_on_a_real_command_line_is_completed(line, offered, monkeypatch, tmp_path):
    (tmp_path / "a.h5").write_bytes(sample("gaps").read_bytes())
    (tmp_path / "adir").mkdir()
    monkeypatch.chdir(tmp_path)
    *words, begun = line.split()
    found = ShellComplete(group, {}, "bag", "_BAG_COMPLETE").get_completions(words, begun)
    assert [item.value for item in found] == offered


# bash is everywhere; fish and zsh were tried by hand
def test_bash_completes_topics_with_the_script_it_is_given(tmp_path):
    (tmp_path / "a.h5").write_bytes(sample("gaps").read_bytes())
    cortex = tmp_path / "cortex"
    cortex.write_text(f'#!/bin/sh\nexec {sys.executable} -m cortex.cli "$@"\n')
    cortex.chmod(0o755)
    script = f'''{_run("completion", "bash").stdout}
        COMP_WORDS=(cortex bag cat a.h5 --topics /p) COMP_CWORD=5
        _cortex_completion cortex; echo "${{COMPREPLY[*]}}"'''
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["/pose"], done.stderr
