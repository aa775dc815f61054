"""What the last minutes were like: rates of proxies second by second, and how draining servers empty. Pure.

`feed` once a second. All of it is bounded: five minutes, and so many proxies and servers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from balancer.observe.snapshot import Rates, Roster
from balancer.pool.facts import Entity, Sums
from balancer.pool.orders import Admin, ServerState

__all__ = ["SECONDS", "Drain", "Trends"]

SECONDS = 300
"""Samples kept."""
# Each costs some 20 KB.
_MOST_PROXIES = 200
_MOST_DRAINS = 500
# Seconds of a drain after which its end is guessed at.
_SOON = 3.0
_ALMOST_A_SECOND = 0.9
_PROCESS = Entity("process", "")


class Drain(NamedTuple):
    """A server that gets nothing new, or only clients that hold its cookie."""

    backend: str
    server: str
    word: str
    """DRAIN, MAINT, or `weight 0`."""
    since: float
    """Seconds."""
    sessions: int
    quiet: float | None
    """Seconds since the last session began: all that it has are older. None where there never was one."""
    empty_in: float | None
    """Seconds until it holds nothing if it goes on as since it began; 0.0 where that is so already; None where nothing
    can be said."""
    oldest: float | None = None
    """Seconds since its oldest session began. None where that is not known."""


class Trends:
    """Remembers. Unix times in seconds."""

    def __init__(self, roster: Roster) -> None:
        self._servers = [server for backend in roster.backends for server in backend.servers]
        proxies = [
            *((f"f/{entry.name}", Entity("frontend", entry.name), entry.mode != "tcp") for entry in roster.frontends),
            *((f"b/{entry.name}", Entity("backend", entry.name), entry.mode != "tcp") for entry in roster.backends),
        ]
        self._proxies = proxies[:_MOST_PROXIES]
        self.process: deque[tuple[int, int, int]] = deque(maxlen=SECONDS)
        """Connections, connections and requests of each second."""
        self.proxies: dict[str, deque[int]] = {name: deque(maxlen=SECONDS) for name, _, _ in self._proxies}
        """Requests (mode tcp: sessions) of each second, by `f/NAME` and `b/NAME`."""
        self._drains: dict[int, deque[tuple[float, int]]] = {}

    def feed(self, sums: Mapping[Entity, Sums], states: Sequence[ServerState], rates: Rates, now: float) -> None:
        """Take what is true now; `rates` are of the second that ends."""
        requests = 0
        for name, entity, has_requests in self._proxies:
            rate = rates[entity]
            events = rate.requests if has_requests else rate.sessions
            self.proxies[name].append(events)
            if has_requests and entity.kind == "frontend":
                requests += events
        self.process.append((sums[_PROCESS].counters["scur"], rates[_PROCESS].connections, requests))
        self._follow(sums, states, now)

    def _follow(self, sums: Mapping[Entity, Sums], states: Sequence[ServerState], now: float) -> None:
        old, self._drains = self._drains, {}
        ready = Admin.READY
        for row, state in enumerate(states):
            if state.admin is ready and state.weight:
                continue
            track = old.get(row)
            if track is None:
                track = deque(maxlen=SECONDS)
            sessions = self._counters(row, sums)["scur"]
            if state.admin is Admin.DRAIN or sessions or track:
                if len(self._drains) >= _MOST_DRAINS:
                    break
                # Asked in between, it takes in only who is new.
                if not track or now - track[-1][0] > _ALMOST_A_SECOND:
                    track.append((now, sessions))
                self._drains[row] = track

    def drains(
        self,
        sums: Mapping[Entity, Sums],
        states: Sequence[ServerState],
        now: float,
        oldest: Mapping[tuple[str, str], float] = MappingProxyType({}),
    ) -> list[Drain]:
        """Who gets nothing new and has, or had since then, sessions. `oldest` has, by backend and server, when the
        first of those that are left began."""
        self._follow(sums, states, now)
        found = []
        for row, track in self._drains.items():
            state, entry = states[row], self._servers[row]
            counters = self._counters(row, sums)
            sessions = counters["scur"]
            began, had = track[0]
            gone, passed = had - sessions, now - began
            empty_in, first = None, oldest.get((entry.backend, entry.name))
            if not sessions:
                empty_in = 0.0
            elif gone > 0 and passed >= _SOON:
                empty_in = sessions * passed / gone
            found.append(
                Drain(
                    entry.backend,
                    entry.name,
                    "weight 0" if state.admin is Admin.READY else state.admin.name,
                    max(passed, 0.0),
                    sessions,
                    max(now - counters["lastsess"], 0.0) if counters["lastsess"] else None,
                    empty_in,
                    max(now - first, 0.0) if sessions and first is not None else None,
                )
            )
        return found

    def _counters(self, row: int, sums: Mapping[Entity, Sums]) -> Mapping[str, int]:
        entry = self._servers[row]
        return sums[Entity("server", entry.backend, entry.name)].counters
