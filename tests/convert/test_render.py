from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from balancer.convert.render import commented, plain, with_places
from balancer.convert.tree import Map, Seq, place_of
from balancer.convert.words import Line, Place, reference

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\ue000\ue001"), max_size=20)
VALUES = st.recursive(
    TEXTS | st.integers(-(10**6), 10**6) | st.booleans() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXTS.filter(lambda key: key and not key.isdigit()), inner, max_size=3)
    ),
    max_leaves=6,
)


def as_read(value):
    """What the reader makes of `$${`."""
    if isinstance(value, dict):
        return {as_read(key): as_read(each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_read(each) for each in value]
    return value.replace("$${", "${") if isinstance(value, str) else value


@given(VALUES)
def test_values_come_back(value):
    assert as_read(yaml.safe_load(plain(value))) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("eth0", "eth0"), ("5s", "5s"), ("10.0.0.1:80", "10.0.0.1:80"), ("10.0.0.0/8", "10.0.0.0/8"), ("123", '"123"'),
        ("yes", '"yes"'), ("*:80", '"*:80"'), ("", '""'), (True, "true"), (None, "null"), ("1:30", '"1:30"'),
        ("0660", '"0660"'), (f"{reference('A')}x", '"${A}x"'), ("${A}", '"$${A}"'), ("a\nb\x85", '"a\\nb\\x85"'),
        ({"a": [1, "b c"]}, '{a: [1, "b c"]}'),
    ],
)  # fmt: skip
def test_how_values_are_written(value, text):
    assert plain(value) == text


def made():
    root, items, item = Map(), Seq(), Map()
    item.put("deny", True, Line(("x",), Place("f", 4)))
    items.add(item, Line(("x",), Place("f", 3)))
    items.add({"set_header": {f"X-{i}": "v" * 30 for i in range(5)}}, Line(("x",), Place("f", 5)))
    own = root.under("a", Line(("x",), Place("f", 1)))
    own.put("c", "d", Line(("x",), Place("f", 2)))
    own.put("items", items)
    root.put("e", {})
    return root


def test_comments_say_where_each_part_came_from():
    text = commented(made(), str)
    assert text.splitlines()[:2] == [f"{'a:':<56}# f:1", f"{'  c: d':<56}# f:2"]
    assert yaml.safe_load(text) == made()


def test_each_line_is_known_by_its_place():
    text, locs = with_places(made())
    assert yaml.safe_load(text) == made()
    assert len(text.splitlines()) == len(locs)
    assert locs[text.splitlines().index("      deny: true")] == ("a", "items", 0, "deny")
    assert place_of(made(), ("a", "items", 0, "deny")).place.line == 4
