"""What the daemon says of itself at the runtime socket, as values: one `Picture` of everybody at one moment.

It is read from what programs made for HAProxy read too (`show info`, `show stat`), so there is nothing that only this
command knows. Times are seconds unless a name says otherwise.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from balancer.errors import BalancerError
from balancer.observe import client
from balancer.pool import routers
from balancer.pool.routers import Standing

__all__ = ["Backend", "Check", "Frontend", "Pattern", "Picture", "Server", "Tone", "Traffic", "fetch", "read"]

Tone = Literal["good", "warning", "bad", "aside", "unknown"]
"""What a colour says of a state; the word beside it says it too."""

_COMMANDS = (("show", "info"), ("show", "stat"), ("show", "vrrp", "json"))
# As columns.Selection: an answer is for rows of these kinds.
_FRONTEND, _BACKEND, _SERVER = "0", "1", "2"


class Traffic(NamedTuple):
    """What was counted of one row."""

    sessions: int
    sessions_max: int
    sessions_limit: int | None
    sessions_total: int
    session_rate: int
    session_rate_max: int
    requests_total: int | None
    """None where there is no such thing (mode tcp)."""
    request_rate: int | None
    """None but for frontends."""
    bytes_in: int
    bytes_out: int
    queue: int
    queue_max: int
    errors_connection: int
    errors_response: int
    """Of a frontend: requests that were none."""
    denied: int
    retries: int
    redispatches: int
    responses_5xx: int

    @property
    def errors(self) -> int:
        """All of them."""
        return self.errors_connection + self.errors_response + self.responses_5xx


class Check(NamedTuple):
    """How a server's last check ended, in HAProxy's terms."""

    status: str
    """L4OK, L7STS, …; INI before the first is through."""
    code: int | None
    duration_ms: int | None
    description: str
    text: str
    """What the server or the system said of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontend:
    """A frontend."""

    name: str
    mode: str
    status: str
    traffic: Traffic

    @property
    def tone(self) -> Tone:
        return "good" if self.status == "OPEN" else "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server."""

    backend: str
    name: str
    address: str
    mode: str
    status: str
    """UP, `UP 2/3`, DOWN, `DOWN 1/2`, `no check`, DRAIN, MAINT."""
    since: int
    weight: int
    is_backup: bool
    cookie: str
    check: Check | None
    check_failures: int
    downs: int
    downtime: int
    last_session: int | None
    traffic: Traffic

    @property
    def path(self) -> str:
        return f"{self.backend}/{self.name}"

    @property
    def is_down(self) -> bool:
        return self.status.startswith("DOWN")

    @property
    def takes_clients(self) -> bool:
        """Whether new ones may come to it."""
        return self.weight > 0 and (self.status.startswith("UP") or self.status == "no check")

    @property
    def tone(self) -> Tone:
        word = self.status
        if word in ("MAINT", "DRAIN") or word.startswith("DRAIN"):
            return "aside"
        if word == "no check":
            return "unknown"
        if self.is_down:
            return "bad" if word == "DOWN" else "warning"
        return "good" if word == "UP" else "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A backend with its servers."""

    name: str
    mode: str
    balance: str
    status: str
    since: int
    weight: int
    active: int
    backup: int
    downs: int
    downtime: int
    traffic: Traffic
    servers: tuple[Server, ...]

    @property
    def tone(self) -> Tone:
        return "good" if self.status == "UP" else "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Everybody at one moment."""

    at: float
    """Unix time of whoever looks."""
    node: str
    description: str
    version: str
    uptime: int
    connections: int
    connections_max: int
    connection_rate: int
    is_stopping: bool
    frontends: tuple[Frontend, ...]
    backends: tuple[Backend, ...]
    routers: Standing | None
    """None where there are none."""

    @property
    def servers(self) -> Iterable[Server]:
        return (server for backend in self.backends for server in backend.servers)

    @property
    def request_rate(self) -> int:
        return sum(each.traffic.request_rate or 0 for each in self.frontends)

    def narrowed(self, patterns: Sequence[Pattern]) -> Picture:
        """With what one of the patterns is for; with all of it where there is none."""
        if not patterns:
            return self
        backends = []
        for backend in self.backends:
            found = tuple(
                each for each in backend.servers if any(one.is_for(backend.name, each.name) for one in patterns)
            )
            if found or any(one.server == "*" and one.is_for(backend.name, "") for one in patterns):
                backends.append(replace(backend, servers=found))
        frontends = tuple(each for each in self.frontends if any(one.is_for_proxy(each.name) for one in patterns))
        return replace(self, frontends=frontends, backends=tuple(backends))


class Pattern(NamedTuple):
    """`web`, `web/web1`, `web/*`, `*/web[12]`: names as a shell matches files."""

    backend: str
    server: str
    text: str

    @staticmethod
    def of(text: str) -> Pattern:
        backend, slash, server = text.partition("/")
        return Pattern(backend, server if slash else "*", text)

    @property
    def is_plain(self) -> bool:
        """Whether it can be for one server only."""
        return "/" in self.text and not any(sign in self.text for sign in "*?[")

    def is_for(self, backend: str, server: str) -> bool:
        return fnmatchcase(backend, self.backend) and fnmatchcase(server, self.server)

    def is_for_proxy(self, name: str) -> bool:
        """Whether a frontend of that name is meant."""
        return "/" not in self.text and fnmatchcase(name, self.backend)


def fetch(path: str, *, patience: float | None = None, clock: Callable[[], float] = time.time) -> Picture:
    """Ask the daemon whose runtime socket is at `path`. BalancerError where it cannot be asked, or makes no sense."""
    kept = {} if patience is None else {"patience": patience}
    info, stat, vrrp = client.ask_all(path, _COMMANDS, **kept)
    for answer in (info, stat):
        if answer.is_error:
            raise BalancerError(f"{path}: {answer.text.strip()}")
    try:
        return read(info.text, stat.text, None if vrrp.is_error else vrrp.text, now=clock())
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BalancerError(f"{path}: what it says of itself cannot be understood ({error!r})") from None


def read(info: str, stat: str, vrrp: str | None, *, now: float) -> Picture:
    """The picture that these answers give. ValueError, KeyError, TypeError or IndexError where they are none."""
    facts = dict(line.partition(": ")[::2] for line in info.split("\n") if line)
    # As `csv.reader` would it: a line's end is \n alone, whatever a server has said.
    lines = csv.reader(stat.split("\n"))
    names = next(lines)
    names[0] = names[0].removeprefix("# ")
    place = {name: i for i, name in enumerate(names)}
    read_one = _Reader(place)
    frontends: list[Frontend] = []
    backends: list[Backend] = []
    servers: list[Server] = []
    for cells in lines:
        if not cells:
            continue
        kind = cells[place["type"]]
        if kind == _FRONTEND:
            frontends.append(read_one.frontend(cells))
        elif kind == _SERVER:
            servers.append(read_one.server(cells))
        elif kind == _BACKEND:
            backends.append(read_one.backend(cells, tuple(servers)))
            servers = []
    return Picture(
        at=now,
        node=facts["node"],
        description=facts.get("description", ""),
        version=facts["Version"].removesuffix("-pybalancer"),
        uptime=int(facts["Uptime_sec"]),
        connections=int(facts["CurrConns"]),
        connections_max=int(facts["Maxconn"]),
        connection_rate=int(facts["ConnRate"]),
        is_stopping=facts["Stopping"] != "0",
        frontends=tuple(frontends),
        backends=tuple(backends),
        routers=None if vrrp is None else routers.decode(vrrp.encode()),
    )


class _Reader:
    """Reads rows whose columns stand where `place` says."""

    def __init__(self, place: dict[str, int]) -> None:
        self._place = place
        self._counted = [place[name] for name in _COUNTED]

    def _text(self, cells: list[str], name: str) -> str:
        return cells[self._place[name]]

    def _number(self, cells: list[str], name: str) -> int:
        return int(cells[self._place[name]] or 0)

    def _maybe(self, cells: list[str], name: str) -> int | None:
        text = cells[self._place[name]]
        return int(text) if text else None

    def _traffic(self, cells: list[str], requests: int | None) -> Traffic:
        counted = [int(cells[i] or 0) for i in self._counted]
        (scur, smax, stot, rate, rate_max, bin_, bout, qcur, qmax, econ, eresp, ereq, dreq, dresp, wretr, wredis,
         failed) = counted  # fmt: skip
        return Traffic(
            sessions=scur,
            sessions_max=smax,
            sessions_limit=self._maybe(cells, "slim") or None,
            sessions_total=stot,
            session_rate=rate,
            session_rate_max=rate_max,
            requests_total=requests,
            request_rate=self._maybe(cells, "req_rate"),
            bytes_in=bin_,
            bytes_out=bout,
            queue=qcur,
            queue_max=qmax,
            errors_connection=econ,
            errors_response=eresp + ereq,
            denied=dreq + dresp,
            retries=wretr,
            redispatches=wredis,
            responses_5xx=failed,
        )

    def frontend(self, cells: list[str]) -> Frontend:
        requests = self._maybe(cells, "req_tot")
        mode = self._text(cells, "mode")
        return Frontend(
            name=self._text(cells, "pxname"),
            mode=mode,
            status=self._text(cells, "status"),
            traffic=self._traffic(cells, None if mode == "tcp" else requests),
        )

    def backend(self, cells: list[str], servers: tuple[Server, ...]) -> Backend:
        return Backend(
            name=self._text(cells, "pxname"),
            mode=self._text(cells, "mode"),
            balance=self._text(cells, "algo"),
            status=self._text(cells, "status"),
            since=self._number(cells, "lastchg"),
            weight=self._number(cells, "weight"),
            active=self._number(cells, "act"),
            backup=self._number(cells, "bck"),
            downs=self._number(cells, "chkdown"),
            downtime=self._number(cells, "downtime"),
            traffic=self._traffic(cells, self._maybe(cells, "req_tot")),
            servers=servers,
        )

    def server(self, cells: list[str]) -> Server:
        code = self._text(cells, "check_status")
        last = self._number(cells, "lastsess")
        return Server(
            backend=self._text(cells, "pxname"),
            name=self._text(cells, "svname"),
            address=self._text(cells, "addr"),
            mode=self._text(cells, "mode"),
            status=self._text(cells, "status"),
            since=self._number(cells, "lastchg"),
            weight=self._number(cells, "uweight"),
            is_backup=self._text(cells, "bck") == "1",
            cookie=self._text(cells, "cookie"),
            check=Check(
                code,
                self._maybe(cells, "check_code"),
                self._maybe(cells, "check_duration"),
                self._text(cells, "check_desc"),
                self._text(cells, "last_chk"),
            )
            if code
            else None,
            check_failures=self._number(cells, "chkfail"),
            downs=self._number(cells, "chkdown"),
            downtime=self._number(cells, "downtime"),
            last_session=last if last >= 0 else None,
            traffic=self._traffic(cells, self._maybe(cells, "req_tot")),
        )


_COUNTED = ("scur", "smax", "stot", "rate", "rate_max", "bin", "bout", "qcur", "qmax", "econ", "eresp", "ereq", "dreq",
            "dresp", "wretr", "wredis", "hrsp_5xx")  # fmt: skip
