"""In control: limits that operators change, and frontends that they close.

A limit is the same in all workers, those of before a reload too: control writes what it is to be, and rings for the
supervisor, who makes it so. A frontend's door is a number that its workers, or the process `kernel`, read when their
bells ring.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from balancer.config import effective
from balancer.daemon.limits import PROCESS, Entry, unbounded
from balancer.daemon.memory import Memory, ring
from balancer.daemon.plan import Plan
from balancer.daemon.remembered import Remembered
from balancer.observe.bounds import Bound, Door, Move, limited, told
from balancer.observe.log import AccessLog, Level
from balancer.observe.snapshot import Process, Roster
from balancer.observe.steering import SteeringError
from balancer.pool.facts import Entity
from balancer.pool.overrides import Kind, Override, Target, named

__all__ = ["Bounds"]

_KINDS: tuple[Kind, ...] = ("maxconn",)
# Seconds.
_PATIENCE, _LOOK_EVERY = 1.0, 0.005


class Bounds:
    """`roster` and `process` are as the configuration has them."""

    def __init__(
        self,
        plan: Plan,
        memory: Memory,
        remembered: Remembered,
        log: AccessLog,
        *,
        tell: Callable[[], None],
        roster: Roster,
        process: Process,
    ) -> None:
        """`tell` rings for the workers and the process `kernel`."""
        self._plan = plan
        self._memory = memory
        self._remembered = remembered
        self._log = log
        self._tell = tell
        self._roster = roster
        self._process = process
        self.roster = roster
        """With the limits that there are."""
        self._set: dict[Target, int] = {}
        """What is not as the configuration says."""
        for each in remembered.all:
            if each.kind == "maxconn" and self._entry(each.target) in memory.limits:
                self._make(each.target, each.value)

    @property
    def process(self) -> Process:
        return self._process._replace(maxconn=self._set.get((), self._process.maxconn))

    @property
    def doors(self) -> Mapping[str, Door]:
        """Of those that are not open."""
        return {name: Door(door[0]) for name, door in self._memory.doors.items() if door[0]}

    async def set(self, bound: Bound, by: str) -> None:
        """Make it so, and remember it; it is so then, unless the supervisor has other things to do. SteeringError where
        nobody counts it."""
        target, value = bound
        if not target:
            value = value or self._plan.maxconn
        if self._entry(target) not in self._memory.limits:
            raise SteeringError(self._why_not(target))
        self._log.event(Level.NOTICE, f"{by}: {told(bound)}")
        self._make(target, value)
        if target in self._set:
            self._remembered.keep(target, "maxconn", value, by=by)
        else:
            self._remembered.drop(target, _KINDS)
        limit, until = self._memory.limits[self._entry(target)], time.monotonic() + _PATIENCE
        while not limit.is_kept and time.monotonic() < until:  # noqa: ASYNC110 - it is another process that does it
            await asyncio.sleep(_LOOK_EVERY)

    def revert(self, gone: Override) -> None:
        """It is as the configuration says again."""
        if self._entry(gone.target) in self._memory.limits:
            self._make(gone.target, self._configured(gone.target))

    def move(self, move: Move, by: str) -> None:
        """Open or close a frontend. SteeringError where it is so already, or cannot be."""
        name, to = move
        door, frontend = self._memory.doors.get(name), self._plan.config.frontends[name]
        if door is None:
            raise SteeringError(f"Frontend {name} is one of the version before: reload, then try again.")
        if to is Door.SHUT and (frontend.engine == "kernel" or frontend.mode == "udp"):
            what = "engine kernel" if frontend.engine == "kernel" else f"mode {frontend.mode}"
            raise SteeringError(
                f"Frontend {name} is of {what}: 'disable frontend' has it refuse who comes; to leave its address to "
                "others, take it out of the configuration and reload."
            )
        now = Door(door[0])
        if now is Door.SHUT:
            verb = {Door.OPEN: "enable", Door.PAUSED: "disable"}.get(to)
            if verb is None:
                raise SteeringError("Frontend was already shut down.")
            raise SteeringError(f"Frontend was previously shut down, cannot {verb}.")
        if now is to:
            raise SteeringError(f"All sockets are already {'enabled' if to is Door.OPEN else 'disabled'}.")
        self._log.event(Level.NOTICE, f"{by}: {told(move)}")
        door[0] = int(to)
        self._tell()
        self._ring()

    def _make(self, target: Target, value: int) -> None:
        configured = self._configured(target)
        if value == configured:
            self._set.pop(target, None)
        else:
            self._set[target] = value
        frontends = {each[0]: limit for each, limit in self._set.items() if len(each) == 1}
        servers = {(each[0], each[1]): limit for each, limit in self._set.items() if len(each) > 1}
        self.roster = limited(self._roster, frontends, servers)
        total = value
        if (len(target) > 1 and not value) or (value == configured and not self._is_bounded(target)):
            total = unbounded(self._plan.maxconn)
        self._memory.limits[self._entry(target)].total = total
        self._ring()
        self._tell()

    def _ring(self) -> None:
        if self._memory.book.bell is not None:
            ring(self._memory.book.bell)

    def _entry(self, target: Target) -> Entry:
        if not target:
            return Entry("places", PROCESS)
        return Entry("places", Entity("frontend" if len(target) == 1 else "server", *target))

    def _is_bounded(self, target: Target) -> bool:
        """Has the configuration a limit for it?"""
        return len(target) != 1 or effective.frontend(self._plan.config, target[0]).maxconn is not None

    def _configured(self, target: Target) -> int:
        """As it is shown."""
        config = self._plan.config
        if not target:
            return self._plan.maxconn
        if len(target) == 1:
            return effective.frontend(config, target[0]).maxconn or config.global_.maxconn
        return config.backends[target[0]].servers[target[1]].maxconn or 0

    def _why_not(self, target: Target) -> str:
        if len(target) == 1:
            return f"Frontend {target[0]} is not of mode tcp or http with engine proxy: nobody counts its connections."
        return (
            f"Server {named(target)} has no maxconn in the configuration, so its places are not counted: give it one."
        )
