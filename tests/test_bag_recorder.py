"""The recorder with real sockets and a real daemon: what is selected, followed, counted and bounded."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from helpers import start_daemon, wait_until
from talkers import (
    BODY,
    FINGERPRINT,
    Talker,
    count_of,
    gaps,
    header,
    heard_by_a_witness,
    ledger,
    marks,
    recording,
    sequences,
    summary,
    topic_of,
    wait_written,
)

import bag
from bag import RecordOptions
from bag.control import command
from bag.intake import Intake
from bag.options import MAX_RECEIVE_INTERVAL_NS
from bag.storage.disk import RawFile
from bag.storage.reader import BagReader
from cortex.discovery.client import DiscoveryClient
from cortex.discovery.protocol import TopicInfo

HOUR_NS = 3_600_000_000_000
INTERVALS = pytest.mark.parametrize("receive_interval_ns", [0, MAX_RECEIVE_INTERVAL_NS])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.h5"


# --- selection and discovery


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"/cam/left", "/cam/right", "/imu"}),
        ({"topics": ("/imu",)}, {"/imu"}),
        ({"regex": ("^/cam",)}, {"/cam/left", "/cam/right"}),
        ({"all_topics": True, "exclude_regex": ("left",)}, {"/cam/right", "/imu"}),
        ({"all_topics": True, "exclude_topics": ("/imu",)}, {"/cam/left", "/cam/right"}),
        ({"topic_types": ("Odd",)}, {"/cam/right"}),
        ({"nodes": ("imu",)}, {"/imu"}),
    ],
)
def test_only_what_is_selected_is_in_the_bag(options, expected, path, cortex_dir, discovery):
    with (
        Talker(cortex_dir, "/cam/left", node="cam") as left,
        Talker(cortex_dir, "/cam/right", node="cam", type_name="Odd") as right,
        Talker(cortex_dir, "/imu", node="imu") as imu,
    ):
        talkers = [left, right, imu]
        for talker in talkers:
            talker.register(discovery)
        with recording(path, discovery, **options) as recorder:
            chosen = [talker for talker in talkers if talker.info.name in expected]
            for talker in chosen:
                talker.wait_subscribed().send(3)
            for talker in chosen:
                wait_written(recorder, 3, talker.info.name)
    with bag.open(path) as run:
        assert set(run.topics) == expected
        assert all(len(run[topic]) == 3 for topic in run.topics)


def test_a_late_topic_is_joined_by_the_daemons_announcement_and_not_by_asking(path, cortex_dir, discovery):
    with recording(path, discovery, polling_interval_ns=HOUR_NS) as recorder:
        wait_until(lambda: recorder.statistics().discovery_answers)
        with Talker(cortex_dir, "/late") as late:
            late.register(discovery).wait_subscribed().send(5)
            wait_written(recorder, 5, "/late")
            with Talker(cortex_dir, "/later") as later:
                later.register(discovery).wait_subscribed().send(2)
                wait_written(recorder, 2, "/later")
    assert sequences(path, "/late") == list(range(5))
    assert summary(path, "/late").published_before_join == 0


def test_without_discovery_of_late_topics_they_are_left_alone_but_known_ones_are_followed(path, cortex_dir, discovery):
    with Talker(cortex_dir, "/early") as early:
        early.register(discovery)
        with recording(path, discovery, follow=False) as recorder:
            early.wait_subscribed().send(2)
            wait_written(recorder, 2, "/early")
            with (
                Talker(cortex_dir, "/late", node="z") as late,
                Talker(cortex_dir, "/early", name="moved.sock") as moved,
            ):
                late.register(discovery)
                # the move is seen after the late topic, so that one was seen, too
                moved.register(discovery)
                moved.wait_subscribed().send(3)
                wait_written(recorder, 5, "/early")
                assert topic_of(recorder, "/late") is None
    with bag.open(path) as run:
        assert run.topics == ("/early",)


def test_recording_begins_when_all_awaited_topics_are_alive(path, cortex_dir, discovery):
    with DiscoveryClient(discovery.address) as client:
        # a registration whose publisher died does not count
        client.register(TopicInfo("/b", f"ipc://{cortex_dir}/gone.sock", "T", 1, "dead"))
    with Talker(cortex_dir, "/a") as first:
        first.register(discovery)
        with recording(path, discovery, topics=("/a", "/b"), wait_for_topics=True) as recorder:
            wait_until(lambda: recorder.statistics().discovery_answers)
            assert recorder.statistics().waiting
            first.send(4)
            with Talker(cortex_dir, "/b", node="dead") as second:
                second.register(discovery)
                first.wait_subscribed().send(2)
                second.wait_subscribed().send(3)
                wait_written(recorder, 2, "/a")
                wait_written(recorder, 3, "/b")
                assert not recorder.statistics().waiting
    assert summary(path, "/a").published_before_join == 4
    assert sequences(path, "/b") == [0, 1, 2]


def test_the_duration_counts_from_the_beginning_of_the_recording_and_not_of_the_waiting(path, cortex_dir, discovery):
    now = [10**15]
    clocks = {"mono": lambda: now[0]}
    options = {"topics": ("/a",), "wait_for_topics": True, "duration_ns": 1000}
    with recording(path, discovery, clocks=clocks, **options) as recorder:
        wait_until(lambda: recorder.statistics().discovery_answers)
        now[0] += 10_000
        assert recorder.statistics().waiting
        with Talker(cortex_dir, "/a") as talker:
            talker.register(discovery).wait_subscribed()
            wait_until(lambda: not recorder.statistics().waiting)
            assert not recorder.wait(0)
            now[0] += 1000
            assert recorder.wait(10)


def test_what_was_published_before_we_joined_is_told_apart_from_loss(path, cortex_dir, discovery):
    with Talker(cortex_dir) as talker:
        talker.register(discovery).send(7)
        with recording(path, discovery) as recorder:
            talker.wait_subscribed().send(3).drop(2).send(4)
            wait_written(recorder, 7)
            topic = topic_of(recorder)
            assert (topic.published_before_join, topic.lost_before_us, topic.lost_by_us) == (7, 2, 0)
    assert gaps(path) == [("before_join", 0, 6), ("lost_before_us", 10, 11)]


def test_topics_of_which_one_begins_with_the_other_never_mix(path, cortex_dir, discovery):
    with Talker(cortex_dir, "/a") as short, Talker(cortex_dir, "/ab") as long:
        short.register(discovery)
        long.register(discovery)
        with recording(path, discovery) as recorder:
            short.wait_subscribed()
            long.wait_subscribed()
            for _ in range(20):
                short.send()
                long.send(2)
            wait_written(recorder, 20, "/a")
            wait_written(recorder, 40, "/ab")
    for name, count in (("/a", 20), ("/ab", 40)):
        assert sequences(path, name) == list(range(count))
        assert gaps(path, name) == []


def test_they_do_not_mix_even_when_one_endpoint_sends_both(path, cortex_dir, discovery):
    with Talker(cortex_dir, "/a") as talker:
        talker.register(discovery)
        with DiscoveryClient(discovery.address) as client:
            client.register(TopicInfo("/ab", talker.info.address, "IntMessage", FINGERPRINT, "talker"))
        with recording(path, discovery) as recorder:
            wait_until(lambda: len(recorder.statistics().topics) == 2)
            wanted = {b"\x01/a", b"\x01/ab"}
            while wanted:
                wanted.discard(talker.socket.recv())
            for number in range(30):
                talker.socket.send_multipart([b"/a", header(number), *BODY])
                talker.socket.send_multipart([b"/ab", header(1000 + number), *BODY])
                talker.socket.send_multipart([b"/abc", header(5), *BODY])
            wait_written(recorder, 30, "/a")
            wait_written(recorder, 30, "/ab")
    assert sequences(path, "/a") == list(range(30))
    assert sequences(path, "/ab") == list(range(1000, 1030))


def test_a_registration_whose_publisher_died_is_shown_as_stale_and_is_in_the_bag(path, cortex_dir, discovery):
    info = TopicInfo("/gone", f"ipc://{cortex_dir}/gone.sock", "IntMessage", FINGERPRINT, "dead")
    with DiscoveryClient(discovery.address) as client:
        client.register(info)
    with recording(path, discovery) as recorder, Talker(cortex_dir) as talker:
        talker.register(discovery).wait_subscribed().send()
        wait_until(lambda: topic_of(recorder, "/gone") and topic_of(recorder, "/gone").stale)
        wait_written(recorder, 1)
        assert not topic_of(recorder, "/t").stale
        talker.close()
        wait_until(lambda: topic_of(recorder).stale)
    with bag.open(path) as run:
        assert len(run["/gone"]) == 0


def test_an_address_that_is_none_is_named_and_the_others_are_recorded(path, cortex_dir, discovery):
    with DiscoveryClient(discovery.address) as client:
        client.register(TopicInfo("/bad", "nonsense", "T", 1, "evil"))
    with recording(path, discovery) as recorder, Talker(cortex_dir) as talker:
        talker.register(discovery).wait_subscribed().send(3)
        wait_written(recorder, 3)
        assert any("/bad" in complaint and "nonsense" in complaint for complaint in recorder.statistics().problems)


def test_topics_with_hostile_names_are_recorded_or_refused_but_end_nothing(path, cortex_dir, discovery):
    names = ["", "/", "//", "..", "/../../etc/passwd", "a\0b", "/" + "x" * 5000, "/ümläut/日本", "a" + "/b" * 100]
    with DiscoveryClient(discovery.address) as client:
        for name in names:
            client.register(TopicInfo(name, f"ipc://{cortex_dir}/gone.sock", "T\0T" * 9, 2**64 - 1, "n" * 3000))
    with recording(path, discovery) as recorder, Talker(cortex_dir) as talker:
        talker.register(discovery).wait_subscribed().send(3)
        wait_written(recorder, 3)
    assert sequences(path) == [0, 1, 2]


# --- publishers that come back


@INTERVALS
def test_a_restarted_publisher_is_followed_and_marked(receive_interval_ns, path, cortex_dir, discovery):
    with recording(path, discovery, receive_interval_ns=receive_interval_ns) as recorder:
        with Talker(cortex_dir) as first:
            first.register(discovery).wait_subscribed().send(5)
            wait_written(recorder, 5)
        wait_until(lambda: not topic_of(recorder).connected)
        with Talker(cortex_dir) as second:
            second.wait_subscribed().send(3)
            wait_written(recorder, 8)
            assert topic_of(recorder).restarts == 1
    assert sequences(path) == [0, 1, 2, 3, 4, 0, 1, 2]
    assert ledger(path) == [("restart", 0, 0)]


def test_one_that_comes_back_with_higher_numbers_is_a_restart_and_what_it_sent_before_is_exact(
    path, cortex_dir, discovery
):
    with recording(path, discovery) as recorder:
        with Talker(cortex_dir) as first:
            first.register(discovery).wait_subscribed().send(5)
            wait_written(recorder, 5)
        wait_until(lambda: not topic_of(recorder).connected)
        with Talker(cortex_dir) as second:
            # it had published before our subscription arrived
            second.drop(40).wait_subscribed().send(3)
            wait_written(recorder, 8)
            topic = topic_of(recorder)
            assert (topic.restarts, topic.lost_before_us) == (1, 40)
    assert ledger(path) == [("restart", 40, 40), ("lost_before_us", 0, 39)]


def by_address(path):
    """Sequence numbers of /t in their order, by the address they came from."""
    found = {}
    with BagReader(path) as reader:
        for _time, message in reader.merged(["/t"], "log"):
            found.setdefault(message.channel.address, []).append(message.sequence)
    return found


def test_a_restart_by_another_node_is_followed(path, cortex_dir, discovery):
    with recording(path, discovery) as recorder:
        with Talker(cortex_dir, node="one") as first:
            first.register(discovery).wait_subscribed().send(5)
            wait_written(recorder, 5)
            with DiscoveryClient(discovery.address) as client:
                client.unregister_own(first.info)
        with Talker(cortex_dir, node="two") as second:
            second.register(discovery).wait_subscribed().send(3)
            wait_written(recorder, 8)
            assert topic_of(recorder).node == "two"
    with BagReader(path) as reader:
        found = [(m.channel.node, m.sequence) for _time, m in reader.merged(["/t"], "log")]
    assert found == [("one", n) for n in range(5)] + [("two", n) for n in range(3)]
    assert summary(path).restarts == 1


def test_a_restart_at_another_address_is_followed_and_the_last_words_of_the_old_one_are_kept(
    path, cortex_dir, discovery
):
    with recording(path, discovery) as recorder, Talker(cortex_dir) as first:
        first.register(discovery).wait_subscribed().send(5)
        with Talker(cortex_dir, name="new.sock") as second:
            second.register(discovery).wait_subscribed().send(3)
            first.send(2)
            wait_written(recorder, 10)
            assert topic_of(recorder).address == second.info.address
    assert by_address(path) == {first.info.address: list(range(7)), second.info.address: list(range(3))}
    assert (summary(path).lost_before_us, summary(path).restarts) == (0, 1)


@contextmanager
def restarted_as_another(recorder, cortex_dir, discovery):
    """A publisher of 5 messages has gone, and one of another type has come to its address."""
    with Talker(cortex_dir) as first:
        first.register(discovery).wait_subscribed().send(5)
        wait_written(recorder, 5)
    wait_until(lambda: not topic_of(recorder).connected)
    with Talker(cortex_dir, type_name="Other", fingerprint=77) as second:
        # a publisher may speak before our follower has heard of its registration
        yield second.register(discovery).wait_subscribed()


def test_a_restart_with_another_type_at_the_same_address_has_a_channel_of_its_own(path, cortex_dir, discovery):
    with recording(path, discovery) as recorder, restarted_as_another(recorder, cortex_dir, discovery) as second:
        second.send(6)
        wait_written(recorder, 11)
        assert topic_of(recorder).type_name == "Other"
    with BagReader(path) as reader:
        found = [(m.channel.type_name, m.fingerprint, m.sequence) for _t, m in reader.merged(["/t"], "log")]
    assert found == [("IntMessage", FINGERPRINT, n) for n in range(5)] + [("Other", 77, n) for n in range(6)]
    assert (summary(path).lost_before_us, summary(path).restarts) == (0, 1)


@INTERVALS
def test_restarts_with_another_type_are_told_apart_when_it_is_known_too_late_that_a_connection_broke(
    receive_interval_ns, path, cortex_dir, discovery, monkeypatch
):
    # as on a busy machine, where the next one's messages are taken before that is told
    notice, told = Intake._notice, threading.Event()
    monkeypatch.setattr(Intake, "_notice", lambda intake, port: told.is_set() and notice(intake, port))
    with recording(path, discovery, receive_interval_ns=receive_interval_ns) as recorder:
        for count, (type_name, fingerprint) in enumerate([("IntMessage", FINGERPRINT), ("Other", 77)] * 2, 1):
            with Talker(cortex_dir, type_name=type_name, fingerprint=fingerprint) as talker:
                talker.register(discovery).wait_subscribed().send(5)
                wait_written(recorder, 5 * count)
                told.set()
                # looks at the connections
                recorder.resume()
                told.clear()
    with BagReader(path) as reader:
        found = [(m.channel.type_name, m.fingerprint, m.sequence) for _t, m in reader.merged(["/t"], "log")]
    one, two = [("IntMessage", FINGERPRINT, n) for n in range(5)], [("Other", 77, n) for n in range(5)]
    assert found == one + two + one + two
    assert (summary(path).lost_before_us, summary(path).restarts) == (0, 3)


def test_news_of_a_restart_that_come_after_its_first_messages_begin_nothing_anew(path, cortex_dir, discovery):
    with recording(path, discovery) as recorder, restarted_as_another(recorder, cortex_dir, discovery) as second:
        second.send(3)
        wait_written(recorder, 8)
        # on a busy machine the follower's wish waits while the intake takes the first messages
        recorder._intake.renew(recorder._roster.state()[1]["/t"])
        second.send(3)
        wait_written(recorder, 11)
    assert (summary(path).lost_before_us, summary(path).restarts) == (0, 1)


def test_last_words_are_kept_of_a_publisher_that_moves_before_it_was_known_to_be_there(
    path, cortex_dir, discovery, monkeypatch
):
    # as on a busy machine: that the connection stands is not noticed by itself
    monkeypatch.setattr("bag.intake.MONITORS_EVERY_NS", 1 << 62)
    with recording(path, discovery) as recorder, Talker(cortex_dir) as first:
        first.register(discovery).wait_subscribed()
        with Talker(cortex_dir, name="new.sock") as second:
            second.register(discovery).wait_subscribed().send(3)
            wait_written(recorder, 3)
            first.send(2)
            wait_written(recorder, 5)
    assert by_address(path) == {first.info.address: [0, 1], second.info.address: [0, 1, 2]}


def test_a_topic_that_moves_there_and_back_is_recorded_once(path, cortex_dir, discovery):
    with recording(path, discovery) as recorder, Talker(cortex_dir) as here:
        here.register(discovery).wait_subscribed().send(2)
        with Talker(cortex_dir, name="there.sock") as there:
            there.register(discovery).wait_subscribed().send(3)
            wait_written(recorder, 5)
            here.register(discovery)
            wait_until(lambda: topic_of(recorder).address == here.info.address)
            here.send(4)
            wait_written(recorder, 9)
    assert by_address(path) == {here.info.address: list(range(6)), there.info.address: list(range(3))}
    assert (summary(path).lost_before_us, summary(path).restarts) == (0, 1)


def test_a_daemon_that_dies_and_comes_back_changes_nothing_for_those_who_speak(path, cortex_dir):
    daemon = start_daemon()
    with recording(path, daemon) as recorder, Talker(cortex_dir) as talker:
        talker.register(daemon).wait_subscribed().send(3)
        wait_written(recorder, 3)
        daemon.stop()
        wait_until(lambda: not recorder.statistics().discovery_answers)
        talker.send(3)
        wait_written(recorder, 6)
        daemon = start_daemon()
        try:
            wait_until(lambda: recorder.statistics().discovery_answers)
            talker.send(3)
            with Talker(cortex_dir, "/late") as late:
                late.register(daemon).wait_subscribed().send(2)
                wait_written(recorder, 2, "/late")
            wait_written(recorder, 9)
            # the new daemon does not know it, but it speaks
            assert not topic_of(recorder).stale
        finally:
            daemon.stop()
    assert sequences(path) == list(range(9))
    assert gaps(path) == []


def test_a_recorder_that_is_there_before_the_daemon_joins_everything(path, cortex_dir):
    address = f"ipc://{cortex_dir}/discovery.sock"
    options = RecordOptions(all_topics=True, discovery_address=address, polling_interval_ns=HOUR_NS)
    with bag.Recorder(path, options) as recorder:
        daemon = start_daemon(address)
        try:
            with Talker(cortex_dir) as talker:
                talker.register(daemon).wait_subscribed().send(2)
                wait_written(recorder, 2)
        finally:
            daemon.stop()


# --- asked for while it runs


def test_a_pause_is_kept_apart_from_loss(path, cortex_dir, discovery):
    with recording(path, discovery) as recorder, Talker(cortex_dir) as talker:
        talker.register(discovery).wait_subscribed().send(3)
        wait_written(recorder, 3)
        recorder.pause()
        talker.send(5)
        wait_until(lambda: topic_of(recorder).paused == 5)
        recorder.resume()
        talker.send(2).drop(1).send()
        wait_written(recorder, 6)
        topic = topic_of(recorder)
        assert (topic.paused, topic.lost_before_us, topic.lost_by_us) == (5, 1, 0)
    assert gaps(path) == [("paused", 3, 7), ("lost_before_us", 10, 10)]


def test_a_recording_may_begin_paused(path, cortex_dir, discovery):
    with recording(path, discovery, start_paused=True) as recorder, Talker(cortex_dir) as talker:
        talker.register(discovery).wait_subscribed().send(4)
        wait_until(lambda: topic_of(recorder).paused == 4)
        assert recorder.paused
        recorder.resume()
        talker.send(2)
        wait_written(recorder, 2)
    assert sequences(path) == [4, 5]


def test_throttled_messages_are_counted_apart_and_exactly(path, cortex_dir, discovery):
    now = [10**15]
    with (
        recording(path, discovery, throttle=(("/t", 10.0),), clocks={"mono": lambda: now[0]}) as recorder,
        Talker(cortex_dir) as talker,
        Talker(cortex_dir, "/free") as free,
    ):
        talker.register(discovery).wait_subscribed()
        free.register(discovery).wait_subscribed()
        # 30 Hz for a second, one by one so that each gets its own time of the injected clock
        for number in range(30):
            talker.send()
            free.send()
            wait_until(lambda: _seen(recorder) == number + 1)
            now[0] += 33_333_334
        wait_written(recorder, 30, "/free")
        topic = topic_of(recorder)
        assert (topic.messages, topic.throttled) == (10, 20)
        assert (topic.lost_before_us, topic.lost_by_us) == (0, 0)
    assert sequences(path) == list(range(0, 30, 3))
    assert summary(path).throttled == 20
    assert {kind for kind, _first, _last in gaps(path)} == {"throttled"}


def _seen(recorder):
    topic = topic_of(recorder)
    return topic.messages + topic.throttled


def test_splits_on_demand_have_no_gap_and_each_file_reads_alone(path, cortex_dir, discovery):
    with recording(path, discovery, sticky=("/map",)) as recorder:
        with Talker(cortex_dir) as talker, Talker(cortex_dir, "/map") as sticky:
            talker.register(discovery).wait_subscribed()
            sticky.register(discovery).wait_subscribed().send(2)
            wait_written(recorder, 2, "/map")
            for number in range(4):
                talker.send(50)
                recorder.split()
                wait_until(lambda: len(recorder.statistics().paths) == number + 2)
            talker.send(50)
            wait_written(recorder, 250)
            assert count_of(recorder, "/map") == 2
    files = [Path(one) for one in recorder.statistics().paths]
    assert len(files) == 5
    assert [n for one in files for n in sequences(one)] == list(range(250))
    assert all(gaps(one) == [] for one in files)
    assert all(sequences(one, "/map") == [1] for one in files[1:])
    assert ledger(files[1], "/map") == [("repeated", 1, 1)]


def test_splits_by_size_and_a_ring_of_files(path, cortex_dir, discovery):
    body = [*BODY, bytes(100_000)]
    options = {"max_bag_bytes": 1 << 20, "max_bag_files": 2}
    with recording(path, discovery, **options) as recorder, Talker(cortex_dir) as talker:
        talker.register(discovery).wait_subscribed()
        for number in range(60):
            talker.send(body=body)
            wait_written(recorder, number + 1)
    kept = sorted(one.name for one in path.parent.iterdir())
    assert kept == sorted(Path(one).name for one in recorder.statistics().paths)
    assert len(kept) == 2
    last = [n for one in recorder.statistics().paths for n in sequences(Path(one))]
    assert last == list(range(last[0], 60))


def test_with_a_receive_interval_nothing_is_missing_publish_times_are_exact_and_the_bag_says_so(
    path, cortex_dir, discovery
):
    options = {"receive_interval_ns": 20_000_000, "custom_data": (("robot", "7"),)}
    with recording(path, discovery, **options) as recorder, Talker(cortex_dir) as talker:
        talker.register(discovery).wait_subscribed()
        # neither a multiple of a burst nor all at once
        for count in range(1, 40):
            talker.send(count)
            wait_until(lambda expected=talker.sequence: count_of(recorder) > expected - 50)
        wait_written(recorder, 780)
        assert topic_of(recorder).lost_before_us == topic_of(recorder).lost_by_us == 0
    assert sequences(path) == list(range(780))
    with BagReader(path) as reader:
        times = [(m.publish_time_ns, m.log_time_ns) for _time, m in reader.merged(["/t"], "log")]
    sent = [publish_ns for publish_ns, _log_ns in times]
    # each as in its header, all different; they are received later, in their order
    assert sent == sorted(set(sent))
    assert all(publish_ns < log_ns for publish_ns, log_ns in times)
    with bag.open(path) as run:
        assert run.info().custom_data == {"receive_interval": "20ms", "robot": "7"}


@INTERVALS
def test_what_has_come_when_it_is_asked_to_stop_is_in_the_bag(receive_interval_ns, path, cortex_dir, discovery):
    options = {"receive_interval_ns": receive_interval_ns}
    with recording(path, discovery, **options) as recorder, Talker(cortex_dir) as talker:
        talker.register(discovery).wait_subscribed()
        with heard_by_a_witness(talker, recorder._intake) as send:
            send(700)
            recorder.request_stop()
            assert recorder.wait(10)
    assert sequences(path) == list(range(700))


@INTERVALS
def test_what_has_come_when_the_duration_is_over_is_in_the_bag(receive_interval_ns, path, cortex_dir, discovery):
    now = [10**15]
    options = {"receive_interval_ns": receive_interval_ns, "duration_ns": HOUR_NS, "clocks": {"mono": lambda: now[0]}}
    with recording(path, discovery, **options) as recorder, Talker(cortex_dir) as talker:
        talker.register(discovery).wait_subscribed()
        with heard_by_a_witness(talker, recorder._intake) as send:
            send(700)
            now[0] += HOUR_NS
            assert recorder.wait(10)
    assert sequences(path) == list(range(700))


@INTERVALS
def test_what_has_come_when_a_snapshot_is_asked_for_is_in_it(receive_interval_ns, path, cortex_dir, discovery):
    options = {"receive_interval_ns": receive_interval_ns, "snapshot": True}
    with recording(path, discovery, **options) as recorder, Talker(cortex_dir) as talker:
        talker.register(discovery).wait_subscribed()
        with heard_by_a_witness(talker, recorder._intake) as send:
            for count in (300, 400):
                send(count)
                recorder.snapshot()
                send(50)
            recorder.request_stop()
            assert recorder.wait(10)
    assert sequences(path.with_name("run_0.h5"))[:300] == list(range(300))
    assert sequences(path.with_name("run_1.h5"))[:750] == list(range(750))


def test_the_limit_is_exact(path, cortex_dir, discovery):
    with recording(path, discovery, limit=25) as recorder, Talker(cortex_dir) as talker:
        talker.register(discovery).wait_subscribed().send(1000)
        assert recorder.wait(20)
        assert recorder.statistics().refused == 0
    assert sequences(path) == list(range(25))
    assert summary(path).lost_by_us == 0


def test_marks_custom_data_and_description_are_kept(path, cortex_dir, discovery):
    options = {"description": "gripper test", "custom_data": (("robot", "7"), ("operator", "Ada"))}
    with recording(path, discovery, **options) as recorder:
        recorder.mark("bump")
        recorder.mark("größer")
    assert marks(path) == ["bump", "größer"]
    with bag.open(path) as run:
        assert run.info().description == "gripper test"
        assert run.info().custom_data == {"robot": "7", "operator": "Ada"}


def test_the_control_socket_obeys(path, cortex_dir, discovery):
    with recording(path, discovery, control=True) as recorder, Talker(cortex_dir) as talker:
        talker.register(discovery).wait_subscribed().send(2)
        wait_written(recorder, 2)
        command(path, "pause")
        assert recorder.paused
        command(path, "resume")
        assert not recorder.paused
        command(path, "mark", "now")
        command(path, "split")
        wait_until(lambda: len(recorder.statistics().paths) == 2)
        with pytest.raises(bag.BagError, match="snapshot-mode"):
            command(path, "snapshot")
        with pytest.raises(bag.BagError, match="unknown command 'dance'; there are: pause"):
            command(path, "dance")
        command(path, "stop")
        assert recorder.wait(10)
    assert marks(path) == ["now"]
    with pytest.raises(bag.BagError, match="nobody is recording"):
        command(path, "stop")


def test_a_second_recorder_of_the_same_output_is_refused_and_leaves_nothing_behind(path, cortex_dir, discovery):
    with recording(path, discovery, control=True) as recorder, Talker(cortex_dir) as talker:
        options = RecordOptions(all_topics=True, discovery_address=discovery.address, control=True, force=True)
        with pytest.raises(bag.BagBusyError):
            bag.Recorder(path, options).start()
        talker.register(discovery).wait_subscribed().send(2)
        wait_written(recorder, 2)
    assert sequences(path) == [0, 1]


def test_a_bag_that_is_there_is_refused_and_left_alone(path, cortex_dir, discovery):
    path.write_bytes(b"precious")
    options = RecordOptions(all_topics=True, discovery_address=discovery.address, control=True)
    recorder = bag.Recorder(path, options)
    with pytest.raises(bag.BagExistsError, match="-f"):
        recorder.start()
    recorder.stop()
    assert path.read_bytes() == b"precious"
    assert list((cortex_dir).glob("control-*/*")) == []


def test_snapshots_hold_the_past_and_the_post_roll(path, cortex_dir, discovery):
    now = [10**15]
    options = {"snapshot": True, "snapshot_duration_ns": 100, "post_roll_ns": 55}
    with (
        recording(path, discovery, clocks={"mono": lambda: now[0]}, **options) as recorder,
        Talker(cortex_dir) as talker,
    ):
        talker.register(discovery).wait_subscribed()

        def tick(count):
            for _ in range(count):
                now[0] += 10
                before = count_of(recorder)
                talker.send()
                wait_until(lambda: count_of(recorder) == before + 1)

        tick(30)
        assert not list(path.parent.glob("*.h5"))
        recorder.snapshot()
        wait_until(lambda: recorder.statistics().snapshots == 1)
        tick(3)
        recorder.snapshot()
        tick(20)
        assert recorder.statistics().snapshots == 1
        assert recorder.statistics().held_bytes > 0
    # 100 ns of the past, and 55 ns after the second trigger: in which no message comes just as they end
    assert sequences(path.with_name("run_0.h5")) == list(range(19, 38))
    assert sorted(one.name for one in path.parent.iterdir()) == ["run_0.h5"]


def test_a_commit_that_has_begun_comes_to_its_end_when_nothing_more_comes(path, cortex_dir, discovery, monkeypatch):
    monkeypatch.setattr("bag.storage.commits.MANY_TOPICS", 1)
    monkeypatch.setattr("bag.bagset.COMMIT_S", 0.0)
    now, interval = [10**15], 10**12
    with (
        recording(path, discovery, clocks={"mono": lambda: now[0]}, flush_interval_ns=interval) as recorder,
        Talker(cortex_dir) as talker,
    ):
        talker.register(discovery).wait_subscribed().send(3)
        wait_written(recorder, 3)
        now[0] += interval
        # after this one the next commit is due in 1000 s of a clock that stands still
        talker.send()
        wait_until(lambda: recorder.statistics().committed_messages == 4)


# --- required topics


def test_a_required_topic_that_falls_silent_is_complained_of_and_marked(path, cortex_dir, discovery):
    now = [10**15]
    with (
        recording(
            path, discovery, require=(("/t", 10.0), ("/never", None)), clocks={"mono": lambda: now[0]}
        ) as recorder,
        Talker(cortex_dir) as talker,
    ):
        talker.register(discovery).wait_subscribed().send(5)
        wait_written(recorder, 5)
        assert recorder.statistics().complaints == ()

        def pass_time():
            now[0] += 250_000_000
            return len(recorder.statistics().complaints) >= 2

        wait_until(pass_time)
        assert set(recorder.statistics().complaints) == {"/t is silent", "/never is silent"} or any(
            text.startswith("/t comes at") for text in recorder.statistics().complaints
        )
    assert ("silent", 0, 0) in ledger(path)
    assert any(text.startswith("required: /t") for text in marks(path))
    assert summary(path).lost_before_us == 0


# --- clocks


def test_a_wall_clock_that_jumps_breaks_neither_splits_nor_the_order(path, cortex_dir, discovery):
    mono, wall = [10**15], [10**18]
    clocks = {"mono": lambda: mono[0], "wall": lambda: wall[0]}
    with (
        recording(path, discovery, clocks=clocks, max_bag_duration_ns=10_000_000_000) as recorder,
        Talker(cortex_dir, "/a") as first,
        Talker(cortex_dir, "/b") as second,
    ):
        first.register(discovery).wait_subscribed()
        second.register(discovery).wait_subscribed()
        for number in range(29):
            if number in (10, 20):
                # one hour ahead, then two hours back
                wall[0] += HOUR_NS if number == 10 else -2 * HOUR_NS
            for talker in (first, second):
                mono[0] += 500_000_000
                wall[0] += 500_000_000
                talker.socket.send_multipart([talker.topic, header(number, time_ns=wall[0] - 1_000_000), *BODY])
                wait_written(recorder, number + 1, talker.info.name)
    files = [Path(one) for one in recorder.statistics().paths]
    # 29 seconds on the monotonic clock, whatever the wall clock said
    assert len(files) == 3
    spans = []
    for one in files:
        with bag.open(one) as run:
            spans.append(run.duration)
    assert spans == [9, 9.5, 9]
    for order in ("log", "publish"):
        found = []
        for one in files:
            with BagReader(one) as reader:
                found += [(m.topic, m.sequence) for _time, m in reader.merged(list(reader.topics), order)]
        assert found == [(name, number) for number in range(29) for name in ("/a", "/b")]


# --- memory


class Stuck(RawFile):
    """A disk that takes nothing until it is let go; opened at module level, so one gate per test."""

    gate = None

    def write_at(self, offset, data):
        if Stuck.gate is not None and len(data) > 1 << 16:
            Stuck.gate.wait(60)
        super().write_at(offset, data)

    def write_pieces_at(self, offset, pieces):
        if Stuck.gate is not None and sum(map(len, pieces)) > 1 << 16:
            Stuck.gate.wait(60)
        return super().write_pieces_at(offset, pieces)


def test_what_does_not_fit_the_cache_is_refused_and_counted_exactly(path, cortex_dir, discovery):
    import threading

    Stuck.gate = threading.Event()
    body = [*BODY, bytes(200_000)]
    try:
        with (
            recording(path, discovery, max_cache_bytes=4 << 20, clocks={"opener": Stuck}) as recorder,
            Talker(cortex_dir) as talker,
        ):
            talker.register(discovery).wait_subscribed().send(100, body=body)
            wait_until(lambda: recorder.statistics().refused >= 70)
            assert recorder.statistics().backlog_bytes <= 4 << 20
            Stuck.gate.set()
            wait_until(lambda: _accounted(recorder) == 100)
            talker.send(5)
            wait_until(lambda: _accounted(recorder) == 105)
    finally:
        Stuck.gate.set()
        Stuck.gate = None
    kept = sequences(path)
    missing = {n for kind, first, last in gaps(path) for n in range(first, last + 1) if kind == "lost_by_us"}
    assert missing == set(range(105)) - set(kept)
    assert summary(path).lost_by_us == len(missing) == recorder.statistics().refused
    assert summary(path).lost_before_us == 0
    assert kept[-5:] == list(range(100, 105))


def _accounted(recorder):
    topic = topic_of(recorder)
    return topic.messages + topic.lost_by_us


# --- garbage


def test_garbage_from_a_peer_is_counted_and_the_rest_is_recorded(path, cortex_dir, discovery):
    claimed = b"\x91\x83\xa4kind\xa5numpy\xa5dtype\xa3<f8\xa5shape\x91\xce\x3b\x9a\xca\x00"
    with recording(path, discovery) as recorder, Talker(cortex_dir) as talker:
        talker.register(discovery).wait_subscribed().send(2)
        talker.send_parts()
        talker.send_parts(b"short")
        talker.send_parts(b"")
        talker.socket.send_multipart([b"/t\xff\xfe", header(9), *BODY])
        talker.socket.send_multipart([b"/t", header(2), *[b"x"] * 10_000])
        talker.socket.send_multipart([b"/t", header(3), claimed, b"only this"])
        talker.socket.send_multipart([b"/t", header(4), b"\xc1\xff not msgpack", b"y" * 10])
        talker.socket.send_multipart([b"/t", header(5) + b"and more", *BODY])
        talker.socket.send_multipart([b"/t", header(6)])
        talker.socket.send_multipart([b"/t", header(2**64 - 1), *BODY])
        talker.sequence = 8
        talker.send(2)
        wait_written(recorder, 10)
        assert topic_of(recorder).malformed == 3
    assert sequences(path) == [0, 1, 2, 3, 4, 5, 6, 2**64 - 1, 8, 9]
    with bag.open(path) as run:
        raw = [message.frames for message in run["/t"].raw_messages()]
    assert [bytes(part) for part in raw[2][1:]] == [b"x"] * 10_000
    assert [bytes(part) for part in raw[3][1:]] == [claimed, b"only this"]
    assert [bytes(part) for part in raw[5]] == [
        header(5)[:8] + bytes(raw[5][0])[8:16] + header(5)[16:] + b"and more",
        *BODY,
    ]


def test_bytes_that_are_no_zmtp_at_our_publishers_socket_do_no_harm(path, cortex_dir, discovery):
    listener = socket.socket(socket.AF_UNIX)
    address = os.fspath(cortex_dir / "liar.sock")
    listener.bind(address)
    listener.listen()
    with DiscoveryClient(discovery.address) as client:
        client.register(TopicInfo("/liar", f"ipc://{address}", "T", 1, "liar"))
    with recording(path, discovery) as recorder, Talker(cortex_dir) as talker, listener:
        connection, _peer = listener.accept()
        with connection:
            with suppress(OSError):
                connection.sendall(os.urandom(10_000))
        talker.register(discovery).wait_subscribed().send(3)
        wait_written(recorder, 3)
    assert sequences(path) == [0, 1, 2]


def test_five_hundred_topics_at_once(path, cortex_dir, discovery):
    with ExitStack() as stack:
        talkers = [stack.enter_context(Talker(cortex_dir, f"/{n}", name=f"{n}.sock")) for n in range(50)]
        infos = {
            talker: [TopicInfo(f"/{n}/{k}", talker.info.address, "T", FINGERPRINT, "talker") for k in range(10)]
            for n, talker in enumerate(talkers)
        }
        with DiscoveryClient(discovery.address) as client:
            for topics in infos.values():
                for info in topics:
                    client.register(info)
        with recording(path, discovery) as recorder:
            for talker, topics in infos.items():
                wanted = {b"\x01" + info.name.encode() for info in topics}
                while wanted:
                    assert talker.socket.poll(30_000), f"{len(wanted)} subscriptions never came"
                    wanted.discard(talker.socket.recv())
            for number in range(4):
                for talker, topics in infos.items():
                    for info in topics:
                        talker.socket.send_multipart([info.name.encode(), header(number), *BODY])
            wait_until(lambda: recorder.statistics().messages == 2000, timeout=60)
    with bag.open(path) as run:
        assert len(run.topics) == 500
        assert all(run[name].sequence.tolist() == [0, 1, 2, 3] for name in run.topics)
        assert all(topic.lost_before_us == 0 for topic in run.info().topics)


@pytest.mark.parametrize("command", ["pause", "resume", "split", "snapshot", "mark", "stop"])
def test_a_command_before_the_start_is_answered_so(command, path):
    recorder = bag.Recorder(path, RecordOptions(all_topics=True, snapshot=command == "snapshot"))
    assert recorder._obey(command, "") == "the recording is only beginning; ask again"


@pytest.mark.parametrize("command", ["pause", "resume", "split", "snapshot", "mark"])
def test_a_command_after_the_end_has_begun_is_answered_so(command, path, cortex_dir):
    options = RecordOptions(all_topics=True, snapshot=command == "snapshot", discovery_address=f"ipc://{cortex_dir}/no")
    with bag.Recorder(path, options) as recorder:
        recorder.request_stop()
        wait_until(lambda: not recorder._intake._thread.is_alive())
        assert recorder._obey(command, "x") == "the recording is ending; it does nothing more"
        assert recorder._obey("stop", "") == ""
        assert not recorder.paused


def test_what_was_asked_before_the_end_is_done(path, cortex_dir):
    options = RecordOptions(all_topics=True, discovery_address=f"ipc://{cortex_dir}/no")
    with bag.Recorder(path, options) as recorder:
        done = []
        # whoever asks while the end begins is told that it will be done, and so it is
        while recorder.mark(str(len(done))):
            done.append(str(len(done)))
            if len(done) == 50:
                recorder.request_stop()
    assert marks(path) == done


def test_where_an_error_ended_the_writing_nothing_is_said_to_be_done(path, cortex_dir):
    options = RecordOptions(all_topics=True, discovery_address=f"ipc://{cortex_dir}/no")
    recorder = bag.Recorder(path, options)
    recorder.start()
    recorder._writing.ask(lambda: 1 // 0)
    assert recorder.wait(10)
    wait_until(lambda: not recorder._intake._thread.is_alive())
    assert (recorder.mark("x"), recorder.pause(), recorder.split()) == (False, False, False)
    with pytest.raises(ZeroDivisionError):
        recorder.stop()


@pytest.mark.parametrize("what", ["pause", "resume", "split", "snapshot", "request_stop"])
def test_what_is_asked_of_a_recorder_that_was_not_started_is_refused(what, path):
    with pytest.raises(bag.BagError, match="not been started"):
        getattr(bag.Recorder(path, RecordOptions(all_topics=True)), what)()


def test_statistics_before_the_start_are_refused(path, cortex_dir):
    with pytest.raises(bag.BagError, match="not been started"):
        bag.Recorder(path, RecordOptions(all_topics=True)).statistics()


def test_nothing_to_record_is_refused(path):
    with pytest.raises(bag.UsageError, match="nothing to record"):
        bag.Recorder(path)


def test_an_error_while_recording_is_raised_at_the_end_and_the_bag_is_closed_properly(path, cortex_dir, discovery):
    options = RecordOptions(all_topics=True, discovery_address=discovery.address, flush_interval_ns=1_000_000)
    recorder = bag.Recorder(path, options)
    recorder.start()
    path.unlink()
    assert recorder.wait(20)
    with pytest.raises(bag.LossyError, match="deleted"):
        recorder.stop()
    assert recorder.error is not None


def test_an_exception_of_the_user_passes_and_the_bag_is_closed(path, cortex_dir, discovery):
    with pytest.raises(ZeroDivisionError):
        with recording(path, discovery):
            1 / 0
    with bag.open(path) as run:
        assert run.closed_cleanly


def test_the_same_registration_again_changes_nothing(path, cortex_dir, discovery):
    with recording(path, discovery) as recorder, Talker(cortex_dir) as talker:
        talker.register(discovery).wait_subscribed().send(2)
        talker.register(discovery).send(2)
        wait_written(recorder, 4)
    assert (summary(path).restarts, gaps(path)) == (0, [])
