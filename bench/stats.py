"""Figures from samples, and the order in which the contestants take their turns. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["difference", "lower_quartile", "median", "order", "turns", "upper_quartile"]

T = TypeVar("T")


def lower_quartile(values: Sequence[float]) -> float:
    """The cost that a quarter of the samples stay under.

    Disturbance (another process, a stolen core, a cold cache) only ever adds cost, so the low end is the
    machine's truth; a quartile and not the minimum, so that no single lucky sample decides.
    """
    return _quartile(values, 0)


def upper_quartile(values: Sequence[float]) -> float:
    """The rate that a quarter of the samples exceed: the same thought where more is better."""
    return _quartile(values, 2)


def median(values: Sequence[float]) -> float:
    """For what disturbance does not push one way only: memory."""
    return statistics.median(values)


def _quartile(values: Sequence[float], which: int) -> float:
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=4, method="inclusive")[which]


def difference(one: float, other: float) -> float:
    """How far two figures of the same thing lie apart, as a share of the smaller: 0.05 is 5 %."""
    low, high = sorted((one, other))
    if high == low:
        return 0.0
    return high / low - 1 if low > 0 else float("inf")


def order(contestants: Sequence[T], number: int) -> list[T]:
    """Who starts first in round `number`: each in turn, and every other round backwards."""
    shift = (number // 2) % len(contestants)
    turned = [*contestants[shift:], *contestants[:shift]]
    return turned[::-1] if number % 2 else turned


def turns(contestants: Sequence[T], windows: int) -> list[T]:
    """The windows of one round: A B C, C B A, A B C, … so that a slow drift of the machine falls on all alike."""
    return [one for window in range(windows) for one in (contestants[::-1] if window % 2 else contestants)]
