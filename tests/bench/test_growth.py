"""What a balancer takes at rest, once its start is over."""

from __future__ import annotations

from collections.abc import Iterator

import growth
import pytest


@pytest.mark.parametrize(
    ("shares", "found", "looked"),
    [
        ([0.9, 0.1, 0.101, 0.1], 0.1, 3),
        ([0.05, 0.05], 0.05, 2),
        ([0.9, 0.6, 0.4, 0.2, 0.1, 0.05, 0.02], 0.05, 6),
        ([0.0, 0.0], 0.0, 2),
    ],
)
def test_it_is_looked_at_until_it_is_steady(
    shares: list[float], found: float, looked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def clock() -> Iterator[int]:
        total = 0
        for share in shares:
            yield total
            total += round(share * growth.INTERVAL * 1e9)
            yield total

    ticks = clock()
    monkeypatch.setattr(growth.procfs, "cpu_ns", lambda _: next(ticks))
    monkeypatch.setattr(growth.time, "sleep", slept.append)
    monkeypatch.setattr(growth.time, "monotonic", lambda: growth.INTERVAL * len(slept))
    assert growth.share_at_rest([1]) == pytest.approx(found, abs=1e-6)
    assert len(slept) == looked


def test_the_counts_are_works_of_their_own() -> None:
    assert [growth.Growth(count).name for count in growth.COUNTS] == [
        "growth-10", "growth-100", "growth-1000", "growth-5000",
    ]  # fmt: skip
