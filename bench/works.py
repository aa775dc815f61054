"""What is measured. Each work says how one round of it goes; `cost` repeats the rounds and `report` sums them up."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal

import procfs
import stats
from balancers import Contestant, Frontend, Mode, Task
from load import UPLOAD, Load, Pace, Tally, download, idle_connections
from rig import BALANCER_CORE, BenchError, Process, free_port, open_files, wait_for
from servers import BIG_BODY, fetch
from stand import READY_WITHIN, Bench, Kind

__all__ = ["WORKS", "Requests", "Row", "Sample", "Target", "Work"]

WINDOW = 1
# Of what a balancer could do at most; for so many seconds at a time.
SATURATION = 0.7
PACED = 4.0
# Enough that the kernel's dice spread them evenly over two workers.
MANY_CLIENTS = 512
# Or as many as the limit of open files allows.
IDLE_CONNECTIONS = 8000
SPARE_FILES = 1500
WARM_CONNECTIONS = 100
# Memory counts as settled once two readings this far apart differ by no more than this.
SETTLE_EVERY = 0.5
SETTLED_KIB = 64
SETTLE_WITHIN = 10.0
REST = 3.0
MIB = 1024


@dataclass(frozen=True)
class Target:
    """What pybalancer is held to."""

    least_ratio: float | None = None
    least: float | None = None
    most: float | None = None

    def is_met(self, ours: float, ratio: float) -> bool:
        return (
            (self.least_ratio is None or ratio >= self.least_ratio)
            and (self.least is None or ours >= self.least)
            and (self.most is None or ours <= self.most)
        )

    def __str__(self) -> str:
        if self.least_ratio is not None:
            return f"ratio >= {self.least_ratio:g}"
        return f"<= {self.most:g}" if self.most is not None else f">= {self.least:g}"


@dataclass(frozen=True)
class Row:
    """One figure of a work, a line of the table."""

    label: str
    unit: str
    key: str
    """Its name in the samples."""
    summary: Callable[[Sequence[float]], float]
    better: Literal["lower", "higher"] = "lower"
    target: Target | None = None


@dataclass(frozen=True)
class Sample:
    """One measurement of one contestant."""

    contestant: str
    values: Mapping[str, float]
    """A value for each row of the work, and whatever else is good to know in the JSON."""
    failed: int = 0


@dataclass(frozen=True)
class Requests:
    """CPU time per request under load. All contestants run side by side, one at a time under load, in short turns."""

    name: str
    mode: Mode
    rows: tuple[Row, ...]
    reference: Kind = "haproxy"
    close: bool = False
    reuse: Literal["safe", "always"] = "safe"
    log: bool = False
    path: str = "/"
    cookie: bool = False
    """Whether clients hold the cookie of the first server."""
    rounds: int = 6
    windows: int = 4

    @property
    def tools(self) -> tuple[str, ...]:
        return ("named", "dnsperf") if self.mode == "udp" else ("nginx", "wrk")

    def round(self, bench: Bench, number: int) -> list[Sample]:
        contestants = stats.order(bench.contestants[self.reference], number)
        with socket.socket(type=socket.SOCK_DGRAM) as sink:
            sink.bind(("127.0.0.1", 0))
            sink.setblocking(False)
            task = Task(frontends=(), reuse=self.reuse, log_port=sink.getsockname()[1] if self.log else None)
            return self._side_by_side(bench, contestants, task, sink)

    def _side_by_side(
        self, bench: Bench, contestants: Sequence[Contestant], task: Task, sink: socket.socket
    ) -> list[Sample]:
        with ExitStack() as stack:
            frontends: dict[str, Frontend] = {}
            processes: dict[str, Process] = {}
            for contestant in contestants:
                frontend = frontends[contestant.name] = bench.frontend(self.mode)
                own = replace(task, frontends=(frontend,))
                processes[contestant.name] = stack.enter_context(bench.running(contestant, own))
                self._drive(bench.load, frontend)  # warm
            samples = []
            for contestant in stats.turns(contestants, self.windows):
                drain(sink)
                name = contestant.name
                samples.append(self._sample(bench.load, name, processes[name], frontends[name]))
                if self.log and not drain(sink):
                    raise BenchError(f"{contestant.name} logged nothing")
        return samples

    def _drive(self, load: Load, frontend: Frontend) -> Tally:
        if self.mode == "udp":
            return load.dns(frontend.port, WINDOW)
        cookie = f"SERVERID={frontend.named_servers[0][0]}" if self.cookie else None
        return load.http(frontend.port, WINDOW, close=self.close, path=self.path, cookie=cookie)

    def _sample(self, load: Load, name: str, process: Process, frontend: Frontend) -> Sample:
        core_before, began, cpu_before = procfs.core_time(BALANCER_CORE), time.monotonic(), cpu_by_pid(process)
        tally = self._drive(load, frontend)
        cpu_after, seconds, core_after = cpu_by_pid(process), time.monotonic() - began, procfs.core_time(BALANCER_CORE)
        if not cpu_before.keys() <= cpu_after.keys():
            raise BenchError(f"a process of {name} ended under load: {process.last_words()}")
        if not tally.requests:
            raise BenchError(f"{name} completed no request")
        cpu = sum(cpu_after.values()) - sum(cpu_before.values())
        busy, steal = core_after.share_since(core_before)
        values = {
            "cpu_us": cpu / 1000 / tally.requests,
            "rate": tally.requests / tally.seconds,
            "share": cpu / 1e9 / seconds,
            "core_busy": busy,
            "core_steal": steal,
            "p50_us": tally.p50_us,
        }
        if tally.p99_us is not None:
            values["p99_us"] = tally.p99_us
        return Sample(name, values, tally.failed)


def cpu_by_pid(process: Process) -> dict[int, int]:
    return {pid: procfs.cpu_ns([pid]) for pid in process.pids()}


def drain(sink: socket.socket) -> int:
    """Datagrams that were waiting, now thrown away."""
    count = 0
    while True:
        try:
            sink.recv(65536)
        except BlockingIOError:
            return count
        count += 1


@dataclass(frozen=True)
class IdleMemory:
    """Private memory per idle connection, each kind in a process of its own."""

    name: str = "idle-memory"
    reference: Kind = "haproxy"
    rounds: int = 3
    tools: tuple[str, ...] = ("nginx",)
    rows: tuple[Row, ...] = (
        Row("tcp, both sides", "KiB", "tcp", stats.median, target=Target(most=6)),
        Row("http client", "KiB", "http", stats.median, target=Target(most=2)),
    )

    def round(self, bench: Bench, number: int) -> list[Sample]:
        modes: tuple[Mode, ...] = ("tcp", "http")
        return [
            Sample(contestant.name, {mode: self._measure(bench, contestant, mode) for mode in modes})
            for contestant in stats.order(bench.contestants[self.reference], number)
        ]

    def _measure(self, bench: Bench, contestant: Contestant, mode: Mode) -> float:
        count = min(IDLE_CONNECTIONS, (open_files() - SPARE_FILES) // 2)
        task = Task(frontends=(bench.frontend(mode),), maxconn=count + WARM_CONNECTIONS)
        with bench.running(contestant, task) as process:
            with idle_connections(task.port, WARM_CONNECTIONS):
                pass
            before = settled_private_kib(process)
            with idle_connections(task.port, count):
                after = settled_private_kib(process)
        return (after - before) / count


def settled_private_kib(process: Process) -> int:
    """Private memory of a balancer once it no longer changes (a moving one is read as it is after a while)."""
    deadline = time.monotonic() + SETTLE_WITHIN
    last = private_kib(process)
    while True:
        time.sleep(SETTLE_EVERY)
        now = private_kib(process)
        if abs(now - last) <= SETTLED_KIB or time.monotonic() > deadline:
            return now
        last = now


def private_kib(process: Process) -> int:
    return procfs.memory_kib(process.pids(), "Private_Clean", "Private_Dirty")


@dataclass(frozen=True)
class BigBody:
    """1 GiB from server to a client that stops reading eight times: how far resident memory rises, and the CPU time."""

    name: str = "big-body"
    reference: Kind = "haproxy"
    rounds: int = 6
    tools: tuple[str, ...] = ("nginx",)
    rows: tuple[Row, ...] = (
        Row("resident growth", "MiB", "growth", stats.median, target=Target(most=8)),
        Row("CPU", "s/GiB", "cpu", stats.lower_quartile),
    )

    def round(self, bench: Bench, number: int) -> list[Sample]:
        return [
            self._measure(bench, contestant) for contestant in stats.order(bench.contestants[self.reference], number)
        ]

    def _measure(self, bench: Bench, contestant: Contestant) -> Sample:
        task = Task(frontends=(bench.frontend("http"),))
        with bench.running(contestant, task) as process:
            pids = process.pids()
            procfs.reset_peak(pids)
            before, cpu_before = procfs.resident_kib(pids), procfs.cpu_ns(pids)
            length = download(task.port, "/big", pause_every=BIG_BODY // 8, pause=0.25, within=120)
            values = {
                "cpu": (procfs.cpu_ns(pids) - cpu_before) / 1e9,
                "growth": procfs.peak_growth_kib(before) / MIB,
            }
        return Sample(contestant.name, values, failed=int(length != BIG_BODY))


@dataclass(frozen=True)
class Rest:
    """A whole daemon with two workers and nothing to do, alone on the machine's memory: its size, and its start."""

    name: str = "rest"
    reference: Kind = "haproxy"
    rounds: int = 3
    tools: tuple[str, ...] = ("nginx", "named")
    rows: tuple[Row, ...] = (
        Row("PSS, two workers", "MiB", "pss", stats.median, target=Target(most=100)),
        Row("exec to first answer", "s", "start", stats.lower_quartile, target=Target(most=1.5)),
    )

    def round(self, bench: Bench, number: int) -> list[Sample]:
        return [
            self._measure(bench, contestant) for contestant in stats.order(bench.contestants[self.reference], number)
        ]

    def _measure(self, bench: Bench, contestant: Contestant) -> Sample:
        modes: tuple[Mode, ...] = ("http", "tcp", "udp")
        task = Task(frontends=tuple(bench.frontend(mode) for mode in modes), workers=2, stats_port=free_port())
        with bench.starting(contestant, task) as process:

            def answers() -> bool:
                process.require_alive()
                return fetch(task.port) is not None

            wait_for(f"{contestant.name} answers", answers, within=READY_WITHIN, every=0.002)
            start = time.monotonic() - process.started
            time.sleep(REST)
            pids = process.pids()
            pss = procfs.memory_kib(pids, "Pss") / MIB
        return Sample(contestant.name, {"pss": pss, "start": start, "processes": len(pids)})


@dataclass(frozen=True)
class Latency:
    """How long answers take at a fixed rate: 70 % of HAProxy's most, and 70 % of each one's own. The most is what 32
    clients get that never wait. Balancer and server share a core; who asks has the other, and time to spare on it."""

    name: str = "latency"
    reference: Kind = "haproxy"
    rounds: int = 4
    windows: int = 2
    tools: tuple[str, ...] = ("nginx", "wrk", "h2load")
    rows: tuple[Row, ...] = (
        Row("p50, same rate", "us", "same_p50", stats.lower_quartile),
        Row("p99, same rate", "us", "same_p99", stats.lower_quartile),
        Row("p99.9, same rate", "us", "same_p999", stats.lower_quartile),
        Row("p50, own rate", "us", "own_p50", stats.lower_quartile),
        Row("p99, own rate", "us", "own_p99", stats.lower_quartile, target=Target(least_ratio=0.77)),
        Row("p99.9, own rate", "us", "own_p999", stats.lower_quartile),
    )

    def round(self, bench: Bench, number: int) -> list[Sample]:
        contestants = stats.order(bench.contestants[self.reference], number)
        with bench.web_beside_balancer(), ExitStack() as stack:
            ports: dict[str, int] = {}
            most: dict[str, float] = {}
            for contestant in contestants:
                task = Task(frontends=(bench.frontend("http"),))
                stack.enter_context(bench.running(contestant, task))
                ports[contestant.name] = task.port
                bench.load.http(task.port, WINDOW)  # warm
            tallies = {name: [bench.load.http(ports[name], WINDOW) for _ in range(3)] for name in ports}
            for name, runs in tallies.items():
                most[name] = stats.median([tally.requests / tally.seconds for tally in runs])
            theirs = [name for name in ports if name.startswith("HAProxy")]
            rate = SATURATION * sum(most[name] for name in theirs) / len(theirs)
            samples = []
            for contestant in stats.turns(contestants, self.windows):
                name = contestant.name
                same = bench.load.paced(ports[name], rate, PACED)
                own = same if name in theirs else bench.load.paced(ports[name], SATURATION * most[name], PACED)
                values = {"most": most[name]} | pace_values("same", same) | pace_values("own", own)
                samples.append(Sample(name, values, same.failed + own.failed))
        return samples


def pace_values(which: str, pace: Pace) -> dict[str, float]:
    return {
        f"{which}_rate": pace.rate,
        f"{which}_late": pace.late,
        f"{which}_p50": pace.p50_us,
        f"{which}_p99": pace.p99_us,
        f"{which}_p999": pace.p999_us,
    }


@dataclass(frozen=True)
class Workers:
    """What a second worker (or thread) adds, had each a core for itself: twice as much, less by what a request costs
    more when there are two, and by how unevenly the work is spread."""

    name: str = "workers"
    reference: Kind = "haproxy"
    rounds: int = 4
    windows: int = 3
    tools: tuple[str, ...] = ("nginx", "wrk")
    rows: tuple[Row, ...] = (
        Row("two against one", "x", "gain", stats.median, "higher", Target(least=1.8)),
        Row("cost, two to one", "x", "dearer", stats.median),
        Row("evenness", "", "even", stats.median, "higher"),
    )

    def round(self, bench: Bench, number: int) -> list[Sample]:
        samples = []
        for contestant in stats.order(bench.contestants[self.reference], number):
            with ExitStack() as stack:
                running: dict[int, tuple[Process, int]] = {}
                for workers in (1, 2):
                    task = Task(frontends=(bench.frontend("http"),), workers=workers)
                    process = stack.enter_context(bench.running(contestant, task, core=None))
                    running[workers] = process, task.port
                    self._turn(bench.load, process, task.port, workers)  # warm
                costs: dict[int, list[float]] = {1: [], 2: []}
                evens: list[float] = []
                failed = 0
                for workers in stats.turns((1, 2), self.windows):
                    cost, even, wrong = self._turn(bench.load, *running[workers], workers)
                    failed += wrong
                    costs[workers].append(cost)
                    if workers == 2:
                        evens.append(even)
            dearer = stats.lower_quartile(costs[2]) / stats.lower_quartile(costs[1])
            even = stats.median(evens)
            values = {"gain": 2 / dearer * even, "dearer": dearer, "even": even}
            samples.append(Sample(contestant.name, values, failed))
        return samples

    def _turn(self, load: Load, process: Process, port: int, workers: int) -> tuple[float, float, int]:
        """CPU time per request in us, the mean worker's share of the busiest one's work, and what failed."""
        before = procfs.cpu_by_thread(process.pids())
        tally = load.http(port, WINDOW, clients=MANY_CLIENTS, core=None)
        after = procfs.cpu_by_thread(process.pids())
        spent = sorted((after[thread] - before.get(thread, 0) for thread in after), reverse=True)
        busiest = spent[:workers]
        return sum(spent) / 1000 / max(tally.requests, 1), sum(busiest) / workers / max(busiest[0], 1), tally.failed


def _cpu_row(label: str = "CPU", *, unit: str = "us/request", target: Target | None = None) -> Row:
    return Row(label, unit, "cpu_us", stats.lower_quartile, target=target)


Work = Requests | IdleMemory | BigBody | Rest | Latency | Workers
"""Each has a name, a reference, the tools it needs, its rows and its rounds; `round` measures every contestant."""


def _held(least_ratio: float) -> tuple[Row, ...]:
    return (_cpu_row(target=Target(least_ratio=least_ratio)),)


WORKS: tuple[Work, ...] = (
    Requests("http-keepalive", "http", _held(1.0)),
    Requests("http-keepalive-cookie", "http", _held(1.0), cookie=True, rounds=4),
    Requests("http-keepalive-log", "http", (_cpu_row(),), log=True, rounds=4),
    Requests("http-newconn", "http", _held(1.3), close=True),
    Requests("http-newconn-reuse", "http", _held(1.0), close=True, reuse="always", rounds=4),
    Requests("http-64k", "http", _held(0.9), path="/64k", rounds=4),
    Requests("http-download", "http", _held(0.9), path="/1m", rounds=4),
    Requests("http-upload", "http", _held(0.9), path=UPLOAD, rounds=4),
    Requests("tcp-keepalive", "tcp", _held(0.9)),
    Requests("tcp-newconn", "tcp", _held(0.75), close=True),
    Requests("tcp-download", "tcp", _held(0.9), path="/1m", rounds=4),
    Requests("tcp-upload", "tcp", _held(0.9), path=UPLOAD, rounds=4),
    Requests(
        "udp-dns",
        "udp",
        (
            Row("rate", "queries/s", "rate", stats.upper_quartile, "higher", Target(least_ratio=0.9)),
            _cpu_row(unit="us/query"),
        ),
        reference="dnsdist",
    ),
    Latency(),
    Workers(),
    IdleMemory(),
    BigBody(),
    Rest(),
)
