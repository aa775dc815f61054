"""Orders for servers to come, go and move, in HAProxy's words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.observe.reason import Reason
from balancer.observe.servers import Order, parse
from balancer.observe.steering import SteeringError
from balancer.pool.orders import Admin, Condition, ServerState
from tests.observe.conftest import NOW, House, config

BY = " by 'stats socket command'"


@pytest.mark.parametrize(
    ("rest", "server"),
    [
        ("10.0.0.5:80", {"check": False}),
        ("10.0.0.5:80 check", {"check": True}),
        ("10.0.0.5:80 check no-check", {"check": False}),
        ("10.0.0.5:80 weight 5 maxconn 7", {"weight": 5, "maxconn": 7, "check": False}),
        ("10.0.0.5:80 maxqueue 8 backup", {"maxqueue": 8, "backup": True, "check": False}),
        ("10.0.0.5:80 check port 81 addr 10.0.0.6", {"check": {"enabled": True, "port": 81, "address": "10.0.0.6"}}),
        ("10.0.0.5:80 slowstart 2000 cookie c3", {"slowstart": "2000ms", "cookie": "c3", "check": False}),
        ("10.0.0.5:80 slowstart 2s send-proxy-v2 disabled", {"slowstart": "2s", "send_proxy": "v2", "check": False}),
        ("ipv4@10.0.0.5:80 maxconn 0", {"maxconn": None, "check": False}),
    ],
)  # fmt: skip
def test_what_a_new_server_is(house: House, rest: str, server: dict[str, Any]) -> None:
    order = parse(["add", "server", "app/new", *rest.split()], house.look())
    assert order.added == {"address": "10.0.0.5:80", **server}
    assert (order.backend, order.server, order.said) == ("app", "new", "New server registered.")


def test_a_new_server_may_have_a_reason(house: House) -> None:
    order = parse("add server app/new app.example:80 for 2h why more load".split(), house.look())  # noqa: SIM905
    assert order.added is not None and order.added["address"] == "app.example:80"
    assert order.reason == Reason("more load", NOW + 7200)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("add server app/new nonsense", "invalid address: "),
        ("add server app/new *:80", "nobody is there"),
        ("add server app/new 10.0.0.5:80 weight", "'weight' expects an argument."),
        ("add server app/new 10.0.0.5:80 weight 257", "weight of server new is not within 0 and 256 (257)."),
        ("add server app/new 10.0.0.5:80 maxconn x", "invalid argument 'x' to 'maxconn'."),
        ("add server app/new 10.0.0.5:80 port 0", "invalid argument '0' to 'port'."),
        ("add server app/new 10.0.0.5:80 inter 2s", "'inter' cannot be said of one server"),
        ("add server app/new 10.0.0.5:80 ssl", "unknown keyword 'ssl'."),
        ("add server app/new 10.0.0.5:80 for ever", "'for' wants a duration"),
        ("add server app/nöw 10.0.0.5:80", "character 'ö' is not permitted in server name 'nöw'."),
        ("set server app/up addr 10.0.0.5 port +1", "a port map ('+1') is not known here"),
        ("set server app/up addr 10.0.0.5 port 65536", "invalid port '65536'"),
        ("set server app/up fqdn 10.0.0.5", "'10.0.0.5' is no host name."),
    ],
)
def test_what_makes_no_sense_is_said(house: House, line: str, why: str) -> None:
    with pytest.raises(SteeringError) as error:
        parse(line.split(), house.look())
    assert why in str(error.value)


def test_who_has_clients_is_not_deleted(house: House) -> None:
    with pytest.raises(SteeringError, match="Only servers in maintenance mode can be deleted"):
        parse(["del", "server", "app/down"], house.look())
    house.set("app", "down", ServerState(Condition.UP, Admin.MAINT, health=4))
    assert parse(["del", "server", "app/down"], house.look()) == Order(
        "app", "down", is_deleted=True, said="Server deleted."
    )
    order = parse(["del", "server", "app/down", "for", "2h", "why", "new", "disk"], house.look())
    assert order.reason == Reason("new disk", house.look().now + 7200)
    house.count("server", "app", "down", scur=1)
    with pytest.raises(SteeringError, match="Server still has connections attached to it"):
        parse(["del", "server", "app/down"], house.look())


@pytest.mark.parametrize(
    ("rest", "address", "said"),
    [
        ("addr 10.0.0.77", "10.0.0.77:{port}", "IP changed from '{host}' to '10.0.0.77'"),
        ("addr ::1", "[::1]:{port}", "IP changed from '{host}' to '::1'"),
        ("addr {host}", "{host}:{port}", "no need to change the addr"),
        ("addr {host} port 99", "{host}:99", "no need to change the addr, port changed from '{port}' to '99'"),
        ("addr {host} port {port}", "{host}:{port}", "no need to change the addr, no need to change the port"),
    ],
)
def test_where_a_server_is_from_now_on(house: House, rest: str, address: str, said: str) -> None:
    at = house.look().backends[0].servers[0].entry
    facts = {"host": at.address.host, "port": at.address.port}
    line = f"set server {at.backend}/{at.name} {rest.format(**facts)}"
    order = parse(line.split(), house.look())
    assert (order.address, order.said) == (address.format(**facts), said.format(**facts) + BY)
    assert order.is_nothing == (order.address == str(at.address))


@given(st.lists(st.sampled_from(["weight", "check", "port", "addr", "1", "x", "slowstart", "why", "", "10.0.0.1:1"])))
def test_any_words_are_a_server_or_refused(words: list[str]) -> None:
    try:
        order = parse(["add", "server", "app/new", *words], _LOOK)
    except SteeringError:
        return
    assert order.added is not None


_LOOK = House(config()).look()
