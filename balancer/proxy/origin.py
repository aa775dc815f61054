"""Connections to HTTP servers: reading responses for whoever holds one, and keeping the idle ones.

A connection belongs to one client connection for one exchange, then waits in its server's pool. What a server
sends when nobody has asked is given to nobody, and the connection is closed.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, Protocol

from balancer.errors import BadResponse
from balancer.pool.server import Server
from balancer.proxy.stream import Receiver, Stream
from balancer.wire import rewrite
from balancer.wire.framing import ChunkedReader
from balancer.wire.http1 import CHUNKED, UNTIL_CLOSE, Limits, Response, parse_response

__all__ = ["Holder", "Owner", "Pool", "ServerConnection", "Stage"]

# 1xx responses that may precede a final one; more is a fault of the server.
_MOST_INTERIM: Final = 16


class Owner(Protocol):
    """A client connection that keeps a server connection for itself between its exchanges."""

    own: ServerConnection | None


class Holder(ABC):
    """The exchange that a server connection serves."""

    __slots__ = ()

    @abstractmethod
    def on_interim(self, head: bytes) -> None:
        """A 1xx response, ready to be passed on."""

    @abstractmethod
    def on_switch(self, response: Response, rest: bytes, connection: ServerConnection) -> None:
        """101, and what came behind it."""

    @abstractmethod
    def on_response(self, response: Response, data: bytes, connection: ServerConnection) -> None:
        """A final response's head has come; `data` begins with it."""

    @abstractmethod
    def pass_on(self, data: bytes) -> None:
        """A part of the response's body, framed as it is to be sent."""

    @abstractmethod
    def response_complete(self, now: float) -> None:
        """The response has been passed on whole."""

    @abstractmethod
    def on_bad_response(self, why: str) -> None:
        """The server's message cannot be passed on."""

    @abstractmethod
    def on_server_lost(self, connection: ServerConnection, why: str) -> None:
        """The connection ended before the response did."""

    @abstractmethod
    def on_tunnel_data(self, data: bytes) -> None:
        """Octets through the tunnel."""

    @abstractmethod
    def on_tunnel_eof(self, connection: ServerConnection) -> None:
        """The server sends no more through the tunnel."""

    @abstractmethod
    def hold_request(self) -> None:
        """The server reads slower than the client sends."""

    @abstractmethod
    def resume_request(self) -> None:
        """The server has caught up."""


class Pool:
    """Idle server connections of one backend in this worker, shared by all its clients."""

    def __init__(self, servers: Sequence[Server], *, most: int, purge_delay: float) -> None:
        self._servers = servers
        self._most = most
        self._purge_delay = purge_delay

    def lease(self, server: Server, newer_than: float = 0.0) -> ServerConnection | None:
        """The idle connection used last, if its last use was after `newer_than`."""
        idle = server.idle
        if not idle or (newer_than and (idle[-1].idle_since < newer_than or idle[-1].transport.is_closing())):
            return None
        connection: ServerConnection = idle.pop()
        return connection

    def put(self, connection: ServerConnection, now: float) -> None:
        """An exchange is over and the connection may serve another."""
        server = connection.server
        if len(server.idle) >= self._most or not server.takes_cookie:
            connection.close()
            return
        connection.idle_since = now
        server.idle.append(connection)

    def drop(self, connection: ServerConnection) -> None:
        """An idle connection was closed by its server."""
        connection.server.idle.remove(connection)

    def purge(self, now: float) -> None:
        """Close what has been idle for too long; called about once a second."""
        limit = now - self._purge_delay
        for server in self._servers:
            idle = server.idle
            while idle and idle[0].idle_since < limit:
                idle.pop(0).close()

    def empty(self, server: Server) -> None:
        """Close all idle connections of a server that is down."""
        while server.idle:
            server.idle.pop().close()


class Stage(IntEnum):
    """Where a server connection stands."""

    IDLE = 0  # nothing is expected: what comes now is nobody's
    HEAD = 1
    LENGTH = 2
    CHUNKED = 3
    UNTIL_CLOSE = 4
    RAW = 5  # a tunnel


_IDLE: Final = Stage.IDLE
_RESPONSE: Final = Stage.HEAD
_LENGTH: Final = Stage.LENGTH
_CHUNKS: Final = Stage.CHUNKED
_CLOSE: Final = Stage.UNTIL_CLOSE
_RAW: Final = Stage.RAW


class ServerConnection(Receiver):
    """One connection to a server: reads responses for the exchange that holds it."""

    __slots__ = (
        "buffer",
        "chunks",
        "client",
        "eof",
        "has_more",
        "idle_since",
        "interims",
        "left",
        "limits",
        "method",
        "owner",
        "phase",
        "pool",
        "searched",
        "server",
        "transport",
        "unsent",
        "write",
        "write_paused",
    )  # fmt: skip

    server: Server
    transport: Stream

    def __init__(self, limits: Limits, pool: Pool) -> None:
        self.limits = limits
        self.pool = pool
        self.client: Holder | None = None
        self.owner: Owner | None = None
        self.buffer = b""
        self.searched = self.left = self.interims = self.unsent = 0
        self.method = b""
        self.phase = _IDLE
        self.chunks: ChunkedReader | None = None
        self.idle_since = -1.0
        self.eof = self.has_more = self.write_paused = False

    def connection_made(self, transport: Stream) -> None:
        self.transport = transport
        self.write = self.transport.write

    def begin(self, client: Holder, method: bytes) -> None:
        """An exchange for `client` begins."""
        self.client = client
        self.method = method
        self.phase = _RESPONSE

    @property
    def was_pooled(self) -> bool:
        """Whether it has served another exchange before."""
        return self.idle_since >= 0

    @property
    def heard(self) -> bool:
        """Whether there was any answer to the request that waits for its response's head."""
        return self.buffer != b"" or self.interims > 0

    def keep_for(self, owner: Owner, now: float) -> None:
        """Wait for the next exchange of the same client, and serve no other."""
        self.idle_since = now
        self.owner = owner
        owner.own = self

    def expect(self, body: int, *, payload_only: bool) -> None:
        """The response's head has been read; this is its body's framing."""
        if body == CHUNKED:
            self.phase = _CHUNKS
            self.chunks = ChunkedReader(BadResponse, payload_only=payload_only)
        elif body == UNTIL_CLOSE:
            self.phase = _CLOSE
        else:
            self.phase = _LENGTH
            self.left = body

    def data_received(self, data: bytes) -> None:
        if self.phase is not _RESPONSE:
            self._on_more(data)
            return
        if self.buffer:
            data, self.buffer = self.buffer + data, b""
        client = self.client
        assert client is not None
        while True:
            try:
                response = parse_response(data, self.limits, self.method, self.searched)
            except BadResponse as error:
                self.buffer = data
                client.on_bad_response(error.why)
                return
            if response is None:
                self.buffer = data
                self.searched = len(data)
                return
            self.searched = 0
            if response.status >= 200:
                self.interims = 0
                client.on_response(response, data, self)
                return
            rest = data[response.size :]
            if response.status == 101:
                client.on_switch(response, rest, self)
                return
            self.interims += 1
            if self.interims > _MOST_INTERIM:
                client.on_bad_response("too many interim responses")
                return
            client.on_interim(rewrite.response_head(response, keep_alive=True))
            data = rest
            if not data:
                return

    def _on_more(self, data: bytes) -> None:
        """Something else than a response's head."""
        phase = self.phase
        if phase is _IDLE:
            self._unasked()
        elif phase is _RAW:
            self.client.on_tunnel_data(data)  # type: ignore[union-attr]
        else:
            self.on_body(data)

    def on_body(self, data: bytes) -> None:
        """Pass on a part of the response's body."""
        client = self.client
        assert client is not None
        phase = self.phase
        if phase is _LENGTH:
            left = self.left - len(data)
            if left < 0:
                data = data[:left]
                left = 0
                self.has_more = True
            self.left = left
            is_complete = not left
        elif phase is _CHUNKS:
            chunks = self.chunks
            assert chunks is not None
            try:
                data = chunks.feed(data)
            except BadResponse as error:
                self.buffer = data
                client.on_bad_response(error.why)
                return
            is_complete = chunks.done
            if is_complete and chunks.rest:
                self.has_more = True
        else:
            is_complete = False
        if data:
            client.pass_on(data)
        if is_complete:
            self.phase = _IDLE
            self.chunks = None
            client.response_complete(time.monotonic())

    def _unasked(self) -> None:
        """Nobody asked: it may be the answer to a request that was never ours. Never hand it to anyone."""
        self.has_more = True
        if self.client is None:
            self._withdraw()
            self.close()

    def _withdraw(self) -> None:
        """Leave the pool, or the client that kept this connection for itself."""
        if self.owner is not None:
            self.owner.own = None
            self.owner = None
        elif self.idle_since >= 0 and self in self.server.idle:
            self.pool.drop(self)

    def pause_writing(self) -> None:
        self.write_paused = True
        self.unsent = self.transport.get_write_buffer_size()
        if self.client is not None:
            self.client.hold_request()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.client is not None:
            self.client.resume_request()

    def reads_slowly(self) -> bool:
        """Whether the server has read some of what waits for it since the last look."""
        unsent, self.unsent = self.unsent, self.transport.get_write_buffer_size()
        return self.unsent != unsent

    def eof_received(self) -> bool:
        if self.eof:
            # Told again when reading is resumed.
            return True
        self.eof = True
        client = self.client
        phase = self.phase
        if client is None:
            self._withdraw()
            return False
        if phase is _RAW:
            client.on_tunnel_eof(self)
            return True
        if phase is _CLOSE:
            self.phase = _IDLE
            client.response_complete(time.monotonic())
            return False
        if phase is not _IDLE:
            self.client = None
            client.on_server_lost(self, self._how_it_ended())
        return False

    def _how_it_ended(self) -> str:
        if self.phase is _RESPONSE:
            return "closed in the middle of a response's head" if self.heard else "closed without an answer"
        return "closed in the middle of a response"

    def connection_lost(self, exc: Exception | None) -> None:
        client, self.client = self.client, None
        if client is None:
            self._withdraw()
        elif self.phase is not _IDLE:
            client.on_server_lost(self, str(exc) if exc else self._how_it_ended())

    def close(self) -> None:
        """Close without ceremony."""
        self.client = self.owner = None
        self.phase = _IDLE
        self.transport.abort()

    def finish(self, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        """Close once all is sent, or after `patience` seconds."""
        self.client = None
        self.phase = _IDLE
        self.transport.close()
        if self.transport.get_write_buffer_size():
            loop.call_later(patience, self.transport.abort)
