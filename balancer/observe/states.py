"""Servers as other programs read them at the runtime socket: HAProxy's `show servers state`, `show servers conn`,
`show backend` (management manual, section 9.3; server-state file format version 1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from balancer.observe.columns import FIRST_ID
from balancer.observe.snapshot import BackendRow, ServerRow, Snapshot
from balancer.pool.orders import Admin, Condition

__all__ = ["backends", "connections", "state"]

_VERSION = 1
_STATE = (
    "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state "
    "bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr "
    "srv_agent_addr srv_agent_port"
)
_CONNECTIONS = (
    "bkname/svname bkid/svid addr port - purge_delay used_cur used_max need_est unsafe_nb safe_nb idle_lim idle_cur "
    "idle_per_thr[1]"
)
# srv_op_state: SRV_ST_STOPPED, SRV_ST_RUNNING.
_STOPPED, _RUNNING = 0, 2
# srv_admin_state: SRV_ADMF_FMAINT, SRV_ADMF_FDRAIN, SRV_ADMF_RMAINT.
_ADMIN = {Admin.READY: 0, Admin.MAINT: 0x01, Admin.DRAIN: 0x08}
_UNRESOLVED = 0x20
# srv_check_status: HCHK_STATUS_INI, and those a check can end with.
_INITIALISING = 1
_STATUSES = {
    code: number
    for number, code in enumerate(
        ("SOCKERR", "L4OK", "L4TOUT", "L4CON", "L6OK", "L6TOUT", "L6RSP", "L7TOUT", "L7RSP", "", "L7OK", "L7OKC",
         "L7STS", "PROCERR", "PROCTOUT", "PROCOK"),
        5,
    )
}  # fmt: skip
# srv_check_result: CHK_RES_UNKNOWN, CHK_RES_FAILED, CHK_RES_PASSED.
_UNKNOWN, _FAILED, _PASSED = 0, 2, 3
# srv_check_state: CHK_ST_CONFIGURED and CHK_ST_ENABLED, CHK_ST_PAUSED.
_CHECKING, _PAUSED = 0x06, 0x08


def state(snapshot: Snapshot, backend: str | None = None) -> str:
    """A line for each server, of one backend or all. What is unknown or not there is `-` or 0."""
    lines = [f"{_VERSION}\n# {_STATE}\n"]
    for iid, row in _numbered(snapshot, backend):
        for sid, server in enumerate(row.servers, 1):
            lines.append(f"{iid} {row.name} {sid} {server.name} {' '.join(_facts(server))}\n")
    return "".join(lines)


def _facts(row: ServerRow) -> Iterable[str]:
    entry, now = row.entry, row.state
    host, port = _end(row)
    is_paused = entry.is_checked and row.is_maint
    is_name = entry.address.is_name
    result = _UNKNOWN
    if row.check is not None:
        result = _PASSED if row.check.code in ("L4OK", "L6OK", "L7OK", "L7OKC", "PROCOK") else _FAILED
    return (
        "-" if row.address.is_name else host,
        str(_STOPPED if now.condition is Condition.DOWN or now.admin is Admin.MAINT else _RUNNING),
        str(_ADMIN[now.admin] | (_UNRESOLVED if now.is_unresolved else 0)),
        str(now.weight),
        str(entry.weight),
        str(int(row.since)),
        str(_STATUSES.get(row.check.code, 0) if row.check is not None else _INITIALISING),
        str(result),
        str(now.health),
        str((_CHECKING | _PAUSED * is_paused) if entry.is_checked else 0),
        *("0", "0", "0"),
        entry.address.host if is_name and not entry.address.is_service else "-",
        port,
        entry.address.host if entry.address.is_service else "-",
        *("0", "0", "-", "-", "0"),
    )


def connections(snapshot: Snapshot, backend: str | None = None) -> str:
    """A line for each server: its connections in use and idle."""
    lines = [f"# {_CONNECTIONS}\n"]
    for iid, row in _numbered(snapshot, backend):
        for sid, server in enumerate(row.servers, 1):
            counters = server.counters
            host, port = _end(server)
            idle, used, most = counters["srv_icur"], counters["scur"], counters["smax"]
            lines.append(
                f"{row.name}/{server.name} {iid}/{sid} {host} {port} - {round(row.entry.purge_delay * 1000)} "
                f"{used} {most} {used} {idle} 0 -1 {idle} {idle}\n"
            )
    return "".join(lines)


def backends(snapshot: Snapshot) -> str:
    """Their names, a line each."""
    return "# name\n" + "".join(f"{row.name}\n" for row in snapshot.backends)


def _numbered(snapshot: Snapshot, backend: str | None) -> Iterator[tuple[int, BackendRow]]:
    for iid, row in enumerate(snapshot.backends, FIRST_ID + len(snapshot.frontends)):
        if backend in (None, row.name):
            yield iid, row


def _end(row: ServerRow) -> tuple[str, str]:
    address = row.address
    return (address.path, "0") if address.path else (address.host, str(address.port))
