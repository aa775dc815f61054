"""A backend in memory, and sockets of the test's own on both sides of a forwarder."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvloop

from balancer.addr import Address
from balancer.algorithms.base import Algorithm
from balancer.config import model
from balancer.pool.backend import Backend
from balancer.pool.facts import BUCKETS, Counters
from balancer.pool.orders import Condition, ServerState
from balancer.pool.records import UdpRecord
from balancer.pool.server import Server

PATIENCE = 10.0


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run on the loop that workers use; what the loop would only log fails the test."""
    complaints: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        try:
            async with asyncio.timeout(60):
                await main()
        finally:
            while _opened:
                _opened.pop().close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(watched())
    assert not complaints


async def until(condition: Callable[[], Any]) -> None:
    """Wait until `condition()` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.002)


_opened: list[Any] = []
"""Closed when the test is over, however it ends."""


class Udp:
    """A UDP socket that the test reads and writes itself."""

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, connect: Any = None, both_families: bool = False
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        _opened.append(self)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        if family == socket.AF_INET6:
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both_families)
        self.sock.bind((host, port))
        if connect is not None:
            self.sock.connect(connect)

    @property
    def address(self) -> Any:
        return self.sock.getsockname()

    @property
    def port(self) -> int:
        port: int = self.sock.getsockname()[1]
        return port

    def send(self, data: bytes, to: Any = None) -> None:
        if to is None:
            self.sock.send(data)
        else:
            self.sock.sendto(data, to)

    async def take(self) -> tuple[bytes, Any]:
        """The next datagram and its sender."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return self.sock.recvfrom(65535)
                except BlockingIOError:
                    await self.readable()

    async def readable(self) -> None:
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        loop.add_reader(self.sock.fileno(), arrived.set)
        try:
            await arrived.wait()
        finally:
            loop.remove_reader(self.sock.fileno())

    async def recv(self) -> bytes:
        return (await self.take())[0]

    def is_silent(self) -> bool:
        """Nothing has come that was not taken."""
        try:
            self.sock.recvfrom(65535)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self.sock.close()


def closed_port() -> tuple[str, int]:
    """Where nobody listens."""
    udp = Udp()
    address = udp.address
    udp.close()
    return address  # type: ignore[no-any-return]


class InTurn(Algorithm[Server]):
    """The servers in turn, exactly."""

    def __init__(self, needs: str = "") -> None:
        self.needs = needs  # type: ignore[misc,assignment]
        self.servers: list[Server] = []
        self.keys: list[bytes] = []
        self._next = 0

    def rebuild(self, servers: Any) -> None:
        self.servers = list(servers)

    def pick(self, key: bytes = b"", avoid: Server | None = None) -> Server | None:
        self.keys.append(key)
        choice = [server for server in self.servers if server is not avoid] or self.servers
        self._next += 1
        return choice[(self._next - 1) % len(choice)] if choice else None


def backend(*addresses: tuple[Any, ...], needs: str = "") -> Backend:
    """A backend of servers s0, s1, … at these socket addresses, all of them up."""
    configs = {f"s{i}": model.Server(address=Address(a[0], a[1])) for i, a in enumerate(addresses)}
    servers = [Server("names", name, config, Counters(), i) for i, (name, config) in enumerate(configs.items())]
    for server in servers:
        server.apply(ServerState(condition=Condition.UP))
    counters = Counters()
    counters.response_times = [0] * BUCKETS
    counters.total_times = [0] * BUCKETS
    config = model.Backend(servers=configs)
    return Backend("names", config, servers=servers, algorithm=InTurn(needs), counters=counters, touched=[])


@dataclass
class Time:
    """A clock that the test moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    """A forwarder with its clock, counters and records."""

    forwarder: Any
    listeners: list[Udp]
    backend: Backend
    counters: Counters
    clock: Time
    records: list[UdpRecord] = field(default_factory=list)

    def client(self, host: str = "127.0.0.1", *, to: int = 0) -> Udp:
        return Udp(host, connect=self.listeners[to].address)

    def later(self, seconds: float) -> None:
        """Let time pass and have the forwarder look at its clock."""
        self.clock.now += seconds
        self.forwarder.sweep(self.clock.now)

    def down(self, index: int) -> None:
        self.backend.servers[index].apply(ServerState(condition=Condition.DOWN))
        self.backend.refresh()

    def close(self) -> None:
        """End it; whatever it took it has given back."""
        self.forwarder.close()
        assert self.forwarder.outstanding == 0
        assert self.backend.counters.scur == 0
        assert all(server.counters.scur == 0 for server in self.backend.servers)
        for listener in self.listeners:
            listener.close()


def house(kind: Any, backend: Backend, *, binds: Sequence[str | Udp] = ("127.0.0.1",), **settings: Any) -> House:
    """A forwarder that listens."""
    clock = Time()
    counters = Counters()
    records: list[UdpRecord] = []
    listeners = [Udp(bind) if isinstance(bind, str) else bind for bind in binds]
    forwarder = kind(
        asyncio.get_running_loop(),
        [listener.sock for listener in listeners],
        frontend="front",
        backend=backend,
        counters=counters,
        clock=clock,
        wall=lambda: 1_700_000_000.0,
        **({"timeout": 2.0, "max_flows": 65536, "log": records.append} | settings),
    )
    _opened.append(forwarder)
    forwarder.start()
    return House(forwarder, listeners, backend, counters, clock, records)


class Faulty:
    """Stands for a socket's `send` and fails as told."""

    def __init__(self, code: int) -> None:
        self.error = OSError(code, errno.errorcode[code])

    def __call__(self, *_: Any) -> int:
        raise self.error
