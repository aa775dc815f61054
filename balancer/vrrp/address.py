"""Interfaces and their addresses as the kernel has them, by rtnetlink(7). The one place where addresses are changed.

An address is put with a lifetime and put again in time: if we die or are frozen, it goes by itself.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface

from pyroute2 import IPRoute, NetlinkError

__all__ = ["Addresses", "Card", "Vip"]

# linux/rtnetlink.h: groups 1, 5 and 9 tell of links and of IPv4 and IPv6 addresses.
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
# linux/if.h and linux/if_addr.h
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
_IFA_F_NODAD, _IFA_F_TENTATIVE, _IFA_F_DADFAILED = 0x02, 0x40, 0x08


@dataclass(frozen=True, slots=True)
class Vip:
    """An address to put on an interface."""

    address: IPv4Interface | IPv6Interface
    label: str | None = None
    scope: str = "global"

    @property
    def ip(self) -> IPv4Address | IPv6Address:
        return self.address.ip

    def __str__(self) -> str:
        return str(self.address)


@dataclass(frozen=True, slots=True)
class Card:
    """An interface."""

    index: int
    mac: bytes
    """Empty where it has none, such as loopback's or a tunnel's."""
    is_up: bool
    """Switched on, and with a carrier."""
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    """Those that can be used, in the kernel's order: the first of a subnet is its primary one."""


class Addresses:
    """All of this network namespace. OSError where the kernel does not let us."""

    def __init__(self) -> None:
        self._route = IPRoute()
        # A plain socket: what the library has read ahead no selector would see.
        self._monitor = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._monitor.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
        try:
            # To ask and to listen everybody may. The right to change is seen before the interface, which there is not.
            self.take(0, Vip(IPv4Interface("0.0.0.0/32")))
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        """Readable when a link or an address may have changed; `drain` it then."""
        return self._monitor.fileno()

    def drain(self) -> None:
        """Forget what was told: `card` asks anew."""
        with suppress(BlockingIOError):
            while True:
                try:
                    self._monitor.recv(65536)
                except OSError as error:
                    # ENOBUFS: more happened than there was room to tell.
                    if error.errno != errno.ENOBUFS:
                        raise

    def card(self, name: str) -> Card | None:
        """The interface of that name as it is now; None when there is none. OSError when the kernel does not say."""
        try:
            (link,) = self._route.link("get", ifname=name)
            addresses = tuple(self._addresses(link["index"]))
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise OSError(error.code, f"interface {name}: {error}") from error
            return None
        mac = link.get_attr("IFLA_ADDRESS") or ""
        return Card(
            index=link["index"],
            mac=bytes.fromhex(mac.replace(":", "")) if mac.count(":") == 5 else b"",
            is_up=link["flags"] & (_IFF_UP | _IFF_LOWER_UP) == _IFF_UP | _IFF_LOWER_UP,
            addresses=addresses,
        )

    def _addresses(self, index: int) -> list[IPv4Interface | IPv6Interface]:
        found = []
        for message in self._route.get_addr(index=index):
            flags = message.get_attr("IFA_FLAGS") or message["flags"]
            if not flags & (_IFA_F_TENTATIVE | _IFA_F_DADFAILED):
                # The other end of a point-to-point link is IFA_ADDRESS, our own IFA_LOCAL.
                address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                found.append(ip_interface(f"{address}/{message['prefixlen']}"))
        return found

    def put(self, index: int, vip: Vip, *, lifetime: int) -> None:
        """Add an address, or give it a new lifetime of whole seconds if it is there."""
        more: dict[str, int | str] = {"preferred_lft": lifetime, "valid_lft": lifetime}
        if vip.ip.version == 6:
            more["ifa_flags"] = _IFA_F_NODAD
        else:
            more["scope"] = _SCOPES[vip.scope]
            if vip.label is not None:
                more["label"] = vip.label
        self._change("replace", index, vip, **more)

    def take(self, index: int, vip: Vip) -> None:
        """Remove an address; nothing happens where it is not there, or its interface is gone."""
        try:
            self._change("del", index, vip)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                raise

    def _change(self, command: str, index: int, vip: Vip, **more: int | str) -> None:
        try:
            prefixlen = vip.address.network.prefixlen
            self._route.addr(command, index=index, address=str(vip.ip), prefixlen=prefixlen, **more)
        except NetlinkError as error:
            raise OSError(error.code, f"{vip}: {error}") from error

    def forget(self) -> None:
        """In a child: close what it inherited. `close` would reach into the parent's epoll, which it shares."""
        os.close(self._route.fileno())
        self._monitor.close()

    def close(self) -> None:
        self._route.close()
        self._monitor.close()
