"""Rules as text for nftables (nft(8)): all of them, or what a change comes to. One text is one transaction.

    raw, raw_output  per-query datagrams: sent on without state
    prerouting   the first packet of a flow: which service, which server
    output       the same for clients on this host
    postrouting  the first packet of a flow: whose source is changed, and the way out of inner networks
    arriving     the first packet of a flow to a server on this host: counted
    forward, input, outgoing  what the flows of each server have carried: counted; per-query answers, and last segments
                 of flows that nobody knows: the service's address as source
    strays       packets of no flow that the kernel could tell: dropped rather than answered with a reset; the last
                 segments of clients are shown to `strays`
    contested    what a server of several services sends first: dropped, and shown to `strays`

A flow is looked up once, in a map by address, protocol and port, however many services there are; each has a chain of
its own with one rule, and a change of its servers replaces that rule alone.

Nearly all packets are those of flows that go on. Apart from conntrack's own work such a packet costs one chain on its
way through, with one lookup; where per-query datagrams are balanced, another that it leaves at its first rule.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from itertools import chain, groupby
from operator import ne
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from balancer.config.model import Balance, Gateway
from balancer.kernel.plan import Service, Target

if TYPE_CHECKING:
    from balancer.kernel.tables import Contents

__all__ = ["TABLE", "Desired", "Network", "adopted", "change", "nothing", "tallies", "trial", "whole"]

TABLE = "inet pybalancer"
Network = IPv4Network | IPv6Network
Key = tuple[str, str, int, int, str]

# So that both directors choose alike.
_SEED = 1
# How long a query that goes straight to a server is remembered, so that its answer is left alone.
_DIRECT_TIMEOUT = "30s"
_DIRECT_SIZE = 65536
# Clients that a service remembers. An element takes some 100 octets. The kernel makes room for as many at once as the
# last 16 bits say (rhashtable_params.nelem_hint), so these are 0.
_PERSISTENT_SIZE = 1 << 20
# Servers' marks: these bits differ, which begin so, and then the next one.
_MARK, _MARKED, _NEXT_MARK = 0x3FFFFFF0, 0x40000000, 0x10
# NFTNL_UDATA_COMMENT_MAXLEN is 128 with its closing NUL.
_LONGEST_COMMENT = 120
# The bit QR of a DNS header (RFC 1035 section 4.1.1), counted from the start of the UDP header.
_IS_ANSWER = "@th,80,1"
# What may be shown, bounded, for somebody might send nothing else: the headers of IPv4 and TCP, each at once.
_SHOWN = "limit rate 5000/second burst 5000 packets log group {} snaplen 120 queue-threshold 1"
# So many networks are compared one by one, which is cheaper than to look them up.
_FEW = 4


class Desired(NamedTuple):
    """All that the rules depend on."""

    services: tuple[Service, ...] = ()
    gateway: Gateway = Gateway()
    networks: tuple[Network, ...] = ()
    """Networks that this host is on. A client in the same one as its server gets its answers through us (masqueraded),
    for else they would go straight to it, from an address that it never asked."""
    group: int = 0
    """Of NFLOG, to which segments of unknown flows are shown; 0: to nobody."""


@dataclass(frozen=True, slots=True)
class _Ruleset:
    """A table's contents, or a part of them."""

    sets: dict[str, str] = field(default_factory=dict)
    """Name to declaration; a map's has a colon."""
    chains: dict[str, str] = field(default_factory=dict)
    """Name to what stands in braces."""
    rules: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By chain."""
    elements: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """By set: key to value, which is empty in a set."""

    def chain(self, name: str, *rules: str, spec: str = "") -> None:
        self.chains[name] = spec
        self.rules[name] = rules


class _Words(NamedTuple):
    """What differs between the families."""

    ip: str
    address: str


_WORDS = {4: _Words("ip", "ipv4_addr"), 6: _Words("ip6", "ipv6_addr")}


def whole(desired: Desired) -> str:
    """Everything, in place of whatever table of our name there is."""
    parts = [_frame(desired), *map(_part, desired.services)]
    lines = [nothing(), f"add table {TABLE}"]
    lines += [line for part in parts for line in _declarations(part)]
    elements: dict[str, dict[str, str]] = defaultdict(dict)
    for part in parts:
        _merge(elements, part)
    lines += _elements("add", elements)
    lines += [line for part in parts for name in part.chains for line in _rules(name, part.rules[name])]
    return "\n".join(lines) + "\n"


def adopted(desired: Desired, found: Contents) -> str:
    """The same of a table that an earlier process has left, which may not be as it left it: rules are all made anew,
    what has counted goes on counting, and clients stay where they are. The kernel refuses where what has the name of
    a part of ours is something else."""
    wanted = _united([_frame(desired), *map(_part, desired.services)])
    lines = [f"add table {TABLE}", *_declarations(wanted), f"flush table {TABLE}"]
    for name, declaration in wanted.sets.items():
        # Elements that count are left alone; the kernel says when one leads somewhere else.
        if name in found.sets and name not in found.counted and "dynamic" not in declaration:
            lines.append(f"flush {_kind(declaration)} {TABLE} {name}")
    # Maps too: the kernel does not mind.
    lines += [f"delete set {TABLE} {name}" for name in sorted(found.sets - wanted.sets.keys())]
    lines += [f"delete chain {TABLE} {name}" for name in sorted(found.chains - wanted.chains.keys())]
    extra = {
        name: dict.fromkeys(sorted(keys - wanted.elements[name].keys()), "")
        for name, keys in found.counted.items()
        if name in wanted.sets
    }
    lines += _elements("delete", extra)
    lines += _elements("add", wanted.elements)
    lines += [line for name in wanted.chains for line in _rules(name, wanted.rules[name])]
    return "\n".join(lines) + "\n"


def nothing() -> str:
    """No table of ours, whether there was one or not."""
    return f"add table {TABLE}\ndelete table {TABLE}"


def trial(group: int) -> str:
    """What a kernel takes, and leaves nothing, that can show segments to this group of NFLOG."""
    table = f"{TABLE}_trial"
    return "\n".join(
        [
            f"add table {table}",
            f"add chain {table} strays",
            f"add rule {table} strays {_SHOWN.format(group)}",
            f"delete table {table}",
        ]
    )


def change(old: Desired, new: Desired) -> str:
    """What makes `new` of `old`; empty where there is nothing to do. What has counted goes on counting."""
    before = {service.key: service for service in old.services}
    after = {service.key: service for service in new.services}
    # The same address on two interfaces: there are elements that both services have.
    has_twins = any(service.interface for service in (*old.services, *new.services))
    gone = [service for key, service in before.items() if has_twins or after.get(key) != service]
    come = [service for key, service in after.items() if has_twins or before.get(key) != service]
    was = _united([_frame(old), *map(_part, gone)])
    now = _united([_frame(new), *map(_part, come)])
    lines: list[str] = []
    for name, declaration in now.sets.items():
        if name not in was.sets:
            lines.append(f"add {_kind(declaration)} {TABLE} {name} {{ {declaration} }}")
    for name, spec in now.chains.items():
        if name not in was.chains:
            lines.append(_chain(name, spec))
    # What is looked up first goes first, or it would lead to what is no more.
    lines += _elements("delete", _missing(was.elements, now.elements))
    for name, rules in was.rules.items():
        if now.rules.get(name) != rules:
            lines.append(f"flush chain {TABLE} {name}")
    lines += _elements("add", _missing(now.elements, was.elements))
    for name, rules in now.rules.items():
        if was.rules.get(name) != rules:
            lines += _rules(name, rules)
    lines += [f"delete chain {TABLE} {name}" for name in was.chains if name not in now.chains]
    lines += [
        f"delete {_kind(declaration)} {TABLE} {name}"
        for name, declaration in was.sets.items() if name not in now.sets
    ]  # fmt: skip
    return "\n".join(lines) + "\n" if lines else ""


# --- What a service comes to ---


class _Tally(NamedTuple):
    """Where a target's packets are counted: set, key."""

    flows: tuple[str, str]
    into: tuple[str, str]
    out: tuple[str, str]


def tallies(service: Service) -> Iterator[list[_Tally]]:
    """Of each target of one service; the sets are those that count new flows, packets to it and packets from it."""
    stem, kind, family = _stem(service), f"{service.protocol}{service.family}", service.family
    counted_as = f"{stem}_masked" if service.forwarding == "masquerade" else f"{stem}_flows"
    answers = f"sources{family}" if service.is_per_query and _keeps_port(service) else f"query{family}_out"
    shared = frozenset(service.shared)
    for position, target in enumerate(service.targets):
        key, own = _key(service, target), _endpoint(target)
        flows = (counted_as, key)
        if position in shared:
            found = [_Tally(flows, (f"{stem}_in", key), (f"{stem}_out", key))]
        else:
            found = [_Tally(flows, (f"{kind}_to", own), (f"{kind}_from", own))]
        if service.is_per_query:
            into = (f"query{family}_in", own)
            found.append(_Tally(into, into, (answers, own)))
        yield found


def _keeps_port(service: Service) -> bool:
    """Do its servers use the port that clients use?"""
    return all(target.port == service.port for target in service.targets)


def _stem(service: Service) -> str:
    return f"{service.protocol}{service.family}" + ("" if service.address else "_any")


def _key(service: Service, target: Target) -> str:
    where = f"{service.address} . " if service.address else ""
    return f"{where}{service.port} . {target.address} . {target.port}"


def _part(service: Service) -> _Ruleset:
    """The chains and elements of one service."""
    part = _Ruleset()
    own = _name(service)
    spec = f'comment "{f"frontend {service.frontend}"[:_LONGEST_COMMENT]}";'
    _dispatch(part, service, own)
    if service.persistence is None:
        part.chain(own, *_translate(service), spec=spec)
    else:
        _persist(part, service, own, spec)
    for name, key in chain.from_iterable(chain.from_iterable(tallies(service))):
        part.elements[name][key] = ""
    if service.is_per_query:
        _per_query(part, service)
    for position in service.contested:
        part.elements[f"contested{service.family}"][_endpoint(service.targets[position])] = ""
    if service.returns:
        final = f"final_{own}"
        for position in service.returns:
            target = service.targets[position]
            source = f"{target.address} . {target.port}"
            part.elements[f"{_stem(service)}_returns"][source] = f"{service.address} . {service.port}"
            if service.protocol == "tcp":
                part.elements[f"finals{service.family}"][source] = f"goto {final}"
        if service.protocol == "tcp":
            part.chain(final, _as_source(service, (service.targets[i] for i in service.returns)))
    return part


def _dispatch(part: _Ruleset, service: Service, own: str) -> None:
    """How its packets find it."""
    where = f"{service.address} . " if service.address else ""
    at = f'"{service.interface}" . ' if service.interface else ""
    name = _map(service)
    part.elements[name][f"{at}{where}{service.protocol} . {service.port}"] = f"goto {own}"
    if service.protocol == "tcp" or service.returns:
        part.elements[f"{_stem(service)}_ours"][f"{where}{service.port}"] = ""
    for what in _endings(service):
        part.elements[f"{_stem(service)}_{what}"][f"{where}{service.port}"] = ""


def _endings(service: Service) -> tuple[str, ...]:
    """Which last segments of its clients are brought to its servers, the director being new to them. What is sent here
    passes by services at one interface. A reset may come of a guess whose server's packet it was."""
    if service.protocol == "udp" or service.interface is not None or not service.goes_on:
        return ()
    return ("fins",) if service.shared else ("fins", "resets")


def _map(service: Service) -> str:
    return ("services" if service.address else "ports") + str(service.family) + ("_at" if service.interface else "")


def _translate(service: Service) -> Iterator[str]:
    """The rules that send a new flow to a server.

    A packet that is under way while its rule is replaced may find the map empty: the kernel asks for each lookup anew
    which generation counts. Then the rule ends there, and the next one must do without a map.
    """
    if not service.slots:
        yield _refuse(service)
        return
    used = [service.targets[i] for i in sorted(set(service.slots))]
    if len({(target.address, target.port) for target in used}) > 1:
        ports = {target.port for target in used}
        # Of addresses alone the map is quicker made.
        of = _endpoint if len(ports) > 1 else _address
        table = _slots(service.slots, {i: of(target) for i, target in enumerate(service.targets)})
        port = f" : {used[0].port}" if len(ports) == 1 else ""
        yield (
            f"meta l4proto {service.protocol} dnat {_WORDS[service.family].ip} to "
            f"{_choice(service)} map {{ {table} }}{port}"
        )
    yield _straight(service, service.slots[0])


def _straight(service: Service, position: int) -> str:
    to = f"meta l4proto {service.protocol} dnat {_WORDS[service.family].ip} to"
    return f"{to} {_one(service.targets[position], service.family)}"


def _one(target: Target, family: int) -> str:
    return f"[{target.address}]:{target.port}" if family == 6 else f"{target.address}:{target.port}"


def _refuse(service: Service) -> str:
    if service.protocol == "tcp":
        return "meta l4proto tcp reject with tcp reset"
    return "meta l4proto udp reject with icmpx port-unreachable"


def _choice(service: Service) -> str:
    """The expression that comes to a slot."""
    size = len(service.slots)
    if service.is_hashed:
        return f"jhash {_WORDS[service.family].ip} saddr mod {size} seed {_SEED}"
    return f"numgen {'random' if service.balance is Balance.RANDOM else 'inc'} mod {size}"


def _slots(slots: Sequence[int], places: Mapping[int, str]) -> str:
    """What stands in a map. Slots side by side that are one server's are one element, if that makes them half as many
    at least: ranges are slower, to put in place and to look up."""
    if 2 * sum(map(ne, slots, slots[1:])) >= len(slots) - 1:
        return ", ".join(f"{at} : {places[position]}" for at, position in enumerate(slots))
    found = []
    at = 0
    for position, run in groupby(slots):
        end = at + sum(1 for _ in run) - 1
        found.append(f"{at} : {places[position]}" if at == end else f"{at}-{end} : {places[position]}")
        at = end + 1
    return ", ".join(found)


def _endpoint(target: Target) -> str:
    return f"{target.address} . {target.port}"


def _address(target: Target) -> str:
    return target.address


def _persist(part: _Ruleset, service: Service, own: str, spec: str) -> None:
    """A map of clients to their servers' marks; whoever is not in it, or with a server that keeps nobody, is sent to
    one by slot.

    No rule can look up what another lookup has found, but for what the packet itself carries between: its priority
    (tc(8)). Where IPv4 is forwarded the kernel sets that anew.
    """
    ip, address = _WORDS[service.family]
    stays, among, stay = _stays(service), f"among_{own}", f"stay_{own}"
    marks = _marks(service)
    used = set(service.slots)
    part.sets[stays] = (
        f"type {address} : classid; flags dynamic, timeout; timeout {_time(service.persistence or 0)}; "
        f"size {_PERSISTENT_SIZE};"
    )
    # By a name: what a change leaves alone is found while it is made, or stays would be forgotten then.
    part.sets[among] = f"type classid : {address} . inet_service;"
    for position in sorted(used.union(service.sticky)):
        part.elements[among][marks[position]] = _endpoint(service.targets[position])
    # What is there already is not replaced but begins its time anew. Two rules: where there is no room the first of
    # them ends, and the client must get through all the same.
    part.chain(
        stay,
        f"update @{stays} {{ {ip} saddr : meta priority }}",
        f"meta l4proto {service.protocol} dnat {ip} to meta priority map @{among}",
    )
    rules = [f"meta priority set {ip} saddr map @{stays} jump {stay}"] if part.elements[among] else []
    if not service.slots:
        rules.append(_refuse(service))
    else:
        rules.append(f"delete @{stays} {{ {ip} saddr : none }}")
        first = service.slots[0]
        chosen = f"{_choice(service)} map {{ {_slots(service.slots, marks)} }}" if len(used) > 1 else marks[first]
        rules.append(f"meta priority set {chosen} jump {stay}")
        # As in _translate.
        rules.append(_straight(service, first))
    part.chain(own, *rules, spec=spec)


def _marks(service: Service) -> dict[int, str]:
    """For each target a number in tc's words, in which a server that comes or goes changes no other's, and one that
    moves keeps its own. Its last four bits are 0, so that queues take the packet for what it was before
    (TC_PRIO_BESTEFFORT), and there are no such classes."""
    taken: dict[int, str] = {}
    marks = {}
    for position, target in enumerate(service.targets):
        number = crc32(target.server.encode())
        while taken.setdefault(number & _MARK, target.server) != target.server:
            number += _NEXT_MARK
        marks[position] = f"{(number & _MARK | _MARKED) >> 16:04x}:{number & _MARK & 0xFFFF:04x}"
    return marks


def _verdicts(service: Service, places: Mapping[int, str]) -> Iterator[str]:
    """By slot to a chain of the server's own; and without a map, as in `_translate`."""
    if len(places) > 1:
        yield f"{_choice(service)} vmap {{ {_slots(service.slots, places)} }}"
    yield places[service.slots[0]]


def _stays(service: Service) -> str:
    assert service.persistence is not None
    return f"stays_{_name(service)}_{_time(service.persistence)}"


def _per_query(part: _Ruleset, service: Service) -> None:
    """Address and port are written into each datagram, on its way to the server and back."""
    ip, family = _WORDS[service.family].ip, service.family
    query, answer = f"query_{_name(service)}", f"answer_{_name(service)}"
    rules: list[str] = []
    used = sorted(set(service.slots))
    ports = {service.targets[i].port for i in used}
    if len(ports) == 1:
        (port,) = ports
        rewrite = (f" udp dport set {port}" if port != service.port else "") + _counted(family)
        places = {i: service.targets[i].address for i in used}
        if len(used) > 1:
            table = _slots(service.slots, places)
            rules.append(f"notrack {ip} daddr set {_choice(service)} map {{ {table} }}{rewrite}")
        # As in _translate.
        rules.append(f"notrack {ip} daddr set {places[service.slots[0]]}{rewrite}")
    elif ports:
        for i in used:
            target = service.targets[i]
            to = f"notrack {ip} daddr set {target.address} udp dport set {target.port}"
            part.chain(_to(query, target), to + _counted(family))
        rules += _verdicts(service, {i: f"goto {_to(query, service.targets[i])}" for i in used})
    # Without a server it goes on, as the first packet of a flow, and is refused as such.
    part.chain(query, *rules)
    part.elements[f"queries{family}"][f"{service.address} . {service.port}"] = f"goto {query}"
    keeps_port = _keeps_port(service)
    for target in service.targets:
        source = _endpoint(target)
        part.elements[f"answering{family}"][source] = ""
        if keeps_port:
            part.elements[f"sources{family}"][source] = service.address
        else:
            part.elements[f"answers{family}"][source] = f"goto {answer}"
    if not keeps_port:
        part.chain(answer, f"{ip} saddr . udp sport @query{family}_out", _as_source(service, service.targets))


def _counted(family: int) -> str:
    return f" {_WORDS[family].ip} daddr . udp dport @query{family}_in accept"


def _as_source(service: Service, targets: Iterable[Target]) -> str:
    """The service's address and port in place of one of these targets'."""
    port = f"{service.protocol} sport set {service.port} "
    has_port = all(target.port == service.port for target in targets)
    return ("" if has_port else port) + f"{_WORDS[service.family].ip} saddr set {service.address}"


# --- What all services share ---


def _frame(desired: Desired) -> _Ruleset:
    """The chains at the hooks and the sets that they look into; what nobody uses is not there."""
    used = frozenset().union(*(_used(*_shape(service)) for service in desired.services))
    near = _near(desired)
    frame = _Ruleset()
    for name in sorted(used):
        frame.sets[name] = _declaration(name)
    for family in (4, 6):
        networks = [network for network in desired.networks if network.version == family]
        if len(networks) > _FEW and desired.services:
            frame.sets[f"networks{family}"] = (
                f"type {_WORDS[family].address} . {_WORDS[family].address}; flags interval;"
            )
            for network in networks:
                frame.elements[f"networks{family}"][f"{network} . {network}"] = ""
        if near.is_listed(family):
            frame.sets[f"near{family}"] = f"type {_WORDS[family].address}; flags interval; auto-merge;"
            for network in near.networks[family]:
                frame.elements[f"near{family}"][str(network)] = ""
        if f"queries{family}" in used:
            address = _WORDS[family].address
            frame.sets[f"direct{family}"] = (
                f"type {address} . inet_service . {address} . inet_service; flags dynamic, timeout; "
                f"timeout {_DIRECT_TIMEOUT}; size {_DIRECT_SIZE};"
            )
    _raw(frame, used, near)
    _nat(frame, used, desired)
    _passing(frame, used)
    _strays(frame, used, desired.group)
    return frame


def _shape(
    service: Service,
) -> tuple[str, int, bool, bool, bool, bool, bool, bool, bool, bool, tuple[str, ...], bool]:
    """What decides in which sets it is."""
    return (
        service.protocol, service.family, bool(service.address), service.interface is not None,
        service.forwarding == "masquerade", service.is_per_query, bool(service.returns),
        len(service.shared) < len(service.targets), bool(service.shared), _keeps_port(service),
        _endings(service), bool(service.contested),
    )  # fmt: skip


@lru_cache(maxsize=256)
def _used(
    protocol: str, family: int, has_address: bool, has_interface: bool, is_masked: bool, is_per_query: bool,
    has_returns: bool, has_own: bool, has_shared: bool, keeps_port: bool, endings: tuple[str, ...], has_contested: bool,
) -> frozenset[str]:  # fmt: skip
    """The shared sets that such a service has elements in."""
    kind, has_targets = f"{protocol}{family}", has_own or has_shared
    stem = kind + ("" if has_address else "_any")
    found = {("services" if has_address else "ports") + str(family) + ("_at" if has_interface else "")}
    if protocol == "tcp" or has_returns:
        found.add(f"{stem}_ours")
    if has_targets:
        found.add(f"{stem}_masked" if is_masked else f"{stem}_flows")
    if has_own:
        found |= {f"{kind}_to", f"{kind}_from"}
    if has_shared:
        found |= {f"{stem}_in", f"{stem}_out"}
    if is_per_query:
        found.add(f"queries{family}")
        if has_targets:
            found |= {f"answering{family}", f"query{family}_in"}
            found |= {f"sources{family}"} if keeps_port else {f"answers{family}", f"query{family}_out"}
    if has_returns:
        found.add(f"{stem}_returns")
        if protocol == "tcp":
            found.add(f"finals{family}")
    if has_contested:
        found.add(f"contested{family}")
    return frozenset(found).union(f"{stem}_{what}" for what in endings)


def _declaration(name: str) -> str:
    """What a shared set holds, which its name tells."""
    stem, _, rest = re.sub(r"\d", "", name).partition("_")
    address = _WORDS[6 if "6" in name else 4].address
    endpoint = f"{address} . inet_service"
    if stem in ("services", "ports"):
        where = f"{address} . " if stem == "services" else ""
        return f"type {'ifname . ' if rest else ''}{where}inet_proto . inet_service : verdict;"
    if stem in ("queries", "answers", "finals"):
        return f"type {endpoint} : verdict;"
    if stem == "sources":
        return f"type {endpoint} : {address}; counter;"
    if stem in ("answering", "contested"):
        return f"type {endpoint};"
    if stem == "query" or rest in ("to", "from"):
        return f"type {endpoint}; counter;"
    what = rest.removeprefix("any_")
    if what == "returns":
        return f"type {endpoint} : {endpoint};"
    asked = "inet_service" if rest.startswith("any_") else endpoint
    if what in ("ours", "fins", "resets"):
        return f"type {asked};"
    return f"type {asked} . {endpoint}; counter;"


@lru_cache(maxsize=16384)
def _number(address: str) -> int:
    return int(ip_address(address))


class _Near(NamedTuple):
    """The networks of per-query servers, by family: clients there could get no answer without state."""

    networks: Mapping[int, Sequence[Network]]
    is_all: frozenset[int]
    """Families whose servers are all in these."""

    def is_listed(self, family: int) -> bool:
        """Are they looked up in a set, being too many to compare?"""
        return len(self.networks[family]) > _FEW

    def says_whose(self, family: int) -> bool:
        """Does it come cheap that a server's answer is for this host itself? It asks from an address of its own in the
        server's network, if it has one there."""
        return family in self.is_all and not self.is_listed(family)

    def outside(self, family: int, side: str) -> str:
        """The condition that this side of a packet is not there."""
        ip = _WORDS[family].ip
        if self.is_listed(family):
            return f"{ip} {side} != @near{family} "
        return "".join(_within(network, side, "!=") for network in self.networks[family])


def _near(desired: Desired) -> _Near:
    found: dict[int, list[Network]] = {4: [], 6: []}
    servers = {
        (service.family, target.address)
        for service in desired.services if service.is_per_query
        for target in service.targets
    }  # fmt: skip
    away = set(servers)
    for network in desired.networks:
        first, last = int(network.network_address), int(network.broadcast_address)
        inside = {(of, at) for of, at in servers if of == network.version and first <= _number(at) <= last}
        if inside:
            found[network.version].append(network)
            away -= inside
    return _Near(found, frozenset(found) - {family for family, _ in away})


def _raw(frame: _Ruleset, used: frozenset[str], near: _Near) -> None:
    rules, answers, own = [], [], []
    for family, (ip, _) in _WORDS.items():
        if f"queries{family}" not in used:
            continue
        # All are UDP that come so far: to say so again in each rule would cost as much as to look at the address.
        to, back = f"{ip} daddr . th dport", f"{ip} saddr . th sport"
        rules.append(f"{_IS_ANSWER} 0 {near.outside(family, 'saddr')}{to} vmap @queries{family}")
        if f"answering{family}" in used:
            # Who asks a server itself is answered by the server itself.
            rules.append(f"{_IS_ANSWER} 0 {to} @answering{family} update @direct{family} {{ {back} . {to} }} accept")
            # What is for this host itself (the answers to its checks) is its own affair. Where it asks from the
            # servers' own networks these tell, and cost a fifth.
            is_ours = near.outside(family, "daddr") if near.says_whose(family) else "fib daddr type != local "
            asked = f"{to} . {back} != @direct{family} notrack"
            answers.append(f"{_IS_ANSWER} 1 {back} @answering{family} {is_ours}{asked} accept")
            if near.says_whose(family):
                # From another of its addresses it is one of those who ask a server itself.
                own.append(
                    f"meta l4proto udp {_IS_ANSWER} 0 {near.outside(family, 'saddr')}"
                    f"{to} @answering{family} update @direct{family} {{ {back} . {to} }}"
                )
            # Of a server on this host.
            own.append(f"meta l4proto udp {_IS_ANSWER} 1 {back} @answering{family} fib daddr type != local {asked}")
    if rules:
        # Answers first: a query passes by them at its first look.
        frame.chain(
            "raw", "meta l4proto != udp accept", *answers, *rules,
            spec="type filter hook prerouting priority raw; policy accept;",
        )  # fmt: skip
    if own:
        frame.chain("raw_output", *own, spec="type filter hook output priority raw; policy accept;")


def _strays(frame: _Ruleset, used: frozenset[str], group: int) -> None:
    """Of a flow that conntrack will not begin nothing is translated: it comes to this host itself."""
    rules = []
    flags = {"fins": "tcp flags & (fin | syn | rst) == fin", "resets": "tcp flags & (syn | rst) == rst"}
    for what in flags if group else ():
        # Not what was sent here because of one that was shown.
        rules += [
            f'iifname != "lo" {flags[what]} {_asked(stem)} @{stem}_{what} {_SHOWN.format(group)}'
            for stem in _stems(used, what)
        ]
    rules += [f"{_asked(stem)} @{stem}_ours drop" for stem in _stems(used, "ours") if stem.startswith("tcp")]
    if rules:
        # Before the filters, which might answer it.
        frame.chain(
            "strays", "ct state != invalid accept", *rules,
            spec="type filter hook input priority mangle; policy accept;",
        )  # fmt: skip
    if "contested4" in used or "contested6" in used:
        frame.chain("contested", *([_SHOWN.format(group)] if group else []), "drop")


def _asked(stem: str) -> str:
    """The service that a packet to it is for."""
    protocol, family = stem[:3], int(stem[3])
    if stem.endswith("_any"):
        return f"meta nfproto {'ipv6' if family == 6 else 'ipv4'} {protocol} dport"
    return f"{_WORDS[family].ip} daddr . {protocol} dport"


def _nat(frame: _Ruleset, used: frozenset[str], desired: Desired) -> None:
    incoming, own = [], []
    for where in ("services", "ports"):
        for at in ("_at", ""):
            for family, (ip, _) in _WORDS.items():
                name = f"{where}{family}{at}"
                if name not in used:
                    continue
                interface = "iifname . " if at else ""
                if where == "services":
                    incoming.append(f"{interface}{ip} daddr . meta l4proto . th dport vmap @{name}")
                else:
                    local = f"meta nfproto {'ipv6' if family == 6 else 'ipv4'} fib daddr type local "
                    incoming.append(f"{local}{interface}meta l4proto . th dport vmap @{name}")
                if not at:
                    loopback = "::1" if family == 6 else "127.0.0.0/8"
                    # A packet with a loopback source leaves no host.
                    not_loopback = f"{ip} daddr != {loopback} " if where == "ports" else ""
                    own.append(not_loopback + incoming[-1].removeprefix("meta nfproto ipv4 "))
    if incoming:
        if any(name.endswith("_ours") for name in used):
            # A connection that a process here has was not balanced by us when it began, and goes on as it is.
            incoming.insert(0, "tcp flags & (syn | ack) == ack socket wildcard 0 accept")
        frame.chain("prerouting", *incoming, spec="type nat hook prerouting priority dstnat; policy accept;")
    if own:
        frame.chain("output", *own, spec="type nat hook output priority -100; policy accept;")
    leaving = []
    masked = [rule for stem in _stems(used, "masked") for rule in [f"{_tuple(stem)} @{stem}_masked masquerade"]]
    flows = [f"{_tuple(stem)} @{stem}_flows jump ours" for stem in _stems(used, "flows")]
    if masked or flows:
        leaving.append("ct status dnat jump translated")
        frame.chain("ours", *_ours(frame, desired.networks))
        # With the client's port wherever it is free: a random one would sooner meet a connection that the server
        # still remembers (TIME_WAIT), and be turned away.
        frame.chain("translated", *masked, *flows)
        # To a server on this host: such a flow leaves by no interface.
        arriving = [f"{_tuple(stem)} @{stem}_{what}" for what in ("masked", "flows") for stem in _stems(used, what)]
        frame.chain(
            "arriving", *(f"ct status dnat {rule}" for rule in arriving),
            spec="type nat hook input priority 99; policy accept;",
        )  # fmt: skip
    for family, (ip, _) in _WORDS.items():
        if f"contested{family}" in used:
            leaving.append(
                f"ct status & dnat == 0 tcp flags & (syn | rst) == 0 {ip} saddr . tcp sport @contested{family} "
                "goto contested"
            )
    for stem in _stems(used, "returns"):
        protocol, ip = stem[:3], _WORDS[int(stem[3])].ip
        # A server's own new connection is not one that we have forgotten.
        is_known = " tcp flags & (syn | rst) == 0" if protocol == "tcp" else ""
        leaving.append(
            f"ct status & dnat == 0 meta l4proto {protocol}{is_known} "
            f"snat {ip} to {ip} saddr . {protocol} sport map @{stem}_returns"
        )
    for way in desired.gateway.masquerade:
        ip = "ip6" if ":" in way.source else "ip"
        leaving.append(f'oifname "{way.interface}" {ip} saddr {way.source} masquerade')
    if leaving:
        # Before srcnat, where others have theirs: the first that says something is the one that counts.
        frame.chain("postrouting", *leaving, spec="type nat hook postrouting priority 99; policy accept;")


def _ours(frame: _Ruleset, networks: Iterable[Network]) -> Iterator[str]:
    """Whose source must be changed although the forwarding is nat: else answers would not come back here."""
    # What came in by an interface is nobody's on this host, which is sooner seen than whose the address is.
    yield "iif 0 fib saddr type local masquerade"
    for network in networks:
        if f"networks{network.version}" not in frame.sets:
            yield _within(network, "saddr") + _within(network, "daddr") + "masquerade"
    for family, (ip, _) in _WORDS.items():
        if f"networks{family}" in frame.sets:
            yield f"{ip} saddr . {ip} daddr @networks{family} masquerade"


def _within(network: Network, side: str, is_it: str = "==") -> str:
    """The condition that this side of a packet is there. Masked, for a prefix is compared by as many octets as it has,
    and of three the kernel makes much ado."""
    return f"{_WORDS[network.version].ip} {side} & {network.netmask} {is_it} {network.network_address} "


def _passing(frame: _Ruleset, used: frozenset[str]) -> None:
    """What every packet meets, past the filters: what a firewall drops was not carried. Here a packet to a server has
    its address as destination, one from it as source, whoever's flow it is of."""
    first, answering, later = [], [], []
    to, back = list(_counting(used, "to", "in")), list(_counting(used, "from", "out"))
    if to:
        frame.chain("to_server", *to)
        frame.chain("from_server", *back)
        # One look at what is not translated, and no more: it may be a datagram of those without state.
        frame.chain("going_on", "ct direction original goto to_server", "goto from_server")
        first.append("ct status dnat goto going_on")
    for family, (ip, _) in _WORDS.items():
        if f"sources{family}" in used:
            answering.append(
                f"ct state untracked {_IS_ANSWER} 1 {ip} saddr set {ip} saddr . udp sport map @sources{family} accept"
            )
        if f"answers{family}" in used:
            answering.append(f"ct state untracked {_IS_ANSWER} 1 {ip} saddr . udp sport vmap @answers{family}")
        if f"finals{family}" in used:
            # conntrack begins no flow with such a segment, so its source is changed without one.
            answering.append(
                f"ct state invalid tcp flags & (fin | syn) == fin {ip} saddr . tcp sport vmap @finals{family}"
            )
        if f"contested{family}" in used:
            answering.append(
                f"ct state invalid tcp flags & (fin | syn) == fin {ip} saddr . tcp sport @contested{family} "
                "goto contested"
            )
    for stem in _stems(used, "returns"):
        # A server's packet began it.
        ours = (
            f"ct status snat meta l4proto {stem[:3]} "
            f"ct reply {_WORDS[int(stem[3])].ip} daddr . ct reply proto-dst @{stem}_ours"
        )
        later += [f"{ours} ct direction original goto from_server", f"{ours} goto to_server"]
    for name, hook in (("forward", "forward"), ("input", "input"), ("outgoing", "output")):
        # What comes to this host itself was never translated.
        rules = first + (answering if hook != "input" else []) + later
        if rules:
            frame.chain(name, *rules, spec=f"type filter hook {hook} priority 10; policy accept;")


def _counting(used: frozenset[str], own: str, shared: str) -> Iterator[str]:
    """By the server alone where it has one service, else by what conntrack knows of the flow."""
    side = "daddr . {} dport" if own == "to" else "saddr . {} sport"
    for protocol in ("tcp", "udp"):
        for family, (ip, _) in _WORDS.items():
            if f"{protocol}{family}_{own}" in used:
                yield f"{ip} {side.format(protocol)} @{protocol}{family}_{own} accept"
    for stem in _stems(used, shared):
        yield f"ct status dnat {_tuple(stem)} @{stem}_{shared} accept"
        if f"{stem}_returns" in used:
            yield f"{_returned(stem)} @{stem}_{shared} accept"


def _stems(used: frozenset[str], what: str) -> list[str]:
    stems = (f"{protocol}{family}{of}" for of in ("", "_any") for protocol in ("tcp", "udp") for family in _WORDS)
    return [stem for stem in stems if f"{stem}_{what}" in used]


def _tuple(stem: str) -> str:
    """Service and server of a flow that we translated."""
    ip = _WORDS[int(stem[3])].ip
    where = "" if stem.endswith("_any") else f"ct original {ip} daddr . "
    return f"meta l4proto {stem[:3]} {where}ct original proto-dst . ct reply {ip} saddr . ct reply proto-src"


def _returned(stem: str) -> str:
    """Service and server of a flow that a server's packet began."""
    ip = _WORDS[int(stem[3])].ip
    return (
        f"meta l4proto {stem[:3]} ct reply {ip} daddr . ct reply proto-dst . "
        f"ct original {ip} saddr . ct original proto-src"
    )


# --- Names and lines ---


def _name(service: Service) -> str:
    at = f"_{_plain(service.interface)}" if service.interface else ""
    where = service.address or f"any{service.family}"
    return f"{service.protocol}_{_plain(where)}_{service.port}{at}"


def _to(name: str, target: Target) -> str:
    return f"{name}_to_{_plain(target.address)}_{target.port}"


def _plain(word: str) -> str:
    """A name for nft has letters, digits and / \\ _ . - in it."""
    return re.sub(r"[^A-Za-z0-9.]", lambda found: "-" if found[0] == ":" else f"_{ord(found[0]):x}_", word)


def _time(seconds: float) -> str:
    whole_seconds, thousandths = divmod(round(seconds * 1000), 1000)
    return (f"{whole_seconds}s" if whole_seconds else "") + (f"{thousandths}ms" if thousandths else "")


def _kind(declaration: str) -> str:
    return "map" if ":" in declaration else "set"


def _chain(name: str, spec: str) -> str:
    return f"add chain {TABLE} {name}" + (f" {{ {spec} }}" if spec else "")


def _declarations(part: _Ruleset) -> Iterator[str]:
    for name, declaration in part.sets.items():
        yield f"add {_kind(declaration)} {TABLE} {name} {{ {declaration} }}"
    for name, spec in part.chains.items():
        yield _chain(name, spec)


def _rules(name: str, rules: Iterable[str]) -> Iterator[str]:
    for rule in rules:
        yield f"add rule {TABLE} {name} {rule}"


def _elements(verb: str, elements: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for name, of in elements.items():
        if of:
            listed = ", ".join(f"{key} : {value}" if value else key for key, value in of.items())
            yield f"{verb} element {TABLE} {name} {{ {listed} }}"


def _missing(
    here: Mapping[str, Mapping[str, str]], there: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """The elements that are here and not, or otherwise, there."""
    return {
        name: {key: value for key, value in of.items() if there.get(name, {}).get(key) != value}
        for name, of in here.items()
    }


def _merge(elements: dict[str, dict[str, str]], part: _Ruleset) -> None:
    for name, of in part.elements.items():
        known = elements[name]
        for key, value in of.items():
            known.setdefault(key, value)


def _united(parts: Iterable[_Ruleset]) -> _Ruleset:
    united = _Ruleset()
    for part in parts:
        united.sets.update(part.sets)
        united.chains.update(part.chains)
        united.rules.update(part.rules)
        _merge(united.elements, part)
    return united
