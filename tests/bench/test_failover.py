"""The command line and the table of the failover bench, which start nothing."""

from __future__ import annotations

import failover
import pytest
from failover import Row


def test_everything_unless_told_otherwise() -> None:
    options = failover.parse([])
    assert (options.runs, list(options.only), list(options.at)) == (20, [*failover.SCENARIOS, "load"], ["v2", "v3"])
    assert failover.parse(["--only", "kill", "--at", "v3"]).only == ["kill"]


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--only", "crash"], "invalid choice: 'crash'"), (["--runs", "0"], "--runs must be at least 1")],
)
def test_a_mistake_is_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        failover.parse(words)
    assert refused.value.code == 2
    assert said in capsys.readouterr().err


def test_what_a_crash_is_held_to() -> None:
    most = failover.SCENARIOS["kill"].most
    assert most(failover.VERSIONS["v2"]) == pytest.approx(3.709, abs=0.001)
    assert most(failover.VERSIONS["v3"]) == pytest.approx(0.4)


def test_the_table_has_median_and_worst() -> None:
    rows = [
        Row("power off", "v3 100 ms", 0.461, [0.3, 0.331, 0.4], [0.0, 0.0, 0.002]),
        Row("planned stop", "v2 1 s", 1.0, [0.6, 1.2], [0.0, 0.0]),
    ]
    assert failover.table(rows).splitlines() == [
        "what happens  advertised  median    worst  held to          two at once  runs",
        "power off     v3 100 ms   331 ms   400 ms   461 ms  met            2 ms     3",
        "planned stop  v2 1 s      900 ms  1200 ms  1000 ms  MISSED         0 ms     2",
    ]
