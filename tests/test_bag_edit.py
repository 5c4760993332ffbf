"""Edits: what is kept is kept bit for bit, the new ledger is true, and a bag appears whole or not at all."""

import shutil
from pathlib import Path

import h5py
import pytest
from damaging import contents
from helpers import spawn_python
from made_bags import sample

import bag
from bag import annotate
from bag.edit import FilterOptions, filter_bag
from bag.errors import BagExistsError, IntegrityError, UsageError
from bag.merging import merge
from bag.storage.filters import NAMES, decoder_of, encoder_of
from bag.storage.verify import verify

SAMPLES = ("robot", "gaps", "custom")


@pytest.fixture
def edited(tmp_path):
    def make(name="robot", **options):
        output = tmp_path / "new.h5"
        filter_bag(sample(name), output, FilterOptions(**options), force=True)
        report = verify(output)
        assert report.whole, report
        return output

    return make


@pytest.mark.parametrize("name", SAMPLES)
def test_a_filter_that_leaves_nothing_out_is_a_copy(name, edited):
    path = edited(name)
    assert contents(path) == contents(sample(name))
    with bag.open(path) as new, bag.open(sample(name)) as old:
        assert [new[topic].gaps() for topic in new] == [old[topic].gaps() for topic in old]
        assert (new.info().description, new.info().host) == (old.info().description, old.info().host)


def test_a_cut_is_half_open_and_counts_from_either_end(edited):
    times = [row[3] for row in contents(sample("robot"))["/imu"]]
    low, high = times[0] + 200_000_000, max(row[3] for rows in contents(sample("robot")).values() for row in rows)
    kept = [row[3] for row in contents(edited(start="0.2", stop="-0.3"))["/imu"]]
    assert kept == [time for time in times if low <= time < high - 300_000_000]


@pytest.mark.parametrize("start", ["2026-01-01T00:00:00.5Z", "1767225600500300000", "500.3ms"])
def test_moments_can_be_written_in_many_ways(start, edited):
    assert contents(edited(start=start))["/imu"][0][0] in (25, 26)


def test_topics_stay_although_no_message_of_theirs_is_left(edited):
    assert set(contents(edited(start="0.5", stop="0.501"))) == set(contents(sample("robot")))


def test_regular_expressions_choose_whole_names(edited):
    assert set(contents(edited(include=("/.*",), exclude=("/camera", "/lidar/.*")))) == {
        "/camera/image", "/imu", "/joints", "/status", "/log",
    }  # fmt: skip


def test_a_sticky_topic_carries_its_last_message_to_the_cut(edited):
    rows = contents(edited(start="0.55", sticky=("/status",)))["/status"]
    old = contents(sample("robot"))["/status"]
    assert rows[0][4] == old[5][4]
    assert rows[0][3] == min(row[3] for row in rows) > old[5][3]
    assert rows[1:] == old[6:]


def test_what_a_condition_leaves_out_is_no_loss(edited):
    path = edited(where=("/imu: sequence % 10 == 3",))
    with bag.open(path) as run:
        assert run["/imu"].sequence.tolist() == [3, 13, 23, 33, 43]
        summary = next(topic for topic in run.info().topics if topic.topic == "/imu")
        assert (summary.throttled, summary.lost_before_us, summary.lost_by_us) == (45, 0, 0)
        assert len(run["/joints"]) == 25


def test_around_a_mark_and_around_a_condition(tmp_path, edited):
    marked = tmp_path / "marked.h5"
    marked.write_bytes(sample("robot").read_bytes())
    annotate.mark(marked, "braked", "0.5")
    assert verify(marked).whole
    options = FilterOptions(around=("braked",), before_ns=100_000_000, after_ns=50_000_000)
    filter_bag(marked, tmp_path / "near.h5", options)
    with bag.open(tmp_path / "near.h5") as run:
        assert run["/imu"].sequence.tolist() == list(range(20, 28))
        assert [text for text, _time in run.marks] == ["braked"]
    path = edited(around=("/imu: sequence == 10",), before_ns=0, after_ns=0)
    assert [row[0] for row in contents(path)["/imu"]] == [10]


def test_a_topic_can_be_renamed_and_moved_in_time(edited):
    old, new = contents(sample("robot")), contents(edited(remap=(("/imu", "/x/imu"),), shift_ns=-5_000))
    assert "/imu" not in new
    assert [row[1] + 5_000 for row in new["/x/imu"]] == [row[1] for row in old["/imu"]]


def test_halves_merge_to_the_whole_in_any_order(tmp_path):
    for name, options in (("a", {"stop": "0.5"}), ("b", {"start": "0.5"})):
        filter_bag(sample("robot"), tmp_path / f"{name}.h5", FilterOptions(**options))
    merge([tmp_path / "b.h5", tmp_path / "a.h5"], tmp_path / "whole.h5")
    assert verify(tmp_path / "whole.h5").whole
    assert contents(tmp_path / "whole.h5") == contents(sample("robot"))
    with bag.open(tmp_path / "whole.h5") as run:
        assert all(run[topic].gaps() == () for topic in run)


def test_merged_messages_are_in_order_and_all_there(tmp_path):
    shifted = tmp_path / "shifted.h5"
    filter_bag(sample("robot"), shifted, FilterOptions(shift_ns=7_000_000))
    report = merge([sample("robot"), shifted, sample("gaps")], tmp_path / "all.h5")
    assert verify(tmp_path / "all.h5").whole
    assert report.messages == 135 + 135 + 82
    for rows in contents(tmp_path / "all.h5").values():
        assert [row[3] for row in rows] == sorted(row[3] for row in rows)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("kind", NAMES)
def test_compression_loses_no_bit_and_h5py_reads_it(kind, name, edited, tmp_path):
    if kind != "gzip":
        pytest.importorskip("hdf5plugin")
    path = edited(name, compression=kind)
    assert contents(path) == contents(sample(name))
    with h5py.File(path) as packed, h5py.File(sample(name)) as plain:
        for topic in ("/imu/orientation", "/counter/data", "/grip/field2"):
            if topic in plain:
                assert (packed[topic][()] == plain[topic][()]).all()
    filter_bag(path, tmp_path / "raw.h5", FilterOptions(compression="none"))
    assert contents(tmp_path / "raw.h5") == contents(sample(name))


# a process of its own: in one that has compressed something the plugin is loaded already
READ = """
import sys
if sys.argv[2] == "without":
    sys.modules["hdf5plugin"] = None
import bag
try:
    with bag.open(sys.argv[1]) as run:
        print(sum(len(message.frames) for message in run.messages()))
except bag.BagError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["lz4", "zstd"])
def test_a_compressed_bag_is_read_by_a_process_that_has_compressed_nothing(kind, edited):
    pytest.importorskip("hdf5plugin")
    path = edited(SAMPLES[0], compression=kind)
    with bag.open(sample(SAMPLES[0])) as run:
        frames = sum(len(message.frames) for message in run.messages())
    with spawn_python(["-c", READ, str(path), "with"]) as reader:
        out, err = reader.communicate(timeout=60)
    assert out.strip() == str(frames), out + err


def test_without_the_plugin_a_compressed_bag_is_refused_with_the_name_of_the_extra(tmp_path):
    path = tmp_path / "packed.h5"
    shutil.copy(sample(SAMPLES[0]), path)
    with h5py.File(path, "r+") as file:
        file.attrs["compression"] = "zstd"
    with spawn_python(["-c", READ, str(path), "without"]) as reader:
        out, err = reader.communicate(timeout=60)
    assert out.count("\n") == 1, out + err
    assert "cortex-bag[compression]" in out


def test_a_bomb_does_not_go_off():
    packed = encoder_of("gzip", 9, 1)(bytes(1 << 22))
    with pytest.raises(IntegrityError, match="does not unpack to"):
        decoder_of("gzip", 1)(packed, 1 << 10)


def test_a_damaged_bag_is_not_laundered(tmp_path):
    bad = tmp_path / "bad.h5"
    data = bytearray(sample("robot").read_bytes())
    with h5py.File(sample("robot")) as file:
        at = file["/camera/image/data"].id.get_chunk_info(0).byte_offset
    data[at] ^= 1
    bad.write_bytes(data)
    with pytest.raises(IntegrityError, match="cortex bag recover"):
        filter_bag(bad, tmp_path / "new.h5", FilterOptions())
    assert [path.name for path in tmp_path.iterdir()] == ["bad.h5"]


def test_nothing_is_replaced_unasked_and_nothing_written_when_dry(tmp_path):
    output = tmp_path / "new.h5"
    report = filter_bag(sample("robot"), output, FilterOptions(stop="0.5"), dry_run=True)
    assert 0 < report.messages < 135
    assert not output.exists()
    output.write_bytes(b"mine")
    with pytest.raises(BagExistsError):
        filter_bag(sample("robot"), output, FilterOptions())
    assert output.read_bytes() == b"mine"
    with pytest.raises(UsageError):
        filter_bag(sample("robot"), sample("robot"), FilterOptions(), force=True)


@pytest.mark.parametrize(
    "options",
    [
        {"start": "soon"}, {"start": "0.5", "stop": "0.4"}, {"include": ("(",)}, {"exclude": ("/.*",)},
        {"around": ("nowhere",)}, {"where": ("/nope: 1 > 0",)}, {"remap": (("/nope", "/x"),)}, {"start": "@nowhere"},
        {"compression": "rar"},
    ],
)  # fmt: skip
def test_an_option_that_makes_no_sense_is_one_sentence_and_leaves_nothing(options, tmp_path):
    with pytest.raises(UsageError) as caught:
        filter_bag(sample("robot"), tmp_path / "new.h5", FilterOptions(**options))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_marks_outlive_each_other_and_the_bag_stays_whole(tmp_path):
    path = Path(tmp_path / "run.h5")
    path.write_bytes(sample("gaps").read_bytes())
    for text, at in (("one", "0.1"), ("two", "-0.2"), ("three", "@one+50ms")):
        annotate.mark(path, text, at)
    report = verify(path)
    assert report.whole, report
    with bag.open(path) as run:
        assert [text for text, _time in run.marks] == ["one", "two", "three"]
    assert contents(path) == contents(sample("gaps"))
