"""Where topics stand in the HDF5 tree: any name finds a place of its own, in any order, and keeps its true name."""

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storage_kit import channel_on, contents, frames_of, memory_directory, rows_of, stored, write_bag

from bag.errors import UsageError
from bag.records import Channel, Schema, SchemaField
from bag.storage.layout import MAX_LINK_BYTES, path_component, topic_path
from bag.storage.reader import BagReader
from bag.storage.writer import BagWriter


@pytest.fixture
def tmp_path():
    yield from memory_directory()


ODD = [
    "", "/", "//", "//a", "/a/", ".", "..", "/.", "/a/../b", "/_bag", "/_bag/topics", "_bag", "%", "%25", "/%2E", "~",
    "/a~2", "a", "/a", "/a/data", "/a/data/x", "/a/_index", "/a/_metadata", "/a/_metadata/y", "/a/data.offsets",
    "/a/field0", "/é/ß", "/日本/語", "/\U0001f916", "/a b", "/tab\tnew\nline", "/nul\0nul", "/" + "x" * 300,
    "/" + "x" * 301, "/" + "é" * 200, "/deep" * 50, "/deep" * 51, "x" * 70_000, "/'\"\\*?[]{}",
]  # fmt: skip
SCHEMA = Schema(0x1122334455667788, "Type", "my.msgs", "Type", (SchemaField("data", "np.ndarray"),))


def message(topic, sequence):
    return frames_of([np.full((2, 2), len(topic) + sequence, np.float64)], sequence)


def cloud(topic, sequence):
    return frames_of([np.full((sequence + 1, 2), len(topic), np.float32)], sequence)


def check(path, topics, order_of_commit, make=message, schema=None):
    path.unlink(missing_ok=True)
    with BagWriter(path) as writer:
        ids = {topic: writer.add_channel(channel_on(topic), schema).id for topic in topics}
        for topic in order_of_commit:
            writer.append(ids[topic], rows_of(topic, [make(topic, k) for k in range(3)]))
            writer.commit()
    assert contents(path) == {topic: [make(topic, k) for k in range(3)] for topic in topics}
    with h5py.File(path) as file:
        groups = []
        file.visititems(lambda name, node: groups.append(node) if "topic" in node.attrs else None)
        assert len(groups) == len(topics)
        shown = {topic.replace("\0", "\\0")[:60_000] for topic in topics}
        assert {group.attrs["topic"] for group in groups} == shown


@pytest.mark.parametrize("make", [message, cloud])
def test_odd_names_find_a_place_in_any_order(tmp_path, make):
    check(tmp_path / "run.h5", ODD, ODD[::-1], make, SCHEMA)
    check(tmp_path / "run.h5", ODD[::-1], ODD[::-1], make, SCHEMA)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_names_find_a_place(tmp_path, data):
    part = st.sampled_from(["a", "data", "_index", "_bag", "", "..", "data.offsets", "%", "a~2"]) | st.text(max_size=3)
    text = st.lists(part, max_size=4).map("/".join).filter(lambda topic: topic.isprintable() or "\ud800" > topic)
    topics = data.draw(st.lists(text, min_size=1, max_size=8, unique=True))
    topics = [topic for topic in topics if not any(0xD800 <= ord(char) < 0xE000 for char in topic)] or ["/a"]
    order = data.draw(st.permutations(topics))
    check(tmp_path / "run.h5", topics, order, data.draw(st.sampled_from([message, cloud])), SCHEMA)


def test_a_topic_stands_at_its_own_name(tmp_path):
    write_bag(tmp_path / "run.h5", {"/robot/camera": [message("", k) for k in range(2)]}, SCHEMA)
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["/robot/camera/data"].shape == (2, 2, 2)


def test_a_shorter_topic_takes_the_group_a_longer_one_made(tmp_path):
    write_bag(tmp_path / "run.h5", {"/a/b": [message("", 0)], "/a": [message("", 1)]}, SCHEMA)
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["/a"].attrs["topic"] == "/a"
        assert file["/a/b"].attrs["topic"] == "/a/b"


@pytest.mark.parametrize(
    ("topic", "path"),
    [
        ("/imu", "/imu"), ("imu", "/imu"), ("/a/b", "/a/b"), ("", "/%"), ("/", "/%"), ("//a", "/%/a"), ("/.", "/%2E"),
        ("/..", "/%2E%2E"), ("/...", "/..."), ("/50%", "/50%25"), ("/a\nb", "/a%0Ab"), ("/é", "/é"),
    ],
)  # fmt: skip
def test_the_path_rule(topic, path):
    assert topic_path(topic) == path


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_component_is_a_link_name_that_hdf5_takes_as_it_is(text):
    link = path_component(text)
    assert 0 < len(link.encode()) <= MAX_LINK_BYTES
    assert "/" not in link
    assert "\0" not in link
    assert link not in (".", "..")


def test_long_names_stay_different():
    assert path_component("x" * 1000) != path_component("x" * 1001)


def test_a_topic_that_is_no_text_is_refused_in_one_sentence_and_harms_nothing(tmp_path):
    with BagWriter(tmp_path / "run.h5") as writer:
        with pytest.raises(UsageError, match="is not text that can be sent"):
            writer.add_channel(channel_on("/\ud800"))
        known = writer.add_channel(channel_on("/good"))
        writer.append(known.id, rows_of("/good", [message("", 0)]))
    assert contents(tmp_path / "run.h5") == {"/good": [message("", 0)]}


def test_texts_that_hdf5_cannot_hold_are_kept_all_the_same(tmp_path):
    odd = "a\0b\ud800" + "x" * 70_000
    with BagWriter(tmp_path / "run.h5") as writer:
        channel = Channel(0, "/t", odd, 7, odd, odd)
        known = writer.add_channel(channel, Schema(7, odd, odd, odd, (SchemaField(odd, odd),)))
        writer.append(known.id, rows_of("/t", [frames_of([np.zeros(2)], 0, fingerprint=7)]))
        writer.mark(odd, 5)
    with BagReader(tmp_path / "run.h5") as reader:
        assert reader.channels[0] == channel
        assert reader.schema(7) == Schema(7, odd, odd, odd, (SchemaField(odd, odd),))
        assert reader.marks == [(odd, 5)]
        assert len(stored(reader, "/t")) == 1


@pytest.mark.parametrize("bad", [{"": "x"}, {"a\0b": "x"}, {"x" * 300: "x"}, {"name": "x" * 70_000}])
def test_custom_data_that_cannot_be_kept_is_refused_before_anything_is_made(tmp_path, bad):
    with pytest.raises(UsageError):
        BagWriter(tmp_path / "run.h5", custom_data=bad)
    assert list(tmp_path.iterdir()) == []


def test_description_and_custom_data_come_back(tmp_path):
    with BagWriter(tmp_path / "run.h5", description="été", custom_data={"robot": "r2", "no te": ""}):
        pass
    with BagReader(tmp_path / "run.h5") as reader:
        info = reader.info()
    assert (info.description, info.custom_data) == ("été", {"robot": "r2", "no te": ""})
