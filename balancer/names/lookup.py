"""What is known of one name: its last good answer, and how long that holds. Pure: `now` is monotonic seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from balancer.config.resolvers import Hold
from balancer.names.answer import Answer, Kind, Service, Status

__all__ = ["Found", "Lookup"]

# While it fails, a name is asked for ever less often, up to so many times its shortest interval.
_MOST_BACK_OFF = 8
# Nobody remembers more records of a name than this, however often they change while old ones are held.
_MOST = 10_000

# The worst of several answers for one name: none at all says least.
_ORDER = (Status.NX, Status.TIMEOUT, Status.REFUSED, Status.OTHER, Status.INVALID)
_CAUSES = {
    Status.NX: "DNS NX status",
    Status.TIMEOUT: "DNS timeout status",
    Status.REFUSED: "DNS refused status",
}


class Found(NamedTuple):
    """The records of a name, the preferred ones first."""

    v4: tuple[str, ...] = ()
    v6: tuple[str, ...] = ()
    services: tuple[Service, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.v4 or self.v6 or self.services)


class Lookup:
    """One name, for all servers that have it. `shortest` is the time between two questions."""

    def __init__(self, name: str, *, is_service: bool, hold: Hold, shortest: float, now: float) -> None:
        self.name = name
        self.kinds: tuple[Kind, ...] = ("SRV",) if is_service else ("A", "AAAA")
        self.due = now
        """When it is to be asked for."""
        self.status: Status | None = None
        """Of the last answer; None before the first."""
        self._hold = hold
        self._shortest = shortest
        self._seen: dict[tuple[Kind, str | Service], float] = {}
        """Records, and when an answer had each last."""
        self._current: dict[Kind, set[str | Service]] = {}
        self._bad_since = now
        self._failures = 0

    def take(self, answers: Mapping[Kind, Answer], now: float) -> None:
        """What came of asking for each of its kinds."""
        ttls = []
        for kind, answer in answers.items():
            if answer.status in (Status.VALID, Status.NX):
                records: list[str | Service] = [*answer.addresses, *answer.services]
                self._current[kind] = set(records)
                for record in records[:_MOST]:
                    self._seen[kind, record] = now
                if answer.ttl > 0 or answer.status is Status.VALID:
                    ttls.append(answer.ttl)
        states = [answer.status for answer in answers.values()]
        has_any = any(self._current.values())
        bad = [status for status in states if status not in (Status.VALID, Status.NX)]
        if Status.VALID in states or (bad and has_any and Status.NX in states):
            # Of the kind that failed the last ones hold.
            status = Status.VALID
        else:
            status = max(states, key=_ORDER.index)
        self._turn(status, now)
        if bad:
            self._failures = min(self._failures + 1, _MOST_BACK_OFF)
            wait = self._shortest * self._failures
        else:
            self._failures = 0
            wait = min(max(min(ttls, default=0.0), self._shortest), max(self._hold.valid, self._shortest))
        self.due = now + wait
        self._forget(now)

    def _turn(self, status: Status, now: float) -> None:
        if status is not self.status and (status is not Status.VALID):
            self._bad_since = now
        self.status = status

    def _forget(self, now: float) -> None:
        """Records that have not been in an answer for so long, as long as there are others."""
        if self.status is not Status.VALID:
            return
        self._seen = {
            (kind, record): at
            for (kind, record), at in self._seen.items()
            if record in self._current.get(kind, ()) or now - at < self._hold.obsolete
        }

    @property
    def next_change(self) -> float | None:
        """When what holds now may end without an answer; None: never."""
        if self.status is None or self._seen == {}:
            return None
        if self.status is Status.VALID:
            held = [at for (kind, record), at in self._seen.items() if record not in self._current.get(kind, ())]
            return min(held) + self._hold.obsolete if held else None
        limit = self._limit
        return None if limit is None else self._bad_since + limit

    @property
    def _limit(self) -> float | None:
        match self.status:
            case Status.NX:
                return self._hold.nx
            case Status.TIMEOUT:
                return self._hold.timeout
            case Status.REFUSED:
                return self._hold.refused
        return self._hold.other

    def found(self, now: float) -> Found:
        """What holds."""
        self._forget(now)
        if self.status is not Status.VALID:
            limit = self._limit
            if self.status is not None and limit is not None and now - self._bad_since >= limit:
                self._seen.clear()
        of: dict[Kind, list[str | Service]] = {"A": [], "AAAA": [], "SRV": []}
        for kind, record in self._seen:
            of[kind].append(record)
        return Found(
            tuple(each for each in of["A"] if isinstance(each, str)),
            tuple(each for each in of["AAAA"] if isinstance(each, str)),
            tuple(each for each in of["SRV"] if isinstance(each, Service)),
        )

    def is_over(self, now: float) -> bool:
        """Whether it is certain that there is nothing, so that what servers had before does not hold either."""
        if self.status is None or self.status is Status.VALID:
            return False
        limit = self._limit
        return limit is not None and now - self._bad_since >= limit

    @property
    def cause(self) -> str:
        """Why there is nothing, in HAProxy's words."""
        return _CAUSES.get(self.status or Status.OTHER, "unspecified DNS error")
