from __future__ import annotations

from collections.abc import Callable

from balancer.config.model import Config

Complaints = Callable[..., list[str]]
Load = Callable[..., Config]

WEB = """\
stats: {bind: ":7000", description: One}
frontends:
  web: {mode: http, bind: ["10.0.0.1:80", "10.0.0.2:80"], default_backend: b}
backends:
  b: {servers: {a: {address: "10.0.1.1:80"}, b: {address: "10.0.1.2:80", weight: 5}}}
"""


def description(config: Config) -> str | None:
    return config.stats.description if config.stats is not None else None


def test_a_node_gets_its_own_values_over_all_others(config: Load) -> None:
    text = (
        WEB
        + """
nodes:
  two:
    stats: {description: Two}
    frontends: {web: {bind: "10.0.0.3:80"}}
    backends: {b: {servers: {b: {weight: 6}, c: {address: "10.0.1.3:80"}}}}
  three:
    stats: null
"""
    )
    one, two, three = (config(text, node=name) for name in ("one", "two", "three"))
    assert (description(one), description(two), three.stats) == ("One", "Two", None)
    assert [str(bind.address) for bind in two.frontends["web"].bind] == ["10.0.0.3:80"]
    assert {name: server.weight for name, server in two.backends["b"].servers.items()} == {"a": 1, "b": 6, "c": 1}
    assert {name: server.weight for name, server in one.backends["b"].servers.items()} == {"a": 1, "b": 5}
    assert list(one.nodes) == list(two.nodes) == ["two", "three"]


def test_only_overrides_may_complete_a_file_where_every_node_has_some(config: Load, complaints: Complaints) -> None:
    text = """
stats: {description: Both}
nodes:
  one: {stats: {bind: ":7000"}}
  two: {stats: {bind: ":7001"}}
"""
    assert config(text, node="one").stats is not None
    assert complaints(text, node="elsewhere") == ["2:1: stats.bind: is missing; it has no default"]


def test_a_mistake_of_the_common_part_is_told_once(complaints: Complaints) -> None:
    text = (
        WEB
        + """
defaults: {retries: -1}
nodes:
  one: {stats: {description: One}}
  two: {stats: {description: Two}}
"""
    )
    for node in ("one", "two", "elsewhere"):
        assert complaints(text, node=node) == ["7:21: defaults.retries: wants a whole number from 0 to 100, not -1"]


def test_a_mistake_of_another_node_names_it(complaints: Complaints) -> None:
    text = (
        WEB
        + """
nodes:
  two: {frontends: {web: {mode: tcp}}, backends: {b: {balance: uri}}}
  three: {stats: {bind: "10.0.0.1:80"}}
  four: {global: {runtime_socket: {path: /run/a.sock}}, stats: {bind: /run/a.sock}}
  five: {frontends: {more: {mode: tcp, bind: ":7000", default_backend: b}}}
"""
    )
    assert complaints(text, node="one") == [
        "1:15: stats.bind: 0.0.0.0:7000 clashes: the same address is taken by frontend more (on node five)",
        "8:64: nodes.two.backends.b.balance: uri is for requests, but frontend web (mode tcp) uses this backend",
        "9:25: nodes.three.stats.bind: 10.0.0.1:80 clashes: the same address is taken by frontend web",
        "10:42: nodes.four.global.runtime_socket.path: /run/a.sock clashes: the same address is taken by stats",
    ]


def test_an_unknown_key_of_an_override_is_told_as_elsewhere(complaints: Complaints) -> None:
    assert complaints(WEB + "nodes: {two: {frontend: {}, stats: {unknown: 1}}}") == [
        "6:15: nodes.two.frontend: unknown key; allowed here: global, defaults, resolvers, acls, frontends, backends, "
        "stats, vrrp, gateway, nodes; did you mean frontends?",
        "6:37: nodes.two.stats.unknown: unknown key; allowed here: bind, tls, uri, realm, description, refresh, users, "
        "admin, metrics",
    ]


def test_nodes_that_are_no_mapping(complaints: Complaints) -> None:
    assert complaints(WEB + "nodes: [one, two]") == ["6:8: nodes: wants a mapping (lines of `key: value`), not a list"]


def test_nodes_may_be_few_for_a_large_file_only(complaints: Complaints) -> None:
    servers = "".join(f"      s{i}: {{address: '10.1.{i // 250}.{i % 250}:80'}}\n" for i in range(10_000))
    nodes = "".join(f"  n{i}: {{defaults: {{retries: 101}}}}\n" for i in range(200))
    says = complaints(f"{WEB}  big:\n    servers:\n{servers}nodes:\n{nodes}")
    assert says[0] == "10008:1: nodes: are 200, too many for a file of this size"
    assert 1 < len(says) < 200
