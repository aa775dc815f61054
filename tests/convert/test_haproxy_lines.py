from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.convert.haproxy_lines import Environment, sections, split
from balancer.convert.words import Report, quoted_environment, with_values

ENVIRON = {"HOST": "web", "MANY": "a b"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bind *:80", ["bind", "*:80"]),
        ("\tbind   *:80  # all", ["bind", "*:80"]),
        ("bind *:80#all", ["bind", "*:80"]),
        (r"stats realm HAProxy\ Statistics", ["stats", "realm", "HAProxy Statistics"]),
        (r'a "b c" \"d \#e "#f" \\', ["a", "b c", '"d', "#e", "#f", "\\"]),
        ("a 'b $HOST \\n \"'", ["a", 'b $HOST \\n "']),
        (r"path_reg \.php$ \d+\x41\n", ["path_reg", r"\.php$", r"\d+" "A\n"]),
        ('a ""', ["a", ""]),
        ("a \"b\"c'd'", ["a", "bcd"]),
        (r'a "\$HOST" \$HOST $HOST', ["a", "$HOST", "$HOST", "$HOST"]),
        ('a "x${NONE}y" "${NONE-z}" "${MANY[*]}"', ["a", "xy", "z", "a", "b"]),
        ("", []),
        ("# only this", []),
    ],
)
def test_words(text, words):
    assert split(text, ENVIRON) == (words, "")


def test_a_variable_stays_one():
    (_, word), _ = split('server "${HOST}:80"', ENVIRON)
    assert quoted_environment(word) == "${HOST}:80"
    assert with_values(word, ENVIRON) == "web:80"
    assert quoted_environment("${plain}") == "$${plain}"


def test_a_quote_that_is_not_closed_is_told():
    assert split('a "b', {}) == (["a", "b"], 'a quote (") is not closed')


@given(st.lists(st.text(st.characters(exclude_characters="\n\ue000\ue001", exclude_categories=["Cs"])), max_size=5))
def test_quoted_words_come_back(words):
    line = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    assert split(line, {}) == (words, "")


@given(st.text(max_size=200))
def test_nothing_upsets_it(text):
    list(sections(f"global\n{text}", "f", Environment({}), Report()))


def read(text, environ=None):
    report = Report()
    found = list(sections(text, "f", Environment(environ or {}), report))
    return [(each.kind, each.args, [line.words for line in each.lines]) for each in found], [
        str(n) for n in report.told
    ]


def test_sections():
    text = "defaults a from b\n mode http\nfrontend f\n\n bind :1 # x\nbackend b\n"
    assert read(text) == (
        [
            ("defaults", ("a", "from", "b"), [("mode", "http")]),
            ("frontend", ("f",), [("bind", ":1")]),
            ("backend", ("b",), []),
        ],
        [],
    )


def test_lines_before_the_first_section_are_told():
    assert read("mode http\nglobal\n")[1] == ["f:1: mode http: stands before the first section"]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("defined(HOST)", True), ("!defined(HOST)", False), ("defined(NONE)", False), ('streq("$HOST",web)', True),
        ('strneq("$HOST",web)', False), ("version_atleast(2.4)", True), ("version_before(2.4)", False),
        ("feature(OPENSSL)", False), ("1", True), ("0", False), ("", False),
    ],
)  # fmt: skip
def test_conditions(condition, holds):
    text = f"global\n.if {condition}\n daemon\n.elif 1\n quiet\n.else\n debug\n.endif\n"
    assert read(text, ENVIRON)[0][0][2] == [("daemon",) if holds else ("quiet",)]


def test_conditions_within_others():
    text = "global\n.if 0\n.if 1\n a\n.else\n b\n.endif\n.else\n c\n.if 1\n d\n.endif\n.endif\n e\n"
    assert read(text)[0][0][2] == [("c",), ("d",), ("e",)]


def test_a_condition_that_is_not_understood_is_told():
    assert read("global\n.if enabled(X)\n a\n.endif\n")[1] == [
        "f:2: .if enabled(X): this condition is not understood; its lines are left out"
    ]


def test_what_the_file_sets_is_put_in():
    text = 'global\n setenv A one\n presetenv HOST two\n presetenv B three\n unsetenv MANY\n x "$A $HOST ${B} $MANY"\n'
    assert read(text, ENVIRON)[0][0][2][-1][1].replace("\ue000HOST\ue001", "<HOST>") == "one <HOST> three "
