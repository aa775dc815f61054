"""What can go wrong, and whose fault it is.

BalancerError
├── ConfigError          the operator's file: every problem found, each with its place
├── StartError           the machine: a port taken, a user missing, a right not held
├── NoSuchRouterError    an order for a virtual router that there is not
├── KernelError          rules that the kernel does not take
└── ProtocolError        the peer on the wire broke its protocol
    ├── BadRequest       a client; carries the status to answer with
    ├── BadResponse      a server; the client gets 502
    ├── BadAdvertisement a VRRP router; carries the counter it counts in
    └── BadHeartbeatError another director, or somebody who would be one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "BadAdvertisement",
    "BadHeartbeatError",
    "BadRequest",
    "BadResponse",
    "BalancerError",
    "ConfigError",
    "KernelError",
    "NoSuchRouterError",
    "Problem",
    "ProtocolError",
    "StartError",
]


class BalancerError(Exception):
    """Base of all errors raised on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a configuration file, with its place (line and column count from 1)."""

    file: str
    line: int
    column: int
    path: str
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: "
        return f"{place}{self.path}: {self.text}" if self.path else place + self.text


class ConfigError(BalancerError):
    """A configuration that cannot be used; `problems` lists every reason."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class StartError(BalancerError):
    """The daemon cannot start on this machine; the text says what to do."""


class NoSuchRouterError(BalancerError):
    """An order names a virtual router or sync group that there is not; the text says which there are."""


class KernelError(BalancerError):
    """The kernel, or the library before it, refuses what it was told; nothing of it was done."""


class ProtocolError(BalancerError):
    """The peer sent what its protocol does not allow; `why` is for the log."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class BadRequest(ProtocolError):
    """A client's message is refused with `status` (RFC 9110 section 15.5)."""

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


class BadResponse(ProtocolError):
    """A server's message cannot be passed on; the client gets 502."""


class BadAdvertisement(ProtocolError):
    """A VRRP packet is not believed; `cause` names the counter that it counts in."""

    def __init__(self, cause: str, why: str) -> None:
        super().__init__(why)
        self.cause = cause


class BadHeartbeatError(ProtocolError):
    """A datagram that is no heartbeat of a director that knows the key."""
