"""Rules as hosts have them, put into a namespace and read back as nft tells them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from balancer.kernel.firewall import hindrances
from balancer.kernel.nft import Nft
from tests.kernel.stage import TCP, TCP_V6, UDP, VIP, Service
from tests.vrrp.conftest import Net, as_root

pytestmark = as_root

DNS = Service("names", "udp", 4, VIP, 53, is_per_query=True)
ANYWHERE = Service("any", "tcp", 4, "", 80)
DROPS = "table ip filter {\n chain FORWARD { type filter hook forward priority 0; policy drop;\n %s\n }\n}"
FORWARD_STOPS = (
    "chain FORWARD of table ip filter stops what is not allowed there: allow what is balanced (`ct status dnat accept`)"
)


@pytest.fixture
def nft() -> Iterator[Nft]:
    net = Net()
    with net:
        nft = Nft()
        yield nft
        nft.close()
    net.close()


def found(nft: Nft, rules: str, *services: Service) -> list[str]:
    """Once these are the only rules."""
    nft.run(f"flush ruleset\n{rules}")
    return hindrances(nft.list_json("list ruleset"), services)


def dnat(match: str, table: str = "ip nat") -> str:
    return (
        f"table {table} {{\n chain PRE {{ type nat hook prerouting priority dstnat;\n"
        f"  {match} dnat to 10.9.9.9\n }}\n}}"
    )


def test_nothing_is_in_the_way_where_there_is_nothing(nft: Nft) -> None:
    assert found(nft, "", TCP, UDP) == []


def test_a_firewall_that_drops(nft: Nft) -> None:
    assert found(nft, DROPS % "ct state established,related accept", TCP) == [FORWARD_STOPS]
    (said,) = found(nft, DROPS % "", TCP, DNS)
    assert said == f"{FORWARD_STOPS}, and the datagrams of port 53, both ways: no state is kept of them"


def test_a_firewall_of_the_other_family(nft: Nft) -> None:
    assert found(nft, DROPS % "", TCP_V6) == []
    assert len(found(nft, (DROPS % "").replace("table ip ", "table inet "), TCP_V6)) == 1


@pytest.mark.parametrize(
    "rule", ["ct status dnat accept", "ct status dnat counter accept", "ct status snat,dnat accept"]
)
def test_a_firewall_that_knows_of_us(nft: Nft, rule: str) -> None:
    assert found(nft, DROPS % rule, TCP) == []


def test_it_may_know_of_us_in_another_chain(nft: Nft) -> None:
    rules = "table ip filter {\n chain more {\n ct status dnat accept\n }\n}\n" + DROPS % "jump more"
    assert found(nft, rules, TCP) == []


def test_a_last_rule_about_everything_is_as_good_as_a_policy(nft: Nft) -> None:
    rules = (DROPS % "ct state established accept\n reject with icmp admin-prohibited").replace("drop;", "accept;")
    assert found(nft, rules, TCP) == [FORWARD_STOPS]
    assert found(nft, rules.replace("reject with", "ip saddr 10.0.0.1 reject with"), TCP) == []


def test_own_rules_are_not_in_the_way(nft: Nft) -> None:
    own = "inet pybalancer"
    assert found(nft, dnat(f"ip daddr {VIP} tcp dport 80", own).replace("dnat to", "dnat ip to"), TCP) == []


@pytest.mark.parametrize(
    "match",
    [
        f"ip daddr {VIP} tcp dport 80",
        f"ip daddr {VIP}",
        "tcp dport 80",
        "tcp dport { 22, 80 }",
        "tcp dport 1-100",
        "tcp dport { 22, 79-81 }",
        "ip daddr 192.0.2.0/24 tcp dport 80",
        "ip daddr 192.0.2.1-192.0.2.250 tcp dport 80",
        f"ip daddr {{ 10.0.0.1, {VIP} }} tcp dport != 22",
        "meta l4proto { tcp, udp } th dport 80",
    ],
)
def test_somebody_else_sends_our_address_elsewhere(nft: Nft, match: str) -> None:
    assert found(nft, dnat(match), TCP) == [
        f"chain PRE of table ip nat has a rule that sends tcp {VIP}:80, which is web's, elsewhere"
    ]


@pytest.mark.parametrize(
    "match",
    [
        "tcp dport 81",
        "udp dport 80",
        f"ip daddr {VIP} tcp dport 443",
        "ip daddr 192.0.2.1 tcp dport 80",
        "ip daddr 198.51.100.0/24 tcp dport 80",
        f"ip daddr != {VIP} tcp dport 80",
        "ip saddr 10.0.0.1",
    ],
)
def test_what_others_send_elsewhere_is_not_ours(nft: Nft, match: str) -> None:
    assert found(nft, dnat(match if "dport" in match else f"meta l4proto tcp {match}"), TCP, TCP_V6) == []


def test_a_redirection_of_a_port_that_we_have_at_every_address(nft: Nft) -> None:
    rules = dnat("tcp dport 80").replace("dnat to 10.9.9.9", "redirect to :8080")
    (said,) = found(nft, rules, ANYWHERE)
    assert said == "chain PRE of table ip nat has a rule that sends tcp *:80, which is any's, elsewhere"


def test_tables_that_no_packet_of_ours_meets(nft: Nft) -> None:
    rules = "table arp filter {\n chain in { type filter hook input priority 0; policy drop;\n }\n}"
    assert found(nft, rules, TCP) == []
