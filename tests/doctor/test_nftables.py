"""Rules as hosts have them, put into a namespace and read back as nft tells them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from balancer.doctor.nftables import tables
from balancer.doctor.packets import Packet, fate
from balancer.kernel.nft import Nft
from tests.vrrp.conftest import Net, as_root

pytestmark = as_root

WEB = Packet(4, "tcp", frozenset({"eth0"}), destination="192.0.2.200", port=80)
DNS = Packet(4, "udp", frozenset({"eth0"}), destination="192.0.2.200", port=53)
WEB_V6 = Packet(6, "tcp", frozenset({"eth0"}), destination="2001:db8::c8", port=80)
VRRP = Packet(4, "vrrp", frozenset({"eth0"}), destination="224.0.0.18")
CHAIN = "table %s f {\n %s\n chain input { type filter hook input priority 0; policy drop;\n %s\n }\n %s\n}"


@pytest.fixture(scope="module")
def nft() -> Iterator[Nft]:
    net = Net()
    with net:
        nft = Nft()
        yield nft
        nft.close()
    net.close()


def verdicts(nft: Nft, rules: str, *, family: str = "inet", sets: str = "", chains: str = "") -> list[str | None]:
    """Of web, DNS, web by IPv6 and VRRP."""
    nft.run("flush ruleset\n" + CHAIN % (family, sets, rules, chains))
    found = list(tables(nft.list_json("list ruleset")).values())
    return [fate(found, ("prerouting", "input"), each).certain for each in (WEB, DNS, WEB_V6, VRRP)]


A, D = "accept", "drop"


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        ("", [D, D, D, D]),
        ("accept", [A, A, A, A]),
        ("tcp dport 80 accept", [A, D, A, D]),
        ("tcp dport { 22, 80-90 } counter accept", [A, D, A, D]),
        ("tcp dport != 80 accept", [D, D, D, D]),
        ("ip protocol vrrp accept", [D, D, D, A]),
        ("meta l4proto { tcp, vrrp } accept", [A, D, A, A]),
        ("meta l4proto 112 accept", [D, D, D, A]),
        ("ip daddr 224.0.0.18 accept", [D, D, D, A]),
        ("ip daddr { 192.0.2.0/24, 224.0.0.0/4 } accept", [A, A, D, A]),
        ("meta nfproto ipv6 tcp dport 80 accept", [D, D, A, D]),
        ("th dport 53 accept", [D, A, D, D]),
        ("iifname lo accept", [D, D, D, D]),
        ("iifname \"eth*\" accept", [A, A, A, A]),
        ("ct state established,related accept", [D, D, D, D]),
        ("ct state { new, established } accept", [A, A, A, A]),
        ("ct state vmap { established : accept, new : jump more, invalid : drop }", [A, D, A, D]),
        ("tcp dport vmap { 22 : drop, 80 : accept }", [A, D, A, D]),
        ("jump more", [A, D, A, D]),
        ("goto more\naccept", [A, D, A, D]),
        ("tcp dport @ports accept", [A, D, A, D]),
        ("tcp dport 80 limit rate 5/second accept", [None, D, None, D]),
        ("ip saddr 10.0.0.0/8 accept", [None, None, D, None]),
        ("ip saddr 10.0.0.0/8 drop\ntcp dport 80 log prefix \"x\" accept", [None, D, A, D]),
        ("tcp dport 80 reject", [D, D, D, D]),
        ("icmp type echo-request accept", [D, D, D, D]),
        ("fib daddr type local accept", [A, A, A, D]),
        ("fib daddr type { multicast, broadcast } accept", [D, D, D, A]),
        ("fib daddr . iif type local accept", [None, None, None, None]),
        ("meta pkttype host accept", [A, A, A, D]),
        ("ct status dnat accept", [D, D, D, D]),
        ("ct status expected accept", [None, None, None, None]),
        ("meta mark 7 accept", [None, None, None, None]),
    ],
)  # fmt: skip
def test_rules(nft: Nft, rules: str, wanted: list[str | None]) -> None:
    sets = "set ports { type inet_service; flags interval; elements = { 80, 443-450 }; }"
    assert verdicts(nft, rules, sets=sets, chains="chain more { tcp dport 80 accept; }") == wanted


def test_tables_of_one_version_of_ip(nft: Nft) -> None:
    assert verdicts(nft, "", family="ip") == [D, D, A, D]
    assert verdicts(nft, "", family="ip6") == [A, A, D, A]


def test_packets_that_are_sent_elsewhere(nft: Nft) -> None:
    nft.run(
        "flush ruleset\ntable ip nat { chain p { type nat hook prerouting priority -100;\n"
        " ip daddr 192.0.2.200 tcp dport 80 dnat to 10.0.0.9\n }\n}"
    )
    found = list(tables(nft.list_json("list ruleset")).values())
    assert fate(found, ("prerouting",), WEB).certain == "elsewhere"
    assert fate(found, ("prerouting",), DNS).certain == "accept"


def test_rules_of_ours_are_passed_over(nft: Nft) -> None:
    nft.run("flush ruleset\ntable inet pybalancer { chain i { type filter hook input priority 0; policy drop; }\n}")
    assert tables(nft.list_json("list ruleset")) == {}


def test_what_no_version_of_nft_has_said_so_far() -> None:
    chain = {"family": "inet", "table": "t", "name": "c", "hook": "input", "policy": "drop"}
    for statement in (
        {"new": 1},
        {"match": {"op": "~", "left": 1, "right": 2}},
        {},
        {"vmap": {"key": 1, "data": {"set": [1]}}},
    ):
        rule = {"family": "inet", "table": "t", "chain": "c", "expr": [statement, {"accept": None}]}
        found = tables([{"metainfo": {}}, {"chain": chain}, {"rule": rule}])
        assert fate(list(found.values()), ("input",), WEB).certain is None
