"""What operators change, made so: the state of a server, its weight, its sessions.

In control, beside the checks: a change is one more decision, and the log says whose.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

from balancer.config import model
from balancer.daemon.decisions import Decisions, takes_clients
from balancer.daemon.plan import Plan, Seat
from balancer.daemon.remembered import Remembered, imposed
from balancer.health import report, verdict
from balancer.health.runner import Runner
from balancer.observe import lines
from balancer.observe.log import AccessLog, Level
from balancer.observe.steering import Change
from balancer.pool.orders import Admin, Condition
from balancer.pool.overrides import Kind, Override, Target, named

__all__ = ["Helm"]

_HEALTH: tuple[Kind, ...] = ("health",)


class Helm:
    """Carries out changes, and remembers them. `checked` are the board's rows of the servers that are checked."""

    def __init__(
        self,
        plan: Plan,
        decisions: Decisions,
        runner: Runner,
        checked: Collection[int],
        log: AccessLog,
        remembered: Remembered,
    ) -> None:
        self._plan = plan
        self._decisions = decisions
        self._runner = runner
        self._checked = checked
        self._log = log
        self._remembered = remembered
        self.undo: dict[Kind, Callable[[Override], None]] = {}
        """Who makes it as the configuration says again, for what is not done here."""
        # What whoever was here before may have died over.
        for seat in plan.seats.values():
            its = remembered.of((seat.backend, seat.server))
            old = decisions[seat.index]
            if its and (new := imposed(old, its)) != old:
                decisions.take(seat, new, tell=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on changes are kept, and end."""
        self._remembered.start(loop, self._revert)

    def turn(self, now: float) -> None:
        """To be called each second: undo what was for a time that is over now (Unix time)."""
        for each in self._remembered.turn(now):
            why = f" ({each.why})" if each.why else ""
            self._log.event(Level.NOTICE, f"{named(each.target)}: {each.told}, by {each.by}{why}, is over")
            self._revert(each)

    def forget(self, target: Target, kinds: Collection[Kind] | None, by: str) -> list[Override]:
        """All, or what is of these kinds, is to be as the configuration says again; what was not."""
        gone = self._remembered.drop(target, kinds)
        for each in gone:
            self._log.event(Level.NOTICE, f"{by}: clear override {named(target)} {each.kind}")
            self._revert(each)
        return gone

    def __call__(self, change: Change, by: str) -> None:
        """Make it so, and note in the log by whom. The server exists."""
        seat = self._plan.seats[change.backend, change.server]
        self._log.event(Level.NOTICE, f"{by}: {_told(change)}{_reason(change)}")
        old = self._decisions[seat.index]
        if change.admin is not None and change.admin is not old.admin:
            self._admin(seat, change.admin)
        if change.condition is not None:
            self._condition(seat, change.condition)
        if change.is_checked is not None and seat.index in self._checked:
            self._watch(seat, is_checked=change.is_checked)
        state = self._decisions[seat.index]
        new = state._replace(
            weight=state.weight if change.weight is None else change.weight, shutdowns=state.shutdowns + change.shuts
        )
        if new != state:
            self._decisions.take(seat, new, tell=True)
        if takes_clients(old) and not takes_clients(self._decisions[seat.index]):
            left = self._decisions.standing(seat)
            if not left.active and not left.backup:
                self._say(report.no_server_line(seat.backend))
        self._remember(seat, change, by)

    def _remember(self, seat: Seat, change: Change, by: str) -> None:
        target = (seat.backend, seat.server)

        def keep(kind: Kind, value: object) -> None:
            self._remembered.keep(target, kind, value, by=by, why=change.why, until=change.until)

        if change.admin is not None:
            keep("state", change.admin.name.lower())
        if change.weight is not None:
            keep("weight", change.weight)
        if change.is_checked is not None:
            keep("checks", "on" if change.is_checked else "off")
        is_checked = seat.index in self._checked
        if change.condition is not None:
            # Where checks go on, they say what it is from now on.
            is_watched = is_checked and not self._decisions[seat.index].is_unwatched
            if not is_watched and (is_checked or change.condition is Condition.DOWN):
                keep("health", change.condition.name.lower())
            else:
                self._remembered.drop(target, _HEALTH)
        if change.is_checked:
            self._remembered.drop(target, _HEALTH)

    def _revert(self, gone: Override) -> None:
        """What was overridden is as the configuration says again."""
        seat = self._plan.seats.get((gone.target[0], gone.target[1])) if len(gone.target) > 1 else None
        if gone.kind in self.undo:
            self.undo[gone.kind](gone)
        elif seat is not None:
            old = self._decisions[seat.index]
            server = self._plan.config.backends[seat.backend].servers[seat.server]
            if gone.kind == "state" and old.admin is not Admin.READY:
                self._admin(seat, Admin.READY)
            elif gone.kind == "weight" and old.weight != server.weight:
                self._decisions.take(seat, old._replace(weight=server.weight), tell=True)
            elif gone.kind == "checks" and seat.index in self._checked:
                self._watch(seat, is_checked=True)
            elif gone.kind == "health" and seat.index not in self._checked:
                self._condition(seat, Condition.UP)

    def _admin(self, seat: Seat, admin: Admin) -> None:
        old = self._decisions[seat.index]
        new = old
        now = _now()
        is_checked = seat.index in self._checked
        if admin is Admin.MAINT:
            if is_checked:
                self._runner.pause(seat.index)
        elif old.admin is Admin.MAINT and not old.is_unresolved:
            if is_checked and not old.is_unwatched:
                new = self._runner.resume(seat.index)
            elif is_checked or old.condition is not Condition.DOWN:
                new = verdict.resumed(old, self._check(seat), now=now)
        if new.condition is not Condition.DOWN:
            # How long it has been down is counted from when it went.
            new = new._replace(last_change=now)
        self._decisions.take(seat, new._replace(admin=admin), tell=True)
        for line in report.admin_lines(
            seat.backend,
            seat.server,
            old,
            self._decisions[seat.index],
            standing=self._decisions.standing(seat),
            is_backup=self._decisions.is_backup(seat),
        ):
            self._say(line)

    def _condition(self, seat: Seat, condition: Condition) -> None:
        old = self._decisions[seat.index]
        if old.is_unresolved:
            # Nobody could reach it.
            return
        new = verdict.forced(old, condition, self._check(seat), now=_now())
        self._decisions.take(seat, new, tell=True)
        if new.condition is not old.condition:
            line = report.server_line(
                seat.backend,
                seat.server,
                condition,
                result=None,
                standing=self._decisions.standing(seat),
                is_backup=self._decisions.is_backup(seat),
                was_draining=not takes_clients(old),
            )
            self._say(line)

    def _watch(self, seat: Seat, *, is_checked: bool) -> None:
        state = self._decisions[seat.index]
        if not is_checked:
            self._runner.pause(seat.index)
        elif state.admin is not Admin.MAINT and not state.is_unresolved:
            # What it would say of the state is for a server that comes out of maintenance.
            self._runner.resume(seat.index)
        self._decisions.take(seat, state._replace(is_unwatched=not is_checked), tell=False)

    def _check(self, seat: Seat) -> model.CheckBase | model.NoCheck:
        return self._plan.config.backends[seat.backend].check if seat.index in self._checked else model.NoCheck()

    def _say(self, line: report.Line) -> None:
        self._log.event(Level(line.severity), line.text)


def _now() -> int:
    return int(time.time() * 1e6)


def _reason(change: Change) -> str:
    until = f" until {lines.rfc3339_date(change.until)}" if change.until is not None else ""
    return f"{until} ({change.why})" if change.why else until


def _told(change: Change) -> str:
    """The change as a command."""
    name = f"{change.backend}/{change.server}"
    if change.admin is not None:
        return f"set server {name} state {change.admin.name.lower()}"
    if change.weight is not None:
        return f"set server {name} weight {change.weight}"
    if change.condition is not None:
        return f"set server {name} health {change.condition.name.lower()}"
    if change.is_checked is not None:
        return f"{'enable' if change.is_checked else 'disable'} health {name}"
    return f"shutdown sessions server {name}"
