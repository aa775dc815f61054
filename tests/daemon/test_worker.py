from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvloop

from balancer.daemon.control import initialise
from balancer.daemon.memory import ring
from balancer.daemon.sockets import Sockets
from balancer.daemon.worker import Worker
from balancer.observe.log import AccessLog
from balancer.pool.facts import Entity, Sums
from balancer.pool.orders import Condition, ServerState
from tests.daemon.conftest import talks
from tests.e2e.bed.process import free_port, until

PROCESS, SERVER = Entity("process", ""), Entity("server", "b", "s0")


class Bench:
    """A worker on this test's loop."""

    def __init__(self, plan, memory, sockets) -> None:
        self.plan, self.memory, self.sockets = plan, memory, sockets
        self.worker = self.new()

    def new(self) -> Worker:
        """A worker in the place of the one before it, if there was one."""
        own = {name: of_worker[0] for name, of_worker in self.sockets.frontends.items()}
        return Worker(self.plan, self.memory, 0, own)

    @property
    def backend(self):
        return self.worker._backends["b"]

    def decide(self, index: int, condition: Condition) -> None:
        self.memory.board[index] = ServerState(condition)
        ring(self.memory.worker_bells[0])

    def sums(self, entity: Entity) -> dict[str, int]:
        return Sums.read(self.memory.blocks, self.plan.layout)[entity].counters


@pytest.fixture
def bench(plan, memory):
    """bench(servers=3): a worker whose servers' states are UNKNOWN."""
    opened = []

    def make(*, servers: int = 3, backend=None, port=None, **of_all) -> Bench:
        named = {f"s{i}": {"address": f"127.0.{i // 250}.{i % 250 + 1}:9"} for i in range(servers)}
        front = {"mode": "tcp", "bind": f"127.0.0.1:{port or free_port()}", "default_backend": "b"}
        check = {"check": {"type": "tcp"}, **(backend or {})}
        made = plan({"global": of_all, "frontends": {"f": front}, "backends": {"b": {**check, "servers": named}}})
        shared = memory(made)
        shared.going[0] = 1
        initialise(made, shared)
        opened.append(Sockets.open(made.config, made.workers))
        return Bench(made, shared, opened[-1])

    yield make
    for sockets in opened:
        sockets.close()


def on_loop(main):
    """Run a coroutine function on the loop that workers use; whatever the loop could only log fails the test."""
    complaints = []

    async def watched():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(60):
            await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(watched())
    assert not complaints


@contextlib.asynccontextmanager
async def at_work(worker: Worker):
    task = asyncio.get_running_loop().create_task(worker._serve())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        worker._stop()
        await task


async def soon(condition, what: str = "the condition") -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


# The board


def test_it_knows_the_servers_before_it_accepts_anybody(bench):
    it = bench()
    it.memory.board[0] = ServerState(Condition.DOWN)
    it.memory.board[2] = ServerState(Condition.UP)

    async def main():
        async with at_work(it.worker):
            assert [server.name for server in it.backend.usable] == ["s2"]

    on_loop(main)


def test_a_decision_is_taken_over_when_the_bell_rings(bench):
    it = bench()

    async def main():
        async with at_work(it.worker):
            it.decide(1, Condition.UP)
            await soon(lambda: [server.name for server in it.backend.usable] == ["s1"])
            it.decide(1, Condition.DOWN)
            it.decide(0, Condition.UP)
            await soon(lambda: [server.name for server in it.backend.usable] == ["s0"])

    on_loop(main)


def test_a_bell_rung_while_nobody_was_there_is_heard(bench):
    """By the worker in the place of a dead one; and it has read the board before."""
    it = bench()
    it.decide(1, Condition.UP)

    async def main():
        async with at_work(it.worker):
            assert [server.name for server in it.backend.usable] == ["s1"]
            await soon(lambda: not select.select([it.memory.worker_bells[0]], [], [], 0)[0], "an answer to the bell")

    on_loop(main)


def test_sessions_of_a_server_that_went_down_are_ended_where_it_is_written(bench):
    it = bench()
    ended = []

    class Session:
        def kill(self, termination: str) -> None:
            ended.append(termination)

    async def main():
        async with at_work(it.worker):
            it.decide(0, Condition.UP)
            await soon(lambda: it.backend.usable)
            it.worker._servers[0].sessions.add(Session())
            it.decide(1, Condition.DOWN)
            it.decide(0, Condition.DOWN)
            await soon(lambda: ended)
            ring(it.memory.worker_bells[0])
            await soon(lambda: not select.select([it.memory.worker_bells[0]], [], [], 0)[0])
            assert ended == ["D"]

    on_loop(main)


def test_no_server_at_all_is_no_trouble(plan, memory, bench):
    it = bench()

    async def main():
        async with at_work(it.worker):
            it.worker._servers.clear()
            ring(it.memory.worker_bells[0])
            await asyncio.sleep(0.05)

    on_loop(main)


def test_servers_that_flap_all_the_time_leave_the_worker_time_for_its_traffic(bench):
    """Five thousand of them, and a change every millisecond."""
    it = bench(servers=5000, backend={"balance": "maglev"})
    reads = []

    async def main():
        async with at_work(it.worker):
            for index in range(5000):
                it.memory.board[index] = ServerState(Condition.UP)
            ring(it.memory.worker_bells[0])
            await soon(lambda: len(it.backend.usable) == 5000)
            refresh = it.worker._backends["b"].refresh

            def timed():
                began = time.perf_counter()
                refresh()
                reads.append(time.perf_counter() - began)

            it.worker._backends["b"] = type("B", (), {"refresh": staticmethod(timed)})
            began = time.perf_counter()
            conditions = (Condition.DOWN, Condition.UP)
            # At first it may pause for long: it has just read five thousand changes.
            while time.perf_counter() - began < 2 or len(reads) < 2:
                it.decide(17, conditions[len(reads) % 2])
                await asyncio.sleep(0.001)
            print(f"{len(reads)} times, {1000 * sum(reads) / len(reads):.1f} ms each")
            assert sum(reads) < 0.3 * (time.perf_counter() - began)
            it.decide(17, Condition.DOWN)
            await soon(lambda: it.worker._servers[17].state.condition is Condition.DOWN, "the last word")

    on_loop(main)


def test_a_bell_for_a_board_on_which_nothing_changed_costs_next_to_nothing(bench):
    it = bench(servers=5000)

    async def main():
        async with at_work(it.worker):
            began = time.process_time()
            for _ in range(100):
                it.worker._read_board()
            each = (time.process_time() - began) / 100
            print(f"{1e6 * each:.0f} us")
            assert each < 0.002

    on_loop(main)


# What it counts


def test_a_server_that_fails_is_told_to_control_once(bench):
    it = bench()

    def rung() -> bool:
        if not select.select([it.memory.control_bell], [], [], 0)[0]:
            return False
        os.eventfd_read(it.memory.control_bell)
        return True

    async def main():
        async with at_work(it.worker):
            server = it.worker._servers[0]
            it.worker._flush()
            assert not rung()
            it.backend.take(server)
            it.worker._flush()
            assert not rung(), "a connection is no failure"
            server.counters.wretr += 1
            it.worker._flush()
            assert rung()
            it.worker._flush()
            assert not rung()
            server.counters.econ += 1
            it.backend.release(server)
            it.worker._flush()
            assert rung()
            assert it.sums(SERVER)["econ"] == 1

    on_loop(main)


class LosingLog(AccessLog):
    """As if its targets had taken less than there was."""

    lost = 0

    @property
    def dropped(self) -> int:
        return self.lost


def test_in_a_dead_ones_place_it_goes_on_counting(bench):
    it = bench()

    async def first():
        async with at_work(it.worker):
            it.worker._log.__class__ = LosingLog
            it.worker._log.lost = 3
            it.backend.take(it.worker._servers[0])
            it.worker._flush()
            # It dies here: nobody releases the session.
            it.backend.take(it.worker._servers[0])

    on_loop(first)
    assert it.sums(PROCESS)["log_dropped"] == 3
    it.worker = it.new()

    async def second():
        async with at_work(it.worker):
            assert it.sums(SERVER)["stot"] == 2
            assert it.sums(SERVER)["scur"] == 0
            it.worker._log.__class__ = LosingLog
            it.worker._log.lost = 2
            it.worker._flush()
            assert it.sums(PROCESS)["log_dropped"] == 5

    # The sockets of the first are closed; a worker in its place has its own from the supervisor.
    it.worker._sockets.clear()
    it.worker._build = lambda loop: [  # type: ignore[method-assign]
        it.worker._backends.setdefault(name, it.worker._backend(name, config, None))
        for name, config in it.plan.config.backends.items()
    ]
    on_loop(second)


def test_its_heart_beats_while_it_works(bench):
    it = bench()

    async def main():
        async with at_work(it.worker):
            await soon(lambda: it.sums(PROCESS)["heartbeat"])
            first = it.sums(PROCESS)["heartbeat"]
            assert abs(time.monotonic() - first / 1e6) < 5
            await soon(lambda: it.sums(PROCESS)["heartbeat"] > first)

    on_loop(main)
    assert it.sums(PROCESS)["heartbeat"] == 0, "and does not stop as if it hung"


def test_what_it_held_is_not_counted_once_it_has_ended(bench):
    """Over a reload its numbers go on counting, beside those of the worker that came after it."""
    it = bench()

    async def main():
        async with at_work(it.worker):
            server = it.worker._servers[0]
            it.backend.take(server)
            server.idle.append(SimpleNamespace(idle_since=math.inf, close=lambda: None))
            await soon(lambda: it.sums(SERVER)["srv_icur"] == 1 == it.sums(SERVER)["scur"])

    on_loop(main)
    assert (it.sums(SERVER)["srv_icur"], it.sums(SERVER)["scur"], it.sums(SERVER)["stot"]) == (0, 0, 1)


def test_its_tasks_are_counted_as_long_as_it_is_there(bench):
    it = bench()

    async def main():
        async with at_work(it.worker):
            await soon(lambda: it.sums(PROCESS)["tasks"])
            before = it.sums(PROCESS)["tasks"]
            more = [asyncio.create_task(asyncio.Event().wait()) for _ in range(3)]
            await soon(lambda: it.sums(PROCESS)["tasks"] == before + 3)
            for task in more:
                task.cancel()
            await soon(lambda: it.sums(PROCESS)["tasks"] == before)

    on_loop(main)
    assert it.sums(PROCESS)["tasks"] == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_it_may_have_all_connections_but_takes_them_a_few_at_a_time(bench, workers):
    it = bench(maxconn=100, workers=workers)

    async def main():
        async with at_work(it.worker):
            (gate,) = it.worker._gates
            assert (gate.share.limit, gate.process_share.limit) == (0, 0)
            while gate.process_share.extend(1):
                pass
            assert gate.process_share.limit == 100
            await soon(lambda: gate.process_share.limit < 20)

    on_loop(main)


# The log


class Sink:
    """A log with records to write, that takes so many at a time."""

    dropped = 0

    def __init__(self, waiting: int, takes: int) -> None:
        self.waiting, self.takes = waiting, takes
        self.calls: list[int] = []

    def flush(self, limit: int | None = None) -> int:
        done = self.waiting if limit is None else min(limit, self.waiting, self.takes)
        if limit != 0:
            self.calls.append(done)
        self.waiting -= done
        return self.waiting


def test_a_long_log_is_written_in_pieces_with_turns_for_the_traffic(bench):
    it = bench()
    log = it.worker._log = Sink(10_000, takes=10_000)  # type: ignore[assignment]
    turns = []

    async def main():
        loop = asyncio.get_running_loop()
        it.worker._write_log(loop)
        while log.waiting:
            turns.append(log.waiting)
            await asyncio.sleep(0)

    on_loop(main)
    assert max(log.calls) <= 256
    assert len(turns) > 30


def test_a_log_that_takes_no_more_is_left_until_the_next_tick(bench):
    it = bench()
    log = it.worker._log = Sink(10_000, takes=100)  # type: ignore[assignment]

    async def main():
        it.worker._write_log(asyncio.get_running_loop())
        await asyncio.sleep(0.01)

    on_loop(main)
    assert log.calls == [100]


# The end


@pytest.mark.parametrize("turns", range(8))
def test_stopped_while_it_still_opens_its_listeners(plan, memory, turns):
    binds = tuple(f"127.0.0.1:{free_port()}" for _ in range(8))
    made = plan({"frontends": {"f": {"mode": "tcp", "bind": binds, "default_backend": "b"}}})
    shared = memory(made)
    shared.going[0] = 1
    initialise(made, shared)
    sockets = Sockets.open(made.config, 1)
    worker = Worker(made, shared, 0, {name: of_worker[0] for name, of_worker in sockets.frontends.items()})

    async def main():
        task = asyncio.get_running_loop().create_task(worker._serve())
        for _ in range(turns + 1):
            await asyncio.sleep(0)
        worker._stop()
        await task

    on_loop(main)
    sockets.close()


def test_a_wall_clock_that_is_set_back_or_forth_ends_nothing_early_or_late(bench, monkeypatch):
    """Deadlines are of the clock that nobody sets; records tell the time of day."""
    it = bench()
    real = time.time

    async def main():
        async with at_work(it.worker):
            swept = []
            it.worker._sweeper.members.add(
                type("M", (), {"deadline": it.worker._clock.now + 0.5, "expire": lambda self, now: swept.append(now),
                               "report": lambda self: None, "finish_up": lambda self: None,
                               "kill": lambda self, code: it.worker._sweeper.members.clear()})()
            )  # fmt: skip
            began = time.monotonic()
            for step in (-3600, 3600, -30):
                monkeypatch.setattr(time, "time", lambda s=step: real() + s)
                await asyncio.sleep(0.05)
            assert not swept
            await soon(lambda: swept)
            assert 0.4 < time.monotonic() - began < 5
            it.worker._sweeper.members.clear()

    on_loop(main)


# In the daemon

CONFIG = """
global: {workers: 1}
frontends:
  f: {mode: tcp, bind: "127.0.0.1:${port}", default_backend: b}
backends:
  b: {check: {type: tcp, interval: 100ms}, servers: {s: {address: "127.0.0.1:${server}"}}}
"""


def cpu(pid: int) -> float:
    utime, stime = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(utime) + int(stime)) / os.sysconf("SC_CLK_TCK")


def test_out_of_descriptors_it_neither_spins_nor_fills_the_log_and_recovers(balancer, echo):
    running = balancer(CONFIG, server=echo.port)
    running.process.wait_until(lambda: talks(running.ports["port"]) and running.workers, "it serves")
    (worker,) = running.workers
    before = len(running.log)
    held = len(list(Path(f"/proc/{worker}/fd").iterdir()))
    subprocess.run(["prlimit", "--pid", str(worker), f"--nofile={held + 20}:"], check=True)
    clients = []
    try:
        for _ in range(100):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", running.ports["port"]))
            clients.append(client)
        began, spent = time.monotonic(), cpu(worker)
        time.sleep(2)
        took, spent = time.monotonic() - began, cpu(worker) - spent
        print(f"{100 * spent / took:.1f} % of a core, {len(running.log) - before} lines")
        assert spent / took < 0.2
        # Refused connections are records like others; what is said of the shortage itself is counted here.
        events = [line for line in running.log[before:] if re.match(r"\[\S+\] [A-Z]+: ", line)]
        assert len(events) <= 5 * took, events[:20]
        # Checks are made by another process.
        echo.stop()
        running.wait_for_line("ALERT: Server b/s is DOWN", after=before)
    finally:
        for client in clients:
            client.close()
    subprocess.run(["prlimit", "--pid", str(worker), "--nofile=5000:"], check=True)
    again = type(echo)(echo.port)
    try:
        running.wait_for_line("NOTICE: Server b/s is UP", after=before)
        until(lambda: talks(running.ports["port"], within=1.5), "it serves again", within=5)
        assert running.workers == [worker]
    finally:
        again.stop()


def test_told_to_end_by_somebody_else_it_is_replaced(balancer, echo):
    running = balancer(CONFIG, server=echo.port)
    running.process.wait_until(lambda: talks(running.ports["port"]) and running.workers, "it serves")
    (worker,) = running.workers
    os.kill(worker, signal.SIGTERM)
    running.wait_for_line("worker 0 ended with status 0, starting another")
    until(lambda: running.workers not in ([], [worker]) and talks(running.ports["port"]), "it serves again")


# A reload


def test_it_takes_nobody_before_it_is_told_to(bench):
    it = bench()
    it.memory.going[0] = 0
    it.memory.board[0] = ServerState(Condition.UP)
    ((_, sock),) = it.sockets.frontends["f"][0]
    address = sock.getsockname()

    async def main():
        async with at_work(it.worker):
            await soon(lambda: it.sums(PROCESS)["heartbeat"])
            with socket.create_connection(address):
                await asyncio.sleep(0.2)
                assert it.sums(PROCESS)["conn_tot"] == 0
                it.memory.go()
                await soon(lambda: it.sums(PROCESS)["conn_tot"] == 1)

    on_loop(main)


def test_its_heart_beats_at_once(bench):
    """Those who wait for it to be ready need not wait for a tick."""
    it = bench()

    async def main():
        began = time.monotonic()
        async with at_work(it.worker):
            await asyncio.sleep(0)
            assert it.sums(PROCESS)["heartbeat"] * 1e-6 >= began

    on_loop(main)


def test_told_to_end_at_once_it_waits_for_nobody(bench):
    it = bench()

    async def main():
        task = asyncio.get_running_loop().create_task(it.worker._serve())
        await asyncio.sleep(0.05)
        it.worker._make_way()
        assert it.worker._stop_at > time.monotonic()
        until_then = it.worker._stop_at
        it.worker._stop()
        assert it.worker._stop_at == until_then, "what is in flight has its time all the same"
        it.worker._end_at_once()
        assert it.worker._stop_at == 0.0
        async with asyncio.timeout(5):
            await task

    on_loop(main)
