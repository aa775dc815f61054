"""The end, as HAProxy's soft stop: nobody new is served, and who is connected gets `hard_stop_after` to finish."""

from __future__ import annotations

import os
import signal
import time

from balancer.daemon.generation import GRACE
from balancer.daemon.lineage import Lineage
from balancer.daemon.speaking import Speaking

__all__ = ["SoftStop"]

# What others send to an address that has moved still comes here until they know; their flows need the rules so long.
_LINGER = 2.0


class SoftStop:
    """It begins when it is made: addresses are given up, nobody listens, and workers are told. Call `turn` whenever a
    child has ended, and once `due` has come (monotonic seconds)."""

    def __init__(self, lineage: Lineage, speaking: Speaking) -> None:
        self._lineage = lineage
        self._speaking = speaking
        self._kill_at = time.monotonic() + lineage.current.plan.config.global_.hard_stop_after + GRACE
        self.is_over = False
        """Whatever was left has been killed."""
        self._rules_until = 0.0
        """The kernel's rules stay so long."""
        # New clients are the other director's from now on.
        had_addresses = speaking.fall_silent()
        if had_addresses and any(child.is_of_network for child in lineage.children):
            self._rules_until = time.monotonic() + _LINGER
            self._kill_at = max(self._kill_at, self._rules_until + GRACE)
        for generation in lineage.all:
            generation.sockets.close()
            generation.children = [child for child in generation.children if child.pid]
            for child in generation.workers:
                # Those of before a reload too: they need not wait for idle clients any more.
                child.tell(signal.SIGTERM)
        self.turn()

    def hurry(self) -> None:
        """A second signal: end at once."""
        self._kill_at = 0.0

    @property
    def due(self) -> float:
        """Until it `is_over`."""
        end = self._kill_at
        if not self._lineage.children:
            end = self._speaking.waits_until
        if any(child.is_of_network and not child.is_told for child in self._lineage.children):
            end = min(end, self._rules_until)
        return end

    def turn(self) -> None:
        """Tell those whose turn it is, and kill what is left when its time is over."""
        workers = [child for child in self._lineage.children if child.name != "control"]
        for child in workers or self._lineage.children:
            # Until the last worker is gone somebody has to check servers and show statistics.
            if not child.is_told and not (child.is_of_network and time.monotonic() < self._rules_until):
                child.tell(signal.SIGTERM)
                if not workers:
                    self._kill_at = min(self._kill_at, time.monotonic() + GRACE)
        if time.monotonic() >= self._kill_at and not self.is_over:
            self.is_over = True
            for child in self._lineage.children:
                os.kill(child.pid, signal.SIGKILL)
