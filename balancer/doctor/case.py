"""What the configuration asks of this host, and the host as it is now: what every check is given."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Literal, NamedTuple

from balancer.addr import Address
from balancer.config import effective, engines
from balancer.config.model import Bind, Config
from balancer.config.vrrp import VrrpInstance
from balancer.daemon import privileges
from balancer.daemon.resolve import first_addresses
from balancer.doctor.cards import Network
from balancer.doctor.processes import Process, Processes
from balancer.doctor.settings import Settings

__all__ = ["Case", "Listener", "Router", "Wish"]

# A resolver that does not answer must not keep us.
_RESOLVE_TIMEOUT = 1.5


@dataclass(frozen=True, slots=True)
class Wish:
    """What else may be done than looking at this host."""

    file: str = ""
    """Where the configuration was read."""
    listen: float | None = None
    """Seconds; 0: not at all; None: three intervals of VRRP."""
    is_quiet: bool = False
    """Nothing is sent, and no group joined."""
    asks_servers: bool = False
    """A connection is made to each server."""


class Router(NamedTuple):
    """A virtual router."""

    name: str
    instance: VrrpInstance
    version: int
    vips: tuple[IPv4Interface | IPv6Interface, ...]

    @property
    def key(self) -> str:
        """Where the file has it."""
        return f"vrrp.instances.{self.name}"

    @property
    def interface(self) -> str:
        return self.instance.interface

    @property
    def vrid(self) -> int:
        return self.instance.virtual_router_id

    @property
    def family(self) -> Literal[4, 6]:
        return self.vips[0].version

    @property
    def is_unicast(self) -> bool:
        return bool(self.instance.unicast_peer)


class Listener(NamedTuple):
    """An address and port where clients come in."""

    key: str
    """Where the file has it."""
    protocol: Literal["tcp", "udp"]
    bind: Bind
    address: Address
    """With an address in place of a name."""

    @property
    def families(self) -> tuple[int, ...]:
        if self.address.family == socket.AF_INET:
            return (4,)
        return (6, 4) if self.bind.v4v6 and self.address.is_wildcard else (6,)

    @property
    def is_reached(self) -> bool:
        """From other hosts."""
        host = self.address.host.partition("%")[0]
        return not (host.startswith("127.") or host == "::1")

    def __str__(self) -> str:
        return f"{self.protocol} {self.address}"


@dataclass
class Case:
    """All of it. What is looked at is looked at once; OSError where the kernel says nothing at all."""

    config: Config
    wish: Wish = Wish()
    settings: Settings = field(default_factory=Settings)
    network: Network = field(default_factory=Network)
    processes: Processes = field(default_factory=Processes)

    def __post_init__(self) -> None:
        self.is_root = privileges.has_network_rights()
        # Where it would not do, a check of its own says so.
        self.config, _ = engines.settle(self.config, lambda: "")
        once = (address for name, address in self.servers.items() if not self._is_resolved_again(name))
        self.names = {address.host for address in (*once, *self._bound) if address.is_name}
        """Host names that the configuration has, and the host's resolver is to know."""
        hosts = self.names | {each.host for each in self.servers.values() if each.is_name and not each.is_service}
        self.found: Mapping[str, str] = first_addresses(hosts, within=_RESOLVE_TIMEOUT)
        """Address by name."""

    @property
    def _bound(self) -> Iterator[Address]:
        for frontend in self.config.frontends.values():
            yield from (bind.address for bind in frontend.bind)
        if self.config.stats is not None:
            yield from (bind.address for bind in self.config.stats.bind)

    def _is_resolved_again(self, name: str) -> bool:
        backend, _, server = name.partition("/")
        return effective.resolution(self.config, backend, server) is not None

    @cached_property
    def servers(self) -> dict[str, Address]:
        """By BACKEND/SERVER, as the file has them."""
        return {
            f"{name}/{server}": its.address
            for name, backend in self.config.backends.items()
            for server, its in backend.servers.items()
            if not its.address.path
        }

    def resolved(self, address: Address) -> Address | None:
        """None: its name has no address."""
        if not address.is_name:
            return address
        return address.with_host(self.found[address.host]) if address.host in self.found else None

    @cached_property
    def routers(self) -> list[Router]:
        """All virtual routers."""
        return [
            Router(
                name,
                instance,
                effective.vrrp_version(instance),
                tuple(ip_interface(each.address) for each in instance.virtual_ipaddress),
            )
            for name, instance in self.config.vrrp.instances.items()
        ]

    @cached_property
    def listeners(self) -> list[Listener]:
        """Where the proxy listens, and the statistics page; not Unix sockets, nor what the kernel balances."""
        found = []
        for name, frontend in self.config.frontends.items():
            if frontend.engine == "proxy":
                for bind in frontend.bind:
                    found.append((f"frontends.{name}.bind", "udp" if frontend.mode == "udp" else "tcp", bind))
        if self.config.stats is not None:
            found += [("stats.bind", "tcp", bind) for bind in self.config.stats.bind]
        return [
            Listener(key, "udp" if protocol == "udp" else "tcp", bind, address)
            for key, protocol, bind in found
            if not bind.address.path and (address := self.resolved(bind.address)) is not None
        ]

    @property
    def uses_kernel(self) -> bool:
        """Whether the kernel is to be given rules."""
        return bool(self.config.gateway.masquerade) or any(
            frontend.engine == "kernel" for frontend in self.config.frontends.values()
        )

    @cached_property
    def forwards(self) -> dict[int, str]:
        """Versions of IP that packets pass through here with, and what of the file wants it."""
        found: dict[int, str] = {}
        for name, frontend in self.config.frontends.items():
            if frontend.engine == "kernel":
                for bind in frontend.bind:
                    address = self.resolved(bind.address)
                    if address is not None:
                        both = bind.v4v6 and address.is_wildcard
                        for family in (4, 6) if both else (6 if ":" in address.host else 4,):
                            found.setdefault(family, f"frontends.{name} (engine kernel)")
        for way in self.config.gateway.masquerade:
            found.setdefault(6 if ":" in way.source else 4, "gateway.masquerade")
        return found

    @cached_property
    def interfaces(self) -> dict[str, list[str]]:
        """Those that the file names, and where it does."""
        found: dict[str, list[str]] = {}
        for router in self.routers:
            found.setdefault(router.interface, []).append(router.key)
            for each in router.instance.track_interface:
                found.setdefault(each.interface, []).append(f"{router.key}.track_interface")
        for name, frontend in self.config.frontends.items():
            for bind in frontend.bind:
                if bind.interface is not None:
                    found.setdefault(bind.interface, []).append(f"frontends.{name}.bind")
        for bind in self.config.stats.bind if self.config.stats is not None else ():
            if bind.interface is not None:
                found.setdefault(bind.interface, []).append("stats.bind")
        for way in self.config.gateway.masquerade:
            found.setdefault(way.interface, []).append("gateway.masquerade")
        return {name: list(dict.fromkeys(keys)) for name, keys in found.items()}

    @cached_property
    def running(self) -> set[str]:
        """Virtual routers that a pybalancer of this network namespace is at work for: it has a name for each."""
        names = self.processes.abstract_names()
        return {
            router.name
            for router in self.routers
            if f"pybalancer/vrrp/{router.interface}/{router.vrid}/{router.family}" in names
        }

    @cached_property
    def daemon(self) -> Process | None:
        """The one that runs with this file."""
        return self.processes.serving(self.wish.file) if self.wish.file else None

    @cached_property
    def has_rules(self) -> bool:
        """Are rules of a pybalancer in force in this network namespace? It has a name for that, too."""
        return "pybalancer.kernel" in self.processes.abstract_names()
