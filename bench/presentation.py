"""bench.json as a page that needs nothing else, and as plots on disk."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import balancers
import findings
import jinja2
import plots
from balancers import Frontend, Task
from plots import Plot

__all__ = ["summary", "write"]

TEMPLATE = Path(__file__).with_name("report.html")
# Works by what they are about; the rest is cost.
GROUPS = {
    "latency": "latency at a fixed rate",
    "idle-memory": "memory of an idle connection",
    "reload": "reload under load",
}


def write(data: Mapping[str, Any], folder: Path) -> Path:
    """The page, with the plots beside it as SVG and PNG; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    page.write_text(render(data, folder))
    return page


def render(data: Mapping[str, Any], folder: Path) -> str:
    """The page; plots are made in the folder, and are in the page too."""
    found = list(findings.comparisons(data))
    outcomes = {key: sorted((one for one in found if one.outcome == key), key=lambda one: one.ratio)
                for key in ("ahead", "level", "behind")}  # fmt: skip
    grown = plots.growth(data["works"], folder)
    template = _ENVIRONMENT.from_string(TEMPLATE.read_text())
    return template.render(
        data=data,
        verdict=findings.verdict(data),
        outcomes=outcomes,
        counts={"total": len(found)} | {key: len(each) for key, each in outcomes.items()},
        least_margin=f"{findings.LEAST_MARGIN:.0%}",
        margin_of_one=f"{findings.MARGIN_OF_ONE:.0%}",
        gaps={
            "under load": findings.gaps(data, at_rest=False),
            "in start, size and checks": findings.gaps(data, at_rest=True),
        },
        closing=findings.closing,
        figure=findings.figure,
        peak=findings.peak,
        sweeps=[_sweep(data, sweep, folder) for sweep in data["sweeps"]],
        works=[_work(data, work) for work in data["works"]],
        remarks=[remark for work in data["works"] for remark in findings.remarks(work)],
        growth=grown and {"plot": grown, "picture": _embedded(grown)},
        failover=findings.failover_rows(data),
        configurations=_configurations(),
    )


def summary(data: Mapping[str, Any]) -> str:
    """A few lines for the terminal."""
    verdict = findings.verdict(data)
    lines = [f"The machine was {verdict.words}.", *(f"  {reason}" for reason in verdict.reasons)]
    found = list(findings.comparisons(data))
    for key in ("ahead", "level", "behind"):
        lines.append(f"{key}: {sum(one.outcome == key for one in found)} of {len(found)} figures beside a peer's")
    lines += [
        f"gap: {gap.where}, {gap.figure}: {gap.ours} {findings.figure(gap.value.value)} {gap.unit},"
        f" {gap.peer} {findings.figure(gap.peer_value.value)}"
        for gap in (*findings.gaps(data, at_rest=False), *findings.gaps(data, at_rest=True))
    ]
    lines += [f"not available here: {name} ({reason})" for name, reason in data["unavailable"].items()]
    lines += [f"not measured: {name} ({reason})" for name, reason in data["missing"].items()]
    return "\n".join(lines)


def _sweep(data: Mapping[str, Any], sweep: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    plot, series = plots.sweep(sweep, folder), findings.series(sweep)
    rounds = max((point.rate.rounds for points in series.values() for point in points), default=0)
    absent = [(name, reason) for name, reason in data["unavailable"].items() if name in sweep.get("absent", ())]
    return {
        "found": sweep,
        "plot": plot,
        "picture": plot and _embedded(plot),
        "story": list(findings.story(sweep)),
        "series": series,
        "rounds": f"{rounds} round{'s' if rounds != 1 else ''}",
        "absent": absent,
    }


def _work(data: Mapping[str, Any], work: Mapping[str, Any]) -> dict[str, Any]:
    group = _group(work["work"])
    same = [other for other in data["works"] if _group(other["work"]) == group]
    columns = dict.fromkeys(name for other in same for name in findings.contestants(other))
    return {
        "name": work["work"],
        "group": group,
        # Ours first, as all that it is compared with differs from work to work.
        "columns": sorted(columns, key=lambda name: name != findings.OURS),
        "rows": [{**row, "cells": findings.cells(work, row)} for row in work["rows"]],
        "rounds": len(work["rounds"]),
        "failed": sum(sample["failed"] for turn in work["rounds"] for sample in turn),
    }


def _group(work: str) -> str:
    return "growth" if work.startswith("growth-") else GROUPS.get(work, "cost of a request")


def _embedded(plot: Plot) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(plot.svg.read_bytes()).decode()


def _configurations() -> dict[str, str]:
    """Of one HTTP, one TCP, one UDP frontend and one in the kernel."""
    web = tuple(f"10.0.1.{host}:80" for host in (2, 3, 4))
    dns = tuple(f"10.0.1.{host}:53" for host in (2, 3, 4))
    proxied = (
        Frontend("http", 8000, web, host="192.168.1.200"),
        Frontend("tcp", 80, web, host="192.168.1.200"),
        Frontend("udp", 53, dns, host="192.168.1.200"),
    )
    kernel = (Frontend("tcp", 80, web, host="192.168.1.202", engine="nat", title="kernel"),)
    return {
        "pybalancer": balancers.pybalancer([], "").render(Task(proxied + kernel)),
        "HAProxy": balancers.haproxy("haproxy", "").render(Task(proxied)),
        "nginx": balancers.nginx("nginx", "").render(Task(proxied)),
        "dnsdist": balancers.dnsdist("dnsdist", "").render(Task(proxied)),
        "IPVS (ipvsadm --restore)": balancers.ipvs("ipvsadm", "").render(Task(kernel)),
    }


_ENVIRONMENT = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
