"""The runtime socket: HAProxy's framing of commands and answers (management manual, section 9.3).

A line holds commands with `;` between them; an empty line ends each answer; then the connection is closed, unless
`prompt` was given: then `> ` follows each answer, until `quit`. A line that ends with `<<` is followed by lines that
are its payload, until an empty one, or one that is what stands behind the `<<`.

Whoever may open the socket may still be clumsy: a line is bounded in length and time, only so many are connected at
once (one that is idle makes room, before others one that has never said anything), and who does not read is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import select
import socket
from typing import cast

from balancer.observe.command import Desk, Level, Session, commands, told
from balancer.observe.legacy import Heirs, Legacy
from balancer.observe.peer import Names
from balancer.observe.servers import SuccessionError
from balancer.observe.steering import SteeringError

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
# What stands behind it is the line that ends the payload: seven octets at most, as with HAProxy.
_PAYLOAD = re.compile(r"(?:^|\s)<<(\S{0,7})\s*$")


class Runtime:
    """Takes commands. `level` is what everybody who connects may do."""

    def __init__(self, level: Level, desk: Desk, heirs: Heirs | None = None) -> None:
        """`heirs`: where those whom another process is to answer are left, and come from."""
        self._level = level
        self._desk = desk
        self._heirs = heirs
        self._names = Names()
        self._coming: set[asyncio.Task[None]] = set()
        self._server: asyncio.AbstractServer | None = None
        # Those connected, the one of longest ago first.
        self._connections: dict[asyncio.Task[None], _Connection] = {}

    async def start(self, sock: socket.socket | None) -> None:
        """Serve on a listening Unix socket. It stays the caller's and stays open. None: there was one before the
        reload; who waits for an answer gets it."""
        # A duplicate, since the loop closes what it was given.
        if sock is not None:
            self._server = await asyncio.start_unix_server(self._serve, sock=sock.dup())
        if self._heirs is not None:
            asyncio.get_running_loop().add_reader(self._heirs.legacies, self._inherit, self._heirs)

    def leave(self) -> None:
        """From now on those whom another process is to answer are left to it."""
        if self._heirs is not None:
            asyncio.get_running_loop().remove_reader(self._heirs.legacies)

    async def stop(self) -> None:
        """Accept no more, give answers in the making a second, let everybody go."""
        if self._server is not None:
            self._server.close()
        self.leave()
        for connection in self._connections.values():
            if connection.is_idle:
                connection.leave()
        tasks = list(self._connections)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=1.0)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _inherit(self, heirs: Heirs) -> None:
        while (found := heirs.inherit()) is not None:
            task = asyncio.get_running_loop().create_task(self._go_on(*found))
            self._coming.add(task)
            task.add_done_callback(self._coming.discard)

    async def _go_on(self, client: int, state: bytes) -> None:
        legacy = Legacy.decode(state)
        if self._server is None and legacy.is_interactive:
            os.close(client)
            return
        reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=client))
        await self._serve(reader, writer, legacy)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, legacy: Legacy | None = None
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        if not self._make_room():
            writer.transport.abort()
            return
        session = Session(self._level)
        connection = self._connections[task] = _Connection(reader, writer, session, self._desk, self._heirs)
        try:
            if name := await self._names.of(writer.get_extra_info("socket")):
                session.who = f"{name} at {session.who}"
            await connection.run(legacy)
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
        idle = min(
            (each for each in self._connections.values() if each.is_idle),
            key=lambda each: each.has_spoken,
            default=None,
        )
        if idle is None:
            return False
        idle.is_idle = False
        idle.writer.transport.abort()
        return True


class _Connection:
    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        session: Session,
        desk: Desk,
        heirs: Heirs | None,
    ) -> None:
        self.writer = writer
        session.is_gone = self._is_gone
        self.is_idle = False
        """Does it wait for a line?"""
        self.has_spoken = False
        """Has it ever said one?"""
        self._reader = reader
        self._session = session
        self._desk = desk
        self._heirs = heirs
        self._is_leaving = False
        self._buffer = bytearray()

    def leave(self) -> None:
        """It is idle, and we end: who is at the prompt is left to whoever comes after us, anybody else is let go."""
        if self._heirs is None or not self._session.is_interactive:
            self.writer.transport.abort()
            return
        self._is_leaving = True
        self._read_no_more()

    def _read_no_more(self) -> None:
        with contextlib.suppress(RuntimeError):
            # uvloop's is of no class of asyncio's.
            cast(asyncio.Transport, self.writer.transport).pause_reading()
        self._reader.feed_eof()

    async def _bequeath(self, answer: str | None, left: list[list[str]]) -> None:
        """Leave the client to whoever comes after us."""
        session = self._session
        assert self._heirs is not None
        self._read_no_more()
        legacy = Legacy(
            answer,
            left,
            bytes(self._buffer) + await self._reader.read(),
            session.severity,
            session.timeout,
            session.is_interactive,
            session.has_prompt,
            session.tells_time,
        )
        self._heirs.bequeath(self.writer.get_extra_info("socket").fileno(), legacy.encode())
        # Not shut down: it is another's, too.
        self.writer.transport.abort()

    async def _inherit(self, legacy: Legacy) -> bool:
        """Be as the one was who left it; whether there is more to come."""
        session = self._session
        session.severity, session.timeout = legacy.severity, legacy.timeout
        session.is_interactive, session.has_prompt = legacy.is_interactive, legacy.has_prompt
        session.tells_time = legacy.tells_time
        self._buffer += legacy.unread
        self.has_spoken = True
        if legacy.answer is not None:
            try:
                if self._desk.settle is not None:
                    await self._desk.settle()
                text = legacy.answer
            except SteeringError as error:
                text = f"{error}\n"
            except SuccessionError:
                await self._bequeath(legacy.answer, legacy.left)
                return False
            await self._write(text + self._end_of_answer())
        return await self._obey(legacy.left)

    async def run(self, legacy: Legacy | None = None) -> None:
        """Answer line after line. OSError when the client is gone, or too slow."""
        session = self._session
        if self.writer.is_closing():
            return
        # `drain` waits until all is with the kernel, so that closing leaves nothing to wait for.
        self.writer.transport.set_write_buffer_limits(high=0)
        if legacy is not None and not (await self._inherit(legacy) and self._goes_on):
            return
        while not session.is_over:
            line = await self._line()
            if line is None:
                if self._is_leaving:
                    await self._bequeath(None, [])
                return
            self.has_spoken = True
            payload = _PAYLOAD.search(line)
            if payload is not None:
                line = line[: payload.start()]
                if not await self._skip(payload[1]):
                    return
            # Who types nothing at the prompt wants another one; anybody else is told what there is.
            if not await self._obey(commands(line) or [[]]) or not self._goes_on:
                return

    @property
    def _goes_on(self) -> bool:
        return self._session.is_interactive or b"\n" in self._buffer

    async def _obey(self, left: list[list[str]]) -> bool:
        """Do commands, one after the other; whether there is more to come."""
        session = self._session
        while left:
            words, *left = left
            last = ""
            if words or not session.has_prompt:
                try:
                    async with contextlib.aclosing(told(words, session, self._desk)) as pieces:
                        async for piece in pieces:
                            await self._write(last)
                            last = piece
                except SuccessionError as error:
                    answer, *asked = error.args or ("",)
                    await self._bequeath(answer, [*asked, *left])
                    return False
            if session.is_over:
                return False
            await self._write(last + self._end_of_answer())
            # A line may have hundreds of commands; others have their turn in between.
            await asyncio.sleep(0)
        return True

    def _is_gone(self) -> bool:
        """Has it closed both ways? Who only has nothing more to say still reads (poll(2))."""
        if self.writer.is_closing():
            return True
        poll = select.poll()
        poll.register(self.writer.get_extra_info("socket").fileno(), 0)
        return bool(poll.poll(0))

    def _end_of_answer(self) -> str:
        session = self._session
        if not session.has_prompt:
            return "\n"
        if not session.tells_time:
            return "\n> "
        minutes, seconds = divmod(int(self._desk.now() - self._desk.started), 60)
        hours, minutes = divmod(minutes, 60)
        days, hours = divmod(hours, 24)
        return f"\n[{days}:{hours:02}:{minutes:02}:{seconds:02}]> "

    async def _skip(self, end: str) -> bool:
        """The payload, which no command has a use for; whether it is whole."""
        octets = 0
        while True:
            if self._session.has_prompt:
                await self._write("+ ")
            line = await self._line()
            if line is None:
                return False
            octets += len(line)
            if line.removesuffix("\r") == end:
                return True
            if octets > _LONGEST_LINE:
                await self._refuse("A payload")
                return False

    async def _refuse(self, what: str) -> None:
        await self._write(f"{what} of more than {_LONGEST_LINE} octets is not understood.\n\n")
        await self._wait_for_the_end()

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
            await self._refuse("A line")
            return None
        # As a C string: what follows a NUL is not looked at.
        line = bytes(buffer[:end]).partition(b"\0")[0].decode("utf-8", "replace")
        del buffer[: end + 1]
        return line

    async def _wait_for_the_end(self) -> None:
        """What is not read would, as we close, keep the client from reading what we said."""
        self._session.is_interactive = False
        with contextlib.suppress(OSError):
            async with asyncio.timeout(1.0):
                while await self._reader.read(_LONGEST_LINE):
                    pass

    async def _write(self, text: str) -> None:
        octets = text.encode("utf-8", "replace")
        for start in range(0, len(octets), _PIECE):
            if self.writer.is_closing():
                # uvloop raises RuntimeError then.
                raise ConnectionResetError("the client is gone")
            self.writer.write(octets[start : start + _PIECE])
            async with asyncio.timeout(_READ_SECONDS):
                await self.writer.drain()
