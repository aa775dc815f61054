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
from balancers import Contestant, Mode, Task
from load import Load, Tally, download, idle_connections
from rig import BALANCER_CORE, BenchError, Process, free_port, wait_for
from servers import BIG_BODY, fetch
from stand import READY_WITHIN, Bench, Kind

__all__ = ["WORKS", "Requests", "Row", "Sample", "Target", "Work"]

WINDOW = 1
IDLE_CONNECTIONS = 3000
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
    most: float | None = None

    def is_met(self, ours: float, ratio: float) -> bool:
        return (self.least_ratio is None or ratio >= self.least_ratio) and (self.most is None or ours <= self.most)

    def __str__(self) -> str:
        return f"ratio >= {self.least_ratio:g}" if self.least_ratio is not None else f"<= {self.most:g}"


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
            ports: dict[str, int] = {}
            processes: dict[str, Process] = {}
            for contestant in contestants:
                own = replace(task, frontends=(bench.frontend(self.mode),))
                ports[contestant.name] = own.port
                processes[contestant.name] = stack.enter_context(bench.running(contestant, own))
                self._drive(bench.load, own.port)  # warm
            samples = []
            for contestant in stats.turns(contestants, self.windows):
                drain(sink)
                samples.append(self._sample(bench.load, contestant.name, processes[contestant.name], ports))
                if self.log and not drain(sink):
                    raise BenchError(f"{contestant.name} logged nothing")
        return samples

    def _drive(self, load: Load, port: int) -> Tally:
        return load.dns(port, WINDOW) if self.mode == "udp" else load.http(port, WINDOW, close=self.close)

    def _sample(self, load: Load, name: str, process: Process, ports: Mapping[str, int]) -> Sample:
        core_before, began, cpu_before = procfs.core_time(BALANCER_CORE), time.monotonic(), cpu_by_pid(process)
        tally = self._drive(load, ports[name])
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
        Row("http client", "KiB", "http", stats.median, target=Target(most=3)),
    )

    def round(self, bench: Bench, number: int) -> list[Sample]:
        modes: tuple[Mode, ...] = ("tcp", "http")
        return [
            Sample(contestant.name, {mode: self._measure(bench, contestant, mode) for mode in modes})
            for contestant in stats.order(bench.contestants[self.reference], number)
        ]

    def _measure(self, bench: Bench, contestant: Contestant, mode: Mode) -> float:
        task = Task(frontends=(bench.frontend(mode),))
        with bench.running(contestant, task) as process:
            with idle_connections(task.port, WARM_CONNECTIONS):
                pass
            before = settled_private_kib(process)
            with idle_connections(task.port, IDLE_CONNECTIONS):
                after = settled_private_kib(process)
        return (after - before) / IDLE_CONNECTIONS


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


def _cpu_row(label: str = "CPU", *, unit: str = "us/request", target: Target | None = None) -> Row:
    return Row(label, unit, "cpu_us", stats.lower_quartile, target=target)


Work = Requests | IdleMemory | BigBody | Rest
"""Each has a name, a reference, the tools it needs, its rows and its rounds; `round` measures every contestant."""

WORKS: tuple[Work, ...] = (
    Requests("http-keepalive", "http", (_cpu_row(target=Target(least_ratio=0.8)),)),
    Requests("http-keepalive-log", "http", (_cpu_row(),), log=True, rounds=4),
    Requests("http-newconn", "http", (_cpu_row(),), close=True),
    Requests("http-newconn-reuse", "http", (_cpu_row(),), close=True, reuse="always", rounds=4),
    Requests("tcp-keepalive", "tcp", (_cpu_row(),)),
    Requests("tcp-newconn", "tcp", (_cpu_row(),), close=True),
    Requests(
        "udp-dns",
        "udp",
        (
            Row("rate", "queries/s", "rate", stats.upper_quartile, "higher", Target(least_ratio=0.9)),
            _cpu_row(unit="us/query"),
        ),
        reference="dnsdist",
    ),
    IdleMemory(),
    BigBody(),
    Rest(),
)
