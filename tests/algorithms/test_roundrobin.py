from __future__ import annotations

from collections import Counter
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.algorithms.roundrobin import RoundRobin


def said(algorithm, picks):
    return "".join(algorithm.pick().name for _ in range(picks))


def test_equal_servers_take_exact_turns_in_configuration_order(servers):
    algorithm = RoundRobin()
    algorithm.rebuild(servers("abc"))
    assert said(algorithm, 8) == "abcabcab"


def test_turns_do_not_depend_on_how_high_the_equal_weights_are(servers):
    algorithm = RoundRobin()
    algorithm.rebuild(servers("abc", 256, 256, 256))
    assert said(algorithm, 7) == "abcabca"


def test_a_heavy_server_is_spread_between_the_light_ones(servers):
    algorithm = RoundRobin()
    algorithm.rebuild(servers("abc", 5, 1, 1))
    assert said(algorithm, 14) == "abaaaca" * 2


def test_with_two_to_one_the_light_one_has_every_third_turn(servers):
    algorithm = RoundRobin()
    algorithm.rebuild(servers("ab", 2, 1))
    assert said(algorithm, 9) == "aba" * 3


@pytest.mark.parametrize("weights", [(1, 256), (256, 1), (10, 20, 30), (7, 7, 3, 3, 3, 1), (1, 2, 4, 8, 16, 32)])
def test_over_a_whole_round_everyone_has_exactly_its_weight(servers, weights):
    pool = servers(len(weights), *weights)
    algorithm = RoundRobin()
    algorithm.rebuild(pool)
    for _ in range(3):
        assert Counter(algorithm.pick().name for _ in range(sum(weights))) == {s.name: s.weight for s in pool}


@given(st.lists(st.integers(1, 256), min_size=1, max_size=12), st.integers(1, 400))
def test_nobody_strays_from_its_share_at_any_moment(servers, weights, picks):
    pool = servers(len(weights), *weights)
    algorithm = RoundRobin()
    algorithm.rebuild(pool)
    total, members = sum(weights), Counter(weights)
    seen = Counter()
    for now in range(1, picks + 1):
        seen[algorithm.pick().name] += 1
        for server in pool:
            # Each ring is within half a turn of its share of virtual time, and that within half a turn a ring.
            of_ring = 0.5 + len(members) / 2 * members[server.weight] * server.weight / total
            assert abs(seen[server.name] - now * server.weight / total) < of_ring / members[server.weight] + 1


def test_a_server_of_weight_1_among_heavy_ones_is_not_starved(servers):
    algorithm = RoundRobin()
    algorithm.rebuild(servers("ab", 256, 1))
    assert Counter(said(algorithm, 257 * 4)) == {"a": 1024, "b": 4}


def test_no_servers_no_choice(servers):
    algorithm = RoundRobin()
    assert algorithm.pick() is None
    algorithm.rebuild([])
    assert algorithm.pick() is None


def test_when_one_leaves_the_next_in_turn_is_still_the_next(servers):
    a, b, c = servers("abc")
    algorithm = RoundRobin()
    algorithm.rebuild([a, b, c])
    assert said(algorithm, 2) == "ab"
    algorithm.rebuild([a, c])
    assert said(algorithm, 3) == "cac"


def test_when_the_next_in_turn_leaves_the_one_after_it_is_next(servers):
    a, b, c = servers("abc")
    algorithm = RoundRobin()
    algorithm.rebuild([a, b, c])
    assert said(algorithm, 1) == "a"
    algorithm.rebuild([a, c])
    assert said(algorithm, 3) == "cac"


def test_who_returns_takes_its_place_and_gets_no_burst(servers):
    a, b, c = servers("abc")
    algorithm = RoundRobin()
    algorithm.rebuild([a, c])
    assert said(algorithm, 100) == "ac" * 50
    algorithm.rebuild([a, b, c])
    assert said(algorithm, 6) == "abcabc"


def test_who_returns_with_a_weight_gets_no_burst_either(servers):
    a, b, c = servers("abc", 4, 2, 1)
    algorithm = RoundRobin()
    algorithm.rebuild([a, b])
    said(algorithm, 1000)
    algorithm.rebuild([a, b, c])
    assert Counter(said(algorithm, 70)) == {"a": 40, "b": 20, "c": 10}
    algorithm.rebuild([b, c])
    said(algorithm, 1000)
    algorithm.rebuild([a, b, c])
    after = said(algorithm, 14)
    assert Counter(after)["a"] in (7, 8, 9)
    assert max(len(list(run)) for name, run in groupby(after) if name == "a") <= 2


def test_a_flapping_server_does_not_keep_the_others_from_their_turns(servers):
    pool = servers(100)
    algorithm = RoundRobin()
    seen = Counter()
    for flap in range(100):
        algorithm.rebuild(pool if flap % 2 else pool[:-1])
        seen.update(algorithm.pick() for _ in range(10))
    assert {seen[server] for server in pool[:-1]} <= {10, 11}
    assert seen[pool[-1]] <= 10


@pytest.mark.parametrize("flapping", [0, 1, 2])
def test_flapping_does_not_change_the_shares_of_weighted_servers(servers, flapping):
    pool = servers("abcd", 8, 4, 2, 1)
    algorithm = RoundRobin()
    seen = Counter()
    for flap in range(600):
        algorithm.rebuild([s for s in pool if flap % 2 or s is not pool[flapping]])
        seen.update(algorithm.pick().name for _ in range(3))
    steady = [s for s in pool if s is not pool[flapping]]
    total = sum(seen[s.name] for s in steady)
    for server in steady:
        assert seen[server.name] / total == pytest.approx(server.weight / sum(s.weight for s in steady), rel=0.2)


def test_a_server_whose_weight_changes_all_the_time_is_not_starved(servers):
    a, b = servers("ab", 10, 10)
    algorithm = RoundRobin()
    seen = Counter()
    for change in range(100):
        b.weight = 10 + change % 2
        algorithm.rebuild([a, b])
        seen.update(algorithm.pick().name for _ in range(3))
    assert 130 <= seen["b"] <= 170


def test_new_weights_for_all_of_them_change_nobodys_turn(servers):
    pool = servers("abcd")
    algorithm = RoundRobin()
    said_ = ""
    for weight in (1, 2, 3, 1, 5, 7):
        for server in pool:
            server.weight = weight
        algorithm.rebuild(pool)
        said_ += said(algorithm, 3)
    assert said_ == "abcdabcdabcdabcdab"


def test_a_server_that_gets_another_weight_keeps_its_place_in_time(servers):
    """It was to be last of four, and at twice the weight it is due in half the time: in the middle of them."""
    a, b, c, d = servers("abcd")
    algorithm = RoundRobin()
    algorithm.rebuild([a, b, c, d])
    said(algorithm, 4)
    d.weight = 2
    algorithm.rebuild([a, b, c, d])
    assert said(algorithm, 5) == "abdcd"


def test_the_failed_server_is_avoided_while_there_is_another(servers):
    a, b = servers("ab", 256, 1)
    algorithm = RoundRobin()
    algorithm.rebuild([a, b])
    assert [algorithm.pick(avoid=a) for _ in range(5)] == [b] * 5
    algorithm.rebuild([a])
    assert algorithm.pick(avoid=a) is a


def test_avoiding_one_costs_no_other_its_turn(servers):
    a, b, c = servers("abc")
    algorithm = RoundRobin()
    algorithm.rebuild([a, b, c])
    assert algorithm.pick() is a
    assert algorithm.pick(avoid=b) is c
    assert algorithm.pick() is a


def test_processes_that_share_whose_turn_was_last_take_turns_together(servers):
    pool = servers("abc")
    last = [0]
    one, other = RoundRobin(last), RoundRobin(last)
    for algorithm in (one, other):
        algorithm.rebuild(pool)
    assert "".join(algorithm.pick().name for algorithm in (one, one, other, one, other, other, other)) == "abcabca"
    # Not all of them hear of a change at the same time.
    one.rebuild([pool[0], pool[2]])
    assert one.pick().name + other.pick().name + one.pick().name + other.pick().name == "caca"
    other.rebuild([pool[0], pool[2]])
    # Whoever begins in the place of a dead one goes on.
    third = RoundRobin(last)
    third.rebuild(pool)
    assert third.pick().name + other.pick().name + third.pick().name == "bca"


def test_the_last_one_may_be_gone_and_the_number_may_be_anything(servers):
    pool = servers("abcd")
    last = [0]
    algorithm = RoundRobin(last)
    for number, expected in ((4, "bdb"), (3, "dbd"), (-7, "bdb"), (99, "bdb")):
        algorithm.rebuild([pool[1], pool[3]])
        last[0] = number
        assert said(algorithm, 3) == expected
