"""The supervisor's book of limits: by name, over reloads and deaths."""

from __future__ import annotations

from pathlib import Path

import pytest

from balancer.daemon.limits import Book, Entry, slots_for, wanted
from balancer.pool.facts import Entity
from balancer.pool.places import Places

PROCESS = Entry("places", Entity("process", ""))
A, B = (Entry("places", Entity("server", "web", name)) for name in "ab")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_a_configuration_asks_for(plan):
    made = plan(
        {
            "global": {"maxconn": 500},
            "defaults": {"maxconn": 9},
            "backends": {
                "web": {"servers": {"a": {"address": "127.0.0.1:1", "maxconn": 3, "maxqueue": 2}, "b": "127.0.0.1:2"}},
                "free": {"servers": {"c": "127.0.0.1:3"}},
            },
        }
    )
    web = Entity("server", "web", "a")
    assert wanted(made.config, 400) == {
        Entry("line", Entity("process", "")): 0,
        PROCESS: 400,
        Entry("places", Entity("frontend", "f")): 9,
        Entry("line", Entity("backend", "web")): 0,
        Entry("places", web): 3,
        Entry("seats", web): 2,
    }


def test_neither_datagrams_nor_the_kernel_are_counted(plan):
    made = plan(
        {
            "defaults": {"maxconn": 9},
            "frontends": {
                "u": {"mode": "udp", "bind": "127.0.0.1:1", "default_backend": "b"},
                "k": {"mode": "tcp", "engine": "kernel", "bind": "10.0.0.1:1", "default_backend": "b"},
            },
        }
    )
    assert not any(entry.entity.kind == "frontend" for entry in wanted(made.config, 1))


def test_a_limit_goes_on_under_its_name():
    before = descriptors()
    book = Book(8)
    old = book.open({A: 3, B: 1})
    ours = Places(old[A], book.enter())
    assert ours.take() and ours.take()
    new = book.open({A: 1})
    assert new[A] is old[A]
    theirs = Places(new[A], book.enter())
    assert theirs.take(), "it is as it was until the new ones take over"
    book.set({A: 1})
    book.settle()
    ours.give(2)
    book.settle()
    assert not theirs.take() and not ours.take()
    book.drop(old)
    assert descriptors() == before + 1
    theirs.give()
    while not book.is_settled:
        book.settle()
    assert theirs.take() and not theirs.take()
    book.drop(new)
    assert descriptors() == before
    assert book.is_settled


def test_what_the_dead_held_is_there_again():
    book = Book(8)
    limits = book.open({A: 2, B: 2})
    slots = [book.enter(), book.enter()]
    assert slots == [0, 1]
    dead, alive = (Places(limits[A], slot) for slot in slots)
    assert dead.take() and alive.take() and not alive.take()
    book.leave(slots[0])
    assert not book.is_settled
    while not book.is_settled:
        book.settle()
    assert alive.take()
    assert book.enter() == slots[0]
    book.drop(limits)


def test_there_are_slots_for_all_generations():
    assert slots_for(2) == 64
    assert slots_for(64) == 768
    book = Book(2)
    book.enter()
    book.enter()
    with pytest.raises(OSError, match="a restart makes room for more"):
        book.enter()
    book.leave(1)
    assert book.enter() == 1


def test_without_descriptors_nothing_is_there(monkeypatch):
    import os

    before, real, left = descriptors(), os.eventfd, [1]

    def eventfd(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(24, "Too many open files")
        return real(*arguments)

    monkeypatch.setattr(os, "eventfd", eventfd)
    book = Book(8)
    with pytest.raises(OSError, match="Too many"):
        book.open({A: 1, B: 1})
    assert descriptors() == before
    left[0] = 9
    book.drop(book.open({A: 1, B: 1}))
