from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from balancer.observe import runtime
from balancer.observe.command import Desk, Level
from balancer.observe.runtime import Runtime
from tests.observe.conftest import NOW, two_routers

UNKNOWN = "Unknown command. Please enter one of the following commands only:\n"


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., None]:
    """serve(talk): a Runtime on a Unix socket, and `talk` with its path."""

    def serve_(talk: Callable[[str], Awaitable[None]], *, desk: Desk | None = None, level: Level = Level.ADMIN) -> None:
        async def main() -> None:
            path = str(tmp_path / "admin.sock")
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(path)
                listening.listen(128)
                listening.setblocking(False)
                it = Runtime(level, desk or Desk(now=lambda: NOW, standing=two_routers))
                await it.start(listening)
                serve_.runtime = it  # type: ignore[attr-defined]
                try:
                    async with asyncio.timeout(30):
                        await talk(path)
                finally:
                    await it.stop()
                assert not it._connections, "all are gone"

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    return serve_


@contextlib.asynccontextmanager
async def connected(path: str):
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        yield reader, writer
    finally:
        writer.close()


async def exchange(path: str, sent: bytes) -> str:
    """Send, and read until it is closed."""
    async with connected(path) as (reader, writer):
        writer.write(sent)
        return (await reader.read()).decode()


def test_a_line_is_answered_and_the_connection_closed(serve) -> None:
    async def talk(path: str) -> None:
        said = await exchange(path, b"show vrrp\n")
        assert said.startswith("# instance") and said.endswith("up\npeer 10.9.0.4:694: was never heard\n\n")
        assert await exchange(path, b"show vrrp\r\n") == said

    serve(talk)


def test_each_answer_ends_with_an_empty_line(serve) -> None:
    async def talk(path: str) -> None:
        one = await exchange(path, b"help prompt\n")
        assert await exchange(path, b"help prompt;help prompt\n") == one * 2
        assert await exchange(path, b"help prompt\nhelp prompt\n") == one * 2
        assert await exchange(path, b" ; help prompt ; \n") == one
        assert (await exchange(path, b"\n")).startswith(UNKNOWN)
        assert await exchange(path, b"set severity-output number\n") == "\n"
        assert await exchange(path, b"set severity-output number;vrrp hold\n") == (
            "\n[3]: There are no virtual routers (vrrp.instances).\n\n"
        )

    serve(talk)


def test_a_line_in_pieces_is_a_line(serve) -> None:
    async def talk(path: str) -> None:
        async with connected(path) as (reader, writer):
            for octet in b"help prompt\n":
                writer.write(bytes([octet]))
                await writer.drain()
                await asyncio.sleep(0)
            assert (await reader.read()).decode() == await exchange(path, b"help prompt\n")

    serve(talk)


def test_with_a_prompt_it_stays_until_quit(serve) -> None:
    async def talk(path: str) -> None:
        one = await exchange(path, b"help prompt\n")
        async with connected(path) as (reader, writer):
            for sent, expected in (
                (b"prompt\n", "\n> "), (b"help prompt\n", one + "> "), (b"\n", "\n> "),
                (b"help prompt;help prompt\n", (one + "> ") * 2),
            ):  # fmt: skip
                writer.write(sent)
                assert (await reader.readexactly(len(expected))).decode() == expected
            writer.write(b"quit;show vrrp\n")
            assert await reader.read() == b""
        # A second `prompt` takes it away, and the connection ends with its line.
        assert await exchange(path, b"prompt\nprompt\n") == "\n> \n"

    serve(talk)


def test_no_line_is_too_much(serve) -> None:
    async def talk(path: str) -> None:
        longest = b"help " + b"x" * (16 * 1024 - 5)
        assert (await exchange(path, longest + b"\n")).startswith("The following commands are valid")
        for sent in (longest + b"x\n", b"x" * 20_000, b"x" * 1_000_000):
            async with connected(path) as (reader, writer):
                writer.write(sent)
                writer.write_eof()
                assert await reader.read() == b"A line of more than 16384 octets is not understood.\n\n"
        assert await exchange(path, b"\xff\xfe\x00\x1b;help prompt\n") != ""

    serve(talk)


def test_an_unfinished_line_is_no_line(serve) -> None:
    async def talk(path: str) -> None:
        async with connected(path) as (reader, writer):
            writer.write(b"show vrrp")
            writer.write_eof()
            assert await reader.read() == b""

    serve(talk)


def test_who_says_nothing_is_let_go(serve, monkeypatch) -> None:
    monkeypatch.setattr(runtime, "_LINE_SECONDS", 0.2)

    async def talk(path: str) -> None:
        async with connected(path) as (reader, writer):
            assert await reader.read() == b""
        async with connected(path) as (reader, writer):
            # Nor does it help to say it a letter at a time.
            # RuntimeError is uvloop's for a connection that is closed.
            with contextlib.suppress(OSError, RuntimeError):
                while not reader.at_eof():
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.01)
        async with connected(path) as (reader, writer):
            writer.write(b"prompt\n")
            await reader.readexactly(3)
            await asyncio.sleep(0.5)
            writer.write(b"quit\n")
            assert await reader.read() == b"", "with a prompt there is more time"

    serve(talk)


def test_who_does_not_read_hurts_nobody(serve, monkeypatch) -> None:
    monkeypatch.setattr(runtime, "_READ_SECONDS", 0.2)

    async def talk(path: str) -> None:
        one = await exchange(path, b"help\n")
        lazy = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        try:
            for sock in lazy:
                sock.connect(path)
                sock.send(b"help;" * 3000 + b"\n")
            assert await exchange(path, b"help\n") == one
            while serve.runtime._connections:
                await asyncio.sleep(0.01)
            # They get what went into the kernel, then the end.
            loop = asyncio.get_running_loop()
            for sock in lazy:
                sock.setblocking(False)
                got = 0
                with contextlib.suppress(ConnectionError):
                    while data := await loop.sock_recv(sock, 1 << 20):
                        got += len(data)
                assert 0 < got < len(one) * 3000
        finally:
            for sock in lazy:
                sock.close()

    serve(talk)


def test_one_too_many_takes_the_place_of_the_one_that_was_idle_longest(serve) -> None:
    async def talk(path: str) -> None:
        async with contextlib.AsyncExitStack() as stack:
            idle = [await stack.enter_async_context(connected(path)) for _ in range(64)]
            for reader, writer in idle:
                writer.write(b"prompt\n")
                await reader.readexactly(3)
            assert (await exchange(path, b"help prompt\n")).endswith("\n\n")
            assert await idle[0][0].read() == b""
            reader, writer = idle[1]
            writer.write(b"quit\n")
            assert await reader.read() == b""

    serve(talk)


def test_when_all_are_busy_one_more_is_refused(serve, monkeypatch) -> None:
    monkeypatch.setattr(runtime, "_MOST", 2)
    asked: list[asyncio.Future[None]] = []

    async def ask(*_: object) -> tuple[bool, list[str]]:
        asked.append(asyncio.get_running_loop().create_future())
        await asked[-1]
        return True, ["done"]

    async def talk(path: str) -> None:
        async with connected(path) as (reader, writer), connected(path) as (other, second):
            for each in (writer, second):
                each.write(b"vrrp hold\n")
            while len(asked) < 2:
                await asyncio.sleep(0.01)
            with contextlib.suppress(ConnectionError):
                assert await exchange(path, b"help prompt\n") == ""
            for each in asked:
                each.set_result(None)
            assert [await each.read() for each in (reader, other)] == [b"done\n\n"] * 2
            assert (await exchange(path, b"help prompt\n")).endswith("\n\n")

    serve(talk, desk=Desk(now=lambda: NOW, standing=two_routers, ask=ask))


def test_who_leaves_before_the_answer_is_no_fault(serve, caplog) -> None:
    left = asyncio.Event()

    async def ask(*_: object) -> tuple[bool, list[str]]:
        await left.wait()
        return True, ["done"]

    async def talk(path: str) -> None:
        for sent in (b"", b"vrrp hold\n", b"vrrp hold;vrrp hold\n", b"prompt\nvrrp hold\n"):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            sock.send(sent)
            await asyncio.sleep(0.02)
            sock.close()
        await asyncio.sleep(0.02)
        left.set()
        while serve.runtime._connections:
            await asyncio.sleep(0.01)
        assert caplog.text == ""

    serve(talk, desk=Desk(now=lambda: NOW, standing=two_routers, ask=ask))


def test_a_fault_of_ours_ends_one_connection_and_is_logged(serve, caplog) -> None:
    def fail() -> None:
        raise KeyError("x")

    async def talk(path: str) -> None:
        with caplog.at_level(logging.ERROR):
            assert await exchange(path, b"show vrrp\n") == ""
        assert "a runtime command failed: KeyError('x')" in caplog.text
        assert (await exchange(path, b"help prompt\n")).endswith("\n\n")

    serve(talk, desk=Desk(now=lambda: NOW, standing=fail))


def test_at_the_stop_everybody_is_let_go(serve) -> None:
    """Whoever waits at a prompt, and whoever waits for an answer."""
    asked: list[object] = []

    async def ask(*order: object) -> tuple[bool, list[str]]:
        asked.append(order)
        await asyncio.Event().wait()
        return True, []

    with socket.socket(socket.AF_UNIX) as idle, socket.socket(socket.AF_UNIX) as waiting:

        async def talk(path: str) -> None:
            for sock, said in ((idle, b"prompt\n"), (waiting, b"vrrp hold\n")):
                sock.connect(path)
                sock.send(said)
            idle.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(idle, 100) == b"\n> "
            while not asked:
                await asyncio.sleep(0.01)

        serve(talk, desk=Desk(now=lambda: NOW, ask=ask))
        for sock in (idle, waiting):
            sock.settimeout(5)
            assert sock.recv(100) == b""


def test_who_may_do_what_is_the_sockets(serve) -> None:
    async def talk(path: str) -> None:
        assert await exchange(path, b"vrrp hold\n") == "Permission denied\n\n"

    serve(talk, level=Level.USER)
