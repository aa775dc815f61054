"""Connections of ours that begin and end, as the kernel tells of them: what a flow log is made of.

What an ended one has transferred is told where the kernel counts (nf_conntrack_acct), and when it began and ended
where it notes that (nf_conntrack_timestamp). Nobody is waited for: what comes faster than it is read is lost.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from balancer.kernel.conntrack import Index
from balancer.kernel.ctnetlink import (
    AT_DESTINATION_PORT,
    AT_STATUS,
    DESTINATION_TRANSLATED,
    TIMED,
    Flow,
    Path,
    Shapes,
    parse,
    what_happened,
)
from balancer.kernel.plan import Service

__all__ = ["Event", "Events"]

_NETLINK_NETFILTER = 12
# linux/netfilter/nfnetlink_compat.h: NF_NETLINK_CONNTRACK_NEW, NF_NETLINK_CONNTRACK_DESTROY.
_NEW, _DESTROY = 0x1, 0x4
# asm-generic/socket.h, linux/netlink.h, where Python has no name for it.
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_MEMINFO = 26, 33, 55
_SOL_NETLINK, _NETLINK_NO_ENOBUFS = 270, 5
# SK_MEMINFO_DROPS, the last of them.
_MEMORY = struct.Struct("=32xI")
# Octets of events that may wait: some 10 000.
_BUFFER = 8 << 20
_LONGEST = 8192
_NANOSECOND = 1e-9
_U32 = 1 << 32
# linux/filter.h. Loads of SKF_AD_OFF find attributes: the first of type X from the offset A on, or in the nest at A.
_LOAD_CONSTANT, _LOAD_X, _MOVE_TO_X, _LOAD_ABSOLUTE = 0x00, 0x01, 0x07, 0x20
_LOAD_WORD_AT_X, _LOAD_HALF_AT_X, _IF_EQUAL, _IF_BITS, _RETURN = 0x40, 0x48, 0x15, 0x45, 0x06
_FIND, _FIND_NESTED = 0xFFFFF00C, 0xFFFFF010
_INSTRUCTION = struct.Struct("=HBBI")
# Above that, what is left over is sorted out here.
_MOST_PORTS = 200
_HEADERS, _ATTRIBUTE = 20, 4


class Event(NamedTuple):
    """A connection began, or ended."""

    frontend: str
    is_end: bool
    flow: Flow
    """Of what ends, kernels before 5.12 tell neither state nor timeout."""
    is_assured: bool
    """TCP: it was established. UDP: both sides have sent, and for more than two seconds."""
    began: float | None
    """Unix time. None: nobody has noted it."""
    at: float
    """Unix time at which this happened; of an end, when it should have been forgotten and not when it was."""


class Events:
    """From now on, of this network namespace, and of connections of these services.

    `frontends`: only theirs are told of. `with_begins`: told of also as they begin. OSError without CAP_NET_ADMIN.
    """

    def __init__(
        self, services: Iterable[Service], *, frontends: Collection[str] | None = None, with_begins: bool = True
    ) -> None:
        services = list(services)
        # Those of others too, or theirs would be taken for ours.
        self._index = Index(services)
        told = [service for service in services if frontends is None or service.frontend in frontends]
        self._frontends = {service.frontend for service in told}
        self._shapes = {family: Shapes(wanted) for family, wanted in TIMED.items()}
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            # They are counted, and not all lost until the last one was read.
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
            _attach(self._socket, _program({service.port for service in told}))
            self._socket.bind((0, _DESTROY | (_NEW if with_begins else 0)))
        except OSError:
            self._socket.close()
            raise

    def follow(self, services: Iterable[Service]) -> None:
        """The same services, whose servers are elsewhere from now on; what leads to where they were is theirs, too."""
        former, self._index = self._index, Index(services)
        self._index.add(former)

    @property
    def lost(self) -> int:
        """Events that came faster than they were read; from 2^32 on it begins anew."""
        drops: int = _MEMORY.unpack(self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMORY.size))[0]
        return drops

    def fileno(self) -> int:
        """Readable when there may be events."""
        return self._socket.fileno()

    def read(self, limit: int) -> Iterator[Event | None]:
        """What has happened, `limit` messages at most; None for one that is not told of."""
        receive, find = self._socket.recv, self._index.find
        for _ in range(limit):
            try:
                message = receive(_LONGEST)
            except BlockingIOError:
                return
            happened = what_happened(message)
            if happened is None:
                yield None
                continue
            is_end, family = happened
            shape = self._shapes[family].of(message, 0, len(message))
            entry = shape.entry(shape.read(message)) or parse(message, TIMED[family])
            frontend = find(entry)
            if frontend not in self._frontends or frontend is None:
                yield None
                continue
            at = entry.ended or entry.happened
            yield Event(
                frontend, is_end, entry.flow, entry.is_assured,
                _time(entry.began) if entry.began else None, _time(at) if at else time.time(),
            )  # fmt: skip

    def close(self) -> None:
        self._socket.close()


def _time(nanoseconds: bytes) -> float:
    return int.from_bytes(nanoseconds, "big") * _NANOSECOND


def _program(ports: Collection[int]) -> list[tuple[int, int, int, int]]:
    """What the kernel asks of each event before it wakes us: is it translated, and to one of these ports?"""
    program = [
        *_found(AT_STATUS),
        (_LOAD_WORD_AT_X, 0, 0, _ATTRIBUTE),
        (_IF_BITS, 1, 0, DESTINATION_TRANSLATED),
        (_RETURN, 0, 0, 0),
    ]
    if 0 < len(ports) <= _MOST_PORTS:
        program += [*_found(AT_DESTINATION_PORT), (_LOAD_HALF_AT_X, 0, 0, _ATTRIBUTE)]
        for port in sorted(ports):
            program += [(_IF_EQUAL, 0, 1, port), (_RETURN, 0, 0, _U32 - 1)]
        return [*program, (_RETURN, 0, 0, 0)]
    return [*program, (_RETURN, 0, 0, _U32 - 1)]


def _found(path: Path) -> Iterator[tuple[int, int, int, int]]:
    """X is where this attribute is; a message that has none is not for us."""
    yield _LOAD_CONSTANT, 0, 0, _HEADERS
    for depth, kind in enumerate(path):
        yield _LOAD_X, 0, 0, kind
        yield _LOAD_ABSOLUTE, 0, 0, _FIND_NESTED if depth else _FIND
        yield _IF_EQUAL, 0, 1, 0
        yield _RETURN, 0, 0, 0
    yield _MOVE_TO_X, 0, 0, 0


def _attach(sock: socket.socket, program: Iterable[tuple[int, int, int, int]]) -> None:
    octets = b"".join(_INSTRUCTION.pack(*each) for each in program)
    kept = ctypes.create_string_buffer(octets, len(octets))
    # struct sock_fprog (socket(7)).
    pointer = struct.pack("@HP", len(octets) // _INSTRUCTION.size, ctypes.addressof(kept))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)
