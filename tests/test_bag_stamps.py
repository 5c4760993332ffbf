"""Headers of a replay: byte for byte unless asked otherwise, and counted on in loops."""

import struct

import pytest

from bag.stamps import Stamps

HEADER = struct.Struct(">QQQ")


def message(stamp, sequence, more=b""):
    return [HEADER.pack(7, stamp, sequence) + more, b"meta", b"data"]


def header(frames):
    return HEADER.unpack_from(frames[0])


def test_kept_stamps_are_the_very_same_frames():
    stamps = Stamps("keep")
    stamps.begin_pass(1, 0)
    frames = message(5, 3)
    assert stamps.restamp("/a", frames) is frames


def test_a_further_pass_counts_on_and_keeps_the_rest():
    stamps = Stamps("keep")
    stamps.begin_pass(1, 0)
    for sequence in (4, 5, 6):
        stamps.restamp("/a", message(9, sequence))
    stamps.begin_pass(2, 0)
    fresh = [stamps.restamp("/a", message(9, sequence, b"more")) for sequence in (4, 5, 6)]
    assert [header(frames) for frames in fresh] == [(7, 9, 7), (7, 9, 8), (7, 9, 9)]
    assert fresh[0][0][24:] == b"more"
    assert fresh[0][1:] == [b"meta", b"data"]


def test_topics_count_for_themselves_also_when_one_begins_in_a_later_pass():
    stamps = Stamps("keep")
    stamps.begin_pass(1, 0)
    stamps.restamp("/a", message(0, 0))
    stamps.begin_pass(2, 0)
    assert header(stamps.restamp("/a", message(0, 0)))[2] == 1
    assert header(stamps.restamp("/b", message(0, 40)))[2] == 40


def test_shifted_stamps_move_by_one_constant():
    stamps = Stamps("shift", now_ns=lambda: 1000)
    stamps.begin_pass(1, 400)
    assert [header(stamps.restamp("/a", message(at, 0)))[1] for at in (400, 410, 399)] == [1000, 1010, 999]


def test_fresh_stamps_ask_the_clock():
    times = iter([0, 11, 12])
    stamps = Stamps("now", now_ns=lambda: next(times))
    stamps.begin_pass(1, 0)
    assert [header(stamps.restamp("/a", message(5, n)))[1] for n in range(2)] == [11, 12]


@pytest.mark.parametrize("mode", ["keep", "shift", "now"])
def test_what_is_no_header_is_left_alone(mode):
    stamps = Stamps(mode)
    stamps.begin_pass(1, 0)
    frames = [b"short", b"meta"]
    assert stamps.restamp("/a", frames) is frames


def test_sequences_wrap_like_the_counter_they_are():
    stamps = Stamps("keep")
    stamps.begin_pass(1, 0)
    top = (1 << 64) - 1
    stamps.restamp("/a", message(0, top))
    stamps.begin_pass(2, 0)
    assert header(stamps.restamp("/a", message(0, top)))[2] == 0
