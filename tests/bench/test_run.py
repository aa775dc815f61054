"""The command line, what a run would do, and a very small one."""

from __future__ import annotations

import json
from pathlib import Path

import presentation
import pytest
import run
from run import PARTS, Plan, Record
from works import Requests

from tests.lab.space import why_not


def test_everything_unless_told_otherwise() -> None:
    options = run.parse([])
    assert options.only == PARTS
    assert (options.quick, options.haproxy) == (False, None)


def test_a_newer_haproxy_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAPROXY", "/opt/haproxy")
    assert run.parse([]).haproxy == "/opt/haproxy"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "everything"], "invalid choice: 'everything'"),
        (["--levels", "0"], "--levels are from 1 to"),
        (["--levels", "many"], "invalid int value"),
        (["--package", "/nonexistent"], "run make compiled"),
    ],
)
def test_a_mistake_is_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        run.parse(words)
    assert refused.value.code == 2
    assert said in capsys.readouterr().err


def test_a_full_run_has_five_rounds_of_all_that_is_under_load() -> None:
    plan = Plan(quick=False)
    assert plan.sweep_rounds == plan.failover_runs == 5
    for part in ("cost", "latency", "reload"):
        assert all(work.rounds == 5 for work in plan.works(part))
    assert {len({row.key for row in work.rows}) for work in plan.works("cost") if isinstance(work, Requests)} == {2}
    assert [work.name for work in plan.works("growth")] == ["growth-10", "growth-100", "growth-1000", "growth-5000"]


def test_a_slow_machine_has_fewer_rounds_and_not_fewer_parts() -> None:
    plan = Plan(quick=False)
    assert not plan.is_over("sweeps", 4)
    plan.begun -= 0.5 * plan.limit
    assert plan.is_over("sweeps", 1)
    assert not plan.is_over("sweeps", 0)
    assert not plan.is_over("cost", 4)
    plan.begun -= 0.6 * plan.limit
    assert plan.is_over("failover")
    assert set(run.SHARES) == {"sweeps", *(part for part in PARTS if part not in {each.name for each in run.SWEEPS})}


def test_failures_are_counted_over_all() -> None:
    sweep, work = {"samples": [{"failed": 2}, {"failed": 0}]}, {"rounds": [[{"failed": 1}], [{"failed": 4}]]}
    assert run.failures({"sweeps": [sweep], "works": [work]}) == 7


def test_a_report_can_be_made_again_and_nonsense_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("", "[]", "{}", "\x00\xff"):
        file = tmp_path / "bench.json"
        file.write_text(text)
        assert run.main(["--again", str(file), "--out", str(tmp_path / "out")]) == 2
        assert "is no bench.json" in capsys.readouterr().err
    assert run.main(["--again", str(tmp_path / "nothing"), "--out", str(tmp_path)]) == 2


@pytest.mark.skipif(bool(why_not()), reason=f"no namespaces: {why_not()}")
def test_a_small_run(tmp_path: Path) -> None:
    options = run.parse(["--quick", "--only", "l7", "--levels", "1", "2", "--out", str(tmp_path)])
    options.contestants = ["no balancer", "pybalancer", "HAProxy"]
    record = Record(tmp_path, options, Plan(quick=True, levels=options.levels))
    run.measure(record, options, Plan(quick=True, levels=options.levels))
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["missing"] == {}
    (sweep,) = found["sweeps"]
    assert {(one["contestant"], one["level"]) for one in sweep["samples"]} == {
        (name, level) for name in options.contestants for level in (1, 2)
    }
    assert all(one["rate"] > 0 and one["failed"] == 0 for one in sweep["samples"])
    assert all((one["cpu_us"] > 0) == (one["contestant"] != "no balancer") for one in sweep["samples"])
    assert [one["what"] for one in found["noise"]] == ["l7 1"]
    assert "pybalancer: at most" in presentation.write(found, tmp_path).read_text()
