"""The supervisor's book of limits: by name, over reloads and deaths."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from balancer.daemon.limits import Book, Entry, old_workers_for, slots_for, wanted
from balancer.pool.facts import Entity
from balancer.pool.places import Places

PROCESS = Entry("places", Entity("process", ""))
A, B = (Entry("places", Entity("server", "web", name)) for name in "ab")


def descriptors() -> int:
    """But for those of memory, which goes with the last who looks at it, and what other tests have left."""
    gc.collect()
    links = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return sum("memfd:" not in link for link in links)


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
    for workers in range(1, 130):
        kept = old_workers_for(workers)
        assert kept >= max(64, 8 * workers)
        # Those that are kept, a generation that is being ended meanwhile, the one that serves, and the one that comes.
        assert slots_for(workers) >= kept + 3 * workers
    book = Book(2)
    book.enter()
    book.enter()
    assert book.free == 0
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


def test_what_others_set_is_seen_when_they_ring():
    book = Book(8)
    limits = book.open({A: 3, B: 20_000})
    book.bell = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        limits[A].total, limits[B].total = 5, 2
        book.look()
        assert book.is_settled, "nobody has rung"
        os.eventfd_write(book.bell, 1)
        book.look()
        while not book.is_settled:
            book.settle()
        assert (limits[A].free, limits[B].free) == (5, 2) and limits[B].is_kept
        for nonsense in (-5, 1 << 62):
            limits[A].total = nonsense
            os.eventfd_write(book.bell, 1)
            book.look()
            for _ in range(5):
                book.settle()
        assert limits[A].free == 1 << 30, "bounded, whatever is written there"
    finally:
        os.close(book.bell)
        book.drop([A, B])


def test_who_is_in_may_be_more_than_the_total():
    book = Book(8)
    limits = book.open({A: 3})
    ours = Places(limits[A], book.enter())
    assert [ours.take() for _ in range(3)] == [True] * 3
    limits[A].total = 1
    assert limits[A].is_kept, "nobody else gets in"
    ours.give()
    assert not limits[A].is_kept
    while not limits[A].settle() and not limits[A].is_kept:
        pass
    assert not ours.take()
    book.drop([A])
