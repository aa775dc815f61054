"""Servers behind one algorithm, and the accounting of who serves what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from balancer.algorithms.base import Algorithm
from balancer.config import model
from balancer.pool.facts import Counters
from balancer.pool.server import Server

__all__ = ["Backend"]


class Backend:
    """A backend as a worker sees it. Where servers have a limit: `waiting.LimitedBackend`."""

    is_limited: ClassVar[bool] = False

    __slots__ = (
        "_touched",
        "_tracks_load",
        "algorithm",
        "config",
        "counters",
        "name",
        "needs",
        "pick",
        "servers",
        "usable",
    )

    def __init__(
        self,
        name: str,
        config: model.Backend,
        *,
        servers: Sequence[Server],
        algorithm: Algorithm[Server],
        counters: Counters,
        touched: list[Counters],
    ) -> None:
        self.name = name
        self.config = config
        self.servers = tuple(servers)
        self.algorithm = algorithm
        self.counters = counters
        self.needs = algorithm.needs
        self._tracks_load = algorithm.tracks_load
        self.pick = algorithm.pick
        """`Algorithm.pick`: the server for one connection or request; None when none is usable."""
        self.usable: tuple[Server, ...] = ()
        self._touched = touched
        self.refresh()

    def refresh(self) -> None:
        """Look at the servers' states anew; called after any of them changed.

        Before the first checks are through, better an unchecked server than none.
        """
        usable = self._chosen([s for s in self.servers if s.is_usable])
        self.usable = usable or self._chosen([s for s in self.servers if s.state.is_unchecked])
        self.algorithm.rebuild(self.usable)

    def _chosen(self, servers: list[Server]) -> tuple[Server, ...]:
        """Backup servers serve only where there is no other, and then the first alone or all."""
        active = tuple(s for s in servers if not s.config.backup)
        return active or tuple(servers if self.config.allbackups else servers[:1])

    def take(self, server: Server) -> bool:
        """A connection or request now belongs to `server`; balanced by `release`. True: it does not, there is no place
        for it, and it has to wait."""
        counters = server.counters
        counters.stot += 1
        now = counters.scur = counters.scur + 1
        if now > counters.smax:
            counters.smax = now
        if not counters.dirty:
            self._touch(counters)
        counters = self.counters
        now = counters.scur = counters.scur + 1
        if now > counters.smax:
            counters.smax = now
        if self._tracks_load:
            self.algorithm.changed(server)
        return False

    def _touch(self, counters: Counters) -> None:
        """They are to be copied at the next flush."""
        if not counters.dirty:
            counters.dirty = True
            self._touched.append(counters)

    def release(self, server: Server) -> None:
        """The end of what `take` began."""
        server.counters.scur -= 1
        self.counters.scur -= 1
        if self._tracks_load:
            self.algorithm.changed(server)

    def make_room(self, server: Server) -> None:
        """A connection to `server` is about to be made."""
