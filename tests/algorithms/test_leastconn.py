from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.algorithms.leastconn import LeastConn


def take(algorithm, avoid=None):
    server = algorithm.pick(avoid=avoid)
    server.counters.scur += 1
    algorithm.changed(server)
    return server


def release(algorithm, server):
    server.counters.scur -= 1
    algorithm.changed(server)


def test_the_least_loaded_is_taken(servers):
    a, b, c = servers("abc")
    a.counters.scur, b.counters.scur, c.counters.scur = 3, 1, 2
    algorithm = LeastConn()
    algorithm.rebuild([a, b, c])
    assert [take(algorithm).name for _ in range(3)] == ["b", "c", "b"]


def test_equals_take_turns_in_configuration_order(servers):
    algorithm = LeastConn()
    algorithm.rebuild(servers("abc"))
    order = []
    for _ in range(7):
        server = take(algorithm)
        release(algorithm, server)
        order.append(server.name)
    assert "".join(order) == "abcabca"


def test_connections_that_stay_are_spread_by_weight(servers):
    a, b, c = servers("abc", 4, 2, 1)
    algorithm = LeastConn()
    algorithm.rebuild([a, b, c])
    for _ in range(700):
        take(algorithm)
    assert (a.counters.scur, b.counters.scur, c.counters.scur) == (400, 200, 100)


def test_who_finishes_is_next(servers):
    pool = servers("abc")
    algorithm = LeastConn()
    algorithm.rebuild(pool)
    for _ in range(30):
        take(algorithm)
    release(algorithm, pool[1])
    assert take(algorithm) is pool[1]


def test_a_pick_that_is_not_taken_still_passes_the_turn(servers):
    algorithm = LeastConn()
    algorithm.rebuild(servers("ab"))
    assert "".join(algorithm.pick().name for _ in range(4)) == "abab"


def test_the_failed_server_is_avoided_and_keeps_its_place(servers):
    a, b, c = servers("abc")
    b.counters.scur = c.counters.scur = 5
    algorithm = LeastConn()
    algorithm.rebuild([a, b, c])
    assert take(algorithm, avoid=a) is b
    assert take(algorithm) is a
    algorithm.rebuild([a])
    assert algorithm.pick(avoid=a) is a
    assert algorithm.pick(avoid=a) is a


def test_no_servers_no_choice(servers):
    (gone,) = servers("a")
    algorithm = LeastConn()
    assert algorithm.pick() is None
    algorithm.rebuild([gone])
    algorithm.rebuild([])
    assert algorithm.pick() is None
    assert algorithm.pick(avoid=gone) is None


def test_a_server_that_has_left_may_still_finish_its_connections(servers):
    a, b = servers("ab")
    algorithm = LeastConn()
    algorithm.rebuild([a, b])
    assert take(algorithm) is a
    algorithm.rebuild([b])
    release(algorithm, a)
    assert [take(algorithm), take(algorithm)] == [b, b]


def test_a_rebuild_keeps_the_turns(servers):
    a, b, c = servers("abc")
    algorithm = LeastConn()
    algorithm.rebuild([a, b, c])
    assert [algorithm.pick(), algorithm.pick()] == [a, b]
    algorithm.rebuild([a, b, c])
    assert [algorithm.pick(), algorithm.pick(), algorithm.pick()] == [c, a, b]


def test_what_it_keeps_is_bounded_however_long_it_runs(servers):
    pool = servers(10)
    algorithm = LeastConn()
    algorithm.rebuild(pool)
    open_ = [take(algorithm) for _ in range(50)]
    for i in range(20_000):
        release(algorithm, open_[i * 7 % 50])
        open_[i * 7 % 50] = take(algorithm)
    assert len(algorithm._heap) <= 50
    assert Counter(open_) == {server: server.counters.scur for server in pool}


@given(
    weights=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    steps=st.lists(st.tuples(st.sampled_from("tttrrb"), st.integers(0, 100)), max_size=80),
)
def test_it_always_agrees_with_looking_at_all_of_them(servers, weights, steps):
    pool = servers(len(weights), *weights)
    usable = pool
    algorithm = LeastConn()
    algorithm.rebuild(usable)
    taken = []
    for what, which in steps:
        if what == "t":
            avoid = pool[which % len(pool)] if which % 3 == 0 else None
            least = min((s.counters.scur / s.weight for s in usable if s is not avoid), default=None)
            server = take(algorithm, avoid)
            if least is None:
                assert server is avoid
            else:
                assert server is not avoid
                assert (server.counters.scur - 1) / server.weight == least
            taken.append(server)
        elif what == "r" and taken:
            release(algorithm, taken.pop(which % len(taken)))
        elif what == "b":
            usable = [s for i, s in enumerate(pool) if which >> i & 1] or pool
            algorithm.rebuild(usable)


@pytest.mark.parametrize("seed", range(5))
def test_it_still_agrees_after_a_long_day_of_ebb_and_flow(servers, seed):
    rng = Random(seed)
    pool = servers(6, *rng.choices((1, 2, 5), k=6))
    algorithm = LeastConn()
    algorithm.rebuild(pool)
    taken = []
    for step in range(3000):
        tide = 0.3 + 0.4 * (step // 100 % 2)
        if not taken or rng.random() < tide:
            least = min(s.counters.scur / s.weight for s in pool)
            taken.append(take(algorithm))
            assert (taken[-1].counters.scur - 1) / taken[-1].weight == least
        else:
            release(algorithm, taken.pop(rng.randrange(len(taken))))
