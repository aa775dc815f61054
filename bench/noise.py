"""Whether the machine was quiet enough to believe: a spin loop, what the hypervisor stole, what others took."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import procfs

__all__ = ["Reading", "Verdict", "as_json", "busiest", "judge", "spin", "watched"]

SPINS = 40_000
SPIN_TIMES = 3
# Of a quiet machine; the second number of each makes figures unbelievable. Shares of the time, or of the best.
SLOWER = (0.10, 0.30)
STOLEN = (0.02, 0.10)
OTHERS = (0.05, 0.20)
SPREAD = (0.15, 0.40)


@dataclass(frozen=True)
class Reading:
    """Of one round of one work."""

    what: str
    spin_before: float
    """Seconds of the loop, the slowest core's."""
    spin_after: float
    stolen: float
    """Of all cores' time meanwhile, by the hypervisor."""
    others: float
    """Of all cores' time meanwhile, by programs that the bench did not start. Interrupts are nobody's and not in it."""


@dataclass(frozen=True)
class Verdict:
    """What a reader is told first."""

    level: str
    """quiet, noisy or unbelievable"""
    reasons: tuple[str, ...]

    @property
    def words(self) -> str:
        return "too noisy to be believed" if self.level == "unbelievable" else self.level


def spin(cores: Collection[int]) -> float:
    """Seconds that a loop takes which does the same whenever it is run: the best of a few on each core, and of these
    the slowest. What makes it longer than it once was (another program, a slower clock, a stolen core) makes all
    that is measured now slower too."""
    home = os.sched_getaffinity(0)
    took = []
    try:
        for core in cores:
            os.sched_setaffinity(0, {core})
            took.append(min(_loop() for _ in range(SPIN_TIMES)))
    finally:
        os.sched_setaffinity(0, home)
    return max(took)


def _loop() -> float:
    begun = time.perf_counter()
    total = 0
    for number in range(SPINS):
        total += number * number
    return time.perf_counter() - begun


@contextmanager
def watched(what: str, ours: Callable[[], int], cores: Collection[int], found: list[Reading]) -> Iterator[None]:
    """Adds a reading to `found`. `ours` gives the CPU time (ns) of everything that the bench has started."""
    before = spin(cores)
    work, stolen, begun, own = *procfs.machine_ns(), time.monotonic_ns(), ours() + time.process_time_ns()
    try:
        yield
    finally:
        work_after, stolen_after = procfs.machine_ns()
        whole = (time.monotonic_ns() - begun) * len(cores)
        others = work_after - work - (ours() + time.process_time_ns() - own)
        share = (stolen_after - stolen) / whole
        found.append(Reading(what, before, spin(cores), max(share, 0.0), max(others / whole, 0.0)))


def judge(readings: Sequence[Mapping[str, Any]], spreads: Mapping[str, float]) -> Verdict:
    """From readings (as in the JSON) and, by name of each work, how far the rounds of what has no balancer lie apart.

    Of each kind the median of the readings is held to the limits, and the worst tenth to the upper one.
    """
    if not readings:
        return Verdict("unbelievable", ("nothing watched the machine",))
    best = min(min(one["spin_before"], one["spin_after"]) for one in readings)
    slower = [max(one["spin_before"], one["spin_after"]) / best - 1 for one in readings]
    kinds = (
        ("a loop that always does the same took {} longer than at its best", slower, SLOWER),
        ("the hypervisor stole {} of the cores", [one["stolen"] for one in readings], STOLEN),
        ("other programs took {} of the cores", [one["others"] for one in readings], OTHERS),
        ("without any balancer the rounds lie {} apart", list(spreads.values()), SPREAD),
    )
    level, reasons = 0, []
    for text, values, (noisy, useless) in kinds:
        if not values:
            continue
        middle, high = statistics.median(values), busiest(values)
        if middle > noisy or high > useless:
            worst = middle > useless
            level = max(level, 2 if worst else 1)
            reasons.append(f"{text.format(f'{middle:.0%}')} (half of the time; {high:.0%} in the worst tenth)")
    return Verdict(("quiet", "noisy", "unbelievable")[level], tuple(reasons))


def busiest(values: Sequence[float]) -> float:
    """What nine of ten stay under."""
    ordered = sorted(values)
    return ordered[(len(ordered) * 9 - 1) // 10]


def as_json(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    return [asdict(one) for one in readings]
