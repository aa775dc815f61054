from __future__ import annotations

from random import Random

import pytest

from balancer.algorithms.registry import create
from balancer.config.model import Balance


@pytest.mark.parametrize("balance", list(Balance))
@pytest.mark.parametrize("hash_type", ["map-based", "consistent"])
def test_every_name_of_the_configuration_balances(servers, balance, hash_type):
    a, b = pool = servers("ab")
    empty = create(balance, hash_type=hash_type, rng=Random(1), servers=0)
    empty.rebuild([])
    assert empty.pick(b"/key") is None
    algorithm = create(balance, hash_type=hash_type, rng=Random(1), servers=2)
    assert algorithm.pick(b"/key") is None
    algorithm.rebuild(pool)
    assert algorithm.pick(b"/key") in pool
    for i in range(50):
        assert algorithm.pick(b"/%d" % i, avoid=a) is b
        assert algorithm.pick(b"/%d" % i, avoid=b) is a
    algorithm.rebuild([a])
    assert algorithm.pick(b"/key", avoid=b) is a
    assert algorithm.pick(b"/key", avoid=a) is a
    algorithm.rebuild([])
    assert algorithm.pick(b"/key", avoid=a) is None


@pytest.mark.parametrize(
    ("balance", "needs"),
    [
        ("roundrobin", ""),
        ("leastconn", ""),
        ("random", ""),
        ("first", ""),
        ("source", "source"),
        ("maglev", "source"),
        ("uri", "uri"),
    ],
)
def test_what_each_wants_as_key(balance, needs):
    assert create(balance, hash_type="map-based", rng=Random(1)).needs == needs


def test_leastconn_alone_wants_to_hear_of_every_change():
    tracking = [b for b in Balance if create(b, hash_type="map-based", rng=Random(1)).tracks_load]
    assert tracking == [Balance.LEASTCONN]


@pytest.mark.parametrize("balance", ["source", "uri"])
def test_consistent_moves_few_keys_and_map_based_more(servers, balance):
    pool = servers(10)
    shares = {}
    for hash_type in ("map-based", "consistent"):
        algorithm = create(balance, hash_type=hash_type, rng=Random(1), servers=10)
        algorithm.rebuild(pool)
        before = [algorithm.pick(b"/%d" % i) for i in range(2000)]
        algorithm.rebuild(pool[:4] + pool[5:])
        shares[hash_type] = sum(algorithm.pick(b"/%d" % i) is not before[i] for i in range(2000)) / 2000
    assert shares["consistent"] < 0.16
    assert 0.2 < shares["map-based"] < 0.5


def test_maglev_is_source_with_consistent(servers):
    pool = servers(10)
    one = create("maglev", hash_type="map-based", rng=Random(1), servers=10)
    other = create("source", hash_type="consistent", rng=Random(2), servers=10)
    one.rebuild(pool)
    other.rebuild(pool)
    assert all(one.pick(b"%d" % i) is other.pick(b"%d" % i) for i in range(500))


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="fastest"):
        create("fastest", hash_type="map-based", rng=Random(1))
