#!/usr/bin/env python3
"""The evaluation as a whole: pybalancer beside its peers, as numbers, plots and a page to read. See README.md."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import balancers
import noise
import stats
import sweeps
from arena import Arena, Running, cpu_ns
from balancers import Contestant
from cost import machine, pybalancer_command, version_line, versions
from growth import COUNTS, Growth
from reloads import Reload
from rig import BALANCER_CORE, BenchError, Rig, find_tool
from stand import Bench, Kind
from sweeps import SWEEPS, Entrant, Sweep
from works import WORKS, Latency, Requests, Row, Work

from tests.lab.space import LabError

__all__ = ["PARTS", "Plan", "main", "parse", "raw"]

EXIT_FAILED, EXIT_CANNOT = 1, 2
RESULTS = Path(__file__).with_name("results")
COST = (
    "http-keepalive", "http-newconn", "http-64k", "http-download", "http-upload",
    "tcp-keepalive", "tcp-newconn", "tcp-download", "udp-dns",
)  # fmt: skip
RATE = Row("rate", "requests/s", "rate", stats.upper_quartile, "higher")
PARTS = (*(sweep.name for sweep in SWEEPS), "cost", "latency", "idle-memory", "growth", "reload", "failover")


# After what share of the time the rounds of each part are over.
SHARES = {
    "sweeps": 0.46, "cost": 0.66, "latency": 0.77, "idle-memory": 0.81, "growth": 0.91, "reload": 0.96, "failover": 1.0,
}  # fmt: skip


class Plan:
    """How much is done: everything, or what tells in five minutes that everything works."""

    def __init__(self, *, quick: bool, levels: Sequence[int] | None = None) -> None:
        self.quick = quick
        # No part, and no round of one, begins later (seconds); what then is missing is said.
        self.limit = 240.0 if quick else 2200.0
        # A part's first round is not held to its share: a slow machine has fewer rounds, and not fewer parts.
        self.levels = tuple(levels or ((1, 24) if quick else sweeps.LEVELS))
        self.sweep_rounds = 1 if quick else 5
        self.failover_runs = 1 if quick else 5
        self.failover_at = ("v3",) if quick else ("v2", "v3")
        self.failover_only = ("stop", "power")
        self.begun = time.monotonic()

    def is_over(self, part: str, turn: int = 0) -> bool:
        """Whether it is too late for that round of a part."""
        return time.monotonic() - self.begun > self.limit * (SHARES[part] if turn else 1.0)

    def works(self, part: str) -> list[Work | Growth | Reload]:
        """Of a part, with the rounds that there is time for."""
        named = {work.name: work for work in WORKS}
        quick = self.quick
        if part == "cost":
            names = ("http-keepalive", "tcp-newconn", "udp-dns") if quick else COST
            chosen = [work for name in names if isinstance(work := named[name], Requests)]
            return [
                replace(work, rows=(*(row for row in work.rows if row.key != "rate"), _rate(work)),
                        rounds=1 if quick else 5, windows=1)
                for work in chosen
            ]  # fmt: skip
        if part == "latency":
            # Fifty seconds a round.
            return [] if quick else [Latency(rounds=5, windows=1)]
        if part == "idle-memory":
            return [replace(named[part], rounds=1 if quick else 3)]
        if part == "growth":
            return [Growth(count, rounds=1 if quick else 3) for count in ((10, 1000) if quick else COUNTS)]
        return [Reload(rounds=1 if quick else 5)]


def _rate(work: Requests) -> Row:
    return replace(RATE, unit="queries/s") if work.mode == "udp" else RATE


class Record:
    """What was found, on disk after each part."""

    def __init__(self, folder: Path, options: argparse.Namespace, plan: Plan) -> None:
        self.file = folder / "bench.json"
        self._plan = plan
        self.readings: list[noise.Reading] = []
        self.content: dict[str, Any] = {
            "quick": plan.quick,
            "machine": machine(),
            "versions": all_versions(options),
            "cores": {"balancer": BALANCER_CORE, "all": sweeps.CORES},
            "unavailable": {},
            "missing": {},
            "sweeps": [],
            "works": [],
            "failover": [],
        }

    def save(self) -> None:
        self.content["noise"] = noise.as_json(self.readings)
        self.content["took_s"] = round(time.monotonic() - self._plan.begun, 1)
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(self.content, indent=1) + "\n")
        part.replace(self.file)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What cannot be measured is said and the rest goes on."""
        try:
            yield
        except (BenchError, LabError) as error:
            say(f"{name}: {error}")
            self.content["missing"][name] = str(error)
        finally:
            self.save()


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured; 1: requests failed; 2: a part could not be measured; 130: interrupted. What was measured is kept."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if options.again is not None:
        return again(options.again, options.out)
    options.out.mkdir(parents=True, exist_ok=True)
    plan = Plan(quick=options.quick, levels=options.levels)
    status = 0
    try:
        record = Record(options.out, options, plan)
    except BenchError as error:
        say(str(error))
        return EXIT_CANNOT
    try:
        measure(record, options, plan)
    except KeyboardInterrupt:
        say("interrupted, everything it started has ended")
        status = 128 + signal.SIGINT
    record.save()
    publish(record.content, options.out)
    if status:
        return status
    if record.content["missing"]:
        return EXIT_CANNOT
    return EXIT_FAILED if failures(record.content) else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="NAME", help=f"of {', '.join(PARTS)}"
    )
    parser.add_argument("--quick", action="store_true", help="few levels, one round: less than five minutes")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="default: bench/results")
    parser.add_argument("--haproxy", metavar="PATH", default=os.environ.get("HAPROXY") or None,
                        help="another HAProxy beside the installed one; default: $HAPROXY")  # fmt: skip
    parser.add_argument("--pybalancer", metavar="PATH", help="the pybalancer to measure, default: of this Python")
    parser.add_argument(
        "--package", type=Path, metavar="DIR", help="or the package in this folder, as `make compiled` makes"
    )
    parser.add_argument(
        "--contestants", nargs="+", metavar="NAME", help="of sweeps only these, as the tables name them"
    )
    parser.add_argument("--levels", nargs="+", type=int, metavar="C", help="clients at once in sweeps")
    parser.add_argument(
        "--again", type=Path, metavar="FILE", help="make the page of this bench.json and measure nothing"
    )
    options = parser.parse_args(arguments)
    if options.levels and not all(1 <= level <= sweeps.MOST_REQUESTS for level in options.levels):
        parser.error(f"--levels are from 1 to {sweeps.MOST_REQUESTS}")
    if options.package is not None and not (options.package / "balancer").is_dir():
        parser.error(f"--package {options.package} holds no balancer: run make compiled")
    return options


def measure(record: Record, options: argparse.Namespace, plan: Plan) -> None:
    chosen = [sweep for sweep in SWEEPS if sweep.name in options.only]
    if chosen:
        with record.part("sweeps"):
            measure_sweeps(record, options, plan, chosen)
    parts = [part for part in PARTS if part in options.only and part not in {sweep.name for sweep in SWEEPS}]
    in_rig = [part for part in parts if part != "failover"]
    if in_rig:
        with record.part("works"), Rig() as rig:
            bench = Bench(rig, opponents(options, record))
            for part, work in ((name, work) for name in in_rig for work in plan.works(name)):
                with record.part(work.name):
                    measure_work(record, plan, part, work, bench)
    if "failover" in parts:
        with record.part("failover"):
            measure_failover(record, plan)


def measure_sweeps(record: Record, options: argparse.Namespace, plan: Plan, chosen: Sequence[Sweep]) -> None:
    peers = [("HAProxy", "haproxy")]
    if options.haproxy:
        peers.append((f"HAProxy {_number_of(options.haproxy)}", options.haproxy))
    entrants, absent = [], []
    for entrant in sweeps.entrants(command_of(options), peers):
        if not any(sweep.of(entrant) for sweep in chosen):
            continue
        if options.contestants and entrant.name not in options.contestants:
            continue
        if reason := entrant.needs():
            record.content["unavailable"][entrant.name] = reason
            absent.append(entrant)
        else:
            entrants.append(entrant)
    with tempfile.TemporaryDirectory(prefix="pybalancer-bench-") as name:
        # Where a server that gave up root's rights may look.
        directory = Path(name)
        directory.chmod(0o755)
        load_cores = sweeps.CORES[1:] or sweeps.CORES
        with Arena(directory, [entrant.way for entrant in entrants], cores=load_cores) as arena:
            started = start_sweeps(arena, entrants, chosen, len(load_cores))
            found = {
                sweep: _sweep_json(sweep, plan, entrants, [one.name for one in absent if sweep.of(one)])
                for sweep in chosen
            }
            record.content["sweeps"] = list(found.values())
            for turn, sweep in ((turn, sweep) for turn in range(plan.sweep_rounds) for sweep in chosen):
                if plan.is_over("sweeps", turn):
                    record.content["missing"][f"{sweep.name}, round {turn + 1}"] = "time was up"
                    continue
                say(f"{sweep.name}: round {turn + 1} of {plan.sweep_rounds}")
                taking_part = {one: running for one, running in started.items() if sweep.of(one)}
                with noise.watched(f"{sweep.name} {turn + 1}", cpu_ns, sweeps.CORES, record.readings):
                    samples = list(sweeps.measure(arena, sweep, taking_part, plan.levels, turn))
                found[sweep]["samples"] += [asdict(sample) for sample in samples]
                record.save()


def start_sweeps(
    arena: Arena, entrants: Sequence[Entrant], chosen: Sequence[Sweep], web_workers: int
) -> dict[Entrant, Running | None]:
    """Servers and all contestants, each seen to answer."""
    arena.start_web(web_workers)
    arena.start_named()
    if any(sweep.name == "pi" for sweep in chosen):
        arena.start_php()
    started = {entrant: sweeps.started(arena, entrant) for entrant in entrants}
    for entrant, running in started.items():
        sweeps.wait_ready(arena, entrant, running, chosen)
    return started


def _sweep_json(sweep: Sweep, plan: Plan, entrants: Sequence[Entrant], absent: Sequence[str]) -> dict[str, Any]:
    return {
        "name": sweep.name,
        "title": sweep.title,
        "unit": sweep.unit,
        "levels": plan.levels,
        "contestants": [entrant.name for entrant in entrants if sweep.of(entrant)],
        "absent": absent,
        "samples": [],
    }


def opponents(options: argparse.Namespace, record: Record) -> dict[Kind, list[Contestant]]:
    """Whom the works compare."""
    ours = balancers.pybalancer(command_of(options), "pybalancer")
    programs = [("HAProxy", find_tool("haproxy"))]
    if options.haproxy:
        programs.append((f"HAProxy {_number_of(options.haproxy)}", find_tool(options.haproxy)))
    found: dict[Kind, list[Contestant]] = {
        "haproxy": [*(balancers.haproxy(program, name) for name, program in programs), ours],
        "dnsdist": [balancers.dnsdist(find_tool("dnsdist"), "dnsdist"), ours],
        "masters": [*(balancers.haproxy_master(program, name) for name, program in programs), ours],
    }
    if reason := sweeps.nginx_is_missing():
        record.content["unavailable"]["nginx"] = reason
    else:
        nginx = balancers.nginx(find_tool("nginx"), "nginx")
        for each in found.values():
            each.append(nginx)
    return found


def measure_work(record: Record, plan: Plan, part: str, work: Work | Growth | Reload, bench: Bench) -> None:
    rounds: list[list[dict[str, Any]]] = []
    found = raw(work, rounds)
    for turn in range(work.rounds):
        if plan.is_over(part, turn):
            record.content["missing"][f"{work.name}, round {turn + 1}"] = "time was up"
            break
        say(f"{work.name}: round {turn + 1} of {work.rounds}")
        with noise.watched(f"{work.name} {turn + 1}", cpu_ns, sweeps.CORES, record.readings):
            samples = work.round(bench, turn)
        rounds.append([{"contestant": one.contestant, "failed": one.failed, **one.values} for one in samples])
        if turn == 0:
            record.content["works"].append(found)
        record.save()


def raw(work: Work | Growth | Reload, rounds: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """A work as the JSON has it."""
    rows = [
        {"label": row.label, "unit": row.unit, "key": row.key, "better": row.better, "summary": row.summary.__name__}
        for row in work.rows
    ]
    return {"work": work.name, "rows": rows, "rounds": rounds}


def measure_failover(record: Record, plan: Plan) -> None:
    """By failover.py, which has the cluster for itself."""
    if plan.is_over("failover"):
        record.content["missing"]["failover"] = "time was up"
        return
    programs = ["pybalancer", *(["keepalived"] if shutil.which("keepalived", path=_SBIN) else [])]
    if len(programs) == 1:
        record.content["unavailable"]["keepalived"] = "keepalived is missing: apt install keepalived"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "failover.json"
        command = [sys.executable, str(Path(__file__).with_name("failover.py")), "--json", str(file)]
        command += ["--runs", str(plan.failover_runs), "--at", *plan.failover_at, "--only", *plan.failover_only]
        command += ["--with", *programs]
        with noise.watched("failover", cpu_ns, sweeps.CORES, record.readings):
            try:
                done = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=max(plan.limit / 4, 90), check=False)
            except subprocess.TimeoutExpired:
                raise BenchError("failover.py does not end") from None
        if file.exists():
            record.content["failover"] = json.loads(file.read_text())["rows"]
        if done.returncode:
            raise BenchError(f"failover.py ended with status {done.returncode}")


_SBIN = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


def command_of(options: argparse.Namespace) -> list[str]:
    """What is measured, as it is started."""
    if options.package is not None:
        # Safe: the folder that the bench is started in may hold another one, and comes first otherwise.
        first = ("env", "PYTHONSAFEPATH=1", f"PYTHONPATH={options.package.resolve()}")
        return [*first, sys.executable, "-m", "balancer"]
    return pybalancer_command(options.pybalancer)


def all_versions(options: argparse.Namespace) -> dict[str, str]:
    """What each program says of itself."""
    told = versions()
    said = subprocess.run([*command_of(options), "--version"], capture_output=True, text=True, check=False)
    told["pybalancer"] = version_line(said.stdout + said.stderr)
    if options.haproxy:
        told["HAPROXY"] = _said(options.haproxy, "-v")
    for program, option in (("ab", "-V"), ("apache2", "-v"), ("keepalived", "-v"), ("ipvsadm", "-v")):
        try:
            told[program] = _said(program, option)
        except BenchError:
            continue
    return told


def _said(program: str, option: str) -> str:
    said = subprocess.run([find_tool(program), option], capture_output=True, text=True, timeout=10, check=False)
    return version_line(said.stdout + said.stderr)


def _number_of(program: str) -> str:
    """2.6.12 of `HAProxy version 2.6.12-1 …`."""
    words = [word for word in _said(program, "-v").split() if word[:1].isdigit()]
    return words[0].partition("-")[0] if words else program


def again(file: Path, folder: Path) -> int:
    """The page of what was measured before."""
    try:
        content = json.loads(file.read_text())
        if not isinstance(content, dict) or not {"sweeps", "works", "machine", "noise"} <= content.keys():
            raise ValueError("parts of it are missing")
    except (OSError, ValueError) as error:
        say(f"{file} is no bench.json: {error}")
        return EXIT_CANNOT
    publish(content, folder)
    return 0


def failures(content: Mapping[str, Any]) -> int:
    """Requests that went wrong, of all samples."""
    sweeping = sum(sample["failed"] for sweep in content["sweeps"] for sample in sweep["samples"])
    working = sum(one["failed"] for work in content["works"] for turn in work["rounds"] for one in turn)
    return int(sweeping + working)


def publish(content: Mapping[str, Any], folder: Path) -> None:
    """The page and its plots; without matplotlib the JSON alone."""
    try:
        import presentation
    except ImportError as error:
        say(f"no page: {error}; pip install -c constraints.txt '.[bench]', then run.py --again")
        return
    page = presentation.write(content, folder)
    print(presentation.summary(content))
    print(f"the page: {page}")


def say(text: str) -> None:
    print(f"run.py: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
