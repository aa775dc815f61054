"""Sentences come from figures: other figures, other sentences."""

from __future__ import annotations

import findings
import pytest
from growth import Growth
from reloads import Reload
from works import WORKS

from tests.bench import recorded


def test_points_are_medians_with_the_middle_half_of_the_rounds() -> None:
    first = findings.series(recorded.sweep("l7", recorded.L7))["HAProxy"][0]
    assert (first.level, first.rate.value, first.rate.rounds) == (1, 2000, 3)
    assert (first.rate.low, first.rate.high) == (1990, 2010)
    assert first.ms.value == pytest.approx(0.5)


def test_where_it_stops_growing_and_till_when_it_takes_no_longer() -> None:
    found = findings.series(recorded.sweep("l7", recorded.L7))
    assert findings.peak(found["pybalancer"]).level == 4
    assert findings.knee(found["pybalancer"]) == 2
    assert findings.flat_until(found["pybalancer"]) == 2
    assert findings.knee(found["HAProxy"]) == 4


def test_those_on_as_many_cores_are_compared() -> None:
    found = {(one.ours, one.peer): one for one in findings.comparisons(recorded.content(works=[], failover=[]))}
    assert {pair: one.outcome for pair, one in found.items()} == {
        ("pybalancer", "HAProxy"): "behind",
        ("pybalancer", "nginx"): "ahead",
        ("pybalancer, 2 cores", "HAProxy, 2 cores"): "level",
    }
    assert found["pybalancer", "HAProxy"].ratio == pytest.approx(2010 / 4000)


def test_a_ratio_above_one_is_better_where_less_is_better_too() -> None:
    data = recorded.content(sweeps=[], failover=[], works=[recorded.work("w", HAProxy=[20, 20], pybalancer=[10, 10])])
    (one,) = findings.comparisons(data)
    assert (one.ratio, one.outcome) == (2.0, "ahead")


def test_what_differs_by_no_more_than_its_rounds_is_level() -> None:
    noisy = recorded.work("w", HAProxy=[10, 20, 30], pybalancer=[11, 22, 33])
    alone = recorded.work("v", HAProxy=[20], pybalancer=[24])
    found = findings.comparisons(recorded.content(sweeps=[], failover=[], works=[noisy, alone]))
    assert [one.outcome for one in found] == ["level", "level"]


def test_nothing_failed_beats_something() -> None:
    found = findings.comparisons(
        recorded.content(sweeps=[], failover=[], works=[recorded.work("w", A=[32, 32], pybalancer=[0, 0], B=[0, 0])])
    )
    assert [(one.peer, one.outcome) for one in found] == [("A", "ahead"), ("B", "level")]


def test_losses_that_a_client_cannot_tell_apart_are_level() -> None:
    (one,) = findings.comparisons(recorded.content(sweeps=[], works=[]))
    assert (one.peer, one.outcome) == ("keepalived", "level")
    far = [recorded.failover("pybalancer", 3.5, 3.6), recorded.failover("keepalived", 0.3, 0.3)]
    (gap,) = findings.gaps(recorded.content(sweeps=[], works=[], failover=far), at_rest=False)
    assert gap.where == "failover, v3"


def test_gaps_are_the_largest_first_each_with_the_best_peer() -> None:
    first, second = findings.gaps(recorded.content(), at_rest=False)
    assert (first.where, first.peer) == ("sweep l7", "HAProxy")
    assert (second.where, second.peer) == ("http-keepalive", "HAProxy")
    assert findings.closing(first).startswith("Its processes used 95% of a core, all that they have")
    assert "From 473 to 238 µs" in findings.closing(first)
    assert findings.closing(second) == "5 us/request less."


def test_what_could_be_otherwise_is_said_of_figures_that_there_are() -> None:
    works = [*WORKS, Growth(10), Reload()]
    known = {(work.name.rstrip("0123456789"), row.label) for work in works for row in work.rows}
    assert findings.WAYS.keys() <= known
    work = recorded.work("tcp-newconn", pybalancer=[30, 30, 30], HAProxy=[20, 20, 20])
    work["rows"][0]["label"] = "CPU"
    (gap,) = findings.gaps(recorded.content(sweeps=[], failover=[], works=[work]), at_rest=False)
    assert findings.closing(gap).endswith(findings.WAYS["tcp-newconn", "CPU"])


def test_what_grows_is_a_gap_once_and_of_its_own_kind() -> None:
    works = [recorded.growth(count, 9.0, theirs) for count, theirs in ((10, 3.0), (100, 1.0), (1000, 2.0))]
    data = recorded.content(works=works, sweeps=[], failover=[])
    found = findings.gaps(data, at_rest=True)
    assert {(gap.where, gap.figure) for gap in found} <= {("growth-100", key) for key in ("start", "pss", "checks")}
    assert len(found) == 3


def test_a_core_that_is_not_full_is_not_blamed() -> None:
    slow = recorded.sweep("l7", {"pybalancer, 2 cores": (1, 1, 1), "HAProxy, 2 cores": (2, 2, 2)})
    (gap,) = findings.gaps(recorded.content(sweeps=[slow], works=[], failover=[]), at_rest=False)
    assert "used only 95% of a core" in findings.closing(gap), "of two"


def test_the_story_follows_the_figures() -> None:
    told = " ".join(findings.story(recorded.sweep("l7", recorded.L7)))
    assert "Without a balancer at most 10\u202f000 requests a second, at C = 4." in told
    assert "pybalancer: at most 2\u202f010 a second at C = 4, 20% of what goes without; from C = 2 on" in told
    assert (
        "pybalancer, 2 cores: at most 3\u202f000 a second at C = 4, 30% of what goes without; it still grows there"
        in told
    )
    assert "pybalancer is behind HAProxy" in told
    assert "pybalancer is ahead of nginx" in told
    swapped = {**recorded.L7, "pybalancer": recorded.L7["HAProxy"], "HAProxy": recorded.L7["pybalancer"]}
    told = " ".join(findings.story(recorded.sweep("l7", swapped)))
    assert "pybalancer is ahead of HAProxy" in told
    assert "failed" not in told
    assert "9 requests failed with pybalancer" in " ".join(
        findings.story(recorded.sweep("l7", {"pybalancer": (1, 2, 3)}, failed=1))
    )
    assert list(findings.story(recorded.sweep("l7", {}))) == ["Nothing was measured."]


def test_queries_are_counted_by_q() -> None:
    assert "at Q = 4" in " ".join(findings.story(recorded.sweep("dns", recorded.L7, unit="queries")))


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.01234, "0.0123"), (9.876, "9.88"), (25.06, "25.1"), (12345.6, "12\u202f346")]
)
def test_figures(value: float, text: str) -> None:
    assert findings.figure(value) == text


def test_what_makes_a_work_doubtful_is_said() -> None:
    sample = {"contestant": "HAProxy", "failed": 0, "same_late": 0.001, "own_late": 0.2, "p99": 1.0}
    work = {
        "work": "latency",
        "rows": [],
        "rounds": [[sample], [{**sample, "contestant": "nginx", "failed": 3, "own_late": 0}]],
    }
    first, second = findings.remarks(work)
    assert first.startswith("latency, HAProxy: up to 20.0% of the answers made their client late")
    assert second == "latency, nginx: 3 requests failed, its figures mean nothing."
    assert list(findings.remarks(recorded.work("w", pybalancer=[1.0]))) == []


def test_the_verdict_knows_the_spread_of_what_has_no_balancer() -> None:
    assert findings.verdict(recorded.content()).level == "quiet"
    assert findings.verdict(recorded.content(noise=[])).level == "unbelievable"
