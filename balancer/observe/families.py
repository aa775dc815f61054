"""The families of metrics: what each is called, and where its numbers come from.

Names and labels are those of HAProxy's exporter (addons/promex), so far as pybalancer has what they tell; its values
are this program's. What pybalancer never has (TLS of clients, pipes, peers) is 0 where it counts the whole process, as
in `show info`. What does not apply to a row is left out of it, where HAProxy says NaN. Our own are `pybalancer_…`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from balancer.observe import info
from balancer.observe.snapshot import BackendRow, FrontendRow, ServerRow, Snapshot
from balancer.pool.orders import WHOLE

__all__ = [
    "BACKEND", "FRONTEND", "PROCESS", "SERVER", "SERVER_HTTP", "TABLE", "Family", "Samples", "Table", "bare", "escape",
    "gauge", "is_http", "last_sessions", "plain", "process", "seconds",
]  # fmt: skip

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

Value = Callable[[Any], float | int | str]
Samples = Callable[[str, str, Any], Iterable[str]]


class Family(NamedTuple):
    """A metric of a kind of row. `samples(name, labels, row)` gives its lines; `labels` lacks the closing brace."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    samples: Samples
    applies: Callable[[Any], bool] = lambda _: True


def escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def plain(value: Value) -> Samples:
    return lambda name, labels, row: (f"{name}{labels}}} {value(row)}\n",)


def bare(value: Value) -> Samples:
    """The same of what has no label."""
    return lambda name, _, row: (f"{name} {value(row)}\n",)


def _counter(name: str, key: str, help_: str, **more: Any) -> Family:
    return Family(name, "counter", help_, plain(lambda row: row.counters[key]), **more)


def gauge(name: str, value: Value | str, help_: str, **more: Any) -> Family:
    read: Value = (lambda row: row.counters[value]) if isinstance(value, str) else value
    return Family(name, "gauge", help_, plain(read), **more)


def _states(name: str, states: Sequence[str], current: Callable[[Any], str], help_: str, **more: Any) -> Family:
    """One series per state, 1 for the one that holds."""

    def samples(name: str, labels: str, row: Any) -> Iterable[str]:
        now = current(row)
        return [f'{name}{labels},state="{state}"}} {int(state == now)}\n' for state in states]

    return Family(name, "gauge", help_, samples, **more)


def _aggregate(name: str, states: Sequence[str], current: Callable[[ServerRow], str], help_: str) -> Family:
    """One series per state, with the number of servers in it."""

    def samples(name: str, labels: str, row: BackendRow) -> Iterable[str]:
        found = Counter(map(current, row.servers))
        return [f'{name}{labels},state="{state}"}} {found[state]}\n' for state in states]

    return Family(name, "gauge", help_, samples)


def _responses(name: str, labels: str, row: FrontendRow | BackendRow | ServerRow) -> Iterable[str]:
    counters = row.counters
    return [f'{name}{labels},code="{code}"}} {counters[f"hrsp_{code}"]}\n' for code in _CODES]


def _histogram(name: str, which: str, total: str, help_: str, **more: Any) -> Family:
    """`le` are the buckets' upper bounds in seconds; `total` names the counter with the sum of microseconds."""

    def samples(name: str, labels: str, row: BackendRow) -> Iterable[str]:
        below = list(accumulate(row.histograms[which]))
        for edge in _EDGES:
            yield f'{name}_bucket{labels},le="{seconds(2**edge)}"}} {below[edge]}\n'
        yield f'{name}_bucket{labels},le="+Inf"}} {below[-1]}\n'
        yield f"{name}_sum{labels}}} {seconds(row.counters[total])}\n"
        yield f"{name}_count{labels}}} {below[-1]}\n"

    return Family(name, "histogram", help_, samples, **more)


def seconds(microseconds: float) -> str:
    return f"{microseconds * 1e-6:.6f}".rstrip("0").rstrip(".")


def _has_cache(row: BackendRow) -> bool:
    return row.entry.cache_size > 0


def is_http(row: FrontendRow | BackendRow) -> bool:
    return row.entry.mode == "http"


def _is_udp(row: FrontendRow) -> bool:
    return row.entry.mode == "udp"


def _is_checked(row: ServerRow) -> bool:
    return row.entry.is_checked


def _check_state(row: ServerRow) -> str:
    return row.check.code if row.check is not None else ""


def _last_session(row: BackendRow | ServerRow, now: float) -> int:
    last = row.counters["lastsess"]
    return max(int(now) - last, 0) if last else -1


def _current_session_rate(prefix: str) -> tuple[Family, Family]:
    return (
        gauge(
            f"{prefix}_current_session_rate",
            lambda row: row.rate.sessions,
            "Number of sessions per second over the last elapsed second.",
        ),
        gauge(
            f"{prefix}_max_session_rate",
            lambda row: row.rate.sessions_max,
            "Highest value of sessions per second observed since the control process started.",
        ),
    )


def _common(prefix: str) -> list[Family]:
    return [
        gauge(f"{prefix}_current_sessions", "scur", "Number of current sessions."),
        gauge(f"{prefix}_max_sessions", "smax", "Highest value of current sessions encountered since start."),
        _counter(f"{prefix}_sessions_total", "stot", "Total number of sessions since start."),
        _counter(f"{prefix}_bytes_in_total", "bin", "Total number of request bytes since start."),
        _counter(f"{prefix}_bytes_out_total", "bout", "Total number of response bytes since start."),
        _counter(f"{prefix}_responses_denied_total", "dresp", "Total number of denied responses since start."),
        _counter(f"{prefix}_internal_errors_total", "eint", "Total number of internal errors since start."),
        Family(
            f"{prefix}_failed_header_rewriting_total",
            "counter",
            "Total number of header fields that could not be rewritten: none, there is always room.",
            plain(lambda _: 0),
        ),
        *_current_session_rate(prefix),
    ]


def _cached(prefix: str) -> list[Family]:
    return [
        _counter(
            f"{prefix}_http_cache_lookups_total", "cache_lookups", "Total number of cache lookups.", applies=is_http
        ),
        _counter(f"{prefix}_http_cache_hits_total", "cache_hits", "Total number of cache hits.", applies=is_http),
    ]


def _compressed(prefix: str) -> list[Family]:
    """What frontends and backends of mode http have in common."""
    return [
        _counter(f"{prefix}_http_comp_bytes_in_total", "comp_in", "Total number of bytes compressed.", applies=is_http),
        _counter(
            f"{prefix}_http_comp_bytes_out_total",
            "comp_out",
            "Total number of bytes that they were compressed to.",
            applies=is_http,
        ),
        _counter(
            f"{prefix}_http_comp_bytes_bypassed_total",
            "comp_byp",
            "Total number of bytes not compressed because of a limit (processor, memory).",
            applies=is_http,
        ),
        _counter(
            f"{prefix}_http_comp_responses_total",
            "comp_rsp",
            "Total number of HTTP responses that were compressed.",
            applies=is_http,
        ),
    ]


def _served(prefix: str) -> list[Family]:
    """What backends and servers have in common."""
    families = [
        *_common(prefix),
        gauge(f"{prefix}_current_queue", "qcur", "Number of current queued connections."),
        gauge(f"{prefix}_max_queue", "qmax", "Highest value of queued connections encountered since start."),
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
            gauge(
                f"{prefix}_{phase}_time_average_seconds",
                _average(phase),
                f"Average time {words} for about the last 1024 sessions.",
            ),
            gauge(
                f"{prefix}_max_{phase}_time_seconds",
                _maximum(f"{phase[0]}time_max"),
                f"Maximum observed time {words}.",
            ),
        ]
    return families


def _average(phase: str) -> Value:
    # Looked up by one name for ever: the interpreter's cache of attributes keeps each new string that it is asked for.
    time = attrgetter(f"rate.{phase}_time")
    return lambda row: seconds(time(row) * 1e6)


def _maximum(key: str) -> Value:
    return lambda row: seconds(row.counters[key])


FRONTEND = [
    *_common("haproxy_frontend"),
    gauge("haproxy_frontend_limit_sessions", lambda row: row.entry.limit, "The frontend's maxconn."),
    gauge("haproxy_frontend_limit_session_rate", lambda _: 0, "Limit on sessions per second: none."),
    _counter("haproxy_frontend_requests_denied_total", "dreq", "Total number of denied requests."),
    _counter("haproxy_frontend_request_errors_total", "ereq", "Total number of invalid requests."),
    _states(
        "haproxy_frontend_status",
        ("DOWN", "UP"),
        lambda row: "DOWN" if row.status == "STOP" else "UP",
        "Current status of the service, per state label value.",
    ),
    gauge(
        "haproxy_frontend_connections_rate_max",
        lambda row: row.rate.connections_max,
        "Highest value of connections per second observed since the control process started.",
    ),
    _counter("haproxy_frontend_connections_total", "conn_tot", "Total number of new connections accepted."),
    _counter("haproxy_frontend_denied_connections_total", "dcon", "Total number of connections denied."),
    _counter("haproxy_frontend_denied_sessions_total", "dses", "Total number of sessions denied."),
    Family("haproxy_frontend_http_responses_total", "counter", "Total number of HTTP responses.", _responses, is_http),
    gauge(
        "haproxy_frontend_http_requests_rate_max",
        lambda row: row.rate.requests_max,
        "Highest value of HTTP requests per second observed since the control process started.",
        applies=is_http,
    ),
    _counter("haproxy_frontend_http_requests_total", "req_tot", "Total number of HTTP requests.", applies=is_http),
    _counter(
        "haproxy_frontend_intercepted_requests_total",
        "intercepted",
        "Total number of HTTP requests answered by the balancer itself.",
        applies=is_http,
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

BACKEND = [
    *_served("haproxy_backend"),
    _counter("haproxy_backend_requests_denied_total", "dreq", "Total number of denied requests."),
    _states(
        "haproxy_backend_status",
        ("DOWN", "UP"),
        lambda row: row.status,
        "Current status of the service, per state label value.",
    ),
    gauge("haproxy_backend_weight", lambda row: row.weight, "Sum of the weights of the servers in use."),
    gauge("haproxy_backend_limit_sessions", lambda row: row.entry.fullconn, "The backend's fullconn."),
    gauge("haproxy_backend_uweight", lambda row: row.uweight, "The same of their weights as they were set."),
    gauge("haproxy_backend_active_servers", lambda row: row.active, "Active UP servers with a non-zero weight."),
    gauge("haproxy_backend_backup_servers", lambda row: row.backup, "Backup UP servers with a non-zero weight."),
    Family(
        "haproxy_backend_check_up_down_total",
        "counter",
        "Total number of UP to DOWN transitions since the control process started.",
        plain(lambda row: row.downs),
    ),
    gauge(
        "haproxy_backend_check_last_change_seconds",
        lambda row: int(row.since),
        "How long ago the last state change was, in seconds.",
    ),
    Family(
        "haproxy_backend_downtime_seconds_total",
        "counter",
        "Total time spent in DOWN state since the control process started.",
        plain(lambda row: int(row.downtime)),
    ),
    Family("haproxy_backend_http_responses_total", "counter", "Total number of HTTP responses.", _responses, is_http),
    _counter("haproxy_backend_http_requests_total", "req_tot", "Total number of HTTP requests.", applies=is_http),
    *_compressed("haproxy_backend"),
    *_cached("haproxy_backend"),
    gauge("pybalancer_backend_cache_objects", "cache_objects", "Objects in the cache.", applies=_has_cache),
    gauge("pybalancer_backend_cache_bytes", "cache_octets", "What they take.", applies=_has_cache),
    _aggregate(
        "haproxy_backend_agg_server_status", _SERVER_STATES, lambda row: row.label, "Number of servers in each status."
    ),
    _aggregate(
        "haproxy_backend_agg_server_check_status",
        _SERVER_STATES,
        lambda row: row.label,
        "Number of servers in each status, by the name of HAProxy 2.4 and 2.5.",
    ),
    _aggregate(
        "haproxy_backend_agg_check_status",
        _CHECK_STATES,
        _check_state,
        "Number of servers whose last check ended in each way.",
    ),
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

SERVER = [
    *_served("haproxy_server"),
    gauge(
        "haproxy_server_limit_sessions",
        lambda row: row.entry.maxconn,
        "The server's maxconn.",
        applies=lambda row: row.entry.maxconn > 0,
    ),
    gauge(
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
    gauge("haproxy_server_weight", lambda row: row.state.effective_weight, "The server's effective weight."),
    gauge("haproxy_server_uweight", lambda row: row.state.weight, "The server's weight as it was set."),
    gauge("haproxy_server_active", lambda row: int(not row.entry.backup), "1 if the server is active."),
    gauge("haproxy_server_backup", lambda row: int(row.entry.backup), "1 if the server is a backup."),
    _states(
        "haproxy_server_check_status",
        _CHECK_STATES,
        _check_state,
        "Status of the last health check, per state label value.",
        applies=_is_checked,
    ),
    gauge(
        "haproxy_server_check_code",
        lambda row: row.check.status or 0 if row.check else 0,
        "Layer 5-7 code, if available, of the last health check.",
        applies=_is_checked,
    ),
    gauge(
        "haproxy_server_check_duration_seconds",
        lambda row: seconds(row.check.duration * 1e6) if row.check else 0,
        "Total duration of the latest health check, in seconds.",
        applies=_is_checked,
    ),
    Family(
        "haproxy_server_check_failures_total",
        "counter",
        "Total number of failed health checks.",
        plain(lambda row: row.state.check_failures),
        _is_checked,
    ),
    Family(
        "haproxy_server_check_up_down_total",
        "counter",
        "Total number of UP to DOWN transitions.",
        plain(lambda row: row.state.downs),
        _is_checked,
    ),
    gauge(
        "haproxy_server_check_last_change_seconds",
        lambda row: int(row.since),
        "How long ago the last state change was, in seconds.",
    ),
    Family(
        "haproxy_server_downtime_seconds_total",
        "counter",
        "Total time spent in DOWN state.",
        plain(lambda row: int(row.downtime)),
    ),
    gauge(
        "haproxy_server_current_throttle",
        lambda row: row.state.throttle,
        "How much of its weight a server has that came up lately, in percent.",
        applies=lambda row: row.state.throttle < WHOLE,
    ),
    gauge("haproxy_server_idle_connections_current", "srv_icur", "Idle connections available for reuse."),
    gauge("haproxy_server_unsafe_idle_connections_current", "srv_icur", "Those that may be gone when they are used."),
    gauge("haproxy_server_safe_idle_connections_current", lambda _: 0, "Those that are known to be there: none."),
    gauge("haproxy_server_used_connections_current", "scur", "Connections in use."),
    gauge("haproxy_server_need_connections_current", "scur", "Connections that are needed."),
]
SERVER_HTTP = [
    Family("haproxy_server_http_responses_total", "counter", "Total number of HTTP responses.", _responses),
    _counter("haproxy_server_http_requests_total", "req_tot", "Total number of HTTP requests."),
]


class Table(NamedTuple):
    """What clients of a frontend with limits have taken."""

    size: int
    used: int


TABLE = [
    gauge("haproxy_sticktable_size", lambda row: row.size, "Entries that a table of client addresses has room for."),
    gauge("haproxy_sticktable_used", lambda row: row.used, "Entries in use."),
]


def last_sessions(prefix: str, now: float) -> Family:
    return gauge(
        f"{prefix}_last_session_seconds",
        lambda row: _last_session(row, now),
        "How long ago some traffic was seen, in seconds; -1 if never.",
    )


def _fact(name: str, key: str, help_: str, type_: Literal["counter", "gauge"] = "gauge") -> Family:
    """What `show info` says. A row is a snapshot and what `info.values` makes of it."""
    return Family(f"haproxy_process_{name}", type_, help_, bare(lambda row: row[1][key]))


def _total(name: str, key: str, help_: str) -> Family:
    return _fact(name, key, help_, "counter")


def _of_frontends(name: str, key: str, help_: str) -> Family:
    return Family(
        f"haproxy_process_{name}",
        "counter",
        help_,
        bare(lambda row: sum(frontend.counters[key] for frontend in row[0].frontends)),
    )


def _named(name: str, label: str, value: Callable[[Snapshot], str]) -> Family:
    def samples(name: str, _: str, row: tuple[Snapshot, object]) -> Iterable[str]:
        return (f'{name}{{{label}="{escape(value(row[0]))}"}} 1\n',)

    return Family(f"haproxy_process_{name}", "gauge", f"The {label} as a label.", samples)


PROCESS = [
    _fact("nbthread", "Nbthread", "Number of worker processes, which are what HAProxy's threads are."),
    _fact("nbproc", "Nbproc", "Always 1: no number is of one worker alone."),
    _fact("relative_process_id", "Process_num", "Always 1."),
    _fact("uptime_seconds", "Uptime_sec", "How long ago the daemon was started, in seconds."),
    _fact("start_time_seconds", "Start_time_sec", "When the daemon was started, in Unix time."),
    _fact("max_memory_bytes", "Memmax_bytes", "Limit on memory; 0: none."),
    _fact("pool_allocated_bytes", "PoolAlloc_bytes", "Memory in pools, of which there are none."),
    _fact("pool_used_bytes", "PoolUsed_bytes", "Memory of pools in use."),
    _total("pool_failures_total", "PoolFailed", "Total number of failed pool allocations."),
    _fact("max_fds", "Ulimit-n", "Limit on the open file descriptors of each process."),
    _fact("max_sockets", "Maxsock", "Limit on the sockets of each process."),
    _fact("max_connections", "Maxconn", "Limit on the number of client connections."),
    _fact("hard_max_connections", "Hard_maxconn", "The limit as it was at the start."),
    _fact("current_connections", "CurrConns", "Current number of client connections."),
    _total("connections_total", "CumConns", "Total number of client connections."),
    _total("requests_total", "CumReq", "Total number of requests and queries."),
    _fact("max_ssl_connections", "MaxSslConns", "Limit on the number of TLS connections; 0: none."),
    _fact("current_ssl_connections", "CurrSslConns", "Current number of TLS connections."),
    _total("ssl_connections_total", "CumSslConns", "Total number of TLS connections."),
    _fact("max_pipes", "Maxpipes", "Limit on the number of pipes; 0: none are used."),
    _total("pipes_used_total", "PipesUsed", "Number of pipes in use."),
    _total("pipes_free_total", "PipesFree", "Number of pipes not in use."),
    _fact("current_connection_rate", "ConnRate", "Connections accepted over the last second."),
    _fact("limit_connection_rate", "ConnRateLimit", "Limit on connections per second; 0: none."),
    _fact("max_connection_rate", "MaxConnRate", "Highest number of connections accepted in a second."),
    _fact("current_session_rate", "SessRate", "Sessions created over the last second."),
    _fact("limit_session_rate", "SessRateLimit", "Limit on sessions per second; 0: none."),
    _fact("max_session_rate", "MaxSessRate", "Highest number of sessions created in a second."),
    _fact("current_ssl_rate", "SslRate", "TLS sessions created over the last second."),
    _fact("limit_ssl_rate", "SslRateLimit", "Limit on TLS sessions per second; 0: none."),
    _fact("max_ssl_rate", "MaxSslRate", "Highest number of TLS sessions created in a second."),
    _fact("current_frontend_ssl_key_rate", "SslFrontendKeyRate", "TLS keys computed with clients, per second."),
    _fact("max_frontend_ssl_key_rate", "SslFrontendMaxKeyRate", "Most TLS keys computed with clients in a second."),
    _fact("frontend_ssl_reuse", "SslFrontendSessionReuse_pct", "TLS sessions resumed, in percent."),
    _fact("current_backend_ssl_key_rate", "SslBackendKeyRate", "TLS keys computed with servers, per second."),
    _fact("max_backend_ssl_key_rate", "SslBackendMaxKeyRate", "Most TLS keys computed with servers in a second."),
    _total("ssl_cache_lookups_total", "SslCacheLookups", "Total number of lookups of TLS sessions."),
    _total("ssl_cache_misses_total", "SslCacheMisses", "Total number of TLS sessions that were not found."),
    _of_frontends("http_comp_bytes_in_total", "comp_in", "Total number of bytes compressed."),
    _of_frontends("http_comp_bytes_out_total", "comp_out", "Total number of bytes that they were compressed to."),
    _fact("limit_http_comp", "CompressBpsRateLim", "Limit on compressed bytes per second; 0: none."),
    Family(
        "haproxy_process_current_tasks",
        "gauge",
        "Current number of asyncio tasks of the workers.",
        bare(lambda row: row[0].counters["tasks"]),
    ),
    _fact("current_run_queue", "Run_queue", "Tasks that wait for their turn; asyncio tells of none."),
    _fact("idle_time_percent", "Idle_pct", "Percent of the last second in which the workers had nothing to do."),
    _fact("stopping", "Stopping", "1 if the daemon is stopping, otherwise zero."),
    _fact("jobs", "Jobs", "Current number of connections."),
    _fact("unstoppable_jobs", "Unstoppable Jobs", "Those that a stop would not end."),
    _fact("listeners", "Listeners", "Number of addresses that frontends listen at."),
    _fact("active_peers", "ActivePeers", "Peers that tables are told to; there are none."),
    _fact("connected_peers", "ConnectedPeers", "Those that are connected."),
    _total("dropped_logs_total", "DroppedLogs", "Total number of log records dropped."),
    _fact("busy_polling_enabled", "BusyPolling", "1 if processes never sleep."),
    _total("failed_resolutions", "FailedResolutions", "Total number of failed resolutions of names while it runs."),
    _total("bytes_out_total", "TotalBytesOut", "Total number of bytes sent to clients."),
    _total("spliced_bytes_out_total", "TotalSplicedBytesOut", "Those of them that the kernel moved."),
    _fact("bytes_out_rate", "BytesOutRate", "Bytes sent to clients over the last second."),
    _total("recv_logs_total", "CumRecvLogs", "Total number of log records received."),
    _named("build_info", "version", lambda snapshot: snapshot.process.version),
    _named("node", "node", lambda snapshot: snapshot.process.node),
    _named("description", "desc", lambda snapshot: snapshot.process.description),
]


def process(snapshot: Snapshot) -> tuple[Snapshot, dict[str, str | int]]:
    """The row of PROCESS."""
    return snapshot, info.values(snapshot)
