"""The player on imagined time with real sockets: what is sent, in which order, when, and under which headers."""

import gc
import threading
import time

import pytest
import zmq
from helpers import wait_until
from recordings import MS, START_NS, Ear, Line, address_of, chat, frames_of, write_bag

from bag.clock import ManualClock
from bag.errors import UsageError
from bag.options import PlayOptions
from bag.player import Player
from cortex.core.raw import RawSubscriber
from cortex.discovery.client import DiscoveryClient
from cortex.messages.standard import TimestampMessage

S = 1_000_000_000


@pytest.fixture
def recording(cortex_dir, tmp_path):
    """Twenty messages of one topic in 190 ms."""
    return write_bag(tmp_path / "run.h5", cortex_dir, chat(20))


def options(**chosen):
    return PlayOptions(**{"wait_for_subscribers": 1, "delay_ns": 0} | chosen)


def heard(bags, directory, topic="/chat", prepare=lambda player, clock: None, count=None, **chosen):
    """Play on imagined time; returns what a subscriber of one topic got, the report and the clock."""
    clock = ManualClock()
    with Ear(directory, topic) as ear, Player(bags, options(**chosen), clock=clock) as player:
        prepare(player, clock)
        report = player.play()
        ear.hear(report.sent + report.repeated if count is None else count)
    return ear, report, clock


def test_a_subscriber_gets_every_byte_in_order(recording, cortex_dir, discovery):
    ear, report, _ = heard(recording, cortex_dir)
    assert ear.frames == [frames_of(line) for line in chat(20)]
    assert (report.sent, report.refused, report.completed) == (20, 0, True)


def test_discovery_says_what_was_recorded(recording, cortex_dir, discovery):
    with DiscoveryClient(discovery.address) as client, Player(recording, options(wait_for_subscribers=0)) as player:
        player.announce()
        (info,) = client.list_topics()
        assert (info.name, info.publisher_node, info.message_type) == ("/chat", "talker", "StringMessage")
        assert info.address == address_of(cortex_dir, "/chat")
        player.play()
        assert client.list_topics() == []


def test_messages_go_out_at_their_times(recording, cortex_dir, discovery):
    _, report, clock = heard(recording, cortex_dir, rate=2.0)
    assert clock.real_ns() == 95 * MS
    assert report.lateness.max_ns == 0


def test_immediate_waits_for_nothing(recording, cortex_dir, discovery):
    _, report, clock = heard(recording, cortex_dir, immediate=True)
    assert (report.sent, clock.real_ns()) == (20, 0)


def test_order_of_sending_is_not_that_of_arrival(tmp_path, cortex_dir, discovery):
    lines = [Line("/a", 5, 0), Line("/b", 0, 0, late_ms=20)]
    path = write_bag(tmp_path / "run.h5", cortex_dir, lines)
    sent = []
    for order in ("publish", "log"):
        with Player(path, options(wait_for_subscribers=0, order=order), clock=ManualClock()) as player:
            batches = list(player._programme.batches(-S, 1 << 20))
            sent.append([player.topics[place] for batch in batches for place in batch.places])
    assert sent == [["/b", "/a"], ["/a", "/b"]]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"start_ns": 100 * MS}, range(10, 20)),
        ({"start_ns": -50 * MS}, range(14, 20)),
        ({"stop_ns": 50 * MS}, range(5)),
        ({"stop_ns": -150 * MS}, range(4)),
        ({"start_ns": 30 * MS, "duration_ns": 40 * MS}, range(3, 7)),
        ({"num_messages": 7}, range(7)),
        ({"start_ns": 120 * MS, "num_messages": 2}, range(12, 14)),
    ],
)
def test_a_part_can_be_played(chosen, expected, recording, cortex_dir, discovery):
    ear, _, _ = heard(recording, cortex_dir, **chosen)
    assert ear.sequences == list(expected)


def test_sequences_continue_upward_in_a_loop(recording, cortex_dir, discovery):
    ear, report, _ = heard(recording, cortex_dir, loop=True, num_messages=50)
    assert ear.sequences == list(range(50))
    assert report.passes == 3
    assert ear.frames[:20] == [frames_of(line) for line in chat(20)]
    assert ear.stamps[20:40] == ear.stamps[:20]


def test_a_part_in_a_loop_leaves_no_gap_in_the_sequences(recording, cortex_dir, discovery):
    ear, _, _ = heard(recording, cortex_dir, loop=True, num_messages=9, start_ns=50 * MS, stop_ns=90 * MS)
    assert ear.sequences == [5, 6, 7, 8, 9, 10, 11, 12, 13]


def test_shifted_stamps_keep_their_distances_and_are_of_today(recording, cortex_dir, discovery):
    before = time.time_ns()
    ear, _, _ = heard(recording, cortex_dir, stamps="shift", start_ns=50 * MS)
    assert {b - a for a, b in zip(ear.stamps, ear.stamps[1:], strict=False)} == {10 * MS}
    assert before <= ear.stamps[0] <= time.time_ns()
    assert [frames[1:] for frames in ear.frames] == [frames_of(line)[1:] for line in chat(20)[5:]]


def test_fresh_stamps_are_the_time_of_sending(recording, cortex_dir, discovery):
    before = time.time_ns()
    ear, _, _ = heard(recording, cortex_dir, stamps="now")
    assert before <= ear.stamps[0] <= ear.stamps[-1] <= time.time_ns()
    assert ear.sequences == list(range(20))


def test_a_pause_costs_its_time_and_no_message(recording, cortex_dir, discovery):
    def prepare(player, clock):
        clock.call_at(45 * MS, player.pause)
        clock.call_at(5 * S, player.resume)

    ear, report, clock = heard(recording, cortex_dir, prepare=prepare)
    assert ear.sequences == list(range(20))
    assert clock.real_ns() == 5 * S + 145 * MS
    assert report.lateness.max_ns == 0


def test_steps_send_one_message_each(recording, cortex_dir, discovery):
    seen = []

    def prepare(player, clock):
        for second in range(1, 4):
            clock.call_at(second * S, player.step)
            clock.call_at(second * S + S // 2, lambda: seen.append(player.progress().sent))
        clock.call_at(4 * S, player.stop)

    ear, report, _ = heard(recording, cortex_dir, prepare=prepare, start_paused=True)
    assert seen == [1, 2, 3]
    assert ear.sequences == [0, 1, 2]
    assert not report.completed


def test_seeking_forward_and_back(recording, cortex_dir, discovery):
    def prepare(player, clock):
        clock.call_at(25 * MS, lambda: player.seek(0.15))
        clock.call_at(65 * MS, lambda: player.seek_by(-1000))

    ear, report, _ = heard(recording, cortex_dir, prepare=prepare)
    assert ear.sequences == [0, 1, 2, 15, 16, 17, 18, *range(20)]
    assert report.completed


def test_seeking_works_while_paused_and_at_the_end(recording, cortex_dir, discovery):
    def prepare(player, clock):
        clock.call_at(25 * MS, player.pause)
        clock.call_at(1 * S, lambda: player.seek(0.18))
        clock.call_at(2 * S, player.resume)
        clock.call_at(10 * S, lambda: player.seek(0.17))
        clock.call_at(20 * S, player.stop)

    ear, _, _ = heard(recording, cortex_dir, prepare=prepare, keep_alive=True)
    assert ear.sequences == [0, 1, 2, 18, 19, 17, 18, 19]


def test_the_rate_changes_while_playing(recording, cortex_dir, discovery):
    ear, _, clock = heard(recording, cortex_dir, prepare=lambda p, c: c.call_at(90 * MS, lambda: p.set_rate(10)))
    assert clock.real_ns() == 100 * MS
    assert ear.sequences == list(range(20))


def test_empty_stretches_are_passed_over(tmp_path, cortex_dir, discovery):
    lines = [Line("/chat", 0, 0), Line("/chat", 10, 1), Line("/chat", 200_000, 2), Line("/chat", 200_500, 3)]
    path = write_bag(tmp_path / "run.h5", cortex_dir, lines)
    ear, _, clock = heard(path, cortex_dir, skip_empty_ns=S)
    assert ear.sequences == [0, 1, 2, 3]
    assert clock.real_ns() == 510 * MS


def test_progress_says_when_the_next_message_comes(tmp_path, cortex_dir, discovery):
    path = write_bag(tmp_path / "run.h5", cortex_dir, [Line("/chat", 0, 0), Line("/chat", 200_000, 1)])
    seen = []

    def prepare(player, clock):
        clock.call_at(8 * S, lambda: seen.append(player.progress()))

    heard(path, cortex_dir, prepare=prepare, rate=2.0)
    (progress,) = seen
    assert (progress.position_ns, progress.duration_ns) == (16 * S, 200 * S)
    assert (progress.next_in_ns, progress.sent, progress.rate) == (92 * S, 1, 2.0)


# --- sticky


@pytest.fixture
def with_map(cortex_dir, tmp_path):
    """A topic that speaks twice, beside one that speaks regularly."""
    lines = [Line("/map", 0, 0), Line("/map", 95, 1), *chat(20)]
    return write_bag(tmp_path / "run.h5", cortex_dir, sorted(lines, key=lambda line: line.at_ms))


def test_sticky_sends_the_last_value_before_the_offset(with_map, cortex_dir, discovery):
    ear, report, _ = heard(
        with_map,
        cortex_dir,
        "/map",
        sticky=("/map",),
        start_ns=50 * MS,
        count=2,
        wait_for_subscribers=0,
        delay_ns=0,
        prepare=lambda player, clock: (
            player.announce(),
            wait_until(lambda: player._stage.subscribers(player.topics.index("/map"))),
        ),
    )
    assert ear.sequences == [0, 1]
    assert report.repeated == 1


def test_sticky_sends_the_last_value_after_a_seek(with_map, cortex_dir, discovery):
    def prepare(player, clock):
        player.announce()
        wait_until(lambda: player._stage.subscribers(player.topics.index("/map")))
        clock.call_at(5 * MS, lambda: player.seek(0.15))
        clock.call_at(15 * MS, lambda: player.seek(0.05))

    ear, _, _ = heard(
        with_map,
        cortex_dir,
        "/map",
        sticky=("/map",),
        count=4,
        wait_for_subscribers=0,
        prepare=prepare,
        topics=("/map", "/chat"),
    )
    assert ear.sequences == [0, 1, 0, 1]


def test_sticky_sends_the_last_value_to_late_joiners(with_map, cortex_dir, discovery):
    chosen = options(wait_for_subscribers=0, sticky=("/map",), keep_alive=True, rate=100.0)
    with Player(with_map, chosen) as player:
        thread = threading.Thread(target=player.play)
        thread.start()
        wait_until(lambda: player.progress().sent == 22)
        with Ear(cortex_dir, "/map") as ear:
            assert ear.hear(1).sequences == [1]
        player.stop()
        thread.join()


def test_without_sticky_a_late_joiner_gets_nothing_old(with_map, cortex_dir, discovery):
    ear, report, _ = heard(with_map, cortex_dir, "/map", start_ns=50 * MS, topics=("/map",), count=1)
    assert ear.sequences == [1]
    assert report.repeated == 0


def test_sticky_names_a_topic_that_is_played(recording):
    with pytest.raises(UsageError, match="/nowhere"):
        Player(recording, PlayOptions(sticky=("/nowhere",)))


# --- several bags


def test_splits_are_played_as_one_whatever_their_order(tmp_path, cortex_dir, discovery):
    lines = chat(30)
    paths = [write_bag(tmp_path / f"run_{n}.h5", cortex_dir, lines[n * 10 : n * 10 + 10]) for n in range(3)]
    ear, _, clock = heard([paths[2], paths[0], paths[1]], cortex_dir)
    assert ear.frames == [frames_of(line) for line in lines]
    assert clock.real_ns() == 290 * MS


def test_a_value_repeated_at_the_start_of_a_split_is_sent_once(tmp_path, cortex_dir, discovery):
    lines = chat(20)
    paths = [
        write_bag(tmp_path / "run_0.h5", cortex_dir, lines[:10]),
        write_bag(tmp_path / "run_1.h5", cortex_dir, lines[9:]),
    ]
    ear, _, _ = heard(paths, cortex_dir)
    assert ear.sequences == list(range(20))


def test_bags_of_different_machines_are_laid_on_one_time_line_by_wall_time(tmp_path, cortex_dir, discovery):
    one = write_bag(tmp_path / "one.h5", cortex_dir, chat(5, step_ms=20), mono_ns=7 * S)
    other = [Line("/other", 10 + 20 * n, n, "elsewhere") for n in range(5)]
    two = write_bag(tmp_path / "two.h5", cortex_dir, other, mono_ns=9_000 * S)
    with Player([two, one], options()) as player:
        batches = list(player._programme.batches(0, 1 << 20))
        order = [player.topics[place] for batch in batches for place in batch.places]
        assert [at for batch in batches for at in batch.times] == [n * 10 * MS for n in range(10)]
    assert order == ["/chat", "/other"] * 5


def test_one_topic_of_two_nodes_at_once_is_refused(tmp_path, cortex_dir):
    one = write_bag(tmp_path / "one.h5", cortex_dir, chat(5))
    two = write_bag(tmp_path / "two.h5", cortex_dir, [Line("/chat", 15, 0, "other")])
    with pytest.raises(UsageError, match="two nodes at the same time"):
        Player([one, two])


def test_a_publisher_that_was_replaced_is_replaced_again(tmp_path, cortex_dir, discovery):
    lines = [*chat(5), *(Line("/chat", 100 + n, n, "successor") for n in range(5))]
    path = write_bag(tmp_path / "run.h5", cortex_dir, lines)
    with Ear(cortex_dir, "/chat", "successor") as late:
        with Ear(cortex_dir, "/chat") as ear, Player(path, options()) as player:
            report = player.play()
        ear.hear(5)
    assert ear.sequences == list(range(5))
    assert [(topic.node, topic.sent) for topic in report.topics] == [("talker", 5), ("successor", 5)]
    assert late.sequences == sorted(late.sequences)


# --- the clock topic


def test_a_clock_topic_tells_the_recorded_time(recording, cortex_dir, discovery):
    chosen = options(wait_for_subscribers=0, clock_hz=200.0, start_paused=True, start_ns=100 * MS)
    with Player(recording, chosen) as player:
        player.announce()
        with DiscoveryClient(discovery.address) as client:
            info = client.lookup_topic("/clock")
        assert info.message_type == "TimestampMessage"
        thread = threading.Thread(target=player.play)
        thread.start()
        with RawSubscriber("/clock", info.address) as subscriber:
            message, header = TimestampMessage.from_frames(subscriber.receive(timeout_ms=10_000))
        player.stop()
        thread.join()
    assert message.sec * S + message.nanosec == START_NS + 100 * MS
    assert header.fingerprint == TimestampMessage.fingerprint()


def test_a_clock_topic_does_not_hide_a_recorded_one(tmp_path, cortex_dir):
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(2, topic="/clock"))
    with pytest.raises(UsageError, match="--clock-topic"):
        Player(path, PlayOptions(clock_hz=10.0))


# --- the options as such


@pytest.mark.parametrize("chosen", [{"rate": 0}, {"rate": -1}, {"order": "x"}, {"stamps": "x"}, {"clock_hz": 0}])
def test_options_that_make_no_sense_are_refused(chosen):
    with pytest.raises(UsageError):
        PlayOptions(**chosen)


def test_a_topic_that_is_not_there_is_named(recording):
    with pytest.raises(UsageError, match="/nowhere"):
        Player(recording, PlayOptions(topics=("/nowhere",)))


def test_nothing_left_to_play_is_said(recording):
    with pytest.raises(UsageError, match="no topic"):
        Player(recording, PlayOptions(exclude_regex=("chat",)))


def test_stop_before_play_plays_nothing(recording, discovery):
    with Player(recording, options()) as player:
        player.stop()
        assert player.play().sent == 0


def test_playing_twice_plays_twice(recording, cortex_dir, discovery):
    with Ear(cortex_dir, "/chat") as ear, Player(recording, options(immediate=True)) as player:
        player.play()
        ear.hear(20)
        report = player.play()
        ear.hear(40)
    assert report.sent == 20


def test_subscribers_have_the_delay_to_find_the_topics(recording, cortex_dir, discovery):
    clock, begun = ManualClock(), []
    with Player(recording, PlayOptions(delay_ns=3_000 * MS), clock=clock) as player:
        player.play(before=lambda _topic: begun.append(clock.real_ns()))
    assert begun[0] >= 3_000 * MS


def test_garbage_is_not_collected_while_playing(recording, cortex_dir, discovery):
    collecting = []
    with Player(recording, options(wait_for_subscribers=0, immediate=True)) as player:
        player.play(before=lambda _topic: collecting.append(gc.isenabled()))
    assert not any(collecting)
    assert gc.isenabled()


def test_kept_alive_it_stays_registered_until_it_is_stopped(recording, cortex_dir, discovery):
    chosen = options(wait_for_subscribers=0, immediate=True, keep_alive=True)
    with Player(recording, chosen) as player, DiscoveryClient(discovery.address) as client:
        thread = threading.Thread(target=player.play)
        thread.start()
        wait_until(lambda: player.progress().sent == 20)
        assert [info.name for info in client.list_topics()] == ["/chat"]
        assert thread.is_alive()
        player.stop()
        thread.join(30)
        assert client.list_topics() == []


@pytest.mark.parametrize(("chosen", "expected"), [({}, 1000), ({"queue_size": 7}, 7)])
def test_queues_are_as_long_as_asked_for(chosen, expected, recording, cortex_dir, discovery):
    with Player(recording, options(**chosen)) as player:
        player.announce()
        assert player._stage._publisher(0)._socket.get(zmq.SNDHWM) == expected
