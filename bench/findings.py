"""From bench.json to what a reader should know: medians with their spread, who is ahead, where it loses and what would
close that. Nothing here is known beforehand: every sentence is made of measured figures by a rule. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import noise
import stats
from noise import Verdict
from report import LATE, LATE_LIMIT

__all__ = [
    "Cell",
    "Comparison",
    "Point",
    "cells",
    "closing",
    "comparisons",
    "contestants",
    "failover_rows",
    "gaps",
    "knee",
    "peak",
    "remarks",
    "series",
    "story",
    "verdict",
]

DIRECT = "no balancer"
OURS = "pybalancer"
# Less than this, or than the rounds themselves differ, is no difference.
LEAST_MARGIN = 0.05
# Of one round alone nobody knows how far it is off.
MARGIN_OF_ONE = 0.25
# A rate has stopped growing at this share of the most; a time has grown at so many times the first.
STOPPED, GROWN = 0.95, 1.5
# A core counts as full from here on.
FULL = 0.85
# Loss of service, seconds: how closely the client looks.
LOOKED_EVERY = 0.01


@dataclass(frozen=True)
class Cell:
    """A figure over its rounds."""

    value: float
    low: float
    high: float
    rounds: int

    @property
    def spread(self) -> float:
        """How far the middle half of the rounds reaches, as a share of the figure."""
        return (self.high - self.low) / self.value if self.value else 0.0

    @property
    def margin(self) -> float:
        return MARGIN_OF_ONE if self.rounds < 2 else max(LEAST_MARGIN, self.spread)


@dataclass(frozen=True)
class Point:
    """One contestant at one level."""

    level: int
    rate: Cell
    ms: Cell
    share: float
    cpu_us: float
    all_us: float
    failed: int


@dataclass(frozen=True)
class Comparison:
    """One figure of ours beside a peer's. `ratio` is above 1 where ours is better."""

    where: str
    figure: str
    unit: str
    ours: str
    peer: str
    value: Cell
    peer_value: Cell
    better: Literal["lower", "higher"]
    at: tuple[Point, Point] | None = None
    """Of a sweep, where each has its most."""
    least: float = 0.0
    """What differs by no more than this (units) is no difference."""

    @property
    def ratio(self) -> float:
        mine, theirs = self.value.value, self.peer_value.value
        if self.better == "lower":
            mine, theirs = theirs, mine
        if mine == theirs:
            return 1.0
        return mine / theirs if theirs > 0 else float("inf")

    @property
    def margin(self) -> float:
        return max(self.value.margin, self.peer_value.margin)

    @property
    def outcome(self) -> Literal["ahead", "level", "behind"]:
        if abs(self.value.value - self.peer_value.value) <= self.least:
            return "level"
        if self.ratio > 1 + self.margin:
            return "ahead"
        return "behind" if self.ratio < 1 / (1 + self.margin) else "level"


def cell(values: Sequence[float], summary: str = "median") -> Cell:
    """`summary` names a function of stats; the spread is that of the middle half."""
    low, high = stats.lower_quartile(values), stats.upper_quartile(values)
    return Cell(getattr(stats, summary)(values), low, high, len(values))


def series(sweep: Mapping[str, Any]) -> dict[str, list[Point]]:
    """By contestant, its points in order; who was not measured is not there."""
    found: dict[str, list[Point]] = {}
    for name in sweep["contestants"]:
        for level in sweep["levels"]:
            own = [one for one in sweep["samples"] if one["contestant"] == name and one["level"] == level]
            if not own:
                continue
            middle = {key: statistics.median(one[key] for one in own) for key in ("share", "cpu_us", "all_us")}
            rate, ms = cell([one["rate"] for one in own]), cell([one["ms"] for one in own])
            failed = sum(one["failed"] for one in own)
            found.setdefault(name, []).append(Point(level, rate, ms, failed=failed, **middle))
    return found


def peak(points: Sequence[Point]) -> Point:
    """Where most is carried."""
    return max(points, key=lambda point: point.rate.value)


def knee(points: Sequence[Point]) -> int:
    """The first level that carries nearly as much as any."""
    most = peak(points).rate.value
    return next(point.level for point in points if point.rate.value >= STOPPED * most)


def flat_until(points: Sequence[Point]) -> int:
    """The last level before a request takes much longer than it did at the first."""
    last = points[0].level
    for point in points:
        if point.ms.value > GROWN * points[0].ms.value:
            break
        last = point.level
    return last


def cores(name: str) -> int:
    """How many a contestant has, by its name."""
    words = name.partition(", ")[2].split()
    return int(words[0]) if words else 1


def peers(name: str, others: Sequence[str]) -> list[str]:
    """Whom a contestant of ours is compared with: those on as many cores, the kernel's with the kernel's."""
    if name == f"{OURS} kernel":
        return [other for other in others if other == "IPVS"]
    return [
        other
        for other in others
        if not other.startswith(OURS) and other not in (DIRECT, "IPVS") and cores(other) == cores(name)
    ]


def contestants(work: Mapping[str, Any]) -> list[str]:
    """In the order in which they were first measured."""
    return list(dict.fromkeys(sample["contestant"] for turn in work["rounds"] for sample in turn))


def cells(work: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Cell]:
    """By contestant, the figure of a row."""
    found: dict[str, list[float]] = {}
    for sample in (sample for turn in work["rounds"] for sample in turn):
        if row["key"] in sample:
            found.setdefault(sample["contestant"], []).append(sample[row["key"]])
    return {name: cell(values, row["summary"]) for name, values in found.items()}


def remarks(work: Mapping[str, Any]) -> Iterator[str]:
    """What a reader should know before trusting a work's figures."""
    for name in contestants(work):
        own = [sample for turn in work["rounds"] for sample in turn if sample["contestant"] == name]
        late = max(sample.get(key, 0.0) for sample in own for key in LATE)
        if late > LATE_LIMIT:
            yield (
                f"{work['work']}, {name}: up to {late:.1%} of the answers made their client late for its next request;"
                " what it waited for is not seen whole, and the percentiles are too low."
            )
        if failed := sum(sample["failed"] for sample in own):
            yield f"{work['work']}, {name}: {failed} requests failed, its figures mean nothing."


def failover_rows(data: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Cell]]:
    """By what happens and how often is advertised: by program, seconds without service."""
    found: dict[tuple[str, str], dict[str, Cell]] = {}
    for row in data["failover"]:
        found.setdefault((row["text"], row["version"]), {})[row["program"]] = cell(row["samples"])
    return found


def comparisons(data: Mapping[str, Any]) -> Iterator[Comparison]:
    """Every figure of ours with that of each peer. Runs in which requests failed are compared too: the page says so."""
    for sweep in data["sweeps"]:
        found = series(sweep)
        for name in (name for name in found if name.startswith(OURS)):
            for other in peers(name, [*found]):
                mine, theirs = peak(found[name]), peak(found[other])
                unit = f"{sweep['unit']}/s"
                yield Comparison(
                    sweep["title"], "the most", unit, name, other, mine.rate, theirs.rate, "higher", (mine, theirs)
                )
    for work in data["works"]:
        for row in work["rows"]:
            found_cells = cells(work, row)
            for other in (other for other in found_cells if other != OURS and OURS in found_cells):
                yield Comparison(
                    work["work"], row["label"], row["unit"], OURS, other, found_cells[OURS], found_cells[other],
                    row["better"],
                )  # fmt: skip
    for (text, version), by_program in failover_rows(data).items():
        if {OURS, "keepalived"} <= by_program.keys():
            mine_lost, lost = by_program[OURS], by_program["keepalived"]
            where = f"failover, {version}"
            yield Comparison(
                where, f"{text}, without service", "s", OURS, "keepalived", mine_lost, lost, "lower",
                least=2 * LOOKED_EVERY,
            )  # fmt: skip


def is_at_rest(comparison: Comparison) -> bool:
    """Of start, size and checks; else of what clients get, and what that costs."""
    return comparison.where.startswith(("growth-", "idle-memory")) and not comparison.unit.startswith("us/")


def gaps(data: Mapping[str, Any], *, at_rest: bool, count: int = 3) -> list[Comparison]:
    """Where ours is furthest behind, each figure once, with the peer that does best. Of growth the number of servers
    with the largest gap stands for all."""
    behind: dict[tuple[str, str], Comparison] = {}
    for one in comparisons(data):
        if one.outcome != "behind" or is_at_rest(one) != at_rest:
            continue
        key = (one.where.rstrip("0123456789"), one.figure)
        if key not in behind or one.ratio < behind[key].ratio:
            behind[key] = one
    return sorted(behind.values(), key=lambda one: one.ratio)[:count]


# By work and figure: what it is made of, and what could be otherwise.
WAYS = {
    ("growth-", "exec to first answer"): (
        "An interpreter starts and imports the daemon's modules before it reads the file: fewer modules, imported where"
        " they are first needed."
    ),
    ("growth-", "memory (PSS)"): (
        "Each process is an interpreter, and shares with the others only what was imported before the fork and is not"
        " written to since (counts of references are): fewer modules, or fewer processes."
    ),
    ("growth-", "checks alone"): (
        "A check is a task of asyncio with timers and futures of its own, interpreted: one state machine over a"
        " selector, compiled as the hot path is."
    ),
    ("reload", "until the new one answers"): (
        "The file is read and checked in a new process, and nobody is told before all new workers are ready: a process"
        " that is there before it is wanted."
    ),
    ("reload", "p99 meanwhile, kept connections"): (
        "Reading the file and making workers take the core from those who serve: at a lower priority they would not."
    ),
    ("tcp-newconn", "CPU"): (
        "Connecting to a server takes a task, a future and a timer of the loop; HAProxy and nginx only tell epoll:"
        " connections begun and awaited by the poller itself."
    ),
}


def closing(gap: Comparison) -> str:
    """What would close it, as far as figures, and what is known of how it is made, can say."""
    if gap.at is not None:
        mine, theirs = gap.at
        if mine.share >= FULL * cores(gap.ours):
            return (
                f"Its processes used {mine.share:.0%} of a core, all that they have: what a request costs them is"
                f" the limit. From {mine.cpu_us:.0f} to {theirs.cpu_us:.0f} µs of CPU time, as {gap.peer} needs,"
                " the gap is closed."
            )
        return (
            f"Its processes used only {mine.share:.0%} of a core: their work is not all that holds it back. All"
            f" programs together spent {mine.all_us:.0f} µs on a request with {gap.ours} and {theirs.all_us:.0f} µs"
            f" with {gap.peer}; of that {mine.cpu_us:.0f} and {theirs.cpu_us:.0f} µs were the balancer's own."
        )
    apart = abs(gap.value.value - gap.peer_value.value)
    direction = "less" if gap.better == "lower" else "more"
    text = f"{figure(apart)} {gap.unit} {direction}."
    way = WAYS.get((gap.where.rstrip("0123456789"), gap.figure))
    return f"{text} {way}" if way else text


def figure(value: float) -> str:
    """Three significant digits, thousands apart."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def story(sweep: Mapping[str, Any]) -> Iterator[str]:
    """What a sweep shows, a sentence each."""
    found = series(sweep)
    if not found:
        yield "Nothing was measured."
        return
    what, letter = sweep["unit"], "Q" if sweep["unit"] == "queries" else "C"
    straight = found.get(DIRECT)
    if straight:
        most = peak(straight)
        yield f"Without a balancer at most {figure(most.rate.value)} {what} a second, at {letter} = {most.level}."
    for name in (name for name in found if name.startswith(OURS)):
        top = peak(found[name])
        text = f"{name}: at most {figure(top.rate.value)} a second at {letter} = {top.level}"
        if straight:
            text += f", {top.rate.value / peak(straight).rate.value:.0%} of what goes without"
        knees = knee(found[name])
        text += (
            "; it still grows there"
            if knees == found[name][-1].level
            else f"; from {letter} = {knees} on it hardly grows"
        )
        text += f", and a request takes about as long as alone up to {letter} = {flat_until(found[name])}."
        if top.cpu_us:
            text += f" Its processes then use {top.share:.0%} of a core, {figure(top.cpu_us)} µs for each."
        yield text
        for other in peers(name, [*found]):
            theirs = peak(found[other])
            one = Comparison("", "", "", name, other, top.rate, theirs.rate, "higher")
            beside = {"ahead": "ahead of", "level": "level with", "behind": "behind"}[one.outcome]
            yield (
                f"{name} is {beside} {other}, which carries {figure(theirs.rate.value)}: {one.ratio:.2f} times as much"
                f" comes through ours, and what is within {one.margin:.0%} is no difference."
            )
    failed = {name: sum(point.failed for point in points) for name, points in found.items()}
    for name, count in failed.items():
        if count:
            yield f"{count} {what} failed with {name}: its figures here mean nothing."


def verdict(data: Mapping[str, Any]) -> Verdict:
    """Whether the machine was quiet."""
    spreads = {}
    for sweep in data["sweeps"]:
        points = series(sweep).get(DIRECT, [])
        if points and points[-1].rate.rounds > 1:
            spreads[sweep["name"]] = statistics.median(point.rate.spread for point in points)
    return noise.judge(data.get("noise", []), spreads)
