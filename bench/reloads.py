"""What clients notice of a new configuration while they ask as much as they can."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace

import stats
from balancers import Contestant, Task
from load import parse_wrk
from rig import BenchError, wait_for
from servers import fetch
from stand import READY_WITHIN, Bench, Kind, wait_ready
from works import Row, Sample

__all__ = ["Reload"]

WITHIN = 20.0


@dataclass(frozen=True)
class Reload:
    """A second apart the servers get other names, and the balancer is told; cookies show when the new ones are in use.
    Once with clients that stay connected, once with a connection a request."""

    name: str = "reload"
    reference: Kind = "masters"
    rounds: int = 5
    reloads: int = 2
    tools: tuple[str, ...] = ("nginx", "wrk")
    rows: tuple[Row, ...] = (
        Row("failed, kept connections", "requests", "failed_kept", stats.median),
        Row("failed, a connection a request", "requests", "failed_new", stats.median),
        Row("until the new one answers", "ms", "seen", stats.median),
        Row("p99 meanwhile, kept connections", "us", "p99_kept", stats.median),
    )

    def round(self, bench: Bench, number: int) -> list[Sample]:
        return [self._measure(bench, each) for each in stats.order(bench.contestants[self.reference], number)]

    def _measure(self, bench: Bench, contestant: Contestant) -> Sample:
        values: dict[str, float] = {}
        seen: list[float] = []
        for kind in ("kept", "new"):
            task = Task((bench.frontend("http"),))
            config = bench.configure(contestant, task)
            with bench.serving(contestant, config) as process:
                wait_ready(process, task.frontends[0])
                seconds = self.reloads + 1
                load = bench.begin("wrk", bench.load.http_command(task.port, seconds, close=kind == "new"))
                for turn in range(self.reloads):
                    time.sleep(1.0)
                    prefix = f"{'abcdefgh'[turn % 8]}"
                    after = replace(task, frontends=(replace(task.frontends[0], prefix=prefix),))
                    bench.configure(contestant, after, over=config)
                    begun = time.monotonic()
                    os.kill(process.pid, contestant.reload)
                    wait_for(
                        f"{contestant.name} has read its configuration again",
                        lambda port=task.port, prefix=prefix: _names(port).startswith(prefix),  # type: ignore[misc]
                        within=READY_WITHIN,
                    )
                    seen.append(time.monotonic() - begun)
                if not load.ended(within=WITHIN):
                    raise BenchError("wrk does not end")
                tally = parse_wrk(bench.end(load))
            values[f"failed_{kind}"] = tally.failed
            values[f"requests_{kind}"] = tally.requests
            values[f"p99_{kind}"] = tally.p99_us or 0.0
        return Sample(contestant.name, {**values, "seen": stats.median(seen) * 1000})


def _names(port: int) -> str:
    """What the cookie of a new client says; empty without an answer or a cookie."""
    answer = fetch(port, "/seen")
    if answer is None:
        return ""
    return answer[0].lower().partition("set-cookie: serverid=")[2].partition(";")[0]
