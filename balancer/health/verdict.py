"""What a check's outcome makes of a server: HAProxy's one counter, and the states around it.

`health` runs from 0 to rise + fall - 1 and means UP from `rise` on. A failure takes one off, and below
`rise` all of it; a success adds one, and from `rise` on all that is left (HAProxy: set_server_check_status).
So `rise` successes in a row bring a server up and `fall` failures in a row take it down; at exactly `rise`,
where a server begins, one failure is enough.
"""

from __future__ import annotations

from typing import Literal

from balancer.config import model
from balancer.pool.orders import Condition, ServerState

__all__ = [
    "blamed", "count", "counted", "forced", "initial", "interval", "observe", "resumed", "shortest_interval", "status",
    "timeout",
]  # fmt: skip

# Of the default of fast_interval, as documented at the key.
_FAST = 1.0


def count(health: int, ok: bool, *, rise: int, fall: int) -> int:
    """The counter after one more check."""
    if ok:
        return rise + fall - 1 if health + 1 >= rise else health + 1
    return health - 1 if health > rise else 0


def initial(
    init_state: Literal["check", "up", "down"], check: model.CheckBase | model.NoCheck, *, weight: int, now: int
) -> ServerState:
    """The row of a server that was never checked; `now` is Unix time in microseconds.

    check: unknown, the first check decides alone. up: serves, and the first check decides alone.
    down: serves after `rise` checks that succeed. Without checks it counts as up.
    """
    if isinstance(check, model.NoCheck):
        return ServerState(Condition.UP, weight=weight, last_change=now)
    if init_state == "up":
        return ServerState(Condition.UP, weight=weight, health=check.rise, last_change=now)
    if init_state == "down":
        return ServerState(Condition.DOWN, weight=weight, last_change=now)
    return ServerState(Condition.UNKNOWN, weight=weight, health=check.rise, last_change=now)


def observe(state: ServerState, ok: bool, check: model.CheckBase, *, now: int) -> ServerState:
    """The state after one more check; `now` is Unix time in microseconds.

    As in HAProxy, a failure counts in `check_failures` only where it takes something off, and time spent
    down is added to `downtime` when it ends.
    """
    before = _in_range(state, check)
    health = count(before, ok, rise=check.rise, fall=check.fall)
    condition = Condition.UP if health >= check.rise else Condition.DOWN
    failures = state.check_failures + (not ok and before > 0)
    if condition is state.condition:
        if health == state.health and failures == state.check_failures:
            return state
        return state._replace(health=health, check_failures=failures)
    return _turned(state, condition, now)._replace(health=health, check_failures=failures)


def blamed(
    state: ServerState,
    on_error: Literal["fastinter", "fail-check", "sudden-death", "mark-down"],
    check: model.CheckBase,
    *,
    now: int,
) -> ServerState:
    """The state of a server with too many errors in a row (HAProxy: __health_adjust)."""
    before = _in_range(state, check)
    if state.condition is Condition.DOWN or on_error == "fastinter":
        return state
    if on_error == "sudden-death" and before > check.rise:
        before = check.rise + 1
    elif on_error == "mark-down":
        before = check.rise
    return observe(state._replace(health=before), False, check, now=now)


def resumed(state: ServerState, check: model.CheckBase | model.NoCheck, *, now: int) -> ServerState:
    """The state of a server that leaves maintenance: up, and the next check decides alone."""
    health = 0 if isinstance(check, model.NoCheck) else check.rise
    turned = state if state.condition is Condition.UP else _turned(state, Condition.UP, now)
    return turned._replace(health=health)


def forced(
    state: ServerState, condition: Condition, check: model.CheckBase | model.NoCheck, *, now: int
) -> ServerState:
    """The state once an operator has said that the server is up, or down. Checks go on from there: up is fully up."""
    health = 0 if isinstance(check, model.NoCheck) or condition is Condition.DOWN else check.rise + check.fall - 1
    turned = state if state.condition is condition else _turned(state, condition, now)
    return turned._replace(health=health)


def interval(state: ServerState, check: model.CheckBase) -> float:
    """Seconds to the next check: `fast_interval` while the state is changing or not yet known."""
    if state.condition is Condition.UP and state.health >= check.rise + check.fall - 1:
        return check.interval
    if state.condition is Condition.DOWN and state.health == 0:
        return check.down_interval if check.down_interval is not None else check.interval
    return shortest_interval(check)


def shortest_interval(check: model.CheckBase) -> float:
    """`fast_interval` with its default filled in."""
    return check.fast_interval if check.fast_interval is not None else min(check.interval, _FAST)


def timeout(check: model.CheckBase) -> float:
    """Seconds that a whole check may take."""
    return check.timeout if check.timeout is not None else check.interval


def counted(state: ServerState, check: model.CheckBase) -> tuple[int, int]:
    """Where the counter stands: `(2, 3)` of `2/3 UP` or `1/2 DOWN`."""
    health = _in_range(state, check)
    return (health - check.rise + 1, check.fall) if health >= check.rise else (health, check.rise)


def status(state: ServerState, check: model.CheckBase | model.NoCheck) -> str:
    """`UP`, `UP 2/3` (going down), `DOWN`, `DOWN 1/2` (going up), `no check`; `UNKNOWN` before the first check."""
    if isinstance(check, model.NoCheck):
        return "no check"
    if state.condition is Condition.UNKNOWN:
        return "UNKNOWN"
    have, of = counted(state, check)
    moving = have < of if state.condition is Condition.UP else have > 0
    return f"{state.condition.name} {have}/{of}" if moving else state.condition.name


def _in_range(state: ServerState, check: model.CheckBase) -> int:
    """The counter, made to agree with the condition: a reload may have changed rise and fall."""
    if state.condition is Condition.UP:
        return min(max(state.health, check.rise), check.rise + check.fall - 1)
    if state.condition is Condition.DOWN:
        return min(state.health, check.rise - 1)
    return check.rise


def _turned(state: ServerState, condition: Condition, now: int) -> ServerState:
    if condition is Condition.DOWN:
        return state._replace(condition=condition, last_change=now, downs=state.downs + 1)
    # The wall clock may have been set back.
    spell = max(now - state.last_change, 0) if state.condition is Condition.DOWN else 0
    return state._replace(condition=condition, last_change=now, downtime=state.downtime + spell)
