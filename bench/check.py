#!/usr/bin/env python3
"""Whether a request costs more than it did: ratios to HAProxy and dnsdist beside those kept. See README.md."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Verdict", "compare", "last", "main", "ratios"]

HISTORY = Path(__file__).with_name("history.jsonl")
WORKS = (
    *("http-keepalive", "http-keepalive-cookie", "http-newconn", "http-newconn-reuse", "http-64k"),
    *("tcp-keepalive", "tcp-newconn", "udp-dns"),
)
ROUNDS = 3
# A ratio may be so much lower than the one kept.
ALLOWED = 0.10
EXIT_WORSE = 1
EXIT_CANNOT = 2


@dataclass(frozen=True)
class Verdict:
    """A work, and how its ratio has changed."""

    work: str
    kept: float | None
    """None: it was not measured then."""
    now: float

    @property
    def is_worse(self) -> bool:
        return self.kept is not None and self.now < self.kept * (1 - ALLOWED)

    def __str__(self) -> str:
        if self.kept is None:
            return f"{self.work:24}      -  {self.now:5.2f}  new"
        change = self.now / self.kept - 1
        return f"{self.work:24}  {self.kept:5.2f}  {self.now:5.2f}  {change:+.0%}{'  WORSE' if self.is_worse else ''}"


def ratios(report: Mapping[str, Any]) -> dict[str, float]:
    """By work, the ratio of the CPU time of a request, out of what `cost.py --json` wrote. Times of a machine are not
    compared: another machine has others."""
    return {
        work["work"]: figure["ratio"]
        for work in report["works"]
        for figure in work["figures"]
        if figure["label"] == "CPU" and figure["ratio"] is not None and not work["failed"]
    }


def last(history: str, way: str) -> dict[str, Any] | None:
    """The last entry of that way to run (compiled, interpreted); None where there is none."""
    entries: Iterator[dict[str, Any]] = (json.loads(line) for line in reversed(history.splitlines()) if line.strip())
    return next((entry for entry in entries if entry["way"] == way), None)


def compare(kept: Mapping[str, float], now: Mapping[str, float]) -> list[Verdict]:
    """In the order of the works."""
    return [Verdict(work, kept.get(work), now[work]) for work in WORKS if work in now]


def measure(options: argparse.Namespace, works: Sequence[str], rounds: int) -> dict[str, Any]:
    """SystemExit where it cannot be done; cost.py has said why."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        command = [sys.executable, Path(__file__).with_name("cost.py"), "--only", *works, "--rounds", str(rounds)]
        command += ["--json", file, "--pybalancer", options.pybalancer]
        if options.haproxy is not None:
            command += ["--haproxy", options.haproxy]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            raise SystemExit(EXIT_CANNOT)
        report: dict[str, Any] = json.loads(file.read_text())
        return report


def main(arguments: Sequence[str] | None = None) -> int:
    """0: nothing costs over 10 % more than when it was kept; 1: something does; 2: it could not be measured, or there
    is nothing to compare with."""
    options = parse(arguments)
    said = subprocess.run([options.pybalancer, "--version"], capture_output=True, text=True, check=True).stdout
    way = said.rpartition("(")[2].strip(" )\n")
    before = last(options.history.read_text() if options.history.exists() else "", way)
    if before is None and not options.keep:
        print(
            f"check.py: nothing is kept of what is {way} in {options.history}: --keep begins with it", file=sys.stderr
        )
        return EXIT_CANNOT
    report = measure(options, WORKS, ROUNDS)
    now = ratios(report)
    kept = before["ratios"] if before is not None else {}
    # What looks worse is measured again, for longer: a round's figure has noise.
    if again := [verdict.work for verdict in compare(kept, now) if verdict.is_worse]:
        now |= ratios(measure(options, again, 3 * ROUNDS))
    verdicts = compare(kept, now)
    print(f"{'work':24}   kept    now  (HAProxy's or dnsdist's CPU time for a request, divided by ours; {way})")
    for verdict in verdicts:
        print(verdict)
    if options.keep:
        entry = {"date": report["machine"]["date"], "way": way, "machine": report["machine"]["cpu"]}
        entry |= {"versions": report["versions"], "ratios": {work: round(ratio, 3) for work, ratio in now.items()}}
        with options.history.open("a") as file:
            file.write(json.dumps(entry) + "\n")
    return EXIT_WORSE if any(verdict.is_worse for verdict in verdicts) else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    ours = Path(sys.executable).with_name("pybalancer")
    parser.add_argument("--keep", action="store_true", help="add what is measured to the history")
    parser.add_argument("--history", type=Path, default=HISTORY, metavar="FILE", help="default: bench/history.jsonl")
    parser.add_argument("--haproxy", metavar="PATH", help="the HAProxy to compare with")
    parser.add_argument("--pybalancer", metavar="PATH", default=str(ours), help="default: of this Python")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
