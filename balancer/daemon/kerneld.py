"""The process `kernel`: keeps the rules in the kernel as control has decided, and tells what the kernel counts.

It carries nothing itself. When it dies the rules stay, and the one in its place makes its own of them in one
transaction: who stays with a server is not forgotten, nor is what has counted.
It holds CAP_NET_ADMIN and CAP_NET_RAW, which control, who listens to the network, does not: control writes the board
and rings, and asks questions over a line.
"""

from __future__ import annotations

import gc
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from balancer.addr import Address
from balancer.config.model import Balance
from balancer.daemon import flowlog, kernelanswers, kernelleft, privileges
from balancer.daemon.flowlog import FlowLog
from balancer.daemon.kernelnumbers import Numbers
from balancer.daemon.memory import Memory, answer
from balancer.daemon.plan import Plan
from balancer.daemon.questions import Answering
from balancer.errors import KernelError, StartError
from balancer.kernel import networks, render
from balancer.kernel.adopt import adopt
from balancer.kernel.conntrack import Conntrack, Usage
from balancer.kernel.firewall import hindrances
from balancer.kernel.moves import Moves
from balancer.kernel.nft import Nft
from balancer.kernel.plan import Planner, Service, Target, remarks
from balancer.kernel.render import Desired
from balancer.kernel.reset import Resets
from balancer.kernel.strays import GROUP, Strays
from balancer.kernel.sysctl import Sysctl
from balancer.kernel.tables import tables
from balancer.observe.log import AccessLog, Level
from balancer.pool.facts import Counters, Entity, Ledger
from balancer.pool.orders import Admin, Condition, ServerState
from balancer.pool.services import Listing, encode

__all__ = ["Engine", "hindrance"]

_SECOND = 1.0
# How often it is looked for what stands in the way.
_LOOK_AROUND = 30.0
# Servers that go down together, above which it is first found out who has connections at all.
_FEW = 4
_MICROSECOND = 1e-6


def hindrance() -> str:
    """Why the kernel engine does not work here, in a sentence; empty where it does."""
    # Asked first, since the library complains on the console.
    if not privileges.has_network_rights():
        return "engine kernel and gateway.masquerade need CAP_NET_ADMIN and CAP_NET_RAW: start as root, or with these"
    try:
        with ExitStack() as at_the_end:
            at_the_end.callback(Nft().close)
            Conntrack()
            at_the_end.callback(Resets().close)
    except StartError as error:
        return str(error)
    return ""


class Engine:
    """`state` is the file for the settings that were found."""

    def __init__(self, plan: Plan, memory: Memory, state: Path) -> None:
        assert memory.kernel_bell is not None and memory.kernel_line is not None
        self._plan = plan
        self._config = plan.config
        self._memory = memory
        self._bell = memory.kernel_bell
        self._log = AccessLog(plan.log, plan.records)
        self._log.keep = memory.journal.writer("kernel")
        self._sysctl = Sysctl(state)
        self._remarks: list[str] = []
        self._planner = self._planned()
        self._answering = Answering(memory.kernel_line.kernel, self._answer, aside=("rules", "connections"))
        self._ledger = Ledger(memory.blocks[-1], plan.layout)
        self._numbers = Numbers(self._ledger, lambda: (self._nft, self._conntrack), self._say, memory.tallied)
        self._peaks = memory.peaks[0]
        # Its servers, by row.
        used = {each.default_backend for each in plan.config.frontends.values() if each.engine == "kernel"}
        self._own = {seat.index: seat for seat in plan.seats.values() if seat.backend in used}
        self._by_load = any(plan.config.backends[name].balance is Balance.LEASTCONN for name in used)
        self._seen = bytearray()
        self._states: dict[int, ServerState] = {}
        self._moves = Moves(kernelleft.moves_file(state), plan.seats)
        self._is_elsewhere = False
        """Whether a server is somewhere else than the planner knows."""
        self._before: tuple[Service, ...] = ()
        """The services as they were until servers moved; empty once the rules have followed."""
        self._left: list[tuple[Service, Target]] = []
        """Where servers were, and datagrams may go still."""
        self._down: set[int] = set()
        # Down, and the rules still lead there or did until now.
        self._to_forget: set[int] = set()
        self._paused: frozenset[str] = frozenset()
        """Frontends that operators have closed, as the rules have it."""
        self._applied: Desired | None = None
        self._is_swept = True
        """Whether no connection is there that began under other rules than ours, or none."""
        self._is_known = False
        """Whether the kernel has what was last applied, so that a change to it will do."""
        self._trouble = ""
        self._strays: Strays | None = None
        self._retry_at = 0.0
        self._networks: tuple[networks.Network, ...] = ()
        self._is_inherited = False
        """Whether the rules were another process's."""
        self._usage: Usage | None = None
        self._second_at = self._around_at = 0.0
        self._findings: list[str] = []
        self._has_rung = False
        self._look_at = 0.0
        self._flow_log: FlowLog | None = None
        self._is_logged = False
        """Whether flows are to be: the kernel has to note when they begin and end."""
        self._is_waiting_for_flows = False
        self._dropped_before = self._process.log_dropped
        self._stopping = self._is_followed = False

    @property
    def _addresses(self) -> dict[tuple[str, str], Address | None]:
        """Where servers are now."""
        board = self._memory.board
        return {pair: seat.at(board[seat.index]) for pair, seat in self._plan.seats.items()}

    def _planned(self) -> Planner:
        """What there is to be said of it is said where it was not before."""
        plan, addresses = self._plan, self._addresses
        planner = Planner(plan.config, addresses, lambda *pair: plan.seats[pair].index, plan.bound)
        said, self._remarks = set(self._remarks), remarks(plan.config, addresses, plan.bound, planner)
        for line in self._remarks:
            if line not in said:
                self._log.event(Level.WARNING, line)
        return planner

    def run(self) -> None:
        """Keep the rules until SIGTERM, then take them away; or until SIGUSR1: another one goes on with them."""
        gc.collect()
        gc.freeze()
        with ExitStack() as at_the_end:
            at_the_end.callback(self._log.close)
            self._hear_signals(at_the_end)
            self._nft = Nft()
            at_the_end.callback(self._nft.close)
            self._conntrack = Conntrack()
            self._resets = Resets()
            at_the_end.callback(self._resets.close)
            at_the_end.callback(self._close_flow_log)
            self._hear_strays(at_the_end)
            self._begin()
            while not self._stopping:
                self._turn()
            if not self._is_followed:
                if not self._config.vrrp.instances:
                    self._let_finish()
                self._end()
            self._leave()

    def _hear_signals(self, at_the_end: ExitStack) -> None:
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
            at_the_end.callback(end.close)
        self._signals = reader
        self._selector = selectors.DefaultSelector()
        at_the_end.callback(self._selector.close)
        self._selector.register(reader, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)
        assert self._memory.kernel_line is not None
        self._line = self._memory.kernel_line.kernel
        self._line_events = 0
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        at_the_end.callback(signal.set_wakeup_fd, -1)
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGUSR1, lambda *_: self._stop(is_followed=True))

    def _hear_strays(self, at_the_end: ExitStack) -> None:
        """Rules that a kernel does not know would keep it from taking any."""
        if not self._planner.goes_on:
            return
        try:
            self._nft.run(render.trial(GROUP))
            strays = Strays()
        except (KernelError, OSError) as error:
            self._log.event(
                Level.WARNING,
                "the kernel does not show segments of connections that it does not know (NFLOG group "
                f"{GROUP}: {error}): after a change of director servers do not hear of clients that only close, and "
                "connections to servers that several services have go on only once the client sends",
            )
            return
        at_the_end.callback(strays.close)
        self._selector.register(strays, selectors.EVENT_READ)
        self._strays = strays

    def _stop(self, *, is_followed: bool = False) -> None:
        self._stopping = True
        self._is_followed = is_followed

    # The loop

    def _turn(self) -> None:
        now = time.monotonic()
        wanted = 0
        if self._answering.is_sending:
            wanted = selectors.EVENT_WRITE
        elif now >= self._answering.due:
            wanted = selectors.EVENT_READ
        self._watch_line(wanted)
        due = [self._second_at, self._resets.due]
        if not wanted:
            due.append(self._answering.due)
        if self._has_rung:
            due.append(self._look_at)
        has_flows = False
        if self._flow_log is not None:
            self._watch_flows(self._flow_log)
            due.append(self._flow_log.due)
        for key, _ in self._selector.select(max(0.0, min(due) - now)):
            if key.fileobj is self._signals:
                with suppress(BlockingIOError):
                    self._signals.recv(4096)
            elif key.fileobj is self._line:
                self._answering.turn()
            elif key.fileobj is self._flow_log:
                has_flows = True
            elif key.fileobj is self._strays:
                self._strays.turn()
            else:
                answer(self._bell)
                self._has_rung = True
        if self._answering.is_busy:
            self._answering.reap()
        now = time.monotonic()
        if self._has_rung and now >= self._look_at:
            self._has_rung = False
            self._look()
            # Thousands of servers that flap must not keep us from everything else.
            self._look_at = 2 * time.monotonic() - now
            now = time.monotonic()
        if now >= self._resets.due:
            self._resets.turn(now)
        if now >= self._second_at:
            self._second_at = max(self._second_at + _SECOND, now + _SECOND / 2)
            self._every_second(now)
        # After all else, and little at a time.
        if self._flow_log is not None and (has_flows or now >= self._flow_log.due):
            self._flow_log.turn()

    def _watch_flows(self, flow_log: FlowLog) -> None:
        if flow_log.is_waiting == self._is_waiting_for_flows:
            return
        self._is_waiting_for_flows = flow_log.is_waiting
        if flow_log.is_waiting:
            self._selector.register(flow_log, selectors.EVENT_READ)
        else:
            self._selector.unregister(flow_log)

    def _watch_line(self, wanted: int) -> None:
        if wanted == self._line_events:
            return
        if not self._line_events:
            self._selector.register(self._line, wanted)
        elif wanted:
            self._selector.modify(self._line, wanted)
        else:
            self._selector.unregister(self._line)
        self._line_events = wanted

    def _every_second(self, now: float) -> None:
        self._process.heartbeat = int(now / _MICROSECOND)
        if self._is_known and not self._is_there():
            self._say(Level.WARNING, "the kernel's rules were taken away by somebody else: they are put there again")
            self._is_known = False
        self._numbers.update(now)
        self._networks = _networks() or self._networks
        self._look()
        if now >= self._around_at:
            self._around_at = now + _LOOK_AROUND
            self._look_around()
            if self._flow_log is not None:
                self._flow_log.look()
        lost = 0
        if self._flow_log is not None:
            self._flow_log.tell(now)
            lost = self._flow_log.lost
        self._process.log_dropped = self._dropped_before + self._log.dropped + lost
        if not self._trouble:
            self._memory.applied[0] = int(now / _MICROSECOND)
        self._ledger.flush()

    @property
    def _process(self) -> Counters:
        return self._ledger[Entity("process", "")]

    def _say(self, level: Level, text: str) -> None:
        self._log.event(level, text, kind=text)

    # Rules

    def _begin(self) -> None:
        self._networks = _networks()
        self._read_board()
        # Who went down while nobody was here, or before.
        self._to_forget = set(self._down)
        self._open_flow_log()
        self._apply()
        services = self._planner.services(self._states.__getitem__)
        self._numbers.begin(services, self._services if self._is_inherited else ())
        self._set()
        now = time.monotonic()
        self._process.heartbeat = int(now / _MICROSECOND)
        if not self._trouble:
            self._memory.applied[0] = int(now / _MICROSECOND)
            number = len(self._services)
            self._log.event(
                Level.NOTICE, f"the kernel's rules are in place, {number} service{'' if number == 1 else 's'}"
            )
        self._ledger.flush()
        self._second_at = now + _SECOND
        self._around_at = now + _SECOND

    def _open_flow_log(self) -> None:
        """Before there are rules, so that no flow is missed."""
        wanted = flowlog.frontends(self._config)
        if not wanted:
            return
        services = self._planner.services(self._states.__getitem__)
        logged = {service.frontend for service in services if flowlog.has_flows(service)}
        for name in wanted:
            if any(service.frontend == name and not flowlog.has_flows(service) for service in services):
                self._log.event(
                    Level.WARNING,
                    f"frontends.{name}.flow_log: queries are balanced each on its own, and make no flows to be logged",
                )
        if logged.isdisjoint(wanted):
            return
        self._is_logged = True
        try:
            self._flow_log = FlowLog(self._log, services, wanted, self._ledger, self._states.__getitem__)
        except OSError as error:
            self._log.event(Level.ERR, f"flows cannot be logged: {error.strerror}")

    def _close_flow_log(self) -> None:
        flow_log, self._flow_log = self._flow_log, None
        if flow_log is not None:
            flow_log.close()

    def _look(self) -> None:
        """Bring the rules up to what control has decided."""
        is_new = self._read_board() or self._by_load or not self._is_known or not self._is_swept
        is_new = is_new or bool(self._to_forget or self._left) or self._closed != self._paused
        if self._trouble:
            is_new = time.monotonic() >= self._retry_at
        if is_new or (self._applied is not None and self._applied.networks != self._networks):
            self._apply()

    def _read_board(self) -> bool:
        """Whether there is anything new."""
        if self._peaks != self._memory.peaks[0]:
            self._peaks = self._memory.peaks[0]
            self._ledger.forget_peaks()
        is_new = False
        left = []
        for index, state in self._memory.board.changes(self._seen):
            if index not in self._own:
                continue
            before = self._states.get(index)
            if before is None or state.place != before.place:
                self._is_elsewhere = True
                seat = self._own[index]
                if before is not None and (at := seat.at(before)) is not None and "%" not in at.host:
                    left.append(((seat.backend, seat.server), (at.host, at.port)))
            self._states[index] = state
            is_new = True
            if state.condition is Condition.DOWN or state.admin is Admin.MAINT:
                if index not in self._down:
                    self._down.add(index)
                    self._to_forget.add(index)
            else:
                self._down.discard(index)
                self._to_forget.discard(index)
        if left:
            self._moves.add(left)
        return is_new

    @property
    def _closed(self) -> frozenset[str]:
        """Frontends that are to take nobody."""
        doors = self._memory.doors
        own = (name for name, each in self._config.frontends.items() if each.engine == "kernel")
        # The memory of a version before may have none for it.
        return frozenset(name for name in own if name in doors and doors[name][0])

    @property
    def _services(self) -> tuple[Service, ...]:
        """As they were last put in place."""
        return self._applied.services if self._applied is not None else ()

    def _apply(self) -> None:
        """In one transaction; and forget connections that lead to servers that are down."""
        if self._is_elsewhere:
            # Connections to where servers were go on, as long as the kernel remembers them.
            self._planner, self._is_elsewhere = self._planned(), False
            self._before = self._before or self._services
            # Where a server is now it is counted from 0.
            self._numbers.update_totals()
            if self._flow_log is not None:
                self._flow_log.follow(self._planner.services(self._states.__getitem__))
        self._paused = self._closed
        weights = self._numbers.weights() if self._by_load else {}
        services = self._planner.services(self._states.__getitem__, weights, self._paused)
        wanted = Desired(services, self._config.gateway, self._networks, GROUP if self._strays is not None else 0)
        try:
            self._put(wanted)
        except KernelError as error:
            self._retry_at = time.monotonic() + _SECOND
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._log.event(Level.ALERT, f"the kernel does not take the rules, tried again each second: {error}")
            return
        if self._trouble:
            self._trouble = ""
            self._log.event(Level.NOTICE, "the kernel has taken the rules")
        if self._strays is not None:
            self._strays.follow(services)
        if not self._is_swept:
            self._sweep()
        if self._to_forget:
            self._forget()
        if self._before:
            self._left += self._places_left()
            self._before = ()
        if self._left:
            self._lead_on()

    def _put(self, wanted: Desired) -> None:
        if self._applied is not None and self._is_known:
            text = render.change(self._applied, wanted)
            try:
                if text:
                    self._nft.run(text)
                self._applied = wanted
                self._numbers.follow(wanted.services)
                return
            except KernelError:
                # What is there is not what we put there.
                self._is_known = False
        if self._plan.keeps_flows:
            self._nft.run(kernelleft.RESTING)
        # What stays and what has counted is not lost with the process that died.
        self._is_inherited = adopt(self._nft, wanted)
        if not self._is_inherited:
            self._nft.run(render.whole(wanted))
        self._applied, self._is_known = wanted, True
        self._numbers.follow(wanted.services)
        self._is_swept = False

    def _is_there(self) -> bool:
        try:
            return render.TABLE in tables()
        except OSError:
            return True

    def _sweep(self) -> None:
        """Connections that other rules have led elsewhere, or none anywhere: no rule is asked about them any more."""
        try:
            self._conntrack.sweep(self._services, self._moves.by_backend())
        except OSError as error:
            # Tried again each second.
            self._say(Level.ERR, f"connections of before the rules cannot be deleted: {error.strerror}")
            return
        self._is_swept = True

    def _forget(self) -> None:
        """The kernel's connections to servers that are down: their next packet finds a server that is not."""
        leading = [
            (service, target)
            for service in self._services
            for target in service.targets
            if target.index in self._to_forget
        ]
        try:
            for service, target in self._with_connections(leading):
                self._forget_one(service, target)
        except OSError as error:
            # Tried again with the next change, and each second.
            self._say(Level.ERR, f"connections to servers that are down cannot be deleted: {error.strerror}")
            return
        self._to_forget.clear()

    def _with_connections(self, leading: list[tuple[Service, Target]]) -> list[tuple[Service, Target]]:
        """Of many those that have any. OSError."""
        if len(leading) <= _FEW:
            return leading
        services = {service.key: service for service, _ in leading}.values()
        has = {end for (_, end), load in self._conntrack.counts(services).items() if sum(load)}
        return [(service, target) for service, target in leading if (target.address, target.port) in has]

    def _places_left(self) -> Iterator[tuple[Service, Target]]:
        """Where servers were, of services of datagrams."""
        ends = self._ends
        for service in self._before:
            if service.protocol == "udp" and not service.is_per_query and service.key in ends:
                for target in service.targets:
                    if (target.address, target.port) not in ends[service.key]:
                        yield service, target

    @property
    def _ends(self) -> dict[tuple[str, str, int, int, str], set[tuple[str, int]]]:
        """Where the servers of services are now."""
        return {each.key: {(target.address, target.port) for target in each.targets} for each in self._services}

    def _lead_on(self) -> None:
        """The kernel's flows of datagrams to where servers were: the next one goes where they are."""
        ends = self._ends
        left = [
            (service, target)
            for service, target in self._left
            if (target.address, target.port) not in ends.get(service.key, ())
        ]
        try:
            for service, target in self._with_connections(left):
                self._conntrack.delete("udp", (target.address, target.port), service)
        except OSError as error:
            # Tried again as above.
            self._say(Level.ERR, f"flows to where servers were cannot be deleted: {error.strerror}")
            return
        self._left.clear()

    def _forget_one(self, service: Service, target: Target) -> None:
        seat = self._own[target.index]
        server = self._config.backends[seat.backend].servers[seat.server]
        self._conntrack.delete(
            service.protocol,
            (target.address, target.port),
            service,
            gone=self._resets.add if server.on_marked_down == "shutdown-sessions" else None,
        )

    # Settings, and what stands in the way

    def _set(self) -> None:
        services = self._planner.services(self._states.__getitem__)
        families = {service.family for service in services}
        families |= {6 if ":" in way.source else 4 for way in self._config.gateway.masquerade}
        frontends = self._config.frontends.values()
        is_passing = all(frontend.engine == "kernel" and frontend.mode != "http" for frontend in frontends)
        for line in self._sysctl.apply(
            families, is_liberal=self._planner.goes_on, is_logged=self._is_logged, is_passing=is_passing
        ):
            self._log.event(Level.NOTICE, line)

    def _look_around(self) -> None:
        try:
            self._usage = self._conntrack.usage()
        except OSError:
            self._usage = None
        found = self._sysctl.findings(self._usage)
        with suppress(KernelError, OSError):
            found += hindrances(list(_foreign(self._nft)), self._services, self._config.gateway.masquerade)
        for line in found:
            if line not in self._findings:
                self._log.event(Level.WARNING, line)
        self._findings = found

    # Questions

    def _answer(self, asked: str, is_numeric: bool) -> bytes:
        match asked:
            case "rules":
                return kernelanswers.rules(self._trouble)
            case "services":
                return encode(self._listing())
            case "connections":
                return kernelanswers.connections(self._conntrack, self._services, is_numeric=is_numeric)
        raise KernelError(f"{asked!r} is not known here")

    def _listing(self) -> Listing:
        now = time.monotonic()
        if self._numbers.connections_at - now < _SECOND:
            # It is quickly done.
            self._numbers.count_connections(now)
        services = tuple(
            kernelanswers.service_facts(service, self._config, self._numbers, self._down) for service in self._services
        )
        if self._usage is None:
            with suppress(OSError):
                self._usage = self._conntrack.usage()
        return Listing(services, self._usage.maximum if self._usage is not None else 0, self._trouble)

    # The end

    def _let_finish(self) -> None:
        """New clients are refused, and who is connected goes on: for `hard_stop_after` at most. Where addresses move to
        another director, so have the clients."""
        until = time.monotonic() + self._config.global_.hard_stop_after
        if self._applied is None or not self._has_connections():
            return
        try:
            self._nft.run(render.whole(self._applied._replace(services=())) + kernelleft.RESTING)
        except KernelError as error:
            self._say(Level.ERR, f"who is connected cannot go on: {error}")
            return
        while (now := time.monotonic()) < until and self._has_connections():
            self._process.heartbeat = int(now / _MICROSECOND)
            # Counting takes the longer the more there are.
            self._selector.select(min(max(_SECOND / 4, self._numbers.connections_at - now), until - now))
            with suppress(BlockingIOError):
                self._signals.recv(4096)

    def _has_connections(self) -> bool:
        self._numbers.count_connections(time.monotonic())
        return self._numbers.has_connections

    def _end(self) -> None:
        try:
            self._nft.run(kernelleft.NOTHING)
        finally:
            self._close_flow_log()
            self._moves.forget()
            for line in self._sysctl.restore():
                self._log.event(Level.NOTICE, line)
        self._memory.applied[0] = 0

    def _leave(self) -> None:
        if self._is_followed and self._services:
            self._numbers.update_last()
        self._process.heartbeat = 0
        for entity in self._plan.layout.rows:
            self._ledger[entity].scur = 0
        self._ledger.flush()


def _networks() -> tuple[networks.Network, ...]:
    try:
        return networks.own()
    except OSError:
        return ()


def _foreign(nft: Nft) -> Iterator[Any]:
    """What other tables hold. KernelError and OSError."""
    for table in tables():
        if table not in kernelleft.OWN:
            yield from nft.list_json(f"list table {table}")
