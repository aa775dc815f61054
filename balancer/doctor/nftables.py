"""Chains of nftables, as `nft -j list ruleset` has them (libnftables-json(5)). Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from balancer.doctor.packets import UNKNOWN, Chain, Match, Rule, Value

__all__ = ["tables"]

_OWN = ("inet", "pybalancer"), ("inet", "pybalancer_flows")
_FAMILIES = {"ip": 4, "ip6": 6, "inet": 0}
# As nft has them by their numbers, where the machine knows no name.
_PROTOCOLS = {6: "tcp", 17: "udp", 112: "vrrp", "carp": "vrrp", 1: "icmp", 58: "icmpv6", "ipv6-icmp": "icmpv6"}
_IN_A_TRANSPORT = {"tcp", "udp", "sctp", "dccp", "udplite", "icmp", "icmpv6", "igmp", "ah", "esp", "comp"}
# Statements that let the packet go on to the next one.
_PASSING = {"counter", "log", "comment", "notrack", "mangle", "set", "ct helper", "ct timeout", "flow", "dup", "meter"}
_PASSING |= {"last", "secmark", "masquerade", "snat"}
_ENDS = {"accept": "accept", "drop": "drop", "reject": "drop", "return": "return", "dnat": "elsewhere"}
_ENDS |= {"redirect": "elsewhere", "tproxy": "elsewhere", "fwd": "elsewhere"}
_XT_ENDS = {"DNAT": "elsewhere", "REDIRECT": "elsewhere", "TPROXY": "elsewhere", "REJECT": "drop", "DROP": "drop"}
_XT_PASSING = {
    "LOG",
    "NFLOG",
    "MARK",
    "CONNMARK",
    "CT",
    "TRACE",
    "SET",
    "SECMARK",
    "CONNSECMARK",
    "TCPMSS",
    "MASQUERADE",
}


def tables(ruleset: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, Chain]]:
    """By family and name, the chains by theirs; without those that are ours, and of bridges and the like."""
    sets: dict[tuple[str, str, str], Any] = {}
    for thing in ruleset:
        for kind in ("set", "map"):
            if kind in thing:
                own = thing[kind]
                sets[own["family"], own["table"], own["name"]] = own.get("elem", [])
    rules: dict[tuple[str, str, str], list[Rule]] = {}
    for thing in ruleset:
        if "rule" in thing and thing["rule"]["family"] in _FAMILIES:
            own = thing["rule"]
            at = own["family"], own["table"]
            rules.setdefault((*at, own["chain"]), []).extend(_Reader(at, sets).rules(own.get("expr", ())))
    found: dict[tuple[str, str], dict[str, Chain]] = {}
    for thing in ruleset:
        own = thing.get("chain")
        if own is None or own["family"] not in _FAMILIES or (own["family"], own["table"]) in _OWN:
            continue
        at = own["family"], own["table"]
        family = _FAMILIES[own["family"]]
        before = (Rule((Match("family", (10 - family,)),), "accept"),) if family else ()
        found.setdefault(at, {})[own["name"]] = Chain(
            where=f"{own['family']} {own['table']} {own['name']}",
            # Packets of the other version of IP do not come there.
            rules=(*(before if own.get("hook") else ()), *rules.get((*at, own["name"]), ())),
            hook=own.get("hook", ""),
            policy="drop" if own.get("policy") == "drop" else "accept",
        )
    return found


class _Reader:
    def __init__(self, table: tuple[str, str], sets: Mapping[tuple[str, str, str], Any]) -> None:
        self._table = table
        self._sets = sets

    def rules(self, statements: Sequence[Mapping[str, Any]]) -> Iterator[Rule]:
        """Those that one of nftables comes to: one, or one for each verdict of a map."""
        matches: list[Match] = []
        for statement in statements:
            if not isinstance(statement, Mapping) or not statement:
                matches.append(UNKNOWN)
                continue
            kind, body = next(iter(statement.items()))
            if kind == "match":
                matches += self._match(body)
            elif kind in _ENDS:
                yield Rule(tuple(matches), _ENDS[kind])  # type: ignore[arg-type]
                return
            elif kind in ("jump", "goto"):
                yield Rule(tuple(matches), kind, body["target"])  # type: ignore[arg-type]
            elif kind == "vmap":
                yield from self._of_map(tuple(matches), body)
            elif kind == "xt":
                name = body.get("name") if isinstance(body, Mapping) else None
                if name in _XT_ENDS:
                    yield Rule(tuple(matches), _XT_ENDS[name])  # type: ignore[arg-type]
                    return
                if name not in _XT_PASSING:
                    matches.append(Match("xt"))
            elif kind == "limit":
                matches.append(Match("limit"))
            elif kind == "queue":
                yield Rule(tuple(matches), "unknown")
                return
            elif kind not in _PASSING and kind != "continue":
                matches.append(UNKNOWN)

    def _of_map(self, matches: tuple[Match, ...], body: Mapping[str, Any]) -> Iterator[Rule]:
        data = body.get("data")
        pairs = (
            self._elements(data) if isinstance(data, str) else data.get("set", ()) if isinstance(data, Mapping) else ()
        )
        for pair in pairs:
            key, verdict = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
            if not isinstance(verdict, Mapping):
                yield Rule((*matches, UNKNOWN), "unknown")
                continue
            own = (*matches, *self._match({"left": body.get("key"), "right": key, "op": "=="}))
            yield from (rule._replace(matches=(*own, *rule.matches)) for rule in self.rules([verdict]))

    def _elements(self, name: str) -> Sequence[Any]:
        found = self._sets.get((*self._table, name.removeprefix("@")), ())
        return [each["elem"]["val"] if isinstance(each, Mapping) and "elem" in each else each for each in found]

    def _match(self, body: Mapping[str, Any]) -> Iterator[Match]:
        left, is_not = body.get("left"), body.get("op") == "!="
        if body.get("op") not in ("==", "!=", "in") or not isinstance(left, Mapping) or not left:
            yield UNKNOWN
            return
        kind, of = next(iter(left.items()))
        key, implied = _asked(kind, of)
        yield from implied
        if not key:
            yield UNKNOWN
            return
        values = list(self._values(key, body.get("right")))
        yield Match(key, tuple(values), is_not) if None not in values else UNKNOWN  # type: ignore[arg-type]

    def _values(self, key: str, right: Any) -> Iterator[Value | None]:
        """None for what is not understood."""
        if isinstance(right, str) and right.startswith("@"):
            for each in self._elements(right):
                yield from self._values(key, each)
        elif isinstance(right, list):
            for each in right:
                yield from self._values(key, each)
        elif isinstance(right, Mapping) and "set" in right:
            yield from self._values(key, right["set"])
        elif isinstance(right, Mapping) and "elem" in right:
            yield from self._values(key, right["elem"].get("val"))
        else:
            yield _value(key, right)


def _asked(kind: str, of: Any) -> tuple[str, list[Match]]:
    """The key of a match, and what it takes for granted; an empty key is not known here."""
    if not isinstance(of, Mapping):
        return "", []
    if kind == "payload":
        protocol, field = of.get("protocol", ""), of.get("field", "")
        if protocol in ("ip", "ip6"):
            family = [Match("family", (4 if protocol == "ip" else 6,))]
            key = {"saddr": "saddr", "daddr": "daddr", "protocol": "protocol", "nexthdr": "protocol"}.get(field, "")
            return key, family
        if protocol in _IN_A_TRANSPORT:
            known = {"dport": "dport"} | ({"type": "type"} if protocol in ("icmp", "icmpv6") else {})
            return known.get(field, ""), [Match("protocol", (protocol,))]
        return ("dport" if (protocol, field) == ("th", "dport") else ""), []
    if kind == "meta":
        names = {"l4proto": "protocol", "nfproto": "family", "protocol": "family", "iifname": "iif", "iif": "iif"}
        names |= {"oifname": "oif", "oif": "oif", "pkttype": "dtype"}
        return names.get(of.get("key", ""), ""), []
    if kind == "ct" and of.get("key") in ("state", "status"):
        return str(of["key"]), []
    if kind == "fib" and of.get("result") == "type" and of.get("flags") in ("daddr", ["daddr"]):
        return "dtype", []
    return "", []


def _value(key: str, right: Any) -> Value | None:
    if isinstance(right, bool):
        return None
    if key == "dport":
        if isinstance(right, Mapping) and isinstance(right.get("range"), list):
            first, last = right["range"]
            return (first, last) if isinstance(first, int) and isinstance(last, int) else None
        return right if isinstance(right, int) else None
    if key in ("saddr", "daddr"):
        return _network(right)
    if key == "family":
        return {"ipv4": 4, "ipv6": 6, "ip": 4, "ip6": 6}.get(right) if isinstance(right, str) else None
    if key == "protocol":
        return _PROTOCOLS.get(right, str(right)) if isinstance(right, (str, int)) else None
    if key == "dtype":
        # Of a frame's kinds, what a packet for this host comes in.
        return {"host": "local", "unicast": None}.get(right, right) if isinstance(right, str) else None
    return right if isinstance(right, str) else None


def _network(right: Any) -> Value | None:
    with suppress(ValueError, TypeError, KeyError):
        if isinstance(right, Mapping) and "prefix" in right:
            return ipaddress.ip_network(f"{right['prefix']['addr']}/{right['prefix']['len']}", strict=False)
        if isinstance(right, str):
            return ipaddress.ip_network(right, strict=False)
    return None
