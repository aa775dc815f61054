"""The frames that tell a network segment where an address is now.

Sent by the router that takes the addresses of a virtual router (RFC 9568 section 6.4.1 and 6.4.2).
"""

from __future__ import annotations

import struct

from balancer.wire.vrrp import checksum, pseudo_header

__all__ = ["gratuitous_arp", "unsolicited_na"]

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


def _require_lengths(mac: bytes, address: bytes, size: int) -> None:
    """struct would cut and pad without a word."""
    if len(mac) != 6 or len(address) != size:
        raise ValueError(f"MAC address of {len(mac)} octets and IP address of {len(address)}, not 6 and {size}")
