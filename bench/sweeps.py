"""The thesis's measurements: ab with more and more clients at once, dnsperf with more and more queries under way.

Every contestant has a machine of its own in the arena, and all stand side by side; one at a time is under load. The
balancer has core 0; client and servers share the other cores. A contestant with a worker a core has all of them, and
shares the client's: with two cores that is what it gets.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import balancers
import procfs
import stats
from arena import DNS, HTTP, PHP, TLS, Arena, Running, Way, cpu_ns
from balancers import DNS_NAME, Frontend, Task
from load import Tally, parse_ab, parse_dnsperf
from rig import BALANCER_CORE, BenchError, find_tool, wait_for

__all__ = [
    "LEVELS",
    "SWEEPS",
    "Entrant",
    "Sample",
    "Sweep",
    "entrants",
    "measure",
    "nginx_is_missing",
    "started",
    "wait_ready",
]

LEVELS = (1, 2, 3, 6, 12, 24, 48)
# For each point; of ab so many requests at most, whichever comes first (the thesis had 1000). Each is a connection.
SECONDS, MOST_REQUESTS = 1, 2000
GRACE = 15.0
READY_WITHIN = 20.0
# Frontends beside :80. What the kernel balances, and TLS servers, are on the second address as in the cluster.
L7, PI = 8000, 8080
# The rectangles of pi.php: some five milliseconds of a web server's time.
RECTANGLES = 200_000
DIRECT = "no balancer"
CORES = sorted(os.sched_getaffinity(0))
ALL = f", {len(CORES)} cores"


@dataclass(frozen=True)
class Entrant:
    """A contestant of the sweeps."""

    name: str
    way: Way
    contestant: balancers.Contestant | None = None
    """None: no balancer at all."""
    workers: int = 1
    sweeps: tuple[str, ...] = ()
    """In which it takes part."""
    needs: Callable[[], str] = lambda: ""
    """Why it cannot; empty when it can."""

    def task(self) -> Task:
        way, web = self.way, self.way.servers(HTTP)
        every = {
            "l4": Frontend("tcp", HTTP, web, host=way.vip, title="l4"),
            "l7": Frontend("http", L7, web, host=way.vip, title="l7"),
            "tls": Frontend("tcp", TLS, way.servers(TLS), host=way.vip, title="tls"),
            "pi": Frontend("http", PI, way.servers(PHP), host=way.vip, title="pi"),
            "dns": Frontend("udp", DNS, way.servers(DNS), host=way.vip, title="dns"),
            "kernel": Frontend("tcp", HTTP, web, host=way.second_vip, engine="nat", title="kernel"),
            "kernel-dns": Frontend("udp", DNS, way.servers(DNS), host=way.second_vip, engine="nat", title="kernel-dns"),
        }
        return Task(tuple(every[name] for name in self.sweeps), workers=self.workers)

    def at(self, sweep: Sweep) -> str:
        """The address that is asked in it."""
        if self.contestant is None:
            return self.way.server(2)
        return self.way.second_vip if sweep.of(self).startswith("kernel") else self.way.vip


@dataclass(frozen=True)
class Sweep:
    """One load at each level."""

    name: str
    title: str
    unit: str
    port: int
    server_port: int
    page: str = "/"
    scheme: str = "http"
    requests: int = MOST_REQUESTS
    also: str = ""
    """A frontend that takes part beside the one of the sweep's own name."""

    def of(self, entrant: Entrant) -> str:
        """The frontend of it that takes part; empty where none does."""
        if entrant.contestant is None:
            return self.name
        return next((name for name in (self.name, self.also) if name in entrant.sweeps), "")

    def ask(self, arena: Arena, entrant: Entrant, level: int) -> Tally:
        port = self.server_port if entrant.contestant is None else self.port
        address = entrant.at(self)
        if self.unit == "queries":
            command = [find_tool("dnsperf"), "-s", address, "-p", str(port), "-d", str(arena.directory / "queries")]
            command += ["-c", "1", "-T", "1", "-q", str(level), "-l", str(SECONDS)]
            return parse_dnsperf(arena.ask(command, takes=SECONDS + GRACE))
        command = [find_tool("ab"), "-q", "-l", "-r", "-s", "10", "-t", str(SECONDS), "-n", str(self.requests)]
        command += ["-c", str(level), f"{self.scheme}://{address}:{port}{self.page}"]
        return parse_ab(arena.ask(command, takes=SECONDS + GRACE))

    def is_ready(self, arena: Arena, entrant: Entrant) -> Callable[[], bool]:
        port, address = self.server_port if entrant.contestant is None else self.port, entrant.at(self)
        if self.unit == "queries":
            return arena.asks_well(["dig", "+tries=1", "+timeout=1", DNS_NAME, f"@{address}", "-p", str(port)])
        page = self.page.replace(str(RECTANGLES), "1000")
        return arena.asks_well(["curl", "-skf", "--max-time", "2", f"{self.scheme}://{address}:{port}{page}"])


SWEEPS = (
    Sweep("l4", "trivial page, TCP proxy (:80)", "requests", HTTP, HTTP),
    Sweep("l7", "trivial page, HTTP proxy (:8000)", "requests", L7, HTTP),
    Sweep("tls", "trivial page, TLS passed through (:443)", "requests", TLS, TLS, scheme="https", requests=600),
    Sweep("kernel", "trivial page, in the kernel (.202:80)", "requests", HTTP, HTTP),
    Sweep("pi", f"pi.php?n={RECTANGLES}, HTTP proxy", "requests", PI, PHP, f"/pi.php?n={RECTANGLES}", requests=150),
    Sweep("dns", "DNS over UDP (:53)", "queries", DNS, DNS, also="kernel-dns"),
)


def entrants(pybalancer: Sequence[str], haproxy: Sequence[tuple[str, str]]) -> list[Entrant]:
    """Who takes part; `haproxy` are names and programs of HAProxy, the distribution's first."""
    web, proxied = ("l4", "l7", "tls"), ("l4", "l7", "tls", "pi")
    ours = balancers.pybalancer(pybalancer, "pybalancer")
    found: list[tuple[str, balancers.Contestant | None, int, tuple[str, ...], Callable[[], str]]] = [
        (DIRECT, None, 1, (), _nothing),
        ("pybalancer", ours, 1, (*proxied, "dns"), _nothing),
        (f"pybalancer{ALL}", ours, len(CORES), (*web, "dns"), _nothing),
        ("pybalancer kernel", ours, 1, ("kernel", "kernel-dns"), _nothing),
    ]
    for number, (name, program) in enumerate(haproxy):
        each = balancers.haproxy(program, name)
        found.append((name, each, 1, proxied, _program(program)))
        if not number:
            found.append((f"{name}{ALL}", each, len(CORES), web, _program(program)))
    nginx, dnsdist = balancers.nginx("nginx", "nginx"), balancers.dnsdist("dnsdist", "dnsdist")
    found += [
        ("nginx", nginx, 1, (*proxied, "dns"), nginx_is_missing),
        (f"nginx{ALL}", nginx, len(CORES), web, nginx_is_missing),
        ("dnsdist", dnsdist, 1, ("dns",), _program("dnsdist")),
        ("IPVS", balancers.ipvs("ipvsadm", "IPVS"), 1, ("kernel", "kernel-dns"), _ipvs),
    ]
    return [
        Entrant(name, Way(f"way{number}", number, forwards=contestant is None), contestant, workers, sweeps, needs)
        for number, (name, contestant, workers, sweeps, needs) in enumerate(found, 1)
    ]


def _nothing() -> str:
    return ""


def _program(name: str) -> Callable[[], str]:
    def why_not() -> str:
        try:
            find_tool(name)
        except BenchError as error:
            return str(error)
        return ""

    return why_not


def nginx_is_missing() -> str:
    if reason := _program("nginx")():
        return reason
    said = subprocess.run([find_tool("nginx"), "-V"], capture_output=True, text=True, check=False).stderr
    if balancers.stream_module() or "--with-stream " in f"{said} ".replace("\n", " "):
        return ""
    return "nginx has no stream module: apt install libnginx-mod-stream"


def _ipvs() -> str:
    if reason := _program("ipvsadm")():
        return reason
    done = subprocess.run([find_tool("ipvsadm"), "-Ln"], capture_output=True, text=True, check=False)
    return "" if not done.returncode else "this kernel has no ip_vs"


def started(arena: Arena, entrant: Entrant) -> Running | None:
    """Just started: it may not answer yet. None where no process stays."""
    if entrant.contestant is None:
        return None
    space, contestant, name = arena.between[entrant.way.name], entrant.contestant, entrant.way.name
    file = arena.write(f"{name}.{contestant.suffix}", contestant.render(entrant.task(), directory=str(arena.directory)))
    program, *rest = contestant.command(str(file))
    if contestant.template == "ipvs.rules":
        space.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
        space.run([program, *rest])
        return None
    cores = CORES if entrant.workers > 1 else [BALANCER_CORE]
    return arena.start(space, name, find_tool(program), *rest, cores=cores)


def wait_ready(arena: Arena, entrant: Entrant, running: Running | None, sweeps: Sequence[Sweep]) -> None:
    """Until it answers for a while in each sweep that it takes part in. BenchError where it does not."""
    for sweep in sweeps:
        if not sweep.of(entrant):
            continue
        is_ready = sweep.is_ready(arena, entrant)
        # Each server in its turn.
        for _ in range(6):
            try:
                wait_for(f"{entrant.name} answers {sweep.name}", is_ready, within=READY_WITHIN, every=0.05)
            except BenchError as error:
                said = "" if running is None else f"; it said: {running.last_words()}"
                raise BenchError(f"{error}{said}") from None


@dataclass(frozen=True)
class Sample:
    """One contestant under load at one level, once."""

    sweep: str
    contestant: str
    level: int
    round: int
    rate: float
    ms: float
    """Mean time of a request: the level divided by the rate, as ab has it."""
    share: float
    """Of one core, that the balancer's processes took."""
    cpu_us: float
    """The balancer's processes' CPU time for a request; 0 where the kernel does it in others' name."""
    all_us: float
    """That of everything, client and servers included."""
    failed: int


def measure(
    arena: Arena, sweep: Sweep, taking_part: Mapping[Entrant, Running | None], levels: Sequence[int], turn: int
) -> Iterator[Sample]:
    """One round: every level, at each all contestants in changing order."""
    for place, level in enumerate(levels):
        for entrant in stats.order([*taking_part], turn + place):
            pids = [] if (running := taking_part[entrant]) is None else running.pids()
            if running is not None and not pids:
                raise BenchError(f"{entrant.name} has ended: {running.last_words()}")
            whole, own, begun = cpu_ns(), procfs.cpu_ns(pids), time.monotonic()
            tally = sweep.ask(arena, entrant, level)
            own, whole = procfs.cpu_ns(pids) - own, cpu_ns() - whole
            requests, seconds = max(tally.requests, 1), min(tally.seconds, time.monotonic() - begun)
            yield Sample(
                sweep=sweep.name,
                contestant=entrant.name,
                level=level,
                round=turn,
                rate=tally.requests / tally.seconds,
                ms=level * tally.seconds / requests * 1000,
                share=own / 1e9 / seconds,
                cpu_us=own / 1000 / requests,
                all_us=whole / 1000 / requests,
                failed=tally.failed,
            )
