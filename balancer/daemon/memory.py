"""What the processes share: memory made before the first fork, doorbells, and lines to the supervisor and `kernel`.

    block 0 … block N-1   counters, one per worker, written by that worker alone
    block N               counters of the process `kernel`, where there is one
    board                 server states, written by control alone
    turns                 whose turn was last, one number per backend, written by every worker
    tallied               what the kernel's counters said last, written by `kernel` alone
    applied               until when the kernel's rules were as wanted, written by `kernel` alone
    beat                  when control moved last, written by control alone
    notice                where the virtual routers stand, written by the supervisor alone

A doorbell is an eventfd(2): control rings a worker's and the kernel process's when it has written the board, a worker
rings control's when a server failed it. All of this outlives the processes at either end, so whoever is started
in the place of a dead one finds everything as it was.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
from typing import NamedTuple

from balancer.config.model import Config
from balancer.config.vrrp import Vrrp
from balancer.daemon.plan import Plan
from balancer.pool.notice import Notice
from balancer.pool.orders import Board

__all__ = ["KernelLine", "Line", "Memory", "answer", "ring"]

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


class Memory:
    """The shared memory, the doorbells and the lines of one start."""

    def __init__(self, plan: Plan) -> None:
        size = plan.layout.size
        backends = plan.config.backends
        blocks = plan.workers + plan.has_kernel
        board = size * blocks
        turns = board + Board.size(len(plan.seats))
        tallied = turns + _NUMBER * len(backends)
        applied = tallied + _NUMBER * (1 + _TALLY * _tallies(plan.config))
        beat = applied + _NUMBER
        notice = beat + _NUMBER
        end = notice + Notice.size(_longest_notice(plan.config.vrrp))
        self._map = mmap.mmap(-1, end)
        view = memoryview(self._map)
        self.blocks = [view[i * size : (i + 1) * size] for i in range(blocks)]
        """The workers', then the kernel process's."""
        self.board = Board(view[board:turns])
        numbers = view[turns:tallied].cast("q")
        self.turns = {name: numbers[i : i + 1] for i, name in enumerate(backends)}
        self.tallied = view[tallied:applied].cast("q")
        """For counters.Totals."""
        self.applied = view[applied:beat].cast("q")
        """One number: monotonic microseconds, 0 for never."""
        self.beat = view[beat:notice].cast("q")
        """The same."""
        self.notice = Notice(view[notice:end])
        self.worker_bells = [_bell() for _ in range(plan.workers)]
        self.control_bell = _bell()
        self.line = Line(*_line()) if plan.config.vrrp.instances else None
        """From control to the supervisor; None where nobody speaks VRRP."""
        self.kernel_bell = _bell() if plan.has_kernel else None
        self.kernel_line = KernelLine(*_line()) if plan.has_kernel else None
        """From control to the process `kernel`; None where there is none."""

    def close(self) -> None:
        """Close doorbells and lines, as far as this process is concerned."""
        for bell in (*self.worker_bells, self.control_bell, self.kernel_bell):
            if bell is not None:
                os.close(bell)
        for line in (self.line, self.kernel_line):
            if line is not None:
                line.close()


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
    os.eventfd_write(bell, 1)


def answer(bell: int) -> None:
    """Stop the ringing; what it is about is read afterwards."""
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(bell)
