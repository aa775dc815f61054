"""Settings of the kernel that decide whether packets get to us and through us, and the routes to others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address, ip_network

from balancer.doctor.cards import Card, Way
from balancer.doctor.case import Case, Router
from balancer.doctor.finding import Finding, ok, problem, warning
from balancer.doctor.settings import remedy, shown

__all__ = ["arp", "forwarding", "nonlocal_bind", "promotion", "reverse_path", "ways"]

_STRICT = 1
_FORWARD = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
# Packets of which so many are dropped are no strays (a part of all).
_MANY = 1e-3
_FEW = 100
# So many of a network are asked the way for.
_BESIDE = 5
# So many routes take some 0.6 s.
_MOST_ASKED = 1000


def reverse_path(case: Case) -> Iterator[Finding]:
    """rp_filter: is what comes in by each interface answered by it?"""
    common = case.settings.number("net/ipv4/conf/all/rp_filter") or 0
    strict = []
    for name in case.interfaces:
        card = case.network.cards.get(name)
        own = case.settings.number(f"net/ipv4/conf/{name}/rp_filter")
        if card is None or own is None or card.is_loopback:
            continue
        # The higher of both counts (ip-sysctl.rst).
        if max(common, own) != _STRICT:
            yield ok(
                "rp_filter", f"rp_filter of {name} is {max(common, own)}, {'loose' if max(common, own) else 'off'}"
            )
            continue
        strict.append(name)
        where = "all" if common == _STRICT else name
        elsewhere = _elsewhere(case, card)
        if elsewhere is not None:
            whom, way, key = elsewhere
            now, always = remedy(f"net/ipv4/conf/{name}/rp_filter", 2)
            yield problem(
                "rp_filter",
                f"{name} drops what comes from {whom}: answers would leave by {way.interface} "
                f"(rp_filter of {where} is 1, strict)",
                f"{key} needs to hear it",
                now,
                always=(always,),
            )
        else:
            yield ok("rp_filter", f"rp_filter of {name} is 1, strict, and what is near it is answered by it")
    yield from _dropped(case, strict)


def _elsewhere(case: Case, card: Card) -> tuple[str, Way, str] | None:
    """Who comes in by the interface, as far as that is known, and would be answered by another."""
    whom: list[tuple[list[str], str]] = []
    for router in case.routers:
        if router.interface == card.name and router.family == 4:
            whom += [([peer], f"{router.key}.unicast_peer") for peer in router.instance.unicast_peer]
    for held in card.held:
        network = held.address.network
        if held.address.version == 4 and network.prefixlen < 31:
            beside = [network.network_address + i for i in range(1, min(_BESIDE, network.num_addresses - 1))]
            near = [str(each) for each in beside if not any(True for _ in case.network.holders(each))]
            whom.append((near, case.interfaces[card.name][0]))
    for addresses, key in whom:
        with suppress(OSError):
            found = case.network.ways(addresses)
            # A single one may have a route of its own.
            if found and all(
                way is not None and not way.is_local and way.interface != card.name for way in found.values()
            ):
                address, way = next(iter(found.items()))
                assert way is not None
                return address, way, key
    return None


def _dropped(case: Case, strict: list[str]) -> Iterator[Finding]:
    if not strict:
        return
    dropped = case.settings.counted("netstat", "TcpExt", "IPReversePathFilter")
    received = case.settings.counted("snmp", "Ip", "InReceives")
    if dropped >= _FEW and dropped > _MANY * received:
        fixes = [remedy(f"net/ipv4/conf/{name}/rp_filter", 2) for name in strict]
        yield warning(
            "rp_filter",
            f"{dropped} packets were dropped since they came in where answers to them would not leave",
            f"rp_filter is strict on {', '.join(strict)}; clients that come by one way and are answered by another "
            "get no answer at all",
            *(fix.now for fix in fixes),
            always=tuple(fix.always for fix in fixes),
        )


def forwarding(case: Case) -> Iterator[Finding]:
    """ip_forward and what goes with it: the daemon sets it when it starts, if it can."""
    for family, key in case.forwards.items():
        name = _FORWARD[family]
        value = case.settings.get(name)
        now, always = remedy(name, 1)
        effect = f"{key}: no packet passes through this host without it"
        if value is None:
            yield problem("ip_forward", f"there is no {shown(name)}: this kernel has no IPv{family}", effect)
            continue
        written = case.settings.written(name)
        if written is not None and written[0] == "0":
            yield warning(
                "ip_forward",
                f"{written[1]} sets {shown(name)} to 0",
                f"{effect}; the next `sysctl --system`, as some packages do it, switches it off beneath the daemon",
                f"sed -i 's/^ *{shown(name).replace('.', '[./]')} *=.*/{shown(name)} = 1/' {written[1]}",
            )
        if value == "0" and case.settings.is_read_only():
            yield problem(
                "ip_forward",
                f"{shown(name)} is 0, and /proc/sys is read-only here, as in a container",
                effect,
                f"# on the host, when the container is started: docker run --sysctl {shown(name)}=1 …",
            )
        elif value == "0" and case.has_rules:
            yield problem(
                "ip_forward",
                f"{shown(name)} is 0, though the daemon's rules are in force",
                effect,
                now,
                always=(always,),
            )
        elif value == "0":
            yield ok("ip_forward", f"{shown(name)} is 0; the daemon sets it when it starts")
        else:
            yield ok("ip_forward", f"{shown(name)} is {value}")
            yield from _each_forwarding(case, family, effect)


def _each_forwarding(case: Case, family: int, effect: str) -> Iterator[Finding]:
    for name, card in case.network.cards.items():
        if card.is_loopback or not card.is_on:
            continue
        setting = f"net/ipv{family}/conf/{name}/forwarding"
        if case.settings.get(setting) == "0" and any(held.address.version == family for held in card.held):
            now, always = remedy(setting, 1)
            yield problem("ip_forward", f"{shown(setting)} is 0", effect, now, always=(always,))


def nonlocal_bind(case: Case) -> Iterator[Finding]:
    """ip_nonlocal_bind is what everybody tells one to set; here nobody needs it."""
    virtual = {str(vip.ip) for router in case.routers for vip in router.vips}
    if any(listener.address.host in virtual for listener in case.listeners):
        value = case.settings.get("net/ipv4/ip_nonlocal_bind")
        yield ok("ip_nonlocal_bind", f"ip_nonlocal_bind is {value}, and not needed: sockets are bound with IP_FREEBIND")


def arp(case: Case) -> Iterator[Finding]:
    """arp_ignore and arp_announce: does one interface answer for another, or none at all?"""
    common = {key: case.settings.number(f"net/ipv4/conf/all/{key}") or 0 for key in ("arp_ignore", "arp_announce")}
    for router in case.routers:
        card = case.network.cards.get(router.interface)
        if card is None or router.family != 4:
            continue
        name = card.name
        values = {
            key: max(value, case.settings.number(f"net/ipv4/conf/{name}/{key}") or 0) for key, value in common.items()
        }
        if values["arp_ignore"] == 8 or (
            values["arp_ignore"] == 3 and any(vip.scope == "host" for vip in router.instance.virtual_ipaddress)
        ):
            fixes = [remedy(f"net/ipv4/conf/{each}/arp_ignore", 1) for each in ("all", name)]
            yield problem(
                "arp_ignore",
                f"{name} answers no ARP (arp_ignore is {values['arp_ignore']})",
                f"{router.key}: nobody finds its addresses",
                *(fix.now for fix in fixes),
                always=tuple(fix.always for fix in fixes),
            )
            continue
        twin = _twin(case, router, card)
        if twin is not None and (values["arp_ignore"] < 1 or values["arp_announce"] < 2):
            wanted = {"arp_ignore": 1, "arp_announce": 2}
            fixes = [remedy(f"net/ipv4/conf/all/{key}", value) for key, value in wanted.items()]
            yield warning(
                "arp_ignore",
                f"{name} and {twin.name} are of one network, and each answers ARP for what the other has "
                f"(arp_ignore {values['arp_ignore']}, arp_announce {values['arp_announce']})",
                f"{router.key}: clients may find its addresses at the wrong card",
                *(fix.now for fix in fixes),
                always=tuple(fix.always for fix in fixes),
            )
        elif twin is not None:
            yield ok("arp_ignore", f"{name} answers for its own addresses alone")


def _twin(case: Case, router: Router, card: Card) -> Card | None:
    """Another interface with an address of the virtual addresses' network."""
    virtual = {vip.ip for each in case.routers for vip in each.vips}
    for other in case.network.cards.values():
        if other.name == card.name or not other.is_up or not other.asks:
            continue
        for held in other.held:
            if held.ip not in virtual and any(vip.ip in held.address.network for vip in router.vips):
                return other
    return None


def promotion(case: Case) -> Iterator[Finding]:
    """promote_secondaries: does the host's own address go with a virtual one?"""
    virtual = {vip.ip for router in case.routers for vip in router.vips}
    for name in dict.fromkeys(router.interface for router in case.routers):
        card = case.network.cards.get(name)
        if card is None:
            continue
        common = case.settings.number("net/ipv4/conf/all/promote_secondaries") or 0
        if common or case.settings.number(f"net/ipv4/conf/{name}/promote_secondaries"):
            continue
        for held in card.held:
            firsts = [
                first
                for first in card.held
                if first.ip in virtual and not first.is_secondary and first.address.network == held.address.network
            ]
            if held.is_secondary and held.ip not in virtual and firsts:
                now, always = remedy(f"net/ipv4/conf/{name}/promote_secondaries", 1)
                yield problem(
                    "promote_secondaries",
                    f"{name}: {held.ip} goes when {firsts[0].ip} goes, being the second of its network",
                    f"{case.interfaces[name][0]}: a failover would take this host's own address as well",
                    now,
                    always=(always,),
                )


def ways(case: Case) -> Iterator[Finding]:
    """Routes to servers and to the other directors."""
    whom: dict[str, str] = {}
    for name, written in case.servers.items():
        resolved = case.resolved(written)
        if resolved is not None:
            whom.setdefault(resolved.host, f"backends.{name.replace('/', '.servers.', 1)}")
    for router in case.routers:
        whom |= dict.fromkeys(router.instance.unicast_peer, f"{router.key}.unicast_peer")
    heartbeat = case.config.vrrp.heartbeat
    if heartbeat is not None:
        whom |= dict.fromkeys((peer.host for peer in heartbeat.peers), "vrrp.heartbeat.peers")
    # The other directors are asked for first; of thousands of servers the rest will be no other.
    asked = list(reversed(whom))[:_MOST_ASKED]
    found = case.network.ways(asked)
    lost = [(address, whom[address]) for address in asked if found[address] is None]
    for address, key in lost[:8]:
        family = "-6 " if ":" in address else ""
        yield problem(
            "route",
            f"there is no route to {address}{f' (and {len(lost) - 8} more)' if len(lost) > 8 else ''}",
            f"{key} cannot be reached",
            f"ip {family}route show",
            f"ip {family}route add {_network_of(address)} via GATEWAY",
        )
    if whom and not lost:
        yield ok("route", f"there is a route to each of {len(asked)} servers and directors")
    yield from _heartbeat(case)


def _network_of(address: str) -> str:
    host = address.partition("%")[0]
    return str(ip_network(f"{host}/{64 if ':' in host else 24}", strict=False))


def _heartbeat(case: Case) -> Iterator[Finding]:
    heartbeat = case.config.vrrp.heartbeat
    if heartbeat is None:
        return
    ip = ip_address(heartbeat.bind.host.partition("%")[0])
    found = [card for card, _ in case.network.holders(ip)]
    if not found and not heartbeat.bind.is_wildcard:
        yield problem(
            "heartbeat",
            f"no interface has {ip}",
            "vrrp.heartbeat.bind: without it no other director is heard by this way",
            "ip address show",
        )
    elif found and any(router.interface == found[0].name for router in case.routers):
        yield ok("heartbeat", f"{ip} is on {found[0].name}, where VRRP is spoken too: one cable for both")
    elif found:
        yield ok("heartbeat", f"{ip} is on {found[0].name}, another interface than VRRP's")
