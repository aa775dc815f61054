"""Why and until when: words at the end of a command."""

from __future__ import annotations

import time
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.observe.reason import Reason, moment, reasoned

NOW = 1_795_392_514.0
SET = ["set", "server", "web/web1", "state", "drain"]


@pytest.fixture(autouse=True)
def in_berlin(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ([], Reason()),
        (["why", "disk"], Reason("disk")),
        (["why", "new", "disk"], Reason("new disk")),
        (["why", '"new', 'disk"'], Reason("new disk")),
        (["why", "new disk"], Reason("new disk")),
        (["why", "waits for disk", "for", "2h"], Reason("waits for disk", NOW + 7200)),
        (["why", "new", "disk", "for", "2h"], Reason("new disk", NOW + 7200)),
        (["for", "2h", "why", "new", "disk"], Reason("new disk", NOW + 7200)),
        (["for", "90s"], Reason("", NOW + 90)),
        (["until", "2026-11-24T08:00Z"], Reason("", datetime.fromisoformat("2026-11-24T08:00Z").timestamp())),
        (["why", "a\nb\x1b[2J"], Reason("a#0Ab#1B[2J")),
        (["why", "x" * 1000], Reason("x" * 256)),
    ],
)
def test_a_reason_at_the_end(end: list[str], reason: Reason) -> None:
    assert reasoned(SET + end, NOW) == (SET, reason)


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (["why"], "'why' wants a reason."),
        (["for"], "After a change there may be"),
        (["for", "soon"], "'for' wants a duration, such as 30m or 2h."),
        (["for", "0s"], "'for' wants a duration, such as 30m or 2h."),
        (["for", "1h", "until", "18:00"], "After a change there may be"),
        (["for", "1h", "please"], "After a change there may be"),
        (["until", "late"], "'until' wants a time, such as 18:00 or 2026-11-24T08:00."),
        (["until", "25:00"], "'until' wants a time, such as 18:00 or 2026-11-24T08:00."),
        (["until", "2020-01-01T00:00"], "2020-01-01T00:00 is over already."),
    ],
)
def test_what_is_no_reason_is_said(end: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        reasoned(SET + end, NOW)


def test_what_others_put_behind_a_command_stays_there() -> None:
    words = [*SET, "please"]
    assert reasoned(words, NOW) == (words, Reason())
    # Nor is a backend's name a reason.
    assert reasoned(["set", "weight", "why", "5"], NOW)[0] == ["set", "weight", "why", "5"]


def test_a_time_of_day_is_the_next_one_here() -> None:
    # 2026-11-23 00:08:34 in Berlin.
    now = datetime.fromisoformat("2026-11-23T00:08:34+01:00").timestamp()
    assert moment("18:00", now) == datetime.fromisoformat("2026-11-23T18:00:00+01:00").timestamp()
    assert moment("0:08", now) == datetime.fromisoformat("2026-11-24T00:08:00+01:00").timestamp()
    assert moment("2026-11-23T01:00", now) == datetime.fromisoformat("2026-11-23T01:00:00+01:00").timestamp()


@given(st.lists(st.sampled_from(["why", "for", "until", "2h", "18:00", "x", "two words", ""]), max_size=8))
def test_any_words_are_a_reason_or_refused(end: list[str]) -> None:
    try:
        command, reason = reasoned(SET + end, NOW)
    except ValueError:
        return
    assert command[: len(SET)] == SET
    assert reason.until is None or reason.until > NOW
