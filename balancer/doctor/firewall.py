"""Does the firewall of this host let in what it is to serve, and VRRP; and through, what the kernel is to balance?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from balancer.daemon.plan import Plan
from balancer.doctor import iptables, nftables
from balancer.doctor.case import Case, Router
from balancer.doctor.finding import Finding, ok, problem, unknown
from balancer.doctor.openings import Commands, opening
from balancer.doctor.packets import Chain, Packet, fate
from balancer.doctor.passage import passed
from balancer.doctor.programs import said
from balancer.errors import KernelError, StartError
from balancer.kernel.firewall import hindrances
from balancer.kernel.nft import Nft
from balancer.kernel.plan import services
from balancer.pool.orders import Condition, ServerState

__all__ = ["Rules", "allowing", "through"]

# Where packets for this host come by; of those that leave it, the last one alone.
_IN, _OUT, _FORWARD = ("prerouting", "ingress", "input"), ("output", "postrouting"), ("forward",)
_GROUPS = {4: "224.0.0.18", 6: "ff02::12"}
_MOST_SERVERS = 200
# What says that a packet is too large: protocol and type in nft's words, and in those of iptables.
_TOO_LARGE = {
    4: ("icmp", "destination-unreachable", "-p icmp --icmp-type fragmentation-needed"),
    6: ("icmpv6", "packet-too-big", "-p icmpv6 --icmpv6-type packet-too-big"),
}
# `chain forward of table ip filter stops …: allow …(`ct status dnat accept`) …`
_CHAIN, _RULE = re.compile(r"^chain (\S+) of table (\S+ \S+) "), re.compile(r"`([^`]+)`")
# Rules that ask for these let in who comes from there, and that is their purpose.
_OF_CLIENTS = frozenset({"saddr", "limit", "iif"})


@dataclass(frozen=True, slots=True)
class Rules:
    """All that there are, of nftables and of iptables of old."""

    tables: tuple[Mapping[str, Chain], ...]
    ruleset: Sequence[Mapping[str, Any]]
    """As nft tells it."""
    legacy: tuple[Mapping[str, Chain], ...]
    """Those of `tables` that nft does not see."""
    missing: str = ""
    """What could not be looked at, and how it can be."""


def _read(case: Case) -> Rules | Finding:
    try:
        nft = Nft()
    except StartError as error:
        return unknown("firewall", f"the rules here cannot be looked at: {error}", "", "apt-get install nftables")
    try:
        ruleset: list[Mapping[str, Any]] = nft.list_json("list ruleset")
    except KernelError as error:
        return unknown("firewall", f"the rules here cannot be looked at: {error}", "", "nft list ruleset")
    finally:
        nft.close()
    found = nftables.tables(ruleset)
    legacy: list[Mapping[str, Chain]] = []
    missing = ""
    for family, word in ((4, "ip"), (6, "ip6")):
        if any(each.key == "xt" for chain in _table(found, word) for rule in chain.rules for each in rule.matches):
            # iptables understands what is its own.
            text = said(f"{word}tables-nft-save") or said(f"{word}tables-save")
            own = iptables.tables(text, family) if text else {}
            for name, chains in own.items():
                if (word, name) in found:
                    found[word, name] = chains
        if case.settings.lines(f"proc/thread-self/net/{word}_tables_names"):
            text = said(f"{word}tables-legacy-save") or said(f"{word}tables-save")
            if text is None:
                missing = f"{word}tables-legacy-save"
            else:
                legacy += iptables.tables(text, family).values()
    return Rules((*found.values(), *legacy), ruleset, tuple(legacy), missing)


def _table(found: Mapping[tuple[str, str], Mapping[str, Chain]], family: str) -> Iterator[Chain]:
    for (own, _), chains in found.items():
        if own == family:
            yield from chains.values()


def through(case: Case) -> Iterator[Finding]:
    """All of it. Who has no rights to look has been told so."""
    if not case.is_root:
        return
    rules = _read(case)
    if isinstance(rules, Finding):
        yield rules
        return
    if rules.missing:
        yield unknown(
            "firewall", "rules of iptables were not looked at", "", f"apt-get install iptables; {rules.missing}"
        )
    yield from _host(case, rules)
    if case.uses_kernel:
        yield from _forwarded(case, rules)
        yield from _sizes(case, rules)


def _wanted(case: Case) -> list[tuple[str, Packet, str, int]]:
    """What is to come in or to leave: what it is, as a packet, of which key, to which port."""
    others = frozenset(name for name, card in case.network.cards.items() if card.is_on and not card.is_loopback)
    found: list[tuple[str, Packet, str, int]] = []
    for listener in case.listeners:
        if not listener.is_reached:
            continue
        bind = listener.bind
        by = frozenset({bind.interface}) if bind.interface is not None else _by(case, listener.address.host) or others
        for family in listener.families:
            to = "" if listener.address.is_wildcard else listener.address.host.partition("%")[0]
            packet = Packet(family, listener.protocol, by, destination=to, port=listener.address.port)
            found.append((str(listener), packet, listener.key, listener.address.port))
    for router in case.routers:
        by = frozenset({router.interface})
        peers = router.instance.unicast_peer
        own = router.instance.unicast_src_ip or ""
        for peer in peers or ("",):
            inward = Packet(
                router.family, "vrrp", by, destination=own if peers else _GROUPS[router.family], source=peer
            )
            found.append((f"VRRP{f' from {peer}' if peer else ''} on {router.interface}", inward, router.key, 0))
            outward = Packet(
                router.family, "vrrp", by, destination=peer or _GROUPS[router.family], source=own, is_leaving=True
            )
            found.append((f"VRRP{f' to {peer}' if peer else ''} on {router.interface}", outward, router.key, 0))
    heartbeat = case.config.vrrp.heartbeat
    if heartbeat is not None:
        host = heartbeat.bind.host.partition("%")[0]
        for each in heartbeat.peers:
            source = each.host.partition("%")[0]
            packet = Packet(
                6 if ":" in host else 4, "udp", _by(case, host) or others, host, heartbeat.bind.port, source
            )
            found.append((f"the heartbeat of {source}", packet, "vrrp.heartbeat", heartbeat.bind.port))
    return list(dict.fromkeys(found))


def allowing(case: Case, router: Router) -> Commands:
    """What lets the advertisements for a virtual router in, where something does not."""
    rules = _read(case)
    where = ""
    if isinstance(rules, Rules):
        for _, packet, key, _ in _wanted(case):
            if key == router.key and not packet.is_leaving and not where:
                where = fate(rules.tables, _IN, packet).where
    return opening(case, "vrrp", family=router.family, chain=where)


def _by(case: Case, host: str) -> frozenset[str]:
    """Where packets to an address come in: of a virtual one, by its interface."""
    found = {router.interface for router in case.routers if any(str(vip.ip) == host for vip in router.vips)}
    found |= {name for name, card in case.network.cards.items() if any(str(held.ip) == host for held in card.held)}
    return frozenset(found)


def _host(case: Case, rules: Rules) -> Iterator[Finding]:
    is_open: list[str] = []
    doubtful: dict[str, list[str]] = {}
    for what, packet, key, port in _wanted(case):
        found = fate(rules.tables, _OUT if packet.is_leaving else _IN, packet)
        if found.certain == "accept":
            is_open.append(what)
        elif found.certain == "drop":
            yield _closed(case, what, packet, key, port, found.where)
        elif found.certain == "elsewhere":
            yield problem(
                "firewall",
                f"{what} is sent elsewhere by a rule of {found.where}",
                f"{key}: what comes there never gets to us",
                "nft -a list ruleset" if "tables" not in found.where else f"{found.where.split()[0]}-save",
            )
        elif found.doubts <= _OF_CLIENTS:
            yield ok("firewall", f"{what} is open to some, as {found.where} has it")
        else:
            doubtful.setdefault(found.where, []).append(what)
    for where, those in doubtful.items():
        look = f"nft list chain {where}" if "tables" not in where else f"{where.split()[0]} -nvL {where.split()[1]}"
        shown = ", ".join(those[:4]) + (", …" if len(those) > 4 else "")
        yield unknown(
            "firewall", f"whether {where} lets {shown} pass depends on rules that are not understood", "", look
        )
    if is_open:
        yield ok("firewall", f"{len(is_open)} of {len(_wanted(case))} kinds of packets pass: {', '.join(is_open[:3])}")


def _closed(case: Case, what: str, packet: Packet, key: str, port: int, where: str) -> Finding:
    if packet.is_leaving:
        match = f"{'ip6 nexthdr' if packet.family == 6 else 'ip protocol'} vrrp"
        now, always = opening(case, "vrrp", family=packet.family, chain=where)
        if "tables" not in where:
            now = (f"nft insert rule {where} {match} accept",)
        return problem(
            "firewall", f"{what} may not leave: {where} drops it", f"{key}: others do not hear us", *now, always=always
        )
    effect = "both directors will be master" if packet.protocol == "vrrp" else "nobody gets in"
    now, always = opening(case, packet.protocol, port, family=packet.family, chain=where)
    return problem("firewall", f"{what} is dropped by {where}", f"{key}: {effect}", *now, always=always)


def _forwarded(case: Case, rules: Rules) -> Iterator[Finding]:
    try:
        plan = Plan.of(case.config, cores=1, known=case.found)
    except StartError:
        # Said with the descriptors.
        return
    wanted = services(
        plan.config,
        {pair: seat.address for pair, seat in plan.seats.items()},
        lambda _: ServerState(Condition.UP),
        lambda *pair: plan.seats[pair].index,
        bound=plan.bound,
    )
    found = hindrances(rules.ruleset, wanted, case.config.gateway.masquerade)
    for line in found:
        chain = _CHAIN.match(line)
        fixes = [f"nft insert rule {chain[2]} {chain[1]} {rule}" for rule in _RULE.findall(line)] if chain else []
        keep = (
            [f"# in /etc/nftables.conf, in {chain[2]} {chain[1]}: {rule}" for rule in _RULE.findall(line)]
            if chain
            else []
        )
        yield problem(
            "forward",
            line,
            f"{' and '.join(case.forwards.values())}: it does not pass through here",
            *(fixes or ["nft -a list ruleset"]),
            always=tuple(keep),
        )
    cards = frozenset(name for name, card in case.network.cards.items() if card.is_on and not card.is_loopback)
    stopped = set()
    for service in wanted:
        for target in service.targets[:_MOST_SERVERS]:
            packet = Packet(service.family, service.protocol, cards, target.address, target.port)
            result = fate(rules.legacy, _FORWARD, packet)
            if result.certain == "drop" and result.where not in stopped:
                stopped.add(result.where)
                command = f"{result.where.split()[0]} -I FORWARD -m conntrack --ctstatus DNAT -j ACCEPT"
                yield problem(
                    "forward",
                    f"{result.where} drops what is for {target.address}:{target.port}",
                    f"frontends.{service.frontend}: it does not pass through here",
                    command,
                    always=("netfilter-persistent save",),
                )
    if not found and not stopped:
        yield ok("forward", "no rule of others stops what is balanced by the kernel")


def _sizes(case: Case, rules: Rules) -> Iterator[Finding]:
    """Where interfaces take packets of different sizes: does who sends too large ones hear of it?"""
    for family, key in case.forwards.items():
        cards = passed(case, family)
        by_size = sorted(cards.values(), key=lambda card: card.mtu)
        if not by_size or by_size[0].mtu == by_size[-1].mtu:
            continue
        small, large = by_size[0], by_size[-1]
        protocol, kind, of_iptables = _TOO_LARGE[family]
        packet = Packet(family, protocol, frozenset(cards) - {small.name}, is_leaving=True, kind=kind, state="related")
        found = fate(rules.tables, _OUT, packet)
        sizes = f"{small.name} has an MTU of {small.mtu}, {large.name} of {large.mtu}"
        if found.certain == "accept":
            yield ok("mtu", f"{sizes}; who sends too large packets of IPv{family} is told so")
        elif found.certain == "drop":
            if "tables" in found.where:
                program, chain = found.where.split()[:2]
                now, always = f"{program} -I {chain} {of_iptables} -j ACCEPT", "netfilter-persistent save"
            else:
                rule = f"{protocol} type {kind} accept"
                now, always = (
                    f"nft insert rule {found.where} {rule}",
                    f"# in /etc/nftables.conf, in {found.where}: {rule}",
                )
            yield problem(
                "mtu",
                f"{sizes}, and {found.where} drops what tells senders of it ({protocol} {kind})",
                f"{key}: what is too large for {small.name} vanishes, so that connections are made and hang with the "
                "first long message",
                now,
                always=(always,),
            )
        else:
            look = f"nft list chain {found.where}" if "tables" not in found.where else f"{found.where.split()[0]} -nvL"
            yield unknown(
                "mtu", f"{sizes}; whether {found.where} lets {protocol} {kind} pass is not understood", key, look
            )
