"""Samples to figures, figures to a table and JSON. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import stats
from works import Row, Sample, Work

__all__ = ["Figure", "Result", "as_json", "figures", "remarks", "table"]


@dataclass(frozen=True)
class Result:
    """A work and all its samples, round by round."""

    work: Work
    names: tuple[str, ...]
    """The contestants: the reference, its twin, and then pybalancer, unless it was left out."""
    rounds: tuple[tuple[Sample, ...], ...]

    @property
    def failed(self) -> int:
        return sum(sample.failed for samples in self.rounds for sample in samples)

    def values(self, key: str, *names: str) -> list[float]:
        return [sample.values[key] for samples in self.rounds for sample in samples if sample.contestant in names]


@dataclass(frozen=True)
class Figure:
    """A line of the table. `ratio` is above 1 where pybalancer does better than the reference."""

    row: Row
    reference: float
    noise: float
    ours: float | None
    ratio: float | None
    is_met: bool | None


def figures(result: Result) -> list[Figure]:
    """Reference and twin are one program: together they are the reference's figure, apart they are the noise."""
    reference, twin, *ours = result.names
    return [_figure(result, row, reference, twin, ours) for row in result.work.rows]


def _figure(result: Result, row: Row, reference: str, twin: str, ours: Sequence[str]) -> Figure:
    together = row.summary(result.values(row.key, reference, twin))
    noise = stats.difference(row.summary(result.values(row.key, reference)), row.summary(result.values(row.key, twin)))
    if not ours:
        return Figure(row, together, noise, None, None, None)
    figure = row.summary(result.values(row.key, *ours))
    better, worse = (together, figure) if row.better == "lower" else (figure, together)
    ratio = better / worse if worse else math.inf
    return Figure(row, together, noise, figure, ratio, None if row.target is None else row.target.is_met(figure, ratio))


def share(result: Result, name: str) -> float | None:
    """Median share of its core that a contestant took; None where the work has no such thing."""
    values = [
        sample.values["share"]
        for samples in result.rounds
        for sample in samples
        if sample.contestant == name and "share" in sample.values
    ]
    return stats.median(values) if values else None


# The method is to tell apart what differs by more than this; it holds for costs and rates under load.
NOISE_LIMIT = 0.05
NOISE_HELD = ("cpu_us", "rate")
# The kernel's own work on a quiet machine's core stays under this.
OTHERS_LIMIT = 0.05
# Answers that took so long that their client's next request was late: above this share a p99 is too low.
LATE = ("same_late", "own_late")
LATE_LIMIT = 0.005
LEFT = ("work", "figure", "unit", "reference", "held to")


def table(results: Sequence[Result]) -> str:
    """Plain text, a line a figure."""
    lines = [line for result in results for line in _lines(result)]
    widths = {title: max(len(title), *(len(line[title]) for line in lines)) for title in lines[0]}
    return "\n".join(
        "  ".join(
            cell.ljust(widths[title]) if title in LEFT else cell.rjust(widths[title]) for title, cell in line.items()
        ).rstrip()
        for line in ({title: title for title in widths}, *lines)
    )


def _lines(result: Result) -> list[dict[str, str]]:
    shares = [share(result, name) for name in (result.names[0], *result.names[2:])]
    core = "/".join(f"{value:.0%}" for value in shares if value is not None)
    return [
        {
            "work": result.work.name,
            "figure": figure.row.label,
            "unit": figure.row.unit,
            "reference": result.names[0],
            "is": number(figure.reference),
            "ours": number(figure.ours),
            "ratio": "-" if figure.ratio is None else f"{figure.ratio:.2f}",
            "held to": "" if figure.row.target is None else str(figure.row.target),
            "": {None: "", True: "met", False: "MISSED"}[figure.is_met],
            "noise": percent(figure.noise),
            "core": core or "-",
            "rounds": str(len(result.rounds)),
            "failed": str(result.failed),
        }
        for figure in figures(result)
    ]


def remarks(results: Sequence[Result]) -> list[str]:
    """What a reader should know before trusting the table: a line each, none when the machine was quiet."""
    found = []
    for result in results:
        found += [
            f"{result.work.name}, {figure.row.label}: two identical processes differed by {percent(figure.noise)}"
            for figure in figures(result)
            if figure.row.key in NOISE_HELD and figure.noise > NOISE_LIMIT
        ]
        others = [
            sample.values["core_busy"] - sample.values["share"]
            for samples in result.rounds
            for sample in samples
            if "core_busy" in sample.values
        ]
        if others and stats.median(others) > OTHERS_LIMIT:
            taken = percent(stats.median(others))
            found.append(f"{result.work.name}: other programs took {taken} of the balancer's core, rates are too low")
        late = [sample.values.get(key, 0.0) for samples in result.rounds for sample in samples for key in LATE]
        if late and max(late) > LATE_LIMIT:
            found.append(
                f"{result.work.name}: up to {percent(max(late))} of its answers made a client late for its next"
            )
        if result.failed:
            found.append(f"{result.work.name}: {result.failed} requests failed, its figures mean nothing")
    return found


def number(value: float | None) -> str:
    """Three significant digits, whole from 100 on."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def percent(value: float) -> str:
    return "-" if math.isinf(value) else f"{value:.1%}"


def as_json(results: Sequence[Result]) -> list[dict[str, object]]:
    """Every figure and every sample."""
    return [
        {
            "work": result.work.name,
            "reference": result.names[0],
            "failed": result.failed,
            "figures": [
                {
                    "label": figure.row.label,
                    "unit": figure.row.unit,
                    "better": figure.row.better,
                    "summary": figure.row.summary.__name__,
                    "reference": figure.reference,
                    "ours": figure.ours,
                    "ratio": figure.ratio,
                    "noise": None if math.isinf(figure.noise) else figure.noise,
                    "held_to": None if figure.row.target is None else str(figure.row.target),
                    "met": figure.is_met,
                }
                for figure in figures(result)
            ],
            "rounds": [
                [{"contestant": sample.contestant, "failed": sample.failed, **sample.values} for sample in samples]
                for samples in result.rounds
            ],
        }
        for result in results
    ]
