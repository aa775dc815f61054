"""What operators change: HAProxy's words and its answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.observe import steering
from balancer.observe.steering import Change, SteeringError
from balancer.pool.orders import Admin, Condition, ServerState
from tests.observe.conftest import NOW, House, config

UP = {"backend": "app", "server": "up"}
ONLY_STATES = "'set server <srv> state' expects 'ready', 'drain' and 'maint'."
GARBAGE = "Empty weight string empty or preceded by garbage"
RANGE = "Absolute weight can only be between 0 and 256 inclusive."


@pytest.mark.parametrize(
    ("line", "change"),
    [
        ("set server app/up state drain", Change(**UP, admin=Admin.DRAIN)),
        ("set server app/up state maint", Change(**UP, admin=Admin.MAINT)),
        ("set server app/up state ready", Change(**UP, admin=Admin.READY)),
        ("set server app/up weight 7", Change(**UP, weight=7)),
        ("set server app/up weight 0", Change(**UP, weight=0)),
        ("set server app/up weight 256", Change(**UP, weight=256)),
        # Of the configured weight, which is 3.
        ("set server app/up weight 50%", Change(**UP, weight=1)),
        ("set weight app/up 200%", Change(**UP, weight=6)),
        ("set weight app/up 100000%", Change(**UP, weight=256)),
        ("set server app/up health up", Change(**UP, condition=Condition.UP)),
        ("set server app/up health down", Change(**UP, condition=Condition.DOWN)),
        ("disable server app/up", Change(**UP, admin=Admin.MAINT)),
        ("disable health app/up", Change(**UP, is_checked=False)),
        ("enable health app/up", Change(**UP, is_checked=True)),
        ("shutdown sessions server app/up", Change(**UP, shuts=True)),
    ],
)
def test_what_is_asked_for_is_understood(house: House, line: str, change: Change) -> None:
    assert steering.parse(line.split(), house.look()) == change


def test_a_change_may_have_a_reason_and_an_end(house: House) -> None:
    change = steering.parse(
        ["set", "server", "app/up", "state", "drain", "for", "2h", "why", "new", "disk"], house.look()
    )
    assert change == Change(**UP, admin=Admin.DRAIN, why="new disk", until=NOW + 7200)
    with pytest.raises(SteeringError, match="'for' wants a duration"):
        steering.parse(["set", "weight", "app/up", "5", "for", "ever"], house.look())


def test_to_enable_ends_maintenance_and_no_drain(house: House) -> None:
    for admin, wanted in ((Admin.MAINT, Admin.READY), (Admin.DRAIN, None), (Admin.READY, None)):
        house.set("app", "up", ServerState(Condition.UP, admin, health=4))
        assert steering.parse(["enable", "server", "app/up"], house.look()).admin is wanted


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("set server", "Require 'backend/server'."),
        ("set server app", "Require 'backend/server'."),
        ("set server /up state drain", "Require 'backend/server'."),
        ("set server app/ state drain", "Require 'backend/server'."),
        ("set server app/nobody state drain", "No such server."),
        ("set server nobody/up state drain", "No such backend."),
        ("set server app/up", steering._USAGE),
        ("set server app/up colour red", steering._USAGE),
        ("set server app/up state", ONLY_STATES),
        ("set server app/up state off", ONLY_STATES),
        ("set server app/up weight", "Require <weight> or <weight%>."),
        ("set weight app/up", "Require <weight> or <weight%>."),
        ("set weight app/up x", GARBAGE),
        ("set weight app/up %", GARBAGE),
        ("set weight app/up 1x", "Trailing garbage in weight string"),
        ("set weight app/up 257", RANGE),
        ("set weight app/up -1", RANGE),
        ("set weight app/up -1%", "Relative weight must be positive."),
        ("set server app/up health", "'set server <srv> health' expects 'up' or 'down'."),
        ("disable server app/nobody", "No such server."),
        ("enable server", "Require 'backend/server'."),
        ("enable health names/ns", "Health checks are not configured on this server, cannot enable."),
        ("shutdown sessions server app/nobody", "No such server."),
    ],
)
def test_what_makes_no_sense_is_said_in_haproxys_words(house: House, line: str, why: str) -> None:
    with pytest.raises(SteeringError) as error:
        steering.parse(line.split(), house.look())
    assert str(error.value) == why


@given(st.text(max_size=12))
def test_a_weight_is_in_its_range_or_refused(text: str) -> None:
    snapshot = _HOUSE.look()
    try:
        change = steering.parse(["set", "weight", "app/up", text], snapshot)
    except SteeringError:
        return
    assert change.weight is not None and 0 <= change.weight <= 256


_HOUSE = House(config())


def test_a_weight_is_told_with_the_configured_one(house: House) -> None:
    row = steering.found(["app/up"], house.look())
    assert steering.weight_of(row) == "3 (initial 3)"
