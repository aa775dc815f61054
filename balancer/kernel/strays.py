"""Segments of connections that the kernel knows nothing of, as after a change of director, and what makes them known.

The kernel begins a flow with any segment of a client's but one that ends its connection (tcp_new in
net/netfilter/nf_conntrack_proto_tcp.c), and that may be the first to come, and the last. And of a server that several
services have, nobody can tell whose the segment is. The rules drop such segments and show us their heads (NFLOG):

    a client's last   goes to its server behind an ACK that begins the flow, both sent in the client's name.
    a server's        makes us ask the client from each service's address, as `reset` does; from the right one it
                      answers with an ACK, which begins the flow, and the server's next attempt is a part of it. From
                      the others it answers with a reset, which the rules drop, for the server must not get it.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator

from balancer.kernel.ctnetlink import End, attribute, build, split
from balancer.kernel.plan import Service
from balancer.kernel.reset import syn_ack
from balancer.kernel.segments import ACK, FIN, RST, Segment, Sender, read

__all__ = ["GROUP", "Strays"]

GROUP = 28770
"""Of NFLOG: anybody's number from 0 to 65535 that nobody else has."""

_NETLINK_NETFILTER = 12
# linux/netfilter/nfnetlink_log.h: subsystem 4; a packet, an order; attributes of both; NFULNL_CFG_CMD_BIND,
# NFULNL_COPY_PACKET.
_PACKET, _CONFIG = 0x400, 0x401
_PAYLOAD = 9
_CFG_CMD, _CFG_MODE, _CFG_THRESHOLD = 1, 2, 5
_BIND, _COPY_PACKET = 1, 2
# The longest headers of IPv4 and TCP.
_SNAPSHOT = 120
_ANSWER_WITHIN = 1.0
_NLM_F_ACK = 0x4
_ATTRIBUTE = struct.Struct("=HH")
# struct nlmsghdr with struct nfgenmsg.
_HEADER = 20
_CHUNK = 65536
# Heads read in one go, so that nothing else waits for long.
_AT_ONCE = 500
# A client is asked so often (seconds): it answers each half second at most (tcp_invalid_ratelimit).
_PAUSE = 0.6
_LONGEST_MEMORY = 20_000
_SO_RCVBUFFORCE = 33
# Octets of messages that may wait: as many as the rules show at once.
_BUFFER = 8 << 20


class Strays:
    """Of this network namespace. OSError where the kernel does not show them, StartError without CAP_NET_RAW."""

    def __init__(self) -> None:
        self.begun = 0
        """Last segments of clients' that were brought to their servers."""
        self.asked = 0
        """How often a client was asked which service it is connected to."""
        self.failed = 0
        """Packets that the kernel did not take."""
        self.losses = 0
        """How often segments came faster than they were read, and some were lost."""
        self._services: dict[End, list[End]] = {}
        self._asked_at: dict[End, float] = {}
        self._sender = Sender()
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
        try:
            self._bind()
        except OSError:
            self.close()
            raise

    def _bind(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.settimeout(_ANSWER_WITHIN)
        for order in (
            attribute(_CFG_CMD, bytes([_BIND])),
            attribute(_CFG_MODE, struct.pack("!IBx", _SNAPSHOT, _COPY_PACKET)),
            # One by one: they are waited for.
            attribute(_CFG_THRESHOLD, struct.pack("!I", 1)),
        ):
            self._socket.send(_order(order))
            _, results = split(self._socket.recv(_CHUNK))
            for _, result in results:
                if result:
                    raise OSError(-result, os.strerror(-result))
        self._socket.setblocking(False)

    def follow(self, services: Iterable[Service]) -> None:
        """From now on these are the rules'."""
        found: dict[End, list[End]] = defaultdict(list)
        for service in services:
            for position in service.contested:
                target = service.targets[position]
                found[target.address, target.port].append((service.address, service.port))
        self._services = dict(found)

    def fileno(self) -> int:
        """Readable when there may be some."""
        return self._socket.fileno()

    def turn(self, now: float | None = None) -> None:
        """Do for those that have come what they need. `now`: monotonic seconds."""
        now = time.monotonic() if now is None else now
        for segment in self._heard():
            services = self._services.get(segment.source)
            if services is not None:
                self._ask(segment.destination, services, now)
            elif segment.flags & (FIN | RST):
                self._begin(segment)

    def _heard(self) -> Iterator[Segment]:
        for _ in range(_AT_ONCE):
            try:
                chunk = self._socket.recv(_CHUNK)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.losses += 1
                continue
            for head in _heads(chunk):
                if (segment := read(head)) is not None:
                    yield segment

    def _begin(self, segment: Segment) -> None:
        """Both pass the rules for what this host sends, as its own connections to services do."""
        self._send(segment._replace(flags=ACK))
        # One with data is sent again by the client, with its data.
        if not segment.length:
            self._send(segment)
        self.begun += 1

    def _ask(self, client: End, services: list[End], now: float) -> None:
        if now < self._asked_at.get(client, 0.0):
            return
        if len(self._asked_at) >= _LONGEST_MEMORY:
            self._asked_at = {each: until for each, until in self._asked_at.items() if until > now}
            if len(self._asked_at) >= _LONGEST_MEMORY:
                self._asked_at.clear()
        self._asked_at[client] = now + _PAUSE
        for service in services:
            self._send(syn_ack(service, client))
        self.asked += 1

    def _send(self, segment: Segment) -> None:
        if not self._sender.send(segment):
            self.failed += 1

    def close(self) -> None:
        self._socket.close()
        self._sender.close()


def _order(body: bytes) -> bytes:
    message = bytearray(build(_CONFIG, 0, body, flags=_NLM_F_ACK))
    # nfgenmsg.res_id.
    message[18:20] = GROUP.to_bytes(2, "big")
    return bytes(message)


def _heads(chunk: bytes) -> Iterator[bytes]:
    """What is in the messages of packets."""
    messages, _ = split(chunk)
    for begin, length in messages:
        at, end = begin + _HEADER, begin + length
        while at + _ATTRIBUTE.size <= end:
            size, kind = _ATTRIBUTE.unpack_from(chunk, at)
            if not _ATTRIBUTE.size <= size <= end - at:
                break
            if kind == _PAYLOAD:
                yield chunk[at + _ATTRIBUTE.size : at + size]
                break
            at += (size + 3) & ~3
