#!/usr/bin/env python3
"""What a request costs: pybalancer beside HAProxy and dnsdist, on one core, by one method. See README.md."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import balancers
from balancers import Contestant
from report import Result, as_json, remarks, table
from rig import BenchError, Rig, find_tool
from stand import Bench, Kind
from works import WORKS, Requests, Work

__all__ = ["main"]

QUICK = ("http-keepalive", "udp-dns")
QUICK_ROUNDS = 3
QUICK_WINDOWS = 3
EXIT_FAILED = 1
EXIT_CANNOT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured; 1: requests failed; 2: a work could not be measured; 130: interrupted.

    Works measured before an error or Ctrl-C are still reported.
    """
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    works = [shortened(work, options) for work in WORKS if work.name in options.only]
    results: list[Result] = []
    status = 0
    try:
        with Rig() as rig:
            bench = Bench(rig, contestants(works, options))
            for work in works:
                results.append(measure(work, bench))
    except BenchError as error:
        print(f"cost.py: {error}", file=sys.stderr)
        status = EXIT_CANNOT
    except KeyboardInterrupt:
        print("cost.py: interrupted, everything it started has ended", file=sys.stderr)
        status = 128 + signal.SIGINT
    if results:
        show(results, options)
    return status or (EXIT_FAILED if any(result.failed for result in results) else 0)


def show(results: Sequence[Result], options: argparse.Namespace) -> None:
    """The table on stdout, and the JSON where it was asked for."""
    print(table(results))
    for remark in remarks(results):
        print(f"note: {remark}")
    if options.json is not None:
        report = {"machine": machine(), "versions": versions(options.haproxy), "works": as_json(results)}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [work.name for work in WORKS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help=f"{' and '.join(QUICK)} (or --only) in few rounds")
    parser.add_argument("--rounds", type=int, metavar="N", help="restarts of each balancer per work")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures and every sample there")
    parser.add_argument("--haproxy", metavar="PATH", help="the HAProxy to compare with")
    parser.add_argument("--pybalancer", metavar="PATH", help="the pybalancer to measure, default: of this Python")
    parser.add_argument("--calibrate", action="store_true", help="measure the references and the noise, not pybalancer")
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if options.only is None:
        options.only = QUICK if options.quick else names
    return options


def shortened(work: Work, options: argparse.Namespace) -> Work:
    """The work with the rounds that the command line asks for."""
    if options.quick:
        work = replace(work, rounds=QUICK_ROUNDS)
        if isinstance(work, Requests):
            work = replace(work, windows=QUICK_WINDOWS)
    return work if options.rounds is None else replace(work, rounds=options.rounds)


def contestants(works: Sequence[Work], options: argparse.Namespace) -> dict[Kind, list[Contestant]]:
    """The reference twice, and pybalancer, for each kind of work. Raises BenchError naming what is missing."""
    for tool in sorted({tool for work in works for tool in work.tools}):
        find_tool(tool)
    kinds = {work.reference for work in works}
    found: dict[Kind, list[Contestant]] = {}
    if "haproxy" in kinds:
        program = find_tool(options.haproxy or "haproxy")
        found["haproxy"] = [balancers.haproxy(program, "HAProxy"), balancers.haproxy(program, "HAProxy-twin")]
    if "dnsdist" in kinds:
        program = find_tool("dnsdist")
        found["dnsdist"] = [balancers.dnsdist(program, "dnsdist"), balancers.dnsdist(program, "dnsdist-twin")]
    if not options.calibrate:
        ours = balancers.pybalancer(pybalancer_command(options.pybalancer), "pybalancer")
        for entries in found.values():
            entries.append(ours)
    return found


def pybalancer_command(path: str | None) -> list[str]:
    if path is not None:
        return [find_tool(path)]
    if importlib.util.find_spec("balancer") is None:
        raise BenchError(f"pybalancer is not installed for {sys.executable}: run make, or give --pybalancer PATH")
    return [sys.executable, "-m", "balancer"]


def measure(work: Work, bench: Bench) -> Result:
    """All rounds of a work, each announced on stderr."""
    names = tuple(contestant.name for contestant in bench.contestants[work.reference])
    rounds = []
    for number in range(work.rounds):
        print(f"{work.name}: round {number + 1} of {work.rounds}", file=sys.stderr, flush=True)
        rounds.append(tuple(work.round(bench, number)))
    return Result(work, names, tuple(rounds))


def machine() -> dict[str, object]:
    """What the figures depend on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
    }


def versions(haproxy: str | None = None) -> dict[str, str]:
    """The first line of what each program says of itself."""
    found = {"python": platform.python_version()}
    asked = {
        haproxy or "haproxy": "-v",
        "dnsdist": "--version",
        "nginx": "-v",
        "named": "-v",
        "wrk": "-v",
        "dnsperf": "-h",
        "h2load": "--version",
    }
    for program, option in asked.items():
        try:
            command = [find_tool(program), option]
        except BenchError:
            continue  # no work of this run needed it
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        found[Path(program).name] = version_line(said.stdout + said.stderr)
    return found


def version_line(said: str) -> str:
    """The first line with a number like 2.6 in it."""
    return next((line.strip() for line in said.splitlines() if re.search(r"[0-9]\.[0-9]", line)), "")


if __name__ == "__main__":
    raise SystemExit(main())
