"""The children: forked when they are due, and started again when they end and should not.

They are forked, not executed: what was imported before is shared memory, and a replacement is there in milliseconds.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from math import inf
from typing import NoReturn

from balancer.daemon import privileges
from balancer.daemon.claim import Claim
from balancer.daemon.eventlog import Say
from balancer.daemon.faults import described
from balancer.daemon.generation import Child
from balancer.daemon.lineage import Lineage
from balancer.daemon.privileges import Identity
from balancer.daemon.signals import blocked
from balancer.errors import BalancerError
from balancer.observe.log import Level

__all__ = ["Children"]

# One that dies young is started again after a pause that doubles up to this (seconds).
_LONGEST_PAUSE = 5.0
_YOUNG = 1.0


class Children:
    """Those of all generations, as `identity`. `become` makes an ordinary process of a fork. `missing` is told of each
    that does not run and should, and why."""

    def __init__(
        self,
        lineage: Lineage,
        claim: Claim,
        identity: Identity | None,
        *,
        become: Callable[[], None],
        missing: Callable[[Child, str], None],
        say: Say,
    ) -> None:
        self._lineage = lineage
        self._claim = claim
        self._identity = identity
        self._become = become
        self._missing = missing
        self._say = say
        self._is_stopping = False

    @property
    def due(self) -> float:
        """When `start` has something to do (monotonic seconds)."""
        return min((child.start_at for child in self._lineage.children if not child.pid), default=inf)

    def start(self) -> None:
        """Those that are due."""
        now = time.monotonic()
        if self._is_stopping:
            return
        generations = [each for each in (self._lineage.current, self._lineage.coming) if each is not None]
        for child in [child for each in generations for child in each.children]:
            # One that is missing may end the generation that is coming.
            if not child.pid and child.start_at <= now and child in self._lineage.children:
                child.started = now
                try:
                    if child.number is not None:
                        child.slot = self._lineage.book.enter()
                    child.pid = self._fork(child)
                except OSError as error:
                    self._free_slot(child)
                    self._missing(child, f"{child.name} could not be started: {error.strerror}")

    def start_later(self, child: Child, why: str) -> None:
        """At once, but for one that dies young."""
        now = time.monotonic()
        young = now - child.started < _YOUNG
        child.pause = min(_LONGEST_PAUSE, max(0.1, 2 * child.pause)) if young else 0.0
        child.start_at = now + child.pause
        self._say(Level.ALERT, f"{why}, starting another{f' in {child.pause:g} s' if child.pause else ''}")

    def start_no_more(self) -> None:
        """The daemon ends: who is gone stays so."""
        self._is_stopping = True

    def _fork(self, child: Child) -> int:
        parent = os.getpid()
        self._claim.has_rules |= child.is_of_network
        with blocked():
            pid = os.fork()
            if not pid:
                self._be(child, parent)
        return pid

    def _be(self, child: Child, parent: int) -> NoReturn:
        """In the new process: become the child, never come back."""
        status = 1
        try:
            self._become()
            if child.is_of_network:
                privileges.drop_to_network(self._identity)
            else:
                privileges.drop(self._identity)
            privileges.die_with_parent(parent)
            child.main()
            status = 0
        except (BalancerError, OSError) as error:
            self._say(Level.ALERT, f"{child.name}: {error}")
        except BaseException as error:
            self._say(Level.ALERT, f"{child.name}: {described(error)}")
        finally:
            os._exit(status)

    def ended(self, pid: int, status: int) -> bool:
        """A process has ended: whether it is one of them."""
        child = next((child for child in self._lineage.children if child.pid == pid), None)
        if child is None:
            return False
        self._bury(child, status)
        return True

    def _bury(self, child: Child, status: int) -> None:
        child.pid = 0
        self._free_slot(child)
        if child.is_of_network and (self._is_stopping or child.is_told) and not status and not child.is_followed:
            self._claim.has_rules = False
        generation = self._lineage.of(child)
        ending = _ending(os.waitstatus_to_exitcode(status))
        if generation is not None and (child.is_told or self._is_stopping or generation in self._lineage.elders):
            generation.bury(child, was_killed=status != 0)
            if status and not self._is_stopping and not generation.is_killed:
                self._say(Level.ALERT, f"{child.name} of before the reload {ending}")
            return
        if generation is not None and child.number is not None:
            generation.memory.let_go(child.number, for_good=False)
        self._missing(child, f"{child.name} {ending}")

    def _free_slot(self, child: Child) -> None:
        """What it held of the limits is given back, not later than some turns from now."""
        slot, child.slot = child.slot, None
        if slot is not None:
            self._lineage.book.leave(slot)
            self._lineage.book.settle()

    def kill(self) -> None:
        """Whatever ended us: when we are gone, so are they, and the ports are free."""
        for child in self._lineage.children:
            if child.pid:
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    return f"killed by signal {-code} ({signal.strsignal(-code)})"
