"""Interfaces and their addresses as the kernel has them, by rtnetlink(7). The one place where addresses are changed.

An address is put with a lifetime and put again in time: if we die or are frozen, it goes by itself.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from pyroute2 import IPRoute, NetlinkError

__all__ = ["Addresses", "Card", "Change", "Vip"]

# linux/rtnetlink.h: groups 1, 5 and 9 tell of links and of IPv4 and IPv6 addresses.
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12
_NLM_F_REQUEST, _NLM_F_DUMP = 0x001, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_DELLINK, _RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 16, 17, 20, 21, 22
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFLA_IFNAME = 3
# Length, type, flags, sequence, port: struct nlmsghdr. Family, prefix length, flags, scope, index: struct ifaddrmsg.
_HEADER = struct.Struct("=IHHII")
_IFADDRMSG = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
# Family, type, index, flags, change: struct ifinfomsg.
_IFINFOMSG = struct.Struct("=BxHiII")
# A kernel that does not answer is asked again later (seconds).
_PATIENCE = 2.0
# Datagrams taken in one go: a storm of changes must leave time for our advertisements.
_AT_ONCE = 256
# linux/if.h and linux/if_addr.h
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
_IFA_F_NODAD, _IFA_F_DADFAILED, _IFA_F_TENTATIVE, _IFA_F_PERMANENT = 0x02, 0x08, 0x40, 0x80


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
    permanent: frozenset[IPv4Address | IPv6Address] = frozenset()
    """Those of them that nobody gave a lifetime."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that the kernel told of."""

    index: int
    """Of the interface; 0: nobody knows, more happened than there was room to tell."""
    name: str = ""
    """Of the interface, where the interface itself is another now."""
    put: IPv4Address | IPv6Address | None = None
    """The address that was put there, or put again."""


class Addresses:
    """All of this network namespace. OSError where the kernel does not let us."""

    def __init__(self) -> None:
        self._route = IPRoute()
        self._asking = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._asking.settimeout(_PATIENCE)
        # Since Linux 4.20: the interface in a request counts.
        self._asking.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        self._asked = 0
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
        """Readable when a link or an address may have changed; `changes` tells then."""
        return self._monitor.fileno()

    def changes(self) -> list[Change]:
        """What has been told since, up to a bound."""
        found: list[Change] = []
        for _ in range(_AT_ONCE):
            try:
                told = self._monitor.recv(65536)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found.append(Change(0))
                continue
            for kind, body, _ in _messages(told):
                if kind in (_RTM_NEWLINK, _RTM_DELLINK):
                    name = _attributes(body, _IFINFOMSG.size).get(_IFLA_IFNAME, b"")
                    found.append(Change(_IFINFOMSG.unpack_from(body)[2], name.rstrip(b"\0").decode(errors="replace")))
                elif kind in (_RTM_NEWADDR, _RTM_DELADDR):
                    address, _, index = _address(body)
                    found.append(Change(index, put=address.ip if kind == _RTM_NEWADDR else None))
        return found

    def card(self, name: str) -> Card | None:
        """The interface of that name as it is now; None when there is none. OSError when the kernel does not say."""
        try:
            (link,) = self._route.link("get", ifname=name)
            found = tuple(self._addresses(link["index"]))
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise OSError(error.code, f"interface {name}: {error}") from error
            return None
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None
        mac = link.get_attr("IFLA_ADDRESS") or ""
        return Card(
            index=link["index"],
            mac=bytes.fromhex(mac.replace(":", "")) if mac.count(":") == 5 else b"",
            is_up=link["flags"] & (_IFF_UP | _IFF_LOWER_UP) == _IFF_UP | _IFF_LOWER_UP,
            addresses=tuple(address for address, _ in found),
            permanent=frozenset(address.ip for address, flags in found if flags & _IFA_F_PERMANENT),
        )

    def _addresses(self, index: int) -> Iterator[tuple[IPv4Interface | IPv6Interface, int]]:
        """With their flags. The kernel answers with those of this interface alone: others may have thousands."""
        for family in (socket.AF_INET, socket.AF_INET6):
            for body in self._dump(_RTM_GETADDR, _IFADDRMSG.pack(family, 0, 0, 0, index)):
                address, flags, _ = _address(body)
                if not flags & (_IFA_F_TENTATIVE | _IFA_F_DADFAILED):
                    yield address, flags

    def _dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        """The answers to one request, without their headers. OSError where the kernel does not give them."""
        self._asked = self._asked + 1 & 0xFFFFFFFF
        head = _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | _NLM_F_DUMP, self._asked, 0)
        self._asking.send(head + body)
        while True:
            for answer, octets, asked in _messages(self._asking.recv(65536)):
                if asked != self._asked:
                    # That of one which came too late.
                    continue
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    number = -int.from_bytes(octets[:4], sys.byteorder, signed=True)
                    raise OSError(number, os.strerror(number))
                yield octets

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
        self._asking.close()
        self._monitor.close()

    def close(self) -> None:
        self._route.close()
        self._asking.close()
        self._monitor.close()


def _messages(octets: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Type, body and sequence number of each message of a datagram (netlink(7))."""
    at = 0
    while at + _HEADER.size <= len(octets):
        length, kind, _, number, _ = _HEADER.unpack_from(octets, at)
        if length < _HEADER.size:
            return
        yield kind, octets[at + _HEADER.size : at + length], number
        at += length + 3 & ~3


def _address(body: bytes) -> tuple[IPv4Interface | IPv6Interface, int, int]:
    """Address, flags and interface of a message of RTM_NEWADDR's kind (rtnetlink(7))."""
    family, prefix, flags, _, index = _IFADDRMSG.unpack_from(body)
    found = _attributes(body, _IFADDRMSG.size)
    if _IFA_FLAGS in found:
        flags = int.from_bytes(found[_IFA_FLAGS], sys.byteorder)
    # The other end of a point-to-point link is IFA_ADDRESS, our own IFA_LOCAL.
    packed = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
    if family == socket.AF_INET:
        return IPv4Interface((packed, prefix)), flags, index
    return IPv6Interface((packed, prefix)), flags, index


def _attributes(body: bytes, at: int) -> dict[int, bytes]:
    """By type; those of a message begin behind its fixed part."""
    found = {}
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = body[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found
