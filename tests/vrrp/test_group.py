from __future__ import annotations

from dataclasses import replace

import pytest

from balancer.vrrp.group import Group, gather
from balancer.vrrp.machine import Follow, Role, Router, State, Weigh, initial, step

INIT, BACKUP, MASTER, FAULT, STOPPED = Role
RULES = Router(name="VI", version=3, vrid=51, priority=100, interval=1.0, is_grouped=True)


def member(role: Role, fault: str | None = None) -> State:
    deadline = 3.0 if role in (BACKUP, MASTER) else None
    return replace(initial(RULES, 0.0), role=role, deadline=deadline, fault=fault)


def gathered(*members: State) -> list[Role]:
    """What they are afterwards, those that are still INIT to be started."""
    states = {f"VI_{number}": state for number, state in enumerate(members)}
    group = Group("G", tuple(states))
    for name, event in gather(group, states):
        assert isinstance(event, Follow) and event.why.startswith("sync group G")
        states[name], _ = step(RULES, states[name], event, 1.0)
    return [state.role for state in states.values()]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([MASTER, MASTER], [MASTER, MASTER]),
        ([BACKUP, BACKUP], [BACKUP, BACKUP]),
        ([MASTER, INIT, INIT], [MASTER, MASTER, MASTER]),
        ([BACKUP, INIT], [BACKUP, INIT]),
        ([INIT, INIT], [INIT, INIT]),
        ([MASTER, BACKUP], [BACKUP, BACKUP]),
        ([MASTER, BACKUP, INIT], [BACKUP, BACKUP, INIT]),
        # The member that had the fault is none any more.
        ([FAULT, FAULT], [BACKUP, BACKUP]),
        ([FAULT, MASTER], [BACKUP, BACKUP]),
        ([STOPPED, MASTER], [STOPPED, MASTER]),
    ],
)
def test_members_that_differ_become_one_group(before: list[Role], after: list[Role]) -> None:
    assert gathered(*map(member, before)) == after


@pytest.mark.parametrize("others", [[MASTER], [BACKUP, INIT], [FAULT], []])
def test_a_fault_is_that_of_all(others: list[Role]) -> None:
    assert gathered(member(FAULT, "eth1 is down"), *map(member, others)) == [FAULT] * (len(others) + 1)


def test_it_says_whose_fault_it_is() -> None:
    states = {"A": member(MASTER), "B": member(FAULT, "eth1 is down")}
    ((name, event),) = gather(Group("G", ("A", "B")), states)
    assert (name, event) == ("A", Follow(FAULT, "sync group G: B: eth1 is down"))
    assert step(RULES, states["A"], Weigh(50), 1.0)[0].priority == 50
