"""What the processes of a generation share: memory made before the first fork, doorbells, lines between them.

    block 0 … block N-1   counters, one per worker, written by that worker alone
    block N               counters of the process `kernel`, where there is one
    past                  counters of those before a reload who have ended, written by the supervisor, once; then by
                          control, who forgets their maxima
    cleared               what had been counted when the counters were cleared, written by control alone
    peaks                 how often maxima were to be forgotten, written by control alone
    doors                 whether frontends take clients, a number each, written by control alone
    board                 server states, written by control alone
    turns                 whose turn was last, one number per backend, written by every worker
    tallied               what the kernel's counters said last, written by `kernel` alone
    applied               until when the kernel's rules were as wanted, written by `kernel` alone
    beat                  when control moved last, written by control alone
    going                 whether the workers are to take clients, written by the supervisor alone
    has_time              whether old workers may take any time to finish, since only servers have changed: written by
                          the supervisor alone
    notice                where the virtual routers stand, written by the supervisor alone

and a journal of what happened (pool.journal), appended to by all, which a reload hands on; and, of each frontend with
`limits`, what its clients have lately taken: a block per worker, written by that worker alone, in memory of its own
(pool.sources), which a reload that leaves its geometry hands on.

A doorbell is an eventfd(2): control rings a worker's and the kernel process's when it has written the board, a worker
rings control's when a server failed it. All of this outlives the processes at either end, so whoever is started
in the place of a dead one finds everything as it was. A reload makes a generation beside it, with a memory of its own;
only the limits (`limits`), what caches must forget (`outdated`) and what operators have changed (`logbook`, of control)
are those of both.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from typing import NamedTuple

from balancer.config.model import Config
from balancer.config.vrrp import Vrrp
from balancer.daemon.limits import Book, Entry, slots_for, wanted
from balancer.daemon.logbook import Logbook
from balancer.daemon.plan import Plan
from balancer.pool import shared
from balancer.pool.journal import Journal
from balancer.pool.notice import Notice
from balancer.pool.orders import Board
from balancer.pool.outdated import Outdated
from balancer.pool.places import Limit
from balancer.pool.sources import Block, Geometry

__all__ = ["Inquiry", "KernelLine", "Line", "Memory", "Sources", "Succession", "answer", "ring"]

# Octets of a native signed 64-bit integer.
_NUMBER = 8
# Of each server of a service: balancer.kernel.counters.PLACES, which is not loaded where nobody needs it.
_TALLY = 10
# Octets of the notice: for a virtual router with 255 addresses of IPv6 and its sum; for a peer, what a heartbeat can
# hold. Memory that is never touched is never used.
_NOTICE, _NOTICE_OF_ONE, _NOTICE_OF_PEER = 16 * 1024, 16 * 1024, 96 * 1024


class Line(NamedTuple):
    """Both ends of a SOCK_SEQPACKET pair (unix(7)): orders go one way, what came of them the other."""

    supervisor: socket.socket
    control: socket.socket

    def close(self) -> None:
        for end in self:
            end.close()


class KernelLine(NamedTuple):
    """The same for questions to the process `kernel`, and their answers."""

    kernel: socket.socket
    control: socket.socket

    def close(self) -> None:
        for end in self:
            end.close()


class Succession(NamedTuple):
    """The same from a worker to the one of its number after the next reload (handover)."""

    old: socket.socket
    new: socket.socket

    def close(self) -> None:
        for end in self:
            end.close()


class Inquiry(NamedTuple):
    """The same for questions to a worker, and their answers (inquiries)."""

    worker: socket.socket
    control: socket.socket

    def close(self) -> None:
        for end in self:
            end.close()


class Sources(NamedTuple):
    """What the clients of one frontend have taken."""

    blocks: list[Block]
    """One per worker."""
    elders: list[Block]
    """Those of before a reload: they still count, or did until lately."""


class Memory:
    """The shared memory, the doorbells and the lines of one generation. OSError where there can be no more of them."""

    def __init__(self, plan: Plan, before: Memory | None = None, logbook: Logbook | None = None) -> None:
        """`before` a reload: limits, and what clients have taken, go on to count. `logbook`: what operators have
        changed."""
        size = plan.layout.size
        backends = plan.config.backends
        blocks = plan.workers + plan.has_kernel
        past = size * blocks
        cleared = past + size
        board = cleared + size
        turns = board + Board.size(len(plan.seats))
        tallied = turns + _NUMBER * len(backends)
        applied = tallied + _NUMBER * (1 + _TALLY * _tallies(plan.config))
        beat = applied + _NUMBER
        going = beat + _NUMBER
        peaks = going + _NUMBER
        has_time = peaks + _NUMBER
        doors = has_time + _NUMBER
        notice = doors + _NUMBER * len(plan.config.frontends)
        end = notice + Notice.size(_longest_notice(plan.config.vrrp))
        self._map = shared.allocate(end)
        view = memoryview(self._map)
        self.blocks = [view[i * size : (i + 1) * size] for i in range(blocks)]
        """The workers', then the kernel process's."""
        self.past = view[past:cleared]
        self.cleared = view[cleared:board]
        self.board = Board(view[board:turns])
        numbers = view[turns:tallied].cast("q")
        self.turns = {name: numbers[i : i + 1] for i, name in enumerate(backends)}
        self.tallied = view[tallied:applied].cast("q")
        """For counters.Totals."""
        self.applied = view[applied:beat].cast("q")
        """One number: monotonic microseconds, 0 for never."""
        self.beat = view[beat:going].cast("q")
        """The same."""
        self.going = view[going:peaks].cast("q")
        """One number: 0 or 1."""
        self.peaks = view[peaks:has_time].cast("q")
        """One number."""
        self.has_time = view[has_time:doors].cast("q")
        """One number: 0 or 1."""
        numbers = view[doors:notice].cast("q")
        self.doors = {name: numbers[i : i + 1] for i, name in enumerate(plan.config.frontends)}
        """Whether frontends take clients (observe.bounds.Door)."""
        self.notice = Notice(view[notice:end])
        self.worker_bells: list[int] = []
        self.line: Line | None = None
        """From control to the supervisor; None where nobody speaks VRRP."""
        self.kernel_bell: int | None = None
        self.kernel_line: KernelLine | None = None
        """From control to the process `kernel`; None where there is none."""
        self.successions: list[Succession] = []
        """Of each worker, where there is something to hand over."""
        self.inquiries: list[Inquiry] = []
        """Of each worker, where somebody may ask."""
        self.secret: bytes = before.secret if before is not None else os.urandom(16)
        """Nobody outside can tell which sources share a set."""
        self.sources: dict[str, Sources] = _sources(plan, before.sources if before is not None else {})
        """By frontend."""
        self.book: Book = before.book if before is not None else Book(slots_for(plan.workers))
        kept = before.outdated if before is not None else {}
        self.outdated: dict[str, Outdated] = {
            name: kept.get(name) or Outdated(self.book.slots)
            for name, backend in plan.config.backends.items()
            if backend.cache is not None
        }
        """By backend. Workers of before still change what is cached, and have caches."""
        self._wanted = wanted(plan.config, plan.maxconn)
        self.limits: dict[Entry, Limit] = {}
        """The limits of this generation, which others may have too."""
        self.journal: Journal = before.journal.share() if before is not None else Journal()
        self._owns_logbook = False
        self.control_bell = _bell()
        self._is_open = True
        try:
            self.limits = self.book.open(self._wanted)
            self._connect(plan)
            if before is not None:
                logbook = before.logbook
            self.logbook: Logbook = logbook or Logbook()
            """What operators have changed."""
            self._owns_logbook = logbook is None
        except OSError:
            self.close()
            raise

    def _connect(self, plan: Plan) -> None:
        for _ in range(plan.workers):
            self.worker_bells.append(_bell())
            if plan.has_flows:
                self.successions.append(Succession(*_line()))
            if plan.config.global_.runtime_socket is not None or plan.config.stats is not None:
                self.inquiries.append(Inquiry(*_line()))
        if plan.config.vrrp.instances:
            self.line = Line(*_line())
        if plan.has_kernel:
            self.kernel_bell = _bell()
            self.kernel_line = KernelLine(*_line())

    def go(self) -> None:
        """Have the workers take clients, within the limits of this generation."""
        if self._is_open:
            self.book.set(self._wanted)
        self.going[0] = 1
        for bell in self.worker_bells:
            ring(bell)

    def let_go(self, worker: int, *, for_good: bool) -> None:
        """That worker has ended, its connections with it; `for_good`: nobody takes its place."""
        now = time.monotonic()
        for sources in self.sources.values():
            sources.blocks[worker].end(now, for_good=for_good)

    def close(self, *, keeps_workers: bool = False) -> None:
        """Close doorbells and lines, as far as this process is concerned; `keeps_workers`: but for the workers' bells,
        and what they are asked by. What is in memory stays readable."""
        bells = [] if keeps_workers else self.worker_bells
        if self._is_open:
            self._is_open = False
            if self._owns_logbook:
                self.logbook.close()
            self.book.drop(self.limits)
            self.limits = {}
            self.journal.close()
            bells = [*bells, self.control_bell, *([self.kernel_bell] if self.kernel_bell is not None else [])]
        for bell in bells:
            os.close(bell)
        if not keeps_workers:
            # Their numbers may be others' by now.
            self.worker_bells = []
            for inquiry in self.inquiries:
                inquiry.close()
            self.inquiries = []
        for line in (self.line, self.kernel_line, *self.successions):
            if line is not None:
                line.close()


def _sources(plan: Plan, before: Mapping[str, Sources]) -> dict[str, Sources]:
    found = {}
    now = time.monotonic()
    for name, frontend in plan.config.frontends.items():
        limits = frontend.limits
        if limits is None or frontend.engine != "proxy":
            continue
        connections, requests, errors = (rate.period if rate is not None else 0.0 for rate in limits.rates)
        geometry = Geometry(limits.table_size, limits.ipv6_prefix, (connections, requests, errors))
        old = before.get(name, Sources([], []))
        elders = [block for block in old.blocks + old.elders if block.geometry == geometry and not block.is_over(now)]
        found[name] = Sources([Block(geometry) for _ in range(plan.workers)], elders)
    return found


def _tallies(config: Config) -> int:
    """How many servers of services there are at most: a bind may take both families."""
    return sum(
        2 * len(frontend.bind) * len(config.backends[frontend.default_backend].servers)
        for frontend in config.frontends.values()
        if frontend.engine == "kernel" and frontend.default_backend in config.backends
    )


def _longest_notice(vrrp: Vrrp) -> int:
    if not vrrp.instances:
        return 0
    peers = len(vrrp.heartbeat.peers) if vrrp.heartbeat is not None else 0
    return _NOTICE + _NOTICE_OF_ONE * (len(vrrp.instances) + len(vrrp.scripts)) + _NOTICE_OF_PEER * peers


def _line() -> tuple[socket.socket, socket.socket]:
    line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in line:
        end.setblocking(False)
    return line


def _bell() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def ring(bell: int) -> None:
    """Wake whoever waits at `bell`."""
    # Full, it rings already.
    with contextlib.suppress(BlockingIOError):
        os.eventfd_write(bell, 1)


def answer(bell: int) -> None:
    """Stop the ringing; what it is about is read afterwards."""
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(bell)
