"""A worker on this test's own loop, with servers and clients written by the test octet for octet."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import uvloop

from balancer.config.model import Config
from balancer.daemon.memory import Memory, ring
from balancer.daemon.plan import Plan
from balancer.daemon.sockets import Sockets
from balancer.daemon.worker import Worker
from balancer.pool.facts import Counters, Entity
from balancer.pool.orders import Condition, ServerState
from balancer.pool.records import Record
from balancer.proxy.origin import Pool

PATIENCE = 10.0
GET = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def run(main: Callable[[], Awaitable[None]], *, plain: bool = False) -> None:
    """Run a test's coroutine on the loop that workers use; whatever the loop would only log fails the test.

    `plain`: on asyncio's own loop in debug mode, which knows more of what one must not do.
    """
    complaints: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(60):
            await main()

    factory = asyncio.new_event_loop if plain else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory, debug=plain) as runner:
        runner.run(watched())
        if plain:
            # Tasks and transports forgotten complain as they are collected.
            gc.collect()
    assert not complaints


async def until(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Wait until `condition()` holds; AssertionError after PATIENCE."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what}") from None


class Peer:
    """One end of a connection that the test speaks for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @property
    def address(self) -> tuple[str, int]:
        """Its own."""
        host, port = self.writer.get_extra_info("sockname")[:2]
        return host, port

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def trickle(self, pieces: Iterable[bytes]) -> None:
        """Send the pieces one by one, each so that it arrives alone."""
        for piece in pieces:
            await self.send(piece)
            await turns()

    async def expect(self, data: bytes) -> None:
        """Exactly these octets come next."""
        async with asyncio.timeout(PATIENCE):
            got = b""
            while len(got) < len(data):
                part = await self.reader.read(len(data) - len(got))
                if not part:
                    break
                got += part
        assert got == data

    async def head(self) -> bytes:
        """A message's head, its empty line included."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        """All that comes until the other side closes."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def is_closed(self) -> bool:
        """It ends, in an orderly way and with nothing before."""
        return await self.rest() == b""

    async def is_reset(self) -> bool:
        """Whether the connection ends by a reset."""
        try:
            await self.rest()
        except ConnectionResetError:
            return True
        return False

    async def is_gone(self) -> bool:
        """It ends, no matter how; octets before that are no matter either."""
        with contextlib.suppress(ConnectionError):
            await self.rest()
        return True

    async def is_silent(self) -> bool:
        """Nothing has come, and it is open; what is on its way has had its time."""
        await turns()
        return not self.reader._buffer and not self.reader.at_eof()  # type: ignore[attr-defined]

    def half_close(self) -> None:
        self.writer.write_eof()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def abort(self) -> None:
        self.writer.transport.abort()

    def reset(self) -> None:
        """Close with RST."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def stop_reading(self) -> None:
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def go_on_reading(self) -> None:
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]


async def turns(count: int = 6) -> None:
    """Let everybody on this loop do what there is to do now."""
    for _ in range(count):
        await asyncio.sleep(0)
    await asyncio.sleep(0.002)


class Origin:
    """A listening server; the test takes its connections one by one."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[Peer] = asyncio.Queue()
        self.peers: list[Peer] = []
        self._server: asyncio.Server
        self.port = 0
        self.path = ""

    async def start(self, port: int = 0, *, host: str = "127.0.0.1") -> None:
        self._server = await asyncio.start_server(self._on_connection, host, port, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def start_unix(self, path: Path) -> None:
        self._server = await asyncio.start_unix_server(self._on_connection, path, limit=1 << 20)
        self.path = str(path)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self._arrived.put_nowait(peer)

    async def accept(self) -> Peer:
        async with asyncio.timeout(PATIENCE):
            return await self._arrived.get()

    @property
    def waiting(self) -> int:
        """Connections that nobody has taken yet."""
        return self._arrived.qsize()

    def refuse(self) -> None:
        """Listen no more; what is open stays open."""
        self._server.close()

    async def stop(self) -> None:
        self._server.close()
        for peer in self.peers:
            peer.abort()


class Rig:
    """A worker and its origins."""

    def __init__(self, worker: Worker, memory: Memory, sockets: Sockets, origins: list[Origin]) -> None:
        self.worker = worker
        self.memory = memory
        self.sockets = sockets
        self.origins = origins
        self.records: list[Record] = []
        self.clients: list[Peer] = []
        self.running: asyncio.Task[None]

    @property
    def origin(self) -> Origin:
        return self.origins[0]

    def port(self, frontend: str = "front", bind: int = 0) -> int:
        port: int = self.sockets.frontends[frontend][0][bind][1].getsockname()[1]
        return port

    async def connect(self, frontend: str = "front", *, bind: int = 0, **how: Any) -> Peer:
        """A client's connection; `how` goes to `asyncio.open_connection`."""
        sock = self.sockets.frontends[frontend][0][bind][1]
        if sock.family == socket.AF_UNIX:
            streams = await asyncio.open_unix_connection(sock.getsockname(), limit=1 << 20)
        else:
            host = "::1" if sock.family == socket.AF_INET6 else "127.0.0.1"
            # Connected before this loop turns again: it may be reset as soon as it is accepted.
            own = socket.create_connection((host, self.port(frontend, bind)), PATIENCE, how.pop("local_addr", None))
            streams = await asyncio.open_connection(sock=own, limit=1 << 20, **how)
        self.clients.append(Peer(*streams))
        return self.clients[-1]

    async def pair(self, greeting: bytes = GET) -> tuple[Peer, Peer]:
        """A client that has sent `greeting`, and the server's connection that this led to."""
        client = await self.connect()
        await client.send(greeting)
        return client, await self.origin.accept()

    async def ask(self, client: Peer, server: Peer, request: bytes = GET, response: bytes = OK) -> bytes:
        """One request and its answer; what the server was sent."""
        await client.send(request)
        head = await server.head()
        await server.send(response)
        await client.expect(response)
        return head

    def counters(self, kind: Any, proxy: str, server: str = "") -> Counters:
        return self.worker._ledger[Entity(kind, proxy, server)]

    @property
    def front(self) -> Counters:
        return self.counters("frontend", "front")

    @property
    def back(self) -> Counters:
        return self.counters("backend", "back")

    def server(self, name: str = "s0") -> Counters:
        return self.counters("server", "back", name)

    async def decide(self, index: int, condition: Condition, **more: Any) -> None:
        """Decide of a server, in control's place."""
        state = ServerState(condition=condition, **({"weight": 1} | more))
        self.memory.board[index] = state
        ring(self.memory.worker_bells[0])
        await until(lambda: self.worker._servers[index].state == state, "the worker to hear of it")

    def pool(self) -> Pool:
        return self.worker._pools["back"]

    def idle(self, name: str = "s0") -> list[Any]:
        """Idle pooled connections of a server."""
        return next(server.idle for server in self.worker._servers if server.name == name)

    async def record(self) -> Any:
        """The next access record."""
        await until(lambda: self.records, "an access record")
        return self.records.pop(0)

    async def at_rest(self) -> None:
        """Every client has gone (and with TCP, where a half may stay, every server too), and all that is counted as
        going on is back to nothing."""
        ends = list(self.clients)
        if self.worker._config.frontends["front"].mode == "tcp":
            ends += (peer for origin in self.origins for peer in origin.peers)
        for end in ends:
            end.reset()
        gauges = [counters for entity, counters in self.worker._ledger._of.items() if entity.kind != "process"]
        gauges.append(self.worker._process)
        await until(lambda: not any(counters.scur for counters in gauges), "no session counted any more")
        await until(lambda: not self.worker._sweeper.members, "nobody left in the sweep")
        assert all(counters.scur >= 0 for counters in gauges)
        assert not any(server.sessions for server in self.worker._servers)


def http(count: int = 1, *, frontend: Any = None, backend: Any = None, server: Any = None, **defaults: Any) -> Any:
    """A configuration with one HTTP frontend before `count` servers s0, s1, … ."""
    return _house("http", count, frontend, backend, server, defaults)


def tcp(count: int = 1, *, frontend: Any = None, backend: Any = None, server: Any = None, **defaults: Any) -> Any:
    """A configuration with one TCP frontend before `count` servers s0, s1, … ."""
    return _house("tcp", count, frontend, backend, server, defaults)


def _house(mode: str, count: int, frontend: Any, backend: Any, server: Any, defaults: dict[str, Any]) -> dict[str, Any]:
    servers = {f"s{i}": {"address": f"127.0.0.1:{{{i}}}", "cookie": f"c{i}"} | (server or {}) for i in range(count)}
    if mode == "tcp":
        for config in servers.values():
            config.pop("cookie")
    return {
        "defaults": defaults,
        "frontends": {
            "front": {"mode": mode, "bind": "127.0.0.1:{front}", "default_backend": "back"} | (frontend or {})
        },
        "backends": {"back": {"servers": servers} | (backend or {})},
    }


@contextlib.asynccontextmanager
async def rig(config: dict[str, Any], origins: int | list[Origin] = 1) -> AsyncIterator[Rig]:
    """A running worker for `config`, in whose addresses `{0}`, `{1}`, … stand for the ports of new origins (or of
    those given), and `{front}` and `{other}` for free ports."""
    servers = [Origin() for _ in range(origins)] if isinstance(origins, int) else origins
    try:
        for server in servers:
            if not server.port and not server.path:
                await server.start()
        async with _worker(config, servers) as it:
            yield it
    finally:
        for server in servers:
            await server.stop()


@contextlib.asynccontextmanager
async def _worker(config: dict[str, Any], servers: list[Origin]) -> AsyncIterator[Rig]:
    ports = [server.port for server in servers]
    named = {"front": free_port(), "other": free_port()}
    plan = Plan.of(Config.model_validate(_filled(config, ports, named), strict=False), cores=1)
    memory = Memory(plan)
    memory.going[0] = 1
    for seat in plan.seats.values():
        weight = plan.config.backends[seat.backend].servers[seat.server].weight
        memory.board[seat.index] = ServerState(Condition.UP, weight=weight)
    sockets = Sockets.open(plan.config, 1)
    worker = Worker(plan, memory, 0, {name: of_worker[0] for name, of_worker in sockets.frontends.items()})
    it = Rig(worker, memory, sockets, servers)
    wanted = worker._log.writer
    worker._log.writer = lambda name: it.records.append if wanted(name) else None  # type: ignore[method-assign]
    it.running = asyncio.get_running_loop().create_task(worker._serve())
    try:
        await until(lambda: worker._ticks, "the worker")
        yield it
    finally:
        for server in servers:
            for peer in server.peers:
                peer.abort()
        for client in it.clients:
            client.reset()
        worker._stop()
        async with asyncio.timeout(PATIENCE):
            await it.running
        sockets.close()
        sockets.unlink()
        memory.close()


def free_port() -> int:
    """A port that nobody has, and that no outgoing connection gets (they begin at 32768)."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _filled(value: Any, ports: list[int], named: dict[str, int]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, ports, named) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(_filled(inner, ports, named) for inner in value)
    if isinstance(value, str) and "{" in value:
        return value.format(*ports, **named)
    return value
