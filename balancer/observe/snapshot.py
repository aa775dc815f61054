"""One picture of everything: who is there, in what state, what was counted and how fast it grows.

`Roster` is what the configuration says of each row, made once. `Rates` and `Availability` remember what a single
look cannot show; they are fed once a second. `take` puts these together with the shared memory's facts and orders
and the last check results into a `Snapshot`, which every view (page, metrics, …) is drawn from.

Pure: `now` is an argument, Unix time in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from balancer.addr import Address
from balancer.config import effective, model
from balancer.pool.facts import Entity, Sums
from balancer.pool.orders import Admin, Condition, ServerState
from balancer.pool.overrides import Override
from balancer.pool.routers import Standing

__all__ = [
    "Availability",
    "BackendEntry",
    "BackendRow",
    "FrontendEntry",
    "FrontendRow",
    "LastCheck",
    "Process",
    "Rate",
    "Rates",
    "Resolvers",
    "Roster",
    "ServerEntry",
    "ServerRow",
    "Snapshot",
    "take",
    "taking",
]

Mode = Literal["tcp", "http", "udp"]
Tone = Literal["up", "going-down", "going-up", "down", "unchecked", "drain", "maint"]

# HAProxy's averages are over about the last 1024 sessions (management manual, CSV fields 58 to 61).
_WINDOW = 1024
_TIMES = ("qtime", "ctime", "rtime", "ttime")
_MICROSECOND = 1e-6
# Servers looked at in one go: less than a millisecond.
_STRETCH = 128
# All frontends take clients. Of those that do not: 1 for now, 2 for good.
_NO_DOORS: Mapping[str, int] = {}

Resolvers = Mapping[str, Sequence[tuple[str, Mapping[str, int]]]]
"""By section of `resolvers`: name servers, and what was counted of each under HAProxy's names."""
_NO_RESOLVERS: Resolvers = {}


class LastCheck(NamedTuple):
    """How a server's last check ended, in HAProxy's terms."""

    code: str
    """L4OK, L4CON, L7STS, …"""
    description: str
    """The code in words: "Layer4 connection problem"."""
    status: int | None
    """What the server answered on layer 7 (HTTP status, DNS rcode), if it came to that."""
    info: str
    """What the server or the system said of it; not to be trusted."""
    duration: float
    """Seconds."""
    at: float
    """Unix time of its end."""


class Process(NamedTuple):
    """The daemon itself."""

    version: str
    node: str
    description: str
    pid: int
    started: float
    """Unix time in seconds."""
    workers: int
    maxconn: int
    stopping: bool = False
    idle: int = 100
    """Percent of the last second that workers had nothing to do."""
    hard_maxconn: int = 0
    """What it may be set to; 0: no more than it is."""
    descriptors: int = 0
    """How many files each process may have open."""


class FrontendEntry(NamedTuple):
    """What the configuration says of a frontend."""

    name: str
    mode: Mode
    engine: str
    binds: tuple[str, ...]
    limit: int
    backend: str


class ServerEntry(NamedTuple):
    """What the configuration says of a server."""

    backend: str
    name: str
    row: int
    """Its row on the `Board`."""
    address: Address
    cookie: str
    mode: Mode
    backup: bool
    weight: int
    is_checked: bool
    rise: int
    fall: int
    maxconn: int = 0
    """Requests at a time; 0 for no limit."""
    maxqueue: int = 0
    """How many may wait for it; 0 for no limit."""


class BackendEntry(NamedTuple):
    """What the configuration says of a backend."""

    name: str
    mode: Mode
    balance: str
    cookie: str
    allbackups: bool
    purge_delay: float
    """Seconds after which idle server connections are closed."""
    servers: tuple[ServerEntry, ...]
    cache_size: int = 0
    """Octets that its cache may take; 0: it has none."""
    fullconn: int = 0
    """So many sessions make it full (HAProxy's fullconn)."""


class Roster(NamedTuple):
    """Everybody who gets a row, in the configuration's order."""

    frontends: tuple[FrontendEntry, ...]
    backends: tuple[BackendEntry, ...]

    @staticmethod
    def of(config: model.Config) -> Roster:
        frontends = tuple(
            FrontendEntry(
                name=name,
                mode=frontend.mode,
                engine=frontend.engine,
                binds=tuple(str(bind.address) for bind in frontend.bind),
                limit=effective.frontend(config, name).maxconn or config.global_.maxconn
                if frontend.engine != "kernel"
                else 0,
                backend=frontend.default_backend,
            )
            for name, frontend in config.frontends.items()
        )
        modes = {backend: frontend.mode for frontend in config.frontends.values() for backend in frontend.backends}
        backends, first = [], 0
        fullconn = effective.fullconn(config)
        for name, backend in config.backends.items():
            mode = modes.get(name, "tcp")
            servers = tuple(
                _server_entry(name, backend, server, mode=mode, row=first + i)
                for i, server in enumerate(backend.servers)
            )
            first += len(servers)
            cookie = backend.cookie.name if backend.cookie is not None else ""
            backends.append(
                BackendEntry(
                    name,
                    mode,
                    str(backend.balance),
                    cookie,
                    backend.allbackups,
                    backend.pool_purge_delay,
                    servers,
                    backend.cache.total_max_size if backend.cache is not None else 0,
                    fullconn[name],
                )
            )
        return Roster(frontends, tuple(backends))


def _server_entry(name: str, backend: model.Backend, server_name: str, *, mode: Mode, row: int) -> ServerEntry:
    server, check = backend.servers[server_name], backend.check
    has_check = not isinstance(check, model.NoCheck)
    return ServerEntry(
        backend=name,
        name=server_name,
        row=row,
        address=server.address,
        cookie=server.cookie or "",
        mode=mode,
        backup=server.backup,
        weight=server.weight,
        is_checked=has_check and server.check.enabled,
        rise=check.rise if not isinstance(check, model.NoCheck) else 1,
        fall=check.fall if not isinstance(check, model.NoCheck) else 1,
        maxconn=server.maxconn or 0,
        maxqueue=server.maxqueue or 0,
    )


class Rate(NamedTuple):
    """How fast an entity's totals grow: events of the last second, and the most there ever were in one. The
    averages are seconds per session or request, over about the last 1024 that ended."""

    sessions: int = 0
    sessions_max: int = 0
    requests: int = 0
    requests_max: int = 0
    connections: int = 0
    connections_max: int = 0
    queue_time: float = 0.0
    connect_time: float = 0.0
    response_time: float = 0.0
    total_time: float = 0.0


_STILL = Rate()


class _Track:
    """What `Rates` remembers of one entity."""

    __slots__ = ("conn_tot", "ended", "rate", "req_tot", "stot", "sums", "times", "weight")

    def __init__(self, counters: Mapping[str, int]) -> None:
        self.stot = counters["stot"]
        self.req_tot = counters["req_tot"]
        self.conn_tot = counters["conn_tot"]
        self.ended = self.stot - counters["scur"]
        self.times = [counters[name] for name in _TIMES]
        # All that has been until now stands for at most one window.
        self.weight = float(min(max(self.ended, 0), _WINDOW))
        self.sums = [total * self.weight / self.ended if self.ended > 0 else 0.0 for total in self.times]
        self.rate = Rate(0, 0, 0, 0, 0, 0, *self._averages())

    def _averages(self) -> tuple[float, ...]:
        scale = _MICROSECOND / self.weight if self.weight else 0.0
        return tuple(total * scale for total in self.sums)

    def feed(self, counters: Mapping[str, int], elapsed: float) -> None:
        stot, req_tot, conn_tot = counters["stot"], counters["req_tot"], counters["conn_tot"]
        ended = stot - counters["scur"]
        rate = self.rate
        if stot == self.stot and req_tot == self.req_tot and conn_tot == self.conn_tot and ended == self.ended:
            if rate.sessions or rate.requests or rate.connections:
                self.rate = rate._replace(sessions=0, requests=0, connections=0)
            return
        sessions = _per_second(stot - self.stot, elapsed)
        requests = _per_second(req_tot - self.req_tot, elapsed)
        connections = _per_second(conn_tot - self.conn_tot, elapsed)
        self._average(counters, ended - self.ended)
        self.stot, self.req_tot, self.conn_tot, self.ended = stot, req_tot, conn_tot, ended
        self.rate = Rate(
            sessions,
            max(sessions, rate.sessions_max),
            requests,
            max(requests, rate.requests_max),
            connections,
            max(connections, rate.connections_max),
            *self._averages(),
        )

    def _average(self, counters: Mapping[str, int], ended: int) -> None:
        if ended <= 0:
            return
        keep = math.exp(-ended / _WINDOW)
        self.weight = self.weight * keep + ended
        for i, name in enumerate(_TIMES):
            total = counters[name]
            self.sums[i] = self.sums[i] * keep + max(total - self.times[i], 0)
            self.times[i] = total


def _per_second(grown: int, elapsed: float) -> int:
    return max(round(grown / elapsed), 0)


class Rates:
    """Turns totals into rates. `feed` it once a second."""

    def __init__(self) -> None:
        self._tracks: dict[Entity, _Track] = {}
        self._fed = 0.0
        self._octets: tuple[int, int] | None = None
        self.bytes_in = self.bytes_out = 0
        """Octets that all frontends' clients sent over the last second, and got."""

    def feed(self, sums: Mapping[Entity, Sums], now: float) -> None:
        """Take the totals of this moment; `now` is of any clock in seconds. One that stood still or went back gives no
        new rates."""
        elapsed, self._fed = now - self._fed, now
        tracks = self._tracks
        for entity, sum_ in sums.items():
            track = tracks.get(entity)
            if track is None:
                tracks[entity] = _Track(sum_.counters)
            elif elapsed > 0:
                track.feed(sum_.counters, elapsed)
        if len(tracks) != len(sums):
            self._tracks = {entity: tracks[entity] for entity in sums}
        before, self._octets = self._octets, _octets(sums)
        if before is not None and elapsed > 0:
            self.bytes_in, self.bytes_out = (
                _per_second(now_ - then, elapsed) for now_, then in zip(self._octets, before, strict=True)
            )

    def forget_peaks(self) -> None:
        """Maxima begin anew from what is now."""
        for track in self._tracks.values():
            rate = track.rate
            track.rate = rate._replace(
                sessions_max=rate.sessions, requests_max=rate.requests, connections_max=rate.connections
            )

    def __getitem__(self, entity: Entity) -> Rate:
        """All zero for an entity never fed."""
        track = self._tracks.get(entity)
        return track.rate if track is not None else _STILL


def _octets(sums: Mapping[Entity, Sums]) -> tuple[int, int]:
    """In and out."""
    counters = [sum_.counters for entity, sum_ in sums.items() if entity.kind == "frontend"]
    return sum(each["bin"] for each in counters), sum(each["bout"] for each in counters)


class _Standing(NamedTuple):
    is_up: bool
    since: float
    downs: int = 0
    downtime: float = 0.0


class Availability:
    """When each backend last went up or down, how often and for how long. `feed` it once a second."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._standings: dict[str, _Standing] = {}

    def feed(self, roster: Roster, states: Sequence[ServerState], now: float) -> None:
        """Take the servers' states of this moment (the rows of the `Board`)."""
        standings = {}
        for backend in roster.backends:
            is_up = any(_in_use(backend, states))
            old = self._standings.get(backend.name)
            if old is None:
                standings[backend.name] = _Standing(is_up, self._started, downs=int(not is_up))
            elif old.is_up == is_up:
                standings[backend.name] = old
            elif is_up:
                standings[backend.name] = _Standing(True, now, old.downs, old.downtime + max(now - old.since, 0.0))
            else:
                standings[backend.name] = _Standing(False, now, old.downs + 1, old.downtime)
        self._standings = standings

    def __getitem__(self, backend: str) -> _Standing:
        return self._standings.get(backend) or _Standing(True, self._started)


def _in_use(backend: BackendEntry, states: Sequence[ServerState]) -> tuple[int, int]:
    """How many active and backup servers may get clients: as `pool.backend.Backend` chooses, except that backup
    servers in waiting are counted too (HAProxy's act and bck)."""
    active = backup = 0
    for server in backend.servers:
        if states[server.row].is_usable:
            active, backup = (active, backup + 1) if server.backup else (active + 1, backup)
    if active or backup:
        return active, backup
    for server in backend.servers:
        state = states[server.row]
        if state.condition is Condition.UNKNOWN and state.admin is Admin.READY and state.weight > 0:
            active, backup = (active, backup + 1) if server.backup else (active + 1, backup)
    return active, backup


class FrontendRow(NamedTuple):
    """A frontend at one moment."""

    entry: FrontendEntry
    counters: Mapping[str, int]
    rate: Rate
    status: Literal["OPEN", "FULL", "PAUSED", "STOP"]

    @property
    def name(self) -> str:
        return self.entry.name


class ServerRow(NamedTuple):
    """A server at one moment."""

    entry: ServerEntry
    state: ServerState
    counters: Mapping[str, int]
    rate: Rate
    check: LastCheck | None
    """None without check, or before the first is through."""
    now: float
    started: float
    overrides: tuple[Override, ...] = ()
    """What operators have made of it, apart from the configuration."""

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def status(self) -> str:
        """HAProxy's word: UP, `UP 2/3` (going down), DOWN, `DOWN 1/2` (coming up), no check, DRAIN, MAINT, `MAINT
        (resolution)`."""
        state, entry = self.state, self.entry
        if state.admin is Admin.MAINT:
            return "MAINT"
        if state.is_unresolved:
            return "MAINT (resolution)"
        if state.condition is Condition.DOWN:
            return f"DOWN {state.health}/{entry.rise}" if state.health and entry.is_checked else "DOWN"
        word = "DRAIN" if state.admin is Admin.DRAIN else "UP"
        if not entry.is_checked:
            return "no check" if word == "UP" else word
        # HAProxy begins with a server that the first failure takes down.
        health = entry.rise if state.condition is Condition.UNKNOWN else state.health
        if health < entry.rise + entry.fall - 1:
            return f"{word} {max(health - entry.rise + 1, 1)}/{entry.fall}"
        return word

    @property
    def is_maint(self) -> bool:
        """Whether nobody has it checked: an operator has taken it out, or its name has no address."""
        return self.state.admin is Admin.MAINT or self.state.is_unresolved

    @property
    def address(self) -> Address:
        """Where it is; as it was written where that is not known."""
        state = self.state
        return Address(state.host, state.port) if state.port and not state.is_unresolved else self.entry.address

    @property
    def label(self) -> Literal["DOWN", "UP", "MAINT", "DRAIN"]:
        """The status without its progress, as HAProxy's exporter has it."""
        if self.is_maint:
            return "MAINT"
        if self.state.condition is Condition.DOWN:
            return "DOWN"
        return "DRAIN" if self.state.admin is Admin.DRAIN else "UP"

    @property
    def tone(self) -> Tone:
        """What the page's colour says."""
        state, entry = self.state, self.entry
        if self.is_maint:
            return "maint"
        if state.condition is Condition.DOWN:
            return "going-up" if state.health and entry.is_checked else "down"
        if state.admin is Admin.DRAIN or not state.weight:
            return "drain"
        if not entry.is_checked or state.condition is Condition.UNKNOWN:
            return "unchecked"
        return "up" if state.health >= entry.rise + entry.fall - 1 else "going-down"

    @property
    def since(self) -> float:
        """Seconds in this state; since the daemon's start if it never changed."""
        return max(self.now - (self.state.last_change * _MICROSECOND or self.started), 0.0)

    @property
    def downtime(self) -> float:
        """Seconds down in all, this time included."""
        return self.state.downtime * _MICROSECOND + (self.since if self.state.condition is Condition.DOWN else 0.0)


class BackendRow(NamedTuple):
    """A backend at one moment. Times are seconds."""

    entry: BackendEntry
    counters: Mapping[str, int]
    histograms: Mapping[str, tuple[int, ...]]
    rate: Rate
    status: Literal["UP", "DOWN"]
    servers: tuple[ServerRow, ...]
    active: int
    backup: int
    since: float
    downs: int
    downtime: float

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def weight(self) -> int:
        """Of the servers that get clients now."""
        return sum(row.state.effective_weight for row in self._in_use())

    @property
    def uweight(self) -> int:
        """The same of their weights as they were set."""
        return sum(row.state.weight for row in self._in_use())

    def _in_use(self) -> Sequence[ServerRow]:
        """The active ones, or the backups in their place."""
        usable = [row for row in self.servers if row.state.is_usable]
        active = [row for row in usable if not row.entry.backup]
        return active or (usable if self.entry.allbackups else usable[:1])


class Snapshot(NamedTuple):
    """Everything at one moment."""

    now: float
    process: Process
    counters: Mapping[str, int]
    """Of the process as a whole: connections, dropped log records."""
    rate: Rate
    frontends: tuple[FrontendRow, ...]
    backends: tuple[BackendRow, ...]
    routers: Standing | None = None
    """Where the virtual routers stand; None where there are none."""
    bytes_out_rate: int = 0
    """Octets to clients over the last second, and from them."""
    bytes_in_rate: int = 0
    resolvers: Resolvers = _NO_RESOLVERS
    """What came of asking for servers' names."""

    @property
    def uptime(self) -> float:
        return max(self.now - self.process.started, 0.0)

    @property
    def servers(self) -> Iterable[ServerRow]:
        return (server for backend in self.backends for server in backend.servers)

    @property
    def requests(self) -> int:
        """HTTP requests and UDP queries since the start."""
        return sum(row.counters["req_tot"] for row in self.frontends)

    @property
    def request_rate(self) -> int:
        return sum(row.rate.requests for row in self.frontends)

    @property
    def bytes_in(self) -> int:
        return sum(row.counters["bin"] for row in self.frontends)

    @property
    def bytes_out(self) -> int:
        return sum(row.counters["bout"] for row in self.frontends)


Overruled = Callable[[str, str], tuple[Override, ...]]
"""What operators have made of a server: its backend and name."""


def _nothing(_: str, __: str) -> tuple[Override, ...]:
    return ()


def take(
    roster: Roster,
    process: Process,
    *,
    sums: Mapping[Entity, Sums],
    states: Sequence[ServerState],
    checks: Mapping[int, LastCheck],
    rates: Rates,
    availability: Availability,
    now: float,
    routers: Standing | None = None,
    overrides: Overruled = _nothing,
    doors: Mapping[str, int] = _NO_DOORS,
    resolvers: Resolvers = _NO_RESOLVERS,
) -> Snapshot:
    """The picture of this moment. `states` are the rows of the `Board`, `checks` go by the same index. `sums` must
    have an entry for everybody on the roster (KeyError). `doors` says which frontends take nobody:
    1 for now, 2 for good."""
    pieces = taking(
        roster,
        process,
        sums=sums,
        states=states,
        checks=checks,
        rates=rates,
        availability=availability,
        now=now,
        routers=routers,
        overrides=overrides,
        doors=doors,
        resolvers=resolvers,
    )
    while True:
        try:
            next(pieces)
        except StopIteration as done:
            snapshot: Snapshot = done.value
            return snapshot


def taking(
    roster: Roster,
    process: Process,
    *,
    sums: Mapping[Entity, Sums],
    states: Sequence[ServerState],
    checks: Mapping[int, LastCheck],
    rates: Rates,
    availability: Availability,
    now: float,
    routers: Standing | None = None,
    overrides: Overruled = _nothing,
    doors: Mapping[str, int] = _NO_DOORS,
    resolvers: Resolvers = _NO_RESOLVERS,
) -> Generator[None, None, Snapshot]:
    """`take` in short pieces, so that a caller can do other things in between."""
    backends = []
    for entry in roster.backends:
        backend = yield from _backend(
            entry,
            sums,
            states,
            checks,
            rates=rates,
            availability=availability,
            now=now,
            started=process.started,
            overrides=overrides,
        )
        backends.append(backend)
    total = Entity("process", "")
    return Snapshot(
        now=now,
        process=process,
        counters=sums[total].counters,
        rate=rates[total],
        frontends=tuple(_frontend(entry, process, sums, rates, doors.get(entry.name, 0)) for entry in roster.frontends),
        backends=tuple(backends),
        routers=routers,
        bytes_out_rate=rates.bytes_out,
        bytes_in_rate=rates.bytes_in,
        resolvers=resolvers,
    )


def _frontend(
    entry: FrontendEntry, process: Process, sums: Mapping[Entity, Sums], rates: Rates, door: int
) -> FrontendRow:
    entity = Entity("frontend", entry.name)
    counters = sums[entity].counters
    # The kernel holds nobody up.
    is_full = entry.engine != "kernel" and counters["scur"] >= entry.limit
    status: Literal["OPEN", "FULL", "PAUSED", "STOP"] = "FULL" if is_full else "OPEN"
    if door or process.stopping:
        status = "PAUSED" if door == 1 and not process.stopping else "STOP"
    return FrontendRow(entry, counters, rates[entity], status)


def _backend(
    entry: BackendEntry,
    sums: Mapping[Entity, Sums],
    states: Sequence[ServerState],
    checks: Mapping[int, LastCheck],
    *,
    rates: Rates,
    availability: Availability,
    now: float,
    started: float,
    overrides: Overruled,
) -> Generator[None, None, BackendRow]:
    entity = Entity("backend", entry.name)
    servers = []
    for number, server in enumerate(entry.servers, 1):
        row = _server(server, sums, states, checks, rates=rates, now=now, started=started)
        its = overrides(entry.name, server.name)
        servers.append(row._replace(overrides=its) if its else row)
        if not number % _STRETCH:
            yield
    yield
    active, backup = _in_use(entry, states)
    standing = availability[entry.name]
    since = max(now - standing.since, 0.0)
    is_up = bool(active or backup)
    return BackendRow(
        entry=entry,
        counters=sums[entity].counters,
        histograms=sums[entity].histograms,
        rate=rates[entity],
        status="UP" if is_up else "DOWN",
        servers=tuple(servers),
        active=active,
        backup=backup,
        since=since,
        downs=standing.downs,
        downtime=standing.downtime + (0.0 if standing.is_up else since),
    )


def _server(
    entry: ServerEntry,
    sums: Mapping[Entity, Sums],
    states: Sequence[ServerState],
    checks: Mapping[int, LastCheck],
    *,
    rates: Rates,
    now: float,
    started: float,
) -> ServerRow:
    entity = Entity("server", entry.backend, entry.name)
    check = checks.get(entry.row) if entry.is_checked else None
    counters = _within(sums[entity].counters, entry.maxconn)
    return ServerRow(entry, states[entry.row], counters, rates[entity], check, now, started)


def _within(counters: Mapping[str, int], limit: int) -> Mapping[str, int]:
    """The workers' own maxima, added up, may be more than there ever were at one time."""
    return {**counters, "smax": limit} if 0 < limit < counters["smax"] else counters
