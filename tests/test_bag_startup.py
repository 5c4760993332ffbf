"""A command starts quickly: it imports what it needs, and what it reads of a bag does not grow with the messages."""

import importlib
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from made_bags import MS, gathered, sample
from rich.console import Console
from rich.table import Table
from rich.text import Text

import bag
import cortex
from bag import rhythm
from bag.cli import bag as group
from bag.cli.quick_table import QuickTable
from bag.cli.tables import make_table
from bag.storage.topic_reader import TopicReader

# sockets, event loops, training and drawing have no part in looking at a bag
NOT_TO_READ = {"asyncio", "zmq", "torch", "matplotlib", "pandas", "cortex.core", "bag.recorder", "bag.player"}
NOT_TO_READ |= {"bag.storage.writer", "bag.storage.resume", "rich.progress", "rich.live"}


def _loaded(source, *arguments):
    program = f"import json, sys\n{source}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_looking_at_a_bag_imports_nothing_to_record_or_to_play():
    run = "from cortex.cli import cortex\nsys.argv[0] = 'cortex'\ncortex(standalone_mode=False)"
    loaded = _loaded(run, "bag", "info", str(sample("robot")))
    assert "h5py" in loaded
    # rich.live comes with the views of running commands
    assert loaded & (NOT_TO_READ - {"rich.live"}) == set()


def test_reading_a_bag_imports_nothing_to_record_or_to_play():
    loaded = _loaded("import bag\nwith bag.open(sys.argv[1]) as run: run['/imu'][0]", str(sample("robot")))
    assert "h5py" in loaded
    assert loaded & (NOT_TO_READ | {"click", "rich"}) == set()


@pytest.mark.parametrize("package", [bag, cortex], ids=lambda package: package.__name__)
def test_a_face_has_every_name_it_promises(package):
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def test_a_program_of_old_finds_the_packages_below_cortex():
    loaded = _loaded("import cortex\ncortex.core.Node, cortex.messages.ArrayMessage, cortex.utils")
    assert "cortex.core" in loaded
    assert importlib.import_module("bag.storage").BagWriter.__module__ == "bag.storage.writer"


@pytest.fixture
def rows_read(monkeypatch):
    read = []
    index = TopicReader.index

    def counted(self, start, stop):
        read.append(max(0, stop - start))
        return index(self, start, stop)

    monkeypatch.setattr(TopicReader, "index", counted)
    return read


def test_info_looks_at_a_bounded_number_of_times_and_says_so(monkeypatch, rows_read):
    monkeypatch.setattr(rhythm, "MAX_TIMES", 6 * 16)
    monkeypatch.setattr(rhythm, "MIN_TIMES", 16)
    result = CliRunner().invoke(group, ["info", str(sample("robot"))])
    assert result.exit_code == 0, result.output
    row = next(line.split() for line in result.stdout.splitlines() if line.startswith("/imu"))
    assert row[4:8] == ["50.0", "~50.0", "~50.0", "~50.0"]
    # topics of no more messages than their share are looked at as a whole
    row = next(line.split() for line in result.stdout.splitlines() if line.startswith("/status"))
    assert row[4:8] == ["10.0"] * 4
    assert 0 < sum(rows_read) <= 6 * 16


def test_info_looks_at_every_time_when_told_to(monkeypatch):
    monkeypatch.setattr(rhythm, "MAX_TIMES", 6 * 16)
    monkeypatch.setattr(rhythm, "MIN_TIMES", 16)
    result = CliRunner().invoke(group, ["info", "--json", "--exact", str(sample("robot"))])
    topics = json.loads(result.stdout)["topics"]
    assert [topic["hz_sampled"] for topic in topics] == [False] * 6


def test_a_hole_is_found_by_every_interval_and_the_median_is_numpys(tmp_path):
    import numpy as np

    from cortex.messages.standard import IntMessage

    times = np.cumsum(np.random.default_rng(3).integers(1, 1000, 501)) * 1000
    with bag.Writer(tmp_path / "a.h5") as writer:
        for time in times.tolist():
            writer.write("/a", IntMessage(1), log_time_ns=10**18 + time)
    with bag.open(tmp_path / "a.h5") as run:
        found = rhythm.rhythms(run.reader)["/a"]
    steps = np.diff(times)
    assert (found.hz_min, found.hz_median, found.hz_max) == (
        1e9 / steps.max(),
        1e9 / np.median(steps),
        1e9 / steps.min(),
    )


def test_rates_are_those_of_sending_where_messages_were_received_many_at_once(tmp_path):
    with bag.open(gathered(tmp_path / "a.h5", custom_data={"receive_interval": "50ms"})) as run:
        found = rhythm.rhythms(run.reader)["/n"]
    assert (found.hz_min, found.hz_median, found.hz_max) == pytest.approx((100, 100, 100))
    with bag.open(gathered(tmp_path / "b.h5")) as run:
        found = rhythm.rhythms(run.reader)["/n"]
    assert (found.hz_min, found.hz_median, found.hz_max) == (20, None, None)


@pytest.mark.parametrize("ahead_ms", [-(60**2) * 1000, -6000, -1000, -2, 15, 39, 41, 250, 2000])
def test_rates_are_those_of_sending_also_where_a_publishers_clock_is_wrong(ahead_ms, tmp_path):
    path = gathered(tmp_path / "a.h5", ahead_ns={"/n": ahead_ms * MS}, custom_data={"receive_interval": "50ms"})
    with bag.open(path) as run:
        found = rhythm.rhythms(run.reader)["/n"]
    assert (found.hz_min, found.hz_median, found.hz_max) == pytest.approx((100, 100, 100))


def _shown(table, width=80):
    console = Console(width=width, force_terminal=True)
    lines = console.render_lines(table, pad=False)
    # what is only space looks the same in every style
    return [[(s.text, s.style) for s in _letters(line)] for line in lines]


def _letters(line):
    for segment in line:
        bare = segment.style if segment.style and str(segment.style) != "none" else None
        for letter in segment.text:
            yield segment._replace(text=letter, style=bare if letter != " " else None)


def _filled(make, columns, rows):
    table = make(*columns)
    for row in rows:
        table.add_row(*row)
    return table


def _rich_table(*columns):
    quick = make_table(*columns)
    plain = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    plain.columns = quick.columns
    return plain


@pytest.mark.parametrize(
    ("rows", "width"),
    [
        ([], 80),
        ([("/a", "Camera", "12"), ("/long/topic", "", "3,000")], 80),
        ([("/a", "日本", "1"), ("/b", "x", Text("2", style="bold red"))], 80),
        ([("/a" * 40, "Camera", "12")], 40),
        ([("/a[b]", "two\nlines", "12")], 80),
    ],
    ids=["empty", "plain", "wide letters and style", "too wide", "several lines"],
)
def test_a_quick_table_looks_as_rich_draws_it(rows, width):
    columns = ("Topic", "Type", "Messages")
    quick = _filled(make_table, columns, rows)
    assert isinstance(quick, QuickTable)
    drawn, by_rich = _shown(quick, width), _shown(_filled(_rich_table, columns, rows), width)
    assert [_cut(line) for line in drawn] == [_cut(line) for line in by_rich]


def _cut(line):
    while line and line[-1][0] == " ":
        line = line[:-1]
    return line
