"""What a balancer costs when it has many servers: to start, to hold, to check, and for a request."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import procfs
import stats
from balancers import CHECK_INTERVAL_MS, Contestant, Frontend, Task
from rig import free_port, wait_for
from servers import fetch
from stand import Bench, Kind
from works import MIB, WINDOW, Row, Sample

__all__ = ["COUNTS", "Growth"]

COUNTS = (10, 100, 1000, 5000)
STARTED_WITHIN = 60.0
# An interval of the checks, seconds. What follows the start (all servers' first checks among it) is over when one
# costs hardly less than the one before it.
INTERVAL = CHECK_INTERVAL_MS / 1000
SETTLED, MOST_INTERVALS = 0.8, 6
# Of those that check by themselves.
TAKING_PART = ("HAProxy", "pybalancer")


@dataclass(frozen=True)
class Growth:
    """So many servers of one backend, each at an address of its own, checked every 2 s."""

    servers: int
    reference: Kind = "haproxy"
    rounds: int = 3
    windows: int = 2
    tools: tuple[str, ...] = ("nginx", "wrk")
    rows: tuple[Row, ...] = (
        Row("exec to first answer", "s", "start", stats.lower_quartile),
        Row("memory (PSS)", "MiB", "pss", stats.median),
        Row("checks alone", "% of a core", "checks", stats.lower_quartile),
        Row("CPU beyond checks", "us/request", "cpu_us", stats.lower_quartile),
    )

    @property
    def name(self) -> str:
        return f"growth-{self.servers}"

    def round(self, bench: Bench, number: int) -> list[Sample]:
        taking_part = [one for one in bench.contestants[self.reference] if one.name in TAKING_PART]
        return [self._measure(bench, contestant) for contestant in stats.order(taking_part, number)]

    def _measure(self, bench: Bench, contestant: Contestant) -> Sample:
        task = Task((Frontend("http", free_port(), bench.many[: self.servers]),))
        with bench.starting(contestant, task) as process:

            def answers() -> bool:
                process.require_alive()
                return fetch(task.port) is not None

            wait_for(f"{contestant.name} with {self.servers} servers", answers, within=STARTED_WITHIN, every=0.005)
            start = time.monotonic() - process.started
            pids = process.pids()
            checks = share_at_rest(pids)
            pss = procfs.memory_kib(pids, "Pss") / MIB
            bench.load.http(task.port, WINDOW)  # warm
            began, before, requests, failed = time.monotonic(), procfs.cpu_ns(pids), 0, 0
            for _ in range(self.windows):
                tally = bench.load.http(task.port, WINDOW)
                requests, failed = requests + tally.requests, failed + tally.failed
            spent = (procfs.cpu_ns(pids) - before) / 1e9 - checks * (time.monotonic() - began)
        values = {"start": start, "pss": pss, "checks": checks * 100, "cpu_us": spent * 1e6 / max(requests, 1)}
        return Sample(contestant.name, values, failed)


def share_at_rest(pids: Sequence[int]) -> float:
    """Of a core, that a balancer takes when nobody asks for anything."""
    last = math.inf
    for _ in range(MOST_INTERVALS):
        began, before = time.monotonic(), procfs.cpu_ns(pids)
        time.sleep(INTERVAL)
        now = (procfs.cpu_ns(pids) - before) / 1e9 / (time.monotonic() - began)
        if now >= SETTLED * last:
            return min(now, last)
        last = now
    return last
