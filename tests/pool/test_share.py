"""What a process has of a limit: some in advance, nothing that others wait for."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import pytest

from balancer.pool.places import Limit, Places
from balancer.pool.share import Share, batch_for


@pytest.fixture
def limit() -> Iterator[Limit]:
    it = Limit(memoryview(mmap.mmap(-1, Limit.size(4))), 20)
    yield it
    it.close()


def test_without_a_limit_there_is_room_for_all():
    it = Share(None)
    assert it.limit > 10**9
    assert it.extend(1) and not it.wait(1, 1) and not it.yield_unused(0, 0)
    it.listen()
    it.tidy(0)
    assert not it.is_wanted


def test_places_are_taken_some_at_a_time_and_all_of_them_in_the_end(limit):
    it = Share(Places(limit, 0), batch=8)
    assert it.limit == 0
    taken = []
    while it.extend(1):
        taken.append(it.limit)
    assert taken == [8, 16, 20]
    assert limit.free == 0


def test_no_more_than_it_may_have(limit):
    it = Share(Places(limit, 0), batch=8, most=10)
    assert it.extend(1) and not it.is_at_most and it.extend(1)
    assert (it.limit, it.is_at_most, it.extend(1)) == (10, True, False)


def test_what_is_not_used_is_for_whoever_waits(limit):
    one, two = (Share(Places(limit, slot), batch=20) for slot in range(2))
    one.extend(1)
    assert not two.extend(5)
    assert two.wait(5, 1), "news"
    assert not two.wait(5, 2), "that is known"
    one.listen()
    assert one.is_wanted
    assert not one.yield_unused(3, since=4), "one of its own was there before"
    assert one.yield_unused(3, since=0)
    assert (one.limit, limit.free) == (3, 17)
    assert not one.extend(9) and one.extend(9, is_patient=False)
    assert one.limit == 4, "one at a time, as long as somebody waits"
    assert two.extend(5)
    two.wait(0, 0)
    assert not one.yield_unused(3, since=0)
    assert not one.is_wanted


def test_no_heaps_of_unused_places(limit):
    it = Share(Places(limit, 0), batch=4)
    for _ in range(5):
        it.extend(1)
    it.tidy(12)
    assert it.limit == 20
    it.tidy(2)
    assert it.limit == 6
    it.tidy(2, is_over=True)
    assert (it.limit, limit.free) == (2, 18)


def test_where_there_are_too_many_out_nothing_unused_is_kept(limit):
    it = Share(Places(limit, 0), batch=20)
    it.extend(1)
    limit.total = 5
    limit.settle()
    it.tidy(3)
    assert it.limit == 3
    assert it.is_wanted, "what becomes free from now on is given back before anybody has it"
    for used in (2, 1):
        assert it.yield_unused(used, since=1) and it.limit == used
    for _ in range(3):
        limit.settle()
    assert limit.free == 4
    assert not it.yield_unused(1, since=0) and not it.is_wanted


def test_how_many_at_a_time():
    assert [batch_for(total, 2) for total in (1, 15, 100, 20_000)] == [1, 1, 6, 32]
    assert batch_for(100, 64) == 1
