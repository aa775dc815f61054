from __future__ import annotations

import os
import signal
from math import inf
from types import SimpleNamespace

import pytest

from balancer.daemon import lineage
from balancer.daemon.generation import Child
from balancer.daemon.limits import Book
from balancer.daemon.lineage import Lineage
from tests.daemon.whole import Time


@pytest.fixture
def line(monkeypatch):
    """line(current): a lineage that begins with it, its clock, and what it says."""
    clock, said = Time(), []
    monkeypatch.setattr(lineage, "time", clock)
    return (lambda current: Lineage(current, say=lambda _, text: said.append(text))), clock, said


def generation(*children: Child, going: bool = True) -> SimpleNamespace:
    done: list[str] = []
    return SimpleNamespace(
        children=list(children), predecessor=None, kill_at=inf, is_killed=False, done=done,
        memory=SimpleNamespace(going=[int(going)]),
        sockets=SimpleNamespace(take_back=lambda: done.append("take_back")),
        kill=lambda: done.append("kill"), close=lambda: done.append("close"),
    )  # fmt: skip


def test_one_follows_the_other_and_may_have_to_give_way_again(line):
    make, _, said = line
    worker = Child("worker 0", lambda: None, pid=7)
    old, new = generation(worker), generation()
    it = make(old)
    it.coming = new
    assert (it.all, it.children, it.of(worker), it.beside(old)) == ([old, new], [worker], old, [new])
    assert it.succeed(new) is old
    assert (it.current, it.coming, it.elders, it.leaving) == (new, None, [old], old)
    assert it.succeed(old) is new
    assert (it.current, it.elders, it.leaving) == (old, [new], new)
    it.see_to_elders(is_quiet=False)
    assert it.elders == [new], "who leaves is needed still"
    it.leaving = None
    it.see_to_elders(is_quiet=False)
    assert (it.elders, new.done) == ([], ["close"])
    assert said == ["the workers of before the reload have ended"]


def test_one_that_does_not_come_up_leaves_nothing(line):
    make, _, said = line
    started = Child("worker 0", lambda: None, pid=7)
    new = generation(started, Child("worker 1", lambda: None), going=False)
    it = make(generation())
    it.coming = new
    it.abandon()
    assert (it.coming, it.elders, new.children, new.done) == (None, [new], [started], ["kill", "take_back"])
    new.children.clear()
    it.see_to_elders(is_quiet=False)
    assert (it.elders, said) == ([], []), "nobody had come to it"


def test_who_does_not_end_in_time_is_killed(line):
    make, clock, _ = line
    old = generation(Child("worker 0", lambda: None, pid=7))
    it = make(generation())
    it.elders = [old]
    old.kill_at = clock.now + 5
    it.see_to_elders(is_quiet=False)
    assert old.done == []
    clock.now += 5
    it.see_to_elders(is_quiet=False)
    assert old.done == ["kill"]


def test_no_more_than_so_many_old_workers_are_kept(line, monkeypatch):
    make, clock, said = line
    told = []
    monkeypatch.setattr(os, "kill", lambda pid, number: told.append((pid, number)))

    def of(pid: int, connections: int) -> SimpleNamespace:
        children = [Child(f"worker {i}", lambda: None, pid=pid + i, number=i) for i in range(2)]
        return SimpleNamespace(
            children=children, workers=children, kill_at=inf, is_ended=False, connections=lambda _: connections
        )

    it = make(SimpleNamespace(plan=SimpleNamespace(workers=2)))
    it.elders = [of(100 + 2 * i, 5 - (i in (3, 4))) for i in range(32)]
    it.end_surplus()
    assert (told, said) == ([], [])
    it.elders.append(of(200, 5))
    it.end_surplus()
    assert told == [(106, signal.SIGUSR2), (107, signal.SIGUSR2)], "who have the fewest"
    assert it.elders[3].kill_at == clock.now + 2
    assert said == ["connections of before a reload are ended: not more than 64 old workers are kept"]
    it.end_surplus()
    assert len(told) == 2, "they are about to go"
    it.current.plan.workers = 10
    it.elders += [of(300 + 2 * i, 5) for i in range(8)]
    it.end_surplus()
    assert len(told) == 2, "eight generations of ten workers"


def test_the_oldest_make_room_for_new_workers(line, monkeypatch):
    make, clock, said = line
    told = []
    monkeypatch.setattr(os, "kill", lambda pid, number: told.append((pid, number)))
    book = Book(6)

    def of(pid: int, workers: int = 2) -> SimpleNamespace:
        children = [
            Child(f"worker {i}", lambda: None, pid=pid + i, number=i, slot=book.enter()) for i in range(workers)
        ]
        return SimpleNamespace(
            memory=SimpleNamespace(book=book),
            children=children,
            workers=children,
            kill_at=inf,
            is_ended=False,
            connections=lambda _: 1,
        )

    it = make(of(30))
    assert not it.waits_for_room(4), "there is room"
    it.elders = [of(10, 1), of(20, 1)]
    assert not it.waits_for_room(2)
    assert told == []
    assert it.waits_for_room(3)
    assert told == [(10, signal.SIGUSR2)], "no more than it takes"
    assert it.elders[0].kill_at == clock.now + 2
    assert said == ["connections of before a reload are ended: new workers need the room"]
    assert it.waits_for_room(3)
    assert len(told) == len(said) == 1, "once"
    book.leave(it.elders[0].children[0].slot)
    it.elders[0].children.clear()
    assert not it.waits_for_room(3)

    assert it.waits_for_room(4)
    clock.now += 5
    assert not it.waits_for_room(4), "who does not go is not waited for any longer"
    book.leave(it.current.children[0].slot)
    it.current.children[0].slot = None
    assert it.waits_for_room(4), "one that is to be started again has its place"
    it.elders = []
    assert not it.waits_for_room(9), "there is nobody to end"
