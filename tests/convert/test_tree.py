from __future__ import annotations

from balancer.convert.tree import Map, Seq, overlay_of, place_of, places
from balancer.convert.words import Line, Place


def line(number):
    return Line(("x",), Place("f", number))


def tree(**values):
    made = Map()
    for i, (key, value) in enumerate(values.items(), 1):
        made.put(key, value, line(i))
    return made


def test_places_are_those_of_the_nearest_part_that_has_one():
    root = Map()
    root.under("a", line(1)).put("b", {"c": [1]})
    items = Seq()
    items.add({"d": 1}, line(7))
    items.add("e")
    root.put("l", items, line(5))
    assert place_of(root, ("a", "b", "c", 0)).place.line == 1
    assert place_of(root, ("l", 0, "d")).place.line == 7
    assert place_of(root, ("l", 1)).place.line == 5
    assert place_of(root, ("nothing",)) is None
    assert {place.line for place in places(root)} == {1, 5, 7}


def test_an_overlay_has_what_differs_and_tells_what_it_cannot_take_away():
    base, other = tree(a=1, b=tree(c=1, d=2), e=[1]), tree(a=1, b=tree(c=5), e=[1, 2], f=0)
    assert overlay_of(base, other) == ({"b": {"c": 5}, "e": [1, 2], "f": 0}, [("b", "d")])


def test_what_is_dropped_takes_its_place_along():
    made = tree(a=1)
    made.drop("a")
    items = Seq()
    items.add(1, line(1))
    items.drop(0)
    assert (made, made.origins, items, items.origins) == ({}, {}, [], [])
