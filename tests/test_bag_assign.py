"""Whose messages are whose, without sockets: what is taken for another publisher's, and how often that is asked."""

from __future__ import annotations

import itertools

import pytest
from talkers import BODY, header

from bag.assign import Assigner
from bag.buffer import Received, RecordBuffer, Skipped, cost_of
from bag.sources import Renewal, Source

THIS, OTHER = 1, 2


def rows(*said):
    """Messages with these numbers, of THIS type; (number, type) for another; bytes for what has no header."""
    heads = [
        said if isinstance(said, bytes) else header(*(said if isinstance(said, tuple) else (said, THIS)))
        for said in said
    ]
    return [(at, at, [b"/t", head, *BODY]) for at, head in enumerate(heads)]


def cost(row):
    """What a message costs as it is received: its topic is known."""
    return cost_of(row) - len(b"/t")


class Hearing:
    """A source, where its messages went, and why a channel was asked for."""

    def __init__(self, *, opens=True, **known):
        self.buffer = RecordBuffer(1 << 30)
        self.source = Source(0, b"/t", "ipc:///tmp/t", **({"fingerprint": THIS} | known))
        self.assigner = Assigner(self.buffer, self.renew)
        self.asked = []
        self._opens, self._numbers = opens, itertools.count(1)

    def renew(self, source, why):
        self.asked.append(why)
        return next(self._numbers) if self._opens else source.channel

    def hear(self, *said):
        messages = rows(*said)
        self.assigner.hand_on(self.source, messages, sum(map(cost, messages)))
        return self

    @property
    def went(self):
        """For each channel how many messages went there, in order."""
        return [(item.channel, len(item.rows)) for item in self.buffer.take(0)[0]]


@pytest.mark.parametrize(
    "said",
    [
        [5, 6, 7],
        # lost on the way
        [5, 9, 20],
        # no Cortex messages: at the end, in between, alone
        [5, 6, b"short"],
        [5, b"", 6],
        [b"short"],
    ],
)
def test_what_one_publisher_says_goes_to_one_channel(said):
    hearing = Hearing(sequence=4).hear(*said).hear(50)
    assert (hearing.asked, hearing.went) == ([], [(0, len(said) + 1)])


@pytest.mark.parametrize(
    ("said", "went"),
    [
        ([5, 6, (0, OTHER), (1, OTHER)], [(0, 2), (1, 2)]),
        # whatever its number
        ([5, 6, (7, OTHER)], [(0, 2), (1, 1)]),
        ([5, 0, 1, 2], [(0, 1), (1, 3)]),
        ([5, b"short", 0], [(0, 2), (1, 1)]),
        ([0, 1, 2, 3], [(1, 4)]),
        ([4], [(1, 1)]),
        ([(5, OTHER)], [(1, 1)]),
    ],
)
def test_another_type_and_numbers_that_fall_are_another_publishers(said, went):
    hearing = Hearing(sequence=4).hear(*said)
    assert (hearing.asked, hearing.went) == ([Renewal.DOUBTED], went)


def test_each_part_of_what_two_publishers_said_costs_what_it_costs():
    hearing = Hearing(sequence=4).hear(5, (0, OTHER))
    costs = [item.nbytes for item in hearing.buffer.take(0)[0]]
    assert costs == [cost(row) for row in rows(5, (0, OTHER))]


def test_who_says_anything_is_asked_about_once_for_its_type_and_once_for_its_numbers_on_each_connection():
    hearing = Hearing(opens=False)
    for at in range(100):
        hearing.hear((at * 31 % 7, at % 3))
    assert hearing.asked == [Renewal.DOUBTED] * 2
    hearing.source.has_broken(mixed=True)
    for at in range(100):
        hearing.hear((at * 31 % 7, at % 3))
    assert hearing.asked == [Renewal.DOUBTED] * 4
    assert sum(count for _channel, count in hearing.went) == 200


def test_who_repeats_a_number_hides_no_other_type():
    hearing = Hearing().hear(5).hear(5).hear((0, OTHER), (1, OTHER)).hear((2, OTHER))
    assert (hearing.asked, hearing.went) == ([Renewal.DOUBTED] * 2, [(0, 1), (1, 1), (2, 3)])
    # where the new one begins, not where it repeats one
    hearing = Hearing(sequence=4).hear(5, (0, OTHER), (0, OTHER))
    assert (hearing.asked, hearing.went) == ([Renewal.DOUBTED], [(0, 1), (1, 2)])


def test_a_type_that_could_not_be_asked_about_is_when_it_is_known_that_a_connection_broke():
    hearing = Hearing(opens=False, fingerprint=OTHER).hear(0).hear((1, OTHER))
    assert hearing.asked == [Renewal.DOUBTED]
    hearing.source.has_broken(mixed=True)
    assert hearing.hear((2, OTHER)).asked == [Renewal.DOUBTED] * 2


def test_a_first_message_of_another_type_than_discovery_said_is_doubted():
    assert Hearing().hear((7, OTHER)).asked == [Renewal.DOUBTED]
    assert Hearing(fingerprint=None).hear((7, OTHER)).asked == []


def test_a_reborn_source_is_another_whatever_it_says_and_its_next_messages_are_not_doubted():
    hearing = Hearing(sequence=4, heard=True)
    hearing.source.has_broken(mixed=False)
    hearing.hear((9, OTHER), (10, OTHER)).hear((11, OTHER))
    assert (hearing.asked, hearing.went) == ([Renewal.REBORN], [(1, 3)])
    # the one after it may be doubted
    assert hearing.hear(0).asked == [Renewal.REBORN, Renewal.DOUBTED]


def test_a_first_message_that_is_none_tells_nothing_of_who_is_reborn():
    hearing = Hearing(sequence=4, heard=True)
    hearing.source.has_broken(mixed=False)
    hearing.hear(b"short")
    assert (hearing.asked, hearing.source.fingerprint) == ([Renewal.REBORN], None)


def test_what_discovery_told_first_is_not_asked_again():
    hearing = Hearing(sequence=4, heard=True)
    hearing.assigner.told(hearing.source)
    hearing.hear((0, OTHER)).hear((1, OTHER))
    assert (hearing.asked, hearing.went) == ([Renewal.TOLD], [(1, 2)])
    assert hearing.hear((0, OTHER)).asked == [Renewal.TOLD, Renewal.DOUBTED]


def test_late_news_that_change_nothing_take_no_doubt_away():
    hearing = Hearing(opens=False).hear(0)
    hearing.assigner.told(hearing.source)
    assert hearing.hear((0, OTHER)).asked == [Renewal.TOLD, Renewal.DOUBTED]


def test_what_discovery_told_of_a_reborn_source_is_left_to_its_first_message():
    hearing = Hearing(sequence=4, heard=True)
    hearing.source.has_broken(mixed=False)
    hearing.assigner.told(hearing.source)
    assert hearing.asked == []
    hearing.hear(0)
    assert hearing.asked == [Renewal.REBORN]


def test_what_was_about_to_be_left_goes_on_without_a_doubt():
    hearing = Hearing(sequence=4)
    hearing.hear((5, OTHER))
    again = Source(9, b"/t", "ipc:///tmp/t", fingerprint=THIS)
    again.take_over(hearing.source)
    hearing.source = again
    hearing.hear((6, OTHER))
    assert (hearing.asked, hearing.went) == ([Renewal.DOUBTED], [(1, 2)])


def test_also_what_is_skipped_tells_who_speaks():
    hearing = Hearing()
    hearing.assigner.paused = True
    hearing.hear(5, 6).hear((0, OTHER))
    assert hearing.asked == [Renewal.DOUBTED]
    skipped = [item for item in hearing.buffer.take(0)[0] if isinstance(item, Skipped)]
    assert [(item.channel, item.kind, item.messages) for item in skipped] == [(0, "paused", 2), (1, "paused", 1)]
    assert not any(isinstance(item, Received) for item in skipped)
