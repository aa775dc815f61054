#!/usr/bin/env python3
"""What the kernel engine carries, beside no balancer at all, HAProxy and dnsdist. See README.md."""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import balancers
import stats
from arena import DNS, HTTP, SERVERS, Arena, Way, cpu_ns
from balancers import DNS_NAME, Engine, Frontend, Task
from cost import machine, pybalancer_command
from load import WRK_REPORT, Tally, parse_dnsperf, parse_wrk
from report import number, percent
from rig import BenchError, find_tool

from balancer.config import read
from balancer.kernel.nft import Nft
from balancer.kernel.plan import Planner
from balancer.kernel.render import Desired, change, whole
from balancer.pool.orders import Condition, ServerState
from tests.lab.space import LabError, Space

__all__ = ["WORKS", "Work", "main", "parse", "rows", "table"]

EXIT_FAILED, EXIT_CANNOT = 1, 2
ROUNDS, SECONDS, QUICK_ROUNDS, QUICK_SECONDS = 5, 2, 2, 1
CLIENTS, QUERIES = 32, 100
# wrk and nginx use all cores: else one thread of theirs would be the limit, and not what is measured. dnsperf and named
# fill two cores with a thread each, and carry less with more.
THREADS = len(os.sched_getaffinity(0))
READY_WITHIN = 15.0
SERVICES, SERVERS_EACH = 1000, 10
# Both are held to these (seconds).
APPLIED_WITHIN, CHANGED_WITHIN = 2.0, 0.05
CHANGES = 20
# What the backends of many services say besides.
KINDS = {"roundrobin": "", "maglev": "balance: maglev, ", "persistence_timeout": "persistence_timeout: 90s, "}

# `router` is what a director is to the inner network: it forwards, and masquerades what goes out. `bare` forwards and
# does nothing else: its kernel does not even follow connections.
WAYS = {
    way.name: way
    for way in (
        Way("bare", 1, forwards=True),
        Way("router", 2, forwards=True, masquerades=True),
        Way("director", 3),
        Way("masked", 4),
        Way("proxy", 5),
    )
}
BARE = "direct, bare"
DIRECT = "direct"
TWIN = "direct-twin"


@dataclass(frozen=True)
class Contestant:
    """A way to the servers."""

    name: str
    way: str
    host: int | None = None
    """The server that is asked itself; None: the service."""

    @property
    def address(self) -> str:
        way = WAYS[self.way]
        return way.vip if self.host is None else way.server(self.host)


@dataclass(frozen=True)
class Bar:
    """What a ratio is held to."""

    of: str
    to: str
    least: float | None = None
    """None: for comparison."""


@dataclass(frozen=True)
class Work:
    """A load, who carries it, and what is demanded."""

    name: str
    load: Callable[[Stage, Contestant, int], Tally]
    contestants: tuple[Contestant, ...]
    bars: tuple[Bar, ...]


class Stage(Arena):
    """With the loads of this bench, and nothing bound to a core."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, WAYS.values())
        self.write("report.lua", WRK_REPORT)

    def http(self, contestant: Contestant, seconds: int, *, close: bool) -> Tally:
        """wrk: 32 clients."""
        command = [find_tool("wrk"), f"-t{THREADS}", f"-c{CLIENTS}", f"-d{seconds}s", "--timeout", "10s"]
        command += ["-s", str(self.directory / "report.lua"), f"http://{contestant.address}:{HTTP}/hello"]
        if close:
            command[1:1] = ["-H", "Connection: close"]
        return parse_wrk(self.ask(command, takes=seconds + 15.0))

    def dns(self, contestant: Contestant, seconds: int) -> Tally:
        """dnsperf: 100 queries under way, from 8 sockets."""
        command = [find_tool("dnsperf"), "-s", contestant.address, "-p", str(DNS), "-l", str(seconds)]
        command += ["-d", str(self.directory / "queries"), "-c", "8", "-T", "1", "-q", str(QUERIES)]
        return parse_dnsperf(self.ask(command, takes=seconds + 15.0))


def keep_alive(stage: Stage, contestant: Contestant, seconds: int) -> Tally:
    return stage.http(contestant, seconds, close=False)


def connections(stage: Stage, contestant: Contestant, seconds: int) -> Tally:
    return stage.http(contestant, seconds, close=True)


def queries(stage: Stage, contestant: Contestant, seconds: int) -> Tally:
    return stage.dns(contestant, seconds)


NAT, MASQUERADE, HAPROXY, DNSDIST = "kernel nat", "kernel masquerade", "HAProxy tcp", "dnsdist"
STRAIGHT = (
    Contestant(BARE, "bare", SERVERS[0]),
    Contestant(DIRECT, "router", SERVERS[0]),
    Contestant(TWIN, "router", SERVERS[1]),
)
KERNEL = (Contestant(NAT, "director"), Contestant(MASQUERADE, "masked"))
ENGINES: dict[Contestant, Engine] = {KERNEL[0]: "nat", KERNEL[1]: "masquerade"}
TCP = (*STRAIGHT, *KERNEL, Contestant(HAPROXY, "proxy"))
UDP = (*STRAIGHT, *KERNEL, Contestant(DNSDIST, "proxy"))


def bars(proxy: str, least: float) -> tuple[Bar, ...]:
    return (
        Bar(NAT, DIRECT, 0.9), Bar(MASQUERADE, DIRECT, 0.9), Bar(NAT, proxy, least), Bar(MASQUERADE, proxy, least),
        Bar(NAT, BARE), Bar(BARE, proxy),
    )  # fmt: skip


WORKS = (
    Work("tcp-keepalive", keep_alive, TCP, bars(HAPROXY, 1.6)),
    Work("tcp-newconn", connections, TCP, bars(HAPROXY, 1.6)),
    Work("udp-dns", queries, UDP, bars(DNSDIST, 1.8)),
)


# What runs there


def task(contestant: Contestant) -> Task:
    """Web and DNS, on as many threads as there are cores, in the kernel where the contestant is of it."""
    way = WAYS[contestant.way]
    engine: Engine = ENGINES.get(contestant, "")
    web = Frontend("tcp", HTTP, way.servers(HTTP), host=way.vip, engine=engine)
    dns = Frontend("udp", DNS, way.servers(DNS), host=way.vip, engine=engine)
    return Task((web, dns), workers=1 if engine else THREADS)


def start(stage: Stage, pybalancer: Sequence[str]) -> None:
    """Everything, and wait until each contestant answers."""
    stage.start_web(THREADS)
    stage.start_named()
    ours = balancers.pybalancer(pybalancer, "pybalancer")
    peers = (balancers.haproxy(find_tool("haproxy"), "haproxy"), balancers.dnsdist(find_tool("dnsdist"), "dnsdist"))
    for contestant, program in (*((each, ours) for each in KERNEL), *((TCP[-1], each) for each in peers)):
        name = f"{contestant.way}-{program.name}"
        file = stage.write(f"{name}.{program.suffix}", program.render(task(contestant)))
        stage.start(stage.between[contestant.way], name, *program.command(str(file)))
    for contestant in TCP:
        wait_ready(stage, contestant, ["curl", "-sf", "--max-time", "1"], f"http://{contestant.address}:{HTTP}/")
    for contestant in UDP:
        wait_ready(
            stage, contestant, ["dig", "+tries=1", "+timeout=1", DNS_NAME], f"@{contestant.address}", "-p", str(DNS)
        )


def wait_ready(stage: Stage, contestant: Contestant, command: Sequence[str], *where: str) -> None:
    """Until every server has had its turn, twice over. BenchError if it takes too long."""
    asked = [*command, *where]
    deadline, answered = time.monotonic() + READY_WITHIN, 0
    while answered < 2 * len(SERVERS):
        answered = answered + 1 if not stage.client.outcome(asked).returncode else 0
        if time.monotonic() > deadline:
            logs = (f"{log.name}: {log.read_text()[-300:]}" for log in stage.directory.glob("*.log"))
            raise BenchError(f"{contestant.name} does not answer {command[0]}; " + "; ".join(logs))


# Figures


@dataclass(frozen=True)
class Sample:
    """One turn under load."""

    work: str
    contestant: str
    round: int
    rate: float
    cpu_us: float
    p50_us: float
    failed: int


def measure(stage: Stage, work: Work, rounds: int, seconds: int) -> Iterator[Sample]:
    """All contestants in each round, in changing order."""
    for contestant in work.contestants:
        work.load(stage, contestant, 1)  # warm
    for turn in range(rounds):
        print(f"{work.name}: round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
        for contestant in stats.order(work.contestants, turn):
            before = cpu_ns()
            tally = work.load(stage, contestant, seconds)
            cpu_us = (cpu_ns() - before) / 1000 / max(tally.requests, 1)
            rate = tally.requests / tally.seconds
            yield Sample(work.name, contestant.name, turn, rate, cpu_us, tally.p50_us, tally.failed)


@dataclass(frozen=True)
class Row:
    """A line of the table: one contestant, or one ratio."""

    work: str
    what: str
    figure: float
    cpu: float
    """Of a contestant microseconds a request, of a ratio that of these, above 1 where the first does better."""
    unit: str
    held_to: float | None = None
    noise: float = 0.0
    failed: int = 0


def rows(work: Work, samples: Sequence[Sample]) -> Iterator[Row]:
    """Median rates, then the ratios: medians of the rounds' own, so that what drifts in the machine falls on both.
    The direct way and its twin are one thing: together they are what is compared with, apart they are the noise."""
    own = [sample for sample in samples if sample.work == work.name]
    rates = {each.name: [s.rate for s in own if s.contestant == each.name] for each in work.contestants}
    noise = stats.difference(statistics.median(rates[DIRECT]), statistics.median(rates[TWIN]))
    costs = {each.name: [s.cpu_us for s in own if s.contestant == each.name] for each in work.contestants}
    straight = [statistics.mean(both) for both in zip(rates[DIRECT], rates[TWIN], strict=True)]
    straight_cost = [statistics.mean(both) for both in zip(costs[DIRECT], costs[TWIN], strict=True)]
    for name, found in rates.items():
        failed = sum(sample.failed for sample in own if sample.contestant == name)
        yield Row(
            work.name,
            name,
            statistics.median(found),
            statistics.median(costs[name]),
            "1/s",
            noise=spread(found),
            failed=failed,
        )
    for bar in work.bars:
        compared = straight if bar.to == DIRECT else rates[bar.to]
        ratios = [one / other for one, other in zip(rates[bar.of], compared, strict=True)]
        against = straight_cost if bar.to == DIRECT else costs[bar.to]
        cheaper = statistics.median(other / one for one, other in zip(costs[bar.of], against, strict=True))
        yield Row(work.name, f"{bar.of} / {bar.to}", statistics.median(ratios), cheaper, "", bar.least, noise)


def spread(values: Sequence[float]) -> float:
    """From the lowest to the highest, as a share of the lowest."""
    return stats.difference(min(values), max(values))


def table(found: Sequence[Row]) -> str:
    """Plain text, a line a row."""
    titles = ("work", "what", "figure", "unit", "CPU", "held to", "", "noise", "failed")
    lines = [titles] + [
        (
            row.work, row.what, number(row.figure), row.unit, number(row.cpu),
            "" if row.held_to is None else f">= {row.held_to:g}",
            "" if row.held_to is None else "met" if row.figure >= row.held_to else "MISSED", percent(row.noise),
            str(row.failed) if row.unit else "",
        )
        for row in found
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (zip(line, widths, strict=True) for line in lines)
    return "\n".join("  ".join(cell.ljust(width) for cell, width in line).rstrip() for line in padded)


# Many services


def many(services: int, servers: int, kind: str) -> str:
    """A configuration of so many."""
    frontends = "".join(
        f"  f{i}: {{mode: tcp, engine: kernel, bind: '192.168.{i >> 8}.{i & 255}:80', default_backend: b{i}}}\n"
        for i in range(services)
    )
    backends = "".join(
        f"  b{i}: {{{KINDS[kind]}servers: {{"
        + ", ".join(f"s{k}: {{address: '10.{i >> 8}.{i & 255}.{k + 1}:80'}}" for k in range(servers))
        + "}}\n"
        for i in range(services)
    )
    return f"frontends:\n{frontends}backends:\n{backends}"


def apply(services: int, servers: int, kind: str) -> dict[str, float]:
    """Seconds that it takes, in this network namespace, to put so many services in place, from their configuration as
    read to the kernel's word that it is done; and the median and the longest of a server's changes."""
    config = read.loads(many(services, servers, kind), file="many.yaml", node="this", environ={})
    pairs = [(name, server) for name, backend in config.backends.items() for server in backend.servers]
    index = {pair: i for i, pair in enumerate(pairs)}
    addresses = {(name, server): config.backends[name].servers[server].address for name, server in pairs}
    states = [ServerState(Condition.UP)] * len(pairs)
    nft = Nft()
    begin = time.perf_counter()
    planner = Planner(config, addresses, lambda *pair: index[pair])
    now = Desired(planner.services(states.__getitem__), config.gateway)
    nft.run(whole(now))
    took = time.perf_counter() - begin
    changes = []
    for i in range(CHANGES):
        row = (i // 2 * 397) % len(pairs)
        begin = time.perf_counter()
        states[row] = states[row]._replace(condition=Condition.UP if i % 2 else Condition.DOWN)
        then = Desired(planner.services(states.__getitem__), config.gateway)
        nft.run(change(now, then))
        now = then
        changes.append(time.perf_counter() - begin)
    nft.close()
    return {"applied": took, "change": statistics.median(changes), "longest_change": max(changes)}


def applied(space: Space, rounds: int, kind: str) -> dict[str, float]:
    """`apply` in a namespace, medians over the rounds."""
    command = [sys.executable, str(Path(__file__).resolve()), "--apply", kind]
    found = [json.loads(space.run(command, takes=120.0)) for _ in range(rounds)]
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def held(what: str, seconds: float, most: float) -> str:
    return f"{what}: {seconds * 1000:.1f} ms (held to {most * 1000:g} ms: {'met' if seconds <= most else 'MISSED'})"


# The command line


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [work.name for work in WORKS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*names, "services"], metavar="NAME", default=[*names, "services"],
                        help=f"of {', '.join(names)}, services")  # fmt: skip
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default {ROUNDS}")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds of {QUICK_SECONDS} s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--pybalancer", metavar="PATH", help="the pybalancer to measure, default: of this Python")
    parser.add_argument("--apply", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured; 1: requests failed; 2: could not measure; 130: interrupted. What was measured is still reported."""
    options = parse(arguments)
    if options.apply:
        print(json.dumps(apply(SERVICES, SERVERS_EACH, options.apply)))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    samples: list[Sample] = []
    times: dict[str, dict[str, float]] = {}
    status = 0
    try:
        # Where a server that gave up root's rights may look.
        with TemporaryDirectory(prefix="pybalancer-bench-") as name:
            directory = Path(name)
            directory.chmod(0o755)
            run(options, directory, samples, times)
    except (BenchError, LabError) as error:
        print(f"kernel.py: {error}", file=sys.stderr)
        status = EXIT_CANNOT
    except KeyboardInterrupt:
        print("kernel.py: interrupted, everything it started has ended", file=sys.stderr)
        status = 128 + signal.SIGINT
    found = show(samples, times)
    if options.json is not None:
        report = {"machine": machine(), "samples": [vars(sample) for sample in samples], "services": times}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return status or (EXIT_FAILED if any(row.failed for row in found) else 0)


def run(
    options: argparse.Namespace, directory: Path, samples: list[Sample], times: dict[str, dict[str, float]]
) -> None:
    with Stage(directory) as stage:
        works = [work for work in WORKS if work.name in options.only]
        if works:
            start(stage, pybalancer_command(options.pybalancer))
        for work in works:
            samples.extend(measure(stage, work, options.rounds, QUICK_SECONDS if options.quick else SECONDS))
        if "services" in options.only:
            # Where no daemon's table is.
            for kind in KINDS:
                times[kind] = applied(stage.client, min(options.rounds, 3), kind)


def show(samples: Sequence[Sample], times: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """The table, and what many services take; the rows."""
    measured = [work for work in WORKS if {s.contestant for s in samples if s.work == work.name} >= {
        each.name for each in work.contestants
    }]  # fmt: skip
    # A round that was broken off counts for nobody.
    found = list(chain.from_iterable(rows(work, whole_rounds(work, samples)) for work in measured))
    if found:
        print(table(found))
    for kind, took in times.items():
        what = f"{SERVICES} services of {SERVERS_EACH} servers, {kind}"
        print(held(f"{what}, applied", took["applied"], APPLIED_WITHIN))
        print(held(f"{what}, a server's change, median", took["change"], CHANGED_WITHIN))
        print(held(f"{what}, a server's change, longest", took["longest_change"], CHANGED_WITHIN))
    return found


def whole_rounds(work: Work, samples: Sequence[Sample]) -> list[Sample]:
    own = [sample for sample in samples if sample.work == work.name]
    complete = min(sum(s.contestant == each.name for s in own) for each in work.contestants)
    return [sample for sample in own if sample.round < complete]


if __name__ == "__main__":
    raise SystemExit(main())
