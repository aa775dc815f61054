"""Control: health checks, the servers' states, the statistics page, commands.

The only writer of the board. Workers are told by doorbell, and tell by doorbell when a server failed them.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from ssl import SSLContext

import uvloop

from balancer import __version__
from balancer.config import model
from balancer.daemon import errands, questions
from balancer.daemon.bounds import Bounds
from balancer.daemon.decisions import Decisions, Former, takes_clients
from balancer.daemon.effort import Idleness
from balancer.daemon.faults import report_to
from balancer.daemon.helm import Helm
from balancer.daemon.inquiries import Inquiries
from balancer.daemon.memory import Memory, answer
from balancer.daemon.names import Last, Names, check_address, start
from balancer.daemon.plan import Plan
from balancer.daemon.reloads import Reloading
from balancer.daemon.remembered import Remembered, holding, imposed
from balancer.daemon.shipyard import Shipyard
from balancer.health import report, verdict
from balancer.health.runner import Event, OnError, Runner, Target
from balancer.observe import command, tls
from balancer.observe.live import Live, in_turns
from balancer.observe.log import RECENT, AccessLog, Level, Recent
from balancer.observe.runtime import Runtime
from balancer.observe.snapshot import Availability, LastCheck, Process, Rates, Roster, Snapshot, take, taking
from balancer.observe.trends import Drain, Trends
from balancer.observe.web import Web
from balancer.pool import overlay, routers, sources
from balancer.pool.facts import Elder, Entity, Sums, Totals, forget_peaks
from balancer.pool.observer import Errors, Seen
from balancer.pool.orders import WHOLE, Board, Condition
from balancer.pool.overrides import Kind, Override
from balancer.pool.routers import Standing

__all__ = ["Control", "inherit", "initialise"]

# Rates are per second, and events of one moment go out together.
_SECOND = 1.0
_LOG_FLUSH = 0.1
# A worker goes through all that it carries to tell what draining servers hold.
_AGES = 3.0
# A worker's heart beats about three times a second.
_SILENCE = 5.0
_MICROSECOND = 1e-6
_PROCESS = Entity("process", "")


class Control:
    """The deciding process. `stats` are the page's listening sockets, `runtime` is the one for commands, `elders` those
    of before a reload who still count, or did until lately."""

    def __init__(
        self,
        plan: Plan,
        memory: Memory,
        stats: Sequence[socket.socket],
        *,
        node: str,
        started: float,
        runtime: socket.socket | None = None,
        elders: Sequence[Former] = (),
    ) -> None:
        """`started` is Unix time in seconds."""
        self._plan = plan
        self._memory = memory
        self._sockets = stats
        self._runtime = runtime
        self._asking = errands.Asking(memory.line.control) if memory.line is not None else None
        self._kernel = questions.Asking(memory.kernel_line.control) if memory.kernel_line is not None else None
        self._inquiries = Inquiries([Former(plan, memory), *elders])
        self._standing: Standing | None = None
        self._recent: deque[Recent] = deque(maxlen=RECENT)
        self._heard = ""
        self._oldest: dict[tuple[str, str], float] = {}
        self._draining: list[tuple[str, str]] = []
        self._asking_age: asyncio.Task[None] | None = None
        self._log = AccessLog(plan.log)
        self._log.keep = memory.journal.writer("control")
        self._roster = Roster.of(plan.config)
        self._rates = Rates()
        self._availability = Availability(started)
        self._trends = Trends(self._roster)
        self._elders = elders
        past = [Elder([memory.past], plan.layout), *(Elder(each.memory.blocks, each.plan.layout) for each in elders)]
        self._totals = Totals(memory.blocks, plan.layout, past, memory.cleared)
        self._decisions = Decisions(plan, memory, elders)
        self._checks: dict[int, LastCheck] = {}
        self._silent: set[int] = set()
        self._is_up = False
        targets = _targets(plan, memory.board)
        self._runner = Runner(targets, state_of=self._decisions.__getitem__, on_change=self._on_check)
        self._checked = {Entity("server", target.backend, target.server): target.index for target in targets}
        self._failures = {entity: _failures(self._totals.sums[entity]) for entity in self._checked}
        self._remembered = Remembered(plan.written, memory.logbook, self._log)
        self._helm = Helm(
            plan, self._decisions, self._runner, {target.index for target in targets}, self._log, self._remembered
        )
        self._names = Names(
            plan,
            self._decisions,
            self._runner,
            self._checked.values(),
            self._remembered,
            memory.logbook.storage,
            self._log,
        )
        self._shipyard = Shipyard(plan, self._remembered, memory.logbook, self._log)
        self._reloading = Reloading(memory.logbook.reloads, self._log)
        for kind in overlay.STRUCTURAL:
            self._helm.undo[kind] = self._shipyard.undo
        self._observed: dict[Entity, tuple[Errors, OnError]] = {}
        for entity in self._checked:
            server = plan.config.backends[entity.proxy].servers[entity.server]
            if server.observe != "none":
                self._observed[entity] = Errors(server.error_limit, self._seen(entity)), server.on_error
        stats_config = plan.config.stats
        self._process = Process(
            version=__version__,
            node=node,
            description=(stats_config.description if stats_config is not None else None) or "",
            pid=os.getppid(),
            started=started,
            workers=plan.workers,
            maxconn=plan.maxconn,
            descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            hard_maxconn=plan.maxconn,
        )
        self._bounds = Bounds(
            plan,
            memory,
            self._remembered,
            self._log,
            tell=self._decisions.tell,
            roster=self._roster,
            process=self._process,
        )
        self._idleness = Idleness()
        self._helm.undo["maxconn"] = self._bounds.revert

    def run(self) -> None:
        """Decide until SIGTERM."""
        gc.collect()
        gc.freeze()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report_to(self._log, runner.get_loop())
            runner.run(self._serve())
        self._log.close()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stopped.set)
        loop.add_reader(self._memory.control_bell, self._on_bell)
        self._every_second(loop)
        self._flush_log(loop)
        self._runner.start()
        self._helm.start(loop)
        self._shipyard.start(loop)
        self._reloading.start(loop)
        self._names.start(loop)
        web = None
        config = self._plan.config.stats
        if config is not None:
            live = Live(
                self._roster,
                self._taking,
                trends=self._trends,
                recent=self._recent,
                drains=self._drains,
            )
            web = Web(
                config,
                self._snapshot,
                steer=self._helm,
                secret=self._memory.secret,
                live=live,
                tables=self._tables,
                tls=_tls(config, self._plan.pages),
            )
            await web.start(self._sockets)
        if self._asking is not None:
            self._asking.attach(loop)
        if self._kernel is not None:
            self._kernel.attach(loop)
        self._inquiries.attach(loop)
        settings = self._plan.config.global_.runtime_socket
        # Without one, for those who came by that of before the reload.
        level = command.Level[settings.level.upper()] if settings is not None else command.Level.USER
        runtime = Runtime(level, self._desk(), self._memory.logbook)
        await runtime.start(self._runtime)
        # From now on a reload that has made us is done.
        self._is_up = True
        self._beat(time.monotonic())
        await stopped.wait()
        runtime.leave()
        self._shipyard.leave()
        self._reloading.leave()
        await self._names.close()
        await self._runner.close()
        await runtime.stop()
        if web is not None:
            await web.stop()
        if self._asking_age is not None:
            self._asking_age.cancel()
        await self._remembered.close()

    # Health

    def _on_check(self, event: Event) -> None:
        target, result = event.target, event.result
        self._checks[target.index] = LastCheck(
            code=result.code.name,
            description=result.description,
            status=result.status,
            info=result.info,
            duration=result.duration,
            at=time.time(),
        )
        seat = self._plan.seats[target.backend, target.server]
        if event.new != event.old:
            self._decisions.take(seat, event.new, tell=event.changed)
        # What a server is at its start is no news; nor is what it was all along, to a control process that takes
        # the place of a dead one and has seen no check before.
        is_news = event.previous is not None or event.new.health != event.old.health
        if event.is_worth_a_check_line and is_news and not event.is_first:
            line = report.check_line(
                target.backend, target.server, event.new, target.check, result=result, is_backup=target.backup
            )
            self._log.event(Level(line.severity), line.text)
        if event.changed and (not event.is_first or event.new.condition is Condition.DOWN):
            self._report(event)

    def _report(self, event: Event) -> None:
        target = event.target
        standing = self._decisions.standing(self._plan.seats[target.backend, target.server])
        line = report.server_line(
            target.backend,
            target.server,
            event.new.condition,
            result=event.result,
            standing=standing,
            is_backup=target.backup,
            was_draining=not takes_clients(event.old),
        )
        self._log.event(Level(line.severity), line.text)
        if takes_clients(event.old) and not takes_clients(event.new) and not standing.active and not standing.backup:
            line = report.no_server_line(target.backend)
            self._log.event(Level(line.severity), line.text)

    def _on_bell(self) -> None:
        """A worker could not reach a server."""
        answer(self._memory.control_bell)
        self._look()

    def _look(self) -> None:
        """Take in what the workers have counted; a server that failed them is checked soon."""
        for entity in self._totals.look():
            index = self._checked.get(entity)
            if index is not None:
                failures = _failures(self._totals.sums[entity])
                if failures > self._failures[entity]:
                    self._runner.hint(index)
                self._failures[entity] = failures
                if entity in self._observed:
                    errors, on_error = self._observed[entity]
                    if errors.are_too_many(self._seen(entity)):
                        self._runner.blame(index, errors.limit, on_error)

    def _seen(self, entity: Entity) -> list[Seen]:
        """What each worker has counted of an observed server."""
        counted = (Sums.of(entity, [block], self._plan.layout).counters for block in self._memory.blocks)
        return [Seen(row["obs_run"], row["obs_ok"], row["obs_peak"]) for row in counted]

    def _clear(self, everything: bool, by: str) -> None:
        """Forget maxima, or all that was counted."""
        self._log.event(Level.NOTICE, f"{by}: clear counters{' all' if everything else ''}")
        for plan, memory in (Former(self._plan, self._memory), *self._elders):
            memory.peaks[0] += 1
            forget_peaks(memory.past, plan.layout)
            for block in memory.blocks[: plan.workers]:
                # Who has ended looks no more.
                if not Sums.of(_PROCESS, [block], plan.layout).counters["heartbeat"]:
                    forget_peaks(block, plan.layout)
        self._decisions.tell()
        self._rates.forget_peaks()
        if everything:
            self._look()
            self._totals.clear()
            self._failures = {entity: _failures(self._totals.sums[entity]) for entity in self._checked}
            self._decisions.forget_failures()

    async def _shut(self, number: int, by: str) -> bool:
        """End a session; whether there is one."""
        self._log.event(Level.NOTICE, f"{by}: shutdown session {number:#x}")
        return await self._inquiries.shut(number)

    # Virtual routers

    def _desk(self) -> command.Desk:
        routers = self._routers if self._asking is not None else None
        settings = self._plan.config.global_.runtime_socket
        return command.Desk(
            now=time.time,
            started=self._process.started,
            sockets=[(settings.path, settings.level)] if settings is not None else [],
            standing=routers,
            ask=self._asking.ask if self._asking is not None else None,
            snapshot=self._snapshot,
            picture=self._picture,
            glance=self._glance,
            ask_kernel=self._kernel.ask if self._kernel is not None else None,
            steer=self._helm,
            build=self._shipyard,
            settle=self._shipyard.settle,
            reload=self._reloading,
            forget=self._helm.forget,
            overrides=lambda: self._remembered.all,
            bound=self._bounds.set,
            move=self._bounds.move,
            sessions=self._inquiries.sessions,
            shut=self._shut,
            errors=self._inquiries.errors,
            clear=self._clear,
            note=lambda text: self._log.event(Level.NOTICE, text),
            events=self._memory.journal.read,
            descriptors=self._process.descriptors,
            tables={name: of.blocks + of.elders for name, of in self._memory.sources.items()},
        )

    def _routers(self) -> Standing | None:
        """Where they stand; as they stood before, should the supervisor write just now."""
        self._standing = routers.look(self._memory.notice) or self._standing
        return self._standing

    # Statistics

    def _snapshot(self) -> Snapshot:
        self._look()
        return take(
            self._bounds.roster,
            process=self._bounds.process._replace(idle=self._idleness.percent),
            doors=self._bounds.doors,
            sums=self._totals.sums,
            states=self._decisions.states,
            checks=self._checks,
            rates=self._rates,
            availability=self._availability,
            routers=self._routers(),
            overrides=self._remembered.of_server,
            now=time.time(),
            resolvers=self._names.tallies(),
        )

    async def _picture(self) -> Snapshot:
        """All of it, with a turn for others after each piece."""
        return await in_turns(self._taking())

    def _glance(self, backend: str, server: str) -> Snapshot:
        """Of one server, without a look at all others."""
        roster = self._bounds.roster
        backends = tuple(
            entry._replace(servers=tuple(each for each in entry.servers if each.name == server))
            for entry in roster.backends
            if entry.name == backend
        )
        return take(
            Roster((), backends),
            process=self._bounds.process,
            doors=self._bounds.doors,
            sums=self._totals.sums,
            states=self._decisions.states,
            checks=self._checks,
            rates=self._rates,
            availability=self._availability,
            overrides=self._remembered.of_server,
            now=time.time(),
            resolvers=self._names.tallies(),
        )

    def _taking(self) -> Generator[None, None, Snapshot]:
        """The same in pieces."""
        self._look()
        return taking(
            self._bounds.roster,
            process=self._bounds.process._replace(idle=self._idleness.percent),
            doors=self._bounds.doors,
            sums=self._totals.sums,
            states=self._decisions.states,
            checks=self._checks,
            rates=self._rates,
            availability=self._availability,
            routers=self._routers(),
            overrides=self._remembered.of_server,
            now=time.time(),
            resolvers=self._names.tallies(),
        )

    def _tables(self) -> Generator[tuple[str, int, Iterator[object | None]], None, None]:
        """What clients have taken of frontends that limit it."""
        now = time.monotonic()
        for name, of in self._memory.sources.items():
            blocks = of.blocks + of.elders
            yield name, blocks[0].geometry.size, sources.rows(blocks, now)

    def _hear(self) -> None:
        """Take in what happened, whoever said so."""
        batch = self._memory.journal.read(self._heard)
        self._heard = batch.cursor
        for event in sorted(batch.events):
            number = self._recent[-1].number + 1 if self._recent else 1
            self._recent.append(Recent(number, event.at, Level(event.level), event.text))

    def _drains(self) -> list[Drain]:
        drains = self._trends.drains(self._totals.sums, self._decisions.states, time.time(), self._oldest)
        self._draining = [(each.backend, each.server) for each in drains if each.sessions]
        if self._draining and (self._asking_age is None or self._asking_age.done()):
            self._asking_age = asyncio.get_running_loop().create_task(self._ask_age())
        return drains

    async def _ask_age(self) -> None:
        """Somebody looks: what those that drain have held longest. A session's begin does not change."""
        self._oldest = await self._inquiries.oldest(self._draining)
        await asyncio.sleep(_AGES)

    def _every_second(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(_SECOND, self._every_second, loop)
        now = time.monotonic()
        if self._is_up:
            self._beat(now)
        self._look()
        self._decisions.go_on_warming(int(time.time() / _MICROSECOND))
        self._helm.turn(time.time())
        self._names.turn()
        self._rates.feed(self._totals.sums, now)
        if self._decisions.has_news:
            self._decisions.has_news = False
            self._availability.feed(self._roster, self._decisions.states, time.time())
        if self._plan.config.stats is not None:
            self._hear()
            self._trends.feed(self._totals.sums, self._decisions.states, self._rates, time.time())
        self._watch_workers(now)

    def _beat(self, now: float) -> None:
        self._memory.beat[0] = int(now / _MICROSECOND)

    def _watch_workers(self, now: float) -> None:
        """One that hangs keeps its listening sockets: connections that reach them wait until it is killed."""
        efforts = {}
        for number, block in enumerate(self._memory.blocks):
            counters = Sums.of(_PROCESS, [block], self._plan.layout).counters
            if number < self._plan.workers:
                efforts[number] = counters["busy"], counters["heartbeat"]
            heartbeat = counters["heartbeat"] * _MICROSECOND
            # Zero: not started yet, or ended.
            is_silent = 0 < heartbeat < now - _SILENCE
            name = f"worker {number}" if number < self._plan.workers else "kernel"
            if is_silent and number not in self._silent:
                self._silent.add(number)
                self._log.event(Level.ALERT, f"{name} has not moved for {now - heartbeat:.0f} s")
            elif not is_silent and number in self._silent:
                self._silent.remove(number)
                self._log.event(Level.NOTICE, f"{name} moves again")
        self._idleness.feed(efforts)

    def _flush_log(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(_LOG_FLUSH, self._flush_log, loop)
        self._log.flush()


def _tls(config: model.Stats, pages: Mapping[str, bytes]) -> SSLContext | None:
    own = config.tls
    if own is None:
        return None
    return tls.context(pages[own.crt], pages[own.key] if own.key is not None else None, own.ssl_min_ver)


def _failures(sums: Sums) -> int:
    counters = sums.counters
    return counters["econ"] + counters["wretr"] + counters["wredis"]


def initialise(plan: Plan, memory: Memory, *, is_reload: bool = False) -> None:
    """Write the states to begin with, as operators want them: done once, before any other process looks at the
    board. At a reload no disk is waited for: where servers are is what `inherit` takes over."""
    now = int(time.time() * 1e6)
    kept = holding(plan.written, memory.logbook)
    known = Last({}) if is_reload else Last.load(plan, memory.logbook.storage)
    overrides: dict[tuple[str, ...], dict[Kind, Override]] = {}
    for each in kept.values():
        overrides.setdefault(each.target, {})[each.kind] = each
    for seat in plan.seats.values():
        backend = plan.config.backends[seat.backend]
        server = backend.servers[seat.server]
        check = backend.check if server.check.enabled else model.NoCheck()
        state = verdict.initial(server.init_state, check, weight=server.weight, now=now)
        if seat.name:
            state = start(seat, state, known.get(seat), plan.config)
        elif seat.address is None:
            state = state._replace(condition=Condition.DOWN, is_unresolved=True)
        memory.board[seat.index] = imposed(state, overrides.get((seat.backend, seat.server), {}))


def inherit(plan: Plan, memory: Memory, before: Former) -> None:
    """Take over, after a reload, the states of the servers that were there before it, and whose turn it is. Nobody
    else looks at this board yet, or has to be told of it.

    A server is the same if its backend and name are. At another address it is to be checked like a new one.
    """
    for pair, seat in plan.seats.items():
        old = before.plan.seats.get(pair)
        if old is None:
            continue
        state, mine = before.memory.board[old.index], memory.board[seat.index]
        if not (seat.name and seat.name == old.name):
            if old.at(state) is None or old.at(state) != seat.at(mine):
                continue
            state = state._replace(octets=mine.octets, port=mine.port)
        backend = plan.config.backends[seat.backend]
        server = backend.servers[seat.server]
        if server.weight != before.plan.config.backends[seat.backend].servers[seat.server].weight:
            state = state._replace(weight=server.weight)
        if not server.check.enabled or isinstance(backend.check, model.NoCheck):
            state = state._replace(condition=Condition.DOWN if state.is_unresolved else Condition.UP, health=0)
        if server.slowstart is None:
            state = state._replace(throttle=WHOLE)
        memory.board[seat.index] = state
    for name, turn in memory.turns.items():
        if name in before.memory.turns:
            turn[0] = before.memory.turns[name][0]


def _targets(plan: Plan, board: Board) -> list[Target]:
    targets = []
    for seat in plan.seats.values():
        backend = plan.config.backends[seat.backend]
        server = backend.servers[seat.server]
        check = backend.check
        address = seat.at(board[seat.index])
        if isinstance(check, model.NoCheck) or not server.check.enabled or (address is None and not seat.name):
            continue
        targets.append(
            Target(
                index=seat.index,
                backend=seat.backend,
                server=seat.server,
                address=check_address(address or server.address, check, server.check),
                check=check,
                backup=server.backup,
            )
        )
    return targets
