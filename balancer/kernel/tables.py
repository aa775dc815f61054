"""Which tables nftables has, by netlink: the library takes all that is in them besides, which takes its time."""

from __future__ import annotations

import os
import socket
import struct

__all__ = ["tables"]

# linux/netfilter/nfnetlink.h, nf_tables.h: subsystem 10, NFT_MSG_NEWTABLE and NFT_MSG_GETTABLE; NFTA_TABLE_NAME.
_NETLINK_NETFILTER = 12
_NEW, _GET = 10 << 8, 10 << 8 | 1
_NAME = 1
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3
# struct nlmsghdr with struct nfgenmsg, struct nlattr.
_HEADER = struct.Struct("=IHHIIBBH")
_ATTRIBUTE = struct.Struct("=HH")
_RESULT = struct.Struct("=i")
_AT_RESULT = 16
_CHUNK = 65536
# linux/netfilter.h, in nft's words.
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


def tables() -> list[str]:
    """As nft(8) writes them: `inet filter`. OSError when the kernel does not say."""
    found: list[str] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as asked:
        asked.send(_HEADER.pack(_HEADER.size, _GET, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0, socket.AF_UNSPEC, 0, 0))
        while True:
            chunk = asked.recv(_CHUNK)
            at = 0
            while at < len(chunk):
                length, kind, *_ = struct.unpack_from("=IH", chunk, at)
                if kind in (_ERROR, _DONE):
                    (result,) = _RESULT.unpack_from(chunk, at + _AT_RESULT)
                    if result < 0:
                        raise OSError(-result, os.strerror(-result))
                    return found
                if kind == _NEW:
                    found.append(_table(chunk[at : at + length]))
                at += (length + 3) & ~3


def _table(message: bytes) -> str:
    family = _HEADER.unpack_from(message)[5]
    at = _HEADER.size
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if kind == _NAME:
            name = message[at + _ATTRIBUTE.size : at + length].rstrip(b"\0").decode(errors="replace")
            return f"{_FAMILIES.get(family, family)} {name}"
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return ""
