from __future__ import annotations

import socket

from balancer.config import model
from balancer.pool.facts import Counters
from balancer.pool.orders import Admin, Condition, ServerState
from balancer.pool.server import Server


def test_before_any_order_it_is_as_configured_and_not_checked(server):
    s1 = server("s1", weight=3, cookie="one")
    assert (s1.weight, s1.cookie) == (3, b"one")
    assert s1.state == ServerState(weight=3)
    assert not s1.is_usable
    assert repr(s1) == "<Server be/s1 UNKNOWN>"


def test_without_a_cookie_value_it_has_an_empty_one(server):
    assert server("s1").cookie == b""


def test_an_order_changes_state_and_weight_and_nothing_else(server):
    s1 = server("s1")
    counters = s1.counters
    s1.apply(ServerState(Condition.UP, Admin.READY, weight=7))
    assert s1.is_usable
    assert s1.weight == 7
    s1.apply(ServerState(Condition.DOWN, Admin.READY, weight=7))
    assert not s1.is_usable
    assert s1.counters is counters


def test_it_knows_where_to_connect():
    def sockaddr(address):
        return Server("be", "s", model.Server.model_validate({"address": address}), Counters()).sockaddr

    assert sockaddr("192.0.2.1:80") == ("192.0.2.1", 80)
    assert sockaddr("[2001:db8::1]:80") == ("2001:db8::1", 80, 0, 0)
    assert sockaddr("/run/app.sock") == "/run/app.sock"
    assert sockaddr("app.example.org:80") is None


def test_its_family_follows_its_address():
    def family(address):
        return Server("be", "s", model.Server.model_validate({"address": address}), Counters()).address.family

    assert [family("192.0.2.1:80"), family("[::1]:80"), family("/run/a")] == [
        socket.AF_INET,
        socket.AF_INET6,
        socket.AF_UNIX,
    ]
