"""Probes by schedule, results to verdicts, verdicts to whoever listens.

Targets whose address and check are the same share one check: it runs once and each of them gets its result.
The runner keeps no server state. It reads the row that stands when a check ends, and hands on what the row
should become; so a control process that was restarted goes on from what its predecessor decided, and an
operator's change between two checks is never undone.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from balancer.addr import Address
from balancer.config import model
from balancer.health import verdict
from balancer.health.probe_dns import DnsProbe
from balancer.health.probe_http import HttpProbe
from balancer.health.probe_tcp import TcpProbe
from balancer.health.result import CheckResult, Code
from balancer.health.schedule import Schedule, Slot
from balancer.pool.orders import Admin, Condition, ServerState

__all__ = ["Event", "OnError", "Probe", "Runner", "Target", "prober"]

OnError = Literal["fastinter", "fail-check", "sudden-death", "mark-down"]
Probe = Callable[[Address], Awaitable[CheckResult]]

_log = logging.getLogger(__name__)

# Checks started in one turn of the loop, some 5 ms of work: whatever else control does is not kept waiting.
# Fewer would fall behind where a busy machine gives us few turns.
_MOST_STARTS = 100
# Checks under way at once. Half of the process's descriptors are left to pages, logs and commands; and the
# kernel's memory of more connecting sockets than this would be felt on a small host.
_MOST_PLACES = 2000
_FEWEST_PLACES = 16
# Seconds between two log lines about the same shortage.
_SHORTAGE_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """One server to be checked."""

    index: int
    """Its row on the board."""
    backend: str
    server: str
    address: Address
    """Where to check: resolved, with the check's own address and port taken into account."""
    check: model.TcpCheck | model.HttpCheck | model.DnsCheck
    backup: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One finished check of one target."""

    target: Target
    old: ServerState
    new: ServerState
    """What the target's row should become; `old` itself where nothing changes."""
    result: CheckResult
    previous: CheckResult | None
    """The check before."""

    @property
    def changed(self) -> bool:
        """Whether the server went up or down."""
        return self.old.condition is not self.new.condition

    @property
    def is_first(self) -> bool:
        """Whether nothing was known of the server before."""
        return self.old.condition is Condition.UNKNOWN

    @property
    def is_worth_a_check_line(self) -> bool:
        """Whether HAProxy's `option log-health-checks` would log it: another outcome, or the counter moved."""
        other = self.previous is None or self.previous.code is not self.result.code
        return self.result.is_conclusive and (other or self.old.health != self.new.health)


class _Member:
    """A target's part in a check that it may share."""

    __slots__ = ("is_paused", "last", "since", "target")

    def __init__(self, target: Target) -> None:
        self.target = target
        self.is_paused = False
        # Checks that began before this are not about the server that it is now.
        self.since = float("-inf")
        self.last: CheckResult | None = None


class _Group(Slot):
    """One check and all targets that share it."""

    __slots__ = ("address", "check", "is_name", "key", "members", "probe", "task", "timeout")

    def __init__(self, address: Address, check: model.CheckBase, probe: Probe, key: str) -> None:
        super().__init__()
        self.address = address
        self.key = key
        """With the address: who shares it."""
        self.check = check
        self.probe = probe
        self.is_name = address.is_name
        self.timeout = verdict.timeout(check)
        self.members: list[_Member] = []
        self.task: asyncio.Task[None] | None = None


class Runner:
    """Checks all targets for as long as it runs."""

    def __init__(
        self,
        targets: Iterable[Target],
        *,
        state_of: Callable[[int], ServerState],
        on_change: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        places: int | None = None,
        probe_of: Callable[[model.CheckBase], Probe] | None = None,
    ) -> None:
        """`state_of` gives a row of the board, `on_change` is called for every finished check.

        `clock` gives seconds, never set back; `wall` Unix time in seconds; `places` is how many checks may be under
        way at once (by default what this process's limit of descriptors allows); `probe_of` makes what carries out
        a check.
        """
        self._state_of = state_of
        self._on_change = on_change
        self._clock = clock
        self._wall = wall
        self._schedule: Schedule[_Group] = Schedule(places if places is not None else _affordable_places())
        self._groups, self._of = _grouped(targets, probe_of if probe_of is not None else prober)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._tasks: set[asyncio.Task[None]] = set()
        self._shortage_logged = float("-inf")
        self._is_running = False

    def start(self) -> None:
        """Begin; the first checks of all targets start at once. Servers in maintenance stay unchecked."""
        self._is_running = True
        now = self._clock()
        for group in self._groups.values():
            for member in group.members:
                state = self._state_of(member.target.index)
                member.is_paused = state.admin is Admin.MAINT or state.is_unwatched or state.is_unresolved
            self._schedule.add(group, now, group.check.interval)
            if all(member.is_paused for member in group.members):
                self._schedule.remove(group)
        self._arm()

    async def close(self) -> None:
        """End, checks under way included; nothing is reported any more."""
        self._is_running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def hint(self, index: int) -> None:
        """A connection to the target failed: check it soon, but not more often than each `fast_interval`."""
        group, member = self._of[index]
        if member.is_paused or self._state_of(index).condition is Condition.DOWN:
            return
        self._schedule.hurry(group, self._clock(), verdict.shortest_interval(group.check))
        self._arm()

    def blame(self, index: int, errors: int, on_error: OnError) -> None:
        """The target had so many errors in a row with clients: that is reported as a check's result, if it is to count
        as one, and it is checked soon."""
        group, member = self._of[index]
        old = self._state_of(index)
        if member.is_paused or old.condition is Condition.DOWN:
            return
        if on_error != "fastinter":
            new = verdict.blamed(old, on_error, group.check, now=self._microseconds())
            result = CheckResult(Code.HANA, 0.0, f"Detected {errors} consecutive errors")
            event = Event(member.target, old, new, result, member.last)
            member.last = result
            self._on_change(event)
        self._schedule.hurry(group, self._clock(), verdict.shortest_interval(group.check))
        self._arm()

    def pause(self, index: int) -> None:
        """The target enters maintenance: it is not checked, and a check under way no longer counts for it."""
        group, member = self._of[index]
        member.is_paused = True
        if all(other.is_paused for other in group.members):
            self._schedule.remove(group)
            if group.task is not None:
                group.task.cancel()
                group.task = None

    def move(self, index: int, address: Address) -> None:
        """The target is elsewhere from now on: it is checked there at once, unless it is in maintenance."""
        group, member = self._of[index]
        if group.address == address:
            return
        is_paused = member.is_paused
        self.pause(index)
        group.members.remove(member)
        if not group.members:
            del self._groups[group.address, group.key]
        other = self._groups.get((address, group.key))
        if other is None:
            other = self._groups[address, group.key] = _Group(address, group.check, group.probe, group.key)
            if self._is_running:
                self._schedule.add(other, self._clock(), other.check.interval)
                self._schedule.remove(other)
        other.members.append(member)
        member.target = replace(member.target, address=address)
        self._of[index] = (other, member)
        if not is_paused:
            self.resume(index)

    def resume(self, index: int) -> ServerState:
        """The target leaves maintenance: it is checked at once. Returns what its row should become till then."""
        group, member = self._of[index]
        if not member.is_paused:
            return self._state_of(index)
        member.is_paused = False
        member.since = self._clock()
        if self._is_running:
            self._schedule.at_once(group, member.since)
            self._arm()
        return verdict.resumed(self._state_of(index), group.check, now=self._microseconds())

    def _arm(self) -> None:
        """Set the one timer to when the schedule has something next."""
        due = self._schedule.wake_at()
        if due is None or not self._is_running:
            return
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        self._timer_at = due
        self._timer = asyncio.get_running_loop().call_later(max(due - self._clock(), 0), self._wake)

    def _wake(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        for group in self._schedule.take(self._clock(), _MOST_STARTS):
            task = group.task = loop.create_task(self._check(group))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._arm()

    async def _check(self, group: _Group) -> None:
        if group.is_name:
            result = CheckResult(Code.SOCKERR, 0.0, f"{group.address.host}: name not resolved")
        else:
            try:
                result = await group.probe(group.address)
            except Exception as error:
                # Probes raise nothing; if one does, that is our defect, and no reason to stop checking or to
                # take a server down.
                _log.exception("Check of %s failed", group.address)
                result = CheckResult(Code.SOCKERR, 0.0, repr(error))
        self._finished(group, result)

    def _finished(self, group: _Group, result: CheckResult) -> None:
        group.task = None
        now = self._microseconds()
        events = []
        pauses = []
        is_stale = False
        for member in group.members:
            if member.is_paused:
                continue
            if member.since > group.started:
                is_stale = True
                continue
            old = new = self._state_of(member.target.index)
            if result.is_conclusive:
                new = verdict.observe(old, result.ok, group.check, now=now)
                pauses.append(verdict.interval(new, group.check))
            events.append(Event(member.target, old, new, result, member.last))
            member.last = result
        pause = min(pauses) if pauses else verdict.shortest_interval(group.check)
        self._schedule.finish(group, pause, is_prompt=result.duration < group.timeout / 2)
        if is_stale:
            self._schedule.at_once(group, self._clock())
        self._arm()
        if not result.is_conclusive:
            self._log_shortage(group, result)
        for event in events:
            try:
                self._on_change(event)
            except Exception as error:
                # One listener's failure must not cost the other targets their result.
                context = {"message": f"{event.target.backend}/{event.target.server}: no one took its check's result"}
                asyncio.get_running_loop().call_exception_handler({**context, "exception": error})

    def _log_shortage(self, group: _Group, result: CheckResult) -> None:
        now = self._clock()
        if now - self._shortage_logged < _SHORTAGE_PAUSE:
            return
        self._shortage_logged = now
        _log.warning("Checks cannot be made (%s: %s); servers keep their state", group.address, result.info)

    def _microseconds(self) -> int:
        return int(self._wall() * 1_000_000)


def prober(check: model.CheckBase) -> Probe:
    """What carries out `check`."""
    if isinstance(check, model.TcpCheck):
        return TcpProbe(check)
    if isinstance(check, model.HttpCheck):
        return HttpProbe(check)
    if isinstance(check, model.DnsCheck):
        return DnsProbe(check)
    raise TypeError(f"no probe for {check!r}")


def _grouped(
    targets: Iterable[Target], probe_of: Callable[[model.CheckBase], Probe]
) -> tuple[dict[tuple[Address, str], _Group], dict[int, tuple[_Group, _Member]]]:
    """Checks by what they share, each with the targets that share it, and by each target's index where it belongs."""
    keys: dict[int, str] = {}
    probes: dict[str, Probe] = {}
    groups: dict[tuple[Address, str], _Group] = {}
    of = {}
    for target in targets:
        key = keys.get(id(target.check))
        if key is None:
            # The port is part of the address already.
            key = keys[id(target.check)] = target.check.model_dump_json(exclude={"port"})
        if key not in probes:
            probes[key] = probe_of(target.check)
        group = groups.get((target.address, key))
        if group is None:
            group = groups[target.address, key] = _Group(target.address, target.check, probes[key], key)
        member = _Member(target)
        group.members.append(member)
        of[target.index] = (group, member)
    return groups, of


def _affordable_places() -> int:
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if descriptors == resource.RLIM_INFINITY:
        return _MOST_PLACES
    return min(max(descriptors // 2, _FEWEST_PLACES), _MOST_PLACES)
