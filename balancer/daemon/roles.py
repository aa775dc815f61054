"""What a process becomes after its fork: worker, control or kernel, each with its own part of what was inherited.

A socket or line that one keeps and has no use for is one that another waits in vain for the end of; and a connection
may wait in the queue of a listening socket that nobody accepts from.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable

from balancer.daemon.claim import Claim
from balancer.daemon.control import Control
from balancer.daemon.generation import Child, Generation
from balancer.daemon.lineage import Lineage
from balancer.daemon.worker import Worker

__all__ = ["Roles"]


class Roles:
    """`started` is when the daemon was (seconds since 1970)."""

    def __init__(self, lineage: Lineage, claim: Claim, started: float) -> None:
        self._lineage = lineage
        self._claim = claim
        self._started = started

    def workers(self, generation: Generation) -> list[Child]:
        """Its workers, to be started."""
        return [
            Child(f"worker {number}", functools.partial(self._worker, generation, number), number=number)
            for number in range(generation.plan.workers)
        ]

    def deciders(self, generation: Generation) -> list[Child]:
        """What there is one of in all generations, to be started."""
        children = [Child("control", functools.partial(self._control, generation))]
        if generation.plan.has_kernel:
            children.append(Child("kernel", functools.partial(self._kernel, generation), is_of_network=True))
        return children

    def main(self, generation: Generation, child: Child) -> Callable[[], None]:
        """What a child is that another version has started."""
        if child.number is not None:
            return functools.partial(self._worker, generation, child.number)
        return functools.partial(self._kernel if child.is_of_network else self._control, generation)

    def _worker(self, generation: Generation, number: int) -> None:
        memory, predecessor = generation.memory, None
        generation.sockets.keep(
            lambda _, worker: worker == number,
            stats=False,
            beside=[other.sockets for other in self._lineage.beside(generation)],
        )
        memory.logbook.close()
        for line in (memory.line, memory.kernel_line):
            if line is not None:
                line.close()
        for other, succession in enumerate(memory.successions):
            succession.new.close()
            if other != number:
                succession.old.close()
        for other, inquiry in enumerate(memory.inquiries):
            inquiry.control.close()
            if other != number:
                inquiry.worker.close()
        before = generation.predecessor
        if before is not None and number < len(before.memory.successions):
            predecessor = before.memory.successions[number].new
            predecessor = socket.socket(fileno=os.dup(predecessor.fileno()))
        for elder in self._lineage.beside(generation):
            elder.memory.close()
        own = {name: of_worker[number] for name, of_worker in generation.sockets.frontends.items()}
        slot = next(child.slot for child in generation.children if child.number == number)
        assert slot is not None
        Worker(generation.plan, memory, number, own, predecessor, slot=slot).run()

    def _control(self, generation: Generation) -> None:
        memory = generation.memory
        self._leave_sockets(generation, stats=True)
        if memory.line is not None:
            memory.line.supervisor.close()
        if memory.kernel_line is not None:
            memory.kernel_line.kernel.close()
        for succession in memory.successions:
            succession.close()
        for inquiry in memory.inquiries:
            inquiry.worker.close()
        for other in self._lineage.beside(generation):
            other.memory.close(keeps_workers=other in generation.elders)
        Control(
            generation.plan,
            memory,
            generation.sockets.stats,
            node=socket.gethostname(),
            started=self._started,
            runtime=generation.sockets.runtime,
            elders=[elder.former for elder in generation.elders],
        ).run()

    def _kernel(self, generation: Generation) -> None:
        from balancer.daemon.kerneld import Engine

        memory = generation.memory
        self._leave_sockets(generation, stats=False)
        memory.logbook.close()
        for other in self._lineage.beside(generation):
            other.memory.close()
        if memory.line is not None:
            memory.line.close()
        for succession in memory.successions:
            succession.close()
        for inquiry in memory.inquiries:
            inquiry.close()
        assert memory.kernel_line is not None and self._claim.state is not None
        memory.kernel_line.control.close()
        Engine(generation.plan, memory, self._claim.state).run()

    def _leave_sockets(self, generation: Generation, *, stats: bool) -> None:
        beside = [other.sockets for other in self._lineage.beside(generation)]
        generation.sockets.keep(lambda *_: False, stats=stats, beside=beside)
