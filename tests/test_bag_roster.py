"""Who is recorded, without sockets: what a restart opens when news of it overtake each other."""

from dataclasses import replace

import pytest

from bag import RecordOptions
from bag.follow import Sighting
from bag.roster import Roster
from bag.sources import Renewal
from cortex.discovery.protocol import TopicInfo

OLD = TopicInfo("/t", "ipc:///tmp/t.sock", "IntMessage", 1, "node")
NEW = replace(OLD, message_type="Other", fingerprint=2)


class Sockets:
    """Stands in for the intake: remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def connect(self, source):
        self.asked.append(("connect", source.channel, source.address))

    def disconnect(self, source):
        self.asked.append(("disconnect", source.channel, source.address))

    def renew(self, source):
        self.asked.append(("renew", source.channel, source.address))


def seen(roster, sockets, info):
    roster.note(Sighting((info,), answered=True))
    roster.follow(sockets)


def following(look=lambda topic: None):
    channels, sockets = [], Sockets()
    roster = Roster(RecordOptions(all_topics=True), channels.append, look)
    seen(roster, sockets, OLD)
    return roster, sockets, channels


def test_a_new_publisher_gets_a_channel_of_what_discovery_says_now():
    roster, sockets, channels = following(lambda topic: NEW)
    source = roster.state()[1]["/t"]
    source.fingerprint = NEW.fingerprint
    assert roster.renew(source, Renewal.REBORN) == 1
    seen(roster, sockets, NEW)
    assert [channel.type_name for channel in channels] == ["IntMessage", "Other"]
    assert sockets.asked == [("connect", 0, OLD.address)]


@pytest.mark.parametrize(
    ("spoken", "type_name"), [(None, "Other"), (NEW.fingerprint, "Other"), (OLD.fingerprint, "IntMessage")]
)
def test_an_answer_that_a_sighting_has_overtaken_is_not_believed(spoken, type_name):
    def look(topic):
        # while the question is under way, the follower hears of the new one
        seen(roster, sockets, NEW)
        return OLD

    roster, sockets, channels = following()
    roster._look = look
    source = roster.state()[1]["/t"]
    source.fingerprint = spoken
    roster.renew(source, Renewal.REBORN)
    # nobody would tell a second time that it is the new one
    assert roster.state()[0]["/t"] == NEW
    assert channels[-1].type_name == type_name


def test_an_answer_that_an_older_sighting_has_overtaken_is_believed_of_who_speaks_until_there_is_a_newer_one():
    def look(topic):
        # the follower had asked before the new one registered, and another had been there for a moment
        seen(roster, sockets, between)
        return NEW

    between = replace(OLD, publisher_node="between")

    roster, sockets, channels = following()
    roster._look = look
    source = roster.state()[1]["/t"]
    source.fingerprint = NEW.fingerprint
    source.channel = roster.renew(source, Renewal.REBORN)
    assert channels[-1].type_name == "Other"
    assert roster.state()[0]["/t"] == between
    seen(roster, sockets, NEW)
    assert roster.state()[0]["/t"] == NEW
    assert roster.renew(source, Renewal.TOLD) == source.channel


def test_news_of_another_topic_make_no_answer_doubtful():
    new = replace(OLD, publisher_node="new")

    def look(topic):
        roster.note(Sighting((OLD, replace(OLD, name="/other")), answered=True))
        return new

    roster, sockets, channels = following()
    roster._look = look
    source = roster.state()[1]["/t"]
    source.channel = roster.renew(source, Renewal.REBORN)
    assert (channels[-1].node, roster.state()[0]["/t"]) == ("new", new)
    seen(roster, sockets, new)
    assert sockets.asked == [("connect", 0, OLD.address)]


@pytest.mark.parametrize("why", [Renewal.REBORN, Renewal.DOUBTED])
def test_one_that_was_gone_when_we_asked_is_told_from_the_next_by_its_type(why):
    roster, _sockets, channels = following(lambda topic: NEW)
    source = roster.state()[1]["/t"]
    source.fingerprint = NEW.fingerprint
    source.channel = roster.renew(source, Renewal.REBORN)
    # the first type was there again for a moment, and the second one is again when we ask
    source.fingerprint = OLD.fingerprint
    source.channel = roster.renew(source, why)
    assert [channel.type_name for channel in channels] == ["IntMessage", "Other", "IntMessage"]
    # for the second one nothing has changed, and yet it gets a channel
    assert roster.state()[0]["/t"] == NEW
    source.fingerprint = NEW.fingerprint
    roster.renew(source, why)
    assert channels[-1].type_name == "Other"


def test_of_those_who_used_a_type_the_last_one_is_meant():
    nodes = iter("bcd")
    roster, _sockets, channels = following(lambda topic: replace(OLD, publisher_node=next(nodes)))
    source = roster.state()[1]["/t"]
    for _ in "bc":
        source.channel = roster.renew(source, Renewal.REBORN)
    roster._look = lambda topic: NEW
    source.channel = roster.renew(source, Renewal.REBORN)
    assert [channel.node for channel in channels] == ["node", "b", "c", "c"]


def test_what_discovery_says_of_the_type_is_what_is_expected_first():
    roster, _sockets, _channels = following()
    assert roster.state()[1]["/t"].fingerprint == OLD.fingerprint


def test_nobody_elsewhere_is_taken_for_one_who_speaks_here():
    roster, sockets, channels = following()
    moved = replace(NEW, address="ipc:///tmp/other.sock")
    seen(roster, sockets, moved)
    source = roster.state()[1]["/t"]
    source.fingerprint = OLD.fingerprint
    roster.renew(source, Renewal.REBORN)
    assert channels[-1].type_name == "Other"


def test_one_whose_topic_moved_to_another_node_stays_who_it_was_while_it_has_last_words():
    roster, sockets, channels = following()
    old = roster.state()[1]["/t"]
    seen(roster, sockets, replace(OLD, publisher_node="other", address="ipc:///tmp/other.sock"))
    # its numbers fell
    assert roster.renew(old, Renewal.DOUBTED) == 0
    assert [channel.node for channel in channels] == ["node", "other"]


@pytest.mark.parametrize(("says", "channel"), [(NEW, 1), (OLD, 0), (None, 0)])
def test_in_doubt_discovery_decides_whether_a_channel_is_opened(says, channel):
    roster, _sockets, channels = following(lambda topic: says)
    source = roster.state()[1]["/t"]
    source.fingerprint = NEW.fingerprint
    assert roster.renew(source, Renewal.DOUBTED) == channel
    assert len(channels) == channel + 1


def test_a_wish_that_comes_after_the_first_message_opens_no_channel():
    roster, sockets, channels = following(lambda topic: NEW)
    source = roster.state()[1]["/t"]
    seen(roster, sockets, NEW)
    source.channel = roster.renew(source, Renewal.REBORN)
    assert sockets.asked[-1] == ("renew", 0, OLD.address)
    assert roster.renew(source, Renewal.TOLD) == source.channel
    assert len(channels) == 2


def test_a_topic_that_moves_is_left_there_and_received_here():
    roster, sockets, channels = following()
    moved = replace(OLD, address="ipc:///tmp/other.sock")
    seen(roster, sockets, moved)
    assert sockets.asked[1:] == [("disconnect", 0, OLD.address), ("connect", 1, moved.address)]
    # messages that the old one still sends stay its own
    assert channels[roster.renew(roster.state()[1]["/t"], Renewal.TOLD)].address == moved.address
