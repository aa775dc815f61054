"""Binds that cannot stand side by side: the same address, or one that takes in the other."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from balancer.addr import Address
from balancer.config.model import Bind, Config
from balancer.config.tree import Finding, Loc

__all__ = ["clashes"]


@dataclass(frozen=True, slots=True)
class _Taken:
    """One bind, as the kernel will see it."""

    owner: str
    loc: Loc
    bind: Bind
    transport: Literal["tcp", "udp", "unix"]
    host: str
    """Canonical: an IP address, a host name in lower case, or a path."""
    families: frozenset[str]
    """Of which it takes every address: a wildcard's; empty for one address."""

    @property
    def family(self) -> str:
        return "v6" if ":" in self.host else "v4"


def clashes(config: Config) -> Iterator[Finding]:
    """A finding for each bind that an earlier one stands in the way of.

    TCP and UDP are apart; a wildcard takes in every address of its family, and `[::]` with `v4v6` those of
    IPv4. Binds on different interfaces do not meet, as in the kernel (SO_BINDTODEVICE).
    """
    wildcards: dict[tuple[str, int], list[_Taken]] = defaultdict(list)
    everyone: dict[tuple[str, int], list[_Taken]] = defaultdict(list)
    at_host: dict[tuple[str, int, str], list[_Taken]] = defaultdict(list)
    for taken in _binds(config):
        port = (taken.transport, taken.bind.address.port)
        rivals = wildcards[port] if not taken.families else everyone[port]
        earlier = next((other for other in (*at_host[*port, taken.host], *rivals) if _meet(taken, other)), None)
        if earlier is not None:
            what = "the same address" if earlier.host == taken.host else f"{earlier.bind.address}, which overlaps,"
            text = f"{taken.bind.address} clashes: {what} is taken by {earlier.owner}"
            yield Finding(taken.loc, text)
            continue
        everyone[port].append(taken)
        at_host[*port, taken.host].append(taken)
        if taken.families:
            wildcards[port].append(taken)


def _meet(one: _Taken, other: _Taken) -> bool:
    interfaces = {one.bind.interface, other.bind.interface}
    if len(interfaces) == 2 and None not in interfaces:
        return False
    return (
        one.host == other.host
        or not one.families.isdisjoint(other.families)
        or one.family in other.families
        or other.family in one.families
    )


def _binds(config: Config) -> Iterator[_Taken]:
    for name, frontend in config.frontends.items():
        transport: Literal["tcp", "udp"] = "udp" if frontend.mode == "udp" else "tcp"
        for i, bind in enumerate(frontend.bind):
            yield _taken(f"frontend {name}", ("frontends", name, "bind", i, "address"), bind, transport)
    if config.stats is not None:
        for i, bind in enumerate(config.stats.bind):
            yield _taken("stats", ("stats", "bind", i, "address"), bind, "tcp")
    if config.global_.runtime_socket is not None:
        bind = Bind(address=Address("", 0, config.global_.runtime_socket.path))
        yield _taken("global.runtime_socket", ("global", "runtime_socket", "path"), bind, "tcp")


def _taken(owner: str, loc: Loc, bind: Bind, transport: Literal["tcp", "udp"]) -> _Taken:
    address = bind.address
    if address.path:
        return _Taken(owner, loc, bind, "unix", address.path, frozenset())
    families = set()
    if address.is_wildcard:
        families.add("v6" if ":" in address.host else "v4")
        if bind.v4v6:
            families.add("v4")
    return _Taken(owner, loc, bind, transport, _canonical(address.host), frozenset(families))


def _canonical(host: str) -> str:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().rstrip(".")
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ip)
