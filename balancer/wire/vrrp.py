"""VRRP: one router of a group says that it holds the addresses, the others listen.

Version 2 (RFC 3768, whose authentication is that of RFC 2338 section 5.3.6) and version 3 (RFC 9568). What is refused,
in which order and under which counter's name is keepalived's (vrrp_check_packet() of keepalived/vrrp/vrrp.c), so that
the same packet moves the same counter on both.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import ip_address

from balancer.errors import BadAdvertisement

__all__ = [
    "GROUP_V4",
    "GROUP_V6",
    "HOP_LIMIT",
    "PROTOCOL",
    "TOS",
    "Advertisement",
    "Header",
    "build",
    "checksum",
    "frame",
    "parse",
    "pseudo_header",
    "take_ipv4_header",
    "vrid_of",
]

PROTOCOL = 112
"""IP protocol and IPv6 next header (RFC 9568 section 5.1.1.4)."""
GROUP_V4 = bytes([224, 0, 0, 18])
GROUP_V6 = bytes.fromhex("ff02 0000 0000 0000 0000 0000 0000 0012")
HOP_LIMIT = 255
"""Sent, and asked for: a packet that still has it has crossed no router (RFC 9568 section 5.1.1.3)."""

TOS = 0xC0
"""Internetwork Control (RFC 791 section 3.1), as keepalived marks its own."""

_ETHERNET_GROUP_V4 = bytes.fromhex("01005e000012")
_ETHERNET_GROUP_V6 = bytes.fromhex("333300000012")
_ADVERTISEMENT = 1
_NO_AUTHENTICATION, _PASSWORD, _AH = 0, 1, 2
_PASSWORD_SIZE = 8
_CHECKSUM = slice(6, 8)
_CENTISECONDS = 100
# The reserved four bits in front are ignored (RFC 9568 section 5.2.6).
_V3_INTERVAL = 0x0FFF
_V2_INTERVAL = 0x00FF

# Version and type, VRID, priority, count of addresses, two octets that each version reads in its own way, checksum.
_HEAD = struct.Struct("!BBBBHH")
# Version and header length, total length, flags and fragment offset, TTL, protocol, source, destination.
_IPV4 = struct.Struct("!BxHxxHBBxx4s4s")
_IPV4_MORE_FRAGMENTS_OR_OFFSET = 0x3FFF
_IPV4_PSEUDO = struct.Struct("!4s4sxBH")
_IPV6_PSEUDO = struct.Struct("!16s16sIxxxB")
_IPV4_SIZE, _IPV6_SIZE = 4, 16
_IPV4_BROADCAST = b"\xff\xff\xff\xff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement:
    """What a router says of itself; `addresses` and the packet's own addresses are packed, all of one family."""

    version: int
    """2 (IPv4 alone) or 3."""
    vrid: int
    """1 to 255."""
    priority: int
    """0: this router gives up now; 255: it owns the addresses."""
    interval: float
    """Seconds between two of them. Version 2: whole, 1 to 255. Version 3: whole hundredths, 0.01 to 40.95."""
    addresses: tuple[bytes, ...]
    """1 to 255 of 4 or 16 octets."""
    password: bytes | None = field(default=None, repr=False)
    """Version 2 alone, up to 8 octets, in the clear; None is authentication type 0. What others see of it is padded
    with zero octets, so those at the end do not count."""


@dataclass(frozen=True, slots=True)
class Header:
    """What of an IPv4 header matters here; addresses packed."""

    source: bytes
    destination: bytes
    ttl: int


def build(advertisement: Advertisement, *, source: bytes, destination: bytes, checksum_as_v2: bool = False) -> bytes:
    """The message that follows the IP header from `source` to `destination` (packed).

    Version 3 sums up a pseudo-header as well: over IPv6 always (RFC 9568 section 5.2.8), over IPv4 as keepalived
    does by default, and not with `checksum_as_v2`, as RFC 9568 wants it and keepalived's `v3_checksum_as_v2` does.
    ValueError for what has no place in the message.
    """
    version, password, size = advertisement.version, advertisement.password, len(source)
    _require_sendable(advertisement, size)
    if version == 2:
        kind = _NO_AUTHENTICATION if password is None else _PASSWORD
        timing = kind << 8 | _units(advertisement.interval, 1, most=_V2_INTERVAL)
        authentication = (password or b"").ljust(_PASSWORD_SIZE, b"\0")
    else:
        timing = _units(advertisement.interval, _CENTISECONDS, most=_V3_INTERVAL)
        authentication = b""
    count = len(advertisement.addresses)
    head = _HEAD.pack(version << 4 | _ADVERTISEMENT, advertisement.vrid, advertisement.priority, count, timing, 0)
    message = b"".join((head, *advertisement.addresses, authentication))
    is_plain = version == 2 or (checksum_as_v2 and size == _IPV4_SIZE)
    before = b"" if is_plain else pseudo_header(source, destination, PROTOCOL, len(message))
    total = checksum(before + message).to_bytes(2, "big")
    return message[: _CHECKSUM.start] + total + message[_CHECKSUM.stop :]


def _require_sendable(advertisement: Advertisement, size: int) -> None:
    if (advertisement.version, size) not in ((2, _IPV4_SIZE), (3, _IPV4_SIZE), (3, _IPV6_SIZE)):
        raise ValueError(f"no VRRP version {advertisement.version} over addresses of {size} octets")
    if not 1 <= advertisement.vrid <= 0xFF:
        raise ValueError(f"VRID {advertisement.vrid} is not from 1 to 255")
    if not 0 <= advertisement.priority <= 0xFF:
        raise ValueError(f"priority {advertisement.priority} is not from 0 to 255")
    if not 1 <= len(advertisement.addresses) <= 0xFF:
        raise ValueError(f"{len(advertisement.addresses)} addresses, not 1 to 255")
    if any(len(address) != size for address in advertisement.addresses):
        raise ValueError(f"an address has other than the {size} octets of the packet's own")
    if advertisement.password is not None and advertisement.version != 2:
        raise ValueError("VRRP version 3 has no password")
    if advertisement.password is not None and len(advertisement.password) > _PASSWORD_SIZE:
        raise ValueError(f"a password has at most {_PASSWORD_SIZE} octets")


def _units(seconds: float, per_second: int, *, most: int) -> int:
    exact = seconds * per_second
    units = round(exact)
    # 0.07 * 100 is 7.000000000000001; 1.5 seconds in version 2 would be another interval than the one meant.
    if abs(units - exact) > 1e-6 or not 1 <= units <= most:
        raise ValueError(f"interval {seconds} s is not 1 to {most} times 1/{per_second} s")
    return units


def vrid_of(message: bytes) -> int:
    """The virtual router that a message is for: by it the receiver knows what else `parse` shall ask for.

    Raises BadAdvertisement for what is too short to be one, and for VRID 0.
    """
    if len(message) < _HEAD.size:
        raise BadAdvertisement("packet_len_err", f"{len(message)} octets, shorter than the fixed fields")
    if not message[1]:
        raise BadAdvertisement("vrid_err", "VRID 0")
    return message[1]


def parse(
    message: bytes,
    *,
    version: int,
    source: bytes,
    destination: bytes,
    hop_limit: int,
    password: bytes | None = None,
    is_unicast: bool = False,
) -> Advertisement:
    """Read the payload of an IP packet, exactly as long as its IP header says (RFC 9568 section 7.1).

    `version`, `password` and `is_unicast` are those of the virtual router here. `is_unicast` lets any hop limit pass
    and asks for a destination that is no group; without it hop limit 255 and VRRP's group. Version 3 over IPv4 may come
    with either of the two checksums that `build` can write.

    Raises BadAdvertisement; its cause is the first that applies of packet_len_err (no fixed fields), vrid_err,
    source_err (IPv6; for IPv4 `take_ipv4_header` sees to it), packet_len_err (any other length than the count of
    addresses asks for), ip_ttl_err, version_err, invalid_authtype, authtype_mismatch, auth_failure,
    invalid_type_rcvd, checksum_err, addr_list_err (destination of the wrong kind, no address), advert_interval_err
    (an interval of 0).
    """
    vrid = vrid_of(message)
    if len(source) == _IPV6_SIZE:
        _refuse_source(source)
    first, _, priority, count, timing, _ = _HEAD.unpack_from(message)
    their_version, kind = divmod(first, 16)
    end = _HEAD.size + count * len(source)
    expected = end + _PASSWORD_SIZE if their_version == 2 else end
    # How long another version's message is, nobody knows.
    if their_version in (2, 3) and len(message) != expected:
        raise BadAdvertisement("packet_len_err", f"{len(message)} octets, {expected} expected")
    if hop_limit != HOP_LIMIT and not is_unicast:
        raise BadAdvertisement("ip_ttl_err", f"TTL or hop limit {hop_limit}, {HOP_LIMIT} expected")
    if their_version != version:
        raise BadAdvertisement("version_err", f"VRRP version {their_version}, {version} expected")
    if version == 2:
        _authenticate(timing >> 8, message[end:], password)
    if kind != _ADVERTISEMENT:
        raise BadAdvertisement("invalid_type_rcvd", f"type {kind} is no advertisement")
    if not _is_intact(message, version, source, destination):
        raise BadAdvertisement("checksum_err", "wrong checksum")
    if is_unicast and ip_address(destination).is_multicast:
        raise BadAdvertisement("addr_list_err", "sent by multicast, unicast expected")
    if not is_unicast and destination not in (GROUP_V4, GROUP_V6):
        raise BadAdvertisement("addr_list_err", f"sent to {ip_address(destination)}, not to the group of VRRP")
    if not count:
        raise BadAdvertisement("addr_list_err", "no address")
    interval = timing & _V2_INTERVAL if version == 2 else (timing & _V3_INTERVAL) / _CENTISECONDS
    if not interval:
        raise BadAdvertisement("advert_interval_err", "interval 0")
    return Advertisement(
        version=version,
        vrid=vrid,
        priority=priority,
        interval=float(interval),
        addresses=tuple(message[at : at + len(source)] for at in range(_HEAD.size, end, len(source))),
        password=password if version == 2 else None,
    )


def _authenticate(kind: int, data: bytes, password: bytes | None) -> None:
    if kind not in (_NO_AUTHENTICATION, _PASSWORD, _AH):
        raise BadAdvertisement("invalid_authtype", f"authentication type {kind} does not exist")
    expected = _NO_AUTHENTICATION if password is None else _PASSWORD
    if kind != expected:
        raise BadAdvertisement("authtype_mismatch", f"authentication type {kind}, {expected} expected")
    if password is not None and data != password.ljust(_PASSWORD_SIZE, b"\0"):
        raise BadAdvertisement("auth_failure", "wrong password")


def _is_intact(message: bytes, version: int, source: bytes, destination: bytes) -> bool:
    """Of the two sums that version 3 over IPv4 allows, either will do. The price: where the pseudo-header amounts to
    a single bit (one pair of addresses in 2048), the wrong sum forgives that bit."""
    if len(source) == _IPV4_SIZE and checksum(message) == 0:
        return True
    return version == 3 and checksum(pseudo_header(source, destination, PROTOCOL, len(message)) + message) == 0


def frame(mac: bytes, message: bytes, source: bytes) -> bytes:
    """An Ethernet frame to VRRP's group with a message, from a hardware address and a packed source address.

    RFC 1112 section 6.4 and RFC 2464 section 7 say where it goes; no IP options.
    """
    if len(source) == _IPV4_SIZE:
        size = _IPV4.size + len(message)
        packed = struct.pack("!BBHHHBBH", 0x45, TOS, size, 0, 0, HOP_LIMIT, PROTOCOL, 0) + source + GROUP_V4
        header = packed[:10] + checksum(packed).to_bytes(2, "big") + packed[12:]
        return _ETHERNET_GROUP_V4 + mac + b"\x08\x00" + header + message
    header = struct.pack("!IHBB", 6 << 28 | TOS << 20, len(message), PROTOCOL, HOP_LIMIT) + source + GROUP_V6
    return _ETHERNET_GROUP_V6 + mac + b"\x86\xdd" + header + message


def take_ipv4_header(packet: bytes) -> tuple[Header, bytes]:
    """Split what a raw IPv4 socket delivers into header and payload (RFC 791 section 3.1).

    The payload ends where the total length says: Ethernet's padding is cut off. Options are skipped; the header's
    checksum is the kernel's matter. Raises BadAdvertisement: packet_len_err for lengths that contradict each other
    and for a fragment, version_err for another IP version, invalid_type_rcvd for another protocol, source_err for a
    source that no router can have (a group, the broadcast address, loopback, 0.0.0.0).
    """
    if len(packet) < _IPV4.size:
        raise BadAdvertisement("packet_len_err", f"{len(packet)} octets are no IPv4 packet")
    first, total, fragment, ttl, protocol, source, destination = _IPV4.unpack_from(packet)
    version, words = divmod(first, 16)
    size = words * 4
    if version != 4:
        raise BadAdvertisement("version_err", f"IP version {version}, 4 expected")
    if not _IPV4.size <= size <= total <= len(packet):
        raise BadAdvertisement(
            "packet_len_err", f"IPv4 header of {size} octets, total length {total}, received {len(packet)}"
        )
    if fragment & _IPV4_MORE_FRAGMENTS_OR_OFFSET:
        raise BadAdvertisement("packet_len_err", "a fragment")
    if protocol != PROTOCOL:
        raise BadAdvertisement("invalid_type_rcvd", f"IP protocol {protocol}, {PROTOCOL} expected")
    _refuse_source(source)
    return Header(source, destination, ttl), packet[size:total]


def _refuse_source(source: bytes) -> None:
    """Stricter than keepalived, which believes 0.0.0.0."""
    address = ip_address(source)
    if address.is_multicast or address.is_loopback or address.is_unspecified or source == _IPV4_BROADCAST:
        raise BadAdvertisement("source_err", f"no router has the source address {address}")


def pseudo_header(source: bytes, destination: bytes, protocol: int, size: int) -> bytes:
    """What is summed up in front of `size` octets between two packed addresses (RFC 8200 section 8.1; for IPv4 as
    TCP has it, RFC 9293 section 3.1)."""
    if len(source) == _IPV4_SIZE:
        return _IPV4_PSEUDO.pack(source, destination, protocol, size)
    return _IPV6_PSEUDO.pack(source, destination, size, protocol)


def checksum(octets: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of octets; 0 where they hold their own right one.

    A sum of 16-bit words in one's complement is the number that they form modulo 65535, 65536 being 1 there. So one
    changed bit is always found, while 0x0000 and 0xffff are the same.
    """
    return -int.from_bytes(octets, "big") % 0xFFFF
