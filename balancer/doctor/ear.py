"""Sockets that hear what is said of virtual addresses on one interface: VRRP, ARP, Neighbor Advertisements.

What of VRRP comes to the card is heard before any rule of a firewall (packet(7)), and once more where the daemon would
hear it, behind all of them: what comes to the one and not to the other is filtered.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from balancer.doctor.cards import Card
from balancer.errors import BadAdvertisement
from balancer.wire import arp, vrrp

__all__ = ["Advert", "Claims", "Ear"]

_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD
_OUTGOING = 4
_SO_ATTACH_FILTER = 26
_AT_ONCE = 512
_PACKET = 4096
# Of a flood no more is needed.
_MOST = 20_000
_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29
# linux/filter.h: a byte at a fixed place into the accumulator; equal, else skip; so many octets of the packet.
_LOAD_BYTE, _JUMP_EQUAL, _RETURN = 0x30, 0x15, 0x06
_LOAD_HALF = 0x28
# What is loaded from there is the packet's EtherType (SKF_AD_OFF, SKF_AD_PROTOCOL).
_ETHERTYPE_AT = 0xFFFFF000
_INSTRUCTION = struct.Struct("=HBBI")
# Of what this host sends only who asks for all hears.
_ALL = 0x0003
# Where IP headers name what follows.
_PROTOCOL_AT = {4: 9, 6: 6}
# RFC 8200 section 3: source and destination at these places, 16 octets each; the hop limit.
_IPV6_SIZE, _HOP_LIMIT_AT = 40, 7
_ETHERNET_SIZE = 14
_ICMPV6, _NEIGHBOR_ADVERTISEMENT = 58, 136


class Advert(NamedTuple):
    """A VRRP packet that came to the card. Addresses are packed."""

    interface: str
    message: bytes
    source: bytes
    destination: bytes
    hop_limit: int
    mac: bytes
    """Of who sent it."""
    is_own: bool
    """This host sent it."""
    passed: bool
    """It came where a daemon hears it, too."""

    @property
    def family(self) -> int:
        return 4 if len(self.source) == 4 else 6


class Ear:
    """VRRP of one interface and IP version. OSError where the kernel does not let us."""

    def __init__(self, card: Card, family: int) -> None:
        self.interface = card.name
        self._family = family
        self._found: list[Advert] = []
        self._passed: set[tuple[bytes, bytes]] = set()
        self._behind = socket.socket(
            socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, vrrp.PROTOCOL
        )
        self._before: socket.socket | None = None
        try:
            self._behind.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, card.name.encode())
            self._join(card.index)
            # The later of both: what the first has heard alone is no loss.
            self._before = _filtered(card.name, _IPV4 if family == 4 else _IPV6, {_PROTOCOL_AT[family]: vrrp.PROTOCOL})
        except OSError:
            self.close()
            raise

    def _join(self, index: int) -> None:
        if self._family == 4:
            self._behind.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            member = struct.pack("4s4si", vrrp.GROUP_V4, bytes(4), index)
            self._behind.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        else:
            self._behind.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
            self._behind.setsockopt(
                socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, struct.pack("16si", vrrp.GROUP_V6, index)
            )

    def hear(self) -> None:
        """Take what has come since, up to a bound."""
        assert self._before is not None
        if len(self._found) < _MOST:
            found = (_advert(self.interface, *each) for each in _taken(self._before, self._family))
            self._found += (each for each in found if each is not None)
        self.settle()

    def settle(self) -> None:
        """Take of it what comes where a daemon hears it, which may be a moment later."""
        for _ in range(_AT_ONCE):
            try:
                data, sender = self._behind.recvfrom(_PACKET)
                if self._family == 4:
                    header, message = vrrp.take_ipv4_header(data)
                    passed = header.source, message
                else:
                    passed = socket.inet_pton(socket.AF_INET6, sender[0].partition("%")[0]), data
            except BadAdvertisement:
                continue
            except OSError:
                return
            if len(self._passed) < _MOST:
                self._passed.add(passed)

    @property
    def heard(self) -> list[Advert]:
        """All so far, oldest first."""
        return [each._replace(passed=(each.source, each.message) in self._passed) for each in self._found]

    def close(self) -> None:
        self._behind.close()
        if self._before is not None:
            self._before.close()


class Claims:
    """Who has which address on one interface, as they say when they are asked. OSError where the kernel does not let
    us."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self._sockets: list[socket.socket] = []
        try:
            self._sockets.append(_opened(card.name, _ARP, socket.SOCK_RAW))
            self._sockets.append(
                _filtered(
                    card.name,
                    _IPV6,
                    {_ETHERNET_SIZE + 6: _ICMPV6, _ETHERNET_SIZE + _IPV6_SIZE: _NEIGHBOR_ADVERTISEMENT},
                    kind=socket.SOCK_RAW,
                )
            )
        except OSError:
            self.close()
            raise

    def ask(self, addresses: Iterable[IPv4Address | IPv6Address]) -> None:
        """Send a probe for each. OSError where the interface is down."""
        for ip in addresses:
            self._sockets[0].send(
                arp.probe(self.card.mac, ip.packed) if ip.version == 4 else arp.solicitation(self.card.mac, ip.packed)
            )

    def hear(self) -> Iterator[tuple[bytes, bytes]]:
        """Packed address and MAC of those that others claimed since."""
        for own in self._sockets:
            for _ in range(_AT_ONCE):
                try:
                    data, place = own.recvfrom(_PACKET)
                except OSError:
                    break
                said = arp.claim(data) if place[2] != _OUTGOING else None
                if said is not None and said[1] != self.card.mac:
                    yield said

    def close(self) -> None:
        for own in self._sockets:
            own.close()


def _opened(name: str, kind: int, how: int) -> socket.socket:
    own = socket.socket(socket.AF_PACKET, how | socket.SOCK_NONBLOCK, 0)
    try:
        own.bind((name, kind))
    except OSError:
        own.close()
        raise
    return own


def _filtered(name: str, ethertype: int, octets: dict[int, int], *, kind: int = socket.SOCK_DGRAM) -> socket.socket:
    """Hears only packets that have these octets at these places, from the first packet on."""
    own = socket.socket(socket.AF_PACKET, kind | socket.SOCK_NONBLOCK, 0)
    try:
        tests = [(_LOAD_HALF, _ETHERTYPE_AT, ethertype), *((_LOAD_BYTE, at, octet) for at, octet in octets.items())]
        program = b""
        for i, (load, at, value) in enumerate(tests, 1):
            # Past all that follows.
            skip = 2 * (len(tests) - i) + 1
            program += _INSTRUCTION.pack(load, 0, 0, at) + _INSTRUCTION.pack(_JUMP_EQUAL, 0, skip, value)
        program += _INSTRUCTION.pack(_RETURN, 0, 0, 0xFFFF) + _INSTRUCTION.pack(_RETURN, 0, 0, 0)
        memory = ctypes.create_string_buffer(program)
        count = len(program) // _INSTRUCTION.size
        own.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", count, ctypes.addressof(memory)))
        own.bind((name, _ALL))
    except OSError:
        own.close()
        raise
    return own


def _taken(own: socket.socket, family: int) -> Iterator[tuple[bytes, bytes, bool, int]]:
    """Packet, MAC of its sender, whether that is us, and the IP version."""
    for _ in range(_AT_ONCE):
        try:
            data, place = own.recvfrom(_PACKET)
        except OSError:
            return
        yield data, place[4], place[2] == _OUTGOING, family


def _advert(interface: str, data: bytes, mac: bytes, is_own: bool, family: int) -> Advert | None:
    if family == 4:
        try:
            header, message = vrrp.take_ipv4_header(data)
        except BadAdvertisement:
            return None
        return Advert(interface, message, header.source, header.destination, header.ttl, mac, is_own, False)
    if len(data) < _IPV6_SIZE:
        return None
    size = int.from_bytes(data[4:6], "big")
    message = data[_IPV6_SIZE : _IPV6_SIZE + size]
    return Advert(interface, message, data[8:24], data[24:40], data[_HOP_LIMIT_AT], mac, is_own, False)
