"""Which tables nftables has, and what a table holds, by netlink: the library takes all that is in them besides, which
takes its time.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from balancer.errors import KernelError
from balancer.kernel.nft import Nft

__all__ = ["Contents", "contents", "tables"]

# linux/netfilter/nfnetlink.h, nf_tables.h: subsystem 10; NFT_MSG_NEWTABLE, NEWCHAIN and so on, each followed by its
# NFT_MSG_GET…
_NETLINK_NETFILTER = 12
_TABLE, _CHAIN, _SET, _OBJECT, _FLOWTABLE = (10 << 8 | kind for kind in (0, 3, 9, 18, 22))
# NFTA_TABLE_NAME, NFTA_CHAIN_NAME; NFTA_CHAIN_TABLE, NFTA_SET_TABLE and so on.
_TABLE_NAME, _CHAIN_NAME = 1, 3
_IN = 1
_SET_NAME, _SET_FLAGS, _SET_KEY_TYPE, _SET_EXPRESSION, _SET_EXPRESSIONS = 2, 3, 4, 17, 18
# NFT_SET_ANONYMOUS, NFT_SET_EVAL.
_ANONYMOUS, _DYNAMIC = 0x1, 0x20
# nft's numbers of the types (enum datatypes), so many bits each in one that is put together: octets in a key.
_TYPE_BITS = 6
_ADDRESSES, _PORT = {7: 4, 8: 16}, 13
_UNIT = 4
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x10, 0x300
_ERROR, _DONE = 2, 3
# struct nlmsghdr with struct nfgenmsg, struct nlattr.
_HEADER = struct.Struct("=IHHIIBBH")
_ATTRIBUTE = struct.Struct("=HH")
_RESULT = struct.Struct("=i")
_AT_RESULT = 16
_CHUNK = 65536
# linux/netfilter.h, in nft's words.
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


class Contents(NamedTuple):
    """What is in a table."""

    chains: frozenset[str]
    sets: frozenset[str]
    """Maps too; those that have a name."""
    counted: Mapping[str, frozenset[str]]
    """Of those whose elements count, and were not put there by rules: the keys, as the library takes them."""
    has_more: bool
    """Is there anything else (objects, flow tables)?"""


def tables() -> list[str]:
    """As nft(8) writes them: `inet filter`. OSError when the kernel does not say."""
    return [
        f"{_FAMILIES.get(family, family)} {_word(own.get(_TABLE_NAME, b''))}"
        for family, own in _dump(_TABLE, socket.AF_UNSPEC)
    ]


def contents(nft: Nft, table: str) -> Contents | None:
    """None where there is no such table. KernelError where it holds what we never put there, OSError when the kernel
    does not say; the one or the other too if it is changed meanwhile."""
    if table not in tables():
        return None
    chains = frozenset(_word(own[_CHAIN_NAME]) for own in _of(table, _CHAIN))
    sets = {_word(own[_SET_NAME]): own for own in _of(table, _SET) if not _number(own.get(_SET_FLAGS)) & _ANONYMOUS}
    counted = {
        name: frozenset(_key(_number(own.get(_SET_KEY_TYPE)), key) for key in nft.counted(table, name))
        for name, own in sets.items()
        if own.keys() & {_SET_EXPRESSION, _SET_EXPRESSIONS} and not _number(own.get(_SET_FLAGS)) & _DYNAMIC
    }
    has_more = any(True for kind in (_OBJECT, _FLOWTABLE) for _ in _of(table, kind))
    return Contents(chains, frozenset(sets), counted, has_more)


def _of(table: str, kind: int) -> Iterator[dict[int, bytes]]:
    family, name = table.split()
    number = next(number for number, word in _FAMILIES.items() if word == family)
    for _, own in _dump(kind, number, (_IN, name)):
        # Not every kernel heeds what was asked for.
        if _word(own[_IN]) == name:
            yield own


def _dump(kind: int, family: int, *wanted: tuple[int, str]) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Family and attributes of all there are. OSError when the kernel does not say."""
    asked = b"".join(_attribute(at, word) for at, word in wanted)
    head = _HEADER.pack(_HEADER.size + len(asked), kind + 1, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0, family, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as asking:
        asking.send(head + asked)
        while True:
            chunk = asking.recv(_CHUNK)
            at = 0
            while at < len(chunk):
                length, of, flags = struct.unpack_from("=IHH", chunk, at)
                if flags & _NLM_F_DUMP_INTR and kind != _TABLE:
                    raise KernelError("the rules change while they are listed")
                if of in (_ERROR, _DONE):
                    (result,) = _RESULT.unpack_from(chunk, at + _AT_RESULT)
                    if result < 0:
                        raise OSError(-result, os.strerror(-result))
                    return
                if of == kind:
                    yield _HEADER.unpack_from(chunk, at)[5], _attributes(chunk[at : at + length])
                at += (length + 3) & ~3


def _attributes(message: bytes) -> dict[int, bytes]:
    found = {}
    at = _HEADER.size
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        found[kind & 0x3FFF] = message[at + _ATTRIBUTE.size : at + length]
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return found


def _attribute(kind: int, word: str) -> bytes:
    data = word.encode() + b"\0"
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % _UNIT)


def _word(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _number(data: bytes | None) -> int:
    return int.from_bytes(data or b"")


def _key(kind: int, key: bytes) -> str:
    """Addresses and ports as text. KernelError where anything else is in it."""
    parts: list[str] = []
    kinds: list[int] = []
    while kind:
        kinds.insert(0, kind & (1 << _TYPE_BITS) - 1)
        kind >>= _TYPE_BITS
    for each in kinds:
        size = _ADDRESSES.get(each, _UNIT)
        own, key = key[:size], key[size:]
        if len(own) < (2 if each == _PORT else size) or (each != _PORT and each not in _ADDRESSES):
            break
        parts.append(str(int.from_bytes(own[:2])) if each == _PORT else str(ip_address(own)))
    if key or not parts or len(parts) != len(kinds):
        raise KernelError("a set counts by what this version does not")
    return " . ".join(parts)
