"""A worker on this test's own loop, with servers and clients written by the test octet for octet."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
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


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine on the loop that workers use; whatever the loop would only log fails the test."""
    complaints: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(60):
            await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(watched())
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

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

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

    async def is_reset(self) -> bool:
        """Whether the connection ends by a reset."""
        try:
            await self.rest()
        except ConnectionResetError:
            return True
        return False

    def half_close(self) -> None:
        self.writer.write_eof()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def abort(self) -> None:
        self.writer.transport.abort()


class Origin:
    """A listening server; the test takes its connections one by one."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[Peer] = asyncio.Queue()
        self._peers: list[Peer] = []
        self._server: asyncio.Server

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", port, limit=1 << 20)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self._peers.append(peer)
        self._arrived.put_nowait(peer)

    async def accept(self) -> Peer:
        async with asyncio.timeout(PATIENCE):
            return await self._arrived.get()

    @property
    def waiting(self) -> int:
        """Connections that nobody has taken yet."""
        return self._arrived.qsize()

    async def stop(self) -> None:
        self._server.close()
        for peer in self._peers:
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

    def port(self, frontend: str) -> int:
        port: int = self.sockets.frontends[frontend][0][0][1].getsockname()[1]
        return port

    async def connect(self, frontend: str = "front") -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port(frontend), limit=1 << 20))
        self.clients.append(peer)
        return peer

    def counters(self, kind: Any, proxy: str, server: str = "") -> Counters:
        return self.worker._ledger[Entity(kind, proxy, server)]

    def set_state(self, index: int, condition: Condition, **more: Any) -> None:
        """Decide of a server, in control's place."""
        self.memory.board[index] = ServerState(condition=condition, **({"weight": 1} | more))
        ring(self.memory.worker_bells[0])

    def pools(self) -> dict[str, Pool]:
        return self.worker._pools

    async def record(self) -> Any:
        """The next access record."""
        await until(lambda: self.records, "an access record")
        return self.records.pop(0)


@contextlib.asynccontextmanager
async def rig(config: dict[str, Any], origins: int = 1) -> AsyncIterator[Rig]:
    """A running worker for `config`, in whose addresses `{0}`, `{1}`, … stand for the ports of new origins."""
    servers = [Origin() for _ in range(origins)]
    for server in servers:
        await server.start()
    ports = [server.port for server in servers]
    plan = Plan.of(Config.model_validate(_filled(config, ports), strict=False), cores=1)
    memory = Memory(plan)
    for seat in plan.seats.values():
        weight = plan.config.backends[seat.backend].servers[seat.server].weight
        memory.board[seat.index] = ServerState(Condition.UP, weight=weight)
    sockets = Sockets.open(plan.config, 1)
    worker = Worker(plan, memory, 0, {name: of_worker[0] for name, of_worker in sockets.frontends.items()})
    it = Rig(worker, memory, sockets, servers)
    worker._log.write = it.records.append  # type: ignore[assignment]
    task = asyncio.get_running_loop().create_task(worker._serve())
    try:
        yield it
    finally:
        for client in it.clients:
            client.abort()
        for server in servers:
            await server.stop()
        worker._stop()
        async with asyncio.timeout(PATIENCE):
            await task
        sockets.close()
        sockets.unlink()


def _filled(value: Any, ports: list[int]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, ports) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, ports) for inner in value]
    if isinstance(value, str) and "{" in value:
        return value.format(*ports)
    return value
