"""What operators change, made so: the state of a server, its weight, its sessions.

In control, beside the checks: a change is one more decision, and the log says whose.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from balancer.config import model
from balancer.daemon.decisions import Decisions, takes_clients
from balancer.daemon.plan import Plan, Seat
from balancer.health import report, verdict
from balancer.health.runner import Runner
from balancer.observe.log import AccessLog, Level
from balancer.observe.steering import Change
from balancer.pool.orders import Admin, Condition

__all__ = ["Helm"]


class Helm:
    """Carries out changes. `checked` are the board's rows of the servers that are checked."""

    def __init__(
        self, plan: Plan, decisions: Decisions, runner: Runner, checked: Collection[int], log: AccessLog
    ) -> None:
        self._plan = plan
        self._decisions = decisions
        self._runner = runner
        self._checked = checked
        self._log = log

    def __call__(self, change: Change, by: str) -> None:
        """Make it so, and note in the log by whom. The server exists."""
        seat = self._plan.seats[change.backend, change.server]
        self._log.event(Level.NOTICE, f"{by}: {_told(change)}")
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

    def _admin(self, seat: Seat, admin: Admin) -> None:
        old = self._decisions[seat.index]
        new = old
        now = _now()
        is_checked = seat.index in self._checked
        if admin is Admin.MAINT:
            if is_checked:
                self._runner.pause(seat.index)
        elif old.admin is Admin.MAINT and seat.address is not None:
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
        elif state.admin is not Admin.MAINT:
            # What it would say of the state is for a server that comes out of maintenance.
            self._runner.resume(seat.index)
        self._decisions.take(seat, state._replace(is_unwatched=not is_checked), tell=False)

    def _check(self, seat: Seat) -> model.CheckBase | model.NoCheck:
        return self._plan.config.backends[seat.backend].check if seat.index in self._checked else model.NoCheck()

    def _say(self, line: report.Line) -> None:
        self._log.event(Level(line.severity), line.text)


def _now() -> int:
    return int(time.time() * 1e6)


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
