"""Servers that are at another address from now on: who is connected to the old one goes on, nobody else comes there.

A connection for requests outlives them: what it is used for now is finished, and then it is closed rather than kept.
Looked for here, from time to time after a move, so that a request need not ask whether its server has moved.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from balancer.addr import Address
from balancer.pool.server import Server
from balancer.proxy.http import ClientConnection
from balancer.proxy.origin import ServerConnection
from balancer.proxy.sweep import Timed

__all__ = ["Moves"]

# Whoever was connecting to the old address at the move has come through by then, or failed: the kernel's last try of a
# connection (tcp_syn_retries 6).
_LONGEST_WAY = 130.0


class Moves:
    """Of one worker, whose clients are `members`."""

    def __init__(self, members: Collection[Timed]) -> None:
        self._members = members
        self._until: dict[Server, float] = {}

    def move(self, server: Server, address: Address | None) -> None:
        """From now on it is there; None: nowhere."""
        sockaddr = address.sockaddr if address is not None else None
        if sockaddr == server.sockaddr:
            return
        server.sockaddr = sockaddr
        if address is not None:
            server.address = address
            self._until[server] = time.monotonic() + _LONGEST_WAY

    def look(self) -> None:
        """Close connections to old addresses that nobody uses, and see that others are closed after their use."""
        if not self._until:
            return
        now = time.monotonic()
        for server in self._until:
            for connection in [each for each in server.idle if _is_old(each)]:
                server.idle.remove(connection)
                connection.close()
        for member in list(self._members):
            if not isinstance(member, ClientConnection):
                continue
            if member.own is not None and member.own.server in self._until and _is_old(member.own):
                member.own.close()
                member.own = None
            used = member.exchange.connection if member.exchange is not None else None
            if used is not None and used.server in self._until and _is_old(used):
                # As if it had said more than it was asked: it is not used again.
                used.has_more = True
        self._until = {server: until for server, until in self._until.items() if until > now}


def _is_old(connection: ServerConnection) -> bool:
    peer: Any = connection.transport.get_extra_info("peername")
    return bool(peer != connection.server.sockaddr)
