"""Who is recorded, without sockets: what a restart opens when news of it overtake each other."""

from dataclasses import replace

from bag import RecordOptions
from bag.follow import Sighting
from bag.roster import Roster
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
    assert roster.renew(roster.state()[1]["/t"], True) == 1
    seen(roster, sockets, NEW)
    assert [channel.type_name for channel in channels] == ["IntMessage", "Other"]
    assert sockets.asked == [("connect", 0, OLD.address)]


def test_an_answer_that_a_sighting_has_overtaken_is_not_believed():
    def look(topic):
        # while the question is under way, the follower hears of the new one
        seen(roster, sockets, NEW)
        return OLD

    roster, sockets, channels = following()
    roster._look = look
    roster.renew(roster.state()[1]["/t"], True)
    assert roster.state()[0]["/t"] == NEW
    assert channels[-1].type_name == "Other"


def test_a_wish_that_comes_after_the_first_message_opens_no_channel():
    roster, sockets, channels = following(lambda topic: NEW)
    source = roster.state()[1]["/t"]
    seen(roster, sockets, NEW)
    source.channel = roster.renew(source, True)
    assert sockets.asked[-1] == ("renew", 0, OLD.address)
    assert roster.renew(source, False) == source.channel
    assert len(channels) == 2


def test_a_topic_that_moves_is_left_there_and_received_here():
    roster, sockets, channels = following()
    moved = replace(OLD, address="ipc:///tmp/other.sock")
    seen(roster, sockets, moved)
    assert sockets.asked[1:] == [("disconnect", 0, OLD.address), ("connect", 1, moved.address)]
    # messages that the old one still sends stay its own
    assert channels[roster.renew(roster.state()[1]["/t"], False)].address == moved.address
