#!/usr/bin/env python3
"""Reloads in a row under mixed load: nothing is lost, and nothing of them is left. See README.md."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import procfs
import uvloop
from cost import pybalancer_command
from report import number
from rig import BALANCER_CORE, LOAD_CORE, BenchError, Rig, free_port
from servers import fetch
from soak import Reading, Rest
from steady import MIX, Doors, Steady

__all__ = ["Report", "main", "problems"]

RELOADS = 200
# With fewer, downloads need not be as long.
MANY = 50
WORKERS = 2
# Three that serve everything, one that comes and goes, one in maintenance: no two at one address.
SERVERS, EXTRA, OUT = 3, 3, 4
OPEN_FILES = 4000
PROCESSES = 2 + WORKERS
# Load without a reload first, to compare with (seconds).
CALM = 10.0
READY_WITHIN = 15.0
RELOADED_WITHIN = 15.0
SETTLE_WITHIN = 20.0
# After so many reloads in a row all is as after each further one.
CALM_RELOADS = 3
# What a process may have more at the end than one of its kind had before, KiB: heads that come again are remembered.
GROWTH_KIB = 3072
EXIT_WRONG = 1
EXIT_CANNOT = 2
_GAUGES = ("_current_sessions", "_current_queue", "_idle_connections_current", "process_current_connections")
_ERROR_PRIORITY = 4


@dataclass
class Report:
    """All that was found."""

    reloads: list[float] = field(default_factory=list)
    """How long each took, seconds from the signal until it was in place."""
    calm: list[float] = field(default_factory=list)
    """What requests took before the first, seconds."""
    stormy: list[float] = field(default_factory=list)
    """And while it was reloaded."""
    asked_per_second: float = 0.0
    most_processes: int = 0
    old_workers: int = 0
    """Of before reloads, when the load ended."""
    old_kib: list[int] = field(default_factory=list)
    """What each of them had for itself."""
    settled: float = 0.0
    """After the load, until all was as before, seconds."""
    memory: tuple[list[int], list[int]] = ([], [])
    """KiB of the first process, then of the others, before the load and after it."""
    wrong: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    status: int | None = None


def percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def problems(report: Report, wanted: int) -> list[str]:
    """What must not be, a line each; none when all is well."""
    found = list(report.wrong)
    if len(report.reloads) != wanted:
        found.append(f"{len(report.reloads)} of {wanted} reloads were in place")
    if missing := [kind for kind in MIX if not report.done.get(kind)]:
        found.append(f"nothing came of {', '.join(missing)}")
    if report.status:
        found.append(f"it ended with status {report.status}")
    return found


class Stand:
    """The balancer with its servers, and the file that it reads."""

    def __init__(self, rig: Rig, command: Sequence[str]) -> None:
        ports = [free_port() for _ in range(7)]
        self.doors = Doors(*ports[:5])
        self.extra = ports[5]
        self._stats = ports[6]
        self._server_ports = [(free_port(), free_port()) for _ in range(OUT + 1)]
        self._nobody = free_port()
        self.lines: list[str] = []
        """Of the log."""
        self._log = socket.socket(type=socket.SOCK_DGRAM)
        self._log.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._log.bind(("127.0.0.1", 0))
        self._log.setblocking(False)
        script = str(Path(__file__).with_name("rogues.py"))
        for pair in self._server_ports:
            rig.start(rig.unique("server"), [sys.executable, script, *map(str, pair)], core=LOAD_CORE)
        self.run = rig.directory / "run"
        self.state = rig.directory / "state"
        for each in (self.run, self.state):
            each.mkdir()
        self.config = self._first()
        self._file = rig.write("storm.yaml", json.dumps(self.config))
        self.balancer = rig.start("pybalancer", [*command, "-c", str(self._file)], core=BALANCER_CORE)

    def _first(self) -> dict[str, Any]:
        check = {"type": "tcp", "interval": "300ms", "fall": 2, "rise": 1}
        web = {
            f"s{index}": {"address": f"127.0.0.1:{port}"}
            for index, (port, _) in enumerate(self._server_ports[:SERVERS])
        }
        names = {
            f"n{index}": {"address": f"127.0.0.1:{port}"}
            for index, (_, port) in enumerate(self._server_ports[:SERVERS])
        }
        out = {"out": self._at(OUT)}
        dead = {"dead": {"address": f"127.0.0.1:{self._nobody}"}}

        def front(port: int, **more: Any) -> dict[str, Any]:
            return {"bind": f"127.0.0.1:{port}", **more}

        doors = self.doors
        return {
            "global": {
                "workers": WORKERS,
                "maxconn": 1000,
                "hard_stop_after": "1h",
                "log": {"target": f"udp://127.0.0.1:{self._log.getsockname()[1]}"},
                "runtime_socket": {"path": str(self.run / "admin.sock"), "level": "admin"},
                "state_directory": str(self.state),
            },
            "defaults": {"timeout": {"connect": "5s", "client": "60s", "server": "60s", "http_keep_alive": "30s",
                                     "http_request": "10s", "tunnel": "60s"}},
            "stats": {"bind": f"127.0.0.1:{self._stats}"},
            "frontends": {
                "plain": front(doors.plain, mode="http", forwarded_for=True, default_backend="web"),
                "rules": front(doors.rules, mode="http", forwarded_for=True, default_backend="sticky",
                               http_response=[{"set_header": {"X-Served-By": "%[server]"}}]),
                "tcp": front(doors.tcp, mode="tcp", default_backend="tcp"),
                "flow": front(doors.flow, mode="udp", udp={"protocol": "generic", "timeout": "3s"},
                              default_backend="names"),
                "dns": front(doors.dns, mode="udp", udp={"protocol": "dns", "timeout": "5s"}, default_backend="names"),
            },
            "backends": {
                "web": {"check": check, "pool_purge_delay": "1s", "servers": web | out | dead},
                "sticky": {"check": check, "pool_purge_delay": "1s", "cookie": {"name": "SERVERID"},
                           "servers": {name: {**each, "cookie": name} for name, each in web.items()}},
                "tcp": {"check": check, "balance": "leastconn", "servers": web | out | dead},
                "names": {"check": {"type": "dns", "query": "ok.storm.test", "qtype": "A", "interval": "300ms"},
                          "servers": names},
            },
        }  # fmt: skip

    def _at(self, index: int) -> dict[str, Any]:
        return {"address": f"127.0.0.1:{self._server_ports[index][0]}"}

    # What is changed

    def change(self, turn: int) -> str:
        """The file, for reload number `turn`: ten kinds of them, one after the other. What it is now."""
        config = self.config
        web, sticky = (config["backends"][name]["servers"] for name in ("web", "sticky"))
        fronts = config["frontends"]
        match turn % 10:
            case 1:
                for servers in (web, sticky):
                    servers["extra"] = self._at(EXTRA)
                sticky["extra"]["cookie"] = "extra"
                what = "a server more"
            case 2:
                web["s1"]["weight"] = 5
                what = "a weight"
            case 3:
                fronts["extra"] = {"mode": "http", "bind": f"127.0.0.1:{self.extra}", "default_backend": "web"}
                what = "a listener more"
            case 4:
                config["backends"]["other"] = {"check": {"type": "tcp"}, "servers": {"other": self._at(EXTRA)}}
                fronts["plain"]["use_backend"] = [{"backend": "other", "if": {"path": ["/nowhere"]}}]
                what = "a backend and a rule more"
            case 6:
                for servers in (web, sticky):
                    del servers["extra"]
                what = "a server less"
            case 7:
                del web["s1"]["weight"]
                config["backends"]["web"]["check"] = {**config["backends"]["web"]["check"], "interval": "350ms"}
                what = "a weight and the time between checks"
            case 8:
                del fronts["extra"]
                what = "a listener less"
            case 9:
                del fronts["plain"]["use_backend"], config["backends"]["other"]
                config["backends"]["web"]["check"] = {**config["backends"]["web"]["check"], "interval": "300ms"}
                what = "a backend and a rule less"
            case _:
                what = "nothing"
        self._file.write_text(json.dumps(config))
        return what

    @property
    def has_extra(self) -> bool:
        """Whether there is to be somebody at the port that comes and goes."""
        return "extra" in self.config["frontends"]

    # What it does

    async def wait_until_ready(self) -> None:
        """Every server is found to be what it is."""
        deadline = time.monotonic() + READY_WITHIN
        while True:
            self.balancer.require_alive()
            states = dict(
                re.findall(r'^haproxy_server_status\{.*server="(\w+)",state="UP"\} (\d)', self.metrics(), re.MULTILINE)
            )
            if states and all((state == "1") == (name != "dead") for name, state in states.items()):
                return
            if time.monotonic() > deadline:
                raise BenchError(f"pybalancer found its servers up: not within {READY_WITHIN:g} s: {states}")
            await asyncio.sleep(0.05)

    def order(self, command: str) -> str:
        """What is said at the runtime socket."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self.run / "admin.sock"))
            client.sendall(command.encode() + b"\n")
            answer = b""
            while data := client.recv(65536):
                answer += data
        return answer.decode().strip()

    async def hear(self) -> None:
        """The log, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self.lines.append((await loop.sock_recv(self._log, 65536)).decode("utf-8", "replace"))

    async def reload(self) -> float:
        """Until it is in place: seconds."""
        seen, began = len(self.lines), time.monotonic()
        os.kill(self.balancer.pid, signal.SIGHUP)
        while True:
            new = self.lines[seen:]
            if any("reloaded: " in line for line in new):
                return time.monotonic() - began
            if any("is not loaded" in line for line in new) or time.monotonic() > began + RELOADED_WITHIN:
                raise BenchError(f"it was not reloaded: {new}")
            self.balancer.require_alive()
            await asyncio.sleep(0.002)

    def metrics(self) -> str:
        """Its page of metrics; empty while there is none."""
        answer = fetch(self._stats, "/metrics")
        return answer[1] if answer is not None else ""

    def read(self) -> Reading:
        """What it holds now."""
        links = {pid: procfs.descriptors(pid) for pid in self.balancer.pids()}
        gauges: dict[str, int] = {}
        tasks = -1
        for line in self.metrics().splitlines():
            name, _, value = line.rpartition(" ")
            if name == "haproxy_process_current_tasks":
                tasks = int(value)
            elif not name.startswith("#") and name.partition("{")[0].endswith(_GAUGES) and value != "0":
                gauges[name.removeprefix("haproxy_")] = int(float(value))
        memory = {pid: procfs.memory_kib([pid], "Anonymous") for pid in links}
        return Reading(memory, {pid: len(found) for pid, found in links.items()}, 0, tasks, gauges)

    def traces(self) -> dict[str, object]:
        """What it has outside of its processes, and what its first process shares with them."""
        files = {
            str(path.relative_to(folder.parent)) for folder in (self.run, self.state) for path in folder.rglob("*")
        }
        maps = Path(f"/proc/{self.balancer.pid}/maps").read_text()
        return {
            "files": sorted(files),
            "mappings that are shared": sum(maps.count(text) for text in ("/dev/zero", "memfd:", "/dev/shm")),
        }

    def old_workers(self) -> list[int]:
        """Those of before reloads: the eldest of all but those that there are to be."""
        children = sorted(self.balancer.pids()[1:], key=procfs.began)
        return children[: max(0, len(children) - (PROCESSES - 1))]

    def value(self, name: str, **labels: str) -> int:
        """The sum of a metric's samples with these labels."""
        return sum(
            int(float(line.rpartition(" ")[2])) for line in self.metrics().splitlines()
            if line.startswith((f"{name}{{", f"{name} "))
            and all(f'{key}="{value}"' in line for key, value in labels.items())
        )  # fmt: skip

    def errors(self, seen: int) -> list[str]:
        """Lines that it logged as errors or warnings since then."""
        found = []
        for line in self.lines[seen:]:
            priority = re.match(r"<(\d+)>", line)
            if priority is None or int(priority[1]) & 7 <= _ERROR_PRIORITY:
                found.append(line)
        return found

    def close(self) -> None:
        self._log.close()


class Counted(NamedTuple):
    """What clients count, and the balancer's name for it."""

    key: str
    metric: str
    labels: dict[str, str]


COUNTED = (
    *(
        Counted(f"{door} {what}", metric, {"proxy": door, **labels})
        for door in ("plain", "rules")
        for what, metric, labels in (
            ("connections", "haproxy_frontend_connections_total", {}),
            ("requests", "haproxy_frontend_http_requests_total", {}),
            ("answers", "haproxy_frontend_http_responses_total", {"code": "2xx"}),
            ("switched", "haproxy_frontend_http_responses_total", {"code": "1xx"}),
        )
    ),
    Counted("tcp connections", "haproxy_frontend_connections_total", {"proxy": "tcp"}),
    Counted("flow flows", "haproxy_frontend_sessions_total", {"proxy": "flow"}),
    Counted("dns datagrams", "haproxy_frontend_sessions_total", {"proxy": "dns"}),
)


class Storm:
    """One run."""

    def __init__(self, stand: Stand, *, reloads: int, seed: int, calm: float, until: float) -> None:
        self._stand = stand
        self._reloads = reloads
        self._seed = seed
        self._calm = calm
        self._until = until
        self.report = Report()

    async def run(self) -> Report:
        """Rest, load, reloads under load, rest."""
        stand, report = self._stand, self.report
        hearing = asyncio.create_task(stand.hear())
        await stand.wait_until_ready()
        for server in ("web/out", "tcp/out"):
            if said := stand.order(f"set server {server} state maint why storm"):
                raise BenchError(f"{server}: {said}")
        await self._become_used()
        before, traces = await self._rest(None), stand.traces()
        counts = self._counts()
        changes = stand.value("haproxy_server_check_up_down_total")
        seen = len(stand.lines)
        steady = Steady(stand.doors, seed=self._seed, is_short=self._reloads < MANY)
        steady.begin({kind: many for kind, (_, many) in MIX.items()})
        if not await steady.until_all_have_begun(READY_WITHIN):
            report.wrong.append("not all clients have begun")
        began = time.monotonic()
        await asyncio.sleep(self._calm)
        first = time.monotonic()
        tell(f"{self._reloads} reloads")
        await self._reload_all(first)
        last = time.monotonic()
        # Those of before that have nobody any more are gone by then.
        await asyncio.sleep(min(1.0, self._calm))
        old = stand.old_workers()
        report.old_workers, report.old_kib = len(old), []
        for pid in old:
            # One may have ended just now.
            with contextlib.suppress(OSError):
                report.old_kib.append(procfs.memory_kib([pid], "Private_Dirty", "Private_Clean"))
        tell(f"{len(report.reloads)} reloads took {last - first:.0f} s, {len(old)} old workers are left")
        await steady.stop()
        told = steady.told
        report.wrong += told.lost
        report.done, report.counts = dict(told.done), dict(told.counts)
        report.calm = [taken for at, taken in told.latencies if began <= at < first]
        report.stormy = [taken for at, taken in told.latencies if first <= at < last]
        report.asked_per_second = len(report.stormy) / max(last - first, 1e-9)
        ended = time.monotonic()
        await self._until_gone()
        report.settled = time.monotonic() - ended
        for (key, metric, labels), then in counts.items():
            counted = stand.value(metric, **dict(labels)) - then
            if counted != told.counts[key]:
                report.wrong.append(f"{metric} {dict(labels)}: {counted}; clients: {told.counts[key]} {key}")
        if (now := stand.value("haproxy_server_check_up_down_total")) != changes:
            report.wrong.append(f"servers went down {now - changes} times")
        # What is gone when a reload begins is forgotten by it.
        stand.change(0)
        await self._become_used()
        self._compare(before, await self._rest(before), traces)
        self._look_at_states()
        await asyncio.sleep(0.1)
        hearing.cancel()
        report.wrong += [f"logged: {line}" for line in stand.errors(seen)]
        return report

    async def _become_used(self) -> None:
        """New processes, and all kinds of clients have been there."""
        stand = self._stand
        for _ in range(CALM_RELOADS):
            elders = set(stand.balancer.pids()) - {stand.balancer.pid}
            await stand.reload()
            deadline = time.monotonic() + READY_WITHIN
            while elders & set(now := stand.balancer.pids()) or len(now) != PROCESSES:
                if time.monotonic() > deadline:
                    raise BenchError(f"all processes are new: not within {READY_WITHIN:g} s")
                await asyncio.sleep(0.02)
        steady = Steady(stand.doors, seed=self._seed)
        # Flows last for a while, and what they take is taken by DNS queries too.
        steady.begin(dict.fromkeys(MIX.keys() - {"download", "flow"}, 2))
        await steady.until_all_have_begun(READY_WITHIN)
        await asyncio.sleep(min(1.0, self._calm))
        await steady.stop()
        self.report.wrong += [f"in calm weather: {each}" for each in steady.told.lost]

    async def _reload_all(self, first: float) -> None:
        report, stand = self.report, self._stand
        for turn in range(1, self._reloads + 1):
            what = stand.change(turn)
            try:
                report.reloads.append(await stand.reload())
            except BenchError as error:
                report.wrong.append(f"reload {turn} ({what}): {error}")
                return
            report.most_processes = max(report.most_processes, len(stand.balancer.pids()))
            if await self._is_anybody_at(stand.extra, wanted=stand.has_extra) != stand.has_extra:
                report.wrong.append(f"reload {turn} ({what}): a listener is {'not ' * stand.has_extra}there")
            if turn % 20 == 0:
                tell(f"{turn} reloads, {report.most_processes} processes at most")
            if time.monotonic() - first > self._until:
                report.wrong.append(f"not done within {self._until:g} s")
                return

    @staticmethod
    async def _is_anybody_at(port: int, *, wanted: bool) -> bool:
        """Whoever is removed is let go of by its workers within a moment."""
        for _ in range(100):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return False
            writer.close()
            if wanted:
                break
            await asyncio.sleep(0.005)
        return True

    async def _rest(self, before: Reading | None) -> Reading:
        """Wait until it stays as it is, and has nothing more than `before`."""
        began, rest = time.monotonic(), Rest()
        while True:
            try:
                reading = rest.add(self._stand.read())
            except (FileNotFoundError, ProcessLookupError):
                continue  # a process ended while we looked
            left = ([rest.missing] if rest.missing else []) + (reading.excess(before) if before is not None else [])
            if not left:
                return reading
            if time.monotonic() - began > SETTLE_WITHIN:
                self.report.wrong += [f"left: {each}" for each in left]
                return reading
            await asyncio.sleep(0.05)

    async def _until_gone(self) -> None:
        """All workers of before, and all connections."""
        deadline = time.monotonic() + SETTLE_WITHIN
        while time.monotonic() < deadline:
            try:
                reading = self._stand.read()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if len(reading.descriptors) == PROCESSES and not reading.gauges:
                # What workers have counted is to be seen by then.
                await asyncio.sleep(0.5)
                return
            await asyncio.sleep(0.05)
        self.report.wrong.append(
            f"left after {SETTLE_WITHIN:g} s: {len(reading.descriptors)} processes, {reading.gauges}"
        )

    def _counts(self) -> dict[tuple[str, str, tuple[tuple[str, str], ...]], int]:
        return {
            (key, metric, tuple(labels.items())): self._stand.value(metric, **labels) for key, metric, labels in COUNTED
        }

    def _compare(self, before: Reading, after: Reading, traces: dict[str, object]) -> None:
        """Memory of the first process and of each other, files, what is shared."""
        first, wrong = self._stand.balancer.pid, self.report.wrong
        then, now = ([each.memory_kib[first], *sorted(kib for pid, kib in each.memory_kib.items() if pid != first)]
                     for each in (before, after))  # fmt: skip
        self.report.memory = (then, now)
        if any(more - less > GROWTH_KIB for more, less in zip(now, then, strict=False)):
            wrong.append(f"KiB of memory {now}, before the load {then}")
        there = self._stand.traces()
        wrong += [
            f"{what}: {there[what]}, before the load {each}" for what, each in traces.items() if there[what] != each
        ]

    def _look_at_states(self) -> None:
        """Nothing was forgotten, and nobody went where nobody is to go."""
        stand, wrong = self._stand, self.report.wrong
        overrides = stand.order("show overrides")
        for backend in ("web", "tcp"):
            if stand.value("haproxy_server_status", proxy=backend, server="out", state="MAINT") != 1:
                wrong.append(f"{backend}/out is in maintenance no more")
            if not re.search(rf"^{backend}/out +state maint .* storm$", overrides, re.MULTILINE):
                wrong.append(f"that {backend}/out is in maintenance is forgotten: {overrides}")
            for server in ("out", "dead"):
                if tried := stand.value("haproxy_server_connection_attempts_total", proxy=backend, server=server):
                    wrong.append(f"{tried} connections to {backend}/{server} were tried")


def tell(text: str) -> None:
    print(f"storm: {text}", file=sys.stderr, flush=True)


def _milliseconds(values: Sequence[float]) -> str:
    return "  ".join(f"{percentile(values, part) * 1000:7.1f}" for part in (0.5, 0.99, 0.999, 1.0))


def table(report: Report) -> str:
    """What was done, how long it took, what is left."""
    then, now = report.memory
    return "\n".join(
        [
            "  ".join(f"{kind}: {report.done.get(kind, 0)}" for kind in MIX),
            "",
            f"{'':32} {'half':>7}  {'99 %':>7}  {'99.9 %':>7}  {'longest':>7}",
            f"{'requests before, ms':32} {_milliseconds(report.calm)}",
            f"{'requests meanwhile, ms':32} {_milliseconds(report.stormy)}  ({report.asked_per_second:.0f} a second)",
            f"{len(report.reloads)} reloads, ms: shortest {min(report.reloads, default=0) * 1000:.0f}, "
            f"half {percentile(report.reloads, 0.5) * 1000:.0f}, longest {max(report.reloads, default=0) * 1000:.0f}",
            f"processes at most: {report.most_processes}; old workers at the end: {report.old_workers}, "
            f"MiB each (private): {number(sum(report.old_kib) / max(len(report.old_kib), 1) / 1024)}",
            f"gone after the load: {report.settled:.1f} s; MiB of memory before (the first process, then the others): "
            f"{', '.join(number(kib / 1024) for kib in then)}; after: {', '.join(number(kib / 1024) for kib in now)}",
        ]
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reloads", type=int, default=RELOADS, metavar="N", help=f"in a row, default: {RELOADS}")
    parser.add_argument("--calm", type=float, default=CALM, metavar="S", help=f"load before, default: {CALM:g} s")
    parser.add_argument(
        "--within", type=float, default=300.0, metavar="S", help="give up after so long, default: 300 s"
    )
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="of all that is chosen; default: the time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it there")
    parser.add_argument("--pybalancer", metavar="PATH", help="the pybalancer to try, default: of this Python")
    options = parser.parse_args(arguments)
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
            storm = Storm(stand, reloads=options.reloads, seed=options.seed, calm=options.calm, until=options.within)
            report = uvloop.run(storm.run())
            report.status = rig.end(stand.balancer)
            stand.close()
    except BenchError as error:
        print(f"storm.py: {error}", file=sys.stderr)
        return EXIT_CANNOT
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    found = problems(report, options.reloads)
    print(table(report))
    print("".join(f"WRONG: {what}\n" for what in found) or "nothing is lost, nothing is left")
    if options.json is not None:
        options.json.write_text(json.dumps({"seed": options.seed, "problems": found, "report": vars(report)}) + "\n")
    return EXIT_WRONG if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
