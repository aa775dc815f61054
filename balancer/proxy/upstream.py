"""Connections to servers: dialling one, trying again, trying another (HAProxy's retries and redispatch)."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

from balancer.config import model
from balancer.pool.backend import Backend
from balancer.pool.server import Server
from balancer.proxy.stream import Address, Poller, Receiver, Stream
from balancer.wire import proxyproto

__all__ = ["ConnectError", "CrowdedError", "Errand", "Upstream", "set_keepalive"]

# Ours, not the server's: another server would fare no better, and no server is to blame.
_OUR_FAULT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))
# HAProxy waits so long before it tries the same server again.
_RETRY_PAUSE = 1.0


class ConnectError(Exception):
    """No connection to any server; `termination` is the log's code (SC refused, sC timed out, RC our resources)."""

    def __init__(self, termination: str, why: str) -> None:
        super().__init__(why)
        self.termination = termination
        self.why = why


class CrowdedError(Exception):
    """The server failed, and the others are full."""


class Errand(Protocol):
    """Whoever needs a connection: what is known of it, and where it is noted how it went."""

    server: Server | None
    key: bytes
    is_persistent: bool
    retries: int
    redispatched: bool

    def endpoints(self) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
        """The client's address and the one it connected to, for the PROXY protocol."""


def set_keepalive(transport: Stream, keepalive: model.TcpKeepalive) -> None:
    """Let the kernel probe an idle connection."""
    sock: socket.socket = transport.get_extra_info("socket")
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(keepalive.idle)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, round(keepalive.interval)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, keepalive.count)


class Upstream:
    """The way to a backend's servers."""

    def __init__(
        self,
        poller: Poller,
        backend: Backend,
        *,
        connect_timeout: float,
        retries: int,
        redispatch: bool,
        keepalive: model.TcpKeepalive | None,
    ) -> None:
        self.backend = backend
        self.open: Callable[[Address, Receiver, float], Awaitable[Stream]] = poller.connect
        """How a connection is made."""
        self._timeout = connect_timeout
        self._retries = retries
        self.redispatch = redispatch
        self._keepalive = keepalive

    async def connect(self, errand: Errand, receiver: Receiver) -> Stream:
        """A connection to `errand.server`, or to the server that it is redispatched to.

        The errand's server is taken (`Backend.take`) and stays so, whichever it is at the end, also when
        ConnectError is raised, or CrowdedError: then it is to wait for another.
        """
        backend = self.backend
        while True:
            server = cast(Server, errand.server)
            backend.make_room(server)
            try:
                return await self._dial(server, errand, receiver)
            except TimeoutError:
                failure = ConnectError("sC", f"{backend.name}/{server.name}: no connection within {self._timeout:g}s")
            except OSError as error:
                code = "RC" if error.errno in _OUR_FAULT else "SC"
                failure = ConnectError(code, f"{backend.name}/{server.name}: {error.strerror or error}")
            if server.observer is not None and failure.termination != "RC":
                server.observer.failed(errand)
            if failure.termination == "RC" or errand.retries >= self._retries:
                server.counters.econ += 1
                try:
                    raise failure
                finally:
                    # Else the error holds this frame, and the frame the error.
                    del failure
            errand.retries += 1
            if not self._redispatch_from(server, errand):
                if self._is_crowded(server, errand):
                    raise CrowdedError
                server.counters.wretr += 1
                await asyncio.sleep(min(self._timeout, _RETRY_PAUSE))
                is_down = not server.takes_cookie
                if is_down and not self._redispatch_from(server, errand) and self._is_crowded(server, errand):
                    raise CrowdedError

    def try_again(self, errand: Errand) -> bool:
        """The errand's server took the connection and then failed it: choose whom to connect to next, and count
        the retry. False when no retry or no other server is left; only a client that holds its cookie tries the
        same server again. CrowdedError where it is to wait for another."""
        if errand.retries >= self._retries:
            return False
        server = cast(Server, errand.server)
        errand.retries += 1
        is_elsewhere = self._redispatch_from(server, errand)
        is_crowded = not is_elsewhere and self._is_crowded(server, errand)
        if not is_elsewhere and not is_crowded:
            if not errand.is_persistent:
                errand.retries -= 1
                return False
            server.counters.wretr += 1
        if server.observer is not None:
            server.observer.failed(errand, is_connected=True)
        if is_crowded:
            raise CrowdedError
        return True

    def _redispatch_from(self, failed: Server, errand: Errand) -> bool:
        other = self._another(errand, failed)
        if other is None:
            return False
        failed.counters.wredis += 1
        if failed.watches_sessions:
            failed.sessions.discard(errand)
        # First the one that was picked: who gets the place that is freed may pick another before he returns.
        self.backend.take(other)
        errand.server = other
        errand.redispatched = True
        self.backend.release(failed)
        return True

    def _is_crowded(self, failed: Server, errand: Errand) -> bool:
        """Whether there are others that it may go to, all of them full."""
        backend = self.backend
        return backend.is_limited and self._may_leave(failed, errand) and any(s is not failed for s in backend.usable)

    def _may_leave(self, failed: Server, errand: Errand) -> bool:
        is_last = errand.retries >= self._retries
        return self.redispatch and not (errand.is_persistent and not is_last and failed.takes_cookie)

    def _another(self, errand: Errand, failed: Server) -> Server | None:
        """The server to go to after `failed`; None to stay. A client that holds the server's cookie
        leaves it on the last try only, as with HAProxy's `option redispatch`."""
        if not self._may_leave(failed, errand):
            return None
        other = self.backend.pick(errand.key, failed)
        return None if other is failed else other

    async def _dial(self, server: Server, errand: Errand, receiver: Receiver) -> Stream:
        server.counters.connect += 1
        address: Any = server.sockaddr
        if address is None:
            raise OSError(errno.EDESTADDRREQ, f"the name {server.address.host} has no address yet")
        transport = await self.open(address, receiver, self._timeout)
        if transport.is_closing():
            # Reset as soon as it was open: the protocol has heard of it.
            return transport
        if self._keepalive is not None:
            set_keepalive(transport, self._keepalive)
        version = server.config.send_proxy
        if version is not None:
            encode = proxyproto.encode_v1 if version == "v1" else proxyproto.encode_v2
            transport.write(encode(*errand.endpoints()))
        return transport
