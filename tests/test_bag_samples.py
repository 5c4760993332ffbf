"""The sample bags hold what their truth files say, and are what ``sample_data/make.py`` writes today."""

import hashlib
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

import bag
from bag.robot import digest

SAMPLES = Path(__file__).resolve().parent.parent / "sample_data"
NAMES = sorted(path.stem for path in SAMPLES.glob("*.json"))
COUNTS = ("published_before_join", "lost_before_us", "lost_by_us", "restarts")


def test_there_are_samples_and_they_are_small():
    assert NAMES == ["custom", "gaps", "robot"]
    assert sum(path.stat().st_size for path in SAMPLES.iterdir() if path.is_file()) <= 1_000_000


@pytest.fixture(params=NAMES)
def sample(request):
    truth = json.loads((SAMPLES / f"{request.param}.json").read_text(encoding="utf-8"))
    with bag.open(SAMPLES / f"{request.param}.h5") as run:
        yield run, truth["topics"]


def test_a_sample_holds_its_topics(sample):
    run, truth = sample
    found = {
        topic.topic: [topic.type_name, f"0x{topic.fingerprint:016x}", topic.node, topic.address, topic.messages]
        for topic in run.info().topics
    }
    assert found == {
        name: [topic["type"], topic["fingerprint"], topic["node"], topic["address"], len(topic["messages"])]
        for name, topic in truth.items()
    }


def test_a_sample_holds_every_message_to_the_byte(sample):
    run, truth = sample
    for name, topic in truth.items():
        found = [
            {
                "sequence": raw.sequence,
                "publish_time_ns": raw.publish_time_ns,
                "log_time_ns": raw.log_time_ns,
                "sha256": digest(raw.frames),
            }
            for raw in run.messages(topics=[name])
        ]
        assert found == topic["messages"]


def test_the_arrays_of_a_sample_are_native(sample):
    run, truth = sample
    for name, topic in truth.items():
        for field_name, facts in topic.get("arrays", {}).items():
            field = run[name][field_name]
            rows = [np.asarray(field[index]) for index in range(len(run[name]))]
            assert {row.dtype.str for row in rows} == {facts["dtype"]}
            assert [list(shape) for shape in sorted({row.shape for row in rows})] == facts["shapes"]
            assert hashlib.sha256(b"".join(row.tobytes() for row in rows)).hexdigest() == facts["sha256"]


def test_the_values_of_a_sample_are_decoded(sample):
    run, truth = sample
    for name, topic in truth.items():
        if "values" in topic:
            assert [message.data for message in run[name]] == topic["values"]


def test_the_ledger_of_a_sample_is_exact(sample):
    run, truth = sample
    summaries = {topic.topic: topic for topic in run.info().topics}
    for name, topic in truth.items():
        if "gaps" in topic:
            found = {count: getattr(summaries[name], count) for count in COUNTS}
            assert found == {count: topic[count] for count in COUNTS}
            gaps = [[gap.first_sequence, gap.last_sequence, gap.kind] for gap in run[name].gaps()]
            assert gaps == topic["gaps"]


@pytest.mark.parametrize("name", NAMES)
def test_make_writes_the_same_messages_again(name, again):
    assert (again / f"{name}.json").read_bytes() == (SAMPLES / f"{name}.json").read_bytes()
    with bag.open(again / f"{name}.h5") as new, bag.open(SAMPLES / f"{name}.h5") as old:
        assert list(map(_essence, new.messages())) == list(map(_essence, old.messages()))
        assert new.info().topics == old.info().topics


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    directory = tmp_path_factory.mktemp("samples")
    runpy.run_path(str(SAMPLES / "make.py"))["main"](directory)
    return directory


def _essence(raw):
    return raw.channel, raw.sequence, raw.publish_time_ns, raw.log_time_ns, raw.log_mono_ns, digest(raw.frames)
