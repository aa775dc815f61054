"""The networks that this host is on, by rtnetlink(7)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network

__all__ = ["Network", "own"]

Network = IPv4Network | IPv6Network

# struct nlmsghdr, struct ifaddrmsg, struct rtattr.
_HEADER = struct.Struct("=IHHII")
_ADDRESS = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_RESULT = struct.Struct("=i")
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3
# The other end's, where a link has two.
_IFA_ADDRESS = 1
_CHUNK = 65536


def own() -> tuple[Network, ...]:
    """In order, each once; without loopback, link-local networks, and addresses that stand alone.

    OSError when the kernel does not say."""
    found = {network for network in _all() if network.prefixlen < network.max_prefixlen and not _is_nowhere(network)}
    return tuple(sorted(found, key=lambda each: (each.version, int(each.network_address), each.prefixlen)))


def _is_nowhere(network: Network) -> bool:
    return network.is_loopback or network.is_link_local


def _all() -> Iterator[Network]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asked:
        asked.bind((0, 0))
        body = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        size = _HEADER.size + len(body)
        asked.send(_HEADER.pack(size, _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0) + body)
        while True:
            chunk = asked.recv(_CHUNK)
            at = 0
            while at < len(chunk):
                length, kind, *_ = _HEADER.unpack_from(chunk, at)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    (result,) = _RESULT.unpack_from(chunk, at + _HEADER.size)
                    raise OSError(-result, os.strerror(-result))
                if kind == _RTM_NEWADDR:
                    yield from _network(chunk[at + _HEADER.size : at + length])
                at += (length + 3) & ~3


def _network(message: bytes) -> Iterator[Network]:
    family, prefix, *_ = _ADDRESS.unpack_from(message)
    at = _ADDRESS.size
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            return
        if kind == _IFA_ADDRESS and family in (socket.AF_INET, socket.AF_INET6):
            packed = message[at + _ATTRIBUTE.size : at + length]
            yield ip_network(f"{socket.inet_ntop(family, packed)}/{prefix}", strict=False)
        at += (length + 3) & ~3
