"""Limits that processes share: nobody gets a place too many, and none is lost when somebody dies."""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from balancer.pool.places import Limit, Places

SLOTS = 4


def new(total: int, *, is_semaphore: bool = True) -> Limit:
    return Limit(memoryview(mmap.mmap(-1, Limit.size(SLOTS))), total, is_semaphore=is_semaphore)


@pytest.fixture
def limit() -> Iterator[Callable[..., Limit]]:
    made: list[Limit] = []

    def make(total: int, **how: bool) -> Limit:
        made.append(new(total, **how))
        return made[-1]

    yield make
    for each in made:
        each.close()


def settled(limit: Limit) -> None:
    for _ in range(5):
        if limit.settle():
            return
    raise AssertionError("it does not settle")


def test_no_more_places_than_there_are(limit):
    it = limit(3)
    one, two = Places(it, 0), Places(it, 1)
    assert [one.take(), two.take(), two.take(), one.take(), two.take()] == [True, True, True, False, False]
    assert (one.held, two.held, it.held, it.free) == (1, 2, 3, 0)
    two.give(2)
    assert (two.held, it.free) == (0, 2)
    assert one.take()


def test_what_a_dead_process_held_is_given_back(limit):
    it = limit(3)
    pid = os.fork()
    if not pid:
        own = Places(it, 1)
        own.wait(77, 2)
        own.take()
        own.take()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    ours = Places(it, 0)
    assert (it.free, it.held, ours.oldest_elsewhere, ours.length_elsewhere) == (1, 2, 77, 2)
    assert it.forget(1)
    settled(it)
    assert (it.free, it.held, ours.oldest_elsewhere, ours.length_elsewhere) == (3, 0, 0, 0)
    assert not it.forget(1), "that was all"


@pytest.mark.parametrize("has_taken", [False, True])
def test_one_that_dies_in_the_middle_of_it(limit, has_taken):
    it = limit(2)
    dead = Places(it, 1)
    dead._turns[1] += 1
    if has_taken:
        os.eventfd_read(it.fd)
    assert not it.settle(), "not as long as somebody is taking"
    assert it.forget(1)
    settled(it)
    assert (it.free, it.held) == (2, 0)


def test_more_places_than_before(limit):
    it = limit(1)
    ours = Places(it, 0)
    assert ours.take() and not ours.take()
    it.total = 3
    settled(it)
    assert [ours.take() for _ in range(3)] == [True, True, False]


def test_fewer_places_than_are_taken(limit):
    it = limit(5)
    ours = Places(it, 0)
    for _ in range(4):
        ours.take()
    it.total = 2
    assert not it.settle()
    assert ours.is_tight and it.free == 0
    ours.give()
    assert not ours.take(), "there are still three"
    assert not it.settle()
    ours.give(2)
    settled(it)
    assert not ours.is_tight
    assert [ours.take(), ours.take()] == [True, False]


def test_who_waits_and_since_when(limit):
    it = limit(1)
    one, two, three = (Places(it, slot) for slot in range(3))
    one.wait(500, 2)
    two.wait(300, 1)
    assert [each.oldest_elsewhere for each in (one, two, three)] == [300, 500, 300]
    assert [each.length_elsewhere for each in (one, two, three)] == [1, 2, 3]
    two.wait(0, 0)
    assert [each.oldest_elsewhere for each in (one, two, three)] == [0, 500, 500]


def test_a_line_alone_has_no_places(limit):
    it = limit(0, is_semaphore=False)
    one, two = Places(it, 0), Places(it, 1)
    one.point(7)
    two.point(3)
    assert sorted(one.pointed) == [3, 7]
    one.ring()
    one.ring()
    assert it.free == 2, "nobody answers"
    assert one.bell == it.fd
    assert not it.forget(0)
    assert one.pointed == [3]


class Deaths(RuleBasedStateMachine):
    """Processes that take, give and die, and a limit that changes: in the end it is exact."""

    @initialize(total=st.integers(1, 6))
    def begin(self, total):
        self.limit = new(total)
        self.processes = [Places(self.limit, slot) for slot in range(SLOTS)]

    @rule(slot=st.integers(0, SLOTS - 1))
    def take(self, slot):
        before = self.limit.held
        if self.processes[slot].take():
            assert before < self.limit.total

    @rule(slot=st.integers(0, SLOTS - 1))
    def give(self, slot):
        if self.processes[slot].held:
            self.processes[slot].give()

    @rule(slot=st.integers(0, SLOTS - 1), lost=st.sampled_from(["", "taking", "giving"]))
    def die(self, slot, lost):
        it = self.processes[slot]
        if lost:
            it._turns[slot] += 1
        if lost == "taking" and self.limit.free:
            os.eventfd_read(self.limit.fd)
        if lost == "giving" and it.held:
            os.eventfd_write(self.limit.fd, 1)
            it._held[slot] -= 1
        self.limit.forget(slot)
        settled_or_tight(self.limit)

    @rule(total=st.integers(1, 6))
    def change(self, total):
        self.limit.total = total
        settled_or_tight(self.limit)

    @precondition(lambda self: hasattr(self, "limit"))
    @rule()
    def settle(self):
        settled_or_tight(self.limit)
        assert self.limit.held + self.limit.free == max(self.limit.total, self.limit.held)

    def teardown(self):
        if not hasattr(self, "limit"):
            return
        for it in self.processes:
            it.give(it.held)
        settled(self.limit)
        assert self.limit.free == self.limit.total
        self.limit.close()


def settled_or_tight(limit: Limit) -> None:
    for _ in range(4):
        limit.settle()


Deaths.TestCase.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
TestDeaths = Deaths.TestCase
