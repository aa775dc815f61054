"""A table of connections that nobody made: entries written into the kernel."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator

from balancer.kernel.ctnetlink import DST, NUMBERS, SRC, attribute, build, packed, split

NETLINK_NETFILTER = 12
# linux/netfilter/nfnetlink_conntrack.h: IPCTNL_MSG_CT_NEW, CTA_NAT_DST; NLM_F_CREATE, NLM_F_EXCL, NLM_F_ACK.
NEW, CREATE = 0x100, 0x400 | 0x200 | 0x4
CTA_NAT_DST = 13
ESTABLISHED, TIME_WAIT = 3, 7


def nest(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind, b"".join(attributes), is_nest=True)


def one(kind: int, value: bytes) -> bytes:
    return attribute(kind, value)


def ends(kind: int, source: tuple[str, int], destination: tuple[str, int], number: int) -> bytes:
    family = 6 if ":" in source[0] else 4
    which = (SRC[family], DST[family])
    hosts = [one(at, packed(end[0])) for at, end in zip(which, (source, destination), strict=True)]
    ports = [one(at, end[1].to_bytes(2, "big")) for at, end in zip((2, 3), (source, destination), strict=True)]
    return nest(kind, nest(1, *hosts), nest(2, one(1, bytes([number])), *ports))


def entry(
    client: tuple[str, int],
    service: tuple[str, int],
    server: tuple[str, int] | None,
    *,
    protocol: str = "tcp",
    state: int = ESTABLISHED,
    mark: int = 0,
) -> bytes:
    """An order to make an entry as a rule would that translates to `server`; None: as it is without rules."""
    number = NUMBERS[protocol][0]
    family = 6 if ":" in client[0] else 4
    body = ends(1, client, service, number) + ends(2, service, client, number)
    if server is not None:
        address, port = packed(server[0]), server[1].to_bytes(2, "big")
        low, high = (1, 2) if family == 4 else (4, 5)
        body += nest(CTA_NAT_DST, one(low, address), one(high, address), nest(3, one(1, port), one(2, port)))
    # IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED.
    body += one(3, struct.pack("!I", 0xE)) + one(7, struct.pack("!I", 600))
    if mark:
        body += one(8, struct.pack("!I", mark))
    if protocol == "tcp":
        body += nest(4, nest(1, one(1, bytes([state]))))
    return build(NEW, family, body, flags=CREATE)


def fill(entries: Iterable[bytes]) -> None:
    """Into the table of the namespace that we are in."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as asked:
        batch: list[bytes] = []

        def flush() -> None:
            asked.send(b"".join(batch))
            while batch:
                _, results = split(asked.recv(1 << 16))
                for _, result in results:
                    assert result == 0, os.strerror(-result)
                    batch.pop()

        for each in entries:
            batch.append(each)
            if len(batch) == 100:
                flush()
        if batch:
            flush()


def stuff(many: int) -> None:
    """As many datagrams' entries that are alike but for the client's address, for what nobody serves; those for which
    there is no room are not made."""
    client = packed("10.77.0.0")
    # Without NLM_F_ACK only what fails is answered, and nobody has to read that.
    order = bytearray(entry(("10.77.0.0", 7), ("10.99.0.1", 9), None, protocol="udp"))
    struct.pack_into("=H", order, 6, struct.unpack_from("=H", order, 6)[0] & ~0x4)
    parts = bytes(order).split(client)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as asked:
        for first in range(0, many, 500):
            addresses = [struct.pack("!I", 0x0A4D0000 + i) for i in range(first, min(first + 500, many))]
            asked.send(b"".join(address.join(parts) for address in addresses))


def forget_all() -> None:
    """Of the namespace that we are in."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as asked:
        # IPCTNL_MSG_CT_DELETE of none in particular; NLM_F_ACK.
        asked.send(build(0x102, 0, b"", flags=0x4))
        asked.recv(1 << 16)


def clients(number: int) -> Iterator[tuple[str, int]]:
    return ((f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", 1024 + i % 60000) for i in range(number))
