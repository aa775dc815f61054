"""Interfaces, their addresses, and the way to others, by rtnetlink(7). Asking takes no rights."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface
from typing import Any, NamedTuple

from pyroute2 import IPRoute, NetlinkError

__all__ = ["Card", "Held", "Network", "Way"]

# linux/if.h
_UP, _LOOPBACK, _NOARP, _MULTICAST, _LOWER_UP = 0x1, 0x8, 0x80, 0x1000, 0x10000
# linux/if_addr.h
_SECONDARY, _DADFAILED, _TENTATIVE, _PERMANENT = 0x01, 0x08, 0x40, 0x80
# linux/neighbour.h
_UNUSABLE = 0x01 | 0x20  # NUD_INCOMPLETE, NUD_FAILED
_MAC = 6
_FILTERS = {4: "IPTABLES", 6: "IP6TABLES"}


@dataclass(frozen=True, slots=True)
class Held:
    """An address that an interface has."""

    address: IPv4Interface | IPv6Interface
    flags: int

    @property
    def ip(self) -> IPv4Address | IPv6Address:
        return self.address.ip

    @property
    def is_permanent(self) -> bool:
        """Nobody gave it a lifetime."""
        return bool(self.flags & _PERMANENT)

    @property
    def is_secondary(self) -> bool:
        """It goes with the first of its network, unless promote_secondaries is on (IPv4)."""
        return self.address.version == 4 and bool(self.flags & _SECONDARY)

    @property
    def is_refused(self) -> bool:
        """Somebody else has it: duplicate address detection has failed (IPv6)."""
        return bool(self.flags & _DADFAILED)

    @property
    def is_tentative(self) -> bool:
        """It is not yet known whether somebody else has it (IPv6)."""
        return bool(self.flags & _TENTATIVE)


@dataclass(frozen=True, slots=True)
class Card:
    """An interface."""

    name: str
    index: int
    flags: int
    mac: bytes
    """Empty where it has none of Ethernet's."""
    mtu: int
    held: tuple[Held, ...]
    master: int = 0
    """The bridge, bond or the like that it is a part of, by its index; 0: none."""
    is_bridge: bool = False
    filters: frozenset[int] = frozenset()
    """Versions of IP whose rules what crosses this bridge is to meet, whatever holds for others (br_netfilter)."""

    @property
    def is_on(self) -> bool:
        """Switched on."""
        return bool(self.flags & _UP)

    @property
    def is_up(self) -> bool:
        """Switched on, and with a carrier."""
        return self.flags & (_UP | _LOWER_UP) == _UP | _LOWER_UP

    @property
    def is_loopback(self) -> bool:
        return bool(self.flags & _LOOPBACK)

    @property
    def takes_groups(self) -> bool:
        """Multicast."""
        return bool(self.flags & _MULTICAST)

    @property
    def asks(self) -> bool:
        """Whether ARP is spoken there."""
        return bool(self.mac) and not self.flags & (_NOARP | _LOOPBACK)

    def has(self, ip: IPv4Address | IPv6Address) -> Held | None:
        """That address, if it is there."""
        return next((each for each in self.held if each.ip == ip), None)


class Way(NamedTuple):
    """How packets to an address leave."""

    interface: str
    is_local: bool
    """The address is this host's own."""
    gateway: str
    """Empty: it is on the link."""


class Network:
    """Of this network namespace, at one moment. OSError where the kernel does not say."""

    def __init__(self) -> None:
        with IPRoute() as route:
            names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in route.link("dump")}
            held: dict[int, list[Held]] = {}
            for each in route.addr("dump"):
                local = each.get_attr("IFA_LOCAL") or each.get_attr("IFA_ADDRESS")
                flags = each.get_attr("IFA_FLAGS") or each["flags"]
                held.setdefault(each["index"], []).append(Held(ip_interface(f"{local}/{each['prefixlen']}"), flags))
            self.cards: dict[str, Card] = {
                card.name: card for card in (_card(link, held) for link in route.link("dump"))
            }
            self._neighbours = list(route.neigh("dump"))
        self._names = names

    def way(self, address: str) -> Way | None:
        """None: there is no route. OSError where the kernel does not say."""
        return self.ways([address])[address]

    def ways(self, addresses: Iterable[str]) -> dict[str, Way | None]:
        """The same of many, at 0.6 ms each."""
        with IPRoute() as route:
            return {address: self._way(route, address) for address in addresses}

    def _way(self, route: IPRoute, address: str) -> Way | None:
        host, _, zone = address.partition("%")
        more = {"oif": self.cards[zone].index} if zone in self.cards else {}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            (found,) = route.route("get", dst=host, family=family, **more)
        except NetlinkError as error:
            if error.code in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
                return None
            raise OSError(error.code, f"route to {address}: {error}") from error
        index = found.get_attr("RTA_OIF")
        # RTN_UNREACHABLE and the like of IPv6 come as answers; RTN_UNICAST 1, RTN_LOCAL 2.
        if found["type"] not in (1, 2):
            return None
        return Way(self._names.get(index, f"#{index}"), found["type"] == 2, found.get_attr("RTA_GATEWAY") or "")

    def macs(self, address: str) -> set[bytes]:
        """Where the kernel has lately found a neighbour."""
        return {
            bytes.fromhex(mac.replace(":", ""))
            for each in self._neighbours
            if each.get_attr("NDA_DST") == address and not each["state"] & _UNUSABLE
            for mac in [each.get_attr("NDA_LLADDR")]
            if mac
        }

    def holders(self, ip: IPv4Address | IPv6Address) -> Iterator[tuple[Card, Held]]:
        """Interfaces of this host that have the address."""
        for card in self.cards.values():
            found = card.has(ip)
            if found is not None:
                yield card, found


def _card(link: Any, held: dict[int, list[Held]]) -> Card:
    text = link.get_attr("IFLA_ADDRESS") or ""
    mac = bytes.fromhex(text.replace(":", "")) if text.count(":") == _MAC - 1 else b""
    return Card(
        name=link.get_attr("IFLA_IFNAME"),
        index=link["index"],
        flags=link["flags"],
        mac=mac if any(mac) else b"",
        mtu=link.get_attr("IFLA_MTU") or 0,
        held=tuple(held.get(link["index"], ())),
        master=link.get_attr("IFLA_MASTER") or 0,
        is_bridge=link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "bridge",
        filters=frozenset(
            family
            for family, word in _FILTERS.items()
            if link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", f"IFLA_BR_NF_CALL_{word}") == 1
        ),
    )
