"""What a reload changes, and what becomes of connections."""

from __future__ import annotations

from dataclasses import replace

import pytest

from balancer.addr import Address
from balancer.daemon.changes import changes
from balancer.observe.reloading import Change
from balancer.pool.facts import Entity

SERVERS = {"s": "127.0.0.1:9", "t": "127.0.0.1:10"}
FRONT = {"mode": "http", "bind": "127.0.0.1:1", "default_backend": "b"}
CHECK = {"type": "tcp", "interval": "2s"}


def told(plan, before: dict, after: dict, sessions: dict[Entity, int] | None = None) -> dict[tuple[str, str], Change]:
    """By what and name, but for what is said of all."""
    found = changes(plan(before), plan(after), lambda entity: (sessions or {}).get(entity, 0))
    assert found[0].what == "workers"
    return {(each.what, each.name): each for each in found[1:]}


def config(**more) -> dict:
    servers = dict(more.pop("servers", SERVERS))
    backend = {"servers": servers} | more.pop("backend", {})
    return {"frontends": {"f": FRONT | more.pop("front", {})}, "backends": {"b": backend}} | more


def test_nothing(plan):
    assert told(plan, config(), config()) == {}


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "new connections go to 1 new worker; none is open now"),
        (1, "new connections go to 1 new worker; 1 open now ends in the old ones, within 30s (hard_stop_after)"),
        (5, "new connections go to 1 new worker; 5 open now end in the old ones, within 30s (hard_stop_after)"),
    ],
)
def test_what_becomes_of_all(plan, number, said):
    first = changes(plan(config()), plan(config()), {Entity("frontend", "f"): number}.get)[0]
    assert (first.name, first.effect) == ("all workers are new", said)


def test_more_workers(plan):
    first = changes(plan(config()), plan(config(**{"global": {"workers": 3}})), lambda _: 0)[0]
    assert (first.action, first.name) == ("changed", "3 workers instead of 1")


def test_servers(plan):
    sessions = {Entity("server", "b", "t"): 4, Entity("server", "b", "s"): 2}
    found = told(
        plan,
        config(backend={"check": CHECK}),
        config(servers={"s": "127.0.0.1:8", "u": "127.0.0.1:11"}, backend={"check": CHECK}),
        sessions,
    )
    assert found["server", "b/u"].effect == "takes clients once a check finds it well"
    assert found["server", "b/t"].effect == (
        "gets nothing new; 4 open now end in the old ones, within 30s (hard_stop_after)"
    )
    moved = found["server", "b/s"]
    assert moved.keys == (("address", "127.0.0.1:9", "127.0.0.1:8"),)
    assert "at the old address: 2 open now" in moved.effect


@pytest.mark.parametrize(
    ("server", "key", "effect"),
    [
        ({"weight": 5}, ("weight", "1", "5"), "no connection is touched"),
        ({"weight": 0}, ("weight", "1", "0"), "drains: nothing new but clients that hold its cookie"),
        ({"check": {"port": 7}}, ("check.port", "", "7"), "no connection is touched"),
        ({"maxconn": 7}, ("maxconn", "", "7"), "holds for new connections and requests"),
    ],
)
def test_keys_of_a_server(plan, server, key, effect):
    found = told(plan, config(), config(servers=SERVERS | {"s": {"address": "127.0.0.1:9"} | server}))
    assert found["server", "b/s"].keys == (key,)
    assert found["server", "b/s"].effect.startswith(effect)


def test_a_name_that_has_another_address_now(plan, monkeypatch):
    found = iter([{"a.example": "192.0.2.1"}, {"a.example": "192.0.2.2"}])
    monkeypatch.setattr("balancer.daemon.plan.first_addresses", lambda *_, **__: next(found))
    named = config(servers={"s": "a.example:80"})
    changed = told(plan, named, config(servers={"s": "a.example:80"}))
    assert changed["server", "b/s"].keys == (("address", "192.0.2.1:80", "192.0.2.2:80"),)


def test_listeners_and_frontends(plan):
    sessions = {Entity("frontend", "f"): 3}
    found = told(plan, config(), config(front={"bind": ("127.0.0.1:2", "/run/x.sock")}), sessions)
    assert found["listener", "127.0.0.1:2 of frontend f"].action == "added"
    assert found["listener", "/run/x.sock of frontend f"].action == "added"
    gone = found["listener", "127.0.0.1:1 of frontend f"]
    assert (gone.action, gone.effect) == (
        "removed",
        "closed, but for who waits in its queue; 3 open now end in the old ones, within 30s (hard_stop_after)",
    )
    assert found["frontend", "f"].action == "changed"


def test_datagrams_go_on(plan):
    front = {"mode": "udp"}
    found = told(plan, config(front=front), config(front=front | {"udp": {"max_flows": 7}}))
    assert found["frontend", "f"].effect == "flows go on in the new workers"


def test_a_frontend_of_the_kernel(plan):
    front = {"mode": "tcp", "bind": "192.0.2.1:80", "engine": "kernel"}
    servers = {"s": "192.0.2.7:9", "t": "192.0.2.7:10"}
    found = told(plan, config(front=front, servers=servers), config(front=front, servers={"s": "192.0.2.7:9"}))
    assert found["server", "b/t"].effect == "gets nothing new; its flows in the kernel are forgotten"
    found = told(plan, config(servers=servers, front={"mode": "tcp"}), config(front=front, servers=servers))
    assert "by its old way" in found["frontend", "f"].effect


def test_checks_backends_acls_users_stats_and_the_rest(plan):
    before = config(
        backend={"check": CHECK}, stats={"bind": "127.0.0.1:5", "users": {"a": "secret-1", "b": "x", "c": "x"}}
    )
    after = config(
        backend={"check": CHECK | {"interval": "5s"}, "cache": True},
        stats={"bind": "127.0.0.1:5", "users": {"a": "secret-2", "b": "x", "d": "x"}, "realm": "R"},
        acls={"x": {"path": "/"}},
        defaults={"retries": 7},
        gateway={"masquerade": ({"source": "192.0.2.0/24", "interface": "lo"},)},
        **{"global": {"log": {"target": "stderr"}}},
    )
    found = told(plan, before, after)
    assert {key: each.action for key, each in found.items()} == {
        ("acl", "x"): "added", ("backend", "b"): "changed", ("user", "a"): "changed", ("user", "c"): "removed",
        ("user", "d"): "added", ("defaults", ""): "changed", ("global", ""): "changed", ("gateway", ""): "changed",
        ("stats", ""): "changed",
    }  # fmt: skip
    assert "secret" not in str(found)
    assert found["backend", "b"].effect.endswith("the cache begins anew")
    assert "no connection is touched" in found["backend", "b"].effect
    assert found["global", ""].effect == "lines from now on"


def test_statistics_that_come_and_go(plan):
    page = {"stats": {"bind": "127.0.0.1:5"}}
    assert told(plan, config(), config(**page))["stats", ""].action == "added"
    found = told(plan, config(**page), config())
    assert found["stats", ""].effect == "open pages are cut off"
    assert found["listener", "127.0.0.1:5 of stats"].effect == "closed"


def test_virtual_routers(plan):
    router = {"interface": "lo", "virtual_router_id": 1, "virtual_ipaddress": "192.0.2.200"}
    found = told(
        plan,
        config(vrrp={"instances": {"A": router, "B": router | {"virtual_router_id": 2}}}),
        config(vrrp={"instances": {"A": router | {"priority": 7}}, "notify_fifo": "/run/fifo"}),
    )
    assert found["virtual router", "A"].effect == "priority 100 -> 7, in place"
    assert found["virtual router", "B"].action == "removed"
    assert found["virtual router", "B"].effect == "is not master on lo, so nobody has to take its addresses"
    moved = {"instances": {"A": router | {"interface": "eth0"}}}
    before = plan(config(vrrp={"instances": {"A": router}}))
    (both,) = changes(before, plan(config(vrrp=moved)), lambda _: 0, ("A",))[1:]
    assert both.effect.startswith("interface lo -> eth0: ends and starts anew; is master on lo, and advertises prio")
    assert found["vrrp", "notify_fifo"].effect == "default -> /run/fifo, in place"


def test_a_file_that_it_names(plan, tmp_path):
    page = tmp_path / "503"
    page.write_text("one")
    first = plan(config(defaults={"error_files": {"503": str(page)}}))
    page.write_text("two")
    second = plan(config(defaults={"error_files": {"503": str(page)}}))
    (found,) = changes(first, second, lambda _: 0)[1:]
    assert (found.what, found.name) == ("files", str(page))


def test_resolvers_and_a_name_that_they_ask_for(plan):
    resolvers = {"resolvers": {"local": {"nameservers": {"one": "127.0.0.1:53"}}}}
    server = {"address": "app.example.test:80", "resolvers": "local"}
    with_name = config(servers={"s": server}, **resolvers)
    first = plan(with_name)
    found = told(plan, config(), config(**resolvers))
    assert found["resolvers", "local"].action == "added"
    # Its address is nobody's business here.
    second = plan(with_name)
    seat = replace(second.seats["b", "s"], address=Address("127.0.0.9", 80))
    second = replace(second, seats={**second.seats, ("b", "s"): seat})
    assert seat.name
    assert changes(first, second, lambda _: 0)[1:] == []
