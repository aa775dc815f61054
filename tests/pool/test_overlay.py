"""The configuration with what operators have changed laid over."""

from __future__ import annotations

from balancer.pool.overlay import laid, structural
from balancer.pool.overrides import written
from tests.pool.test_overrides import config, made

ADDED = {"address": "127.0.0.1:3", "weight": 4, "check": False}


def test_servers_come_go_and_move() -> None:
    before = config(web1={"weight": 10}, web2={"weight": 20})
    after = laid(
        before,
        [
            made("state", "maint", "ready", ("web", "new"))._replace(at=0.0),
            made("address", "[::1]:8", "127.0.0.1:1", ("web", "web2")),
            made("added", ADDED, None, ("web", "new")),
            made("deleted", True, {}),
        ],
    )
    servers = after.backends["web"].servers
    assert [*servers] == ["web2", "new"]
    assert (str(servers["web2"].address), servers["web2"].weight) == ("[::1]:8", 20)
    assert (str(servers["new"].address), servers["new"].weight) == ("127.0.0.1:3", 4)
    assert not servers["new"].check.enabled
    assert [*before.backends["web"].servers] == ["web1", "web2"], "what was written stays"


def test_a_server_may_be_another_of_the_same_name() -> None:
    as_it_was = written(config(), (("web", "web1"), "deleted"))
    both = [made("deleted", True, as_it_was), made("added", ADDED, None)]
    (server,) = laid(config(), both).backends["web"].servers.values()
    assert server.weight == 4


def test_those_added_stand_in_the_order_in_which_they_came() -> None:
    added = [
        made("added", ADDED, None, ("web", name))._replace(at=at) for name, at in (("b", 2.0), ("a", 3.0), ("c", 1.0))
    ]
    assert [*laid(config(), added).backends["web"].servers] == ["web1", "c", "b", "a"]


def test_nothing_changed_is_the_same() -> None:
    same = config()
    assert laid(same, [made("weight", 5, 10), made("maxconn", 7, 500, ())]) is same


def test_what_takes_other_workers() -> None:
    address, weight = made("address", "127.0.0.1:2", "127.0.0.1:1"), made("weight", 5, 10)
    assert structural([address, weight]) == {address.key: address}
