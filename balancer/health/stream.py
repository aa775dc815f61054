"""A non-blocking socket with awaitable steps, for checks: connect, TLS, send, receive.

Whatever happens, `close` leaves nothing behind, and at every moment `layer` says how far it got: that is
what the code of a failed check tells (Layer4, Layer6, Layer7). Raw sockets and a TLS object in memory in
place of asyncio's streams, because there a cancelled handshake can outlive its caller, and because most
checks are a connect and a close, which costs a third of `create_connection`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import struct
from typing import Literal

from balancer.addr import Address
from balancer.errors import BadResponse
from balancer.health.result import CheckResult, Code

__all__ = ["Stream", "failure", "open_socket", "wait_readable"]

Layer = Literal[4, 6, 7]

# This host ran out of something. It says nothing of the server, which therefore keeps its state.
_OURS = frozenset(
    (
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        # connect(2): no local port is free.
        errno.EADDRNOTAVAIL,
        errno.EADDRINUSE,
        errno.EAGAIN,
    )
)
_TIMEOUT = {4: Code.L4TOUT, 6: Code.L6TOUT, 7: Code.L7TOUT}
_PROBLEM = {4: Code.L4CON, 6: Code.L6RSP, 7: Code.L7RSP}
# struct linger {on, 0 seconds}: close sends RST and leaves no TIME_WAIT, of which a check each two seconds of
# 5 000 servers would hold 150 000. HAProxy ends its tcp checks the same way.
_RESET = struct.pack("ii", 1, 0)
# A Unix socket whose backlog is full cannot be waited for: connect(2) says EAGAIN at once.
_UNIX_RETRY = 0.02
_TLS_READ = 16384


def failure(error: OSError | BadResponse, layer: Layer, *, duration: float) -> CheckResult:
    """The result of a check that ended with TimeoutError, another OSError (ssl.SSLError too) or BadResponse."""
    if isinstance(error, TimeoutError):
        return CheckResult(_TIMEOUT[layer], duration)
    if isinstance(error, BadResponse):
        return CheckResult(Code.L7RSP, duration, error.why)
    if isinstance(error, ssl.SSLError):
        return CheckResult(_PROBLEM[layer], duration, _what_tls_says(error, layer))
    number = error.errno or 0
    info = os.strerror(number) if number else str(error)
    if error.filename is not None:
        info = f"{error.filename}: {info}"
    return CheckResult(Code.SOCKERR if number in _OURS else _PROBLEM[layer], duration, info)


def open_socket(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """A non-blocking socket; OSError."""
    return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


async def wait_readable(fd: int) -> None:
    """Until `fd` can be read, or has failed."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(fd, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def _wait_writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_writer(fd, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_writer(fd)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class Stream:
    """One connection of a check. Steps raise OSError; the deadline is the caller's."""

    __slots__ = ("_address", "_incoming", "_outgoing", "_sock", "_tls", "layer")

    def __init__(self, address: Address) -> None:
        self._address = address
        self._sock: socket.socket | None = None
        self._tls: ssl.SSLObject | None = None
        self._incoming = self._outgoing = _NO_BIO
        self.layer: Layer = 4

    async def connect(self) -> None:
        """Connect to an address that needs no resolving."""
        sock = self._sock = open_socket(self._address.family, socket.SOCK_STREAM)
        sockaddr = self._address.sockaddr
        code = sock.connect_ex(sockaddr)
        while code == errno.EAGAIN and sock.family is socket.AF_UNIX:
            await asyncio.sleep(_UNIX_RETRY)
            code = sock.connect_ex(sockaddr)
        if code == errno.EINPROGRESS:
            await _wait_writable(sock.fileno())
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        self.layer = 7

    async def start_tls(self, context: ssl.SSLContext, server_name: str | None) -> None:
        """Shake hands; `server_name` is what the certificate is verified for, where it is, and the SNI."""
        self.layer = 6
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        except ValueError as error:
            raise OSError(f"server name: {error}") from error
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._exchange_records()
            else:
                break
        await self._send_raw(self._outgoing.read())
        self._tls = tls
        self.layer = 7

    async def send(self, data: bytes) -> None:
        if self._tls is not None:
            self._tls.write(data)
            data = self._outgoing.read()
        await self._send_raw(data)

    async def receive(self, size: int) -> bytes:
        """At most `size` octets; empty at the end."""
        if self._tls is None:
            return await self._receive_raw(size)
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                await self._exchange_records()
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                # Without close_notify: common, and for a check as good as with it.
                return b""

    def reset_on_close(self) -> None:
        """Make `close` abort the connection."""
        self._connected().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    async def _exchange_records(self) -> None:
        """Send what TLS wants sent and read what it waits for."""
        # A server may send records without end that hold no data, faster than we read them. Without this turn of
        # the loop neither the deadline nor anyone else would get theirs.
        await asyncio.sleep(0)
        await self._send_raw(self._outgoing.read())
        records = await self._receive_raw(_TLS_READ)
        if records:
            self._incoming.write(records)
        else:
            self._incoming.write_eof()

    async def _send_raw(self, data: bytes) -> None:
        sock = self._connected()
        while data:
            try:
                data = data[sock.send(data) :]
            except BlockingIOError:
                await _wait_writable(sock.fileno())

    async def _receive_raw(self, size: int) -> bytes:
        sock = self._connected()
        while True:
            try:
                return sock.recv(size)
            except BlockingIOError:
                await wait_readable(sock.fileno())

    def _connected(self) -> socket.socket:
        if self._sock is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._sock


_NO_BIO = ssl.MemoryBIO()


def _what_tls_says(error: ssl.SSLError, layer: Layer) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        what = error.verify_message
    elif isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        # The second is what Python 3.11 of Debian 12 says of the first.
        return "Connection closed during SSL handshake"
    else:
        what = (error.reason or str(error)).lower().replace("_", " ")
    return f"SSL handshake failure ({what})" if layer == 6 else what
