"""Registrations outlive the daemon: what is noticed, what is tried again, and what is left to others."""

import logging
import threading
from dataclasses import replace

import pytest
import zmq
from helpers import start_daemon, wait_until
from peers import bare_publisher, lookup, register

from cortex.core import registrar as module
from cortex.core.registrar import Registrar
from cortex.discovery.client import DiscoveryClient
from cortex.discovery.protocol import TopicInfo
from cortex.errors import CortexError, DiscoveryUnavailableError


def _info(topic="/t", node="n", address="ipc:///nowhere/x.sock"):
    return TopicInfo(topic, address, "IntMessage", 7, node)


@pytest.fixture
def registrar(discovery):
    registrar = Registrar(discovery.address, interval=0.01)
    yield registrar
    registrar.close()


def _threads():
    return [thread for thread in threading.enumerate() if thread.name == "cortex-registrar"]


def test_it_does_nothing_before_the_first_topic(registrar):
    assert _threads() == []


def test_one_thread_serves_all_topics(registrar, discovery):
    infos = [_info(f"/{k}") for k in range(5)]
    assert all(registrar.register(info) for info in infos)
    assert len(_threads()) == 1
    assert all(registrar.is_registered(info) for info in infos)
    registrar.close()
    assert _threads() == []


def test_all_topics_come_back_after_a_restart(cortex_dir):
    daemon = start_daemon()
    registrar = Registrar(daemon.address, interval=0.01)
    infos = [_info(f"/{k}") for k in range(3)]
    for info in infos:
        registrar.register(info)
    daemon.stop()
    wait_until(lambda: not any(map(registrar.is_registered, infos)), what="noticing that the daemon is gone")
    daemon = start_daemon()
    wait_until(lambda: all(map(registrar.is_registered, infos)), what="registration at the new daemon")
    assert [lookup(daemon, info.name) for info in infos] == infos
    registrar.close()
    daemon.stop()


def test_a_restart_between_two_looks_is_noticed_too(cortex_dir):
    daemon = start_daemon()
    registrar = Registrar(daemon.address, interval=3600)
    info = _info()
    registrar.register(info)
    daemon.stop()
    daemon = start_daemon()
    registrar._look_once()
    assert lookup(daemon, "/t") == info
    registrar.close()
    daemon.stop()


def test_an_entry_that_somebody_removed_comes_back(registrar, discovery, monkeypatch):
    monkeypatch.setattr(module, "_VERIFY_S", 0.01)
    info = _info()
    registrar.register(info)
    with DiscoveryClient(discovery.address) as client:
        assert client.unregister_topic("/t")
    wait_until(lambda: lookup(discovery, "/t") == info, what="registering again")


def test_an_entry_that_a_live_sibling_replaced_is_left_to_it(discovery, cortex_dir, caplog):
    registrar = Registrar(discovery.address, interval=3600)
    info = _info()
    registrar.register(info)
    with bare_publisher(cortex_dir, node="n", discovery=discovery) as sibling:
        registrar._verify_at = 0
        registrar._look_once()
        assert not registrar.is_registered(info)
        assert "node 'n' now registers it at" in caplog.text
        assert lookup(discovery, "/t") == sibling.info
        assert registrar.unregister(info) is False
        assert lookup(discovery, "/t") == sibling.info
    registrar.close()


def test_an_entry_that_a_dead_sibling_left_is_taken_back(registrar, discovery, monkeypatch):
    monkeypatch.setattr(module, "_VERIFY_S", 0.01)
    info = _info()
    registrar.register(info)
    register(discovery, replace(info, address="ipc:///nowhere/dead.sock"))
    wait_until(lambda: lookup(discovery, "/t") == info, what="taking the entry back")


def test_unregister_removes_only_what_is_ours(registrar, discovery):
    info = _info()
    registrar.register(info)
    register(discovery, replace(info, address="ipc:///other.sock"))
    assert registrar.unregister(info) is False
    assert lookup(discovery, "/t").address == "ipc:///other.sock"
    registrar.register(info)
    assert registrar.unregister(info) is True
    assert lookup(discovery, "/t") is None


def test_an_unregistered_topic_stays_away(registrar, discovery):
    gone, kept = _info("/gone"), _info("/kept")
    registrar.register(gone)
    registrar.register(kept)
    registrar.unregister(gone)
    with DiscoveryClient(discovery.address) as client:
        client.unregister_topic("/kept")
    registrar._verify_at = 0
    wait_until(lambda: lookup(discovery, "/kept"))
    assert lookup(discovery, "/gone") is None


def test_a_refusal_is_said_once(registrar, discovery, caplog):
    register(discovery, _info(node="owner"))
    info = _info(node="late")
    with caplog.at_level(logging.WARNING, logger="cortex"):
        assert registrar.register(info) is False
        for _ in range(5):
            registrar._entries[0].retry_at = 0
            registrar._look_once()
    assert [record.message.count("owner") for record in caplog.records] == [1]


def test_a_daemon_that_hangs_costs_one_wait_for_a_whole_node(registrar, discovery, monkeypatch, caplog):
    infos = [_info(f"/{k}") for k in range(4)]
    for info in infos:
        registrar.register(info)
    asked = []

    def no_answer(self, info):
        asked.append(info)
        raise DiscoveryUnavailableError("No discovery daemon answers.")

    monkeypatch.setattr(DiscoveryClient, "unregister_own", no_answer)
    assert [registrar.unregister(info) for info in infos] == [False] * 4
    assert asked == infos[:1]
    assert "'/0' stays listed" in caplog.text


def test_a_daemon_that_never_answers_does_not_block_for_long(cortex_dir, monkeypatch, caplog):
    monkeypatch.setattr(module, "_REQUEST_TIMEOUT_MS", 30)
    address = f"ipc://{cortex_dir}/mute.sock"
    with zmq.Context() as context, context.socket(zmq.REP) as mute:
        mute.bind(address)
        registrar = Registrar(address, interval=0.01)
        assert registrar.register(_info()) is False
        assert "No discovery daemon answers" in caplog.text
        registrar.close()


def test_an_unexpected_failure_does_not_end_the_thread(registrar, discovery, monkeypatch, caplog):
    failures = []

    def fail(self):
        failures.append(1)
        raise RuntimeError("surprise")

    registrar.register(_info())
    monkeypatch.setattr(Registrar, "_look_after_entries", fail)
    wait_until(lambda: len(failures) >= 2)
    assert "surprise" in caplog.text


def test_a_closed_registrar_refuses(registrar):
    registrar.close()
    registrar.close()
    with pytest.raises(CortexError, match="'/t' cannot be registered: its registrar is closed"):
        registrar.register(_info())
