"""The frames that tell a network segment where an address is now, and those that ask whether somebody has it.

The former are sent by the router that takes the addresses of a virtual router (RFC 9568 section 6.4.1 and 6.4.2), the
latter by who would know (RFC 5227 section 2.1, RFC 4862 section 5.4.2): nobody who hears them remembers anything.
"""

from __future__ import annotations

import struct

from balancer.wire.vrrp import checksum, pseudo_header

__all__ = ["claim", "gratuitous_arp", "probe", "solicitation", "unsolicited_na"]

_ETHERNET = struct.Struct("!6s6sH")
_ETHERTYPE_IPV4, _ETHERTYPE_ARP, _ETHERTYPE_IPV6 = 0x0800, 0x0806, 0x86DD
_BROADCAST = b"\xff" * 6
# IEEE 802.3 clause 4.4.2 asks for 64; the network card adds the last four, the frame's checksum.
_SHORTEST_FRAME = 60

# Hardware type, protocol type, their lengths, operation; sender's MAC and IP address, target's.
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_ETHERNET = 1
_ARP_REQUEST = 1

# Version, traffic class and flow label; payload length, next header, hop limit, source, destination.
_IPV6 = struct.Struct("!IHBB16s16s")
_IPV6_VERSION = 6 << 28
_ICMPV6 = 58
# Others are discarded (RFC 4861 section 7.1.2).
_HOP_LIMIT = 255
_ALL_NODES = bytes.fromhex("ff02 0000 0000 0000 0000 0000 0000 0001")
_ALL_NODES_MAC = bytes.fromhex("3333 0000 0001")

# Type, code, checksum, flags, target; then one option: its type, its length in units of 8 octets, MAC address.
_ADVERTISEMENT = struct.Struct("!BBHI16sBB6s")
_NEIGHBOR_ADVERTISEMENT = 136
_ROUTER, _OVERRIDE = 1 << 31, 1 << 29
_TARGET_LINK_LAYER_ADDRESS = 2
_NEIGHBOR_SOLICITATION = 135
# RFC 4291 section 2.7.1: the last three octets are the address's.
_SOLICITED_NODE = bytes.fromhex("ff02 0000 0000 0000 0000 0001 ff00 0000")
_ARP_REPLY = 2
_NOBODY_V4, _NOBODY_V6 = bytes(4), bytes(16)


def gratuitous_arp(mac: bytes, address: bytes) -> bytes:
    """The Ethernet frame that tells everyone that the IPv4 `address` (4 octets) is at `mac` (6 octets).

    A request for the address by its holder, to all: the form that keepalived sends and that RFC 5227 section 3
    recommends; some switches and hosts pass over replies that nobody asked for. ValueError for other lengths.
    """
    _require_lengths(mac, address, 4)
    arp = _ARP.pack(_ARP_ETHERNET, _ETHERTYPE_IPV4, 6, 4, _ARP_REQUEST, mac, address, _BROADCAST, address)
    return (_ETHERNET.pack(_BROADCAST, mac, _ETHERTYPE_ARP) + arp).ljust(_SHORTEST_FRAME, b"\0")


def unsolicited_na(mac: bytes, address: bytes, *, source: bytes | None = None) -> bytes:
    """The Ethernet frame that tells all nodes that the IPv6 `address` (16 octets) is at `mac` (6 octets).

    An unsolicited Neighbor Advertisement (RFC 4861 section 4.4) with the Router and Override flags, as RFC 9568
    section 6.4.2 wants it. It comes from `source`, by default from the address itself, as keepalived has it.
    ValueError for other lengths.
    """
    source = address if source is None else source
    _require_lengths(mac, address, 16)
    _require_lengths(mac, source, 16)
    advertisement = _ADVERTISEMENT.pack(
        _NEIGHBOR_ADVERTISEMENT, 0, 0, _ROUTER | _OVERRIDE, address, _TARGET_LINK_LAYER_ADDRESS, 1, mac
    )
    total = checksum(pseudo_header(source, _ALL_NODES, _ICMPV6, len(advertisement)) + advertisement)
    return b"".join(
        (
            _ETHERNET.pack(_ALL_NODES_MAC, mac, _ETHERTYPE_IPV6),
            _IPV6.pack(_IPV6_VERSION, len(advertisement), _ICMPV6, _HOP_LIMIT, source, _ALL_NODES),
            advertisement[:2],
            total.to_bytes(2, "big"),
            advertisement[4:],
        )
    )


def probe(mac: bytes, address: bytes) -> bytes:
    """The Ethernet frame that asks who has the IPv4 `address`, from somebody who has none (RFC 5227 section 2.1.1):
    so nobody puts `mac` into a table. ValueError for other lengths."""
    _require_lengths(mac, address, 4)
    arp = _ARP.pack(_ARP_ETHERNET, _ETHERTYPE_IPV4, 6, 4, _ARP_REQUEST, mac, _NOBODY_V4, bytes(6), address)
    return (_ETHERNET.pack(_BROADCAST, mac, _ETHERTYPE_ARP) + arp).ljust(_SHORTEST_FRAME, b"\0")


def solicitation(mac: bytes, address: bytes) -> bytes:
    """The same for the IPv6 `address`: a Neighbor Solicitation as duplicate address detection sends it (RFC 4862
    section 5.4.2), which is answered to all nodes."""
    _require_lengths(mac, address, 16)
    group = _SOLICITED_NODE[:13] + address[13:]
    message = struct.pack("!BBHI16s", _NEIGHBOR_SOLICITATION, 0, 0, 0, address)
    total = checksum(pseudo_header(_NOBODY_V6, group, _ICMPV6, len(message)) + message)
    head = _IPV6.pack(_IPV6_VERSION, len(message), _ICMPV6, _HOP_LIMIT, _NOBODY_V6, group)
    # RFC 2464 section 7.
    to = b"\x33\x33" + group[12:]
    return _ETHERNET.pack(to, mac, _ETHERTYPE_IPV6) + head + message[:2] + total.to_bytes(2, "big") + message[4:]


def claim(frame: bytes) -> tuple[bytes, bytes] | None:
    """The packed address that the sender of an Ethernet frame says is its own, and its hardware address: of an ARP
    packet from that address (RFC 5227 section 2.1.1) or a Neighbor Advertisement. None for all else."""
    if len(frame) < _ETHERNET.size:
        return None
    _, source, kind = _ETHERNET.unpack_from(frame)
    body = frame[_ETHERNET.size :]
    if kind == _ETHERTYPE_ARP and len(body) >= _ARP.size:
        hardware, protocol, mac_size, size, operation, mac, address, _, _ = _ARP.unpack_from(body)
        is_arp = (hardware, protocol, mac_size, size) == (_ARP_ETHERNET, _ETHERTYPE_IPV4, 6, 4)
        if is_arp and operation in (_ARP_REQUEST, _ARP_REPLY) and address != _NOBODY_V4:
            return address, mac
    if kind == _ETHERTYPE_IPV6 and len(body) >= _IPV6.size + 24:
        _, _, following, hop_limit, _, _ = _IPV6.unpack_from(body)
        message = body[_IPV6.size :]
        if (following, hop_limit, message[0]) == (_ICMPV6, _HOP_LIMIT, _NEIGHBOR_ADVERTISEMENT):
            option = message[24:32]
            is_told = len(option) == 8 and option[:2] == bytes([_TARGET_LINK_LAYER_ADDRESS, 1])
            return message[8:24], option[2:] if is_told else source
    return None


def _require_lengths(mac: bytes, address: bytes, size: int) -> None:
    """struct would cut and pad without a word."""
    if len(mac) != 6 or len(address) != size:
        raise ValueError(f"MAC address of {len(mac)} octets and IP address of {len(address)}, not 6 and {size}")
