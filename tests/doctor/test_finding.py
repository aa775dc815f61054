from __future__ import annotations

from balancer.doctor.finding import Finding, Verdict, ok, problem, unknown, warning


def test_each_verdict_has_its_word() -> None:
    assert ok("x", "fine") == Finding(Verdict.OK, "x", "fine")
    assert problem("x", "bad", "so", "do", "that", always=("for ever",)).now == ("do", "that")
    assert warning("x", "bad", "so").verdict == "warning"
    assert unknown("x", "dark").verdict == "cannot tell"


def test_the_worst_is_the_last() -> None:
    assert [*Verdict] == [Verdict.OK, Verdict.UNKNOWN, Verdict.WARNING, Verdict.PROBLEM]
