"""Control: health checks, the servers' states, the statistics page.

The only writer of the board. Workers are told by doorbell, and tell by doorbell when a server failed them.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence

import uvloop

from balancer import __version__
from balancer.addr import Address
from balancer.config import model
from balancer.daemon.memory import Memory, answer, ring
from balancer.daemon.plan import Plan
from balancer.health import report, verdict
from balancer.health.runner import Event, Runner, Target
from balancer.observe.log import AccessLog, Level
from balancer.observe.snapshot import Availability, LastCheck, Process, Rates, Roster, Snapshot, take
from balancer.observe.web import Web
from balancer.pool.facts import Entity, Sums
from balancer.pool.orders import Condition

__all__ = ["Control", "initialise"]

# Rates are per second, and events of one moment go out together.
_SECOND = 1.0
_LOG_FLUSH = 0.1


class Control:
    """The deciding process. `stats` are the page's listening sockets."""

    def __init__(
        self, plan: Plan, memory: Memory, stats: Sequence[socket.socket], *, node: str, started: float
    ) -> None:
        self._plan = plan
        self._memory = memory
        self._sockets = stats
        self._log = AccessLog(plan.config.global_.log)
        self._roster = Roster.of(plan.config)
        self._rates = Rates()
        self._availability = Availability(started)
        self._checks: dict[int, LastCheck] = {}
        self._failures: dict[int, int] = {}
        self._entities = {seat.index: Entity("server", seat.backend, seat.server) for seat in plan.seats.values()}
        targets = _targets(plan)
        self._runner = Runner(targets, state_of=memory.board.__getitem__, on_change=self._on_check)
        self._checked = {target.index for target in targets}
        self._usable = {name: _Usable(plan, memory, name) for name in plan.config.backends}
        stats_config = plan.config.stats
        self._process = Process(
            version=__version__,
            node=node,
            description=(stats_config.description if stats_config is not None else None) or "",
            pid=os.getppid(),
            started=started,
            workers=plan.workers,
            maxconn=plan.config.global_.maxconn,
        )

    def run(self) -> None:
        """Decide until SIGTERM."""
        gc.collect()
        gc.freeze()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stopped.set)
        logging.getLogger().addHandler(_ToLog(self._log))
        loop.add_reader(self._memory.control_bell, self._on_bell)
        self._every_second(loop)
        self._flush_log(loop)
        self._runner.start()
        web = None
        config = self._plan.config.stats
        if config is not None:
            web = Web(config, self._snapshot)
            await web.start(self._sockets)
        await stopped.wait()
        await self._runner.close()
        if web is not None:
            await web.stop()
        self._log.flush()

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
        if event.new != event.old:
            self._memory.board[target.index] = event.new
            self._usable[target.backend].change(target, event)
        if event.is_worth_a_check_line and not event.is_first:
            line = report.check_line(
                target.backend, target.server, event.new, target.check, result=result, is_backup=target.backup
            )
            self._log.event(Level(line.severity), line.text)
        if event.changed:
            for bell in self._memory.worker_bells:
                ring(bell)
            if not event.is_first or event.new.condition is Condition.DOWN:
                self._report(event)

    def _report(self, event: Event) -> None:
        target = event.target
        standing = self._standing(target)
        line = report.server_line(
            target.backend,
            target.server,
            event.new.condition,
            result=event.result,
            standing=standing,
            is_backup=target.backup,
        )
        self._log.event(Level(line.severity), line.text)
        if event.new.condition is Condition.DOWN and not standing.active and not standing.backup:
            line = report.no_server_line(target.backend)
            self._log.event(Level(line.severity), line.text)

    def _standing(self, target: Target) -> report.Standing:
        usable = self._usable[target.backend]
        entity = self._entities[target.index]
        sessions = Sums.of(entity, self._memory.blocks, self._plan.layout).counters["scur"]
        return report.Standing(usable.active, usable.backup, sessions)

    def _on_bell(self) -> None:
        """A worker could not reach a server."""
        answer(self._memory.control_bell)
        for index in self._checked:
            counters = Sums.of(self._entities[index], self._memory.blocks, self._plan.layout).counters
            failures = counters["econ"] + counters["wretr"] + counters["wredis"]
            if failures > self._failures.get(index, 0):
                self._failures[index] = failures
                self._runner.hint(index)

    # Statistics

    def _sums(self) -> dict[Entity, Sums]:
        return Sums.read(self._memory.blocks, self._plan.layout)

    def _snapshot(self) -> Snapshot:
        return take(
            self._roster,
            process=self._process,
            sums=self._sums(),
            states=list(self._memory.board),
            checks=self._checks,
            rates=self._rates,
            availability=self._availability,
            now=time.time(),
        )

    def _every_second(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(_SECOND, self._every_second, loop)
        self._rates.feed(self._sums(), time.monotonic())
        self._availability.feed(self._roster, list(self._memory.board), time.time())

    def _flush_log(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(_LOG_FLUSH, self._flush_log, loop)
        self._log.flush()


class _Usable:
    """How many servers of a backend take new clients: counted once, then kept up."""

    def __init__(self, plan: Plan, memory: Memory, backend: str) -> None:
        self.active = self.backup = 0
        for name, server in plan.config.backends[backend].servers.items():
            self._count(memory.board[plan.seats[backend, name].index].is_usable, server.backup)

    def _count(self, change: int, is_backup: bool) -> None:
        if is_backup:
            self.backup += change
        else:
            self.active += change

    def change(self, target: Target, event: Event) -> None:
        """A server's state has changed."""
        self._count(event.new.is_usable - event.old.is_usable, target.backup)


class _ToLog(logging.Handler):
    """What libraries say through `logging` goes to our log, not to a traceback on the console."""

    def __init__(self, log: AccessLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage() + (f": {error!r}" if error is not None else "")
        self._log.event(Level.ERR if record.levelno >= logging.ERROR else Level.WARNING, text, kind=record.name)


def initialise(plan: Plan, memory: Memory) -> None:
    """Write the states to begin with: done once, before any other process looks at the board."""
    now = int(time.time() * 1e6)
    for seat in plan.seats.values():
        backend = plan.config.backends[seat.backend]
        server = backend.servers[seat.server]
        check = backend.check if server.check.enabled else model.NoCheck()
        state = verdict.initial(server.init_state, check, weight=server.weight, now=now)
        if seat.address is None:
            state = state._replace(condition=Condition.DOWN)
        memory.board[seat.index] = state


def _targets(plan: Plan) -> list[Target]:
    targets = []
    for seat in plan.seats.values():
        backend = plan.config.backends[seat.backend]
        server = backend.servers[seat.server]
        check = backend.check
        if isinstance(check, model.NoCheck) or not server.check.enabled or seat.address is None:
            continue
        targets.append(
            Target(
                index=seat.index,
                backend=seat.backend,
                server=seat.server,
                address=_check_address(seat.address, check, server.check),
                check=check,
                init_state=server.init_state,
                backup=server.backup,
            )
        )
    return targets


def _check_address(address: Address, check: model.CheckBase, override: model.CheckOverride) -> Address:
    port = override.port or check.port or address.port
    host = override.address or address.host
    return Address(host, port) if not address.path or override.address else address
