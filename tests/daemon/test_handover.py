from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from pathlib import Path

import pytest
import uvloop

from balancer.algorithms import registry
from balancer.config import model
from balancer.daemon import handover
from balancer.daemon.handover import Giving, Taking
from balancer.daemon.memory import Succession, _line
from balancer.pool.backend import Backend
from balancer.pool.facts import Counters
from balancer.pool.orders import Condition, ServerState
from balancer.pool.server import Server
from balancer.proxy.udp import FlowForwarder


class Bench:
    """A listening socket, a server, two forwarders that could both listen, and the line between them."""

    def __init__(self, loop, *, flows: int) -> None:
        self.loop = loop
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sock.bind(("127.0.0.1", 0))
        self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.server.bind(("127.0.0.1", 0))
        self.line = Succession(*_line())
        self.old, self.new = self.forwarder(), self.forwarder()
        self.done: list[str] = []
        self.clients = []
        for _ in range(flows):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            client.connect(self.sock.getsockname())
            self.clients.append(client)

    def forwarder(self, *, port: int | None = None) -> FlowForwarder:
        address = f"127.0.0.1:{port or self.server.getsockname()[1]}"
        config = model.Backend.model_validate({"servers": {"s": {"address": address}}}, strict=False)
        counters = [Counters() for _ in range(3)]
        counters[1].total_times = [0] * 48
        server = Server("b", "s", config.servers["s"], counters[0])
        server.apply(ServerState(Condition.UP))
        algorithm = registry.create(config.balance, hash_type=config.hash_type, rng=random.Random(1), servers=1)
        backend = Backend("b", config, servers=[server], algorithm=algorithm, counters=counters[1], touched=[])
        return FlowForwarder(
            self.loop, [self.sock], frontend="u", backend=backend, counters=counters[2], timeout=30.0, max_flows=5000
        )

    async def all_have_asked(self) -> list[tuple[str, int]]:
        """Everybody sends one, one after the other; who the server thinks they are."""
        found = []
        for client in self.clients:
            client.send(b"x")
            found.append(await self.heard())
        return found

    async def heard(self) -> tuple[str, int]:
        """Who sent the next datagram to the server."""
        while True:
            try:
                return self.server.recvfrom(100)[1]
            except BlockingIOError:
                await asyncio.sleep(0.005)

    def hand_over(self) -> None:
        self.giving = Giving(self.loop, self.line.old, {"u": self.old}, lambda: self.done.append("old"))
        self.taking = Taking(self.loop, self.line.new, {"u": self.new}, lambda: self.done.append("new"))

    def close(self) -> None:
        for one in (self.old, self.new):
            one.close()
        self.line.close()
        for sock in (self.sock, self.server, *self.clients):
            sock.close()


def on_bench(main, *, flows: int = 3):
    async def run():
        bench = Bench(asyncio.get_running_loop(), flows=flows)
        try:
            async with asyncio.timeout(30):
                await main(bench)
        finally:
            bench.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("flows", [0, 1, 300])
def test_flows_go_on_where_they_are_handed_to(flows):
    async def main(bench):
        bench.old.start()
        before = await bench.all_have_asked()
        bench.hand_over()
        await until(lambda: sorted(bench.done) == ["new", "old"])
        assert (bench.old.outstanding, bench.new.outstanding) == (0, flows)
        bench.new.start()
        # The same sockets to the server: it does not notice.
        assert sorted(await bench.all_have_asked()) == sorted(before)
        for at in before:
            bench.server.sendto(b"answer", at)
        for client in bench.clients:
            assert await bench.loop.sock_recv(client, 100) == b"answer"

    on_bench(main, flows=flows)


def test_what_comes_in_between_waits():
    async def main(bench):
        bench.old.start()
        before = await bench.all_have_asked()
        bench.hand_over()
        for client in bench.clients:
            client.send(b"y")
        await until(lambda: len(bench.done) == 2)
        bench.new.start()
        assert sorted([await bench.heard() for _ in bench.clients]) == sorted(before)

    on_bench(main)


def test_a_server_that_is_no_more_loses_its_flows():
    async def main(bench):
        bench.new = bench.forwarder(port=9)
        bench.old.start()
        await bench.all_have_asked()
        before = open_files()
        bench.hand_over()
        await until(lambda: len(bench.done) == 2)
        assert bench.new.outstanding == bench.old.outstanding == 0
        # Three sockets to the server, and both ends of the line.
        assert open_files() == before - 5

    on_bench(main)


@pytest.mark.parametrize("who", ["old", "new"])
def test_whoever_is_not_there_is_not_waited_for(who, monkeypatch):
    monkeypatch.setattr(handover, "_PATIENCE", 0.3)

    async def main(bench):
        bench.old.start()
        await bench.all_have_asked()
        if who == "old":
            bench.line.old.close()
            bench.taking = Taking(bench.loop, bench.line.new, {"u": bench.new}, lambda: bench.done.append("new"))
        else:
            bench.giving = Giving(bench.loop, bench.line.old, {"u": bench.old}, lambda: bench.done.append("old"))
        await until(lambda: len(bench.done) == 1)
        if who == "new":
            assert bench.old.outstanding == 3, "it keeps what nobody takes"

    on_bench(main)


@pytest.mark.parametrize("asked", [b"", b"{", b"[]", b"7", b'{"u": 5}', b'{"nobody": ["x"]}', b"\xff"])
def test_nonsense_hands_nothing_over(asked):
    async def main(bench):
        bench.old.start()
        await bench.all_have_asked()
        bench.giving = Giving(bench.loop, bench.line.old, {"u": bench.old}, lambda: bench.done.append("old"))
        bench.line.new.send(asked)
        await until(lambda: bench.done)
        assert bench.old.outstanding == 3

    on_bench(main)


def test_the_last_who_asked_gets_them():
    """Those before it came to nothing."""

    async def main(bench):
        bench.old.start()
        before = await bench.all_have_asked()
        bench.line.new.send(json.dumps({"elsewhere": ["x"]}).encode())
        bench.taking = Taking(bench.loop, bench.line.new, {"u": bench.new}, lambda: bench.done.append("new"))
        bench.giving = Giving(bench.loop, bench.line.old, {"u": bench.old}, lambda: bench.done.append("old"))
        await until(lambda: len(bench.done) == 2)
        bench.new.start()
        assert await bench.all_have_asked() == before

    on_bench(main)


def test_one_that_dies_in_the_middle_keeps_nobody_from_going_on():
    async def main(bench):
        bench.old.start()
        await bench.all_have_asked()
        bench.taking = Taking(bench.loop, bench.line.new, {"u": bench.new}, lambda: bench.done.append("new"))
        assert json.loads(bench.line.old.recv(1000)) == {"u": [repr(bench.sock.getsockname())]}
        bench.line.old.close()
        await until(lambda: bench.done)

    on_bench(main)


def test_flows_of_another_place_stay():
    """The listener is gone from the configuration: answers still come."""

    async def main(bench):
        bench.old.start()
        await bench.all_have_asked()
        bench.giving = Giving(bench.loop, bench.line.old, {"u": bench.old}, lambda: bench.done.append("old"))
        bench.line.new.send(json.dumps({"u": ["('192.0.2.1', 5)"]}).encode())
        with contextlib.suppress(BlockingIOError):
            bench.line.new.recv(1000)
        await until(lambda: bench.done)
        assert bench.old.outstanding == 3

    on_bench(main)
