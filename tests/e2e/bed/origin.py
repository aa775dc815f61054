"""A web server that does wrong in all the ways that a log tells of, as the path says."""

from __future__ import annotations

import asyncio
import socket
import threading

from tests.e2e.bed.process import PATIENCE

__all__ = ["Hole", "Origin"]

_BIG = 16 << 20


def _answer(fields: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode() + body


class Origin(threading.Thread):
    """What is asked for by one of these words is answered so; anything else is answered 200.

    close, reset    no answer, and the connection's end
    garbage         no HTTP
    silent          nothing at all
    cut, stall      half of the body; then the end, or nothing
    chunk           a chunk that is none
    big             more than anybody's buffers hold
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.asked: list[str] = []
        """First lines of what came, as they came."""
        self._ready = threading.Event()
        self.start()
        assert self._ready.wait(PATIENCE)

    def run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                text = line.decode("latin-1").strip()
                self.asked.append(text)
                if not text.endswith(("HTTP/1.1", "HTTP/1.0")):
                    if not await self._relay(text, reader, writer):
                        return
                    continue
                while (await reader.readline()).strip():
                    pass
                if not await self._do(text.split()[1], reader, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _relay(self, text: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Plain TCP: `reset`, `close`, `silent`, `big`; else an echo."""
        if text == "reset":
            _reset(writer)
            return False
        if text == "close":
            return False
        if text == "silent":
            await reader.read()
            return False
        if text == "big":
            writer.write(bytes(_BIG))
            await reader.read()
            return False
        writer.write(text.encode() + b"\n")
        return True

    async def _do(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        word = path.partition("?")[0].strip("/").partition("/")[0]
        if word == "reset":
            _reset(writer)
        elif word == "garbage":
            writer.write(b"it is not you\r\n\r\n")
            await reader.read()
        elif word == "silent":
            await reader.read()
        elif word == "cut":
            writer.write(_answer("", bytes(100))[:-50])
        elif word == "stall":
            writer.write(_answer("", bytes(100))[:-50])
            await reader.read()
        elif word == "chunk":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.write(b"nonsense\r\n")
            await reader.read()
        elif word == "big":
            writer.write(_answer("", bytes(_BIG)))
            await reader.read()
        elif word != "close":
            writer.write(_answer("Server: test|one\r\nSet-Cookie: theirs=abc; path=/\r\nX-Bad: a\x80b\r\n", b"ok\n"))
            return True
        return False

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self.join(PATIENCE)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


class Hole:
    """An address that neither accepts nor refuses: whoever connects waits."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)

    def close(self) -> None:
        for each in (*self._fillers, self._listener):
            each.close()
