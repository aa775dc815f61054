"""A disturbed sample must not move a figure, and no contestant may have the better place."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import stats
from hypothesis import given
from hypothesis import strategies as st

VALUES = st.lists(st.floats(min_value=0.1, max_value=1e6), min_size=1, max_size=40)


def test_lower_quartile_of_known_values() -> None:
    assert stats.lower_quartile([5, 1, 4, 2, 3]) == 2
    assert stats.upper_quartile([5, 1, 4, 2, 3]) == 4
    assert stats.lower_quartile([1, 2]) == 1.25


def test_one_sample_is_its_own_figure() -> None:
    assert stats.lower_quartile([7.5]) == stats.upper_quartile([7.5]) == stats.median([7.5]) == 7.5


def test_disturbed_samples_do_not_move_the_lower_quartile() -> None:
    quiet = [20.0, 20.1, 20.2, 20.3, 20.4, 20.5, 20.6, 20.7]
    disturbed = [*quiet[:5], 90.0, 95.0, 400.0]
    assert stats.lower_quartile(disturbed) == stats.lower_quartile(quiet)


@given(VALUES)
def test_quartiles_lie_within_the_samples_and_in_order(values: list[float]) -> None:
    low, middle, high = stats.lower_quartile(values), stats.median(values), stats.upper_quartile(values)
    slack = 1e-9 * max(values)
    assert min(values) - slack <= low <= middle + slack
    assert middle - slack <= high <= max(values) + slack


def test_difference_is_a_share_of_the_smaller_either_way_round() -> None:
    assert stats.difference(20, 21) == stats.difference(21, 20) == pytest.approx(0.05)
    assert stats.difference(3, 3) == stats.difference(0, 0) == 0
    assert math.isinf(stats.difference(0, 3))


def test_over_six_rounds_each_of_three_is_twice_in_each_place() -> None:
    rounds = [stats.order("ABC", number) for number in range(6)]
    for place in range(3):
        assert Counter(order[place] for order in rounds) == {"A": 2, "B": 2, "C": 2}


def test_the_next_round_starts_them_backwards() -> None:
    assert [stats.order("AB", number) for number in range(4)] == [["A", "B"], ["B", "A"], ["B", "A"], ["A", "B"]]


def test_turns_go_forth_and_back() -> None:
    assert stats.turns("ABC", 3) == [*"ABC", *"CBA", *"ABC"]
