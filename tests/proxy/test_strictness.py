"""Each row of the table of `wire.strictness`, through a worker as it stands: what each side sees, octet for octet.

Every message is sent in one piece, octet by octet, and with another message behind it in the same piece.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import pytest
import uvloop

from balancer.wire.strictness import REQUESTS, RESPONSES, Fate, Row
from tests.proxy.rig import OK, Peer, Rig, http, rig, turns, until

# What comes behind the message that a test is about.
NEXT = b"GET /next HTTP/1.1\r\nHost: t\r\n\r\n"
NEXT_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
CLOSING_OK = OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
# Of a longer message the middle comes in larger pieces.
SINGLE = 200
WAYS = ("whole", "octet by octet", "with leftovers")


class Stage:
    """One worker for all rows, with which each begins as with a new one."""

    def __init__(self, runner: asyncio.Runner, it: Rig, complaints: list[Any]) -> None:
        self._runner = runner
        self._it = it
        self._complaints = complaints

    def play(self, act: Callable[[Rig], Awaitable[None]]) -> None:
        self._runner.run(self._play(act))
        assert not self._complaints

    async def _play(self, act: Callable[[Rig], Awaitable[None]]) -> None:
        it = self._it
        async with asyncio.timeout(60):
            try:
                await act(it)
                await it.at_rest()
            finally:
                for peer in (*it.clients, *it.origin.peers):
                    peer.reset()
                it.clients.clear()
                it.origin.peers.clear()
                it.records.clear()
                while it.origin.waiting:
                    await it.origin.accept()
        await until(lambda: not it.idle(), "the pool is empty")


@contextlib.contextmanager
def stage(config: dict[str, Any]) -> Iterator[Stage]:
    complaints: list[Any] = []

    async def begin(stack: contextlib.AsyncExitStack) -> Rig:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        return await stack.enter_async_context(rig(config))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = contextlib.AsyncExitStack()
        it = runner.run(begin(stack))
        try:
            yield Stage(runner, it, complaints)
        finally:
            runner.run(stack.aclose())


@pytest.fixture(scope="module")
def unpooled() -> Iterator[Stage]:
    """A server connection is used by one client alone: what a server was sent is what that client sent."""
    with stage(http(backend={"http_reuse": "never"})) as it:
        yield it


@pytest.fixture(scope="module")
def pooled() -> Iterator[Stage]:
    with stage(http(backend={"http_reuse": "always"})) as it:
        yield it


def pieces(octets: bytes) -> list[bytes]:
    """Octet by octet, if it is not all too many."""
    if len(octets) <= 3 * SINGLE:
        return [octets[at : at + 1] for at in range(len(octets))]
    first, middle, last = octets[:SINGLE], octets[SINGLE:-SINGLE], octets[-SINGLE:]
    return pieces(first) + [middle[at : at + 1000] for at in range(0, len(middle), 1000)] + pieces(last)


async def drip(peer: Peer, octets: bytes) -> None:
    """Send it in pieces, each in a turn of the loop of its own, until the other side has heard enough."""
    with contextlib.suppress(ConnectionError):
        for piece in pieces(octets):
            if peer.reader.at_eof():
                return
            peer.writer.write(piece)
            for _ in range(3):
                await asyncio.sleep(0)


async def say(peer: Peer, octets: bytes, way: str, leftovers: bytes) -> None:
    if way == "octet by octet":
        await drip(peer, octets)
    else:
        await peer.send(octets + (leftovers if way == "with leftovers" else b""))


async def all_of(peer: Peer) -> bytes:
    """All that comes until the connection ends, no matter how."""
    got = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            while part := await peer.reader.read(65536):
                got += part
    # What came before a reset the reader has, but does not give.
    return got + bytes(peer.reader._buffer)  # type: ignore[attr-defined]


async def refusal(client: Peer, status: int, *, head_only: bool = False) -> None:
    """One answer with the status, whole; then the end, in an orderly way."""
    answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert b"\r\ncontent-length: %d\r\n" % len(body) in head + b"\r\n"
    assert b"HTTP/1." not in body


def test_octets_arrive_one_by_one(unpooled: Stage) -> None:
    sizes: list[int] = []

    async def act(it: Rig) -> None:
        client = await it.connect()
        await turns()
        (connection,) = it.worker._sweeper.members
        stream = cast(Any, connection).transport
        receive = stream._recv

        def watched(*how: int) -> bytes:
            data: bytes = receive(*how)
            sizes.append(len(data))
            return data

        stream._recv = watched
        await drip(client, NEXT)
        await (await it.origin.accept()).expect(NEXT)

    unpooled.play(act)
    assert sizes == [1] * len(NEXT)


# Requests


@pytest.mark.parametrize("row", REQUESTS, ids=[row.name for row in REQUESTS])
def test_a_request_is_refused_or_goes_on_as_the_table_says(row: Row, unpooled: Stage) -> None:
    async def act(it: Rig) -> None:
        for way in WAYS[: 2 if row.ends else 3]:
            client = await it.connect()
            await say(client, row.octets, way, NEXT)
            if row.ends:
                client.half_close()
            await REQUEST_FATES[row.fate](it, row, client, way)
            await client.close()

    unpooled.play(act)


async def request_passed(it: Rig, row: Row, client: Peer, way: str) -> None:
    server = await it.origin.accept()
    await server.expect(row.passed)
    assert await server.is_silent(), "and nothing behind it"
    if row.closes:
        await server.send(OK)
        assert await client.rest() == CLOSING_OK
        assert await server.is_gone()
        return
    # A connection to the server of its own: what follows comes on it, from its very first octet.
    answer = OK[:-2] if row.octets.startswith(b"HEAD") else OK
    await server.send(answer)
    await client.expect(answer)
    if way != "with leftovers":
        await client.send(NEXT)
    await server.expect(NEXT)
    await server.send(NEXT_OK)
    await client.expect(NEXT_OK)
    assert it.origin.waiting == 0


async def request_refused(it: Rig, row: Row, client: Peer, way: str) -> None:
    await refusal(client, row.status)
    record = await it.record()
    assert record.status == row.status and record.termination[:2] in ("PR", "CR") and record.why
    if not row.passed:
        assert not it.origin.peers, "no server has heard of it"
        return
    # It was found out in the body, which is looked at when a server's connection is open.
    seen = await all_of(await it.origin.accept())
    assert row.passed.startswith(seen), "a beginning of it"
    assert not seen.endswith(b"0\r\n\r\n")
    if way == "octet by octet":
        assert seen == row.passed


async def request_cut(it: Rig, row: Row, client: Peer, way: str) -> None:
    server = await it.origin.accept()
    seen = await all_of(server)
    assert row.passed.startswith(seen)
    assert await all_of(client) == b""


REQUEST_FATES = {Fate.PASSED: request_passed, Fate.REFUSED: request_refused, Fate.CUT: request_cut}


# Responses


@pytest.mark.parametrize("row", RESPONSES, ids=[row.name for row in RESPONSES])
def test_a_response_is_refused_or_goes_on_as_the_table_says(row: Row, pooled: Stage) -> None:
    async def act(it: Rig) -> None:
        for way in WAYS[: 2 if row.ends else 3]:
            client = await it.connect()
            await client.send(row.method + b" /m HTTP/1.1\r\nHost: t\r\n\r\n")
            server = await it.origin.accept()
            await server.head()
            await say(server, row.octets, way, POISON)
            if row.ends:
                server.half_close()
            await RESPONSE_FATES[row.fate](it, row, client, server, way)
            await client.close()

    pooled.play(act)


async def response_passed(it: Rig, row: Row, client: Peer, server: Peer, way: str) -> None:
    if row.passed.split(b"\r\n\r\n")[0].endswith(b"connection: close"):
        assert await client.rest() == row.passed
        return
    await client.expect(row.passed)
    if row.closes or way == "with leftovers":
        assert await server.is_gone()
        assert await client.is_silent()
        await client.send(NEXT)
        server = await it.origin.accept()
    else:
        await client.send(NEXT)
    await server.expect(NEXT)
    await server.send(NEXT_OK)
    await client.expect(NEXT_OK)
    # The next way begins with a connection of its own.
    await until(lambda: it.idle(), "the connection is back in the pool")
    await server.close()
    await until(lambda: not it.idle(), "the pool is empty")


async def response_refused(it: Rig, row: Row, client: Peer, server: Peer, way: str) -> None:
    interim = b"" if not row.passed else await client.exactly(len(row.passed))
    assert interim == row.passed
    await client.send(NEXT)
    answer = await client.head()
    assert answer.startswith(b"HTTP/1.1 502 ")
    size = int(answer.partition(b"content-length: ")[2].partition(b"\r")[0])
    assert b"poison" not in await client.exactly(size)
    assert await server.is_gone()
    record = await it.record()
    assert record.status == 502 and record.termination[:2] in ("PH", "SH") and record.why.startswith("back/s0: ")
    # The client's connection is none the worse for it.
    other = await it.origin.accept()
    await other.expect(NEXT)
    await other.send(NEXT_OK)
    await client.expect(NEXT_OK)
    await until(lambda: it.idle(), "the connection is back in the pool")
    await other.close()
    await until(lambda: not it.idle(), "the pool is empty")
    it.records.clear()


async def response_cut(it: Rig, row: Row, client: Peer, server: Peer, way: str) -> None:
    seen = await all_of(client)
    assert row.passed.startswith(seen)
    assert not seen.endswith(b"0\r\n\r\n")
    assert await server.is_gone()
    assert not it.idle()


EARLY = [row for row in RESPONSES if row.fate is Fate.PASSED and row.method == b"GET" and not row.ends]


@pytest.mark.parametrize("row", EARLY, ids=[row.name for row in EARLY])
def test_a_response_before_the_request_is_whole_ends_both_connections(row: Row, pooled: Stage) -> None:
    final = row.passed.rindex(b"HTTP/1.1 ")
    end = row.passed.index(b"\r\n\r\n", final) + 2
    passed = row.passed[:end] + b"connection: close\r\n" + row.passed[end:]

    async def act(it: Rig) -> None:
        for way in WAYS:
            client = await it.connect()
            await client.send(b"POST /m HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\n\r\nhello")
            server = await it.origin.accept()
            await server.head()
            await server.expect(b"hello")
            await say(server, row.octets, way, POISON)
            await client.expect(passed)
            # What is missing, and what follows it, is asked of nobody.
            await client.send(b"!" + NEXT)
            assert await client.is_closed()
            assert await server.is_gone()
            assert not it.origin.waiting and not it.idle()
            await client.close()

    pooled.play(act)


RESPONSE_FATES = {Fate.PASSED: response_passed, Fate.REFUSED: response_refused, Fate.CUT: response_cut}
