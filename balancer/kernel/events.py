"""Connections of ours that begin and end, as the kernel tells of them: what a flow log is made of.

What an ended one has transferred is told where the kernel counts (nf_conntrack_acct).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from balancer.kernel.conntrack import Index
from balancer.kernel.ctnetlink import TOLD, Flow, Shapes, parse, what_happened
from balancer.kernel.plan import Service

__all__ = ["Event", "Events"]

_NETLINK_NETFILTER = 12
# linux/netfilter/nfnetlink_compat.h: NF_NETLINK_CONNTRACK_NEW, NF_NETLINK_CONNTRACK_DESTROY.
_NEW, _DESTROY = 0x1, 0x4
_SO_RCVBUFFORCE = 33
# Octets of events that may wait: some 10 000.
_BUFFER = 8 << 20
_LONGEST = 8192
# Events taken in one go.
_AT_ONCE = 1000


class Event(NamedTuple):
    """A connection began, or ended."""

    frontend: str
    is_end: bool
    flow: Flow
    """Without a state: of what ends, not every kernel tells it."""


class Events:
    """From now on, of this network namespace. OSError without CAP_NET_ADMIN."""

    def __init__(self, services: Iterable[Service]) -> None:
        self.losses = 0
        """How often events came faster than they were read, and some were lost."""
        self.follow(services)
        self._shapes = {family: Shapes(wanted) for family, wanted in TOLD.items()}
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            self._socket.bind((0, _NEW | _DESTROY))
        except OSError:
            self._socket.close()
            raise

    def follow(self, services: Iterable[Service]) -> None:
        """From now on these are ours."""
        self._index = Index(services)

    def fileno(self) -> int:
        """Readable when there may be events."""
        return self._socket.fileno()

    def read(self) -> Iterator[Event]:
        """What has happened, as far as is good at once."""
        for _ in range(_AT_ONCE):
            try:
                message = self._socket.recv(_LONGEST)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.losses += 1
                continue
            happened = what_happened(message)
            if happened is None:
                continue
            is_end, family = happened
            shape = self._shapes[family].of(message, 0, len(message))
            entry = shape.entry(shape.read(message)) or parse(message, TOLD[family])
            frontend = self._index.find(entry)
            if frontend is not None:
                yield Event(frontend, is_end, entry.flow._replace(state=""))

    def close(self) -> None:
        self._socket.close()
