"""What the processes share: memory made before the first fork, and doorbells.

    block 0 … block N-1   counters, one per worker, written by that worker alone
    board                 server states, written by control alone
    turns                 whose turn was last, one number per backend, written by every worker

A doorbell is an eventfd(2): control rings a worker's when it has written the board, a worker rings
control's when a server failed it. Both outlive the processes at either end, so whoever is started
in the place of a dead one finds everything as it was.
"""

from __future__ import annotations

import contextlib
import mmap
import os

from balancer.daemon.plan import Plan
from balancer.pool.orders import Board

__all__ = ["Memory", "answer", "ring"]


# Octets of a native signed 64-bit integer.
_NUMBER = 8


class Memory:
    """The shared memory and the doorbells of one start."""

    def __init__(self, plan: Plan) -> None:
        size = plan.layout.size
        backends = plan.config.backends
        board = size * plan.workers
        turns = board + Board.size(len(plan.seats))
        self._map = mmap.mmap(-1, turns + _NUMBER * len(backends))
        view = memoryview(self._map)
        self.blocks = [view[i * size : (i + 1) * size] for i in range(plan.workers)]
        self.board = Board(view[board:turns])
        numbers = view[turns:].cast("q")
        self.turns = {name: numbers[i : i + 1] for i, name in enumerate(backends)}
        self.worker_bells = [_bell() for _ in range(plan.workers)]
        self.control_bell = _bell()


def _bell() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def ring(bell: int) -> None:
    """Wake whoever waits at `bell`."""
    os.eventfd_write(bell, 1)


def answer(bell: int) -> None:
    """Stop the ringing; what it is about is read afterwards."""
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(bell)
