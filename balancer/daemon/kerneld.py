"""The process `kernel`: keeps the rules in the kernel as control has decided, and tells what the kernel counts.

It carries nothing itself. When it dies the rules stay, and the one in its place makes its own of them in one
transaction: who stays with a server is not forgotten, nor is what has counted.
It holds CAP_NET_ADMIN and CAP_NET_RAW, which control, who listens to the network, does not: control writes the board
and rings, and asks questions over a line.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from math import inf
from pathlib import Path
from typing import Any

from balancer.addr import Address
from balancer.config.model import Balance
from balancer.daemon import flowlog, privileges
from balancer.daemon.flowlog import FlowLog
from balancer.daemon.lock import exclusive
from balancer.daemon.memory import Memory, answer
from balancer.daemon.plan import Plan
from balancer.daemon.questions import LONGEST_ANSWER, Answering
from balancer.errors import KernelError, StartError
from balancer.kernel import counters, networks, render
from balancer.kernel.adopt import adopt
from balancer.kernel.conntrack import Conntrack, Load, Usage
from balancer.kernel.counters import Tally
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
from balancer.observe.services import CONNECTIONS, connection
from balancer.pool.facts import Counters, Entity, Ledger
from balancer.pool.orders import Admin, Condition, ServerState
from balancer.pool.services import Counts, Listing, ServiceFacts, TargetFacts, encode

__all__ = ["Engine", "clear", "clear_leftovers", "exclusive", "hindrance", "state_file"]

_NAMESPACE = Path("/proc/self/ns/net")
_DIRECTORY = Path("/run/pybalancer")
_DIRECTORY_MODE, _OWN_MODE = 0o755, 0o700

# Without a chain of this type the kernel would translate no packet any more, and without a rule of that kind it would
# follow no flow: those that it has begun neither. In a table apart, which needs no other to be there.
_RESTING_TABLE = "inet pybalancer_flows"
_RESTING = f"""\
add table {_RESTING_TABLE}
add chain {_RESTING_TABLE} resting {{ type nat hook prerouting priority 0; policy accept; }}
flush chain {_RESTING_TABLE} resting
add rule {_RESTING_TABLE} resting ct state new return
"""
_NOTHING_LEFT = f"{render.nothing()}\nadd table {_RESTING_TABLE}\ndelete table {_RESTING_TABLE}"
_OWN = {render.TABLE, _RESTING_TABLE}

_SECOND = 1.0
# To count takes the longer the more there is; this many times that belongs to other work.
_REST = 20
# How often it is looked for what stands in the way.
_LOOK_AROUND = 30.0
# Servers that go down together, above which it is first found out who has connections at all.
_FEW = 4
_MICROSECOND = 1e-6
# As IPVS weighs them (ip_vs_dest_conn_overhead).
_INACTIVE = 1 / 256
_NOTHING = Tally()


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


def state_file(owner: tuple[int, int] | None) -> Path:
    """Where the settings that were found are kept, in a directory that is there then and is `owner`'s. StartError."""
    directory = _DIRECTORY / "kernel"
    before = os.umask(0)
    try:
        with suppress(FileExistsError):
            directory.parent.mkdir(_DIRECTORY_MODE)
        with suppress(FileExistsError):
            directory.mkdir(_OWN_MODE)
        if owner is not None:
            os.chown(directory, *owner, follow_symlinks=False)
    except OSError as error:
        raise StartError(f"cannot make {directory}: {error.strerror}") from error
    finally:
        os.umask(before)
    return directory / _state_name()


def _moves_file(state: Path) -> Path:
    return state.with_name(f"{state.name}.moves")


def _state_name() -> str:
    return f"sysctl.{_NAMESPACE.stat().st_ino}"


def clear(state: Path) -> list[str]:
    """Take away what a process that could not do so itself has left: the table, and the settings; say which."""
    nft = Nft()
    try:
        nft.run(_NOTHING_LEFT)
    finally:
        nft.close()
    # The directory is not only ours.
    with suppress(OSError):
        _moves_file(state).unlink()
    return Sysctl(state).restore()


def clear_leftovers() -> list[str]:
    """For a daemon without rules: those of one that was killed would go on taking the traffic. What was done.

    They are a living one's where somebody has the lock. StartError and KernelError where they cannot be taken away,
    and OSError.
    """
    state = _DIRECTORY / "kernel" / _state_name()
    if not privileges.has_network_rights():
        if os.path.lexists(state):
            raise StartError("that takes CAP_NET_ADMIN and CAP_NET_RAW")
        return []
    try:
        lock = exclusive(patience=0.0)
    except StartError:
        return []
    with lock:
        has_table = not _OWN.isdisjoint(tables())
        if not has_table and not os.path.lexists(state):
            return []
        said = clear(state)
    return ["rules that an earlier run had left in the kernel are taken away", *said] if has_table else said


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
        self._peaks = memory.peaks[0]
        # Its servers, by row.
        used = {each.default_backend for each in plan.config.frontends.values() if each.engine == "kernel"}
        self._own = {seat.index: seat for seat in plan.seats.values() if seat.backend in used}
        self._by_load = any(plan.config.backends[name].balance is Balance.LEASTCONN for name in used)
        self._seen = bytearray()
        self._states: dict[int, ServerState] = {}
        self._moves = Moves(_moves_file(state), plan.seats)
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
        self._labels = _Labels()
        self._is_inherited = False
        """Whether the rules were another process's."""
        self._totals = counters.Totals()
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._rates: dict[tuple[str, str], Counts] = {}
        self._sessions: dict[Entity, int] = {}
        self._placed: tuple[Service, ...] = ()
        self._places: dict[tuple[str, tuple[str, int]], tuple[Service, Target]] = {}
        self._loads: dict[tuple[str, tuple[str, int]], Load] = {}
        self._loads_at = self._tallies_at = self._tallied = 0.0
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
        self._count(now)
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
        self._begin_to_count()
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
            self._tallies_at = 0.0
            self._count(time.monotonic())
            if self._flow_log is not None:
                self._flow_log.follow(self._planner.services(self._states.__getitem__))
        self._paused = self._closed
        services = self._planner.services(self._states.__getitem__, self._weights(), self._paused)
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
                return
            except KernelError:
                # What is there is not what we put there.
                self._is_known = False
        if self._plan.keeps_flows:
            self._nft.run(_RESTING)
        # What stays and what has counted is not lost with the process that died.
        self._is_inherited = adopt(self._nft, wanted)
        if not self._is_inherited:
            self._nft.run(render.whole(wanted))
        self._applied, self._is_known = wanted, True
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

    # Numbers

    def _begin_to_count(self) -> None:
        """Where the process before this one was, or at 0: what an earlier daemon's rules have carried is not ours."""
        services = self._planner.services(self._states.__getitem__)
        names = ((_label(service), target.server) for service in services for target in service.targets)
        self._totals = counters.Totals(names, self._memory.tallied)
        self._tallies = self._totals.all
        if self._totals.is_begun:
            return
        carried: dict[tuple[str, str], Tally] = {}
        if self._is_inherited and self._services:
            with suppress(KernelError):
                carried = counters.read(self._nft, self._labels.of(self._services))
        self._totals.begin(carried)

    def _count(self, now: float) -> None:
        if not self._services:
            return
        labelled = self._labels.of(self._services)
        if now >= self._loads_at:
            self._count_connections(now)
        if now >= self._tallies_at:
            try:
                tallies = self._totals.update(counters.read(self._nft, labelled))
            except KernelError as error:
                self._say(Level.ERR, f"the kernel's counters cannot be read: {error}")
            else:
                self._account(tallies, now)
            self._tallies_at = _next(now)

    def _count_connections(self, now: float) -> None:
        try:
            self._loads = self._conntrack.counts(self._labels.of(self._services))
        except OSError as error:
            self._say(Level.ERR, f"the kernel's connections cannot be counted: {error.strerror}")
        self._loads_at = _next(now)

    def _account(self, tallies: Mapping[tuple[str, str], Tally], now: float) -> None:
        """Into the ledger, for page, metrics and logs."""
        elapsed = max(now - self._tallied, _MICROSECOND) if self._tallied else inf
        second = int(time.time())
        before, self._tallies, self._tallied = self._tallies, dict(tallies), now
        self._rates = {}
        for of, tally in tallies.items():
            old = before.get(of, _NOTHING)
            if tally != old:
                grown = Tally(*(new - number for new, number in zip(tally, old, strict=True)))
                self._rates[of] = _counts(Tally(*(round(number / elapsed) for number in grown)))
                self._add(of, grown, second)
                self._totals.keep(of)
        self._gauge()

    def _add(self, of: tuple[str, str], grown: Tally, second: int) -> None:
        label, server = of
        service = self._labels.services[label]
        front = self._ledger[Entity("frontend", service.frontend)]
        own = self._ledger[Entity("server", service.backend, server)]
        for row in (front, own):
            row.stot += grown.flows
            row.bin += grown.octets_in
            row.bout += grown.octets_out
        own.lbtot += grown.flows
        if service.protocol == "tcp":
            front.conn_tot += grown.flows
        else:
            front.req_tot += grown.packets_in
        if grown.flows:
            own.lastsess = second
        self._touch(own)

    def _gauge(self) -> None:
        """How many there are at the moment."""
        sessions: dict[Entity, int] = {}
        for service, target, load in self._loaded():
            number = load.active + (load.inactive if service.protocol == "udp" else 0)
            for entity in (
                Entity("frontend", service.frontend),
                Entity("backend", service.backend),
                Entity("server", service.backend, target.server),
            ):
                sessions[entity] = sessions.get(entity, 0) + number
        for entity in self._sessions.keys() | sessions:
            row, number = self._ledger[entity], sessions.get(entity, 0)
            if row.scur != number:
                row.scur = number
                row.smax = max(row.smax, number)
                if entity.kind == "server":
                    self._touch(row)
        self._sessions = sessions

    def _touch(self, row: Counters) -> None:
        if not row.dirty:
            row.dirty = True
            self._ledger.touched.append(row)

    def _loaded(self) -> Iterator[tuple[Service, Target, Load]]:
        """Those servers of services that have connections."""
        if self._placed is not self._services:
            self._placed = self._services
            self._places = {}
            for service in self._services:
                label = _label(service)
                for target in service.targets:
                    self._places.setdefault((label, (target.address, target.port)), (service, target))
        for of, load in self._loads.items():
            place = self._places.get(of)
            # Servers of the time before the last start, whose connections are not over, are none.
            if place is not None:
                yield *place, load

    def _weights(self) -> dict[int, float]:
        """Loads by the server's row, as leastconn weighs them; where nobody asks for them, none."""
        if not self._by_load:
            return {}
        found: dict[int, float] = {}
        for service, target, load in self._loaded():
            inactive = 1.0 if service.protocol == "udp" else _INACTIVE
            found[target.index] = found.get(target.index, 0.0) + load.active + load.inactive * inactive
        return found

    # Questions

    def _answer(self, asked: str, is_numeric: bool) -> bytes:
        match asked:
            case "rules":
                return self._rules()
            case "services":
                return encode(self._listing())
            case "connections":
                return self._connections(is_numeric)
        raise KernelError(f"{asked!r} is not known here")

    def _rules(self) -> bytes:
        """In a process of its own, which must have its own line to the kernel."""
        trouble = f"# not as they should be: {self._trouble}\n" if self._trouble else ""
        nft = Nft()
        try:
            listed = nft.run(f"list table {render.TABLE}")
        finally:
            nft.close()
        # An empty line would end the answer.
        said = (trouble + "".join(f"{line}\n" for line in listed.splitlines() if line.strip())).encode()
        if len(said) > LONGEST_ANSWER:
            said = said[: said.rindex(b"\n", 0, LONGEST_ANSWER - 256) + 1]
            said += f"# cut here, there are more: nft list table {render.TABLE}\n".encode()
        return said

    def _listing(self) -> Listing:
        now = time.monotonic()
        if self._loads_at - now < _SECOND:
            # It is quickly done.
            self._count_connections(now)
        services = tuple(self._facts(service) for service in self._services)
        if self._usage is None:
            with suppress(OSError):
                self._usage = self._conntrack.usage()
        return Listing(services, self._usage.maximum if self._usage is not None else 0, self._trouble)

    def _facts(self, service: Service) -> ServiceFacts:
        label = _label(service)
        targets = []
        for target in service.targets:
            if target.index in self._down:
                continue
            load = self._loads.get((label, (target.address, target.port)), Load())
            targets.append(
                TargetFacts(
                    target.server, target.address, target.port, target.weight, *load,
                    _counts(self._tallies.get((label, target.server), _NOTHING)),
                    self._rates.get((label, target.server), Counts()),
                )
            )  # fmt: skip
        everywhere = "::" if service.family == 6 else "0.0.0.0"
        return ServiceFacts(
            protocol=service.protocol,
            address=service.address or everywhere,
            port=service.port,
            balance=str(service.balance),
            is_consistent=self._config.backends[service.backend].hash_type == "consistent",
            persistence=service.persistence,
            is_per_query=service.is_per_query,
            forwarding="Masq",
            targets=tuple(targets),
        )

    def _connections(self, is_numeric: bool) -> bytes:
        names = {
            (service.protocol, target.address, target.port): target.server
            for service in self._services
            for target in service.targets
        }
        octets = bytearray(CONNECTIONS.encode())
        for flow in self._conntrack.flows(self._services):
            host, port = flow.server
            server = host if is_numeric else names.get((flow.protocol, *flow.server), host)
            ends = flow.client, flow.service, (server, port)
            octets += connection(flow.protocol, flow.timeout, flow.state, ends, is_numeric=is_numeric).encode()
            if len(octets) > LONGEST_ANSWER - 256:
                octets += b"There are more.\n"
                break
        return bytes(octets)

    # The end

    def _let_finish(self) -> None:
        """New clients are refused, and who is connected goes on: for `hard_stop_after` at most. Where addresses move to
        another director, so have the clients."""
        until = time.monotonic() + self._config.global_.hard_stop_after
        if self._applied is None or not self._has_connections():
            return
        try:
            self._nft.run(render.whole(self._applied._replace(services=())) + _RESTING)
        except KernelError as error:
            self._say(Level.ERR, f"who is connected cannot go on: {error}")
            return
        while (now := time.monotonic()) < until and self._has_connections():
            self._process.heartbeat = int(now / _MICROSECOND)
            # Counting takes the longer the more there are.
            self._selector.select(min(max(_SECOND / 4, self._loads_at - now), until - now))
            with suppress(BlockingIOError):
                self._signals.recv(4096)

    def _has_connections(self) -> bool:
        self._count_connections(time.monotonic())
        return any(load.active for (label, _), load in self._loads.items() if label.startswith("tcp"))

    def _end(self) -> None:
        try:
            self._nft.run(_NOTHING_LEFT)
        finally:
            self._close_flow_log()
            self._moves.forget()
            for line in self._sysctl.restore():
                self._log.event(Level.NOTICE, line)
        self._memory.applied[0] = 0

    def _leave(self) -> None:
        if self._is_followed and self._services:
            # Who follows goes on from what the kernel says then.
            self._loads_at, self._tallies_at = inf, 0.0
            self._count(time.monotonic())
        self._process.heartbeat = 0
        for entity in self._plan.layout.rows:
            self._ledger[entity].scur = 0
        self._ledger.flush()


class _Labels:
    """Services under names of their own where their frontend's would throw together what is counted apart."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        """By label: the one that its numbers are the frontend's of."""
        self._known: dict[int, tuple[Service, Service]] = {}

    def of(self, services: Iterable[Service]) -> list[Service]:
        known = {}
        for service in services:
            found = self._known.get(id(service))
            if found is None or found[0] is not service:
                label = _label(service)
                self.services.setdefault(label, service)
                found = service, dataclasses.replace(service, frontend=label)
            known[id(service)] = found
        self._known = known
        return [labelled for _, labelled in known.values()]


def _label(service: Service) -> str:
    """The kernel counts by these."""
    return f"{service.protocol} {service.address or service.family} {service.port}"


def _counts(tally: Tally) -> Counts:
    return Counts(tally.flows, tally.packets_in, tally.packets_out, tally.octets_in, tally.octets_out)


def _next(began: float) -> float:
    """When to count again what it took until now to count."""
    took = time.monotonic() - began
    # A little before the second is over, or it would be missed.
    return began + max(_SECOND / 2, _REST * took)


def _networks() -> tuple[networks.Network, ...]:
    try:
        return networks.own()
    except OSError:
        return ()


def _foreign(nft: Nft) -> Iterator[Any]:
    """What other tables hold. KernelError and OSError."""
    for table in tables():
        if table not in _OWN:
            yield from nft.list_json(f"list table {table}")
