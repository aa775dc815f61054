"""The servers' states as control decides them, and who is told: checks and operators enter here alike.

check  ──┐
         ├── Decisions.take ── board ── doorbells of workers, `kernel`, those of before a reload
command ─┘
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from balancer.daemon.memory import Memory, ring
from balancer.daemon.plan import Plan, Seat
from balancer.health import report
from balancer.pool.facts import Entity, Sums
from balancer.pool.orders import WHOLE, Admin, Condition, ServerState
from balancer.pool.warmup import FOLLOWING, throttle

__all__ = ["Decisions", "Former", "takes_clients"]


class Former(NamedTuple):
    """A generation of before a reload: some of its workers may still have connections."""

    plan: Plan
    memory: Memory


class Decisions:
    """The board's only writer."""

    def __init__(self, plan: Plan, memory: Memory, elders: Sequence[Former]) -> None:
        self._plan = plan
        self._memory = memory
        self._elders = elders
        # The board as we left it: nobody else writes there.
        self.states = list(memory.board)[: len(plan.seats)]
        self.has_news = True
        """Whether anything was decided; whoever has taken note of it says so."""
        self._warming: dict[int, tuple[Seat, float]] = {}
        """Servers that have not all of their weight, with the time that it takes them."""
        for seat in plan.seats.values():
            self._warm_up(seat, self.states[seat.index])
        self._usable = {name: _Usable() for name in plan.config.backends}
        for seat in plan.seats.values():
            self._usable[seat.backend].count(self.states[seat.index], 1, is_backup=self.is_backup(seat))

    def __getitem__(self, index: int) -> ServerState:
        return self.states[index]

    def is_backup(self, seat: Seat) -> bool:
        return self._plan.config.backends[seat.backend].servers[seat.server].backup

    def take(self, seat: Seat, new: ServerState, *, tell: bool) -> None:
        """From now on this is the server's state. `tell`: others act on it."""
        old = self.states[seat.index]
        if _is_out(old) and not _is_out(new) and self._slowstart(seat) is not None:
            new = new._replace(throttle=1)
        elif _is_out(new):
            new = new._replace(throttle=WHOLE)
        self._warm_up(seat, new)
        self.states[seat.index] = self._memory.board[seat.index] = new
        self.has_news = True
        for sign, state in ((-1, old), (1, new)):
            self._usable[seat.backend].count(state, sign, is_backup=self.is_backup(seat))
        if tell:
            self._tell_elders(seat, new)
            self.tell()

    def _slowstart(self, seat: Seat) -> float | None:
        """None where neither its weight nor its maxconn follows."""
        backend = self._plan.config.backends[seat.backend]
        server = backend.servers[seat.server]
        return server.slowstart if backend.balance in FOLLOWING or server.maxconn is not None else None

    def _warm_up(self, seat: Seat, state: ServerState) -> None:
        slowstart = self._slowstart(seat)
        if state.throttle < WHOLE and slowstart is not None:
            self._warming[seat.index] = seat, slowstart
        else:
            self._warming.pop(seat.index, None)

    def go_on_warming(self, now: int) -> None:
        """Give servers that have come back more of their weight; to be called each second. `now` is Unix time in
        microseconds."""
        for seat, slowstart in list(self._warming.values()):
            state = self.states[seat.index]
            share = throttle(state.last_change, slowstart, now)
            if share > state.throttle:
                self.take(seat, state._replace(throttle=share), tell=True)

    def tell(self) -> None:
        """Something is to be read."""
        for bell in (*self._memory.worker_bells, self._memory.kernel_bell):
            if bell is not None:
                ring(bell)
        for _, memory in self._elders:
            for bell in memory.worker_bells:
                with contextlib.suppress(OSError):
                    ring(bell)

    def forget_failures(self) -> None:
        """What checks have counted of them is counted anew."""
        for index, state in enumerate(self.states):
            if state.downs or state.check_failures:
                self.states[index] = self._memory.board[index] = state._replace(downs=0, check_failures=0)

    def _tell_elders(self, seat: Seat, state: ServerState) -> None:
        """So that sessions end with their server in workers of before a reload too."""
        for plan, memory in self._elders:
            its = plan.seats.get((seat.backend, seat.server))
            if its is None:
                continue
            if seat.name and its.name == seat.name:
                memory.board[its.index] = state
            elif its.address == seat.at(state):
                memory.board[its.index] = state._replace(octets=bytes(16), port=0)

    def standing(self, seat: Seat) -> report.Standing:
        """What is left of its backend, the sessions it has, and those in its line, who wait elsewhere when it goes."""
        usable = self._usable[seat.backend]
        sessions, queued = (self._at_the_moment(seat, gauge) for gauge in ("scur", "qcur"))
        stays = self.states[seat.index].takes_cookie
        return report.Standing(
            usable.active, usable.backup, sessions, requeued=0 if stays else queued, queued=queued if stays else 0
        )

    def _at_the_moment(self, seat: Seat, gauge: str) -> int:
        """Of all workers, those of before a reload with them."""
        entity = Entity("server", seat.backend, seat.server)
        return sum(
            Sums.of(entity, memory.blocks, plan.layout).counters[gauge]
            for plan, memory in (Former(self._plan, self._memory), *self._elders)
            if entity in plan.layout.places
        )


class _Usable:
    """How many servers of a backend take new clients. Those not checked yet count as HAProxy counts them: as up."""

    def __init__(self) -> None:
        self.active = self.backup = 0

    def count(self, state: ServerState, sign: int, *, is_backup: bool) -> None:
        """One more (`sign` 1) or one less (-1) in this state."""
        change = sign * takes_clients(state)
        if is_backup:
            self.backup += change
        else:
            self.active += change


def _is_out(state: ServerState) -> bool:
    """Whether nobody comes to it; unlike one that was never checked."""
    return state.condition is Condition.DOWN or state.admin is Admin.MAINT


def takes_clients(state: ServerState) -> bool:
    """Whether clients that are free to go anywhere may come to it."""
    return state.is_usable or state.is_unchecked
