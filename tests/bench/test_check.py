"""Ratios beside those that were kept."""

from __future__ import annotations

import json
from pathlib import Path

import check
import pytest
from check import Verdict

COST = {"label": "CPU", "ratio": 1.0}
RATE = {"label": "rate", "ratio": 3.0}


def report(**works: float) -> dict:
    entries = [
        {"work": name.replace("_", "-"), "failed": 0, "figures": [RATE, COST | {"ratio": ratio}]}
        for name, ratio in works.items()
    ]
    machine = {"date": "2026-01-01T00:00:00+00:00", "cpu": "a processor"}
    return {"machine": machine, "versions": {"python": "3.11"}, "works": entries}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """run(reports…, …) -> status: check.py with what cost.py would find."""
    program = tmp_path / "pybalancer"
    program.write_text("#!/bin/sh\necho 'pybalancer 1.0 (compiled)'\n")
    program.chmod(0o755)
    asked = []

    def run_(*reports: dict, keep: bool = False) -> int:
        left = list(reports)

        def measure(_, works, rounds):
            asked.append((tuple(works), rounds))
            return left.pop(0)

        monkeypatch.setattr(check, "measure", measure)
        words = ["--history", str(tmp_path / "history.jsonl"), "--pybalancer", str(program)]
        return check.main([*words, *(["--keep"] if keep else [])])

    run_.asked = asked
    return run_


def test_what_costs_ten_percent_more_is_worse(run, capsys) -> None:
    assert run(report(http_keepalive=1.0, udp_dns=2.0), keep=True) == 0
    assert run(report(http_keepalive=0.91, udp_dns=1.9)) == 0
    lost = report(udp_dns=1.7)
    assert run(report(http_keepalive=1.1, udp_dns=1.7), lost) == 1
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split() for line in lines] == [
        ["http-keepalive", "1.00", "1.10", "+10%"], ["udp-dns", "2.00", "1.70", "-15%", "WORSE"]
    ]  # fmt: skip


def test_what_looks_worse_is_measured_again_for_longer(run) -> None:
    run(report(http_keepalive=1.0, udp_dns=2.0), keep=True)
    assert run(report(http_keepalive=0.8, udp_dns=2.0), report(http_keepalive=0.97)) == 0
    assert run.asked[-1] == (("http-keepalive",), 3 * check.ROUNDS)


def test_each_way_to_run_has_its_own_history(tmp_path: Path) -> None:
    lines = [{"way": "compiled", "ratios": {"a": 1}}, {"way": "interpreted", "ratios": {"a": 2}}]
    history = "\n".join(map(json.dumps, [{"way": "compiled", "ratios": {"a": 0}}, *lines])) + "\n"
    assert check.last(history, "compiled") == lines[0]
    assert check.last(history, "interpreted") == lines[1]
    assert check.last("", "compiled") is None


def test_without_a_history_there_is_nothing_to_compare(run, capsys) -> None:
    assert run(report(udp_dns=1.0)) == 2
    assert "--keep" in capsys.readouterr().err


def test_a_work_that_failed_has_no_ratio_and_a_new_one_nothing_to_compare_with() -> None:
    broken = report(udp_dns=1.0)
    broken["works"][0]["failed"] = 1
    assert check.ratios(broken) == {}
    (verdict,) = check.compare({}, {"udp-dns": 1.0})
    assert verdict == Verdict("udp-dns", None, 1.0)
    assert not verdict.is_worse
    assert str(verdict).endswith("new")


def test_what_is_kept_is_read_again() -> None:
    for line in check.HISTORY.read_text().splitlines():
        entry = json.loads(line)
        assert set(entry["ratios"]) == set(check.WORKS)
        assert entry["way"] in ("compiled", "interpreted")
