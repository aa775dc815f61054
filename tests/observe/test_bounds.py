from __future__ import annotations

import pytest

from balancer.observe import bounds
from balancer.observe.bounds import Bound, Door, Move
from balancer.observe.steering import SteeringError
from tests.observe.conftest import House

GARBAGE = "maxconn string empty or preceded by garbage"


@pytest.mark.parametrize(
    ("kind", "words", "bound", "told"),
    [
        ("frontend", "web 7", Bound(("web",), 7), "set maxconn frontend web 7"),
        ("frontend", "web 0", Bound(("web",), 0), "set maxconn frontend web 0"),
        ("server", "app/up 7", Bound(("app", "up"), 7), "set maxconn server app/up 7"),
        ("server", "app/up 0", Bound(("app", "up"), 0), "set maxconn server app/up 0"),
    ],
)
def test_a_limit_is_understood_and_told_as_a_command(
    house: House, kind: str, words: str, bound: Bound, told: str
) -> None:
    assert bounds.maxconn(kind, words.split(), house.look()) == bound
    assert bounds.told(bound) == told


def test_of_all_together_there_is_a_most(house: House) -> None:
    most = house.look().process.hard_maxconn
    assert bounds.maxconn("global", [str(most)], house.look()) == Bound((), most)
    for word in (str(most + 1), "-1"):
        with pytest.raises(SteeringError, match="Value out of range"):
            bounds.maxconn("global", [word], house.look())


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        ("frontend", "", "A frontend name is expected."),
        ("frontend", "nobody 1", "No such frontend."),
        ("frontend", "web", "Integer value expected."),
        ("frontend", "web many", "Integer value expected."),
        ("frontend", "web -1", "Value out of range."),
        ("server", "app/up", "Require <maxconn>."),
        ("server", "app/up x", GARBAGE),
        ("server", "app/up 1x", "Trailing garbage in maxconn string"),
        ("server", "app/up -1", "Value out of range."),
        ("frontend", "web 7 for 2h", "'set maxconn' wants nothing after the number: 'for'."),
        ("server", "app/up 7 why disk", "'set maxconn' wants nothing after the number: 'why'."),
        ("global", "0 8", "'set maxconn' wants nothing after the number: '8'."),
        ("global", "", "Expects an integer value."),
        ("global", "9" * 30, "Expects an integer value."),
    ],
)
def test_what_is_wrong_is_said_in_haproxys_words(house: House, kind: str, words: str, said: str) -> None:
    with pytest.raises(SteeringError) as wrong:
        bounds.maxconn(kind, words.split(), house.look())
    assert str(wrong.value) == said


def test_a_door_is_moved(house: House) -> None:
    for to, verb in ((Door.OPEN, "enable"), (Door.PAUSED, "disable"), (Door.SHUT, "shutdown")):
        move = bounds.door(to, ["web"], house.look())
        assert move == Move("web", to)
        assert bounds.told(move) == f"{verb} frontend web"


def test_a_roster_with_other_limits_is_otherwise_the_same(house: House) -> None:
    roster = bounds.limited(house.roster, {"tls": 3}, {("app", "up"): 9})
    assert {entry.name: entry.limit for entry in roster.frontends}["tls"] == 3
    limits = {(each.name, server.name): server.maxconn for each in roster.backends for server in each.servers}
    assert limits["app", "up"] == 9
    assert [key for key, limit in limits.items() if limit] == [("app", "up")]
    assert bounds.limited(house.roster, {}, {}) == house.roster
