from __future__ import annotations

import pytest

from balancer.observe.trends import SECONDS, Drain, Trends
from balancer.pool.orders import Admin, Condition, ServerState

NOW = 1_795_392_514.0
DRAIN = ServerState(Condition.UP, Admin.DRAIN, health=4)


@pytest.fixture
def trends(house) -> Trends:
    return Trends(house.roster)


def feed(trends: Trends, house, now: float) -> None:
    trends.feed(house.sums(), list(house.board), house.rates, now)


def drains(trends: Trends, house, now: float) -> list[Drain]:
    return trends.drains(house.sums(), list(house.board), now)


def test_rates_are_kept_for_five_minutes(house, trends) -> None:
    for second in range(SECONDS + 10):
        feed(trends, house, NOW + second)
    assert len(trends.process) == len(trends.proxies["f/web"]) == SECONDS
    assert trends.process[-1] == (7, 900, 5050), "UDP queries are requests too"
    assert trends.proxies["f/web"][-1] == 5000, "requests"
    assert trends.proxies["f/tls"][-1] == 200, "sessions"
    assert list(trends.proxies) == ["f/web", "f/tls", "f/dns", "b/app", "b/raw", "b/names"]


def test_a_drain_is_followed_to_its_end(house, trends) -> None:
    house.set("names", "ns", ServerState(Condition.UP))
    feed(trends, house, NOW)
    assert drains(trends, house, NOW) == []
    house.set("app", "up", DRAIN)
    (drain,) = drains(trends, house, NOW + 0.5)
    assert drain == Drain("app", "up", "DRAIN", 0.0, 5, 2.5, None)
    for second in range(1, 11):
        feed(trends, house, NOW + second)
    assert drains(trends, house, NOW + 10.5)[0].empty_in is None, "nothing has gone"
    house.count("server", "app", "up", scur=1, lastsess=int(NOW))
    assert drains(trends, house, NOW + 10.5)[0] == Drain("app", "up", "DRAIN", 10.0, 1, 10.5, 2.5)
    house.count("server", "app", "up", scur=0)
    assert drains(trends, house, NOW + 12)[0].empty_in == 0.0
    house.set("app", "up", ServerState(Condition.UP, health=4))
    assert drains(trends, house, NOW + 13) == []


def test_maintenance_and_weight_0_are_shown_while_there_are_sessions(house, trends) -> None:
    house.set("names", "ns", ServerState(Condition.UP, Admin.MAINT))
    house.set("raw", "one", ServerState(Condition.UP, weight=0, health=4))
    assert drains(trends, house, NOW) == []
    house.count("server", "raw", "one", scur=2)
    house.count("server", "names", "ns", scur=1)
    assert [(each.server, each.word, each.quiet) for each in drains(trends, house, NOW)] == [
        ("one", "weight 0", None),
        ("ns", "MAINT", None),
    ]


def test_the_oldest_is_as_old_as_it_is_told(house, trends) -> None:
    house.set("app", "up", DRAIN)
    feed(trends, house, NOW)
    began = {("app", "up"): NOW - 600, ("raw", "one"): NOW}
    (drain, _) = trends.drains(house.sums(), list(house.board), NOW + 1, began)
    assert (drain.server, drain.oldest) == ("up", 601.0)
    house.count("server", "app", "up", scur=0)
    assert trends.drains(house.sums(), list(house.board), NOW + 2, began)[0].oldest is None, "nothing is left"
