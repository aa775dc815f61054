"""One server as a worker sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from balancer.addr import Address
from balancer.config import model
from balancer.pool.facts import Counters
from balancer.pool.orders import WHOLE, ServerState

if TYPE_CHECKING:
    from balancer.pool.observer import Observer

__all__ = ["Server"]


class Server:
    """Identity, state and counters of a server. Its identity is backend and name; all else may change."""

    __slots__ = (
        "address", "backend", "config", "cookie", "counters", "follows", "idle", "index", "name", "observer", "scale",
        "sessions", "sockaddr", "state", "takes_cookie", "watches_sessions", "weight",
    )  # fmt: skip

    def __init__(self, backend: str, name: str, config: model.Server, counters: Counters, index: int = 0) -> None:
        self.backend = backend
        self.name = name
        self.config = config
        self.counters = counters
        self.index = index
        """Its row on the `Board`."""
        self.address: Address = config.address
        self.sockaddr = config.address.sockaddr if not config.address.is_name else None
        self.cookie = config.cookie.encode() if config.cookie is not None else b""
        self.scale = 1
        """What weights are multiplied by, so that they have parts (warmup)."""
        self.follows = True
        """Whether its weight may change while it warms up: not where clients would leave their servers for it."""
        self.weight = config.weight
        self.state = ServerState(weight=config.weight)
        self.takes_cookie = self.state.takes_cookie
        """`ServerState.takes_cookie`, kept here since it is asked for every request."""
        self.idle: list[Any] = []
        """Idle pooled connections, the one used last at the end."""
        counters.idle = self.idle
        self.watches_sessions = config.on_marked_down != "none"
        self.sessions: set[Any] = set()
        """Sessions to be closed when it is marked down, where it is configured so."""
        self.observer: Observer | None = None
        """Counts its errors, where it is configured so."""

    def apply(self, state: ServerState) -> None:
        """Take over what control decided."""
        self.state = state
        self.weight = state.weight * self.scale
        if state.throttle < WHOLE and self.follows:
            self.weight = -(-self.weight * state.throttle // WHOLE)
        self.takes_cookie = state.takes_cookie

    @property
    def is_usable(self) -> bool:
        return self.state.is_usable

    def __repr__(self) -> str:
        return f"<Server {self.backend}/{self.name} {self.state.condition.name}>"
