from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.pool.orders import WHOLE, Condition, ServerState
from balancer.pool.warmup import SCALE, scale_of, throttle

SECOND = 1_000_000


def test_twenty_steps_or_one_a_second() -> None:
    shares = [throttle(0, 60.0, now * SECOND) for now in range(62)]
    assert shares[:7] == [1, 1, 1, 5, 5, 5, 10]
    assert (shares[59], shares[60], shares[61]) == (95, 100, 100)
    assert [throttle(0, 4.0, now * SECOND // 2) for now in range(9)] == [1, 1, 25, 25, 50, 50, 75, 75, 100]
    assert throttle(0, 0.1, 1) == 1
    assert throttle(0, 0.1, 10 * SECOND) == 100


@given(st.floats(0.001, 1e6), st.integers(0, 2**50), st.integers(-(2**40), 2**50))
def test_it_rises_and_ends(slowstart: float, since: int, passed: int) -> None:
    share = throttle(since, slowstart, since + passed)
    assert 1 <= share <= WHOLE
    assert throttle(since, slowstart, since + passed + SECOND) >= share
    assert throttle(since, slowstart, since + int((slowstart + 2) * SECOND)) == WHOLE


@pytest.mark.parametrize("balance", ["roundrobin", "leastconn", "random"])
def test_a_server_that_warms_up_gets_its_part(backend, balance: str) -> None:
    made = backend({"a": {}, "b": {"slowstart": "20s"}, "c": {"weight": 2}}, balance=balance)
    assert scale_of(made.config) == SCALE
    for share, weights in ((1, (16, 1, 32)), (25, (16, 4, 32)), (100, (16, 16, 32))):
        for server in made.servers:
            server.scale = SCALE
            weight = server.config.weight
            server.apply(ServerState(Condition.UP, weight=weight, throttle=share if server.name == "b" else WHOLE))
        made.refresh()
        assert tuple(server.weight for server in made.servers) == weights
        picked: Counter[str] = Counter()
        for _ in range(5200):
            server = made.pick()
            made.take(server)
            picked[server.name] += 1
        for server in made.servers:
            while server.counters.scur:
                made.release(server)
        if balance != "random":
            assert picked["b"] == pytest.approx(5200 * weights[1] / sum(weights), abs=3)


def test_a_weight_has_parts_only_where_somebody_follows(backend) -> None:
    assert scale_of(backend({"a": {}}).config) == 1
    assert scale_of(backend({"a": {"slowstart": "5s"}}, balance="source").config) == 1
    state = ServerState(Condition.UP, weight=10, throttle=25)
    assert (state.effective_weight, ServerState(weight=1, throttle=1).effective_weight) == (3, 1)
    assert ServerState(weight=0, throttle=50).effective_weight == 0
