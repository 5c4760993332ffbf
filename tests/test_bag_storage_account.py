"""The ledger: every sequence number is in the bag or accounted for once, by the one who lost it; also after a crash."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storage_kit import WALL, channel_on, header, memory_directory, row_of

from bag.errors import UsageError
from bag.records import Channel
from bag.storage.reader import BagReader
from bag.storage.writer import BagWriter


@pytest.fixture
def tmp_path():
    yield from memory_directory()


TOPIC = "/t"
TOP = 2**64 - 1


class Told:
    """A writer of one topic that is told of sequences and losses, one after the other."""

    def __init__(self, path):
        self.path = path
        self.writer = BagWriter(path)
        self.channel = self.writer.add_channel(channel_on(TOPIC)).id
        self.at = 0

    def messages(self, *sequences, channel=None):
        rows = [row_of(TOPIC, [header(sequence), b"\x90"], self.at + k) for k, sequence in enumerate(sequences)]
        self.at += len(rows)
        self.writer.append(self.channel if channel is None else channel, rows)

    def restart(self):
        self.channel = self.writer.add_channel(channel_on(TOPIC, node=f"node{self.channel + 1}")).id

    def lost(self, first, last, kind="lost_by_us"):
        self.writer.note(self.channel, kind, (first, last), last - first + 1, WALL + self.at)

    def read(self, how="close"):
        """(summary, gaps as (first, last, kind)) after closing, or after dying in some way."""
        if how == "close":
            self.writer.close()
        elif how == "die committed":
            self.writer.commit()
            self.writer.abort()
        else:
            self.writer.abort()
        with BagReader(self.path) as reader:
            (summary,) = reader.info().topics
            return summary, [(gap.first_sequence, gap.last_sequence, gap.kind) for gap in reader.gaps(TOPIC)]


WAYS = ("close", "die", "die committed")


@pytest.fixture(params=WAYS)
def how(request):
    return request.param


@pytest.fixture
def told(tmp_path):
    return Told(tmp_path / "run.h5")


def test_a_publisher_seen_from_its_first_message_has_nothing_to_tell(told, how):
    told.messages(*range(10))
    summary, gaps = told.read(how)
    assert (summary.published_before_join, summary.lost_before_us, summary.lost_by_us, summary.restarts) == (0, 0, 0, 0)
    assert (gaps, summary.gaps, summary.first_sequence) == ([], 0, 0)


def test_what_was_published_before_we_joined_is_no_loss(told, how):
    told.messages(7, 8, 9)
    summary, gaps = told.read(how)
    assert (summary.published_before_join, summary.lost_before_us, summary.first_sequence) == (7, 0, 7)
    assert gaps == [(0, 6, "before_join")]


def test_gaps_are_losses_before_us_inside_and_between_batches(told, how):
    told.messages(0, 1, 5, 6, 9)
    told.messages(11)
    summary, gaps = told.read(how)
    assert (summary.lost_before_us, summary.gaps, summary.lost_by_us) == (6, 3, 0)
    assert gaps == [(2, 4, "lost_before_us"), (7, 8, "lost_before_us"), (10, 10, "lost_before_us")]


def test_what_we_refused_is_ours_and_only_that(told, how):
    told.messages(0, 1)
    told.lost(2, 4)
    told.messages(5)
    told.lost(8, 9)
    told.messages(12)
    summary, gaps = told.read(how)
    assert (summary.lost_by_us, summary.lost_before_us) == (5, 4)
    assert gaps == [
        (2, 4, "lost_by_us"),
        (6, 7, "lost_before_us"),
        (8, 9, "lost_by_us"),
        (10, 11, "lost_before_us"),
    ]


def test_what_we_refused_before_the_first_message_counts_too(told, how):
    told.lost(3, 5, "throttled")
    told.messages(6)
    summary, gaps = told.read(how)
    assert (summary.published_before_join, summary.throttled, summary.lost_before_us) == (3, 3, 0)
    assert gaps == [(0, 2, "before_join"), (3, 5, "throttled")]


def test_only_refusals_are_remembered_over_a_crash(told):
    told.lost(3, 5)
    told.writer.commit()
    told.messages(6)
    summary, _gaps = told.read("die")
    assert (summary.published_before_join, summary.lost_by_us, summary.lost_before_us) == (3, 3, 0)


def test_a_sequence_that_goes_down_is_a_restart(told, how):
    told.messages(0, 1, 2, 0, 1)
    told.messages(3)
    told.messages(2)
    summary, gaps = told.read(how)
    assert (summary.restarts, summary.lost_before_us) == (2, 1 + 2)
    assert gaps == [(2, 2, "lost_before_us"), (0, 1, "lost_before_us")]


def test_another_publisher_is_a_restart_even_if_its_sequence_fits(told, how):
    told.messages(0, 1, 2)
    told.restart()
    told.messages(3, 4)
    summary, gaps = told.read(how)
    assert (summary.restarts, gaps) == (1, [(0, 2, "lost_before_us")])


def test_the_last_messages_of_an_old_publisher_may_come_late(told, how):
    old = told.channel
    told.messages(0, 1, 2)
    told.restart()
    told.messages(0, 1)
    told.messages(3, 4, channel=old)
    told.messages(2, 3)
    summary, gaps = told.read(how)
    assert (summary.restarts, gaps) == (1, [])


def test_sequences_up_to_the_very_last(told, how):
    told.messages(TOP - 2, TOP)
    told.messages(0)
    summary, gaps = told.read(how)
    assert summary.published_before_join == TOP - 2
    assert (summary.restarts, summary.lost_before_us) == (1, 1)
    assert gaps == [(0, TOP - 3, "before_join"), (TOP - 1, TOP - 1, "lost_before_us")]


def test_a_wrap_around_is_a_restart_inside_a_batch_as_well(told, how):
    told.messages(TOP - 1, TOP, 0, 1)
    summary, _gaps = told.read(how)
    assert (summary.restarts, summary.lost_before_us) == (1, 0)


def test_losses_beyond_all_counting_do_not_stop_the_recording(told, how):
    for _ in range(3):
        told.messages(0, TOP)
    summary, _gaps = told.read(how)
    assert summary.lost_before_us == TOP


def test_malformed_messages_are_counted_and_touch_no_sequence(told, how):
    told.messages(0, 1)
    told.writer.append(told.channel, [row_of(TOPIC, [b"short", b""], 9), row_of(TOPIC, [], 9)])
    told.messages(2)
    summary, gaps = told.read(how)
    assert (summary.malformed, summary.messages, gaps) == (2, 3, [])


def test_a_file_that_continues_another_expects_what_comes_next(tmp_path, how):
    first = Told(tmp_path / "run_0.h5")
    first.messages(*range(5, 10))
    second = Told(tmp_path / "run_1.h5")
    second.writer.carry_on(TOPIC, first.writer.account(0))
    second.writer.repeat(second.channel, row_of(TOPIC, [header(9), b"\x90"]))
    second.messages(12)
    summary, gaps = second.read(how)
    first.read()
    assert (summary.messages, summary.published_before_join, summary.lost_before_us, summary.restarts) == (2, 0, 2, 0)
    assert gaps == [(10, 11, "lost_before_us")]


def test_a_continued_file_that_died_after_the_repeated_message_still_expects_the_next(tmp_path):
    first = Told(tmp_path / "run_0.h5")
    first.messages(*range(10))
    second = Told(tmp_path / "run_1.h5")
    second.writer.carry_on(TOPIC, first.writer.account(0))
    second.writer.repeat(second.channel, row_of(TOPIC, [header(4), b"\x90"]))
    second.writer.commit()
    second.messages(10)
    summary, gaps = second.read("die")
    first.read()
    assert (summary.messages, summary.lost_before_us, summary.restarts, gaps) == (2, 0, 0, [])


def test_a_file_that_begins_with_a_repeated_message_expects_the_next_also_after_death(tmp_path):
    seen = []
    for commit in (False, True):
        told = Told(tmp_path / f"run_{commit}.h5")
        told.writer.repeat(told.channel, row_of(TOPIC, [header(41), b"\x90"]))
        if commit:
            told.writer.commit()
        told.messages(42)
        summary, gaps = told.read("die")
        seen.append((summary.messages, summary.published_before_join, summary.restarts, gaps))
    assert seen == [(2, 0, 0, [])] * 2


def test_what_is_repeated_between_two_runs_of_a_channel_tells_nothing_of_what_comes_next_also_after_death(tmp_path):
    told = Told(tmp_path / "run.h5")
    told.messages(0, 1, 2)
    other = told.writer.add_channel(replace(told.writer.channels[0], node="other")).id
    told.writer.append(other, [row_of(TOPIC, [header(0), b"\x90"])])
    told.writer.repeat(told.channel, row_of(TOPIC, [header(1), b"\x90"]))
    told.writer.commit()
    told.messages(3)
    summary, _gaps = told.read("die")
    assert (summary.messages, summary.lost_before_us, summary.restarts) == (6, 0, 1)


def test_an_unknown_kind_is_refused_and_the_writer_goes_on(told):
    with pytest.raises(UsageError, match="cannot be noted"):
        told.writer.note(told.channel, "vanished", (0, 0), 1, 0)
    with pytest.raises(UsageError, match="there is no channel 7"):
        told.writer.append(7, [])
    told.messages(0)
    assert told.read()[0].messages == 1


steps = st.lists(
    st.tuples(st.sampled_from(["messages", "lost", "jump", "restart", "commit"]), st.integers(1, 5)), max_size=25
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, start=st.integers(0, 3), how=st.sampled_from(WAYS))
def test_every_sequence_number_is_accounted_for_exactly_once(tmp_path, steps, start, how):
    (tmp_path / "run.h5").unlink(missing_ok=True)
    told = Told(tmp_path / "run.h5")
    sequence, lives = start, [{}]
    for kind, count in steps:
        if kind == "restart":
            told.restart()
            lives.append({})
            sequence = 0
            continue
        if kind == "commit":
            told.writer.commit()
            continue
        numbers = range(sequence, sequence + count)
        sequence += count
        if kind == "messages":
            told.messages(*numbers)
            lives[-1] |= dict.fromkeys(numbers, "here")
        elif kind == "lost":
            told.lost(numbers[0], numbers[-1])
            lives[-1] |= dict.fromkeys(numbers, "lost_by_us")
    summary, gaps = told.read(how)
    by_us = sum(list(life.values()).count("lost_by_us") for life in lives)
    here = sum(list(life.values()).count("here") for life in lives)
    seen = [life for life in lives if life]
    silent = sum(max(life) + 1 - len(life) for life in seen)
    assert (summary.messages, summary.lost_by_us) == (here, by_us)
    assert summary.published_before_join + summary.lost_before_us == silent
    assert summary.restarts == max(0, len(seen) - 1)
    assert sum(last - first + 1 for first, last, _kind in gaps) == silent + by_us


def test_info_of_an_empty_topic_is_empty(tmp_path):
    with BagWriter(tmp_path / "run.h5") as writer:
        writer.add_channel(Channel(0, TOPIC, "Type", 1, "n", "a"))
    with BagReader(tmp_path / "run.h5") as reader:
        (summary,) = reader.info().topics
        assert (summary.messages, summary.hz, summary.first_log_ns, summary.first_sequence) == (0, None, None, None)
        assert reader.span_ns() is None
        assert list(reader.merged([TOPIC], "log")) == []
