"""HAProxy's statistics: the columns of `show stat`, as CSV, one fact a line (typed), or JSON.

Names and order are those of HAProxy 2.8 to 3.2 (management manual, section 9.1; `show stat typed` gives the tags). What
pybalancer has not (TLS, agents) stays 0 or empty, as it does there. Rows are a frontend, then each backend with its
servers before it, in the configuration's order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from balancer.observe.snapshot import ServerRow, Snapshot
from balancer.pool.orders import WHOLE

__all__ = [
    "CSV_TYPE", "FIRST_ID", "JSON_TYPE", "Selection", "csv", "in_words", "json_", "narrowed", "selected", "typed"
]  # fmt: skip

CSV_TYPE = "text/plain"
JSON_TYPE = "application/json"

FRONTENDS, BACKENDS, SERVERS = 1, 2, 4
FIRST_ID = 2
"""Frontends, then backends are numbered from here on; 1 is HAProxy's own GLOBAL."""

_HEADER = (
    "pxname svname qcur qmax scur smax slim stot bin bout dreq dresp ereq econ eresp wretr wredis status weight act "
    "bck chkfail chkdown lastchg downtime qlimit pid iid sid throttle lbtot tracked type rate rate_lim rate_max "
    "check_status check_code check_duration hrsp_1xx hrsp_2xx hrsp_3xx hrsp_4xx hrsp_5xx hrsp_other hanafail req_rate "
    "req_rate_max req_tot cli_abrt srv_abrt comp_in comp_out comp_byp comp_rsp lastsess last_chk last_agt qtime ctime "
    "rtime ttime agent_status agent_code agent_duration check_desc agent_desc check_rise check_fall check_health "
    "agent_rise agent_fall agent_health addr cookie mode algo conn_rate conn_rate_max conn_tot intercepted dcon dses "
    "wrew connect reuse cache_lookups cache_hits srv_icur src_ilim qtime_max ctime_max rtime_max ttime_max eint "
    "idle_conn_cur safe_conn_cur used_conn_cur need_conn_est uweight agg_server_status agg_server_check_status "
    "agg_check_status srid sess_other h1sess h2sess h3sess req_other h1req h2req h3req proto -"
)
_NAMES = tuple(_HEADER.split())

# Origin, nature and scope of each, and its type, where they are not those of a counter.
_TAGS = {
    name: (tags, type_)
    for tags, type_, names in (
        ("KNS", "str", "pxname svname"),
        ("MGP", "u32", "qcur scur srv_icur idle_conn_cur safe_conn_cur used_conn_cur need_conn_est agg_server_status "
         "agg_server_check_status agg_check_status"),
        ("MMP", "u32", "qmax smax rate_max req_rate_max conn_rate_max qtime_max ctime_max rtime_max ttime_max"),
        ("CLP", "u32", "slim rate_lim"),
        ("SGP", "str", "status"),
        ("MaP", "u32", "weight qtime ctime rtime ttime uweight"),
        ("SGP", "u32", "act bck"),
        ("MAP", "u32", "lastchg"),
        ("MCP", "u32", "downtime"),
        ("CGS", "u32", "qlimit type check_rise check_fall check_health"),
        ("KGP", "u32", "pid"),
        ("KGS", "u32", "iid sid"),
        ("MGS", "u32", "throttle"),
        ("MRP", "u32", "rate req_rate conn_rate"),
        ("MOP", "str", "check_status last_chk check_desc"),
        ("MOP", "u32", "check_code"),
        ("MDP", "u64", "check_duration"),
        ("MAP", "s32", "lastsess"),
        ("CGS", "str", "addr cookie mode algo"),
    )
    for name in names.split()
}  # fmt: skip
_COUNTER = ("MCP", "u64")
# A backend's are counted over its servers.
_TAGS_OF_BACKENDS = {"act": ("MGP", "u32"), "bck": ("MGP", "u32"), "rate": ("MGP", "u32"), "rate_max": ("MGP", "u32")}

_Value = str | int | None


class _Line(NamedTuple):
    """A row and what its values are made of."""

    kind: Literal["F", "B", "S"]
    row: Any
    iid: int
    sid: int
    now: float

    @property
    def entry(self) -> Any:
        return self.row.entry


_Read = Callable[[_Line], _Value]


def _counters(*names: str) -> dict[str, _Read]:
    def reader(name: str) -> _Read:
        return lambda line: int(line.row.counters[name])

    return {name: reader(name) for name in names}


def _constant(value: _Value, *names: str) -> dict[str, _Read]:
    return dict.fromkeys(names, lambda _: value)


def _if(applies: Callable[[_Line], bool], readers: Mapping[str, _Read]) -> dict[str, _Read]:
    def reader(read: _Read) -> _Read:
        return lambda line: read(line) if applies(line) else None

    return {name: reader(read) for name, read in readers.items()}


def _is_http(line: _Line) -> bool:
    return bool(line.entry.mode == "http")


def _is_no_http(line: _Line) -> bool:
    return not _is_http(line)


def _is_checked(line: _Line) -> bool:
    row: ServerRow = line.row
    return row.entry.is_checked and not row.is_maint


def _has_check(line: _Line) -> bool:
    return _is_checked(line) and line.row.check is not None


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _last_session(line: _Line) -> int:
    last = line.row.counters["lastsess"]
    return max(int(line.now) - last, 0) if last else -1


_RESPONSES = _counters("hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "hrsp_other")
_OF_ALL: dict[str, _Read] = {
    "pxname": lambda line: str(line.row.name),
    **_counters("scur", "smax", "stot", "bin", "bout", "dresp", "eint"),
    "pid": lambda _: 1,
    "iid": lambda line: line.iid,
    "sid": lambda line: line.sid,
    "rate": lambda line: int(line.row.rate.sessions),
    "rate_max": lambda line: int(line.row.rate.sessions_max),
    **_if(_is_http, _RESPONSES),
    "mode": lambda line: str(line.entry.mode),
    **_constant(0, "wrew"),
    "-": lambda _: "-",
}
_OF_PROXIES: dict[str, _Read] = {
    **_counters("dreq", "comp_in", "comp_out", "comp_byp", "comp_rsp"),
    **_if(_is_http, _counters("cache_lookups", "cache_hits")),
}
_SERVED: dict[str, _Read] = {
    **_counters(
        "qcur", "qmax", "econ", "eresp", "wretr", "wredis", "lbtot", "cli_abrt", "srv_abrt", "connect", "reuse"
    ),
    **_if(_is_http, _counters("req_tot")),
    "lastchg": lambda line: int(line.row.since),
    "lastsess": _last_session,
    "qtime": lambda line: _milliseconds(line.row.rate.queue_time),
    "ctime": lambda line: _milliseconds(line.row.rate.connect_time),
    "rtime": lambda line: _milliseconds(line.row.rate.response_time),
    "ttime": lambda line: _milliseconds(line.row.rate.total_time),
    "qtime_max": lambda line: line.row.counters["qtime_max"] // 1000,
    "ctime_max": lambda line: line.row.counters["ctime_max"] // 1000,
    "rtime_max": lambda line: line.row.counters["rtime_max"] // 1000,
    "ttime_max": lambda line: line.row.counters["ttime_max"] // 1000,
}
_READERS: dict[str, dict[str, _Read]] = {
    "F": {
        **_OF_ALL,
        **_OF_PROXIES,
        **_counters("ereq", "req_tot", "conn_tot", "dcon", "dses"),
        **_if(_is_http, _counters("intercepted")),
        "svname": lambda _: "FRONTEND",
        "slim": lambda line: int(line.entry.limit),
        "status": lambda line: str(line.row.status),
        "type": lambda _: 0,
        "rate_lim": lambda _: 0,
        "req_rate": lambda line: int(line.row.rate.requests),
        "req_rate_max": lambda line: int(line.row.rate.requests_max),
        "conn_rate": lambda line: int(line.row.rate.connections),
        "conn_rate_max": lambda line: int(line.row.rate.connections_max),
        **_constant(0, "sess_other", "h1sess", "h2sess", "h3sess", "req_other", "h1req", "h2req", "h3req"),
        "h1sess": lambda line: line.row.counters["stot"] if _is_http(line) else 0,
        "h1req": lambda line: line.row.counters["req_tot"] if _is_http(line) else 0,
        "sess_other": lambda line: line.row.counters["stot"] if _is_no_http(line) else 0,
        "req_other": lambda line: line.row.counters["req_tot"] if _is_no_http(line) else 0,
    },
    "B": {
        **_OF_ALL,
        **_OF_PROXIES,
        **_SERVED,
        "svname": lambda _: "BACKEND",
        "slim": lambda line: int(line.entry.fullconn),
        "status": lambda line: str(line.row.status),
        "weight": lambda line: int(line.row.weight),
        "act": lambda line: int(line.row.active),
        "bck": lambda line: int(line.row.backup),
        "chkdown": lambda line: int(line.row.downs),
        "downtime": lambda line: int(line.row.downtime),
        "type": lambda _: 1,
        "cookie": lambda line: line.entry.cookie or None,
        "algo": lambda line: str(line.entry.balance),
        "uweight": lambda line: int(line.row.uweight),
        **_constant(0, "agg_server_status", "agg_server_check_status", "agg_check_status"),
    },
    "S": {
        **_OF_ALL,
        **_SERVED,
        "pxname": lambda line: str(line.entry.backend),
        "svname": lambda line: str(line.row.name),
        "slim": lambda line: line.entry.maxconn or None,
        "qlimit": lambda line: line.entry.maxqueue or None,
        "status": lambda line: str(line.row.status),
        "weight": lambda line: int(line.row.state.effective_weight),
        **_if(
            lambda line: line.row.state.throttle < WHOLE,
            {"throttle": lambda line: int(line.row.state.throttle)},
        ),
        "act": lambda line: int(not line.entry.backup),
        "bck": lambda line: int(line.entry.backup),
        **_if(
            lambda line: bool(line.entry.is_checked),
            {
                "chkfail": lambda line: int(line.row.state.check_failures),
                "chkdown": lambda line: int(line.row.state.downs),
                "downtime": lambda line: int(line.row.downtime),
            },
        ),
        "type": lambda _: 2,
        **_if(
            _is_checked,
            {
                "check_status": lambda line: line.row.check.code if line.row.check else "INI",
                "check_desc": lambda line: line.row.check.description if line.row.check else "Initializing",
                "check_rise": lambda line: int(line.entry.rise),
                "check_fall": lambda line: int(line.entry.fall),
                "check_health": lambda line: int(line.row.state.health),
            },
        ),
        **_if(
            _has_check,
            {
                "check_code": lambda line: line.row.check.status,
                "check_duration": lambda line: _milliseconds(line.row.check.duration),
                "last_chk": lambda line: line.row.check.info or None,
            },
        ),
        "addr": lambda line: str(line.row.address),
        "cookie": lambda line: line.entry.cookie or None,
        **_counters("srv_icur"),
        "idle_conn_cur": lambda line: int(line.row.counters["srv_icur"]),
        "safe_conn_cur": lambda _: 0,
        "used_conn_cur": lambda line: int(line.row.counters["scur"]),
        "need_conn_est": lambda line: int(line.row.counters["scur"]),
        "uweight": lambda line: int(line.row.state.weight),
        "srid": lambda _: 0,
    },
}
_IN_ORDER = {
    kind: [(position, name, readers[name]) for position, name in enumerate(_NAMES) if name in readers]
    for kind, readers in _READERS.items()
}


class Selection(NamedTuple):
    """Which rows are wanted. As with HAProxy, `iid` -1 is every proxy, `sid` -1 every server of it."""

    proxy: str | None = None
    """Only the frontend and the backend of this name."""
    iid: int = -1
    kinds: int = -1
    """Of FRONTENDS, BACKENDS and SERVERS, added up."""
    sid: int = -1
    scope: str = ""
    """Only proxies with this in their name."""
    hides_down: bool = False
    hides_maint: bool = False

    def has(self, proxy: str, iid: int) -> bool:
        """Whether rows of this frontend or backend are wanted at all."""
        return self.iid in (-1, iid) and self.proxy in (None, proxy) and self.scope in proxy


_ALL = Selection()


def selected(snapshot: Snapshot, selection: Selection = _ALL) -> Iterator[_Line]:
    """The rows, in the configuration's order, each server before its backend."""
    now = snapshot.now
    iid = FIRST_ID
    for frontend in snapshot.frontends:
        if selection.kinds & FRONTENDS and selection.has(frontend.name, iid):
            yield _Line("F", frontend, iid, 0, now)
        iid += 1
    for backend in snapshot.backends:
        if selection.has(backend.name, iid):
            for sid, server in enumerate(backend.servers, 1):
                if selection.kinds & SERVERS and selection.sid in (-1, sid) and not _is_hidden(server, selection):
                    yield _Line("S", server, iid, sid, now)
            if selection.kinds & BACKENDS and not (selection.hides_down and backend.status == "DOWN"):
                yield _Line("B", backend, iid, 0, now)
        iid += 1


def _is_hidden(server: ServerRow, selection: Selection) -> bool:
    label = server.label
    is_maint = label == "MAINT"
    return (selection.hides_maint and is_maint) or (selection.hides_down and (is_maint or label == "DOWN"))


def narrowed(snapshot: Snapshot, selection: Selection) -> Snapshot:
    """The same without what is not wanted, for views of their own."""
    if selection == _ALL:
        return snapshot
    return snapshot._replace(
        frontends=tuple(row for row in snapshot.frontends if selection.scope in row.name),
        backends=tuple(
            row._replace(servers=tuple(server for server in row.servers if not _is_hidden(server, selection)))
            for row in snapshot.backends
            if selection.scope in row.name
        ),
    )


def csv(lines: Iterable[_Line]) -> Generator[str, None, None]:
    """A line for each row, after one with the columns' names."""
    yield f"# {','.join(_NAMES)},\n"
    for line in lines:
        cells = [""] * len(_NAMES)
        for position, _, read in _IN_ORDER[line.kind]:
            value = read(line)
            if value is not None:
                cells[position] = _cell(value) if isinstance(value, str) else str(value)
        yield f"{','.join(cells)},\n"


def _cell(text: str) -> str:
    """RFC 4180 section 2: in quotes where it has to be. A line break would end the row for simple readers."""
    text = text.replace("\r", " ").replace("\n", " ")
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text


def typed(lines: Iterable[_Line]) -> Generator[str, None, None]:
    """A line for each fact: `S.3.1.17.status.1:SGP:str:UP`, type, proxy, server, place, name, process."""
    for line in lines:
        facts = [
            f"{line.kind}.{line.iid}.{line.sid}.{position}.{name}.1:{tags}:{type_}:{str(value).translate(_ONE_LINE)}\n"
            for position, name, tags, type_, value in _facts(line)
        ]
        yield "".join(facts)


_ONE_LINE = str.maketrans("\r\n", "  ")


def json_(lines: Iterable[_Line]) -> Generator[str, None, None]:
    """An array of rows, each an array of facts."""
    separator = "["
    for line in lines:
        facts = [
            {
                "objType": _KINDS[line.kind],
                "proxyId": line.iid,
                "id": line.sid,
                "field": {"pos": position, "name": name},
                "processNum": 1,
                "tags": in_words(tags),
                "value": {"type": type_, "value": value},
            }
            for position, name, tags, type_, value in _facts(line)
        ]
        yield separator + json.dumps(facts, separators=(",", ":"))
        separator = ","
    yield "[]\n" if separator == "[" else "]\n"


def in_words(tags: str) -> dict[str, str]:
    """Origin, nature and scope, by the letters of the typed format."""
    return {"origin": _ORIGINS[tags[0]], "nature": _NATURES[tags[1]], "scope": _SCOPES[tags[2]]}


def _facts(line: _Line) -> Iterator[tuple[int, str, str, str, str | int]]:
    own = _TAGS_OF_BACKENDS if line.kind == "B" else {}
    for position, name, read in _IN_ORDER[line.kind]:
        value = read(line)
        if value is not None and name != "-":
            tags, type_ = own.get(name) or _TAGS.get(name, _COUNTER)
            yield position, name, tags, type_, value


_KINDS = {"F": "Frontend", "B": "Backend", "S": "Server"}
_ORIGINS = {"M": "Metric", "S": "Status", "K": "Key", "C": "Config", "P": "Product"}
_NATURES = {
    "G": "Gauge", "L": "Limit", "M": "Max", "R": "Rate", "C": "Counter", "D": "Duration", "A": "Age", "N": "Name",
    "O": "Output", "a": "Avg",
}  # fmt: skip
_SCOPES = {"P": "Process", "S": "Service"}
