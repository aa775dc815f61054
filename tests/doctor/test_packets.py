from __future__ import annotations

import ipaddress

import pytest

from balancer.doctor.packets import UNKNOWN, Chain, Match, Packet, Rule, fate

WEB = Packet(4, "tcp", frozenset({"eth0"}), destination="192.0.2.200", port=80)
ACCEPT, DROP = Rule((), "accept"), Rule((), "drop")


def outcomes(*rules: Rule, policy: str = "accept", packet: Packet = WEB, **others: tuple[Rule, ...]) -> set[str]:
    chains = {"input": Chain("t input", rules, "input", policy)}  # type: ignore[arg-type]
    chains |= {name: Chain(f"t {name}", each) for name, each in others.items()}
    return set(fate([chains], ("input",), packet).outcomes)


def net(*texts: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))


@pytest.mark.parametrize(
    ("match", "holds"),
    [
        (Match("family", (4,)), True),
        (Match("family", (6,)), False),
        (Match("protocol", ("tcp", "udp")), True),
        (Match("protocol", ("tcp",), True), False),
        (Match("dport", (80,)), True),
        (Match("dport", ((1, 79), (81, 90))), False),
        (Match("dport", ((79, 81),)), True),
        (Match("state", ("established", "related")), False),
        (Match("state", ("new",)), True),
        (Match("state", ("invalid",), True), True),
        (Match("iif", ("eth0",)), True),
        (Match("iif", ("lo",)), False),
        (Match("iif", ("eth*",), True), False),
        (Match("oif", ("eth0",)), False),
        (Match("daddr", net("192.0.2.0/24")), True),
        (Match("daddr", net("198.51.100.0/24", "2001:db8::/32")), False),
        (Match("saddr", net("10.0.0.0/8")), None),
        (Match("saddr", net("0.0.0.0/0")), True),
        (Match("saddr", net("2001:db8::/32")), False),
        (Match("saddr", ("?",)), None),
        (Match("meter"), None),
        (UNKNOWN, None),
    ],
)
def test_what_a_rule_asks_for(match: Match, holds: bool | None) -> None:
    wanted = {True: {"drop"}, False: {"accept"}, None: {"accept", "drop"}}[holds]
    assert outcomes(Rule((match,), "drop")) == wanted


def test_several_interfaces_may_differ() -> None:
    packet = Packet(4, "tcp", frozenset({"eth0", "eth1"}), port=80)
    assert outcomes(Rule((Match("iif", ("eth0",)),), "drop"), packet=packet) == {"accept", "drop"}
    assert outcomes(Rule((Match("iif", ("eth*",)),), "drop"), packet=packet) == {"drop"}


def test_the_first_that_holds_counts() -> None:
    assert outcomes(ACCEPT, DROP) == {"accept"} and outcomes(DROP, ACCEPT) == {"drop"}
    assert outcomes(policy="drop") == {"drop"} and outcomes() == {"accept"}
    assert outcomes(Rule((UNKNOWN,), "accept"), DROP) == {"accept", "drop"}
    assert outcomes(Rule((UNKNOWN,), "drop"), DROP) == {"drop"}, "whatever it is"


def test_one_that_fails_for_certain_asks_nothing_more() -> None:
    assert outcomes(Rule((UNKNOWN, Match("dport", (22,))), "accept"), DROP) == {"drop"}


def test_chains_that_lead_to_others() -> None:
    jump, goto = Rule((), "jump", "a"), Rule((), "goto", "a")
    assert outcomes(jump, DROP, a=()) == {"drop"} and outcomes(goto, DROP, a=()) == {"accept"}
    assert outcomes(jump, DROP, a=(ACCEPT,)) == {"accept"}
    assert outcomes(jump, DROP, a=(Rule((), "return"), ACCEPT)) == {"drop"}
    assert outcomes(jump, a=(Rule((UNKNOWN,), "drop"),)) == {"accept", "drop"}
    assert outcomes(Rule((), "jump", "nowhere"), ACCEPT) == {"accept", "drop"}
    assert outcomes(jump, a=(Rule((), "jump", "a"),)) == {"accept", "drop"}, "without an end"


def test_each_chain_must_let_it_pass() -> None:
    good = {"input": Chain("a", (ACCEPT,), "input")}
    bad = {"raw": Chain("b", (), "prerouting", "drop")}
    found = fate([good, bad], ("prerouting", "input"), WEB)
    assert (found.certain, found.where) == ("drop", "b")
    assert fate([good, bad], ("output",), WEB).certain == "accept"


def test_what_it_depends_on() -> None:
    some = {"input": Chain("c", (Rule((Match("saddr", net("10.0.0.0/8")),), "accept"),), "input", "drop")}
    assert fate([some], ("input",), WEB) == ({"accept", "drop"}, "c", {"saddr"})


def test_thousands_of_rules_end_in_time() -> None:
    jump = Rule((UNKNOWN,), "jump", "a")
    assert outcomes(*(jump,) * 300, a=(DROP._replace(matches=(UNKNOWN,)),) * 300) == {"accept", "drop"}
