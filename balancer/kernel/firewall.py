"""Rules of others that stand in the way: a firewall that stops what is balanced, a clash over an address.

Pure: it looks at what `nft -j list ruleset` says (libnftables-json(5)).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

__all__ = ["hindrances"]

_OWN = ("inet", "pybalancer")
_FAMILIES = {"ip": {4}, "ip6": {6}, "inet": {4, 6}}
# Statements that send a packet elsewhere, as nft has them and as iptables-nft does.
_ELSEWHERE, _ELSEWHERE_XT = {"dnat", "redirect", "tproxy"}, {"DNAT", "REDIRECT", "TPROXY"}
_ENDS = {"drop", "reject"}


class _Service(Protocol):
    @property
    def frontend(self) -> str: ...
    @property
    def protocol(self) -> Literal["tcp", "udp"]: ...
    @property
    def family(self) -> Literal[4, 6]: ...
    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def is_per_query(self) -> bool: ...


def hindrances(ruleset: Sequence[Mapping[str, Any]], services: Iterable[_Service]) -> list[str]:
    """What is in the way of `services`, each in one sentence; `ruleset`: the list under `nftables`."""
    services = list(services)
    chains = [each["chain"] for each in ruleset if "chain" in each]
    rules = [each["rule"] for each in ruleset if "rule" in each]
    families = {service.family for service in services}
    said = []
    for chain in chains:
        if _is_foreign(chain) and chain.get("hook") == "forward" and _FAMILIES[chain["family"]] & families:
            own = [rule for rule in rules if _place(rule) == _place(chain)]
            around = [rule for rule in rules if _table(rule) == _table(chain)]
            if _ends_badly(chain, own) and not any(map(_lets_pass, around)):
                what = f"what is balanced (`ct status dnat accept`){_untracked(services)}"
                said.append(f"{_named(chain)} stops what is not allowed there: allow {what}")
    for rule in rules:
        if _is_foreign(rule) and any(_sends_elsewhere(each) for each in rule.get("expr", ())):
            said += [
                f"{_named(rule)} has a rule that sends {_shown(service)}, which is {service.frontend}'s, elsewhere"
                for service in services
                if service.family in _FAMILIES[rule["family"]] and _is_about(rule, service)
            ]
    return said


def _untracked(services: Iterable[_Service]) -> str:
    ports = sorted({str(service.port) for service in services if service.is_per_query})
    return f", and the datagrams of port {', '.join(ports)}, both ways: no state is kept of them" if ports else ""


def _table(thing: Mapping[str, Any]) -> tuple[str, str]:
    return thing["family"], thing["table"]


def _place(thing: Mapping[str, Any]) -> tuple[str, str, str]:
    """Of a chain, and of a rule that is in it."""
    return (*_table(thing), thing.get("chain") or thing["name"])


def _named(thing: Mapping[str, Any]) -> str:
    family, table, chain = _place(thing)
    return f"chain {chain} of table {family} {table}"


def _is_foreign(thing: Mapping[str, Any]) -> bool:
    return thing["family"] in _FAMILIES and _table(thing) != _OWN


def _ends_badly(chain: Mapping[str, Any], rules: list[Mapping[str, Any]]) -> bool:
    """Does it drop or reject what its rules say nothing of? The last one may be about everything, as firewalld's is."""
    if chain.get("policy") == "drop":
        return True
    last = rules[-1].get("expr", []) if rules else []
    return any(_ENDS & each.keys() for each in last) and not any("match" in each for each in last)


def _lets_pass(rule: Mapping[str, Any]) -> bool:
    statements = rule.get("expr", [])
    return any("accept" in each for each in statements) and any(
        each.get("match", {}).get("left") == {"ct": {"key": "status"}} and "dnat" in _words(each["match"]["right"])
        for each in statements
    )


def _words(right: Any) -> list[Any]:
    if isinstance(right, Mapping):
        right = right.get("set", right.get("|", []))
    return right if isinstance(right, list) else [right]


def _sends_elsewhere(statement: Mapping[str, Any]) -> bool:
    return bool(_ELSEWHERE & statement.keys()) or statement.get("xt", {}).get("name") in _ELSEWHERE_XT


def _is_about(rule: Mapping[str, Any], service: _Service) -> bool:
    """Does it name the service's address or port, and nothing that the service is not?"""
    answers = list(_answers(rule, service))
    return bool(answers) and all(answers)


def _answers(rule: Mapping[str, Any], service: _Service) -> Iterator[bool]:
    for statement in rule.get("expr", ()):
        match = statement.get("match", {})
        payload = match.get("left", {}).get("payload", {}) if isinstance(match.get("left"), Mapping) else {}
        if payload.get("field") not in ("daddr", "dport"):
            continue
        if payload["field"] == "dport":
            is_same = payload["protocol"] in (service.protocol, "th") and _holds(match["right"], service.port)
        elif not service.address:
            # Which addresses this host has is not known here.
            continue
        else:
            is_same = _holds(match["right"], service.address)
        yield is_same == (match.get("op") != "!=")


def _holds(right: Any, value: str | int) -> bool:
    """Is the value among these? Of a named set it is not known: no."""
    if isinstance(right, Mapping):
        if "prefix" in right:
            network = ipaddress.ip_network(f"{right['prefix']['addr']}/{right['prefix']['len']}", strict=False)
            return isinstance(value, str) and ipaddress.ip_address(value) in network
        if "range" in right:
            first, last = map(_ordered, right["range"])
            return type(first) is type(_ordered(value)) and bool(first <= _ordered(value) <= last)
        return any(_holds(each, value) for each in right.get("set", ()))
    if isinstance(value, str) and isinstance(right, str) and not right.startswith("@"):
        return bool(_ordered(right) == _ordered(value))
    return type(right) is type(value) and bool(right == value)


def _ordered(value: str | int) -> Any:
    if isinstance(value, str):
        try:
            return ipaddress.ip_address(value)
        except ValueError:
            return value
    return value


def _shown(service: _Service) -> str:
    host = f"[{service.address}]" if ":" in service.address else service.address or "*"
    return f"{service.protocol} {host}:{service.port}"
