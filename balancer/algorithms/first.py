"""The first usable server in configuration order: the others are spares."""

from __future__ import annotations

from collections.abc import Sequence

from balancer.algorithms.base import Algorithm, C

__all__ = ["First"]


class First(Algorithm[C]):
    """HAProxy's `balance first`: all traffic to one server, and to the next where that has a limit and is full."""

    def __init__(self) -> None:
        self._servers: tuple[C, ...] = ()

    def rebuild(self, servers: Sequence[C]) -> None:
        self._servers = tuple(servers[:2])

    def pick(self, key: bytes = b"", avoid: C | None = None) -> C | None:  # noqa: ARG002
        for server in self._servers:
            if server is not avoid:
                return server
        return avoid if self._servers else None
