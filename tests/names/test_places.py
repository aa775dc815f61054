"""Which record is which server's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from balancer.names.answer import Service
from balancer.names.places import Place, assign, ranked, weights

PLACES = st.lists(st.integers(0, 15), unique=True, max_size=12)


def place(number: int) -> Place:
    return Place((f"10.0.0.{number}", 80), f"10.0.0.{number}", 80)


def places(*numbers: int) -> list[Place]:
    return [place(number) for number in numbers]


def test_who_has_a_record_keeps_it_whatever_the_order() -> None:
    assert assign(places(1, 2, 3), places(3, 1, 2)) == places(1, 2, 3)


def test_one_that_is_gone_leaves_its_place_to_a_new_one() -> None:
    assert assign(places(1, 2, 3), places(4, 3, 1)) == places(1, 4, 3)


def test_it_comes_back_where_it_was() -> None:
    before = places(1, 2, 3)
    assert assign([place(1), None, None], places(3, 1), before) == [place(1), None, place(3)]


def test_a_server_with_one_address_of_many_stays_there() -> None:
    assert assign(places(7), places(*range(16))) == places(7)


def test_two_share_an_address_only_if_they_may() -> None:
    assert assign([None, None, None], places(1, 2)) == [place(1), place(2), None]
    assert assign([None, None, None], places(1, 2), allows_duplicates=True) == places(1, 2, 1)


def test_after_a_restart_a_target_is_known_by_where_it_was() -> None:
    target = Place(("a.example.org", 80), "10.0.0.2", 80)
    assert assign(places(1, 2), [target]) == [None, target]


@given(st.lists(st.none() | st.integers(0, 15), max_size=12), PLACES, PLACES)
def test_nothing_moves_that_need_not(now, found, last) -> None:
    servers = [place(number) if number is not None else None for number in dict.fromkeys(now)]
    before = [place(number) for number in last[: len(servers)]]
    chosen = assign(servers, places(*found), before)
    taken = [each for each in chosen if each is not None]
    assert len(set(taken)) == len(taken) == min(len(servers), len(found))
    assert set(taken) <= set(places(*found))
    for old, new in zip(servers, chosen, strict=True):
        assert old is None or old not in places(*found) or new == old


def test_the_first_are_those_of_the_lowest_priority() -> None:
    a, b, c = Service(20, 0, 80, "a"), Service(10, 0, 80, "b"), Service(30, 0, 80, "B")
    assert ranked([a, b, c]) == [b, a]


def test_weights_fit_and_none_is_nothing() -> None:
    one, ten, none = Service(0, 1, 80, "a"), Service(0, 10, 80, "b"), Service(0, 0, 80, "c")
    assert weights([one, ten, none]) == {one: 1, ten: 10, none: 1}
    large, small = Service(0, 65535, 80, "a"), Service(0, 32768, 80, "b")
    assert weights([large, small, none]) == {large: 256, small: 128, none: 1}
    assert weights([]) == {}
