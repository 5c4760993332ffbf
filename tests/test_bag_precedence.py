"""Threads of a replay at real-time priority: where it is permitted, only while it keeps up, and only its own."""

import os
import threading

import pytest
from recordings import Line, chat, write_bag

import bag
from bag.clock import ManualClock
from bag.performance import BEHIND_FOR_NS, BEHIND_NS
from bag.precedence import DISPLAY, SENDER, Precedence

MS = 1_000_000


class Scheduler:
    """Stands in for the kernel's: remembers policies by thread, and permits real time or not."""

    def __init__(self, monkeypatch, *, permits):
        self.permits = permits
        self.ranks = {}
        monkeypatch.setattr(os, "sched_setscheduler", self._set)
        monkeypatch.setattr(os, "sched_getscheduler", lambda thread: self._policy(self.ranks.get(thread, 0)))

    @staticmethod
    def _policy(rank):
        return os.SCHED_FIFO if rank else os.SCHED_OTHER

    def _set(self, thread, policy, param):
        if policy != os.SCHED_OTHER and not self.permits:
            raise PermissionError("not for you")
        assert (policy == os.SCHED_OTHER) == (param.sched_priority == 0)
        self.ranks[thread] = param.sched_priority

    @property
    def mine(self):
        return self.ranks.get(threading.get_native_id(), 0)


def test_a_thread_has_its_rank_for_as_long_as_it_works(monkeypatch):
    scheduler = Scheduler(monkeypatch, permits=True)
    precedence = Precedence(wanted=True)
    assert (precedence.granted, scheduler.mine) == (True, 0)
    with precedence.of_this_thread(SENDER):
        assert scheduler.mine == SENDER
    assert scheduler.mine == 0


def test_who_cannot_keep_up_steps_back_with_all_threads(monkeypatch):
    scheduler = Scheduler(monkeypatch, permits=True)
    precedence = Precedence(wanted=True)
    inside, done = threading.Event(), threading.Event()

    def read():
        with precedence.of_this_thread(DISPLAY):
            inside.set()
            done.wait(30)

    reader = threading.Thread(target=read)
    reader.start()
    assert inside.wait(30)
    with precedence.of_this_thread(SENDER):
        precedence.set_yielding(True)
        assert (scheduler.mine, scheduler.ranks[reader.native_id]) == (0, 0)
        precedence.set_yielding(False)
        assert (scheduler.mine, scheduler.ranks[reader.native_id]) == (SENDER, DISPLAY)
        precedence.set_yielding(True)
        done.set()
        reader.join()
    precedence.set_yielding(False)
    assert (scheduler.mine, scheduler.ranks[reader.native_id]) == (0, 0)


@pytest.mark.parametrize(("wanted", "permits"), [(False, True), (True, False)])
def test_unwanted_or_forbidden_nothing_changes(monkeypatch, wanted, permits):
    scheduler = Scheduler(monkeypatch, permits=permits)
    precedence = Precedence(wanted=wanted)
    with precedence.of_this_thread(SENDER):
        precedence.set_yielding(True)
        precedence.set_yielding(False)
        assert not any(scheduler.ranks.values())
    assert not precedence.granted


def test_what_somebody_else_has_set_is_left_alone(monkeypatch):
    scheduler = Scheduler(monkeypatch, permits=True)
    precedence = Precedence(wanted=True)
    scheduler.ranks[threading.get_native_id()] = 50
    with precedence.of_this_thread(SENDER):
        assert scheduler.mine == 50
    assert scheduler.mine == 50
    assert not Precedence(wanted=True).granted


@pytest.mark.parametrize(
    ("chosen", "expected"), [({}, True), ({"realtime": False}, False), ({"immediate": True}, False)]
)
def test_a_replay_asks_the_system_for_it_unless_told_otherwise(chosen, expected, tmp_path, cortex_dir, discovery):
    permitted = Precedence(wanted=True).granted
    policies = []
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(3))
    with bag.Player(path, bag.PlayOptions(delay_ns=0, **chosen)) as player:
        report = player.play(lambda _topic: policies.append(os.sched_getscheduler(0)))
    wanted = os.SCHED_FIFO if permitted and expected else os.SCHED_OTHER
    assert policies == [wanted] * 3
    assert report.realtime is (permitted and expected)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_reading_ahead_keeps_the_ordinary_rank(monkeypatch, tmp_path, cortex_dir, discovery):
    ranks = {}
    change = Precedence.of_this_thread

    def of_this_thread(self, rank):
        ranks[threading.current_thread().name] = rank
        return change(self, rank)

    monkeypatch.setattr(Precedence, "of_this_thread", of_this_thread)
    path = write_bag(tmp_path / "run.h5", cortex_dir, chat(3))
    with bag.Player(path, bag.PlayOptions(delay_ns=0)) as player:
        player.play()
    assert ranks == {threading.current_thread().name: SENDER}


def test_a_replay_that_stays_behind_yields_until_it_has_caught_up(tmp_path, cortex_dir, discovery):
    lines = [Line("/chat", at_ms, number) for number, at_ms in enumerate((0, 10, 20, 30, 2000, 2010))]
    path = write_bag(tmp_path / "run.h5", cortex_dir, lines)
    clock = ManualClock()
    yielding = []
    with bag.Player(path, bag.PlayOptions(delay_ns=0), clock=clock) as player:

        def slow(_topic):
            yielding.append(player._precedence.yielding)
            if len(yielding) == 2:
                clock.advance(BEHIND_NS + 25 * MS)
            if len(yielding) == 3:
                clock.advance(BEHIND_FOR_NS)

        player.play(slow)
    assert yielding == [False, False, False, True, False, False]
