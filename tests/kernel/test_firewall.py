"""Rules as hosts have them, put into a namespace and read back as nft tells them."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.config.model import Masquerade
from balancer.kernel.firewall import hindrances
from balancer.kernel.nft import Nft
from tests.kernel.stage import SERVERS, SERVERS_V6, TCP, TCP_V6, UDP, VIP, VIP_V6, Service, Target
from tests.vrrp.conftest import Net, as_root

from . import conftest as stage
from .conftest import Bed, Kernel, asking, query, who

pytestmark = as_root

DNS = Service("names", "udp", 4, VIP, 53, tuple(Target(each, 5353) for each in SERVERS), is_per_query=True)
DNS_V6 = Service("names", "udp", 6, VIP_V6, 53, tuple(Target(each, 5353) for each in SERVERS_V6), is_per_query=True)
OUT = Masquerade(source="10.0.100.0/24", interface="eth0")
OUT_V6 = Masquerade(source="2001:db8:2::/64", interface="eth0")
ANYWHERE = Service("any", "tcp", 4, "", 80)
DROPS = "table ip filter {\n chain FORWARD { type filter hook forward priority 0; policy drop;\n %s\n }\n}"
FORWARD_STOPS = (
    "chain FORWARD of table ip filter stops what is not allowed there: allow what is balanced (`ct status dnat accept`)"
)

START = "chain FORWARD of table ip filter stops what is not allowed there: allow "
QUERIES_STOP = "the datagrams of port 5353, both ways: no state is kept of them"
OUT_STOPS = (
    "what gateway.masquerade sends out (`ip saddr 10.0.100.0/24 accept`) and its answers "
    "(`ct state established,related accept`)"
)


@pytest.fixture
def nft() -> Iterator[Nft]:
    net = Net()
    with net:
        nft = Nft()
        yield nft
        nft.close()
    net.close()


def found(nft: Nft, rules: str, *services: Service, out: tuple[Masquerade, ...] = ()) -> list[str]:
    """Once these are the only rules."""
    nft.run(f"flush ruleset\n{rules}")
    return hindrances(nft.list_json("list ruleset"), services, out)


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
    assert said == f"{FORWARD_STOPS}, and {QUERIES_STOP}"


def test_a_firewall_of_the_other_family(nft: Nft) -> None:
    assert found(nft, DROPS % "", TCP_V6) == []
    assert len(found(nft, (DROPS % "").replace("table ip ", "table inet "), TCP_V6)) == 1


@pytest.mark.parametrize(
    "rule", ["ct status dnat accept", "ct status dnat counter accept", "ct status snat,dnat accept"]
)
def test_a_firewall_that_knows_of_us(nft: Nft, rule: str) -> None:
    assert found(nft, DROPS % rule, TCP) == []


BOTH_WAYS = "ip daddr 10.0.100.0/24 udp dport 5353 accept\n ip saddr 10.0.100.0/24 udp sport 5353 accept"


@pytest.mark.parametrize(
    "rules",
    [
        "ct status dnat accept",
        "ct state established,related,new accept",
        "ct state vmap { established : accept, new : accept }",
        BOTH_WAYS.partition("\n")[0],
        BOTH_WAYS.partition("\n")[2],
        BOTH_WAYS.replace("5353", "53"),
        BOTH_WAYS.replace("udp", "tcp"),
        BOTH_WAYS.replace("10.0.100.0/24", "10.0.100.2"),
        BOTH_WAYS.replace("10.0.100.0/24", "10.9.0.1-10.9.0.200"),
        BOTH_WAYS.replace("accept", "ct state new,established accept"),
        BOTH_WAYS.replace("accept", "ct status dnat accept"),
        BOTH_WAYS.replace("accept", "ct direction original accept"),
        BOTH_WAYS.replace("accept", "counter"),
        "iifname lo accept",
    ],
)
def test_a_firewall_that_stops_queries_which_have_no_state(nft: Nft, rules: str) -> None:
    assert found(nft, DROPS % rules, DNS) == [f"{START}{QUERIES_STOP}"]
    assert found(nft, DROPS % f"ct status dnat accept\n {rules}", TCP, DNS) == [f"{START}{QUERIES_STOP}"]


@pytest.mark.parametrize(
    "rules",
    [
        BOTH_WAYS,
        BOTH_WAYS.replace("10.0.100.0/24", "10.0.100.2-10.0.100.3"),
        BOTH_WAYS.replace("10.0.100.0/24", "{ 10.0.100.2, 10.0.100.3 }"),
        BOTH_WAYS.replace("accept", "ct state untracked counter accept"),
        BOTH_WAYS.replace("accept", "iifname != eth7 ip ttl 1-255 accept"),
        "udp dport 5353 accept\n udp sport 5353 accept",
        "udp dport vmap { 53 : drop, 5353 : accept }\n udp sport { 53, 5353 } accept",
        "ct state established,related,untracked accept",
        "ct state vmap { established : accept, untracked : accept, invalid : drop }",
        "meta l4proto { udp, icmp } accept",
        "ip protocol udp accept",
    ],
)
def test_a_firewall_that_knows_of_queries(nft: Nft, rules: str) -> None:
    assert found(nft, DROPS % rules, DNS) == []
    assert found(nft, DROPS % rules, TCP, DNS) == [FORWARD_STOPS]


def test_queries_of_either_family(nft: Nft) -> None:
    inet = (DROPS % BOTH_WAYS).replace("table ip ", "table inet ")
    assert found(nft, inet, DNS) == []
    (said,) = found(nft, inet, DNS, DNS_V6)
    assert said.endswith(f"allow {QUERIES_STOP}")
    six = BOTH_WAYS.replace("ip ", "ip6 ").replace("10.0.100.0/24", "2001:db8:2::/64")
    assert found(nft, (DROPS % f"{BOTH_WAYS}\n {six}").replace("table ip ", "table inet "), DNS, DNS_V6) == []


ESTABLISHED = "ct state established,related accept"


@pytest.mark.parametrize(
    "rules",
    [
        "",
        "ct status dnat accept",
        ESTABLISHED,
        "ip saddr 10.0.100.0/24 accept",
        f"{ESTABLISHED}\n ip saddr 10.0.101.0/24 accept",
        f"{ESTABLISHED}\n ip saddr != 10.0.100.0/24 accept",
        f"{ESTABLISHED}\n ip saddr 10.0.100.0/24 oifname eth1 accept",
        f"{ESTABLISHED}\n ip saddr 10.0.100.0/24 ct status dnat accept",
        f"{ESTABLISHED}\n ip saddr 10.0.100.0/24 ct state established accept",
        f'{ESTABLISHED}\n iifname "docker0" oifname != "docker0" accept',
        f"{ESTABLISHED}\n ip saddr 10.0.100.0/24 drop",
    ],
)
def test_a_firewall_that_stops_the_servers_way_out(nft: Nft, rules: str) -> None:
    assert found(nft, DROPS % rules, out=(OUT,)) == [f"{START}{OUT_STOPS}"]
    (said,) = found(nft, DROPS % rules, TCP, DNS, out=(OUT,))
    assert said.endswith(f", and {OUT_STOPS}")


@pytest.mark.parametrize(
    "rules",
    [
        f"{ESTABLISHED}\n ip saddr 10.0.100.0/24 accept",
        f"{ESTABLISHED}\n ip saddr 10.0.0.0/8 oifname eth0 ct state new accept",
        f"{ESTABLISHED}\n ip saddr 10.0.100.0/24 tcp dport 443 accept",
        f"{ESTABLISHED}\n oifname eth* accept",
        "ct state vmap { established : accept, related : accept, invalid : drop }\n iifname eth1 accept",
        "ip saddr 10.0.100.0/24 accept\n ip daddr 10.0.100.0/24 accept",
        "iifname eth1 oifname eth0 accept\n iifname eth0 oifname eth1 accept",
    ],
)
def test_a_firewall_that_lets_the_servers_out(nft: Nft, rules: str) -> None:
    assert found(nft, DROPS % rules, out=(OUT,)) == []


def test_a_way_out_of_the_other_family(nft: Nft) -> None:
    assert found(nft, DROPS % "", out=(OUT_V6,)) == []
    (said,) = found(nft, (DROPS % "").replace("table ip ", "table ip6 "), TCP, out=(OUT, OUT_V6))
    assert "ip6 saddr 2001:db8:2::/64 accept" in said and "dnat" not in said and "10.0.100.0" not in said


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


# What the README tells to allow, and that it is what packets need

SITE = f"""
frontends:
  web: {{mode: tcp, engine: kernel, bind: ["{stage.VIP}:80", "[{stage.VIP_V6}]:80"], default_backend: web}}
  dns: {{mode: udp, engine: kernel, bind: "{stage.VIP}:53", default_backend: dns}}
  dns6: {{mode: udp, engine: kernel, bind: "[{stage.VIP_V6}]:53", default_backend: dns6}}
backends:
  web: {{servers: {{a: {{address: "10.0.100.2:80"}}, b: {{address: "[fd00:100::2]:80"}}}}}}
  dns: {{servers: {{a: {{address: "10.0.100.2:53"}}}}}}
  dns6: {{servers: {{b: {{address: "[fd00:100::2]:53"}}}}}}
gateway: {{masquerade: [{{source: 10.0.100.0/24, interface: eth0}}]}}
"""
README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
TOLD = re.findall(r"^    nft (add rule inet filter forward .*)$", README, re.MULTILINE)


def has_answer(bed: Bed, vip: str) -> bool:
    with asking(bed.client, vip) as asker:
        asker.sock.settimeout(0.3)
        asker.sock.send(query())
        try:
            return bool(asker.sock.recv(512))
        except TimeoutError:
            return False


def has_a_way_out(bed: Bed) -> bool:
    with bed.client:
        listener = socket.create_server((stage.CLIENT, 9000))
    with listener, bed.hosts["web1"]:
        try:
            socket.create_connection((stage.CLIENT, 9000), timeout=0.3).close()
        except TimeoutError:
            return False
    return True


def in_the_way(bed: Bed, kernel: Kernel, rules: list[str]) -> list[str]:
    bed.nft.run(
        "add table inet filter\ndelete table inet filter\nadd table inet filter\n"
        "add chain inet filter forward { type filter hook forward priority 0; policy drop; }\n" + "\n".join(rules)
    )
    return hindrances(bed.nft.list_json("list table inet filter"), kernel.services, kernel.config.gateway.masquerade)


def test_what_the_readme_says_is_enough(bed: Bed) -> None:
    kernel = Kernel(bed, SITE)
    assert len(TOLD) == 7
    assert in_the_way(bed, kernel, TOLD) == []
    assert (who(bed.client, stage.VIP), who(bed.client, stage.VIP_V6)) == ("web1", "web1")
    assert has_answer(bed, stage.VIP) and has_answer(bed, stage.VIP_V6)
    assert has_a_way_out(bed)


def test_what_is_stopped_without_it_is_told_of(bed: Bed) -> None:
    kernel = Kernel(bed, SITE)
    (said,) = in_the_way(bed, kernel, TOLD[:1])
    assert "ct status" not in said
    assert "the datagrams of port 53, both ways" in said and not has_answer(bed, stage.VIP)
    assert "what gateway.masquerade sends out (`ip saddr 10.0.100.0/24" in said and not has_a_way_out(bed)
    assert who(bed.client, stage.VIP) == "web1"
    without_six = [rule for rule in TOLD if "ip6" not in rule]
    (said,) = in_the_way(bed, kernel, without_six)
    assert said.endswith("allow the datagrams of port 53, both ways: no state is kept of them")
    assert has_answer(bed, stage.VIP) and not has_answer(bed, stage.VIP_V6)
