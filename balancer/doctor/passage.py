"""What the kernel balances passes through this host: by which interfaces, and what may happen to it at bridges."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from balancer.config.model import Frontend
from balancer.doctor.cards import Card
from balancer.doctor.case import Case
from balancer.doctor.finding import Finding, ok, warning
from balancer.doctor.settings import remedy, shown

__all__ = ["bridges", "passed"]

_WORDS = {4: "iptables", 6: "ip6tables"}
# So many ways take some 0.6 s.
_MOST_ASKED = 1000


def passed(case: Case, family: int) -> dict[str, Card]:
    """Interfaces that clients come by, and that lead to their servers."""
    names: set[str] = set()
    hosts: list[str] = []
    for frontend in case.config.frontends.values():
        if frontend.engine == "kernel":
            names |= _entrances(case, frontend, family)
            backend = case.config.backends.get(frontend.default_backend)
            servers = backend.servers.values() if backend is not None else ()
            found = (case.resolved(server.address) for server in servers if not server.address.path)
            hosts += [each.host for each in found if each is not None and (":" in each.host) == (family == 6)]
    for way in case.config.gateway.masquerade:
        if (":" in way.source) == (family == 6):
            names.add(way.interface)
            hosts.append(way.source.partition("/")[0])
    ways = case.network.ways(list(dict.fromkeys(hosts))[:_MOST_ASKED]).values()
    names |= {way.interface for way in ways if way is not None and not way.is_local}
    return {name: card for name, card in case.network.cards.items() if name in names and not card.is_loopback}


def _entrances(case: Case, frontend: Frontend, family: int) -> set[str]:
    names: set[str] = set()
    for bind in frontend.bind:
        address = case.resolved(bind.address)
        if address is None or address.path:
            continue
        if bind.interface is not None:
            names.add(bind.interface)
        elif address.is_wildcard:
            names |= {
                card.name for card in case.network.cards.values()
                if card.is_on and any(held.address.version == family for held in card.held)
            }  # fmt: skip
        elif (ip := ip_address(address.host.partition("%")[0])).version == family:
            names |= {card.name for card, _ in case.network.holders(ip)}
            names |= {router.interface for router in case.routers if any(vip.ip == ip for vip in router.vips)}
    return names


def bridges(case: Case) -> Iterator[Finding]:
    """br_netfilter: do frames that only cross a bridge here meet the rules of IP, ours among them?"""
    for family, key in case.forwards.items():
        name = f"net/bridge/bridge-nf-call-{_WORDS[family]}"
        everywhere = case.settings.number(name)
        # Nobody has loaded br_netfilter.
        if everywhere is None:
            continue
        for card in passed(case, family).values():
            ports = sum(other.master == card.index for other in case.network.cards.values())
            if not card.is_bridge or ports < 2:
                continue
            own = f"ip link set dev {card.name} type bridge nf_call_{_WORDS[family]}"
            if not everywhere and family not in card.filters:
                yield ok("bridge", f"what only crosses {card.name} does not meet the rules of IPv{family}")
                continue
            now, always = remedy(name, 0)
            yield warning(
                "bridge",
                f"what only crosses {card.name}, a bridge of {ports} ports, meets the rules of IPv{family} "
                f"({f'{shown(name)} is 1' if everywhere else f'nf_call_{_WORDS[family]} of {card.name} is 1'})",
                f"{key}: packets for another machine at this bridge, such as the other director while that is master, "
                "are sent to servers from here, and seen twice by conntrack; Docker and Kubernetes load br_netfilter",
                *([now] if everywhere else []),
                *([f"{own} 0"] if family in card.filters else []),
                always=(
                    *([always] if everywhere else []),
                    f"# where containers need it at a bridge of theirs: {own.replace(card.name, 'docker0')} 1",
                ),
            )
