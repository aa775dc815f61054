"""Servers whose names are resolved while it runs: asked for when their time is over, and moved where the answers say.

In control, beside the checks. A server that moves has another address on the board, which workers, checks and the
process `kernel` take up from there: no process is started anew, and no connection is touched. New connections go to
the new address, those to the old one go on. The last good answers are kept for the time after a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from balancer.addr import Address
from balancer.config import effective, model
from balancer.config.model import Config
from balancer.config.resolvers import DEFAULT
from balancer.daemon.decisions import Decisions, takes_clients
from balancer.daemon.logbook import RESOLVED, LogbookError, Storage
from balancer.daemon.plan import Plan, Seat
from balancer.daemon.remembered import Remembered
from balancer.health import report, verdict
from balancer.health.runner import Runner
from balancer.names.asking import Asking, Tally
from balancer.names.lookup import Found, Lookup
from balancer.names.places import Place, assign, ranked, weights
from balancer.observe.log import AccessLog, Level
from balancer.observe.snapshot import Resolvers
from balancer.pool.orders import Admin, Condition, ServerState

__all__ = ["Last", "Names", "check_address", "start"]

# Questions under way at once: a socket each.
_MOST = 64
# However much is due: others have their turn between.
_PAUSE, _LONGEST_SLEEP = 0.02, 5.0
# Changes of so many seconds are one write.
_TOGETHER = 1.0
_VERSION = 1
_MOST_WEIGHT = 256
_BY_CACHE = "DNS cache"


def check_address(address: Address, check: model.CheckBase, override: model.CheckOverride) -> Address:
    """Where a server at `address` is checked."""
    port = override.port or check.port or address.port
    host = override.address or address.host
    return Address(host, port) if not address.path or override.address else address


class _Known(NamedTuple):
    name: str
    host: str
    port: int
    weight: int | None


class Last:
    """Where servers were before the restart."""

    def __init__(self, known: Mapping[str, _Known]) -> None:
        self._known = known

    @staticmethod
    def load(plan: Plan, storage: Storage | None) -> Last:
        """Nothing where nothing can be read: then they are resolved as if for the first time."""
        known: dict[str, _Known] = {}
        if storage is not None and any(seat.name for seat in plan.seats.values()):
            with contextlib.suppress(OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
                found = json.loads(storage.read(RESOLVED))
                for server, row in found["servers"].items() if found["version"] == _VERSION else ():
                    each = _Known(*row)
                    Address(each.host, 0)
                    socket.inet_pton(socket.AF_INET6 if ":" in each.host else socket.AF_INET, each.host)
                    is_weight = each.weight is None or (type(each.weight) is int and 0 < each.weight <= _MOST_WEIGHT)
                    if type(each.port) is int and 0 < each.port < 1 << 16 and is_weight:
                        known[server] = each
        return Last(known)

    def get(self, seat: Seat) -> _Known | None:
        """Of a server that had the same name then."""
        found = self._known.get(f"{seat.backend}/{seat.server}")
        return found if found is not None and found.name == seat.name else None


def start(seat: Seat, state: ServerState, known: _Known | None, config: Config) -> ServerState:
    """The row of a server that is not resolved yet."""
    settings = effective.resolution(config, seat.backend, seat.server)
    assert settings is not None
    address = seat.address
    ways = settings.init_addr
    if known is not None and "last" in ways and (ways[0] == "last" or address is None):
        address = Address(known.host, known.port)
        if known.weight is not None and not settings.ignores_weight:
            state = state._replace(weight=known.weight)
    if address is None:
        return state._replace(condition=Condition.DOWN, health=0, is_unresolved=True)
    return state.at(address.host, address.port)


@dataclass(eq=False)
class _Group:
    """Servers of one backend that share a name, and so take its records each."""

    seats: list[Seat]
    address: Address
    settings: effective.Resolution
    places: list[Place | None]
    before: list[Place | None]
    targets: set[_Key] = field(default_factory=set)
    """Hosts of its SRV records."""

    @property
    def key(self) -> _Key:
        return self.settings.section, self.address.host, self.address.is_service

    @property
    def has_priorities(self) -> bool:
        return len({each.priority for each in self.places if each is not None}) > 1


_Key = tuple[str, str, bool]


class Names:
    """Keeps the servers where their names are. `checked`: rows of the board of those that are checked."""

    def __init__(
        self,
        plan: Plan,
        decisions: Decisions,
        runner: Runner,
        checked: Collection[int],
        remembered: Remembered,
        storage: Storage | None,
        log: AccessLog,
    ) -> None:
        self._plan = plan
        self._decisions = decisions
        self._runner = runner
        self._checked = frozenset(checked)
        self._remembered = remembered
        self._storage = storage
        self._log = log
        self._groups = list(_grouped(plan, decisions))
        sections = [*plan.config.resolvers, *(group.settings.section for group in self._groups)]
        self._asking = {
            name: Asking(name, effective.resolvers(plan.config, name), say=self._warn, clock=time.monotonic)
            for name in dict.fromkeys(sections)
            if name != DEFAULT or name in plan.config.resolvers or self._groups
        }
        self._lookups: dict[_Key, Lookup] = {}
        self._users: dict[_Key, set[_Group]] = {}
        self._under_way: dict[_Key, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._saving: asyncio.Task[None] | None = None
        self._is_dirty = False
        self._save_at = 0.0
        self._failure = ""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask from now on."""
        self._loop = loop
        for group in self._groups:
            self._use(group, group.key)
        if self._groups:
            self._wake()

    async def close(self) -> None:
        """Ask no more, and see that what is known is kept."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._saving is not None:
            await self._saving
        if self._is_dirty:
            await self._save()

    def tallies(self) -> Resolvers:
        """What came of asking."""
        return {
            name: [(server, asdict(tally)) for server, tally in asking.tallies] for name, asking in self._asking.items()
        }

    def turn(self) -> None:
        """To be called each second: servers of another priority serve where those of a lower one are down."""
        for group in self._groups:
            if group.has_priorities:
                self._weigh(group)
        if self._is_dirty and self._saving is None and self._loop is not None and time.monotonic() >= self._save_at:
            self._saving = self._loop.create_task(self._save())
            self._saving.add_done_callback(self._saved)

    # Asking

    def _use(self, group: _Group, key: _Key) -> Lookup:
        self._users.setdefault(key, set()).add(group)
        lookup = self._lookups.get(key)
        if lookup is None:
            config = effective.resolvers(self._plan.config, key[0])
            lookup = self._lookups[key] = Lookup(
                key[1],
                is_service=key[2],
                hold=config.hold,
                shortest=config.timeout.resolve,
                now=time.monotonic(),
            )
        return lookup

    def _leave(self, group: _Group, key: _Key) -> None:
        users = self._users[key]
        users.discard(group)
        if not users:
            del self._users[key], self._lookups[key]

    def _wake(self) -> None:
        """Ask for what is due, and take back what does not hold any more."""
        loop = self._loop
        if loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        now = time.monotonic()
        next_at = now + _LONGEST_SLEEP
        for key, lookup in list(self._lookups.items()):
            if (change := lookup.next_change) is not None and change <= now:
                self._settle_users(key, _BY_CACHE, None)
        # Nobody may want the targets of SRV records any more, or others by now.
        due: list[tuple[float, _Key]] = []
        for key, lookup in self._lookups.items():
            if (change := lookup.next_change) is not None and change > now:
                next_at = min(next_at, change)
            if key in self._under_way:
                continue
            if lookup.due > now:
                next_at = min(next_at, lookup.due)
            else:
                due.append((lookup.due, key))
        # Who has waited longest comes first, or others would never have their turn.
        for _, key in sorted(due)[: _MOST - len(self._under_way)]:
            task = self._under_way[key] = loop.create_task(self._ask(key, self._lookups[key]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._timer = loop.call_at(loop.time() + max(next_at - now, _PAUSE), self._wake)

    async def _ask(self, key: _Key, lookup: Lookup) -> None:
        asking = self._asking[key[0]]
        was_full = len(self._under_way) >= _MOST
        tally = None
        try:
            answers = {}
            for kind, answered in zip(
                lookup.kinds,
                await asyncio.gather(*(asking.ask(lookup.name, kind) for kind in lookup.kinds)),
                strict=True,
            ):
                answers[kind], tally = answered[0], answered[1] or tally
            lookup.take(answers, time.monotonic())
        finally:
            self._under_way.pop(key, None)
        if key in self._lookups:
            self._settle_users(key, asking.by, tally)
        if was_full or self._lookups.get(key) is lookup:
            self._rearm(lookup.due if not was_full else 0.0)

    def _rearm(self, due: float) -> None:
        """Wake earlier than planned, if that is late."""
        if self._loop is None or self._timer is None:
            return
        at = self._loop.time() + max(due - time.monotonic(), _PAUSE)
        if at < self._timer.when():
            self._timer.cancel()
            self._timer = self._loop.call_at(at, self._wake)

    # What the answers say

    def _settle_users(self, key: _Key, by: str, tally: Tally | None) -> None:
        for group in list(self._users.get(key, ())):
            moved = self._settle(group, by)
            if tally is not None:
                tally.update += moved

    def _settle(self, group: _Group, by: str) -> int:
        """Bring a group's servers where they belong; how many have moved."""
        now = time.monotonic()
        lookup = self._lookups[group.key]
        found = lookup.found(now)
        if lookup.status is None:
            return 0
        if group.address.is_service:
            places, is_over, cause = self._services(group, found, lookup, now)
        else:
            places = [Place((host, group.address.port), host, group.address.port) for host in self._hosts(group, found)]
            is_over, cause = lookup.is_over(now), lookup.cause
        if not places and not is_over:
            # What there was last holds.
            return 0
        chosen = assign(group.places, places, group.before, allows_duplicates=group.settings.allows_duplicates)
        moved = 0
        for i, (seat, place) in enumerate(zip(group.seats, chosen, strict=True)):
            if place is None:
                self._lose(seat, cause if not places else f"No IP for server {seat.backend}/{seat.server}")
            else:
                group.before[i] = place
                moved += self._move(seat, place, by)
            group.places[i] = place
        self._weigh(group)
        return moved

    def _services(self, group: _Group, found: Found, lookup: Lookup, now: float) -> tuple[list[Place], bool, str]:
        """The places that SRV records give, whether there is certainly none, and why."""
        services = ranked(found.services)
        shares = weights(services)
        section = group.settings.section
        wanted: set[_Key] = {(section, each.target, False) for each in services}
        for key in wanted - group.targets:
            self._rearm(self._use(group, key).due)
        for key in group.targets - wanted:
            self._leave(group, key)
        group.targets = wanted
        places, is_waiting = [], False
        last = {each.mark: each.host for each in group.before if each is not None}
        for each in services:
            of_target = self._lookups[section, each.target, False]
            hosts = self._hosts(group, of_target.found(now))
            mark = (each.target.lower(), each.port)
            if hosts:
                host = last.get(mark, "")
                places.append(Place(mark, host if host in hosts else hosts[0], each.port, each.priority, shares[each]))
            elif mark in last and not of_target.is_over(now):
                places.append(Place(mark, last[mark], each.port, each.priority, shares[each]))
            else:
                is_waiting |= not of_target.is_over(now)
        cause = lookup.cause if not services else "no SRV target has an address"
        is_over = lookup.is_over(now) if not services else not places and not is_waiting
        return places, is_over, cause

    def _hosts(self, group: _Group, found: Found) -> Sequence[str]:
        """The addresses of the family that is to be used."""
        if not (found.v4 and found.v6):
            return found.v4 or found.v6
        prefer = group.settings.prefer or ("ipv6" if _has_way(found.v6[0]) else "ipv4")
        return found.v6 if prefer == "ipv6" else found.v4

    # What becomes of a server

    def _move(self, seat: Seat, place: Place, by: str) -> bool:
        """Whether it has."""
        state = self._decisions[seat.index]
        old, address = seat.at(state), Address(place.host, place.port)
        if old == address:
            return False
        self._is_dirty = True
        server = self._plan.config.backends[seat.backend].servers[seat.server]
        check = self._plan.config.backends[seat.backend].check
        if old is not None:
            name = f"{seat.backend}/{seat.server}"
            if old.host != address.host:
                self._log.event(Level.NOTICE, f"{name} changed its IP from {old.host} to {address.host} by {by}.")
            if old.port != address.port:
                self._log.event(Level.NOTICE, f"{name} changed its port from {old.port} to {address.port} by {by}.")
        new = state.at(address.host, address.port)._replace(is_unresolved=False)
        is_checked = seat.index in self._checked
        if is_checked and not isinstance(check, model.NoCheck):
            self._runner.move(seat.index, check_address(address, check, server.check))
        self._decisions.take(seat, new, tell=not state.is_unresolved)
        if state.is_unresolved:
            self._bring_back(seat, new)
        return True

    def _bring_back(self, seat: Seat, state: ServerState) -> None:
        is_checked = seat.index in self._checked
        new = state
        if state.admin is not Admin.MAINT:
            if is_checked and not state.is_unwatched:
                new = self._runner.resume(seat.index)
            else:
                new = verdict.resumed(state, model.NoCheck(), now=_now())
        self._decisions.take(seat, new, tell=True)
        self._say(
            report.resolved_line(seat.backend, seat.server, seat.name, new, is_backup=self._decisions.is_backup(seat))
        )

    def _lose(self, seat: Seat, why: str) -> None:
        """It is nowhere."""
        old = self._decisions[seat.index]
        if old.is_unresolved:
            return
        self._is_dirty = True
        if seat.index in self._checked:
            self._runner.pause(seat.index)
        new = old._replace(condition=Condition.DOWN, health=0, is_unresolved=True)
        if old.condition is not Condition.DOWN:
            new = new._replace(last_change=_now())
        self._decisions.take(seat, new, tell=True)
        standing = self._decisions.standing(seat)
        is_backup = self._decisions.is_backup(seat)
        self._say(report.unresolved_line(seat.backend, seat.server, old, why, standing=standing, is_backup=is_backup))
        if takes_clients(old) and not standing.active and not standing.backup:
            self._say(report.no_server_line(seat.backend))

    def _weigh(self, group: _Group) -> None:
        """Weights of SRV records, of those of the lowest priority of which a server is up; the others have none."""
        if not group.address.is_service or group.settings.ignores_weight:
            return
        pairs = [(seat, place) for seat, place in zip(group.seats, group.places, strict=True) if place is not None]
        alive = [
            place.priority
            for seat, place in pairs
            if (state := self._decisions[seat.index]).condition is not Condition.DOWN and state.admin is Admin.READY
        ]
        lowest = min(alive or [place.priority for _, place in pairs], default=0)
        for seat, place in pairs:
            state = self._decisions[seat.index]
            weight = (place.weight or 0) if place.priority == lowest else 0
            is_overridden = self._remembered.get((seat.backend, seat.server), "weight") is not None
            if place.weight is not None and state.weight != weight and not is_overridden:
                self._is_dirty = True
                self._decisions.take(seat, state._replace(weight=weight), tell=True)

    def _say(self, line: report.Line) -> None:
        self._log.event(Level(line.severity), line.text)

    def _warn(self, text: str) -> None:
        self._log.event(Level.WARNING, text)

    # Keeping

    def _kept(self) -> bytes:
        servers: dict[str, list[Any]] = {}
        for group in self._groups:
            for seat, place in zip(group.seats, group.before, strict=True):
                # One whose record is no more is nowhere after a restart either.
                if place is not None and not self._decisions[seat.index].is_unresolved:
                    servers[f"{seat.backend}/{seat.server}"] = [seat.name, place.host, place.port, place.weight]
        return json.dumps({"version": _VERSION, "servers": servers}).encode()

    async def _save(self) -> None:
        self._is_dirty = False
        self._save_at = time.monotonic() + _TOGETHER
        if self._storage is None:
            return
        try:
            # A disk may take seconds.
            await asyncio.to_thread(self._storage.save, self._kept(), RESOLVED)
            self._failure = ""
        except LogbookError as error:
            if str(error) != self._failure:
                self._failure = str(error)
                self._warn(f"where servers are is not kept for after a restart: {error}")

    def _saved(self, _: asyncio.Task[None]) -> None:
        self._saving = None


def _grouped(plan: Plan, decisions: Decisions) -> Iterator[_Group]:
    groups: dict[tuple[str, str, effective.Resolution], _Group] = {}
    for pair, seat in plan.seats.items():
        if not seat.name:
            continue
        settings = effective.resolution(plan.config, *pair)
        assert settings is not None
        group = groups.get((seat.backend, seat.name, settings))
        if group is None:
            address = plan.config.backends[seat.backend].servers[seat.server].address
            group = groups[seat.backend, seat.name, settings] = _Group([], address, settings, [], [])
        at = seat.at(decisions[seat.index])
        place = Place((at.host, at.port), at.host, at.port) if at is not None else None
        group.seats.append(seat)
        group.places.append(place)
        group.before.append(place)
    yield from groups.values()


def _has_way(host: str) -> bool:
    """Whether this host knows a way to that address (RFC 6724 rule 1); nothing is sent."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect((host, 9))
        except OSError:
            return False
    return True


def _now() -> int:
    return int(time.time() * 1e6)
