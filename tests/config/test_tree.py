from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from balancer.config.tree import Entry, Mapping, Node, Scalar, Sequence, find, overlay, resolve, substitute


def node(value: Any) -> Node:
    if isinstance(value, dict):
        mapping = Mapping(1, 1)
        for key, inner in value.items():
            mapping.entries[key] = Entry(key, 1, 1, node(inner))
        return mapping
    if isinstance(value, list):
        return Sequence(1, 1, [node(inner) for inner in value])
    return Scalar(value, str(value), True, 1, 1)


def mapping(value: dict[str, Any]) -> Mapping:
    made = node(value)
    assert isinstance(made, Mapping)
    return made


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("~", None),
        ("null", None),
        ("yes", True),
        ("OFF", False),
        ("y", "y"),
        ("0", 0),
        ("-5", -5),
        ("+5", 5),
        ("200-399", "200-399"),
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("500ms", "500ms"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e5", 1e5),
        ("1.0e-99999", 0.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("-", "-"),
        ("2026-01-31", "2026-01-31"),
        ("::1", "::1"),
        ("=", "="),
    ],
)
def test_what_a_plain_scalar_means(text: str, value: object) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "0660",
        "08",
        "0o17",
        "0x1F",
        "0b11",
        "1_000",
        "22:22",
        "1:30.5",
        "1:2:3:4:5:6:7:8",
        "1" * 19,
        "1" * 5000,
        "1e999",
    ],
)
def test_what_is_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quotes"):
        resolve(text)


@given(st.text(alphabet="0123456789+-._:eExXob~ nulyestrfa", min_size=1, max_size=12))
def test_numbers_and_words_mean_what_they_mean_to_pyyaml(text: str) -> None:
    loader = yaml.SafeLoader("")
    try:
        tag = loader.resolve(yaml.ScalarNode, text, (True, False))
        theirs = loader.construct_object(yaml.ScalarNode(tag, text))
    except ValueError:
        return
    finally:
        loader.dispose()
    try:
        ours = resolve(text)
    except ValueError:
        return
    if isinstance(theirs, (bool, int)) or theirs is None:
        assert ours == theirs or text == ""
    elif isinstance(ours, (bool, int)) or ours is None:
        raise AssertionError(f"{text!r} is {ours!r}, to PyYAML {theirs!r}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "1"),
        ("x${A}y${A}z", "x1y1z"),
        ("${EMPTY}", ""),
        ("${EMPTY:-d}", "d"),
        ("${A:-d}", "1"),
        ("${NONE:-}", ""),
        ("${NONE:-a b:c-d}", "a b:c-d"),
        ("$A $ $$ {A}", "$A $ $$ {A}"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
    ],
)
def test_variables(text: str, value: str) -> None:
    assert substitute(text, {"A": "1", "EMPTY": ""}) == value


def test_a_value_is_not_replaced_again() -> None:
    assert substitute("${A}", {"A": "${B}", "B": "no"}) == "${B}"


@pytest.mark.parametrize("text", ["${", "${}", "${A", "${1}", "${A-b}", "${A:b}", "${NONE}", "${A:-${B}}", "${ A }"])
def test_what_is_no_variable_or_not_set(text: str) -> None:
    with pytest.raises(ValueError, match=r"\$\{"):
        substitute(text, {"A": "1", "B": "2"})


PLAIN = st.recursive(
    st.integers(),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)),
)
MAPPING = st.dictionaries(st.sampled_from("abc"), PLAIN, max_size=3)


def merged(base: Any, over: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {key: merged(base[key], value) if key in base else value for key, value in over.items()}


def frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: frozen(inner) for key, inner in value.items()}
    return tuple(map(frozen, value)) if isinstance(value, list) else value


@given(MAPPING, MAPPING)
def test_overlaying_merges_mappings_and_replaces_all_else(base: dict[str, Any], over: dict[str, Any]) -> None:
    one, other = mapping(base), mapping(over)
    assert overlay(one, other).data == frozen(merged(base, over))
    assert one.data == frozen(base)
    assert other.data == frozen(over)


def test_finding_passes_over_what_the_operator_did_not_write() -> None:
    root = mapping({"frontends": {"web": {"bind": ":80"}}})
    walked, entry, found = find(root, ("frontends", "web", "bind", 0, "address"))
    assert walked == ("frontends", "web", "bind")
    assert entry is not None
    assert entry.key == "bind"
    assert isinstance(found, Scalar)
    assert found.value == ":80"
    assert find(root, ())[0] == ()
