from __future__ import annotations

import time

import pytest

from balancer.regex import compile_regex


def test_it_searches_octets():
    regex = compile_regex("^/([a-z]+)/é(.*)$")
    match = regex.search("/x/éy".encode())
    assert match is not None
    assert (match.groups(), regex.groups) == ((b"x", b"y"), 2)
    assert regex.search(b"\xff\x00") is None


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(a", "missing ): (a"),
        ("(?=a)b", "invalid perl operator: (?="),
        (r"(a)\1", r"invalid escape sequence: \1"),
        ("(((a{100}){100}){100})", "invalid repetition size: {100}"),
    ],
)
def test_what_is_no_expression_says_why(pattern, why, capfd):
    with pytest.raises(ValueError) as caught:
        compile_regex(pattern)
    assert str(caught.value) == why
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*a){20}$", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_no_text_makes_it_slow(pattern):
    """Where Python's own needs years, as long as a target may be."""
    regex = compile_regex(pattern)
    began = time.process_time()
    assert regex.search(b"a" * 16384 + b"!") is None
    assert time.process_time() - began < 2
