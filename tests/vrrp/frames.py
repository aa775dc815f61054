"""Frames of Ethernet, and what of VRRP and of neighbours they say."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from balancer.wire import vrrp as wire

ETH_IPV4, ETH_ARP, ETH_IPV6 = 0x0800, 0x0806, 0x86DD


class Frame(NamedTuple):
    """One frame of Ethernet."""

    destination: bytes
    source: bytes
    kind: int
    payload: bytes


class Advert(NamedTuple):
    """An advertisement with its IP header."""

    frame: Frame
    tos: int
    ttl: int
    source: str
    destination: str
    message: bytes

    @property
    def vrid(self) -> int:
        """Which virtual router it is for."""
        return self.message[1]

    @property
    def priority(self) -> int:
        """0: its sender resigns."""
        return self.message[2]


class Arp(NamedTuple):
    """What ARP says, after its fixed beginning."""

    frame: Frame
    operation: int
    sender_mac: bytes
    sender: str
    target_mac: bytes
    target: str


class Advertised(NamedTuple):
    """A Neighbor Advertisement."""

    frame: Frame
    hop_limit: int
    source: str
    destination: str
    flags: int
    target: str
    mac: bytes


def decode(frame: Frame) -> Advert | Arp | Advertised | None:
    """None for what is nothing of ours."""
    data = frame.payload
    if frame.kind == ETH_IPV4 and data[9] == wire.PROTOCOL:
        source, destination = map(socket.inet_ntoa, (data[12:16], data[16:20]))
        message = data[(data[0] & 0xF) * 4 : int.from_bytes(data[2:4], "big")]
        return Advert(frame, data[1], data[8], source, destination, message)
    if frame.kind == ETH_ARP:
        assert data[:6] == bytes.fromhex("0001 0800 06 04")
        operation, sender_mac, sender, target_mac, target = struct.unpack_from("!H6s4s6s4s", data, 6)
        return Arp(frame, operation, sender_mac, socket.inet_ntoa(sender), target_mac, socket.inet_ntoa(target))
    if frame.kind == ETH_IPV6:
        first, size, following, hop_limit = struct.unpack_from("!IHBB", data)
        source, destination = (socket.inet_ntop(socket.AF_INET6, data[at : at + 16]) for at in (8, 24))
        message = data[40 : 40 + size]
        if following == wire.PROTOCOL:
            return Advert(frame, first >> 20 & 0xFF, hop_limit, source, destination, message)
        if following == socket.IPPROTO_ICMPV6 and message[0] == 136:
            target = socket.inet_ntop(socket.AF_INET6, message[8:24])
            flags, option, mac = message[4], message[24:26], message[26:32]
            assert option == b"\x02\x01", "one option: the target's hardware address"
            return Advertised(frame, hop_limit, source, destination, flags, target, mac)
    return None
