"""Whether the machine is believed."""

from __future__ import annotations

import os
from typing import Any

import noise
import pytest


def reading(spin: float = 1.0, stolen: float = 0.0, others: float = 0.0) -> dict[str, Any]:
    return {"what": "x 1", "spin_before": spin, "spin_after": spin, "stolen": stolen, "others": others}


QUIET = [reading(1.0), reading(1.02), reading(1.01, 0.001, 0.01)] * 4


def test_a_quiet_machine_has_nothing_said_against_it() -> None:
    assert noise.judge(QUIET, {"l4": 0.03}) == noise.Verdict("quiet", ())


@pytest.mark.parametrize(
    ("found", "spreads", "level", "said"),
    [
        ([*QUIET, *[reading(1.2)] * 20], {}, "noisy", "20% longer than at its best"),
        ([*QUIET, *[reading(1.5)] * 20], {}, "unbelievable", "50% longer"),
        ([*QUIET, *[reading(stolen=0.05)] * 20], {}, "noisy", "stole 5% of the cores"),
        ([*QUIET, *[reading(others=0.6)] * 20], {}, "unbelievable", "other programs took 60%"),
        (QUIET, {"l4": 0.2, "l7": 0.3}, "noisy", "rounds lie 25% apart"),
        ([*QUIET, reading(others=0.5), reading(others=0.5)], {}, "noisy", "50% in the worst tenth"),
    ],
)
def test_what_makes_it_doubtful_is_said(
    found: list[dict[str, Any]], spreads: dict[str, float], level: str, said: str
) -> None:
    verdict = noise.judge(found, spreads)
    assert verdict.level == level
    assert any(said in reason for reason in verdict.reasons)


def test_one_bad_round_of_many_is_none() -> None:
    assert noise.judge([*QUIET, reading(9.0, 0.9, 0.9)], {}).level == "quiet"


def test_what_was_never_watched_is_not_believed() -> None:
    assert noise.judge([], {"l4": 0.0}).level == "unbelievable"


def test_a_round_is_watched() -> None:
    found: list[noise.Reading] = []
    cores = sorted(os.sched_getaffinity(0))
    with noise.watched("this", lambda: 0, cores, found):
        noise.spin(cores[:1])
    (one,) = found
    assert one.what == "this"
    assert 0 < one.spin_before < 1
    assert 0 <= one.stolen <= 1
    # What else runs here is this machine's business.
    assert one.others >= 0
    assert sorted(os.sched_getaffinity(0)) == cores


def test_a_round_that_fails_is_watched_too() -> None:
    found: list[noise.Reading] = []
    with pytest.raises(ValueError, match="it"), noise.watched("this", lambda: 0, [0], found):
        raise ValueError("it")
    assert len(found) == 1
