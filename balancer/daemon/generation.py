"""What runs under one configuration: processes, with the memory that they share and the sockets that they listen to.

A reload makes another generation beside it. Once the new one's workers are ready, the old one's finish what they have.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from balancer.daemon.control import inherit, initialise
from balancer.daemon.decisions import Former
from balancer.daemon.memory import Memory
from balancer.daemon.plan import Plan
from balancer.daemon.privileges import Identity
from balancer.daemon.serving import Serving, WorkerLife
from balancer.daemon.sockets import Sockets
from balancer.observe.log import AccessLog
from balancer.pool.facts import Elder, fold, let_go

__all__ = ["Child", "Generation"]


@dataclass
class Child:
    """A process to keep running."""

    name: str
    main: Callable[[], None]
    pid: int = 0
    started: float = 0.0
    start_at: float = 0.0
    pause: float = 0.0
    is_told: bool = False
    """Has it been told to end?"""
    number: int | None = None
    """Of a worker."""
    slot: int | None = None
    """Of a worker that runs: its place in all limits."""
    is_of_network: bool = False
    """Does it keep the rights to change rules and settings of the network?"""
    is_followed: bool = False
    """Has it been told to leave what it did to another?"""

    def tell(self, number: signal.Signals) -> None:
        """To end, one way or another."""
        self.is_told = True
        if self.pid:
            os.kill(self.pid, number)


@dataclass(eq=False)
class Generation:
    """Times are monotonic seconds."""

    plan: Plan
    memory: Memory
    sockets: Sockets
    log: AccessLog
    serving: Serving
    children: list[Child] = field(default_factory=list)
    elders: list[Generation] = field(default_factory=list)
    """Those before it that still count connections, or did when it took over."""
    predecessor: Generation | None = None
    """Whose flows are handed over to it."""
    kill_at: float = inf
    """When whatever is left of it is killed."""
    is_killed: bool = False

    @staticmethod
    def of(plan: Plan, log: AccessLog, owner: Identity | None, before: Generation | None = None) -> Generation:
        """Without processes. StartError and OSError: then nothing is there that was not `before`."""
        memory = None
        try:
            memory = Memory(plan, before.memory if before is not None else None)
            initialise(plan, memory)
            if before is not None:
                inherit(plan, memory, before.former)
            sockets = Sockets.open(
                plan.config,
                plan.workers,
                owner=owner,
                before=before.sockets if before is not None else None,
                found=plan.found,
            )
        except BaseException:
            if memory is not None:
                memory.close()
            raise
        return Generation(plan, memory, sockets, log, Serving(plan, memory), predecessor=before)

    @property
    def former(self) -> Former:
        return Former(self.plan, self.memory)

    @property
    def workers(self) -> list[Child]:
        return [child for child in self.children if child.number is not None]

    @property
    def lives(self) -> list[WorkerLife]:
        return [
            WorkerLife(child.number, child.pid != 0, child.started, child.pause > 0)
            for child in self.children
            if child.number is not None
        ]

    def take_over(self, before: Generation) -> None:
        """What control of `before`, which has ended, has decided, and what everybody has counted."""
        inherit(self.plan, self.memory, before.former)
        layout = self.plan.layout
        fold(self.memory.past, layout, Elder([before.memory.past], before.plan.layout))
        fold(self.memory.cleared, layout, Elder([before.memory.cleared], before.plan.layout))
        for elder in before.elders:
            if elder.children:
                self.elders.append(elder)
            else:
                fold(self.memory.past, layout, Elder(elder.memory.blocks, elder.plan.layout))
        self.elders.append(before)
        before.elders = []

    def kill(self) -> None:
        """Whatever is left of it."""
        self.is_killed = True
        for child in self.children:
            child.tell(signal.SIGKILL)

    def bury(self, child: Child, *, was_killed: bool) -> None:
        """It has ended, and nobody takes its place."""
        self.children.remove(child)
        if child.number is not None:
            self.memory.let_go(child.number, for_good=True)
        blocks = self.memory.blocks
        if was_killed and (child.number is not None or child.is_of_network):
            let_go(blocks[child.number if child.number is not None else -1], self.plan.layout)

    def close(self) -> None:
        """Once its processes have ended: what it has and others have not."""
        self.memory.close()
        self.sockets.unlink()
        self.log.close()
