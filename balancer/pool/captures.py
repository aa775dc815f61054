"""Messages that were refused, kept as they came for whoever wants to know why (HAProxy's `show errors`).

The last of each proxy and side, up to a bound. Whoever refuses one has its octets at hand: to keep them is to keep a
reference, or a copy of the beginning of what is long. Where they are wrong is found when somebody asks (wire.fault).
"""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

__all__ = ["LONGEST", "Capture", "Captures"]

LONGEST = 16 * 1024
"""Octets of a message that are kept."""
# Of so many proxies, in one worker: 4 MiB.
_MOST = 256


class Capture(NamedTuple):
    """A message that was refused."""

    side: Literal["request", "response"]
    number: int
    """No other of this generation has it; of one worker they grow."""
    at: float
    """Unix time."""
    frontend: str
    backend: str
    """Empty for a request."""
    server: str
    """The same."""
    source: str
    """The client: address and port."""
    method: str
    """Of the request, where it is a response."""
    why: str
    octets: bytes
    body_at: int = -1
    """Where the content begins, if that is what is wrong."""

    @property
    def proxy(self) -> str:
        return self.frontend if self.side == "request" else self.backend


class Captures:
    """Those of one worker, the `first` of so many."""

    def __init__(self, first: int = 0, workers: int = 1) -> None:
        self._first = first
        self._workers = workers
        self.count = 0
        """How many there were."""
        self.kept: dict[tuple[str, str], Capture] = {}
        """By side and proxy, the one of longest ago first."""

    def request(
        self, frontend: str, source: tuple[str, int] | None, octets: bytes, why: str, *, body_at: int = -1
    ) -> None:
        """A client's was refused."""
        self._keep(
            Capture(
                "request",
                self._number,
                time.time(),
                frontend,
                "",
                "",
                _name(source),
                "",
                why,
                octets[:LONGEST],
                body_at,
            )
        )

    def response(
        self,
        names: tuple[str, str, str],
        source: tuple[str, int] | None,
        octets: bytes,
        why: str,
        *,
        method: bytes,
        body_at: int = -1,
    ) -> None:
        """A server's was; `names` are frontend, backend, server."""
        self._keep(
            Capture(
                "response",
                self._number,
                time.time(),
                *names,
                _name(source),
                method.decode("latin-1"),
                why,
                octets[:LONGEST],
                body_at,
            )
        )

    @property
    def _number(self) -> int:
        return self._first + self.count * self._workers

    def _keep(self, capture: Capture) -> None:
        self.count += 1
        key = capture.side, capture.proxy
        self.kept.pop(key, None)
        self.kept[key] = capture
        if len(self.kept) > _MOST:
            del self.kept[next(iter(self.kept))]


def _name(source: tuple[str, int] | None) -> str:
    return f"{source[0]}:{source[1]}" if source is not None else "unix:0"
