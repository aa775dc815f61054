from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.algorithms.table import HashTable, avalanche, map_based, mix


def test_the_hash_is_the_same_in_every_process():
    program = "from balancer.algorithms.table import mix; print(mix(b'192.0.2.1'))"
    told = {
        int(subprocess.run([sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True).stdout)
        for seed in ("1", "2")
    }
    assert told == {mix(b"192.0.2.1")}


def test_the_hash_will_not_change_with_a_release():
    """Two directors of different versions must agree."""
    assert [mix(b""), mix(b"\x0a\x00\x00\x01"), mix(b"/index.html")] == [0, 1483570016, 1996419731]


@given(st.integers(0, 2**32 - 1), st.integers(0, 31))
def test_one_bit_in_changes_many_bits_out(number, bit):
    assert 4 <= (avalanche(number) ^ avalanche(number ^ 1 << bit)).bit_count() <= 28


@pytest.mark.parametrize("servers_", [2, 3, 4, 5, 8, 16])
@pytest.mark.parametrize("step", [1, 2, 4, 16, 256])
def test_clients_whose_addresses_follow_a_pattern_are_spread(servers, servers_, step):
    algorithm = HashTable()
    algorithm.rebuild(servers(servers_))
    seen = Counter(algorithm.pick((0x0A000000 + i * step).to_bytes(4, "big")) for i in range(4000))
    # Four standard deviations of a fair draw.
    mean = 4000 / servers_
    assert all(abs(count - mean) < 4 * mean**0.5 for count in seen.values())
    assert len(seen) == servers_


def test_map_based_has_a_slot_for_each_unit_of_weight(servers):
    assert Counter(s.name for s in map_based(servers("abc", 30, 20, 10))) == {"a": 3, "b": 2, "c": 1}
    assert Counter(s.name for s in map_based(servers("abc", 256, 256, 256))) == {"a": 1, "b": 1, "c": 1}


def test_keys_are_spread_by_weight(servers):
    algorithm = HashTable()
    algorithm.rebuild(servers("abc", 3, 2, 1))
    seen = Counter(algorithm.pick(b"/%d" % i).name for i in range(12_000))
    assert [seen[name] / 2000 for name in "abc"] == pytest.approx([3, 2, 1], rel=0.05)


def test_a_key_stays_where_it_is_over_a_rebuild_that_changes_nothing(servers):
    pool = servers("abc")
    one, other = HashTable(), HashTable()
    one.rebuild(pool)
    other.rebuild(pool[:2])
    other.rebuild(pool)
    assert all(one.pick(b"%d" % i) is other.pick(b"%d" % i) for i in range(100))


def test_the_keys_of_a_failed_server_go_each_to_one_other_and_all_over_them(servers):
    a, b, c, d = servers("abcd")
    algorithm = HashTable()
    algorithm.rebuild([a, b, c, d])
    keys = [key for i in range(4000) if algorithm.pick(key := b"%d" % i) is a]
    second = {key: algorithm.pick(key, avoid=a) for key in keys}
    assert all(algorithm.pick(key, avoid=a) is second[key] for key in keys)
    seen = Counter(second.values())
    assert set(seen) == {b, c, d}
    assert min(seen.values()) > len(keys) / 3 * 0.8


def test_another_is_found_however_rare_it_is(servers):
    a, b = servers("ab", 256, 1)
    algorithm = HashTable()
    algorithm.rebuild([a, b])
    assert {algorithm.pick(b"%d" % i, avoid=a) for i in range(200)} == {b}


def test_a_failed_server_is_chosen_where_there_is_no_other(servers):
    (a,) = servers("a")
    algorithm = HashTable()
    algorithm.rebuild([a])
    assert algorithm.pick(b"key", avoid=a) is a


def test_no_servers_no_choice(servers):
    algorithm = HashTable()
    assert algorithm.pick(b"key") is None
    algorithm.rebuild(servers("a"))
    algorithm.rebuild([])
    assert algorithm.pick(b"key") is None
