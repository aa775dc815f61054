"""What this host can do for clients, seen from the supervisor: in shared memory, once a second, for next to nothing."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from balancer.daemon.memory import Memory
from balancer.daemon.plan import Plan
from balancer.pool.facts import COUNTERS, Entity
from balancer.pool.orders import Admin, ServerState

__all__ = ["Serving", "WorkerLife"]

_HEARTBEAT = struct.Struct("=q")
_COLUMN = _HEARTBEAT.size * COUNTERS.index("heartbeat")
_MICROSECOND = 1e-6
# A heart beats about three times a second; control calls one that is silent for so long a worker that hangs.
_SILENCE = 5.0
# One whose predecessor died young has to live for so long before it is believed.
_YOUNG = 1.0


class WorkerLife(NamedTuple):
    """What the supervisor knows of a worker process. Times are monotonic seconds."""

    number: int
    is_alive: bool
    started: float
    """0: never yet."""
    follows_young_death: bool
    """Whether the one before it died soon after its start."""


class Serving:
    """Reads the workers' heartbeats and the servers' states."""

    def __init__(self, plan: Plan, memory: Memory) -> None:
        self._blocks = memory.blocks
        self._heartbeat = plan.layout.places[Entity("process", "")] + _COLUMN
        self._board = memory.board
        self._applied = memory.applied if plan.has_kernel_frontends else None
        self._seen = bytearray()
        self._backends = [seat.backend for seat in sorted(plan.seats.values(), key=lambda seat: seat.index)]
        # Of each server: 1 or 0 of 1, or of none.
        self._counted = [(0, 0)] * len(self._backends)
        self._servers = dict.fromkeys(plan.config.backends, (0, 0))

    def is_serving(self, workers: Iterable[WorkerLife], now: float) -> bool:
        """Whether one of the workers takes connections: it runs, and its heart beats."""
        return any(self._serves(worker, now) for worker in workers)

    def are_ready(self, workers: Iterable[WorkerLife]) -> bool:
        """Whether the hearts of all of them have begun to beat."""
        return all(worker.is_alive and self.heartbeat(worker.number) >= worker.started for worker in workers)

    def heartbeat(self, number: int) -> float:
        """When the worker moved last, or with -1 the process `kernel` where there is one; 0: not yet, or ended."""
        (microseconds,) = _HEARTBEAT.unpack_from(self._blocks[number], self._heartbeat)
        return float(microseconds * _MICROSECOND)

    def trouble(self, now: float) -> str:
        """Why nobody is served although workers are there; empty where there is nothing."""
        if self._applied is None:
            return ""
        applied = self._applied[0] * _MICROSECOND
        return "" if applied and now - applied < _SILENCE else "the kernel's rules are not in place"

    def _serves(self, worker: WorkerLife, now: float) -> bool:
        if not worker.started:
            # The first ones are started as soon as we are done here.
            return True
        if not worker.is_alive:
            return False
        age = now - worker.started
        heartbeat = self.heartbeat(worker.number)
        if heartbeat >= worker.started:
            return now - heartbeat < _SILENCE and not (worker.follows_young_death and age < _YOUNG)
        # Its own has not beaten yet. Those that die again and again never come so far.
        return age < _SILENCE and not worker.follows_young_death

    def servers(self) -> dict[str, tuple[int, int]]:
        """By backend how many servers get clients, and how many should: all but those that the operator took out, by
        maintenance, draining or weight 0. The dictionary is not changed afterwards."""
        changed = set()
        for index, state in self._board.changes(self._seen):
            if index < len(self._counted):
                self._counted[index] = _count(state)
                changed.add(self._backends[index])
        if changed:
            servers = dict(self._servers) | dict.fromkeys(changed, (0, 0))
            for backend, (up, wanted) in zip(self._backends, self._counted, strict=True):
                if backend in changed:
                    before = servers[backend]
                    servers[backend] = before[0] + up, before[1] + wanted
            self._servers = servers
        return self._servers


def _count(state: ServerState) -> tuple[int, int]:
    if state.admin is not Admin.READY or not state.weight:
        return 0, 0
    return int(state.is_usable), 1
