"""What becomes of a packet in the chains of a firewall, as far as their rules are understood. Pure.

A rule that asks for something that is not known, or not understood here, may fit or not: then both ways are followed,
and what comes of it is that the packet may be accepted or dropped. So what is said for certain is certain.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["UNKNOWN", "Chain", "Fate", "Match", "Outcome", "Packet", "Rule", "Value", "fate"]

Outcome = Literal["accept", "drop", "elsewhere"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Value = str | int | tuple[int, int] | Network
# What a connection is not that begins with this packet (conntrack's status).
_NOT_YET = {"dnat", "snat", "assured", "seen-reply", "dying"}
# One of another may not come to an end.
_DEEPEST = 32
# By name of chain, what is met on the way at most.
_MOST_RULES = 200_000


class Match(NamedTuple):
    """What has to hold for a rule."""

    key: str
    """family, protocol, daddr, saddr, dport, type (of ICMP), iif, oif, state, status, dtype (local or multicast); or
    something that is not known here."""
    values: tuple[Value, ...] = ()
    """Any of these; interfaces may end with *."""
    is_not: bool = False


UNKNOWN = Match("?")
"""Nobody knows."""


class Rule(NamedTuple):
    """Its verdict counts where all of it holds."""

    matches: tuple[Match, ...]
    verdict: Literal["accept", "drop", "elsewhere", "return", "jump", "goto", "unknown"]
    target: str = ""
    """Chain to jump or go to."""


@dataclass(frozen=True, slots=True)
class Chain:
    """One of a table."""

    where: str
    """What it is called, for people and commands."""
    rules: tuple[Rule, ...]
    hook: str = ""
    """Empty: others lead here."""
    policy: Outcome = "accept"


@dataclass(frozen=True, slots=True)
class Packet:
    """What is known of it."""

    family: int
    protocol: str
    interfaces: frozenset[str]
    """It comes in, or goes out, by one of these."""
    destination: str = ""
    """Empty: one of this host's."""
    port: int | None = None
    source: str = ""
    """Empty: anybody's."""
    is_leaving: bool = False
    kind: str = ""
    """Of ICMP: its type, in nft's words."""
    state: str = "new"
    """Of its connection (conntrack)."""


class Fate(NamedTuple):
    """What may become of it."""

    outcomes: frozenset[Outcome]
    where: str = ""
    """The chain that may drop it, or send it elsewhere."""
    doubts: frozenset[str] = frozenset()
    """Keys that it depends on."""

    @property
    def certain(self) -> Outcome | None:
        return next(iter(self.outcomes)) if len(self.outcomes) == 1 else None


def fate(tables: Sequence[Mapping[str, Chain]], hooks: Sequence[str], packet: Packet) -> Fate:
    """Of a packet that comes by these hooks, in all tables (by name of chain)."""
    may: Fate | None = None
    for table in tables:
        for chain in table.values():
            if chain.hook not in hooks:
                continue
            walk = _Walk(table, packet)
            outcomes = walk.through(chain, 0)
            found: set[Outcome] = {each for each in outcomes if each in ("accept", "drop", "elsewhere")}  # type: ignore[misc]
            if "fall" in outcomes:
                found.add(chain.policy)
            if "accept" not in found:
                return Fate(frozenset(found), chain.where, frozenset(walk.doubts))
            if found != {"accept"} and may is None:
                may = Fate(frozenset(found), chain.where, frozenset(walk.doubts))
    return may or Fate(frozenset({"accept"}))


class _Walk:
    def __init__(self, table: Mapping[str, Chain], packet: Packet) -> None:
        self._table = table
        self._packet = packet
        self._left = _MOST_RULES
        self.doubts: set[str] = set()

    def through(self, chain: Chain, depth: int) -> set[str]:
        """What may come of it; `fall`: nothing, and the one that led here goes on."""
        outcomes: set[str] = set()
        for rule in chain.rules:
            self._left -= 1
            if self._left < 0 or depth > _DEEPEST:
                self.doubts.add("?")
                return {"accept", "drop", "fall"}
            holds = self._holds(rule)
            if holds is False:
                continue
            results = self._results(rule, depth)
            outcomes |= results - {"next"}
            if holds and "next" not in results:
                return outcomes
        return outcomes | {"fall"}

    def _results(self, rule: Rule, depth: int) -> set[str]:
        """`next`: the rule behind it."""
        if rule.verdict == "return":
            return {"fall"}
        if rule.verdict == "unknown":
            self.doubts.add("?")
            return {"accept", "drop", "next"}
        if rule.verdict not in ("jump", "goto"):
            return {rule.verdict}
        target = self._table.get(rule.target)
        if target is None:
            self.doubts.add("?")
            return {"accept", "drop", "next"}
        results = self.through(target, depth + 1)
        if rule.verdict == "jump" and "fall" in results:
            results = results - {"fall"} | {"next"}
        return results

    def _holds(self, rule: Rule) -> bool | None:
        answers = [(match.key, _answer(match, self._packet)) for match in rule.matches]
        if any(answer is False for _, answer in answers):
            return False
        doubts = {key for key, answer in answers if answer is None}
        self.doubts |= doubts
        return None if doubts else True


def _answer(match: Match, packet: Packet) -> bool | None:
    key = match.key
    found: bool | None
    if key in ("iif", "oif"):
        if (key == "oif") != packet.is_leaving:
            # There is none: nothing is the name of it.
            return match.is_not
        said = {any(_is_named(str(value), name) for value in match.values) for name in packet.interfaces}
        found = said.pop() if len(said) == 1 else None
    elif key == "family":
        found = packet.family in match.values
    elif key == "protocol":
        found = packet.protocol in match.values
    elif key == "state":
        found = packet.state in match.values
    elif key == "status":
        # Nobody has translated it, or seen an answer.
        is_first = packet.state == "new"
        found = False if is_first and all(value in _NOT_YET for value in match.values) else None
    elif key == "dtype":
        is_group = bool(packet.destination) and ipaddress.ip_address(packet.destination).is_multicast
        found = None if packet.is_leaving else ("multicast" if is_group else "local") in match.values
    elif key == "type":
        found = packet.kind in match.values
    elif key == "dport":
        found = packet.port is not None and any(_has(value, packet.port) for value in match.values)
    elif key in ("daddr", "saddr"):
        address = packet.destination if key == "daddr" else packet.source
        found = _of_address(match.values, packet.family, address)
    else:
        return None
    return found if found is None or not match.is_not else not found


def _of_address(values: Sequence[Value], family: int, text: str) -> bool | None:
    networks = [value for value in values if isinstance(value, (ipaddress.IPv4Network, ipaddress.IPv6Network))]
    if len(networks) != len(values):
        return None
    networks = [network for network in networks if network.version == family]
    if not networks:
        return False
    if text:
        address = ipaddress.ip_address(text)
        return any(address in network for network in networks)
    return True if any(not network.prefixlen for network in networks) else None


def _is_named(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _has(value: Value, number: int) -> bool:
    return value[0] <= number <= value[1] if isinstance(value, tuple) else value == number
