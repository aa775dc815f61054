from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config.format import Variable, parse, variables


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ()),
        ("plain", ("plain",)),
        ("100 % %x", ("100 % %x",)),
        ("%[src]", (Variable("src"),)),
        ("a%[src]b%[1]", ("a", Variable("src"), "b", Variable("1"))),
        ("%[header(X-A)]", (Variable("header", "X-A"),)),
        ("a%%[src]%[src]", ("a%[src]", Variable("src"))),
    ],
)
def test_text_and_variables(text, parts):
    assert parse(text) == parts


def test_names():
    assert variables("%[src]%[cookie(a)]%[src]%%[dst]") == {"src", "cookie"}


@pytest.mark.parametrize(
    "text", ["%[src", "%[]", "%[srcs]", "%[SRC]", "%[header]", "%[header()]", "%[src(a)]", "%[10]", "%[0]"]
)
def test_what_is_no_variable_is_told(text):
    with pytest.raises(ValueError, match=r"variable|argument"):
        parse(text)


@given(st.text("%[]()abc1src"))
def test_nothing_else_is_raised(text):
    try:
        parts = parse(text)
    except ValueError:
        return
    assert all(parts)
