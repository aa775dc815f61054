"""The board's one writer."""

from __future__ import annotations

import os
import select

import pytest

from balancer.daemon.control import initialise
from balancer.daemon.decisions import Decisions, Former, takes_clients
from balancer.pool.orders import Admin, Condition

SERVERS = {"s1": "127.0.0.1:1", "s2": "127.0.0.1:2", "s3": {"address": "127.0.0.1:3", "backup": True}}


@pytest.fixture
def house(plan, memory):
    made = plan({"global": {"workers": 2}, "backends": {"b": {"servers": SERVERS}}})
    shared = memory(made)
    initialise(made, shared)
    return made, shared


def rung(memory) -> list[int]:
    ringing = select.select(memory.worker_bells, [], [], 0)[0]
    for bell in ringing:
        os.eventfd_read(bell)
    return ringing


def test_what_is_decided_is_on_the_board_and_told(house) -> None:
    plan, memory = house
    decisions = Decisions(plan, memory, ())
    seat = plan.seats["b", "s1"]
    new = decisions[seat.index]._replace(admin=Admin.DRAIN)
    decisions.take(seat, new, tell=True)
    assert memory.board[seat.index] == new == decisions[seat.index]
    assert rung(memory) == memory.worker_bells
    decisions.take(seat, new._replace(health=1), tell=False)
    assert rung(memory) == [] and memory.board[seat.index].health == 1


def test_it_is_counted_who_is_left(house) -> None:
    plan, memory = house
    decisions = Decisions(plan, memory, ())
    first, second, backup = (plan.seats["b", name] for name in SERVERS)
    assert decisions.standing(first)[:3] == (2, 1, 0)
    decisions.take(first, decisions[first.index]._replace(condition=Condition.DOWN), tell=False)
    decisions.take(backup, decisions[backup.index]._replace(admin=Admin.MAINT), tell=False)
    assert decisions.standing(first)[:3] == (1, 0, 0)
    # Whoever takes its place counts anew.
    assert Decisions(plan, memory, ()).standing(second)[:3] == (1, 0, 0)


def test_those_of_before_a_reload_are_told_of_servers_they_know(house, plan, memory) -> None:
    old_plan = plan(
        {"global": {"workers": 1}, "backends": {"b": {"servers": {"s2": "127.0.0.1:2", "s1": "127.0.0.1:9"}}}}
    )
    old = memory(old_plan)
    initialise(old_plan, old)
    new_plan, new = house
    decisions = Decisions(new_plan, new, [Former(old_plan, old)])
    for name in ("s1", "s2"):
        seat = new_plan.seats["b", name]
        decisions.take(seat, decisions[seat.index]._replace(admin=Admin.MAINT), tell=True)
    assert old.board[old_plan.seats["b", "s2"].index].admin is Admin.MAINT
    assert old.board[old_plan.seats["b", "s1"].index].admin is Admin.READY, "there it is another server"
    assert rung(old) == old.worker_bells


def test_who_takes_clients(house) -> None:
    plan, memory = house
    state = memory.board[plan.seats["b", "s1"].index]
    assert takes_clients(state) and takes_clients(state._replace(condition=Condition.UNKNOWN))
    assert not takes_clients(state._replace(weight=0)) and not takes_clients(state._replace(admin=Admin.DRAIN))
