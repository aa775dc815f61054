"""TLS for the statistics page: a certificate from memory, and handshakes that hold nobody up.

Who opens a connection and then says nothing has `_SECONDS` for it, and makes room before that where too many do so:
the one that began first.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable

__all__ = ["Door", "context"]

_SECONDS = 10.0
# Each costs some 60 KiB until it is through.
_MOST = 64
# Accepted in one go.
_AT_ONCE = 16
# Nobody is let in for so long where there is no descriptor for them.
_PAUSE = 0.5
# Mozilla's "intermediate", what there is of it with forward secrecy and without CBC. TLS 1.3 has its own.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def context(crt: bytes, key: bytes | None, oldest: str) -> ssl.SSLContext:
    """A server's. `crt` and `key` are PEM, `key` None where `crt` has it too; `oldest` is `TLSv1.2` or `TLSv1.3`.
    OSError (ssl.SSLError too) where they are of no use."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_3 if oldest == "TLSv1.3" else ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    made.set_ciphers(_CIPHERS)
    made.set_alpn_protocols(["http/1.1"])
    # OpenSSL reads no memory through Python; the file is gone with its descriptor, and nobody else's.
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(crt + b"\n" + (key or b""))
        # Without an answer to it OpenSSL would ask the terminal for a password.
        made.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
    finally:
        os.close(descriptor)
    return made


def _no_password() -> str:
    raise ssl.SSLError("the key is encrypted")


class Door:
    """Lets clients in who have shaken hands. `make` makes their protocols."""

    def __init__(self, context: ssl.SSLContext, make: Callable[[], asyncio.BaseProtocol]) -> None:
        self._context = context
        self._make = make
        self._listening: list[socket.socket] = []
        self._waiting: dict[asyncio.Task[None], None] = {}
        self._is_open = True

    def open(self, sock: socket.socket) -> None:
        """Let in who comes to a listening socket, which must not block. It is closed with the door."""
        self._listening.append(sock)
        asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def close(self) -> None:
        """Nobody else, nor who has not got through yet."""
        self._is_open = False
        for sock in self._listening:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        self._listening.clear()
        for task in list(self._waiting):
            task.cancel()

    @property
    def waiting(self) -> int:
        """How many are shaking hands."""
        return len(self._waiting)

    def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_AT_ONCE):
            try:
                connection, _address = sock.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError:
                loop.remove_reader(sock)
                loop.call_later(_PAUSE, self._go_on, sock)
                return
            connection.setblocking(False)
            if len(self._waiting) >= _MOST:
                first = next(iter(self._waiting))
                del self._waiting[first]
                first.cancel()
            task = loop.create_task(self._shake(connection))
            self._waiting[task] = None
            task.add_done_callback(self._over)

    def _go_on(self, sock: socket.socket) -> None:
        if self._is_open:
            asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._waiting.pop(task, None)

    async def _shake(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                self._make, connection, ssl=self._context, ssl_handshake_timeout=_SECONDS, ssl_shutdown_timeout=1.0
            )
        except OSError:
            # Not TLS, a version or a certificate that one of us will not have, or gone: their affair.
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
