"""Samples in, table out."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import report
import stats
from report import Result
from works import Requests, Row, Sample, Target

COST = Row("CPU", "us", "cpu_us", stats.lower_quartile, target=Target(least_ratio=0.8))
RATE = Row("rate", "1/s", "rate", stats.upper_quartile, "higher", Target(least_ratio=0.9))


def result(row: Row, twins: Sequence[float], ours: Sequence[float], *, failed: int = 0, busy: float = 0.9) -> Result:
    """Three samples that are all alike for the reference (first of `twins`), its twin and ours."""
    names = ("HAProxy", "HAProxy-twin", *(["pybalancer"] if ours else []))
    values = [*twins, *ours]
    samples = tuple(
        Sample(name, {row.key: value, "share": 0.9, "core_busy": busy}, failed)
        for name, value in zip(names, values, strict=True)
    )
    return Result(Requests("a-work", "http", (row,)), names, (samples, samples, samples))


@pytest.mark.parametrize(
    ("row", "twins", "ours", "ratio", "is_met"),
    [
        (COST, (20, 20), 16, 1.25, True),
        (COST, (20, 20), 25, 0.8, True),
        (COST, (20, 20), 40, 0.5, False),
        (RATE, (40_000, 40_000), 50_000, 1.25, True),
        (RATE, (40_000, 40_000), 20_000, 0.5, False),
    ],
)
def test_a_ratio_above_one_is_better_whatever_the_row(
    row: Row, twins: Sequence[float], ours: float, ratio: float, is_met: bool
) -> None:
    (figure,) = report.figures(result(row, twins, [ours]))
    assert (figure.ratio, figure.is_met) == (ratio, is_met)


def test_reference_and_twin_are_one_figure_together_and_the_noise_apart() -> None:
    (figure,) = report.figures(result(COST, (20, 22), [20]))
    assert figure.reference == 20
    assert figure.noise == pytest.approx(0.1)


def test_a_ceiling_is_held_by_our_figure_alone() -> None:
    row = Row("tcp", "KiB", "tcp", stats.median, target=Target(most=6))
    assert report.figures(result(row, (2.7, 2.7), [5.9]))[0].is_met
    assert report.figures(result(row, (9, 9), [6.1]))[0].is_met is False


def test_a_floor_too() -> None:
    row = Row("gain", "x", "gain", stats.median, "higher", Target(least=1.8))
    assert report.figures(result(row, (1.5, 1.5), [1.8]))[0].is_met
    assert report.figures(result(row, (1.5, 1.5), [1.79]))[0].is_met is False
    assert str(row.target) == ">= 1.8"


def test_without_pybalancer_only_the_reference_has_figures() -> None:
    (figure,) = report.figures(result(COST, (20, 20), []))
    assert (figure.ours, figure.ratio, figure.is_met) == (None, None, None)
    assert "-" in report.table([result(COST, (20, 20), [])])


def test_table() -> None:
    met, missed = result(COST, (20, 20), [18.4]), result(RATE, (40_000, 40_400), [20_000], failed=2)
    assert report.table([met, missed]).splitlines() == [
        "work    figure  unit  reference     is   ours  ratio  held to               noise     core  rounds  failed",
        "a-work  CPU     us    HAProxy     20.0   18.4   1.09  ratio >= 0.8     met   0.0%  90%/90%       3       0",
        "a-work  rate    1/s   HAProxy    40400  20000   0.50  ratio >= 0.9  MISSED   1.0%  90%/90%       3      18",
    ]


def test_remarks_of_a_quiet_machine_are_none() -> None:
    assert report.remarks([result(COST, (20, 20.9), [18])]) == []


def test_remarks_name_noise_and_strangers_and_failures() -> None:
    assert report.remarks([result(COST, (20, 22), [18], failed=1, busy=1.0)]) == [
        "a-work, CPU: two identical processes differed by 10.0%",
        "a-work: other programs took 10.0% of the balancer's core, rates are too low",
        "a-work: 9 requests failed, its figures mean nothing",
    ]


def test_a_remark_where_the_load_could_not_keep_to_its_rate() -> None:
    samples = tuple(Sample(name, {"p99": 900, "own_late": 0.02, "same_late": 0.0}) for name in ("A", "A-twin", "ours"))
    late = Result(
        Requests("a-work", "http", (Row("p99", "us", "p99", stats.median),)), ("A", "A-twin", "ours"), (samples,)
    )
    assert report.remarks([late]) == ["a-work: up to 2.0% of its answers made a client late for its next"]


def test_json_holds_figures_and_samples() -> None:
    (work,) = json.loads(json.dumps(report.as_json([result(COST, (20, 20), [18.4])])))
    assert work["figures"][0]["met"] is True
    assert work["figures"][0]["summary"] == "lower_quartile"
    assert [sample["contestant"] for sample in work["rounds"][0]] == ["HAProxy", "HAProxy-twin", "pybalancer"]
    assert work["rounds"][2][2]["cpu_us"] == 18.4


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.0312, "0.03"), (9.876, "9.88"), (99.94, "99.9"), (83263.4, "83263")]
)
def test_numbers(value: float | None, text: str) -> None:
    assert report.number(value) == text
