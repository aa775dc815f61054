from __future__ import annotations

import time

import pytest

from balancer.config.words import a_list_of, did_you_mean, shown


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (5, "5"),
        (1.5, "1.5"),
        ("a'b", '"a\'b"'),
        ("a\nb", r"'a\nb'"),
        ({"a": 1}, "a mapping"),
        ((1, 2), "a list"),
        (object(), "this"),
    ],
)
def test_values_are_shown_as_the_operator_knows_them(value: object, says: str) -> None:
    assert shown(value) == says


def test_a_long_value_is_cut() -> None:
    assert shown("x" * 10_000) == "'" + "x" * 60 + "'…"


@pytest.mark.parametrize(
    ("word", "choices", "says"),
    [
        ("timeot", ["timeout", "retries"], "; did you mean timeout?"),
        ("Default-Backend", ["default_backend"], "; did you mean default_backend?"),
        ("colour", ["timeout", "retries"], ""),
        ("web", ["web"], ""),
        ("web", [], ""),
        (5, ["5"], ""),
    ],
)
def test_a_near_miss_gets_a_hint(word: object, choices: list[str], says: str) -> None:
    assert did_you_mean(word, choices) == says


def test_a_hint_never_takes_long() -> None:
    began = time.perf_counter()
    assert did_you_mean("x" * 1_000_000, ["y" * 1_000_000]) == ""
    assert did_you_mean("server", [f"server{i}" for i in range(100_000)]) == ""
    assert time.perf_counter() - began < 5


def test_lists_of_words() -> None:
    assert a_list_of(["a"]) == "a"
    assert a_list_of(["a", "b"]) == "a or b"
    assert a_list_of(["a", "b", "c"], last="and") == "a, b and c"
