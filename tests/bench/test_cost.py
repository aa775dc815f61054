"""The command line, as far as it starts nothing."""

from __future__ import annotations

import cost
import pytest
from works import WORKS, Requests


def test_everything_unless_told_otherwise() -> None:
    assert cost.parse([]).only == [work.name for work in WORKS]
    assert cost.parse(["--quick"]).only == cost.QUICK
    assert cost.parse(["--quick", "--only", "rest"]).only == ["rest"]


def test_an_unknown_work_is_named_with_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        cost.parse(["--only", "http"])
    assert refused.value.code == 2
    assert "http-keepalive" in capsys.readouterr().err


def test_rounds_hold_for_every_work_and_quick_shortens_the_windows_too() -> None:
    options = cost.parse(["--quick", "--rounds", "5"])
    for work in WORKS:
        short = cost.shortened(work, options)
        assert short.rounds == 5
        assert not isinstance(short, Requests) or short.windows == cost.QUICK_WINDOWS


def test_a_missing_tool_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(cost.BenchError, match="dnsperf is missing: apt install dnsperf"):
        cost.contestants([work for work in WORKS if work.name == "udp-dns"], cost.parse([]))


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("HAProxy version 2.6.12-1 2026/10/17\nStatus: long-term\n", "HAProxy version 2.6.12-1 2026/10/17"),
        ("DNS Performance Testing Tool\nVersion 2.10.0\n", "Version 2.10.0"),
        ("", ""),
    ],
)
def test_version_line(said: str, line: str) -> None:
    assert cost.version_line(said) == line
