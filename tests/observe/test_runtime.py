from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from balancer.observe import peer, runtime
from balancer.observe.command import Desk, Level
from balancer.observe.legacy import Heirs
from balancer.observe.runtime import Runtime
from balancer.observe.servers import Order, SuccessionError
from tests.observe.conftest import NOW, House, config, two_routers

UNKNOWN = "Unknown command. Please enter one of the following commands only:\n"


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., None]:
    """serve(talk): a Runtime on a Unix socket, and `talk` with its path."""

    def serve_(
        talk: Callable[[str], Awaitable[None]],
        *,
        desk: Desk | None = None,
        level: Level = Level.ADMIN,
        heirs: Heirs | None = None,
    ) -> None:
        async def main() -> None:
            path = str(tmp_path / "admin.sock")
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(path)
                listening.listen(128)
                listening.setblocking(False)
                it = Runtime(level, desk or Desk(now=lambda: NOW, standing=two_routers), heirs)
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


def test_without_a_prompt_it_can_stay_too(serve) -> None:
    async def talk(path: str) -> None:
        one = await exchange(path, b"help prompt\n")
        async with connected(path) as (reader, writer):
            writer.write(b"prompt i\n")
            assert await reader.readexactly(1) == b"\n"
            for _ in range(2):
                writer.write(b"help prompt\n")
                assert (await reader.readexactly(len(one))).decode() == one
            writer.write(b"prompt timed\n")
            assert await reader.readexactly(15) == b"\n[1:02:03:04]> "
            writer.write(b"prompt n\n")
            assert await reader.read() == b"\n"

    serve(talk, desk=Desk(now=lambda: NOW, started=NOW - 86400 - 2 * 3600 - 3 * 60 - 4))


def test_a_payload_is_no_command(serve) -> None:
    async def talk(path: str) -> None:
        one = await exchange(path, b"help prompt\n")
        for sent in (
            b"help prompt <<\nvrrp hold\nquit\n\n", b"help prompt << \r\n\r\n",
            b"help prompt <<EOF\n\nvrrp hold\nEOF\n",
        ):  # fmt: skip
            assert await exchange(path, sent) == one
        assert await exchange(path, b"help prompt <<\n\nhelp prompt\n") == one * 2, "it goes on behind it"
        async with connected(path) as (reader, writer):
            writer.write(b"prompt\nhelp prompt <<\n")
            assert await reader.readexactly(5) == b"\n> + "
            writer.write(b"a\n")
            assert await reader.readexactly(2) == b"+ "
            writer.write(b"\nquit\n")
            assert (await reader.read()).decode() == one + "> "
        async with connected(path) as (reader, writer):
            writer.write(b"help prompt <<\n" + (b"x" * 1000 + b"\n") * 17)
            writer.write_eof()
            assert await reader.read() == b"A payload of more than 16384 octets is not understood.\n\n"
        assert await exchange(path, b"help prompt <<toolonganend\n") == one, "an argument"

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


def test_a_thousand_that_say_nothing_leave_room_for_one_that_does(serve) -> None:
    async def talk(path: str) -> None:
        one = await exchange(path, b"help prompt\n")
        silent: list[socket.socket] = []
        async with connected(path) as (reader, writer):
            writer.write(b"prompt\n")
            await reader.readexactly(3)
            try:
                for number in range(1000):
                    silent.append(socket.socket(socket.AF_UNIX))
                    silent[-1].setblocking(False)
                    await asyncio.get_running_loop().sock_connect(silent[-1], path)
                    if number % 100 == 99:
                        assert await exchange(path, b"help prompt\n") == one
                        writer.write(b"help prompt\n")
                        assert (await reader.readexactly(len(one) + 2)).decode() == one + "> ", "who was there before"
            finally:
                for sock in silent:
                    sock.close()

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


def test_who_goes_waits_no_more_and_who_only_said_all_does(serve) -> None:
    async def talk(path: str) -> None:
        async with connected(path) as (reader, writer):
            writer.write(b"wait 300\n")
            writer.write_eof()
            assert await reader.read() == b"Done.\n\n"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            sock.send(b"wait 1h\n")
            while not serve.runtime._connections:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(10):
            while serve.runtime._connections:
                await asyncio.sleep(0.01)

    serve(talk)


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


class Estate:
    """The way from one process to the next, in this one."""

    def __init__(self) -> None:
        self._from, self.legacies = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._from, self.legacies):
            end.setblocking(False)

    def bequeath(self, client: int, state: bytes) -> bool:
        return socket.send_fds(self._from, [state], [client]) > 0

    def inherit(self) -> tuple[int, bytes] | None:
        try:
            state, descriptors, _, _ = socket.recv_fds(self.legacies, 65536, 1)
        except BlockingIOError:
            return None
        return descriptors[0], state

    def close(self) -> None:
        self._from.close()
        self.legacies.close()


def test_who_waits_for_another_process_is_answered_by_it(serve) -> None:
    """The rest of its line, what it says meanwhile, and its prompt with it."""

    async def leave(order: Order, by: str) -> None:
        raise SuccessionError

    estate, settled = Estate(), []

    async def settle() -> None:
        settled.append(True)

    house = House(config())
    desk = Desk(now=lambda: NOW, snapshot=house.look, build=leave, settle=settle)

    async def talk(path: str) -> None:
        said = await exchange(path, b"set severity-output number; add server app/new 10.0.0.5:80; get weight app/up\n")
        assert said == "\n[6]: New server registered.\n\n1 (initial 3)\n\n"
        assert await exchange(path, b"set server app/up addr 10.0.0.5\n") != ""
        async with connected(path) as (reader, writer):
            writer.write(b"prompt\nadd server app/new 10.0.0.5:80\nget weight app/up\nget wei")
            said = b""
            while said.count(b"> ") < 3:
                said += await reader.read(1024)
            assert said == b"\n> New server registered.\n\n> 1 (initial 3)\n\n> "
            writer.write(b"ght app/up\nquit\n")
            assert await reader.read() == b"1 (initial 3)\n\n> \n"[:-1] + b""
        assert len(settled) == 3

    serve(talk, desk=desk, heirs=estate)
    estate.close()


def test_between_the_commands_of_a_line_others_have_their_turn(serve) -> None:
    """A line of hundreds must not hold up health checks."""
    changes, turns = [], []

    def steer(change, by) -> None:
        changes.append(change)
        turns.append(len(ticks))

    ticks: list[int] = []

    async def talk(path: str) -> None:
        async def others() -> None:
            while True:
                ticks.append(1)
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        line = ";".join(["set server app/up state drain"] * 100)
        assert await exchange(path, line.encode() + b"\n") == "\n" * 100
        task.cancel()

    serve(talk, desk=Desk(now=lambda: NOW, snapshot=_house().look, steer=steer))
    assert len(changes) == 100 and len({*turns}) == 100


def _house() -> House:
    house = House(config())
    house.feed(NOW)
    return house


def test_who_has_a_name_that_takes_long_is_a_number(serve, monkeypatch) -> None:
    asked, steered, over = [], [], threading.Event()
    real = pwd.getpwuid

    def slow(uid: int):
        asked.append(uid)
        over.wait(20)
        return real(uid)

    monkeypatch.setattr(pwd, "getpwuid", slow)
    monkeypatch.setattr(peer, "_PATIENCE", 0.05)
    uid = os.getuid()
    name = real(uid).pw_name

    async def talk(path: str) -> None:
        await asyncio.gather(exchange(path, b"disable server app/up\n"), exchange(path, b"disable server app/up\n"))
        assert steered == [f"uid {uid} at the runtime socket"] * 2 and asked == [uid], "asked once"
        over.set()
        while serve.runtime._names._asked:
            await asyncio.sleep(0.005)
        await exchange(path, b"disable server app/up\n")
        assert steered[2:] == [f"{name} at the runtime socket"] and asked == [uid], "it is known by now"

    serve(talk, desk=Desk(now=lambda: NOW, snapshot=_house().look, steer=lambda _, by: steered.append(by)))
