"""Connections to servers: dialling one, trying again, trying another (HAProxy's retries and redispatch)."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

from balancer.config import model
from balancer.pool.backend import Backend
from balancer.pool.server import Server
from balancer.proxy.stream import Address, Caller, Dial, Poller, Receiver, Stream
from balancer.wire import proxyproto

__all__ = ["Attempt", "CrowdedError", "Errand", "Upstream", "set_keepalive"]

# Ours, not the server's: another server would fare no better, and no server is to blame.
_OUR_FAULT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))
# HAProxy waits so long before it tries the same server again.
_RETRY_PAUSE = 1.0


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

    def on_connected(self, stream: Stream) -> None:
        """Its receiver has a connection to its server."""

    def on_no_connection(self, termination: str, why: str) -> None:
        """There is none to any; `termination` is the log's code (SC refused, sC timed out, RC our resources)."""

    def on_crowded(self) -> None:
        """The server failed, and the others are full: it is to wait for one of those."""

    def on_fault(self, fault: Exception) -> None:
        """There is none, by a fault of ours, which has been told."""


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
        self.poller = poller
        self.dial: Callable[[Address, Receiver, Caller], Dial] = poller.dial
        """How a connection is made."""
        self.connect_timeout = connect_timeout
        self.retries = retries
        self.redispatch = redispatch
        self.keepalive = keepalive
        self._patience: dict[Attempt, float] = {}
        """Until when each waits for the server that it has dialled: who has dialled first is the first."""
        self._is_timed = False

    def attempt(self, errand: Errand, receiver: Receiver) -> Attempt:
        """What finds `errand`, once it is started, a connection to its server, or to the one that it is redispatched
        to. The errand's server is taken (`Backend.take`) and stays so, whichever it is at the end, also when there is
        no connection; the errand hears how it went, not before the next turn."""
        return Attempt(self, errand, receiver)

    def expect(self, attempt: Attempt) -> None:
        """Tell it when the server that it has dialled has taken too long."""
        loop = self.poller.loop
        self._patience[attempt] = loop.time() + self.connect_timeout
        if not self._is_timed:
            self._is_timed = True
            loop.call_later(self.connect_timeout, self._look)

    def expect_no_more(self, attempt: Attempt) -> None:
        """Its server has answered, or it has given up."""
        self._patience.pop(attempt, None)

    def _look(self) -> None:
        """One timer serves all who wait: most never need theirs."""
        loop = self.poller.loop
        now = loop.time()
        late = []
        self._is_timed = False
        for attempt, until in self._patience.items():
            if until > now:
                self._is_timed = True
                loop.call_later(until - now, self._look)
                break
            late.append(attempt)
        for attempt in late:
            attempt.on_timeout()

    def try_again(self, errand: Errand) -> bool:
        """The errand's server took the connection and then failed it: choose whom to connect to next, and count
        the retry. False when no retry or no other server is left; only a client that holds its cookie tries the
        same server again. CrowdedError where it is to wait for another."""
        if errand.retries >= self.retries:
            return False
        server = cast(Server, errand.server)
        errand.retries += 1
        is_elsewhere = self.redispatch_from(server, errand)
        is_crowded = not is_elsewhere and self.is_crowded(server, errand)
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

    def redispatch_from(self, failed: Server, errand: Errand) -> bool:
        """Give the errand another server; False where it is to stay, or there is none."""
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

    def is_crowded(self, failed: Server, errand: Errand) -> bool:
        """Whether there are others that it may go to, all of them full."""
        backend = self.backend
        return backend.is_limited and self._may_leave(failed, errand) and any(s is not failed for s in backend.usable)

    def _may_leave(self, failed: Server, errand: Errand) -> bool:
        is_last = errand.retries >= self.retries
        return self.redispatch and not (errand.is_persistent and not is_last and failed.takes_cookie)

    def _another(self, errand: Errand, failed: Server) -> Server | None:
        """The server to go to after `failed`; None to stay. A client that holds the server's cookie
        leaves it on the last try only, as with HAProxy's `option redispatch`."""
        if not self._may_leave(failed, errand):
            return None
        other = self.backend.pick(errand.key, failed)
        return None if other is failed else other


class Attempt(Caller):
    """An errand's way to a server, from the first that it dials to the last."""

    __slots__ = ("_dial", "_errand", "_is_over", "_later", "_receiver", "_upstream")

    def __init__(self, upstream: Upstream, errand: Errand, receiver: Receiver) -> None:
        self._upstream = upstream
        self._errand = errand
        self._receiver = receiver
        self._dial: Dial | None = None
        self._later: asyncio.Handle | None = None
        """What goes on without the server's word: a pause before the next try, or what was known at once."""
        self._is_over = False

    def start(self) -> None:
        """Dial the errand's server. What that says at once the errand hears later: nobody is in the middle of
        something, and it may be one of thousands."""
        upstream = self._upstream
        server = cast(Server, self._errand.server)
        try:
            upstream.backend.make_room(server)
            server.counters.connect += 1
            address: Any = server.sockaddr
            if address is None:
                raise OSError(errno.EDESTADDRREQ, "")
            self._dial = upstream.dial(address, self._receiver, self)
            upstream.expect(self)
        except OSError as error:
            self._later = upstream.poller.loop.call_soon(self.on_refused, error.errno or errno.EIO)
        except Exception as fault:
            self._later = upstream.poller.loop.call_soon(self._blame_us, fault)

    def cancel(self) -> None:
        """The errand wants none any more, and is told nothing."""
        self._is_over = True
        if self._dial is not None:
            self._upstream.expect_no_more(self)
            self._dial.hang_up()
            self._dial = None
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def on_open(self, stream: Stream) -> None:
        self._dial = None
        upstream, errand = self._upstream, self._errand
        upstream.expect_no_more(self)
        try:
            if upstream.keepalive is not None:
                set_keepalive(stream, upstream.keepalive)
            version = cast(Server, errand.server).config.send_proxy
            if version is not None:
                encode = proxyproto.encode_v1 if version == "v1" else proxyproto.encode_v2
                stream.write(encode(*errand.endpoints()))
            errand.on_connected(stream)
        except Exception as fault:
            stream.abort()
            self._blame_us(fault)

    def on_refused(self, error: int) -> None:
        server = cast(Server, self._errand.server)
        if error == errno.ETIMEDOUT:
            self._fail(server, "sC", f"no connection within {self._upstream.connect_timeout:g}s")
        elif error == errno.EDESTADDRREQ:
            self._fail(server, "SC", f"the name {server.address.host} has no address yet")
        else:
            self._fail(server, "RC" if error in _OUR_FAULT else "SC", os.strerror(error))

    def on_timeout(self) -> None:
        """The server has taken too long."""
        if self._dial is not None:
            self._dial.hang_up()
            self.on_refused(errno.ETIMEDOUT)

    def on_fault(self, fault: Exception) -> None:
        self._end_dial()
        self._errand.on_fault(fault)

    def _blame_us(self, fault: Exception) -> None:
        self._upstream.poller.complain(fault)
        self.on_fault(fault)

    def _end_dial(self) -> None:
        self._later = None
        if self._dial is not None:
            self._upstream.expect_no_more(self)
            self._dial = None

    def _fail(self, server: Server, termination: str, why: str) -> None:
        """`server` did not take it: try it again, or another, or give up."""
        self._end_dial()
        try:
            self._go_on(server, termination, f"{server.backend}/{server.name}: {why}")
        except Exception as fault:
            self._blame_us(fault)

    def _go_on(self, server: Server, termination: str, why: str) -> None:
        upstream, errand = self._upstream, self._errand
        if server.observer is not None and termination != "RC":
            server.observer.failed(errand)
            if self._is_over:
                return
        if termination == "RC" or errand.retries >= upstream.retries:
            server.counters.econ += 1
            errand.on_no_connection(termination, why)
            return
        errand.retries += 1
        if upstream.redispatch_from(server, errand):
            self.start()
        elif upstream.is_crowded(server, errand):
            errand.on_crowded()
        else:
            server.counters.wretr += 1
            pause = min(upstream.connect_timeout, _RETRY_PAUSE)
            self._later = upstream.poller.loop.call_later(pause, self._try_again, server)

    def _try_again(self, server: Server) -> None:
        """The pause is over."""
        self._later = None
        upstream, errand = self._upstream, self._errand
        try:
            is_down = not server.takes_cookie
            if is_down and not upstream.redispatch_from(server, errand) and upstream.is_crowded(server, errand):
                errand.on_crowded()
            else:
                self.start()
        except Exception as fault:
            self._blame_us(fault)
