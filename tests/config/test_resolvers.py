"""How names of servers are resolved: what is written, and what comes of it."""

from __future__ import annotations

import pytest

from balancer.addr import Address
from balancer.config import effective
from balancer.config.model import Config
from balancer.config.resolvers import NameServer, Resolvers

FRONTENDS = {"f": {"mode": "tcp", "bind": ":80", "default_backend": "b"}}


def config(backend: dict, **more: object) -> Config:
    return Config.model_validate({"frontends": FRONTENDS, "backends": {"b": backend}, **more})


@pytest.mark.parametrize(
    ("text", "host", "port", "is_tcp"),
    [
        ("10.0.0.1", "10.0.0.1", 53, False),
        ("10.0.0.1:5353", "10.0.0.1", 5353, False),
        ("2001:db8::1", "2001:db8::1", 53, False),
        ("tcp@[2001:db8::1]:5353", "2001:db8::1", 5353, True),
        ("tcp@10.0.0.1", "10.0.0.1", 53, True),
    ],
)
def test_a_name_server(text, host, port, is_tcp) -> None:
    section = Resolvers.model_validate({"nameservers": {"n": text}})
    assert section.written == {"n": NameServer(Address(host, port), is_tcp)}
    assert not section.is_of_host


def test_the_hosts_own_where_there_are_no_others() -> None:
    assert Resolvers().is_of_host
    assert Resolvers.model_validate({"nameservers": {"n": "::1"}, "parse_resolv_conf": True}).is_of_host
    assert effective.resolvers(config({"servers": {"s": {"address": "a:1"}}}), "default") == Resolvers()


def test_a_server_says_it_or_its_backend_or_the_defaults() -> None:
    made = config(
        {
            "resolvers": "one",
            "resolve_opts": "ignore-weight",
            "servers": {
                "a": {"address": "a:80"},
                "b": {"address": "a:80", "resolvers": "two", "init_addr": "none", "resolve_opts": "allow-dup-ip"},
                "c": {"address": "a:80", "resolvers": "none"},
                "d": {"address": "10.0.0.1:80"},
            },
        },
        resolvers={name: {"nameservers": {"n": "10.0.0.1"}} for name in ("one", "two", "three")},
        defaults={"resolvers": "three", "resolve_prefer": "ipv4"},
    )
    a, b, c, d = (effective.resolution(made, "b", name) for name in "abcd")
    assert a == effective.Resolution("one", "ipv4", False, True, ("last", "libc"))
    assert b == effective.Resolution("two", "ipv4", True, False, ("none",))
    assert (c, d) == (None, None)


def test_by_itself_a_name_is_not_resolved_again() -> None:
    assert effective.resolution(config({"servers": {"a": {"address": "a:80"}}}), "b", "a") is None


def test_a_template_makes_servers_that_are_alike() -> None:
    made = config(
        {
            "servers": {"own": {"address": "10.0.0.1:80"}},
            "server_template": {
                "prefix": "app",
                "count": 3,
                "address": "_http._tcp.a",
                "weight": 7,
                "resolvers": "default",
            },
        }
    )
    servers = made.backends["b"].servers
    assert list(servers) == ["own", "app1", "app2", "app3"]
    assert {each.weight for name, each in servers.items() if name != "own"} == {7}
    assert (servers["app2"].address, servers["app2"].address.is_service) == (Address("_http._tcp.a", 0), True)
    # What was read once is read no other way again.
    assert Config.model_validate(made.model_copy()).backends == made.backends


def test_a_name_with_a_port_is_a_host_whatever_it_begins_with() -> None:
    made = config({"servers": {"a": {"address": "_http._tcp.a:80"}}})
    assert not made.backends["b"].servers["a"].address.is_service
