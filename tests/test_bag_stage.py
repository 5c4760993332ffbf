"""The player among others: it takes only free places, harms nobody, loses nothing when asked not to, and cleans up."""

import os
import threading
import time

import pytest
from helpers import start_daemon, wait_until
from recordings import Ear, Line, address_of, chat, frames_of, write_bag

from bag.clock import ManualClock
from bag.errors import ReplayError, UsageError
from bag.options import PlayOptions
from bag.player import Player
from cortex import Publisher
from cortex.core.raw import RawSubscriber
from cortex.core.sync_subscriber import ThreadedSubscriber
from cortex.discovery.client import DiscoveryClient
from cortex.errors import DiscoveryUnavailableError
from cortex.messages.standard import StringMessage

MS = 1_000_000


@pytest.fixture
def recording(cortex_dir, tmp_path):
    return write_bag(tmp_path / "run.h5", cortex_dir, chat(20))


def quick(**chosen):
    return PlayOptions(**{"immediate": True, "delay_ns": 0} | chosen)


def sockets(directory):
    return sorted(path.name for path in (directory / "topics").iterdir()) if (directory / "topics").exists() else []


# --- no hijack


@pytest.mark.parametrize("name", ["talker", "somebody_else"])
def test_a_live_owner_is_named_with_the_ways_out(name, recording, cortex_dir, discovery):
    publisher = Publisher("/chat", StringMessage, node_name=name, discovery_address=discovery.address)
    before = sockets(cortex_dir)
    try:
        with Player(recording, quick()) as player, pytest.raises(ReplayError) as refusal:
            player.play()
        assert sockets(cortex_dir) == before
        with DiscoveryClient(discovery.address) as client:
            assert [info.publisher_node for info in client.list_topics()] == [name]
    finally:
        publisher.close()
    for word in ("/chat", f"node {name}", "--remap", "--prefix", "--exclude-topics", "stop that node"):
        assert word in str(refusal.value)


def test_a_live_owner_that_discovery_has_forgotten_is_not_replaced(recording, cortex_dir, discovery):
    publisher = Publisher("/chat", StringMessage, node_name="talker", auto_register=False)
    os.rename(publisher.address.removeprefix("ipc://"), address_of(cortex_dir, "/chat").removeprefix("ipc://"))
    try:
        with Player(recording, quick()) as player, pytest.raises(ReplayError, match="does not list"):
            player.play()
    finally:
        publisher.close()


def test_two_players_do_not_play_the_same_places(recording, cortex_dir, discovery):
    with Player(recording, quick()) as first, Player(recording, quick()) as second:
        first.announce()
        with pytest.raises(ReplayError, match="/chat"):
            second.announce()
        with Ear(cortex_dir, "/chat") as ear:
            wait_until(lambda: first._stage.subscribers(0))
            first.play()
            ear.hear(20)


def test_what_a_crashed_node_left_behind_is_taken_over(recording, cortex_dir, discovery):
    with DiscoveryClient(discovery.address) as client:
        crashed = Publisher("/chat", StringMessage, node_name="crashed", discovery_address=discovery.address)
        (info,) = client.list_topics()
        crashed.close()
        client.register(info)
        with Player(recording, quick()) as player:
            player.announce()
            assert [info.publisher_node for info in client.list_topics()] == ["talker"]


def test_live_and_replayed_nodes_live_together(tmp_path, cortex_dir, discovery):
    lines = [Line("/camera", n * 10, n, "eye") for n in range(10)] + [
        Line("/plan", n * 10, n, "planner") for n in range(10)
    ]
    path = write_bag(tmp_path / "run.h5", cortex_dir, lines)
    planner = Publisher("/plan", StringMessage, node_name="planner", discovery_address=discovery.address)
    try:
        for chosen in (
            {"nodes": ("eye",)},
            {"exclude_topics": ("/plan",)},
            {"exclude_regex": ("plan$",)},
            {"regex": ("cam",)},
        ):
            with (
                Ear(cortex_dir, "/camera", "eye") as ear,
                Player(path, quick(wait_for_subscribers=1, **chosen)) as player,
            ):
                assert player.topics == ("/camera",)
                player.play()
                ear.hear(10)
        with DiscoveryClient(discovery.address) as client:
            assert [info.name for info in client.list_topics()] == ["/plan"]
    finally:
        planner.close()


def test_everything_is_given_back_at_the_end(recording, cortex_dir):
    with Player(recording, quick()) as player:
        report = player.play()
    assert report.embedded_discovery
    assert sockets(cortex_dir) == []
    assert sorted(path.name for path in cortex_dir.iterdir()) == ["topics"]


def test_without_a_daemon_it_may_refuse(recording, cortex_dir):
    with Player(recording, quick(embedded_discovery=False)) as player, pytest.raises(DiscoveryUnavailableError):
        player.play()
    assert sockets(cortex_dir) == []


# --- names


def test_remapped_and_prefixed_topics_leave_the_live_ones_alone(recording, cortex_dir, discovery):
    live = Publisher("/chat", StringMessage, node_name="talker", discovery_address=discovery.address)
    try:
        with (
            Player(recording, quick(remap=(("/chat", "/talk"),), prefix="/replay")) as player,
            DiscoveryClient() as client,
        ):
            player.announce()
            infos = {info.name: info for info in client.list_topics()}
            assert infos.keys() == {"/chat", "/replay/talk"}
            assert infos["/replay/talk"].publisher_node == "talker"
            with RawSubscriber("/replay/talk", infos["/replay/talk"].address) as subscriber:
                wait_until(lambda: player._stage.subscribers(0))
                player.play()
                assert subscriber.receive(timeout_ms=10_000) == frames_of(chat(1)[0])
    finally:
        live.close()


@pytest.mark.parametrize("pairs", [(("/nowhere", "/x"),), (("/a", "/b"),)])
def test_remaps_that_make_no_sense_are_refused(pairs, tmp_path, cortex_dir):
    path = write_bag(tmp_path / "run.h5", cortex_dir, [Line("/a", 0, 0), Line("/b", 1, 0)])
    with pytest.raises(UsageError):
        Player(path, quick(remap=pairs))


# --- malicious bags


@pytest.mark.parametrize(
    "address",
    [
        "ipc:///etc/passwd.sock",
        "ipc://{dir}/discovery.sock",
        "ipc://{dir}/topics/../escape.sock",
        "ipc://{dir}/topics/a/../../../escape.sock",
        "ipc://{dir}/topics",
        "ipc://{dir}/topics/link/escape.sock",
        "ipc://{dir}/topics/link.sock",
        "ipc://{dir}/topics/file.sock",
        "ipc://{dir}/topics/" + 120 * "x",
        "ipc://{dir}/topics/a\0b.sock",
        "ipc://relative.sock",
        "ipc://@abstract",
        "ipc://*",
        "tcp://0.0.0.0:5555",
        "inproc://x",
        "",
    ],
)
def test_addresses_that_are_no_place_for_a_topic_are_refused_with_nothing_touched(
    address, tmp_path, cortex_dir, discovery
):
    topics, outside = cortex_dir / "topics", tmp_path / "outside"
    topics.mkdir()
    outside.mkdir()
    (topics / "link").symlink_to(outside)
    (topics / "link.sock").symlink_to(outside / "target")
    (topics / "file.sock").write_text("precious")
    bad = address.format(dir=cortex_dir)
    lines = [Line("/good", 0, 0), Line("/bad", 1, 0)]
    path = write_bag(tmp_path / "run.h5", cortex_dir, lines, addresses={"/bad": bad})
    before = sorted(cortex_dir.rglob("*"))
    with Player(path, quick()) as player, pytest.raises(ReplayError) as refusal:
        player.play()
    assert "/bad" in str(refusal.value)
    assert "--relocate" in str(refusal.value)
    assert sorted(cortex_dir.rglob("*")) == before
    assert (topics / "file.sock").read_text() == "precious"
    assert list(outside.iterdir()) == []
    with DiscoveryClient(discovery.address) as client:
        assert client.list_topics() == []


def test_a_bag_from_another_directory_is_played_when_relocated(tmp_path, cortex_dir, discovery):
    elsewhere = {"/chat": "ipc:///var/lib/robot/topics/talker__chat.sock"}
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(3), addresses=elsewhere)
    with Player(path, quick(relocate=True)) as player:
        player.announce()
        with DiscoveryClient(discovery.address) as client:
            (info,) = client.list_topics()
        assert info.address.startswith(f"ipc://{cortex_dir}/topics/")
        assert player.play().sent == 3


def test_two_topics_at_one_address_are_refused(tmp_path, cortex_dir, discovery):
    same = address_of(cortex_dir, "/x")
    lines = [Line("/a/b", 0, 0), Line("/a_b", 1, 0)]
    path = write_bag(tmp_path / "run.h5", cortex_dir, lines, addresses={"/a/b": same, "/a_b": same})
    with Player(path, quick()) as player, pytest.raises(ReplayError, match="same address"):
        player.play()
    assert sockets(cortex_dir) == []


def test_a_name_without_end_is_refused(tmp_path, cortex_dir, discovery):
    path = write_bag(tmp_path / "run.h5", cortex_dir, [Line("/chat", 0, 0, "n" * 50_000)])
    with Player(path, quick(relocate=True)) as player, pytest.raises(ReplayError, match="longer than"):
        player.play()


# --- lossless


def test_a_slow_subscriber_with_a_short_queue_gets_everything_in_order(tmp_path, cortex_dir, discovery):
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(2000, step_ms=0.001))
    got = []

    def slow(message, header):
        time.sleep(0.0003)
        got.append(header.sequence)

    with Player(path, quick(lossless=True, wait_for_subscribers=1)) as player:
        player.announce()
        subscriber = ThreadedSubscriber(
            "/chat", StringMessage, slow, queue_size=10, discovery_address=discovery.address
        )
        try:
            subscriber.start()
            report = player.play()
            wait_until(lambda: len(got) == 2000, timeout=30, what=f"2000 messages, {len(got)} came,")
        finally:
            subscriber.close()
    assert got == list(range(2000))
    assert (report.sent, report.refused) == (2000, 0)


def test_a_hung_subscriber_is_named_after_the_timeout(tmp_path, cortex_dir, discovery):
    path = write_bag(tmp_path / "run.h5", cortex_dir, [*chat(3000, step_ms=0.001), *chat(3, topic="/fine")])
    with (
        RawSubscriber("/chat", address_of(cortex_dir, "/chat"), rcvhwm=10) as _hung,
        Player(
            path, quick(lossless=True, topics=("/chat",), wait_for_subscribers=1, wait_timeout_ns=300 * MS)
        ) as player,
        pytest.raises(ReplayError) as refusal,
    ):
        player.play()
    assert "subscriber of /chat has taken nothing for 0.3 s" in str(refusal.value)
    assert sockets(cortex_dir) == []


def test_stopping_does_not_wait_for_a_hung_subscriber(tmp_path, cortex_dir, discovery):
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(3000, step_ms=0.001))
    with (
        RawSubscriber("/chat", address_of(cortex_dir, "/chat"), rcvhwm=10) as _hung,
        Player(path, quick(lossless=True, wait_for_subscribers=1, wait_timeout_ns=3600 * 10**9)) as player,
    ):
        reports = []
        thread = threading.Thread(target=lambda: reports.append(player.play()))
        thread.start()
        wait_until(lambda: player.progress().sent > 10)
        player.stop()
        thread.join(30)
        assert not thread.is_alive()
    assert not reports[0].completed
    assert reports[0].sent < 3000


def test_by_default_a_hung_subscriber_holds_up_nobody(tmp_path, cortex_dir, discovery):
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(3000, step_ms=0.001))
    hung = RawSubscriber("/chat", address_of(cortex_dir, "/chat"), rcvhwm=10)
    with hung, Player(path, quick(wait_for_subscribers=1, linger_ns=0)) as player:
        report = player.play()
    assert report.sent == 3000


def test_subscribers_that_do_not_come_are_counted(recording, discovery):
    with Player(recording, quick(wait_for_subscribers=2, wait_timeout_ns=100 * MS)) as player:
        with pytest.raises(ReplayError, match=r"/chat has 0 of 2 subscribers"):
            player.play()


# --- a daemon that dies


def test_a_daemon_that_dies_while_playing_is_survived(tmp_path, cortex_dir):
    running = start_daemon()
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(20))
    clock = ManualClock()
    names = []

    def die_and_come_back():
        nonlocal running
        running.stop()
        running = start_daemon()
        with DiscoveryClient(running.address) as client:
            names.append(wait_until(lambda: [info.name for info in client.list_topics()]))

    clock.call_at(55 * MS, die_and_come_back)
    try:
        with Ear(cortex_dir, "/chat") as ear, Player(path, PlayOptions(wait_for_subscribers=1), clock=clock) as player:
            report = player.play()
            ear.hear(20)
        with DiscoveryClient(running.address) as client:
            assert client.list_topics() == []
    finally:
        running.stop()
    assert names == [["/chat"]]
    assert (report.sent, report.completed) == (20, True)
    assert ear.sequences == list(range(20))


def test_a_daemon_that_stays_dead_is_survived(tmp_path, cortex_dir):
    running = start_daemon()
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(20))
    clock = ManualClock()
    clock.call_at(55 * MS, running.stop)
    with Ear(cortex_dir, "/chat") as ear, Player(path, PlayOptions(wait_for_subscribers=1), clock=clock) as player:
        report = player.play()
        ear.hear(20)
    assert report.completed
    assert sockets(cortex_dir) == []
