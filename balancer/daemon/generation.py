"""What runs under one configuration: processes, with the memory that they share and the sockets that they listen to.

A reload makes another generation beside it. Once the new one's workers are ready, the old one's finish what they have.
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from balancer.daemon.control import inherit, initialise
from balancer.daemon.decisions import Former
from balancer.daemon.logbook import Logbook
from balancer.daemon.memory import Memory
from balancer.daemon.passed import Passed
from balancer.daemon.plan import Plan
from balancer.daemon.privileges import Identity
from balancer.daemon.serving import Serving, WorkerLife
from balancer.daemon.sockets import Sockets
from balancer.observe.bounds import Door
from balancer.observe.log import AccessLog
from balancer.pool.facts import COUNTERS, Elder, Entity, fold, let_go

__all__ = ["GRACE", "Child", "Generation", "surplus"]

GRACE = 2.0
"""After the children's own hard stop, what they get before they are killed (seconds)."""
_NUMBER = struct.Struct("=q")
_SESSIONS = _NUMBER.size * COUNTERS.index("scur")
# Workers say four times a second how many connections they have; those who wait in a queue are in by then (seconds).
_KNOWN_AFTER = 1.0


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
    folded: list[Generation] = field(default_factory=list)
    """Those before it that had ended when it took over: it has what they counted."""
    predecessor: Generation | None = None
    """Whose flows are handed over to it."""
    kill_at: float = inf
    """When whatever is left of it is killed."""
    dismissed: float = inf
    """When its workers were told to take nobody any more."""
    is_ended: bool = False
    """They were told to end at once."""
    is_killed: bool = False

    @staticmethod
    def of(
        plan: Plan,
        log: AccessLog,
        owner: Identity | None,
        before: Generation | None = None,
        logbook: Logbook | None = None,
        passed: Passed | None = None,
    ) -> Generation:
        """Without processes. StartError and OSError: then nothing is there that was not `before`."""
        memory = None
        try:
            memory = Memory(plan, before.memory if before is not None else None, logbook)
            initialise(plan, memory, is_reload=before is not None)
            if before is not None:
                inherit(plan, memory, before.former)
            sockets = Sockets.open(
                plan.config,
                plan.workers,
                owner=owner,
                before=before.sockets if before is not None else None,
                found=plan.found,
                passed=passed,
            )
        except BaseException:
            if memory is not None:
                memory.close()
            raise
        if log.keep is None:
            keep = log.keep = memory.journal.writer("supervisor")
            for event in log.recent:
                keep(event.at, event.level, event.text)
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

    def sessions(self, entity: Entity) -> int:
        """How many its workers have of one at the moment."""
        place = self.plan.layout.places[entity] + _SESSIONS
        return sum(_NUMBER.unpack_from(block, place)[0] for block in self.memory.blocks)

    def connections(self, now: float) -> float:
        """How many its workers have. Infinitely many while nobody knows."""
        return inf if now - self.dismissed < _KNOWN_AFTER else self.sessions(Entity("process", ""))

    def moved(self, child: Child) -> float:
        """When it moved last, or was started."""
        if child.number is not None:
            heartbeat = self.serving.heartbeat(child.number)
        elif child.is_of_network:
            heartbeat = self.serving.heartbeat(-1)
        else:
            heartbeat = self.memory.beat[0] * 1e-6
        return max(heartbeat, child.started)

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
                self._fold(elder)
        self.elders.append(before)
        before.elders = []

    def take_back(self, failed: Generation) -> None:
        """Again what it was before `failed` took over from it, besides what that one's workers have counted."""
        for elder in failed.folded:
            self._fold(elder)
        for elder in failed.elders:
            if elder is self:
                continue
            if elder.children:
                self.elders.append(elder)
            else:
                self._fold(elder)
        self.elders.append(failed)
        failed.elders, failed.folded = [], []

    def _fold(self, elder: Generation) -> None:
        fold(self.memory.past, self.plan.layout, Elder(elder.memory.blocks, elder.plan.layout))
        self.folded.append(elder)

    def leave_doors(self, before: Generation) -> None:
        """As they were: nothing was said of frontends."""
        for name, door in before.memory.doors.items():
            if name in self.memory.doors:
                self.memory.doors[name][0] = door[0]

    def shut_doors(self) -> None:
        """Leave what frontends listen to that operators have shut down."""
        for name, door in self.memory.doors.items():
            if door[0] == Door.SHUT:
                self.sockets.leave(name)

    def kill(self) -> None:
        """Whatever is left of it."""
        self.is_ended = self.is_killed = True
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


def surplus(elders: Sequence[Generation], most: int, now: float) -> list[Generation]:
    """Those to be ended so that not more than `most` workers of before are left: who has the fewest connections is the
    first, and of these the oldest, as `elders` begin with it."""
    over = sum(len(elder.workers) for elder in elders) - most
    found = []
    # Those who end already are about to be gone.
    for elder in sorted(elders, key=lambda each: (not each.is_ended, each.connections(now))):
        if over > 0 and elder.workers:
            over -= len(elder.workers)
            if not elder.is_ended:
                found.append(elder)
    return found
