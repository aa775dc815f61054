"""Rules of others that stand in the way: a firewall that stops what is balanced, a clash over an address.

Pure: it looks at what `nft -j list ruleset` says (libnftables-json(5)).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain as chained
from typing import Any

from balancer.config.model import Masquerade
from balancer.kernel.plan import Service

__all__ = ["hindrances"]

_OWN = ("inet", "pybalancer")
_FAMILIES = {"ip": {4}, "ip6": {6}, "inet": {4, 6}}
# Statements that send a packet elsewhere, as nft has them and as iptables-nft does.
_ELSEWHERE, _ELSEWHERE_XT = {"dnat", "redirect", "tproxy"}, {"DNAT", "REDIRECT", "TPROXY"}
_ENDS = {"drop", "reject"}
_TRANSPORTS = {"tcp", "udp", "sctp", "dccp", "udplite", "icmp", "icmpv6"}
# iptables' matches of states; nft does not say which.
_STATES_XT = {"conntrack", "state"}
# A dynamic one (RFC 6335 section 6).
_A_CLIENTS_PORT = 49152

# What is known of a packet, by what a rule asks for: saddr and daddr (networks), sport, dport, protocol,
# iifname and oifname (empty: it has a name that is not known here), state, status. What is not there is not known.
_Facts = Mapping[str, str | int]


def hindrances(
    ruleset: Sequence[Mapping[str, Any]], services: Iterable[Service], ways: Iterable[Masquerade] = ()
) -> list[str]:
    """What is in the way of `services`, and of the networks whose way out is this host (gateway.masquerade), each in
    one sentence; `ruleset`: the list under `nftables`."""
    services, ways = list(services), list(ways)
    chains = [each["chain"] for each in ruleset if "chain" in each]
    rules = [each["rule"] for each in ruleset if "rule" in each]
    said = []
    for chain in chains:
        if _is_foreign(chain) and chain.get("hook") == "forward":
            own = [rule for rule in rules if _place(rule) == _place(chain)]
            around = [rule for rule in rules if _table(rule) == _table(chain)]
            if not _ends_badly(chain, own):
                continue
            stopped = list(_stopped(around, _FAMILIES[chain["family"]], services, ways))
            if stopped:
                said.append(f"{_named(chain)} stops what is not allowed there: allow {', and '.join(stopped)}")
    for rule in rules:
        if _is_foreign(rule) and any(_sends_elsewhere(each) for each in rule.get("expr", ())):
            said += [
                f"{_named(rule)} has a rule that sends {_shown(service)}, which is {service.frontend}'s, elsewhere"
                for service in services
                if service.family in _FAMILIES[rule["family"]] and _is_about(rule, service)
            ]
    return said


def _stopped(
    rules: list[Mapping[str, Any]], families: set[int], services: list[Service], ways: list[Masquerade]
) -> Iterator[str]:
    """What none of the rules lets pass."""
    allowed = [matches for rule in rules for matches in _accepting(rule)]

    def passes(*packets: _Facts) -> bool:
        return all(any(_fits(matches, packet) for matches in allowed) for packet in packets)

    ours = [service for service in services if service.family in families]
    if not all(service.is_per_query for service in ours) and not passes({"status": "dnat"}):
        yield "what is balanced (`ct status dnat accept`)"
    servers: dict[int, dict[str, None]] = {}
    for target in (target for service in ours if service.is_per_query for target in service.targets):
        servers.setdefault(target.port, {})[target.address] = None
    ports = [port for port in sorted(servers) if not all(passes(*_of_query(each, port)) for each in servers[port])]
    if ports:
        yield f"the datagrams of port {', '.join(map(str, ports))}, both ways: no state is kept of them"
    for way in ways:
        family = 6 if ":" in way.source else 4
        if family in families and not passes(*_of_way(way)):
            ip = "ip6" if family == 6 else "ip"
            yield (
                f"what gateway.masquerade sends out (`{ip} saddr {way.source} accept`) and its answers "
                "(`ct state established,related accept`)"
            )


def _of_query(address: str, port: int) -> tuple[_Facts, _Facts]:
    """To the server and back, as chain forward sees it."""
    either: _Facts = {"protocol": "udp", "state": "untracked", "status": ""}
    to = {**either, "daddr": address, "dport": port, "sport": _A_CLIENTS_PORT}
    return to, {**either, "saddr": address, "sport": port, "dport": _A_CLIENTS_PORT}


def _of_way(way: Masquerade) -> tuple[_Facts, _Facts]:
    # The inner interface's name is not known here, but who names it and nothing else means such a network.
    out: _Facts = {"state": "new", "status": "", "saddr": way.source, "iifname": "", "oifname": way.interface}
    return out, {"state": "established", "status": "", "daddr": way.source, "iifname": way.interface}


def _accepting(rule: Mapping[str, Any]) -> Iterator[list[Mapping[str, Any]]]:
    """What has to hold for the rule to accept: once for its `accept`, once for each map with such a verdict."""
    statements = rule.get("expr", [])
    others = [each for each in statements if "match" in each or "xt" in each]
    for statement in statements:
        if "accept" in statement:
            yield others
        data = statement.get("vmap", {}).get("data")
        if isinstance(data, Mapping):
            keys = [each[0] for each in data.get("set", ()) if isinstance(each[1], Mapping) and "accept" in each[1]]
            if keys:
                match = {"op": "==", "left": statement["vmap"]["key"], "right": {"set": keys}}
                yield [*others, {"match": match}]


def _fits(matches: list[Mapping[str, Any]], packet: _Facts) -> bool:
    """Do they name the packet, and nothing that it is not?"""
    answers = list(chained.from_iterable(_said_of(packet, each) for each in matches))
    return bool(answers) and all(answers)


def _said_of(packet: _Facts, statement: Mapping[str, Any]) -> Iterator[bool]:
    """Whether it is the packet that is meant; nothing where that is not known."""
    if "xt" in statement:
        # Who asks for the state of answers asks for this one, and hardly ever for `untracked`.
        if statement["xt"].get("name") in _STATES_XT and packet.get("state", "new") != "new":
            yield packet["state"] == "established"
        return
    kind, key, protocol = _asked(statement["match"]["left"])
    words, is_not = _each(statement["match"]["right"]), statement["match"]["op"] == "!="
    if protocol in _TRANSPORTS and packet.get("protocol", protocol) != protocol:
        yield False
    if key not in packet:
        # What has no state has no other traits of it either.
        if kind == "ct" and packet.get("state") == "untracked":
            yield False
        return
    if key in ("state", "status", "protocol"):
        is_named = packet[key] in words
    else:
        is_named = any(_names(each, packet[key], is_interface=kind == "meta") for each in words)
    # Whom a rule is about is not what it leaves out; but of interfaces it is (Docker's networks, as a rule).
    if not is_not or is_named or kind == "meta":
        yield is_named and not is_not


def _asked(left: Any) -> tuple[str, str, str]:
    """Of a match: ct, meta or payload, which key or field (as in _Facts), and of which protocol it is."""
    kind, of = next(iter(left.items()), ("", None)) if isinstance(left, Mapping) else ("", None)
    if not isinstance(of, Mapping) or kind not in ("ct", "meta", "payload"):
        return "", "", ""
    key, protocol = of.get("field", of.get("key", "")), of.get("protocol", "")
    return kind, "protocol" if key in ("l4proto", "nexthdr") else key, protocol if kind == "payload" else ""


def _each(right: Any) -> list[Any]:
    if isinstance(right, Mapping) and "set" in right:
        right = right["set"]
    return right if isinstance(right, list) else [right]


def _names(right: Any, value: str | int, *, is_interface: bool) -> bool:
    """Is the value (a port, an interface, a network) among these? What is in a named set is taken for it."""
    if isinstance(right, str) and right.startswith("@"):
        return True
    if isinstance(value, int):
        return _holds(right, value)
    if is_interface:
        wanted = str(right)
        return not value or wanted == value or (wanted.endswith("*") and value.startswith(wanted[:-1]))
    network = ipaddress.ip_network(value, strict=False)
    if isinstance(right, Mapping) and "prefix" in right:
        right = f"{right['prefix']['addr']}/{right['prefix']['len']}"
    if isinstance(right, Mapping) and "range" in right:
        first, last = map(_ordered, right["range"])
        return bool(first.version == network.version and first <= network[-1] and network[0] <= last)
    try:
        other = ipaddress.ip_network(right, strict=False)
    except (TypeError, ValueError):
        return False
    return other.version == network.version and other.overlaps(network)


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


def _sends_elsewhere(statement: Mapping[str, Any]) -> bool:
    return bool(_ELSEWHERE & statement.keys()) or statement.get("xt", {}).get("name") in _ELSEWHERE_XT


def _is_about(rule: Mapping[str, Any], service: Service) -> bool:
    """Does it name the service's address or port, and nothing that the service is not?"""
    answers = list(_answers(rule, service))
    return bool(answers) and all(answers)


def _answers(rule: Mapping[str, Any], service: Service) -> Iterator[bool]:
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


def _shown(service: Service) -> str:
    host = f"[{service.address}]" if ":" in service.address else service.address or "*"
    return f"{service.protocol} {host}:{service.port}"
