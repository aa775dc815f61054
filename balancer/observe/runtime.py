"""The runtime socket: HAProxy's framing of commands and answers (management manual, section 9.3).

A line holds commands with `;` between them; an empty line ends each answer; then the connection is closed, unless
`prompt` was given: then `> ` follows each answer, until `quit`.

Whoever may open the socket may still be clumsy: a line is bounded in length and time, only so many are connected at
once (one that is idle makes room), and who does not read is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pwd
import socket
import struct

from balancer.observe.command import Desk, Level, Session, commands, obey

__all__ = ["Runtime"]

_LOG = logging.getLogger(__name__)

_LONGEST_LINE = 16 * 1024
_MOST = 64
# Seconds until a whole line is there; with a prompt somebody types it. HAProxy's `stats timeout` is 10 s.
_LINE_SECONDS = 10.0
_PROMPT_SECONDS = 600.0
# Seconds in which a client has to read a piece of an answer.
_READ_SECONDS = 10.0
_PIECE = 64 * 1024


class Runtime:
    """Takes commands. `level` is what everybody who connects may do."""

    def __init__(self, level: Level, desk: Desk) -> None:
        self._level = level
        self._desk = desk
        self._server: asyncio.AbstractServer | None = None
        # Those connected, the one of longest ago first.
        self._connections: dict[asyncio.Task[None], _Connection] = {}

    async def start(self, sock: socket.socket) -> None:
        """Serve on a listening Unix socket. It stays the caller's and stays open."""
        # A duplicate, since the loop closes what it was given.
        self._server = await asyncio.start_unix_server(self._serve, sock=sock.dup())

    async def stop(self) -> None:
        """Accept no more, give answers in the making a second, let everybody go."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections.values():
            if connection.is_idle:
                connection.writer.transport.abort()
        tasks = list(self._connections)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=1.0)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if not self._make_room():
            writer.transport.abort()
            return
        connection = self._connections[task] = _Connection(
            reader, writer, Session(self._level, _who(writer)), self._desk
        )
        try:
            await connection.run()
        except OSError:
            # TimeoutError is one too. Nobody is there, or nobody who reads.
            writer.transport.abort()
        except Exception as error:
            _LOG.error("a runtime command failed: %r", error)
            writer.transport.abort()
        finally:
            del self._connections[task]
            writer.close()

    def _make_room(self) -> bool:
        if len(self._connections) < _MOST:
            return True
        idle = next((each for each in self._connections.values() if each.is_idle), None)
        if idle is None:
            return False
        idle.is_idle = False
        idle.writer.transport.abort()
        return True


def _who(writer: asyncio.StreamWriter) -> str:
    """Who is at the other end, as far as the kernel knows (SO_PEERCRED, unix(7))."""
    sock: socket.socket = writer.get_extra_info("socket")
    try:
        _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    except OSError:
        return "the runtime socket"
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"
    return f"{name} at the runtime socket"


_CREDENTIALS = struct.Struct("3i")


class _Connection:
    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: Session, desk: Desk
    ) -> None:
        self.writer = writer
        self.is_idle = False
        """Does it wait for a line?"""
        self._reader = reader
        self._session = session
        self._desk = desk
        self._buffer = bytearray()

    async def run(self) -> None:
        """Answer line after line. OSError when the client is gone, or too slow."""
        session = self._session
        if self.writer.is_closing():
            return
        # `drain` waits until all is with the kernel, so that closing leaves nothing to wait for.
        self.writer.transport.set_write_buffer_limits(high=0)
        while not session.is_over:
            line = await self._line()
            if line is None:
                return
            found = commands(line)
            # Who types nothing at the prompt wants another one; anybody else is told what there is.
            for words in found or [[]]:
                await self._say("" if session.is_interactive and not words else await obey(words, session, self._desk))
                if session.is_over:
                    return
            if not session.is_interactive and b"\n" not in self._buffer:
                return

    async def _line(self) -> str | None:
        """The next line; None when there is none any more."""
        buffer = self._buffer
        seconds = self._session.timeout or (_PROMPT_SECONDS if self._session.is_interactive else _LINE_SECONDS)
        self.is_idle = True
        try:
            async with asyncio.timeout(seconds):
                while (end := buffer.find(b"\n")) < 0 and len(buffer) <= _LONGEST_LINE:
                    data = await self._reader.read(_LONGEST_LINE)
                    if not data:
                        return None
                    buffer += data
        finally:
            self.is_idle = False
        if not 0 <= end <= _LONGEST_LINE:
            await self._write(f"A line of more than {_LONGEST_LINE} octets is not understood.\n\n")
            await self._wait_for_the_end()
            return None
        line = buffer[:end].decode("utf-8", "replace")
        del buffer[: end + 1]
        return line

    async def _wait_for_the_end(self) -> None:
        """What is not read would, as we close, keep the client from reading what we said."""
        self._session.is_interactive = False
        with contextlib.suppress(OSError):
            async with asyncio.timeout(1.0):
                while await self._reader.read(_LONGEST_LINE):
                    pass

    async def _say(self, text: str) -> None:
        if self._session.is_over:
            return
        await self._write(text + ("\n> " if self._session.is_interactive else "\n"))

    async def _write(self, text: str) -> None:
        octets = text.encode("utf-8", "replace")
        for start in range(0, len(octets), _PIECE):
            if self.writer.is_closing():
                # uvloop raises RuntimeError then.
                raise ConnectionResetError("the client is gone")
            self.writer.write(octets[start : start + _PIECE])
            async with asyncio.timeout(_READ_SECONDS):
                await self.writer.drain()
