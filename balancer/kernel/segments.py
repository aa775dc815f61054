"""Heads of TCP segments: made and sent, so that they seem to come from an end of a connection, and read.

RFC 9293 section 3.1 (TCP), RFC 791 section 3.1 (IPv4), RFC 8200 section 3 (IPv6).
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import NamedTuple

from balancer.errors import StartError
from balancer.kernel.ctnetlink import End
from balancer.wire.vrrp import checksum

__all__ = ["ACK", "FIN", "RST", "SYN", "Segment", "Sender", "packet", "read"]

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_TCP = struct.Struct("!HHIIHHHH")
# A header of 5 words.
_LENGTH = 0x5000
_FLAGS = 0x3F
_CHECKSUM = slice(16, 18)
_DF = 0x4000
_HOP_LIMIT = 64


class Segment(NamedTuple):
    """What of one matters here."""

    source: End
    destination: End
    sequence: int
    acknowledged: int
    flags: int
    window: int = 0
    length: int = 0
    """Octets of data behind it."""


class Sender:
    """Sends them by raw sockets. StartError without CAP_NET_RAW."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        # With this protocol the header is ours, and nothing is received (raw(7)).
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            self._sockets[4] = socket.socket(socket.AF_INET, kind, socket.IPPROTO_RAW)
        except PermissionError as error:
            raise StartError("to send in another's name takes CAP_NET_RAW") from error
        # A kernel may have no IPv6.
        with suppress(OSError):
            self._sockets[6] = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_RAW)

    def send(self, segment: Segment) -> bool:
        """Did the kernel take it?"""
        host = segment.destination[0]
        try:
            self._sockets[_version(host)].sendto(packet(segment), (host, 0))
        except (OSError, KeyError):
            return False
        return True

    def close(self) -> None:
        for each in self._sockets.values():
            each.close()


def _version(host: str) -> int:
    return 6 if ":" in host else 4


def packet(segment: Segment) -> bytes:
    """With its IP header, and without options or data."""
    version = _version(segment.source[0])
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    ends = [socket.inet_pton(family, host) for host, _ in segment[:2]]
    ports = (port for _, port in segment[:2])
    text = _TCP.pack(*ports, segment.sequence, segment.acknowledged, _LENGTH | segment.flags, segment.window, 0, 0)
    total = checksum(_pseudo(b"".join(ends), text) + text)
    text = text[: _CHECKSUM.start] + total.to_bytes(2, "big") + text[_CHECKSUM.stop :]
    if version == 6:
        return _IPV6.pack(6 << 28, len(text), socket.IPPROTO_TCP, _HOP_LIMIT, *ends) + text
    # The kernel fills in identification and checksum.
    size = _IPV4.size + len(text)
    return _IPV4.pack(0x45, 0, size, 0, _DF, _HOP_LIMIT, socket.IPPROTO_TCP, 0, *ends) + text


def _pseudo(addresses: bytes, text: bytes) -> bytes:
    """What the checksum is over besides the segment."""
    return addresses + struct.pack("!HH", socket.IPPROTO_TCP, len(text))


def _is_sound(addresses: bytes, text: bytes) -> bool:
    """The checksum of a segment that came from a machine of this host's may not be complete: the pseudo-header's sum
    stands there (CHECKSUM_PARTIAL in linux/skbuff.h)."""
    pseudo = _pseudo(addresses, text)
    return checksum(pseudo + text) == 0 or text[_CHECKSUM] == (0xFFFF ^ checksum(pseudo)).to_bytes(2, "big")


def read(octets: bytes) -> Segment | None:
    """The head of a packet from its IP header on; None: no TCP behind it, not all of its header, or it is damaged."""
    if len(octets) < _IPV4.size:
        return None
    if octets[0] >> 4 == 4:
        family, at, number, ends = socket.AF_INET, (octets[0] & 0xF) * 4, octets[9], (octets[12:16], octets[16:20])
        end = int.from_bytes(octets[2:4], "big")
    elif octets[0] >> 4 == 6 and len(octets) >= _IPV6.size:
        family, at, number, ends = socket.AF_INET6, _IPV6.size, octets[6], (octets[8:24], octets[24:40])
        end = at + int.from_bytes(octets[4:6], "big")
    else:
        return None
    if number != socket.IPPROTO_TCP or at < _IPV4.size or len(octets) < at + _TCP.size:
        return None
    source, destination, sequence, acknowledged, flags, window, *_ = _TCP.unpack_from(octets, at)
    here, there = (socket.inet_ntop(family, each) for each in ends)
    length = max(0, end - at - (flags >> 12) * 4)
    if end <= len(octets) and not _is_sound(b"".join(ends), octets[at:end]):
        return None
    return Segment((here, source), (there, destination), sequence, acknowledged, flags & _FLAGS, window, length)
