"""The plots: requests and times against clients at once, and what grows with servers. For the colour-blind and for
print: Okabe and Ito's colours, and for each contestant a marker and a kind of line besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from findings import DIRECT, Cell, cells, figure, peak, series
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

__all__ = ["Plot", "growth", "sweep"]

# Okabe and Ito (2008): told apart by all kinds of colour-blindness.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
# By the first word of a name: colour, marker. Lines of contestants on all cores are dashed and their markers hollow.
STYLES = {
    DIRECT: (BLACK, "x"),
    "pybalancer": (BLUE, "o"),
    "pybalancer kernel": (SKY, "P"),
    "HAProxy": (VERMILION, "s"),
    "nginx": (GREEN, "^"),
    "dnsdist": (PURPLE, "D"),
    "IPVS": (ORANGE, "v"),
}
OTHER = (ORANGE, "X")


@dataclass(frozen=True)
class Plot:
    """A plot on disk, twice."""

    svg: Path
    png: Path
    alt: str
    """What it shows, for who does not see it."""


def style(name: str) -> dict[str, Any]:
    """How a contestant is drawn."""
    program, _, cores = name.partition(", ")
    colour, marker = STYLES.get(program, OTHER)
    line = ":" if program == DIRECT else "--" if cores else "-"
    return {
        "color": colour, "marker": marker, "linestyle": line, "linewidth": 1.8, "markersize": 7,
        "markerfacecolor": "white" if cores else colour, "markeredgewidth": 1.6,
    }  # fmt: skip


def sweep(found: Mapping[str, Any], folder: Path) -> Plot | None:
    """Rate and time against the level. None where nothing was measured."""
    by_name = series(found)
    if not by_name:
        return None
    letter = "Q, queries under way" if found["unit"] == "queries" else "C, clients at once"
    picture, (rates, times) = pyplot.subplots(1, 2, figsize=(11.5, 5.2))
    for name, points in by_name.items():
        levels = [point.level for point in points]
        for axes, values in ((rates, [point.rate for point in points]), (times, [point.ms for point in points])):
            _line(axes, name, levels, values)
    for axes, what in ((rates, f"{found['unit']} per second"), (times, "time per request (ms)")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(found["levels"], [str(level) for level in found["levels"]])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(letter)
        axes.set_title(what, loc="left", fontsize=11)
    rates.set_ylim(bottom=0)
    times.set_yscale("log")
    _plain_numbers(rates, times)
    tops = (
        f"{name} {figure(peak(points).rate.value)} at {peak(points).level}, there {figure(peak(points).ms.value)} ms"
        for name, points in by_name.items()
    )
    alt = (
        f"{found['title']}: {found['unit']} per second and time per request against {letter}. Most: {'; '.join(tops)}."
    )
    return _saved(picture, rates, found["title"], folder / found["name"], alt)


def growth(works: Sequence[Mapping[str, Any]], folder: Path) -> Plot | None:
    """Start, memory, checks and cost against the number of servers. None where none was measured."""
    grown = {int(work["work"].partition("-")[2]): work for work in works if work["work"].startswith("growth-")}
    if len(grown) < 2:
        return None
    counts = sorted(grown)
    picture, panels = pyplot.subplots(2, 2, figsize=(11.5, 8.4))
    last = []
    for axes, row in zip(panels.flat, grown[counts[0]]["rows"], strict=True):
        found = {count: cells(grown[count], row) for count in counts}
        for name in found[counts[0]]:
            there = [count for count in counts if name in found[count]]
            _line(axes, name, there, [found[count][name] for count in there])
            last.append(f"{row['label']} of {name} {figure(found[there[-1]][name].value)} {row['unit']}")
        axes.set_xscale("log")
        axes.set_xticks(counts, [f"{count:,}".replace(",", "\u202f") for count in counts])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=0)
        axes.set_xlabel("servers")
        axes.set_title(f"{row['label']} ({row['unit']})", loc="left", fontsize=11)
    _plain_numbers(*panels.flat)
    alt = f"What grows with servers, from {counts[0]} to {counts[-1]}. With {counts[-1]}: {'; '.join(last)}."
    return _saved(picture, panels[0][0], "growth with servers", folder / "growth", alt)


def _line(axes: Axes, name: str, levels: Sequence[int], values: Sequence[Cell]) -> None:
    """With a bar over the middle half of the rounds."""
    middle = [one.value for one in values]
    below = [max(one.value - one.low, 0.0) for one in values]
    above = [max(one.high - one.value, 0.0) for one in values]
    axes.errorbar(levels, middle, yerr=[below, above], label=name, capsize=3, elinewidth=1, **style(name))


def _plain_numbers(*panels: Axes) -> None:
    for axes in panels:
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,g}".replace(",", "\u202f") if value < 1e6 else f"{value:.0f}")
        )
        axes.grid(visible=True, which="major", color="#cccccc", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def _saved(picture: Figure, first: Axes, title: str, stem: Path, alt: str) -> Plot:
    handles, labels = first.get_legend_handles_labels()
    picture.suptitle(title, x=0.01, ha="left", fontsize=13)
    columns = min(len(labels), 4)
    lines = -(-len(labels) // columns)
    # Room below for the legend, whatever the height.
    bottom = (0.28 * lines + 0.1) / picture.get_size_inches()[1]
    picture.tight_layout(rect=(0, bottom, 1, 0.98))
    picture.legend(handles, labels, loc="lower center", ncols=columns, frameon=False, handlelength=3.5)
    svg, png = stem.with_suffix(".svg"), stem.with_suffix(".png")
    # The same figures give the same file.
    with matplotlib.rc_context({"svg.hashsalt": stem.name}):
        picture.savefig(svg, metadata={"Date": None})
    picture.savefig(png, dpi=130)
    pyplot.close(picture)
    return Plot(svg, png, alt)
