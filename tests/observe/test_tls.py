from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from balancer.observe import tls
from tests.certificates import make
from tests.observe.test_web import run_on_uvloop


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make(tmp_path_factory.mktemp("tls"))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]
        self.transport.close()


def serve(files: tuple[Path, Path], talk: Callable[[int, tls.Door], Awaitable[None]], oldest: str = "TLSv1.2") -> None:
    async def run() -> None:
        door = tls.Door(tls.context(files[0].read_bytes(), files[1].read_bytes(), oldest), Echo)
        sock = socket.create_server(("127.0.0.1", 0), backlog=200)
        sock.setblocking(False)
        door.open(sock)
        try:
            async with asyncio.timeout(30):
                await talk(sock.getsockname()[1], door)
        finally:
            door.close()
            await asyncio.sleep(0)

    run_on_uvloop(run())


async def ask(port: int, files: tuple[Path, Path], **more: object) -> str:
    """The version that was spoken."""
    client = ssl.create_default_context(cafile=str(files[0]))
    for name, value in more.items():
        setattr(client, name, value)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
    try:
        writer.write(b"hello")
        assert await reader.read() == b"hello"
        return str(writer.get_extra_info("ssl_object").version())
    finally:
        writer.close()


def test_what_is_spoken(files: tuple[Path, Path]) -> None:
    async def talk(port: int, door: tls.Door) -> None:
        assert await ask(port, files) == "TLSv1.3"
        assert await ask(port, files, maximum_version=ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
        assert door.waiting == 0

    serve(files, talk)


def test_no_version_older_than_wanted_is(files: tuple[Path, Path]) -> None:
    async def talk(port: int, door: tls.Door) -> None:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await ask(port, files, maximum_version=ssl.TLSVersion.TLSv1_2)
        assert await ask(port, files) == "TLSv1.3"

    serve(files, talk, oldest="TLSv1.3")


def test_who_says_nothing_makes_room_and_holds_nobody_up(files: tuple[Path, Path]) -> None:
    async def talk(port: int, door: tls.Door) -> None:
        await ask(port, files)
        before = descriptors()
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(150)]
        while door.waiting < 64:
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await ask(port, files)
        assert door.waiting <= 64
        # Those who came first were let go.
        assert await silent[0][0].read() == b""
        for _, writer in silent:
            writer.close()
        while door.waiting or descriptors() > before:
            await asyncio.sleep(0.01)

    serve(files, talk)


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(300), b"\0" * 9])
def test_what_is_no_tls_ends(files: tuple[Path, Path], sent: bytes) -> None:
    async def talk(port: int, door: tls.Door) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        writer.write_eof()
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in await reader.read()
        writer.close()
        assert await ask(port, files) == "TLSv1.3"

    serve(files, talk)


def test_the_end_waits_for_nobody(files: tuple[Path, Path]) -> None:
    async def talk(port: int, door: tls.Door) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not door.waiting:
            await asyncio.sleep(0)
        door.close()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()

    serve(files, talk)


def test_no_descriptor_for_more_is_no_end(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_PAUSE", 0.01)

    class Full(socket.socket):
        refuses = 2

        def accept(self):  # type: ignore[no-untyped-def]
            if self.refuses:
                self.refuses -= 1
                raise OSError(24, "Too many open files")
            return super().accept()

    async def run() -> None:
        door = tls.Door(tls.context(files[0].read_bytes(), files[1].read_bytes(), "TLSv1.2"), Echo)
        sock = Full()
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        sock.setblocking(False)
        door.open(sock)
        async with asyncio.timeout(10):
            await ask(sock.getsockname()[1], files)
        assert sock.refuses == 0
        door.close()

    run_on_uvloop(run())


def test_key_and_certificate_may_be_one_file(files: tuple[Path, Path]) -> None:
    both = files[0].read_bytes() + files[1].read_bytes()
    assert tls.context(both, None, "TLSv1.2").minimum_version == ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError):
        tls.context(files[0].read_bytes(), None, "TLSv1.2")
    with pytest.raises(OSError):
        tls.context(b"", b"", "TLSv1.2")
