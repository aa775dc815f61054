from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from balancer.algorithms.draw import Draw


class Script(Random):
    """Gives what it is told to."""

    def __init__(self, *numbers: float) -> None:
        super().__init__()
        self._numbers = iter(numbers)

    def random(self) -> float:
        return next(self._numbers)


@pytest.mark.parametrize(
    ("first", "second", "drawn"),
    [(0.0, 0.0, "ab"), (0.0, 0.99, "ac"), (0.5, 0.0, "ba"), (0.5, 0.99, "bc"), (0.99, 0.0, "ca"), (0.99, 0.99, "cb")],
)
def test_two_different_servers_are_drawn_and_the_less_loaded_taken(servers, first, second, drawn):
    pool = servers("abc")
    for loaded in drawn:
        for server in pool:
            server.counters.scur = 5 if server.name == loaded else 1
        algorithm = Draw(Script(first, second))
        algorithm.rebuild(pool)
        assert algorithm.pick().name == drawn.replace(loaded, "")


def test_load_is_weighed(servers):
    a, b = servers("ab", 10, 1)
    a.counters.scur, b.counters.scur = 9, 1
    algorithm = Draw(Random(1))
    algorithm.rebuild([a, b])
    assert {algorithm.pick() for _ in range(20)} == {a}
    a.counters.scur = 11
    assert {algorithm.pick() for _ in range(20)} == {b}


def test_idle_servers_are_drawn_by_weight(servers):
    pool = servers("abcd", 4, 3, 2, 1)
    algorithm = Draw(Random(2))
    algorithm.rebuild(pool)
    seen = Counter(algorithm.pick().name for _ in range(20_000))
    for server in pool:
        assert seen[server.name] / 20_000 == pytest.approx(server.weight / 10, abs=0.015)


def test_connections_that_stay_end_up_nearly_even(servers):
    pool = servers(100)
    algorithm = Draw(Random(3))
    algorithm.rebuild(pool)
    for _ in range(10_000):
        algorithm.pick().counters.scur += 1
    # With one choice the fullest of 100 would have about 25 above the mean; with two, log log 100.
    assert max(server.counters.scur for server in pool) <= 105


def test_the_failed_server_is_avoided_while_there_is_another(servers):
    a, b, c = servers("abc", 256, 1, 1)
    algorithm = Draw(Random(4))
    algorithm.rebuild([a, b, c])
    assert {algorithm.pick(avoid=a) for _ in range(200)} == {b, c}
    algorithm.rebuild([a])
    assert algorithm.pick(avoid=a) is a


def test_no_servers_no_choice():
    algorithm = Draw(Random(5))
    assert algorithm.pick() is None
    algorithm.rebuild([])
    assert algorithm.pick() is None
