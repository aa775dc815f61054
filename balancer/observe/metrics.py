"""Prometheus metrics under the names and labels of HAProxy's exporter, those of virtual routers under the names and
labels of keepalived-exporter (github.com/mehdy/keepalived-exporter), and a few of our own (`pybalancer_…`).

Text format 0.0.4. Written by hand: prometheus_client keeps an object for each sample and takes several times as long
for thousands of servers. What HAProxy has and pybalancer does not (TLS, …) is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from balancer.observe.routers import is_stale
from balancer.observe.snapshot import BackendRow, FrontendRow, ServerRow, Snapshot
from balancer.pool.routers import PeerFacts, RouterFacts, ScriptFacts, Standing

__all__ = ["CONTENT_TYPE", "pieces", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_CODES = ("1xx", "2xx", "3xx", "4xx", "5xx", "other")
# All of HAProxy's, in its order; those that no check of ours ends with stay 0.
_CHECK_STATES = (
    "HANA", "SOCKERR", "L4OK", "L4TOUT", "L4CON", "L6OK", "L6TOUT", "L6RSP", "L7TOUT", "L7RSP", "L7OK", "L7OKC",
    "L7STS", "PROCERR", "PROCTOUT", "PROCOK",
)  # fmt: skip
_SERVER_STATES = ("DOWN", "UP", "MAINT", "DRAIN", "NOLB")

# Bucket i of a histogram counts durations below 2**i us. From 0.128 ms, about what a connection on the same switch
# takes, to 33.6 s, above the usual timeouts.
_EDGES = range(7, 26)

Row = FrontendRow | BackendRow | ServerRow | RouterFacts | ScriptFacts | PeerFacts
Value = Callable[[Any], float | int | str]
Samples = Callable[[str, str, Any], Iterable[str]]


class _Family(NamedTuple):
    """A metric of a kind of row. `samples(name, labels, row)` gives its lines; `labels` lacks the closing brace."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    samples: Samples
    applies: Callable[[Any], bool] = lambda _: True


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _plain(value: Value) -> Samples:
    return lambda name, labels, row: (f"{name}{labels}}} {value(row)}\n",)


def _counter(name: str, key: str, help_: str, **more: Any) -> _Family:
    return _Family(name, "counter", help_, _plain(lambda row: row.counters[key]), **more)


def _gauge(name: str, value: Value | str, help_: str, **more: Any) -> _Family:
    read: Value = (lambda row: row.counters[value]) if isinstance(value, str) else value
    return _Family(name, "gauge", help_, _plain(read), **more)


def _states(name: str, states: Sequence[str], current: Callable[[Any], str], help_: str, **more: Any) -> _Family:
    """One series per state, 1 for the one that holds."""

    def samples(name: str, labels: str, row: Any) -> Iterable[str]:
        now = current(row)
        return [f'{name}{labels},state="{state}"}} {int(state == now)}\n' for state in states]

    return _Family(name, "gauge", help_, samples, **more)


def _aggregate(name: str, help_: str) -> _Family:
    """One series per state, with the number of servers in it."""

    def samples(name: str, labels: str, row: BackendRow) -> Iterable[str]:
        found = [server.label for server in row.servers]
        return [f'{name}{labels},state="{state}"}} {found.count(state)}\n' for state in _SERVER_STATES]  # type: ignore[arg-type]

    return _Family(name, "gauge", help_, samples)


def _responses(name: str, labels: str, row: FrontendRow | BackendRow | ServerRow) -> Iterable[str]:
    counters = row.counters
    return [f'{name}{labels},code="{code}"}} {counters[f"hrsp_{code}"]}\n' for code in _CODES]


def _histogram(name: str, which: str, total: str, help_: str, **more: Any) -> _Family:
    """`le` are the buckets' upper bounds in seconds; `total` names the counter with the sum of microseconds."""

    def samples(name: str, labels: str, row: BackendRow) -> Iterable[str]:
        below = list(accumulate(row.histograms[which]))
        for edge in _EDGES:
            yield f'{name}_bucket{labels},le="{_seconds(2**edge)}"}} {below[edge]}\n'
        yield f'{name}_bucket{labels},le="+Inf"}} {below[-1]}\n'
        yield f"{name}_sum{labels}}} {_seconds(row.counters[total])}\n"
        yield f"{name}_count{labels}}} {below[-1]}\n"

    return _Family(name, "histogram", help_, samples, **more)


def _seconds(microseconds: float) -> str:
    return f"{microseconds * 1e-6:.6f}".rstrip("0").rstrip(".")


def _has_cache(row: BackendRow) -> bool:
    return row.entry.cache_size > 0


def _is_http(row: FrontendRow | BackendRow) -> bool:
    return row.entry.mode == "http"


def _is_udp(row: FrontendRow) -> bool:
    return row.entry.mode == "udp"


def _is_checked(row: ServerRow) -> bool:
    return row.entry.is_checked


def _last_session(row: BackendRow | ServerRow, now: float) -> int:
    last = row.counters["lastsess"]
    return max(int(now) - last, 0) if last else -1


def _current_session_rate(prefix: str) -> tuple[_Family, _Family]:
    return (
        _gauge(
            f"{prefix}_current_session_rate",
            lambda row: row.rate.sessions,
            "Number of sessions per second over the last elapsed second.",
        ),
        _gauge(
            f"{prefix}_max_session_rate",
            lambda row: row.rate.sessions_max,
            "Highest value of sessions per second observed since the control process started.",
        ),
    )


def _common(prefix: str) -> list[_Family]:
    return [
        _gauge(f"{prefix}_current_sessions", "scur", "Number of current sessions."),
        _gauge(f"{prefix}_max_sessions", "smax", "Highest value of current sessions encountered since start."),
        _counter(f"{prefix}_sessions_total", "stot", "Total number of sessions since start."),
        _counter(f"{prefix}_bytes_in_total", "bin", "Total number of request bytes since start."),
        _counter(f"{prefix}_bytes_out_total", "bout", "Total number of response bytes since start."),
        _counter(f"{prefix}_responses_denied_total", "dresp", "Total number of denied responses since start."),
        _counter(f"{prefix}_internal_errors_total", "eint", "Total number of internal errors since start."),
        *_current_session_rate(prefix),
    ]


def _cached(prefix: str) -> list[_Family]:
    return [
        _counter(
            f"{prefix}_http_cache_lookups_total", "cache_lookups", "Total number of cache lookups.", applies=_is_http
        ),
        _counter(f"{prefix}_http_cache_hits_total", "cache_hits", "Total number of cache hits.", applies=_is_http),
    ]


def _compressed(prefix: str) -> list[_Family]:
    """What frontends and backends of mode http have in common."""
    return [
        _counter(
            f"{prefix}_http_comp_bytes_in_total", "comp_in", "Total number of bytes compressed.", applies=_is_http
        ),
        _counter(
            f"{prefix}_http_comp_bytes_out_total",
            "comp_out",
            "Total number of bytes that they were compressed to.",
            applies=_is_http,
        ),
        _counter(
            f"{prefix}_http_comp_bytes_bypassed_total",
            "comp_byp",
            "Total number of bytes not compressed because of a limit (processor, memory).",
            applies=_is_http,
        ),
        _counter(
            f"{prefix}_http_comp_responses_total",
            "comp_rsp",
            "Total number of HTTP responses that were compressed.",
            applies=_is_http,
        ),
    ]


def _served(prefix: str) -> list[_Family]:
    """What backends and servers have in common."""
    families = [
        *_common(prefix),
        _gauge(f"{prefix}_current_queue", "qcur", "Number of current queued connections."),
        _gauge(f"{prefix}_max_queue", "qmax", "Highest value of queued connections encountered since start."),
        _counter(f"{prefix}_connection_errors_total", "econ", "Total number of failed connections to servers."),
        _counter(f"{prefix}_response_errors_total", "eresp", "Total number of invalid responses."),
        _counter(f"{prefix}_retry_warnings_total", "wretr", "Total number of server connection retries."),
        _counter(f"{prefix}_redispatch_warnings_total", "wredis", "Total number of redispatches to another server."),
        _counter(f"{prefix}_client_aborts_total", "cli_abrt", "Total number of transfers aborted by the client."),
        _counter(f"{prefix}_server_aborts_total", "srv_abrt", "Total number of transfers aborted by the server."),
        _counter(f"{prefix}_loadbalanced_total", "lbtot", "Total number of times it was chosen by load balancing."),
        _counter(f"{prefix}_connection_attempts_total", "connect", "Total number of connections tried to servers."),
        _counter(f"{prefix}_connection_reuses_total", "reuse", "Total number of reused server connections."),
    ]
    for phase, words in (
        ("queue", "spent in the queue"),
        ("connect", "waiting for a connection to complete"),
        ("response", "waiting for a server's response"),
        ("total", "from request to end of response"),
    ):
        families += [
            _gauge(
                f"{prefix}_{phase}_time_average_seconds",
                _average(phase),
                f"Average time {words} for about the last 1024 sessions.",
            ),
            _gauge(
                f"{prefix}_max_{phase}_time_seconds",
                _maximum(f"{phase[0]}time_max"),
                f"Maximum observed time {words}.",
            ),
        ]
    return families


def _average(phase: str) -> Value:
    # Looked up by one name for ever: the interpreter's cache of attributes keeps each new string that it is asked for.
    time = attrgetter(f"rate.{phase}_time")
    return lambda row: _seconds(time(row) * 1e6)


def _maximum(key: str) -> Value:
    return lambda row: _seconds(row.counters[key])


_FRONTEND = [
    *_common("haproxy_frontend"),
    _gauge("haproxy_frontend_limit_sessions", lambda row: row.entry.limit, "The frontend's maxconn."),
    _counter("haproxy_frontend_requests_denied_total", "dreq", "Total number of denied requests."),
    _counter("haproxy_frontend_request_errors_total", "ereq", "Total number of invalid requests."),
    _states(
        "haproxy_frontend_status",
        ("DOWN", "UP"),
        lambda row: "DOWN" if row.status == "STOP" else "UP",
        "Current status of the service, per state label value.",
    ),
    _gauge(
        "haproxy_frontend_connections_rate_max",
        lambda row: row.rate.connections_max,
        "Highest value of connections per second observed since the control process started.",
    ),
    _counter("haproxy_frontend_connections_total", "conn_tot", "Total number of new connections accepted."),
    _counter("haproxy_frontend_denied_connections_total", "dcon", "Total number of connections denied."),
    _counter("haproxy_frontend_denied_sessions_total", "dses", "Total number of sessions denied."),
    _Family(
        "haproxy_frontend_http_responses_total", "counter", "Total number of HTTP responses.", _responses, _is_http
    ),
    _gauge(
        "haproxy_frontend_http_requests_rate_max",
        lambda row: row.rate.requests_max,
        "Highest value of HTTP requests per second observed since the control process started.",
        applies=_is_http,
    ),
    _counter("haproxy_frontend_http_requests_total", "req_tot", "Total number of HTTP requests.", applies=_is_http),
    _counter(
        "haproxy_frontend_intercepted_requests_total",
        "intercepted",
        "Total number of HTTP requests answered by the balancer itself.",
        applies=_is_http,
    ),
    *_compressed("haproxy_frontend"),
    *_cached("haproxy_frontend"),
    _counter(
        "pybalancer_frontend_udp_dropped_total",
        "udp_dropped",
        "Datagrams dropped: malformed, or no room to remember them.",
        applies=_is_udp,
    ),
    _counter("pybalancer_frontend_udp_late_total", "udp_late", "Answers that came too late or twice.", applies=_is_udp),
    _counter(
        "pybalancer_frontend_udp_forged_total",
        "udp_forged",
        "Answers with a wrong id or question.",
        applies=_is_udp,
    ),
]

_BACKEND = [
    *_served("haproxy_backend"),
    _counter("haproxy_backend_requests_denied_total", "dreq", "Total number of denied requests."),
    _states(
        "haproxy_backend_status",
        ("DOWN", "UP"),
        lambda row: row.status,
        "Current status of the service, per state label value.",
    ),
    _gauge("haproxy_backend_weight", lambda row: row.weight, "Sum of the weights of the servers in use."),
    _gauge(
        "haproxy_backend_uweight",
        lambda row: sum(server.entry.weight for server in row.servers if not server.entry.backup),
        "Sum of the configured weights of the active servers.",
    ),
    _gauge("haproxy_backend_active_servers", lambda row: row.active, "Active UP servers with a non-zero weight."),
    _gauge("haproxy_backend_backup_servers", lambda row: row.backup, "Backup UP servers with a non-zero weight."),
    _Family(
        "haproxy_backend_check_up_down_total",
        "counter",
        "Total number of UP to DOWN transitions since the control process started.",
        _plain(lambda row: row.downs),
    ),
    _gauge(
        "haproxy_backend_check_last_change_seconds",
        lambda row: int(row.since),
        "How long ago the last state change was, in seconds.",
    ),
    _Family(
        "haproxy_backend_downtime_seconds_total",
        "counter",
        "Total time spent in DOWN state since the control process started.",
        _plain(lambda row: int(row.downtime)),
    ),
    _Family("haproxy_backend_http_responses_total", "counter", "Total number of HTTP responses.", _responses, _is_http),
    _counter("haproxy_backend_http_requests_total", "req_tot", "Total number of HTTP requests.", applies=_is_http),
    *_compressed("haproxy_backend"),
    *_cached("haproxy_backend"),
    _gauge("pybalancer_backend_cache_objects", "cache_objects", "Objects in the cache.", applies=_has_cache),
    _gauge("pybalancer_backend_cache_bytes", "cache_octets", "What they take.", applies=_has_cache),
    _aggregate("haproxy_backend_agg_server_status", "Number of servers in each status."),
    _histogram(
        "pybalancer_backend_connect_seconds", "connect", "ctime", "Time waiting for a server connection to complete."
    ),
    _histogram(
        "pybalancer_backend_response_seconds",
        "response",
        "rtime",
        "Time from the request sent to the head of the response.",
    ),
    _histogram("pybalancer_backend_total_seconds", "total", "ttime", "Time from request to end of response."),
]

_SERVER = [
    *_served("haproxy_server"),
    _gauge(
        "haproxy_server_limit_sessions",
        lambda row: row.entry.maxconn,
        "The server's maxconn.",
        applies=lambda row: row.entry.maxconn > 0,
    ),
    _gauge(
        "haproxy_server_queue_limit",
        lambda row: row.entry.maxqueue,
        "The server's maxqueue.",
        applies=lambda row: row.entry.maxqueue > 0,
    ),
    _states(
        "haproxy_server_status",
        _SERVER_STATES,
        lambda row: row.label,
        "Current status of the service, per state label value.",
    ),
    _gauge("haproxy_server_weight", lambda row: row.state.effective_weight, "The server's effective weight."),
    _gauge("haproxy_server_uweight", lambda row: row.entry.weight, "The server's configured weight."),
    _gauge("haproxy_server_active", lambda row: int(not row.entry.backup), "1 if the server is active."),
    _gauge("haproxy_server_backup", lambda row: int(row.entry.backup), "1 if the server is a backup."),
    _states(
        "haproxy_server_check_status",
        _CHECK_STATES,
        lambda row: row.check.code if row.check else "",
        "Status of the last health check, per state label value.",
        applies=_is_checked,
    ),
    _gauge(
        "haproxy_server_check_code",
        lambda row: row.check.status or 0 if row.check else 0,
        "Layer 5-7 code, if available, of the last health check.",
        applies=_is_checked,
    ),
    _gauge(
        "haproxy_server_check_duration_seconds",
        lambda row: _seconds(row.check.duration * 1e6) if row.check else 0,
        "Total duration of the latest health check, in seconds.",
        applies=_is_checked,
    ),
    _Family(
        "haproxy_server_check_failures_total",
        "counter",
        "Total number of failed health checks.",
        _plain(lambda row: row.state.check_failures),
        _is_checked,
    ),
    _Family(
        "haproxy_server_check_up_down_total",
        "counter",
        "Total number of UP to DOWN transitions.",
        _plain(lambda row: row.state.downs),
        _is_checked,
    ),
    _gauge(
        "haproxy_server_check_last_change_seconds",
        lambda row: int(row.since),
        "How long ago the last state change was, in seconds.",
    ),
    _Family(
        "haproxy_server_downtime_seconds_total",
        "counter",
        "Total time spent in DOWN state.",
        _plain(lambda row: int(row.downtime)),
    ),
    _gauge("haproxy_server_idle_connections_current", "srv_icur", "Idle connections available for reuse."),
]
_SERVER_HTTP = [
    _Family("haproxy_server_http_responses_total", "counter", "Total number of HTTP responses.", _responses),
    _counter("haproxy_server_http_requests_total", "req_tot", "Total number of HTTP requests."),
]

# keepalived's numbers of its states (keepalived/include/vrrp.h).
_ROUTER_STATES = {"INIT": 0, "BACKUP": 1, "MASTER": 2, "FAULT": 3, "STOPPED": 98}
# A trouble that was not seen for so long is over (seconds).
_OVER = 300.0


def _of_router(key: str, name: str, help_: str) -> _Family:
    return _Family(name, "counter", help_, _plain(lambda row: row.counters.get(key, 0)))


def _router_states(name: str, labels: str, row: RouterFacts) -> Iterable[str]:
    """One series per address, whoever holds it."""
    state = _ROUTER_STATES.get(row.state, 0)
    addresses = [address.partition("/")[0] for address in row.addresses] or [""]
    return [f'{name}{labels},ip_address="{_escape(address)}"}} {state}\n' for address in addresses]


def _terms(name: str, labels: str, row: RouterFacts) -> Iterable[str]:
    amounts: dict[str, int] = {}
    for term in row.terms:
        amounts[term.what] = amounts.get(term.what, 0) + term.amount
    return [f'{name}{labels},term="{_escape(what)}"}} {amount}\n' for what, amount in amounts.items()]


_ROUTER = [
    _Family("keepalived_vrrp_state", "gauge", "State of vrrp", _router_states),
    _of_router("advert_rcvd", "keepalived_advertisements_received_total", "Advertisements received"),
    _of_router("advert_sent", "keepalived_advertisements_sent_total", "Advertisements sent"),
    _of_router("become_master", "keepalived_become_master_total", "Became master"),
    _of_router("release_master", "keepalived_release_master_total", "Released master"),
    _of_router("packet_len_err", "keepalived_packet_length_errors_total", "Packet length errors"),
    _of_router(
        "advert_interval_err", "keepalived_advertisements_interval_errors_total", "Advertisement interval errors"
    ),
    _of_router("ip_ttl_err", "keepalived_ip_ttl_errors_total", "TTL errors"),
    _of_router("invalid_type_rcvd", "keepalived_invalid_type_received_total", "Invalid type errors"),
    _of_router("addr_list_err", "keepalived_address_list_errors_total", "Address list errors"),
    _of_router("invalid_authtype", "keepalived_authentication_invalid_total", "Authentication invalid"),
    _of_router("authtype_mismatch", "keepalived_authentication_mismatch_total", "Authentication mismatch"),
    _of_router("auth_failure", "keepalived_authentication_failure_total", "Authentication failure"),
    _of_router("pri_zero_rcvd", "keepalived_priority_zero_received_total", "Priority zero received"),
    _of_router("pri_zero_sent", "keepalived_priority_zero_sent_total", "Priority zero sent"),
    _of_router("checksum_err", "pybalancer_vrrp_checksum_errors_total", "Advertisements with a wrong checksum."),
    _of_router("version_err", "pybalancer_vrrp_version_errors_total", "Advertisements of another version of VRRP."),
    _of_router("vrid_err", "pybalancer_vrrp_vrid_errors_total", "Advertisements with a virtual router id not ours."),
    _of_router(
        "source_err", "pybalancer_vrrp_source_errors_total", "Advertisements from addresses of no network here."
    ),
    _of_router(
        "lower_priority_rcvd",
        "pybalancer_vrrp_lower_priority_received_total",
        "Advertisements of another master with a lower priority, heard while master.",
    ),
    _of_router(
        "equal_priority_rcvd",
        "pybalancer_vrrp_equal_priority_received_total",
        "Advertisements of another master with the same priority, heard while master.",
    ),
    _of_router("garp_sent", "pybalancer_vrrp_announcements_sent_total", "Gratuitous ARP and unsolicited NA sent."),
    _of_router("address_lost", "pybalancer_vrrp_addresses_lost_total", "Addresses that were lost while master."),
    _gauge("pybalancer_vrrp_priority", lambda row: row.priority, "Effective priority."),
    _gauge("pybalancer_vrrp_base_priority", lambda row: row.base_priority, "Configured priority."),
    _Family("pybalancer_vrrp_priority_term", "gauge", "What the effective priority is the sum of.", _terms),
    _gauge(
        "pybalancer_vrrp_released",
        lambda row: int(row.released_until is not None),
        "1 while addresses are left to other directors by hand.",
    ),
]
_SCRIPT = [
    _gauge(
        "keepalived_script_status",
        lambda row: int(row.is_good),
        "Tracker Script Status",
        # keepalived's is bad or good, nothing else.
        applies=lambda row: row.is_good is not None,
    )
]
_PEER = [_gauge("pybalancer_vrrp_peer_alive", lambda row: int(row.is_alive), "1 while its heartbeat is heard.")]

# Lines put together before they are handed on: some 100 KiB.
_LINES = 1024


def pieces(snapshot: Snapshot) -> Generator[str, None, None]:
    """The exposition in pieces of some 100 KiB, so that a caller can do other things in between."""
    lines: list[str] = []
    for line in _lines(snapshot):
        lines.append(line)
        if len(lines) >= _LINES:
            yield "".join(lines)
            lines.clear()
    yield "".join(lines)


def render(snapshot: Snapshot) -> bytes:
    """The whole exposition."""
    return "".join(_lines(snapshot)).encode("utf-8", "replace")


def _lines(snapshot: Snapshot) -> Iterator[str]:
    yield from _process(snapshot)
    now = snapshot.now
    frontends = [(f'{{proxy="{row.name}"', row) for row in snapshot.frontends]
    backends = [(f'{{proxy="{row.name}"', row) for row in snapshot.backends]
    servers = [
        (f'{{proxy="{backend.name}",server="{row.name}"', row, _is_http(backend))
        for backend in snapshot.backends
        for row in backend.servers
    ]
    all_servers = [(labels, row) for labels, row, _ in servers]
    yield from _families(_FRONTEND, frontends)
    yield from _families([*_BACKEND, _last_sessions("haproxy_backend", now)], backends)
    yield from _families([*_SERVER, _last_sessions("haproxy_server", now)], all_servers)
    yield from _families(_SERVER_HTTP, [(labels, row) for labels, row, is_http in servers if is_http])
    if snapshot.routers is not None:
        yield from _routers(snapshot.routers, now)


def _routers(standing: Standing, now: float) -> Iterator[str]:
    stale = is_stale(standing, now)
    yield f"# HELP keepalived_up Status\n# TYPE keepalived_up gauge\nkeepalived_up {int(not stale)}\n"
    if stale:
        # As the exporter does when keepalived says nothing: what it said last would be taken for the present.
        return
    of_now = [
        _gauge(
            "pybalancer_vrrp_last_change_seconds",
            lambda row: int(max(now - row.since, 0)),
            "How long ago the last change of state was, in seconds.",
        ),
        _gauge(
            "pybalancer_vrrp_troubles",
            lambda row: sum(trouble.last > now - _OVER for trouble in row.troubles),
            "Kinds of trouble in the network seen in the last 5 minutes.",
        ),
    ]
    routers = [
        (f'{{iname="{_escape(row.name)}",intf="{_escape(row.interface)}",vrid="{row.vrid}"', row)
        for row in standing.routers
    ]
    yield from _families([*_ROUTER, *of_now], routers)
    yield from _families(_SCRIPT, [(f'{{name="{_escape(row.name)}"', row) for row in standing.scripts])
    yield from _families(_PEER, [(f'{{address="{_escape(row.address)}"', row) for row in standing.peers])


def _families(families: Iterable[_Family], rows: Sequence[tuple[str, Row]]) -> Iterator[str]:
    for name, type_, help_, samples, applies in families:
        concerned = [labelled for labelled in rows if applies(labelled[1])]
        if concerned:
            yield f"# HELP {name} {help_}\n# TYPE {name} {type_}\n"
            for labels, row in concerned:
                yield from samples(name, labels, row)


def _last_sessions(prefix: str, now: float) -> _Family:
    return _gauge(
        f"{prefix}_last_session_seconds",
        lambda row: _last_session(row, now),
        "How long ago some traffic was seen, in seconds; -1 if never.",
    )


def _process(snapshot: Snapshot) -> Iterator[str]:
    process, counters, rate = snapshot.process, snapshot.counters, snapshot.rate
    gauges: Mapping[str, tuple[str, float | int]] = {
        "nbproc": ("Number of worker processes.", process.workers),
        "uptime_seconds": ("How long ago the daemon was started, in seconds.", int(snapshot.uptime)),
        "start_time_seconds": ("Start time in seconds.", int(process.started)),
        "max_connections": ("Limit on the number of client connections.", process.maxconn),
        "current_connections": ("Current number of client connections.", counters["scur"]),
        "current_tasks": ("Current number of asyncio tasks of the workers.", counters["tasks"]),
        "current_connection_rate": ("Connections accepted over the last second.", rate.connections),
        "max_connection_rate": ("Highest number of connections accepted in a second.", rate.connections_max),
        "current_session_rate": ("Sessions created over the last second.", rate.sessions),
        "max_session_rate": ("Highest number of sessions created in a second.", rate.sessions_max),
        "stopping": ("1 if the daemon is stopping, otherwise zero.", int(process.stopping)),
    }
    totals: Mapping[str, tuple[str, int]] = {
        "connections_total": ("Total number of client connections.", counters["conn_tot"]),
        "requests_total": ("Total number of requests and queries.", snapshot.requests),
        "bytes_out_total": ("Total number of bytes sent to clients.", snapshot.bytes_out),
        "dropped_logs_total": ("Total number of log records dropped.", counters["log_dropped"]),
    }
    for name, (help_, value) in gauges.items():
        yield _process_family(name, "gauge", help_, f" {value}")
    for name, (help_, value) in totals.items():
        yield _process_family(name, "counter", help_, f" {value}")
    for name, label, text in (
        ("build_info", "version", process.version),
        ("node", "node", process.node),
        ("description", "desc", process.description),
    ):
        yield _process_family(name, "gauge", f"The {label} as a label.", f'{{{label}="{_escape(text)}"}} 1')


def _process_family(name: str, type_: str, help_: str, sample: str) -> str:
    full = f"haproxy_process_{name}"
    return f"# HELP {full} {help_}\n# TYPE {full} {type_}\n{full}{sample}\n"
