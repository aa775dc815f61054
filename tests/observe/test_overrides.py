"""The overrides as they are shown."""

from __future__ import annotations

import json

from balancer.observe.overrides import json_, sentence, table
from balancer.pool.orders import Admin, Condition, ServerState
from balancer.pool.overrides import Override
from tests.observe.conftest import NOW, House

DRAIN = Override(
    ("app", "up"), "state", "drain", "ready", "root at the runtime socket", NOW - 3600, "new disk", NOW + 7200
)
WEIGHT = Override(("app", "up"), "weight", 5, 3, "admin at 192.0.2.1 (page)", NOW - 5)
GONE = Override(("app", "old"), "deleted", True, {}, "root at the runtime socket", NOW - 5)
LIMIT = Override((), "maxconn", 7, 100, "root at the runtime socket", NOW - 5)


def test_what_was_changed_stands_beside_the_configuration_and_what_is(house: House) -> None:
    house.set("app", "up", ServerState(Condition.UP, Admin.DRAIN, weight=5, health=4))
    assert table([DRAIN, WEIGHT, GONE, LIMIT], house.look(), NOW) == (
        "what     override     configured  live   by                          since  ends in  why\n"
        "app/up   state drain  ready       DRAIN  root at the runtime socket  1h     2h       new disk\n"
        "app/up   weight 5     3           5      admin at 192.0.2.1 (page)   5s     -        -\n"
        "app/old  deleted      there       gone   root at the runtime socket  5s     -        -\n"
        "global   maxconn 7    100         -      root at the runtime socket  5s     -        -\n"
    )


def test_nothing_is_said_in_words() -> None:
    assert table([], None, NOW) == "There are no runtime changes: all is as the configuration says.\n"
    assert json_([], None) == "[]\n"


def test_programs_get_objects(house: House) -> None:
    (row,) = json.loads(json_([WEIGHT], house.look()))
    assert row == {
        "target": "app/up", "kind": "weight", "value": 5, "configured": 3, "by": "admin at 192.0.2.1 (page)",
        "at": NOW - 5, "why": "", "until": None, "live": "3",
    }  # fmt: skip


def test_a_sentence_for_the_page() -> None:
    assert sentence(WEIGHT).startswith("weight 5 instead of 3, by admin at 192.0.2.1 (page) since 20")
    assert sentence(DRAIN).endswith("Z: new disk") and ", until 20" in sentence(DRAIN)
    assert sentence(GONE).startswith("deleted, by root")
