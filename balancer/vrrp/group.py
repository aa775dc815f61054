"""Sync groups: virtual routers that change together, told to do so by events for their state machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from balancer.vrrp.machine import Changed, Event, Follow, Role, State, Wants

__all__ = ["Group", "follow", "gather"]


@dataclass(frozen=True, slots=True)
class Group:
    """Virtual routers that change together."""

    name: str
    members: tuple[str, ...]


def follow(
    group: Group, name: str, said: Changed | Wants, states: Mapping[str, State]
) -> tuple[tuple[str, Event], ...]:
    """The events that bring a sync group together again after its member `name` gave this action.

    `states` has every member as it is now. What the events lead to is to be asked of `follow` in turn; this ends, as
    every order brings a member to where the group goes and none leads back. A group is
        FAULT   as soon as one member is, and until none has a fault of its own;
        MASTER  once every member would be (keepalived: prefer backup to thrashing);
        BACKUP  as soon as one member is.
    Stopped members do not count. A router in a group must have `is_grouped`.
    """
    running = {member: states[member] for member in group.members if states[member].role is not Role.STOPPED}
    goal, movable = _goal(said, running)
    begins = f"sync group {group.name}: "
    why = said.why if said.why.startswith(begins) else f"{begins}{name}: {said.why}"
    return tuple((member, Follow(goal, why)) for member, state in running.items() if state.role in movable)


def _goal(said: Changed | Wants, running: Mapping[str, State]) -> tuple[Role, tuple[Role, ...]]:
    """Where the group goes, and the roles that have to be left for it."""
    role = said.role if isinstance(said, Wants) else said.new
    if any(state.fault is not None for state in running.values()):
        return Role.FAULT, (Role.INIT, Role.BACKUP, Role.MASTER)
    if role is Role.MASTER:
        if isinstance(said, Changed) or all(state.is_ready or state.role is Role.MASTER for state in running.values()):
            return Role.MASTER, (Role.BACKUP,)
        return Role.MASTER, ()
    if role is Role.STOPPED:
        # Only a fault that went with the stopped member is over; the others stay what they are.
        return Role.BACKUP, (Role.FAULT,)
    return Role.BACKUP, (Role.MASTER, Role.FAULT)


def gather(group: Group, states: Mapping[str, State]) -> tuple[tuple[str, Event], ...]:
    """The events that make one group of members that a reload has put together; the new ones are INIT.

    Where those of before are master, a new one is too: what of it is where another is better, it hears at once. What
    is still INIT afterwards is to be started.
    """
    members = {member: states[member] for member in group.members if states[member].role is not Role.STOPPED}
    goal, why = Role.BACKUP, f"sync group {group.name} was put together"
    for name, state in members.items():
        if state.fault is not None:
            goal, why = Role.FAULT, f"sync group {group.name}: {name}: {state.fault}"
            break
    else:
        if {state.role for state in members.values()} - {Role.INIT} == {Role.MASTER}:
            goal, why = Role.MASTER, f"sync group {group.name} is master here"
    movable = {
        Role.FAULT: (Role.INIT, Role.BACKUP, Role.MASTER),
        Role.MASTER: (Role.INIT,),
        Role.BACKUP: (Role.MASTER, Role.FAULT),
    }[goal]
    return tuple((name, Follow(goal, why)) for name, state in members.items() if state.role in movable)
