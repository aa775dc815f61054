#!/usr/bin/env python3
"""How long clients are without service when a director fails, stops or returns. See README.md."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shlex
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from balancers import Frontend, Task, haproxy

from tests.e2e.bed.process import descendants
from tests.lab import services
from tests.lab.directors import (
    ALL,
    DIRECTORS,
    NOWHERE,
    SERVICE,
    V2,
    V3,
    Cluster,
    Visits,
    everything_busy,
    keepalived,
    pybalancer,
)
from tests.lab.lab import Lab, Node, Program
from tests.lab.space import LabError
from tests.lab.topology import MACHINES
from tests.lab.watch import Passed, Wire
from tests.vrrp.frames import Advert, Arp

__all__ = ["main"]

EXIT_CANNOT = 2
# The standby's skew, of an interval.
SKEW = 156 / 256
# Announcements that follow each other as soon as this (seconds) are of one set.
_SET = 0.5


@dataclass(frozen=True)
class Version:
    """How often the directors advertise."""

    name: str
    text: str
    interval: float

    most: float
    """A crash is held to this (seconds)."""


VERSIONS = {"v2": Version("v2 1 s", V2, 1.0, 3 + SKEW + 0.1), "v3": Version("v3 100 ms", V3, 0.1, 0.4)}


@dataclass(frozen=True)
class Scenario:
    """What happens to the master while a client watches, and how it is made good."""

    name: str
    text: str
    happens: Callable[[Cluster], None]
    mends: Callable[[Cluster], None]
    master: frozenset[str] = frozenset()
    """What the master holds after it; the standby holds the rest."""
    most: Callable[[Version], float] = lambda version: version.most
    """Held to that (seconds)."""
    prepares: Callable[[Cluster], None] = lambda _: None
    is_gap: bool = False
    """Measured is how long the addresses were on nobody, not the service."""


def nothing(_: Cluster) -> None:
    """There is nothing to do."""


def balancer(node: Node) -> Program:
    """What balances on it. LabError when nothing does."""
    return node.program(node.balancer[0])


def stop(cluster: Cluster) -> None:
    balancer(cluster.master).send(signal.SIGTERM)


def kill(cluster: Cluster) -> None:
    pid = balancer(cluster.master).pid
    for each in [pid, *descendants(pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def ends(node: Node) -> None:
    """What balances on it, if it runs. Without patience for connections whose client is with the other director now."""
    with contextlib.suppress(LabError):
        program = balancer(node)
        program.send(signal.SIGTERM)
        time.sleep(0.2)
        # The second signal ends at once.
        program.end(signal.SIGTERM)


def start(cluster: Cluster) -> None:
    ends(cluster.master)
    services.start_balancer(cluster.master)


def stopped(cluster: Cluster) -> None:
    ends(cluster.master)
    cluster.until(NOWHERE, ALL)


def delete(cluster: Cluster) -> None:
    cluster.master.run("ip", "address", "delete", "192.168.1.200/32", "dev", "eth0")


SCENARIOS = {
    each.name: each
    for each in (
        Scenario("stop", "planned stop", stop, start, most=lambda _: 1.0),
        Scenario("kill", "kill -9 of all processes", kill, start),
        Scenario("power", "power off", lambda c: c.master.power_off(), lambda c: c.boots(c.master)),
        Scenario("outside", "link cut, outside", lambda c: c.master.cut("eth0"), lambda c: c.master.mend("eth0")),
        Scenario("inside", "link cut, inside", lambda c: c.master.cut("eth1"), lambda c: c.master.mend("eth1")),
        Scenario(
            "freeze",
            "supervisor frozen",
            lambda c: balancer(c.master).send(signal.SIGSTOP),
            lambda c: balancer(c.master).send(signal.SIGCONT),
        ),
        Scenario("failback", "failback", start, nothing, frozenset(ALL), lambda _: 1.0, stopped),
        Scenario("delete", "address deleted by hand", delete, nothing, frozenset(ALL), lambda _: 0.1, is_gap=True),
    )
}
# Of these the others' ways are the same: keepalived cannot give up addresses when it is killed, or freezes.
OTHERS = ("stop", "power", "outside", "inside", "failback")
LOAD = "load"
NAMES = (*SCENARIOS, LOAD)


@dataclass
class Row:
    """One line of the table; seconds."""

    text: str
    version: str
    most: float
    samples: list[float] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)
    """The longest time that two held an address, of each run."""
    program: str = "pybalancer"


def measure(cluster: Cluster, scenario: Scenario, version: Version, runs: int) -> Row:
    row = Row(scenario.text, version.name, scenario.most(version))
    moments = random.Random(runs)
    for number in range(runs):
        say(f"{scenario.name} {version.name}: run {number + 1} of {runs}")
        cluster.until(ALL, NOWHERE)
        scenario.prepares(cluster)
        healthy(cluster)
        with Visits(cluster.client) as visits:
            # At any moment between two advertisements.
            time.sleep(moments.uniform(0.0, version.interval))
            begun = time.monotonic()
            scenario.happens(cluster)
            if scenario.is_gap:
                cluster.lab.until(lambda: cluster.holders.when(cluster.master, takes=False, since=begun), "it is gone")  # noqa: B023
            cluster.until({*scenario.master}, ALL - scenario.master)
            visits.more(20)
        row.samples.append(cluster.holders.longest(0, since=begun) if scenario.is_gap else visits.lost)
        row.overlaps.append(cluster.holders.longest(2, since=begun))
        begun = time.monotonic()
        scenario.mends(cluster)
        cluster.until(ALL, NOWHERE)
        if scenario.mends is not nothing:
            row.overlaps[-1] = max(row.overlaps[-1], cluster.holders.longest(2, since=begun))
    return row


def healthy(cluster: Cluster) -> None:
    """All directors that balance find their servers up, so that service does not wait for a check."""
    expected = {machine.alias for machine in MACHINES.values()}
    for node in (cluster.master, cluster.standby):
        with contextlib.suppress(LabError):
            node.program("pybalancer")
            cluster.lab.until(lambda node=node: services.are_up(node, expected), "the servers are up")  # type: ignore[misc]


def under_load(cluster: Cluster, lab: Lab, seconds: float) -> str:
    """One line: whether anybody took over while everything was busy."""
    say(f"{LOAD}: {seconds:g} s at 100 ms under full CPU load")
    with_version(cluster, VERSIONS["v3"], pybalancer)
    healthy(cluster)
    with Wire(lab) as wire:
        begun = time.monotonic()
        with everything_busy(lab, seconds):
            time.sleep(seconds)
            ended = time.monotonic()
        takeovers = len(cluster.holders.when(cluster.standby, takes=True, since=begun))
        gaps = wire.gaps(cluster.master, begun, ended)
    late = sum(gap > 0.11 for gap in gaps)
    return (
        f"{seconds:g} s at 100 ms under full CPU load: {takeovers} false takeovers; {len(gaps)} intervals, longest"
        f" {max(gaps) * 1000:.1f} ms, {late} above 110 ms"
    )


def haproxy_and_keepalived(node: Node, text: str) -> tuple[str, ...]:
    """As the thesis had it: keepalived for the virtual routers of that configuration, HAProxy for the service."""
    command = shlex.join(keepalived(node, text))
    servers = tuple(f"{each.address}:{SERVICE[1]}" for each in MACHINES.values() if each.kind == "web")
    task = Task((Frontend("tcp", SERVICE[1], servers, host="*"),))
    node.write("/etc/haproxy.cfg", haproxy("haproxy", "HAProxy").render(task))
    # Addresses are given up before the service ends, as systemd would stop them.
    script = (
        f'haproxy -db -f /etc/haproxy.cfg & h=$!; {command} & k=$!; trap "kill $k; wait $k; kill $h" TERM; wait; wait'
    )
    return ("bash", "-c", script)


PROGRAMS: dict[str, Callable[[Node, str], tuple[str, ...]]] = {
    "pybalancer": pybalancer,
    "keepalived": haproxy_and_keepalived,
}


def with_version(cluster: Cluster, version: Version, program: Callable[[Node, str], tuple[str, ...]]) -> None:
    for name in DIRECTORS:
        ends(cluster.lab[name])
    cluster.runs(*(program(cluster.lab[name], version.text) for name in DIRECTORS))
    cluster.until(ALL, NOWHERE)


def table(rows: Sequence[Row]) -> str:
    """Plain text, milliseconds."""
    lines: list[tuple[str, ...]] = [
        ("what happens", "advertised", "median", "worst", "held to", "", "two at once", "runs")
    ]
    for row in rows:
        worst = max(row.samples)
        lines.append(
            (
                row.text if row.program == "pybalancer" else f"{row.text}, {row.program}",
                row.version,
                *(f"{seconds * 1000:.0f} ms" for seconds in (statistics.median(row.samples), worst, row.most)),
                "met" if worst <= row.most else "MISSED",
                f"{max(row.overlaps) * 1000:.0f} ms",
                str(len(row.samples)),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at in (0, 1, 5) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def trace(lab: Lab, cluster: Cluster, version: Version) -> Iterator[str]:
    """The packets of pybalancer (on the master) and keepalived (on the standby): both start, the master stops and
    returns. Of regular advertisements the first two."""
    with Wire(lab) as wire:
        cluster.runs(pybalancer(cluster.master, version.text), keepalived(cluster.standby, version.text))
        begun = time.monotonic()
        # Rises from nowhere, for they may have been there before.
        cluster.until(ALL, NOWHERE)
        yield from _marked(wire, begun, "both start", version)
        begun = time.monotonic()
        cluster.master.program("pybalancer").end()
        cluster.until(NOWHERE, ALL)
        yield from _marked(wire, begun, "pybalancer stops", version)
        begun = time.monotonic()
        services.start_balancer(cluster.master)
        cluster.until(ALL, NOWHERE)
        yield from _marked(wire, begun, "pybalancer starts again", version)


def _marked(wire: Wire, begun: float, what: str, version: Version) -> Iterator[str]:
    time.sleep(2.5 * version.interval)
    yield f"{what}:"
    lines: dict[tuple[str, int], list[float]] = {}
    for each in sorted(wire.passed(since=begun), key=lambda each: each.at):
        text = _line(each)
        if text:
            # A set of announcements is one line.
            known = max((number for said, number in lines if said == text), default=-1)
            is_set = known >= 0 and isinstance(each.said, Arp) and each.at - lines[text, known][-1] < _SET
            lines.setdefault((text, known + (not is_set)), []).append(each.at)
    for (text, number), times in lines.items():
        # Of those that come regularly two are enough.
        if number < 2:
            yield f"  {times[0] - begun:7.3f} s  {text}" + (f" ({len(times)} times)" if len(times) > 1 else "")


def _line(each: Passed) -> str:
    said = each.said
    if isinstance(said, Advert):
        version = said.message[0] >> 4
        vips = [socket.inet_ntoa(said.message[8 + 4 * at :][:4]) for at in range(said.message[3])]
        who, what = said.source, f"VRRPv{version} VRID {said.vrid} priority {said.priority:3} for {' '.join(vips)}"
    elif isinstance(said, Arp) and said.sender == said.target:
        who = said.sender_mac.hex(":")
        what = f"ARP: {said.sender} is at {who}"
    else:
        return ""
    names = {
        own: machine.name for machine in MACHINES.values() for card in machine.cards for own in (card.mac, card.address)
    }
    return f"{each.network:7}  {names.get(who, who):7}  {what}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="of each scenario (default 20)")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}"
    )
    parser.add_argument("--at", nargs="+", choices=VERSIONS, default=tuple(VERSIONS), metavar="VERSION", help="v2, v3")
    parser.add_argument("--with", nargs="+", choices=PROGRAMS, default=("pybalancer",), dest="programs", metavar="NAME",
                        help="what runs on both directors: pybalancer, keepalived (with HAProxy)")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=60.0, help=f"how long `{LOAD}` takes (default 60)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--trace", action="store_true", help="print the packets of an election against keepalived")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured; 2: could not measure; 130: interrupted. What was measured before is still reported."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    rows: list[Row] = []
    remarks: list[str] = []
    status = 0
    try:
        with Lab() as lab:
            cluster = Cluster(lab)
            try:
                if options.trace:
                    for line in trace(lab, cluster, VERSIONS[options.at[0]]):
                        print(line)
                    return 0
                for version, program in product([VERSIONS[name] for name in options.at], options.programs):
                    possible = SCENARIOS if program == "pybalancer" else OTHERS
                    scenarios = [SCENARIOS[name] for name in possible if name in options.only]
                    if scenarios:
                        with_version(cluster, version, PROGRAMS[program])
                    for scenario in scenarios:
                        row = measure(cluster, scenario, version, options.runs)
                        rows.append(replace(row, program=program))
                if LOAD in options.only:
                    remarks.append(under_load(cluster, lab, options.seconds))
            finally:
                cluster.holders.close()
    except (LabError, AssertionError) as error:
        say(f"failover.py: {error}")
        status = EXIT_CANNOT
    except KeyboardInterrupt:
        say("failover.py: interrupted, the lab is gone")
        status = 128 + signal.SIGINT
    if rows:
        print(table(rows))
    for remark in remarks:
        print(remark)
    if options.json is not None:
        options.json.write_text(json.dumps({"rows": [vars(row) for row in rows], "remarks": remarks}, indent=1) + "\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
