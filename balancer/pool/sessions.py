"""What goes on at the moment: one connection or request, as whoever carries it describes it, and which are wanted."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SessionView", "Wanted"]


class SessionView(NamedTuple):
    """A TCP session, or an HTTP request that is not done with."""

    number: int
    """Nobody else's, as long as it goes on."""
    mode: str
    """`tcp` or `http`."""
    protocol: str
    """tcpv4, tcpv6 or unix_stream."""
    source: str
    """The client: address and port."""
    began: float
    """Unix time."""
    age: float
    """Seconds."""
    frontend: str
    backend: str
    """Empty: none has been chosen yet."""
    server: str
    """The same."""
    requests: int
    """Of this connection, this one with them; 1 for a session."""
    retries: int
    expires: float | None
    """Seconds until something has to happen; None: it may take any time."""
    received: int
    """Octets from the client."""
    sent: int
    """Octets to the client."""
    to_server: int
    """Octets that the server has not taken yet."""
    to_client: int
    """Octets that the client has not taken yet."""
    client_fd: int
    """-1: closed."""
    server_fd: int
    """-1: there is none."""
    waits_for: str
    """client, server, place (at a server), connect; both: of a tunnel."""
    listener: str = ""
    """Where the client has connected to."""
    status: int = -1
    """Of the response; -1: none has come."""
    request: str = ""
    """The request line."""


class Wanted(NamedTuple):
    """Which of them; what is None does not matter."""

    number: int | None = None
    frontend: str | None = None
    backend: str | None = None
    server: str | None = None
    """Of that backend."""
    older: float = 0.0
    """Seconds."""

    def has(self, view: SessionView) -> bool:
        return (
            (self.number is None or view.number == self.number)
            and (self.frontend is None or view.frontend == self.frontend)
            and (self.backend is None or view.backend == self.backend)
            and (self.server is None or view.server == self.server)
            and view.age >= self.older
        )
