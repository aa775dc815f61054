#!/usr/bin/env python3
"""Mixed load with everything that goes wrong on a network, and what is left of it in pybalancer. See README.md."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import socket
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path

import procfs
import uvloop
from cost import pybalancer_command
from customers import Crowd, Ports, Tally
from report import number
from rig import BALANCER_CORE, LOAD_CORE, BenchError, Process, Rig, free_port
from servers import fetch

__all__ = ["Lull", "Reading", "Rest", "main", "problems"]

WORKERS = 2
OPEN_FILES = 4000
# The first one, the one that checks, and the workers.
PROCESSES = 2 + WORKERS
SERVERS = 3
CLIENTS = 40
# At these shares of the time the load pauses, and everything is to be as before it. Before the first of them the
# configuration is reloaded and a child dies; from the second on, when everybody is warm, memory is to stay.
LULLS = (0.1, 0.2, 0.6, 1.0)
# The short form has fewer, for each takes its time.
FEW_LULLS = (0.4, 1.0)
# After so many reloads in a row, all is as after each further one.
CALM_RELOADS = 3
SHORT = 60.0
WARM = 1.0
READY_WITHIN = 15.0
SETTLE_WITHIN = 20.0
# The DNS proxy's sockets: eight for each server.
MOST_KEPT = 8 * SERVERS
# The memory of a process may differ by so much between the second and the last lull: what is remembered of heads that
# come again, MiB of each kind at most, is not all there by the second.
GROWTH_KIB = 3072
# Workers give back every ten seconds what is free.
GIVEN_BACK_WITHIN = 11.0
# In the short form it has not had all sizes of bodies by the first.
WARMING_KIB = 8192
# Of requests that ask for nothing odd so many are answered by a server, whatever becomes of the servers meanwhile.
LEAST_WHOLE = 0.9
# In the short form one second without any server weighs more.
LEAST_WHOLE_SHORT = 0.6
EXIT_WRONG = 1
EXIT_CANNOT = 2
_GAUGES = ("_current_sessions", "_current_queue", "_idle_connections_current", "process_current_connections")
_ERROR_PRIORITY = 3


@dataclass(frozen=True)
class Reading:
    """What the balancer holds at one moment."""

    memory_kib: dict[int, int]
    """By process."""
    descriptors: dict[int, int]
    """By process, but for sockets towards DNS servers: they are kept for a while, so many for each server at most."""
    kept: int
    """Of these, in the process that has most."""
    tasks: int
    gauges: dict[str, int]
    """Those that are not 0."""

    def excess(self, before: Reading) -> list[str]:
        """What there is more of than before the load: a line each."""
        found = [f"{name} is {value}" for name, value in self.gauges.items()]
        if self.tasks > before.tasks:
            found.append(f"{self.tasks} tasks, {before.tasks} before the load")
        if len(self.descriptors) != len(before.descriptors):
            found.append(f"{len(self.descriptors)} processes, {len(before.descriptors)} before the load")
        if self.kept > MOST_KEPT:
            found.append(f"{self.kept} sockets of one process towards DNS servers, {MOST_KEPT} are to be enough")
        now, then = sorted(self.descriptors.values()), sorted(before.descriptors.values())
        if any(more > less for more, less in zip(now, then, strict=False)):
            found.append(f"descriptors {now}, {then} before the load")
        return found


class Rest:
    """Whether nothing of the load is there any more: in ten readings in a row. Of these what is there all the time
    counts, since checks come and go, on a busy machine at every moment one."""

    def __init__(self) -> None:
        self._readings: list[Reading] = []
        self.missing = "not read"
        """Why it is not at rest, or empty."""

    def add(self, reading: Reading) -> Reading:
        """One more; what is there all the time."""
        found = self._readings
        if reading.gauges or (found and found[-1].descriptors.keys() != reading.descriptors.keys()):
            found.clear()
        if not reading.gauges:
            found.append(reading)
        if len(found) < 10:
            self.missing = f"not at rest: {reading.gauges or 'processes come and go'}"
            return reading
        del found[:-10]
        self.missing = ""
        descriptors = {pid: min(each.descriptors[pid] for each in found) for pid in reading.descriptors}
        return replace(reading, descriptors=descriptors, tasks=min(each.tasks for each in found))


@dataclass(frozen=True)
class Lull:
    """A pause in the load."""

    at: float
    """Seconds of load before it."""
    settled: float
    """How long it took until all was as before, in seconds."""
    reading: Reading
    left: list[str]
    """What was still there when it was given up."""


@dataclass
class Report:
    """All that was found."""

    seconds: float
    before: Reading
    lulls: list[Lull] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    """What the balancer logged as an error."""
    faults: int = 0
    """The balancer's own, as it counts them."""
    kept: int = 0
    """Answers from its cache."""
    queued: int = 0
    """Clients that waited for a server at one time."""
    status: int | None = None


def problems(report: Report, tally: Tally) -> list[str]:
    """What must not be, a line each; none when all is well."""
    found = list(tally.wrong)
    for lull in report.lulls:
        found += [f"after {lull.at:.0f} s of load: {what}" for what in lull.left]
    if len(report.lulls) > 1:
        first, last = (
            report.lulls[1 if report.seconds >= SHORT else 0].reading.memory_kib,
            report.lulls[-1].reading.memory_kib,
        )
        allowed = GROWTH_KIB if report.seconds >= SHORT else WARMING_KIB
        for pid in first.keys() & last.keys():
            if last[pid] - first[pid] > allowed:
                found.append(f"process {pid}: {first[pid]} KiB once it was warm, {last[pid]} at the end")
        if not first.keys() & last.keys():
            found.append("no process lived through the load")
    found += [
        f"no answer {what}"
        for what, count in (("came compressed", tally.packed), ("was kept", report.kept))
        if not count
    ]
    found += [f"logged: {line}" for line in report.said]
    if report.faults:
        found.append(f"{report.faults} internal errors counted")
    plain, least = tally.plain, LEAST_WHOLE if report.seconds >= SHORT else LEAST_WHOLE_SHORT
    if plain["whole"] < max(least * plain.total(), 1):
        found.append(f"of {plain.total()} plain requests only {plain['whole']} were answered by a server")
    if report.status:
        found.append(f"it ended with status {report.status}")
    return found


class Stand:
    """The balancer with its servers."""

    def __init__(self, rig: Rig, command: Sequence[str]) -> None:
        self._rig = rig
        self.ports = Ports(
            http=tuple(free_port() for _ in range(6)), tcp=free_port(), dns=free_port(), flow=free_port()
        )
        self._server_ports = [(free_port(), free_port()) for _ in range(SERVERS)]
        self._stats = free_port()
        self._log = socket.socket(type=socket.SOCK_DGRAM)
        self._log.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._log.bind(("127.0.0.1", 0))
        self._log.setblocking(False)
        self.servers: list[Process | None] = [None] * SERVERS
        for index in range(SERVERS):
            self.start_server(index)
        config = rig.write("soak.yaml", self._render())
        self.balancer = rig.start("pybalancer", [*command, "-c", str(config)], core=BALANCER_CORE)

    def start_server(self, index: int) -> None:
        command = [sys.executable, str(Path(__file__).with_name("rogues.py")), *map(str, self._server_ports[index])]
        self.servers[index] = self._rig.start(self._rig.unique("rogue"), command, core=LOAD_CORE)

    def end_server(self, index: int) -> None:
        server = self.servers[index]
        if server is not None:
            # It minds no signal: its connections end where they are.
            os.kill(server.pid, signal.SIGKILL)
            self._rig.end(server)
            self.servers[index] = None

    def _render(self) -> str:
        http, rules, always, never, limited, kept = self.ports.http
        servers = "".join(
            f"\n      s{web}: {{address: 127.0.0.1:{web}, cookie: s{web}}}" for web, _ in self._server_ports
        )
        few = servers.replace("}", ", maxconn: 2}")
        names = "".join(f"\n      s{name}: {{address: 127.0.0.1:{name}}}" for _, name in self._server_ports)
        check = "check: {type: tcp, interval: 300ms, fall: 2, rise: 1}"
        text = textwrap.dedent(f"""\
            global:
              workers: {WORKERS}
              maxconn: 1000
              hard_stop_after: 3s
              log: {{target: "udp://127.0.0.1:{self._log.getsockname()[1]}"}}
            defaults:
              timeout: {{connect: 1s, client: 3s, server: 3s, http_request: 3s, http_keep_alive: 2s, tunnel: 4s}}
              retries: 3
            stats: {{bind: 127.0.0.1:{self._stats}}}
            frontends:
              plain: {{mode: http, bind: 127.0.0.1:{http}, forwarded_for: true, default_backend: web}}
              rules:
                mode: http
                bind: 127.0.0.1:{rules}
                forwarded_for: true
                request_id: true
                compression: true
                http_request:
                  - {{set_header: {{X-Real-IP: "%[src]"}}}}
                http_response:
                  - {{set_header: {{X-Served-By: "%[server]"}}}}
                use_backend:
                  - {{backend: always, if: {{method: [POST, PUT]}}}}
                default_backend: web
              always: {{mode: http, bind: 127.0.0.1:{always}, forwarded_for: true, maxconn: 8, default_backend: always}}
              never: {{mode: http, bind: 127.0.0.1:{never}, forwarded_for: true, default_backend: never}}
              kept: {{mode: http, bind: 127.0.0.1:{kept}, forwarded_for: true, default_backend: kept}}
              limited:
                mode: http
                bind: 127.0.0.1:{limited}
                forwarded_for: true
                limits: {{connections: 4, request_rate: {{limit: 50/1s, tarpit: 500ms}}}}
                default_backend: web
              tcp: {{mode: tcp, bind: 127.0.0.1:{self.ports.tcp}, default_backend: tcp}}
              dns: {{mode: udp, bind: 127.0.0.1:{self.ports.dns}, udp: {{protocol: dns, timeout: 500ms}},
                     default_backend: dns}}
              flow: {{mode: udp, bind: 127.0.0.1:{self.ports.flow}, udp: {{protocol: generic, timeout: 1s}},
                      default_backend: dns}}
            backends:
              web:
                pool_purge_delay: 1s
                cookie: {{name: SERVERID}}
                {check}
                servers:@web@
              always:
                balance: leastconn
                http_reuse: always
                pool_purge_delay: 1s
                timeout: {{queue: 500ms}}
                {check}
                servers:@few@
              kept:
                compression: true
                cache: {{total_max_size: 4m, max_object_size: 300k, max_age: 2s}}
                pool_purge_delay: 1s
                {check}
                servers:@web@
              never:
                balance: random
                http_reuse: never
                {check}
                servers:@web@
              tcp:
                {check}
                servers:@web@
              dns:
                check: {{type: dns, query: ok.soak.test, qtype: A, interval: 300ms, fall: 2, rise: 1}}
                servers:@names@
            """)
        return text.replace("@web@", servers).replace("@few@", few).replace("@names@", names)

    async def wait_until_ready(self) -> None:
        """Every server of every backend has been found up."""
        deadline = time.monotonic() + READY_WITHIN
        while True:
            self.balancer.require_alive()
            states = re.findall(r'^haproxy_server_status\{.*state="UP"\} (\d)', self.metrics(), re.MULTILINE)
            if states and set(states) == {"1"}:
                return
            if time.monotonic() > deadline:
                raise BenchError(f"pybalancer found its servers up: not within {READY_WITHIN:g} s")
            await asyncio.sleep(0.05)

    def metrics(self) -> str:
        """Its page of metrics; empty while there is none."""
        answer = fetch(self._stats, "/metrics")
        return answer[1] if answer is not None else ""

    def read(self) -> Reading:
        """What it holds now, but for its memory."""
        kept = self._towards_names()
        links = {pid: procfs.descriptors(pid) for pid in self.balancer.pids()}
        # What those before the last reload counted is kept until the next one, in memory that is a file.
        descriptors = {
            pid: sum(link not in kept and not link.startswith("/memfd:") for link in found)
            for pid, found in links.items()
        }
        most = max(sum(link in kept for link in found) for found in links.values())
        gauges: dict[str, int] = {}
        tasks = -1
        for line in self.metrics().splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith("#"):
                continue
            if name == "haproxy_process_current_tasks":
                tasks = int(value)
            elif name.partition("{")[0].endswith(_GAUGES) and value != "0":
                gauges[name.removeprefix("haproxy_")] = int(float(value))
        return Reading({}, descriptors, most, tasks, gauges)

    def children(self) -> list[int]:
        """All of its processes but the first."""
        return self.balancer.pids()[1:]

    def _towards_names(self) -> set[str]:
        """Links of descriptors that are UDP sockets connected to a DNS server."""
        ports = {port for _, port in self._server_ports}
        lines = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
        return {f"socket:[{line[9]}]" for line in lines if int(line[2].rpartition(":")[2], 16) in ports}

    async def reload(self) -> None:
        """Until the workers of before have ended."""
        elders = set(self.balancer.pids()) - {self.balancer.pid}
        os.kill(self.balancer.pid, signal.SIGHUP)
        deadline = time.monotonic() + READY_WITHIN
        while elders & set(now := self.balancer.pids()) or len(now) != PROCESSES:
            if time.monotonic() > deadline:
                raise BenchError(f"all workers are new: not within {READY_WITHIN:g} s")
            await asyncio.sleep(0.05)

    def values(self, name: str) -> list[int]:
        """All samples of a metric."""
        return [int(value) for value in re.findall(rf"^{name}\S* (\d+)", self.metrics(), re.MULTILINE)]

    def errors(self) -> list[str]:
        """Lines that it logged as errors since the last look."""
        found = []
        while True:
            try:
                line = self._log.recv(65536).decode("utf-8", "replace")
            except BlockingIOError:
                return found
            priority = re.match(r"<(\d+)>", line)
            if priority is None or int(priority[1]) & 7 == _ERROR_PRIORITY:
                found.append(line)

    def close(self) -> None:
        self._log.close()


class Soak:
    """One run."""

    def __init__(self, stand: Stand, crowd: Crowd, *, seconds: float, seed: int) -> None:
        self._stand = stand
        self._crowd = crowd
        self._seconds = seconds
        self._dice = random.Random(f"{seed}/events")
        self._said: list[str] = []

    async def run(self) -> Report:
        """Load, lull, load, lull."""
        await self._stand.wait_until_ready()
        drain = asyncio.create_task(self._drain())
        await self._crowd.visit(WARM)
        await self._begin_anew()
        before = (await self._settle(None)).reading
        report = Report(self._seconds, before)
        done = 0.0
        for share in FEW_LULLS if self._seconds < SHORT else LULLS:
            seconds = share * self._seconds - done
            is_first = not report.lulls
            tell(f"load for {seconds:.0f} s")
            events = asyncio.create_task(self._events(report.events, disruptive=is_first, seconds=seconds))
            await self._crowd.visit(seconds)
            await events
            done += seconds
            if is_first:
                await self._begin_anew()
            lull = await self._settle(before, at=done)
            tell(f"settled after {lull.settled:.1f} s")
            report.lulls.append(lull)
        drain.cancel()
        self._said += self._stand.errors()
        report.said = self._said
        report.faults = sum(self._stand.values("haproxy_(?:frontend|backend)_internal_errors_total"))
        report.kept = sum(self._stand.values("haproxy_backend_http_cache_hits_total"))
        report.queued = max(self._stand.values("haproxy_backend_max_queue"), default=0)
        return report

    async def _begin_anew(self) -> None:
        """New processes that have all been in use. What they have of those before them is the same each time, as long
        as these have ended; what is made at the first use, such as pools and lines to the log, is there."""
        await self._stand.wait_until_ready()
        for _ in range(CALM_RELOADS):
            await self._stand.reload()
        self._stand.end_server(0)
        await self._crowd.visit(WARM)
        self._stand.start_server(0)
        await self._stand.wait_until_ready()

    async def _drain(self) -> None:
        while True:
            self._said += self._stand.errors()
            await asyncio.sleep(0.05)

    async def _settle(self, before: Reading | None, *, at: float = 0.0) -> Lull:
        """Wait until nothing of the load is left, then read the memory too."""
        began = time.monotonic()
        rest = Rest()
        while True:
            try:
                reading = rest.add(self._stand.read())
            except FileNotFoundError:
                continue  # a process ended while we looked
            left = ([rest.missing] if rest.missing else []) + (reading.excess(before) if before is not None else [])
            settled = time.monotonic() - began
            if not left or settled > SETTLE_WITHIN:
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5 if self._seconds < SHORT else GIVEN_BACK_WITHIN)
        # Not what is private: that depends on who else has the same pages, of libraries and since the fork.
        memory = {pid: procfs.memory_kib([pid], "Anonymous") for pid in self._stand.balancer.pids()}
        reading = replace(reading, memory_kib=memory)
        return Lull(at, settled, reading, left)

    async def _events(self, done: Counter[str], *, disruptive: bool, seconds: float) -> None:
        """What happens to servers and balancer during a part of the load; at its end all servers run."""
        ends = time.monotonic() + seconds
        stand, dice = self._stand, self._dice
        orders = asyncio.create_task(self._orders(done, seconds)) if disruptive else None
        try:
            while (now := time.monotonic()) < ends:
                pause = min(dice.uniform(0.3, 2.0), max(ends - now, 0))
                index = dice.randrange(SERVERS)
                what = dice.choices(("server killed", "server stopped", "all servers killed", ""), (6, 3, 0.5, 2))[0]
                if what:
                    done[what] += 1
                if what == "server killed":
                    stand.end_server(index)
                    await asyncio.sleep(pause)
                    stand.start_server(index)
                elif what == "server stopped" and (server := stand.servers[index]) is not None:
                    os.kill(server.pid, signal.SIGSTOP)
                    await asyncio.sleep(pause)
                    os.kill(server.pid, signal.SIGCONT)
                elif what == "all servers killed":
                    for each in range(SERVERS):
                        stand.end_server(each)
                    await asyncio.sleep(pause)
                    for each in range(SERVERS):
                        stand.start_server(each)
                await asyncio.sleep(min(dice.uniform(0.5, 3.0), max(ends - time.monotonic(), 0)))
        finally:
            for each in range(SERVERS):
                if stand.servers[each] is None:
                    stand.start_server(each)
            if orders is not None:
                await orders

    async def _orders(self, done: Counter[str], seconds: float) -> None:
        """Two reloads and the death of a worker, or of the process that checks."""
        for what in ("reload", "child killed", "reload"):
            await asyncio.sleep(seconds / 5)
            done[what] += 1
            if what == "reload":
                os.kill(self._stand.balancer.pid, signal.SIGHUP)
            else:
                os.kill(self._dice.choice(self._stand.children()), signal.SIGKILL)


def tell(text: str) -> None:
    print(f"soak: {text}", file=sys.stderr, flush=True)


def table(report: Report, tally: Tally) -> str:
    """What was done, what became of it, what is left."""
    lines = [f"{'clients':16} {'whole':>8} {'cut':>8} {'left':>8}  answers of the balancer's own"]
    kinds = sorted({*tally.whole, *tally.cut, *tally.left, *(key.rpartition(" ")[0] for key in tally.own)})
    for kind in kinds:
        own = ", ".join(
            f"{key.rpartition(' ')[2]}: {n}" for key, n in sorted(tally.own.items()) if key.rpartition(" ")[0] == kind
        )
        lines.append(f"{kind:16} {tally.whole[kind]:8} {tally.cut[kind]:8} {tally.left[kind]:8}  {own}".rstrip())
    plain = tally.plain
    lines += [
        "",
        f"plain requests: {plain.total()}, {plain['whole'] / max(plain.total(), 1):.1%} answered by a server; "
        f"{tally.packed} answers compressed, {report.kept} from the cache, {report.queued} clients queued",
        f"meanwhile: {', '.join(f'{what}: {n}' for what, n in sorted(report.events.items()))}",
        "",
        f"{'after':>8} {'settled':>8} {'tasks':>6}  descriptors / MiB of memory (anonymous pages), by process",
    ]
    for at, settled, reading in [(0.0, 0.0, report.before)] + [(x.at, x.settled, x.reading) for x in report.lulls]:
        held = "  ".join(
            f"{reading.descriptors[pid]}/{number(kib / 1024)}"
            for pid, kib in sorted(reading.memory_kib.items())
            if pid in reading.descriptors
        )
        lines.append(f"{at:6.0f} s {settled:6.1f} s {reading.tasks:6}  {held}")
    return "\n".join(lines)


def plain(found: object) -> object:
    """As JSON has it."""
    if is_dataclass(found):
        return {each.name: plain(getattr(found, each.name)) for each in fields(found)}
    if isinstance(found, dict):
        return {str(key): plain(value) for key, value in found.items()}
    return [plain(each) for each in found] if isinstance(found, list) else found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=10.0, metavar="N", help="of load, default: 10")
    length.add_argument("--seconds", type=float, metavar="N", help="the same in seconds")
    parser.add_argument("--clients", type=int, default=CLIENTS, metavar="N", help=f"at a time, default: {CLIENTS}")
    parser.add_argument("--pause", type=float, default=0.1, metavar="S", help="of each client between two visits")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="of all that is chosen; default: the time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it there")
    parser.add_argument("--pybalancer", metavar="PATH", help="the pybalancer to try, default: of this Python")
    options = parser.parse_args(arguments)
    options.seconds = options.seconds if options.seconds is not None else options.minutes * 60
    options.seed = options.seed if options.seed is not None else int(time.time())
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all was well; 1: something was not; 2: it could not be tried; 130: interrupted."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    tell(f"seed {options.seed}")
    try:
        with Rig(least_open_files=OPEN_FILES) as rig:
            stand = Stand(rig, pybalancer_command(options.pybalancer))
            crowd = Crowd(stand.ports, seed=options.seed, clients=options.clients, pause=options.pause)
            soak = Soak(stand, crowd, seconds=options.seconds, seed=options.seed)
            report = uvloop.run(soak.run())
            report.status = rig.end(stand.balancer)
            stand.close()
    except BenchError as error:
        print(f"soak.py: {error}", file=sys.stderr)
        return EXIT_CANNOT
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    found = problems(report, crowd.tally)
    print(table(report, crowd.tally))
    print("".join(f"WRONG: {what}\n" for what in found) or "nothing is left, nothing was wrong")
    if options.json is not None:
        whole = {"seed": options.seed, "problems": found, "report": plain(report), "tally": plain(crowd.tally)}
        options.json.write_text(json.dumps(whole, indent=1) + "\n")
    return EXIT_WRONG if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
