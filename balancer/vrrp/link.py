"""The sockets of one interface and address family: advertisements in and out, announcements out."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from balancer.errors import BadAdvertisement
from balancer.wire import arp, vrrp

__all__ = ["Link", "Packet"]

# linux/in.h and linux/in6.h, where Python has no name for it.
_IP_PKTINFO = 8
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29
# packet(7): such a socket only sends.
_NO_PROTOCOL = 0
# Packets taken in one go: a flood must leave time for our own advertisements.
_AT_ONCE = 64
_PACKET = 4096
# Interface, source; what is behind that the kernel fills in (ip(7), RFC 3542 section 6.1).
_PKTINFO_V4 = struct.Struct("i4s4x")
_PKTINFO_V6 = struct.Struct("16si")
_ANCILLARY = socket.CMSG_SPACE(struct.calcsize("i")) + socket.CMSG_SPACE(struct.calcsize("16si"))


class Packet(NamedTuple):
    """One that came: a VRRP message and what its IP header says. Addresses are packed."""

    message: bytes
    source: bytes
    destination: bytes
    hop_limit: int


class Link:
    """Sends from `source`, and hears what is sent to VRRP's group or to this host, on one interface.

    OSError where the kernel does not let us.
    """

    def __init__(self, name: str, index: int, mac: bytes, source: IPv4Address | IPv6Address) -> None:
        self.name = name
        self.index = index
        self.mac = mac
        self.source = source
        self._frames: socket.socket | None = None
        family = socket.AF_INET if source.version == 4 else socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, vrrp.PROTOCOL)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
            (self._join_v4 if source.version == 4 else self._join_v6)()
            if mac:
                self._frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NO_PROTOCOL)
                self._frames.bind((name, _NO_PROTOCOL))
        except OSError:
            self.close()
            raise

    def _join_v4(self) -> None:
        own = self._socket
        interface = struct.pack("4s4si", vrrp.GROUP_V4, self.source.packed, self.index)
        own.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        own.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, interface)
        own.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, vrrp.HOP_LIMIT)
        own.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, vrrp.HOP_LIMIT)
        own.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        own.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, vrrp.TOS)

    def _join_v6(self) -> None:
        own = self._socket
        own.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, struct.pack("16si", vrrp.GROUP_V6, self.index))
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, vrrp.HOP_LIMIT)
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, vrrp.HOP_LIMIT)
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, vrrp.TOS)
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)

    @property
    def group(self) -> bytes:
        """Where advertisements go, packed."""
        return vrrp.GROUP_V4 if self.source.version == 4 else vrrp.GROUP_V6

    def fileno(self) -> int:
        """Readable when packets have come."""
        return self._socket.fileno()

    def send(self, message: bytes, destination: bytes) -> None:
        """Send an advertisement to a packed address. OSError where the interface is down, gone, or leads not there.

        To the group it goes also when our address was taken away: those who wait for us must learn that we resign.
        """
        try:
            self._send(message, destination)
        except OSError:
            if self._frames is None or destination != self.group:
                raise
            self._frames.send(vrrp.frame(self.mac, message, self.source.packed))

    def _send(self, message: bytes, destination: bytes) -> None:
        if self.source.version == 4:
            pktinfo = socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO_V4.pack(self.index, self.source.packed)
            self._socket.sendmsg([message], [pktinfo], 0, (socket.inet_ntoa(destination), 0))
        else:
            pktinfo = socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO_V6.pack(self.source.packed, self.index)
            address = socket.inet_ntop(socket.AF_INET6, destination), 0, 0, self.index
            self._socket.sendmsg([message], [pktinfo], 0, address)

    def announce(self, address: IPv4Address | IPv6Address) -> None:
        """Tell everybody on the link that `address` is here now."""
        if self._frames is None:
            return
        if address.version == 4:
            frame = arp.gratuitous_arp(self.mac, address.packed)
        else:
            frame = arp.unsolicited_na(self.mac, address.packed)
        self._frames.send(frame)

    def receive(self, refused: Callable[[BadAdvertisement], None]) -> Iterator[Packet]:
        """What has come, up to a bound; headers that nothing may be made of are `refused`."""
        for _ in range(_AT_ONCE):
            try:
                if self.source.version == 4:
                    header, message = vrrp.take_ipv4_header(self._socket.recv(_PACKET))
                    yield Packet(message, header.source, header.destination, header.ttl)
                else:
                    yield self._receive_v6()
            except BadAdvertisement as error:
                refused(error)
            except OSError:
                # Nothing more, or the interface went down: the next look at it says so.
                return

    def _receive_v6(self) -> Packet:
        message, ancillary, _, sender = self._socket.recvmsg(_PACKET, _ANCILLARY)
        hop_limit, destination = 0, b""
        for level, kind, data in ancillary:
            if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_HOPLIMIT:
                (hop_limit,) = struct.unpack("i", data[:4])
            elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                destination = data[:16]
        return Packet(message, socket.inet_pton(socket.AF_INET6, sender[0].partition("%")[0]), destination, hop_limit)

    def close(self) -> None:
        self._socket.close()
        if self._frames is not None:
            self._frames.close()
