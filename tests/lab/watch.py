"""What passes on the lab's two networks, with the time at which the kernel saw it."""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

from tests.lab.lab import Lab, Node, _move_into
from tests.lab.topology import NETWORKS
from tests.vrrp.frames import Advert, Advertised, Arp, Frame, decode

__all__ = ["Passed", "Wire"]

# linux/if_ether.h, asm/socket.h, linux/if_packet.h, where Python has no name for it.
_ETH_P_ALL = 3
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 26, 33, 35
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_MR_PROMISC = 263, 1, 1
# bpf(4), as tcpdump -dd "arp or ip proto 112" has it: code, jump if true, jump if false, constant.
_FILTER = ((0x28, 0, 0, 12), (0x15, 3, 0, 0x806), (0x15, 0, 3, 0x800), (0x30, 0, 0, 23), (0x15, 0, 1, 112),
           (0x06, 0, 0, 262144), (0x06, 0, 0, 0))  # fmt: skip


class Passed(NamedTuple):
    """An advertisement or an announcement."""

    at: float
    """Monotonic seconds."""
    network: str
    said: Advert | Arp | Advertised


class Wire:
    """Advertisements of VRRP and ARP on both networks, whoever they are for; a context manager."""

    def __init__(self, lab: Lab) -> None:
        self._passed: list[Passed] = []
        self._sockets: dict[socket.socket, str] = {}
        assert lab._switch is not None
        with Path("/proc/thread-self/ns/net").open() as home, lab._switch.path("/proc/1/ns/net").open() as there:
            _move_into(there.fileno())
            try:
                for network in NETWORKS:
                    self._sockets[self._open(network.name)] = network.name
            finally:
                _move_into(home.fileno())
        self._offset = time.time() - time.monotonic()
        self._over = False
        self._thread = threading.Thread(target=self._read)

    def _open(self, bridge: str) -> socket.socket:
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        octets = b"".join(struct.pack("=HBBI", *line) for line in _FILTER)
        program = ctypes.create_string_buffer(octets, len(octets))
        pointer = struct.pack("@HP", len(_FILTER), ctypes.addressof(program))
        ear.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)
        ear.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 23)
        ear.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        ear.bind((bridge, _ETH_P_ALL))
        # A bridge hands up what only passes it while it is promiscuous.
        membership = struct.pack("=iHH8s", socket.if_nametoindex(bridge), _PACKET_MR_PROMISC, 0, b"")
        ear.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
        return ear

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()
        for ear in self._sockets:
            ear.close()

    def _read(self) -> None:
        while not self._over:
            for ear in select.select(list(self._sockets), [], [], 0.05)[0]:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        self._take(*ear.recvmsg(4096, 64)[:2], self._sockets[ear])

    def _take(self, data: bytes, ancillary: list[tuple[int, int, bytes]], network: str) -> None:
        seconds, nanoseconds = struct.unpack("@qq", ancillary[0][2])
        said = decode(Frame(data[:6], data[6:12], int.from_bytes(data[12:14], "big"), data[14:]))
        if said is not None:
            self._passed.append(Passed(seconds + nanoseconds / 1e9 - self._offset, network, said))

    def passed(self, *, since: float = 0.0) -> list[Passed]:
        """All of it, as it came."""
        return [each for each in [*self._passed] if each.at >= since]

    def adverts(self, source: Node | None = None, *, since: float = 0.0, network: str = "") -> list[Passed]:
        """The advertisements, of all directors or of one."""
        own = {card.address for card in source.machine.cards} if source is not None else set()
        return [
            each
            for each in self.passed(since=since)
            if isinstance(each.said, Advert) and network in ("", each.network) and (not own or each.said.source in own)
        ]

    def gaps(self, node: Node, begun: float, ended: float) -> list[float]:
        """Between two advertisements of a master, of all its virtual routers."""
        heard = sorted((each.network, each.at) for each in self.adverts(node, since=begun) if each.at <= ended)
        gaps = []
        for _, group in groupby(heard, key=lambda each: each[0]):
            times = [begun, *(at for _, at in group), ended]
            gaps += [two - one for one, two in pairwise(times)][1:-1]
        return gaps

    def announced(self, source: Node, *, since: float = 0.0) -> list[tuple[float, str]]:
        """When a director announced which address by gratuitous ARP."""
        macs = {bytes.fromhex(card.mac.replace(":", "")) for card in source.machine.cards}
        return list(self._announced(macs, since))

    def _announced(self, macs: set[bytes], since: float) -> Iterator[tuple[float, str]]:
        for each in self.passed(since=since):
            if isinstance(each.said, Arp) and each.said.sender == each.said.target and each.said.sender_mac in macs:
                yield each.at, each.said.sender
