"""Chains of iptables, as `iptables-save` has them (iptables-save(8)). Pure."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterator
from contextlib import suppress

from balancer.doctor.packets import UNKNOWN, Chain, Match, Rule, Value

__all__ = ["tables"]

_HOOKS = {"INPUT": "input", "FORWARD": "forward", "OUTPUT": "output", "PREROUTING": "prerouting"}
_ENDS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "drop", "RETURN": "return", "DNAT": "elsewhere"}
_ENDS |= {"REDIRECT": "elsewhere", "TPROXY": "elsewhere", "NETMAP": "elsewhere"}
_PASSING = {"LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "CT", "NOTRACK", "TRACE", "SET", "TCPMSS", "MASQUERADE", "SNAT"}
_PROTOCOLS = {"6": "tcp", "17": "udp", "112": "vrrp", "carp": "vrrp", "ipv6-icmp": "icmpv6"}
# Types of ICMP, as they are saved, that are looked for; in nft's words.
_TYPES = {"3": "destination-unreachable", "3/4": "destination-unreachable", "2": "packet-too-big"}
_ANY_TYPE = {"255", "any"}
# Matches that say nothing by themselves, or nothing at all.
_SILENT = {"tcp", "udp", "conntrack", "state", "multiport", "comment", "addrtype", "pkttype", "icmp", "icmp6"}
_KEYS = {"-i": "iif", "-o": "oif", "-s": "saddr", "-d": "daddr", "-p": "protocol", "--dport": "dport"}
# No packet is of no family.
_NEVER = Match("family", ())
_KEYS |= {"--dports": "dport", "--ctstate": "state", "--state": "state", "--dst-type": "dtype", "--pkt-type": "dtype"}
_KEYS |= {"--icmp-type": "type", "--icmpv6-type": "type"}


def tables(text: str, family: int) -> dict[str, dict[str, Chain]]:
    """By name of table, the chains by theirs."""
    found: dict[str, dict[str, tuple[str, list[Rule]]]] = {}
    table: dict[str, tuple[str, list[Rule]]] = {}
    for line in text.splitlines():
        if line.startswith("*"):
            table = found.setdefault(line[1:].strip(), {})
        elif line.startswith(":"):
            name, policy = [*line[1:].split(), "-", "-"][:2]
            table.setdefault(name, (policy, []))
        elif line.startswith("-A "):
            try:
                words = shlex.split(line)
            except ValueError:
                words = line.split()
            if len(words) > 1:
                table.setdefault(words[1], ("-", []))[1].append(_rule(words[2:]))
    six = "6" if family == 6 else ""
    return {
        name: {
            chain: Chain(
                where=f"ip{six}tables {chain}" if name == "filter" else f"ip{six}tables {chain} of {name}",
                rules=(Rule((Match("family", (10 - family,)),), "accept"), *rules) if chain in _HOOKS else tuple(rules),
                hook=_HOOKS.get(chain, ""),
                policy="drop" if policy == "DROP" else "accept",
            )
            for chain, (policy, rules) in chains.items()
        }
        for name, chains in found.items()
    }


def _rule(words: list[str]) -> Rule:
    matches: list[Match] = []
    rest = iter(words)
    is_not = False
    for word in rest:
        if word == "!":
            is_not = True
            continue
        if word in ("-j", "-g"):
            target = next(rest, "")
            if target in _PASSING:
                break
            if target in _ENDS:
                return Rule(tuple(matches), _ENDS[target])  # type: ignore[arg-type]
            return Rule(tuple(matches), "goto" if word == "-g" else "jump", target)
        if word == "-m":
            if next(rest, "") not in _SILENT:
                matches.append(UNKNOWN)
        elif word in _KEYS:
            matches.append(_match(_KEYS[word], next(rest, ""), is_not=is_not))
        elif word == "--syn":
            # Of a new connection, as these packets are.
            matches += [UNKNOWN] if is_not else []
        elif word == "--comment":
            next(rest, "")
        elif word.startswith("-"):
            matches.append(UNKNOWN)
        is_not = False
    # It only counts, or marks.
    return Rule((_NEVER,), "return")


def _match(key: str, text: str, *, is_not: bool) -> Match:
    values = list(_values(key, text))
    return Match(key, tuple(values), is_not) if None not in values else UNKNOWN  # type: ignore[arg-type]


def _values(key: str, text: str) -> Iterator[Value | None]:
    for word in text.split(","):
        if key == "dport":
            first, _, last = word.partition(":")
            yield (int(first), int(last or first)) if first.isdigit() and (last or first).isdigit() else None
        elif key in ("saddr", "daddr"):
            network: Value | None = None
            with suppress(ValueError):
                network = ipaddress.ip_network(word, strict=False)
            yield network
        elif key == "state":
            # Those of a translation are statuses there.
            yield word.lower()
        elif key == "dtype":
            yield {"host": "local", "unicast": None}.get(word.lower(), word.lower())
        elif key == "protocol":
            yield _PROTOCOLS.get(word, word)
        elif key == "type":
            yield None if word in _ANY_TYPE else _TYPES.get(word, word)
        else:
            # iptables' + is any more letters.
            yield word[:-1] + "*" if word.endswith("+") else word
