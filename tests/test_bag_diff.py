"""Two recordings compared: equal ones are equal, and every kind of difference is found and named."""

import pytest
from recordings import MS, Line, chat, write_bag

from bag.differences import diff
from bag.errors import UsageError
from bag.options import PlayOptions

LINES = [*chat(20), *(Line("/map", 3 + 50 * n, n) for n in range(4))]


@pytest.fixture
def write(tmp_path):
    def write(name, lines, **options):
        return write_bag(tmp_path / f"{name}.h5", "/d", sorted(lines, key=lambda line: line.at_ms), **options)

    return write


def by_topic(report):
    return {topic.topic: topic for topic in report.topics}


def test_a_bag_equals_itself(write):
    a, b = write("a", LINES), write("b", LINES, mono_ns=77)
    report = diff(a, b, time_tolerance_ns=0)
    assert report.equal
    assert [(topic.topic, topic.same) for topic in report.topics] == [("/chat", 20), ("/map", 4)]


def test_missing_and_extra_messages_are_named_by_sequence(write):
    report = diff(write("a", LINES), write("b", [*LINES[3:9], *LINES[10:], Line("/map", 300, 9)]))
    assert not report.equal
    chatting, mapping = report.topics
    assert (chatting.missing, chatting.missing_sequences) == (4, ((0, 2), (9, 9)))
    assert (mapping.extra, mapping.extra_sequences) == (1, ((9, 9),))
    assert chatting.in_order


def test_other_bytes_are_found(write, monkeypatch):
    a = write("a", LINES)
    import recordings

    whole = recordings.frames_of
    monkeypatch.setattr(
        recordings, "frames_of", lambda line: [*whole(line)[:1], b"\x91\xa1x"] if line == LINES[7] else whole(line)
    )
    report = diff(a, write("b", LINES))
    assert not report.equal
    assert (report.topics[0].same, report.topics[0].different_sequences) == (19, ((7, 7),))


def test_another_order_is_found(write, tmp_path):
    lines = chat(10)
    b = write_bag(tmp_path / "b.h5", "/d", [*lines[:4], lines[5], lines[4], *lines[6:]])
    (topic,) = diff(write("a", lines), b).topics
    assert (topic.same, topic.in_order, topic.equal) == (10, False, False)


def test_a_message_twice_is_extra(write, tmp_path):
    lines = chat(5)
    b = write_bag(tmp_path / "b.h5", "/d", [*lines[:3], lines[2], *lines[3:]])
    (topic,) = diff(write("a", lines), b).topics
    assert (topic.missing, topic.extra, topic.extra_sequences) == (0, 1, ((2, 2),))


def test_sequences_that_repeat_after_a_restart_are_told_apart(write):
    lines = [*chat(5), *(Line("/chat", 100 + 10 * n, n) for n in range(5))]
    assert diff(write("a", lines), write("b", lines)).topics[0].same == 10
    (topic,) = diff(write("c", lines), write("d", lines[2:])).topics
    assert (topic.missing, topic.missing_sequences, topic.same) == (2, ((0, 1),), 8)


@pytest.mark.parametrize("change", [{"node": "other"}, {"address": "ipc:///d/topics/elsewhere.sock"}])
def test_another_identity_is_found(change, write):
    lines = [line._replace(node=change.get("node", "talker")) for line in chat(3)]
    addresses = {"/chat": change.get("address", "ipc:///d/topics/talker_chat.sock")}
    (topic,) = diff(write("a", chat(3)), write("b", lines, addresses=addresses)).topics
    assert (topic.same, topic.same_identity, topic.equal) == (3, False, False)


def test_topics_of_one_side_only_are_reported(write):
    report = diff(write("a", chat(3)), write("b", [*chat(3), Line("/more", 1, 0)]))
    assert by_topic(report)["/more"].extra == 1
    assert not report.equal
    assert diff(write("c", chat(3)), write("d", [*chat(3), Line("/more", 1, 0)]), topics=["/chat"]).equal


def test_timing_is_measured_between_messages_and_judged_when_asked(write):
    a = write("a", chat(10))
    b = write("b", [line._replace(late_ms=5 if line.sequence == 4 else 1) for line in chat(10)])
    assert diff(a, b).equal
    assert diff(a, b).timing.max_ns == 4 * MS
    assert diff(a, b, time_tolerance_ns=4 * MS).equal
    judged = diff(a, b, time_tolerance_ns=3 * MS)
    assert (judged.equal, judged.topics[0].in_time) == (False, False)


def test_what_was_played_differently_is_compared_accordingly(write):
    a = write("a", LINES)
    b = write("b", [line._replace(topic="/x" + line.topic, at_ms=line.at_ms) for line in chat(20)[5:10]])
    played = PlayOptions(topics=("/chat",), start_ns=50 * MS, stop_ns=100 * MS, prefix="/x", relocate=True)
    (topic,) = diff(a, b, played=played).topics
    assert (topic.topic, topic.messages_a, topic.messages_b, topic.missing) == ("/x/chat", 5, 5, 0)


def test_splits_are_compared_as_one(write):
    whole = write("a", chat(20))
    parts = [write(f"b_{n}", chat(20)[n * 5 : n * 5 + 5]) for n in range(4)]
    assert diff(whole, parts).equal
    assert diff(parts, whole).equal


def test_a_topic_that_nobody_has_is_wrong_usage(write):
    with pytest.raises(UsageError, match="/nowhere"):
        diff(write("a", chat(1)), write("b", chat(1)), topics=["/nowhere"])
