"""The interface of a balancing algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, Generic, Literal, Protocol, TypeVar

__all__ = ["Algorithm", "C", "Candidate"]


class _Load(Protocol):
    scur: int


class Candidate(Protocol):
    """What an algorithm may know of a server."""

    @property
    def name(self) -> str: ...
    @property
    def index(self) -> int:
        """A number that is its own, in configuration order, and the same in all processes."""

    @property
    def weight(self) -> int:
        """Never 0 for a server handed to `rebuild`."""

    @property
    def counters(self) -> _Load:
        """`scur`: what it serves right now."""


C = TypeVar("C", bound=Candidate)


class Algorithm(ABC, Generic[C]):
    """Chooses among the usable servers. Never waits, never fails: no servers, no choice."""

    needs: ClassVar[Literal["", "source", "uri"]] = ""
    """What `pick` wants as key: nothing, the client's packed address, or the request's target."""
    tracks_load: ClassVar[bool] = False
    """Whether `changed` is to be called after each change of a server's `scur`."""

    @abstractmethod
    def rebuild(self, servers: Sequence[C]) -> None:
        """Take the usable servers (configuration order, weights above 0). Where the algorithm
        has a position, servers that stay keep theirs as far as that makes sense."""

    @abstractmethod
    def pick(self, key: bytes = b"", avoid: C | None = None) -> C | None:
        """The server for one connection or request. `avoid` has just failed: choose another if there
        is one. None when there is none at all."""

    def instead(self, servers: Sequence[C]) -> Iterable[C]:
        """The server picked is full: in which order to look for one of `servers` (those of `rebuild`) that is not."""
        return servers

    def changed(self, server: C) -> None:
        """`server.counters.scur` has changed (only where `tracks_load`)."""
