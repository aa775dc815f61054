"""A bench.json as run.py writes it, with figures that are easy to reckon with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LEVELS = (1, 2, 4)
# By contestant, requests per second at each level; each is measured three times, 1 % below and above too.
L7 = {
    "no balancer": (4000, 8000, 10000),
    "pybalancer": (1000, 2000, 2010),
    "pybalancer, 2 cores": (1000, 1900, 3000),
    "HAProxy": (2000, 3000, 4000),
    "HAProxy, 2 cores": (1000, 2000, 3010),
    "nginx": (500, 900, 1000),
}


def sweep(name: str, rates: dict[str, Sequence[float]], *, unit: str = "requests", failed: int = 0) -> dict[str, Any]:
    samples = [
        {
            "sweep": name, "contestant": who, "level": level, "round": turn, "rate": rate * factor,
            "ms": level / rate / factor * 1000, "share": 0.95, "cpu_us": 950_000 / rate, "all_us": 3_000_000 / rate,
            "failed": failed,
        }
        for who, values in rates.items()
        for level, rate in zip(LEVELS, values, strict=True)
        for turn, factor in enumerate((0.99, 1.0, 1.01))
    ]  # fmt: skip
    return {
        "name": name, "title": f"sweep {name}", "unit": unit, "levels": LEVELS, "contestants": [*rates],
        "absent": ["IPVS"] if name == "kernel" else [], "samples": samples,
    }  # fmt: skip


def work(name: str, **by_contestant: Sequence[float]) -> dict[str, Any]:
    rows = [{"label": "CPU", "unit": "us/request", "key": "cpu_us", "better": "lower", "summary": "lower_quartile"}]
    rounds = [
        [{"contestant": who, "failed": 0, "cpu_us": value} for who, value in zip(by_contestant, values, strict=True)]
        for values in zip(*by_contestant.values(), strict=True)
    ]
    return {"work": name, "rows": rows, "rounds": rounds}


def growth(count: int, ours: float, theirs: float | None = None) -> dict[str, Any]:
    keys = ("start", "pss", "checks", "cpu_us")
    units = {"cpu_us": "us/request"}
    rows = [
        {"label": key, "unit": units.get(key, "s"), "key": key, "better": "lower", "summary": "median"} for key in keys
    ]
    found = {"pybalancer": ours, "HAProxy": ours if theirs is None else theirs}
    samples = [{"contestant": who, "failed": 0, **dict.fromkeys(keys, value)} for who, value in found.items()]
    return {"work": f"growth-{count}", "rows": rows, "rounds": [samples]}


def failover(program: str, *samples: float) -> dict[str, Any]:
    return {
        "text": "power off",
        "version": "v3",
        "most": 0.4,
        "samples": samples,
        "overlaps": [0.0],
        "program": program,
    }


def content(**changes: Any) -> dict[str, Any]:
    reading = {"what": "l7 1", "spin_before": 1.0, "spin_after": 1.0, "stolen": 0.0, "others": 0.0}
    return {
        "quick": False,
        "machine": {
            "date": "2026-01-01T00:00:00+00:00", "cpu": "a CPU", "cores": 2, "memory_mib": 8192, "kernel": "6.1",
        },
        "versions": {"pybalancer": "pybalancer 1 (compiled)", "haproxy": "HAProxy version 2.6"},
        "cores": {"balancer": 0, "all": [0, 1]},
        "took_s": 60.0,
        "unavailable": {"IPVS": "this kernel has no ip_vs"},
        "missing": {"latency, round 5": "time was up"},
        "sweeps": [sweep("l7", L7), sweep("kernel", {"no balancer": (9, 9, 9), "pybalancer kernel": (8, 8, 8)})],
        "works": [
            work("http-keepalive", HAProxy=(20, 20.2, 20.4), pybalancer=(25, 25.2, 25.4), nginx=(30, 30, 30)),
            growth(10, 1.0), growth(5000, 4.0),
        ],
        "failover": [failover("pybalancer", 0.35, 0.36, 0.37), failover("keepalived", 0.34, 0.35, 0.36)],
        "noise": [reading] * 4,
    } | changes  # fmt: skip
