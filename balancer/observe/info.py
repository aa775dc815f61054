"""What the process says of itself: HAProxy's `show info`, as `Name: value`, typed, or JSON.

Fields and their numbers are HAProxy 2.6's (`show info typed`); what pybalancer has not (TLS, pipes, pools, peers) is 0.
A worker that waits for a processor is not idle.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from balancer import RELEASED
from balancer.observe.columns import in_words
from balancer.observe.snapshot import Snapshot

__all__ = ["json_", "plain", "typed", "values"]

_Value = str | int


class _Fact(NamedTuple):
    position: int
    name: str
    tags: str
    type: str
    value: _Value


# Positions, tags and types where they are not a gauge's; those of HAProxy that are 0 here stand as such.
_FIELDS = (
    (0, "Name", "POS", "str"), (1, "Version", "POS", "str"), (2, "Release_date", "POS", "str"),
    (3, "Nbthread", "CGS", "u32"), (4, "Nbproc", "CGS", "u32"), (5, "Process_num", "KGP", "u32"),
    (6, "Pid", "SGP", "u32"), (7, "Uptime", "MDP", "str"), (8, "Uptime_sec", "MDP", "u32"),
    (9, "Memmax_MB", "CLP", "u32"), (10, "PoolAlloc_MB", "MGP", "u32"), (11, "PoolUsed_MB", "MGP", "u32"),
    (12, "PoolFailed", "MCP", "u32"), (13, "Ulimit-n", "CLP", "u32"), (14, "Maxsock", "CLP", "u32"),
    (15, "Maxconn", "CLP", "u32"), (16, "Hard_maxconn", "CLP", "u32"), (17, "CurrConns", "MGP", "u32"),
    (18, "CumConns", "MCP", "u32"), (19, "CumReq", "MCP", "u32"), (20, "MaxSslConns", "MMP", "u32"),
    (21, "CurrSslConns", "MGP", "u32"), (22, "CumSslConns", "MCP", "u32"), (23, "Maxpipes", "CLP", "u32"),
    (24, "PipesUsed", "MGP", "u32"), (25, "PipesFree", "MGP", "u32"), (26, "ConnRate", "MRP", "u32"),
    (27, "ConnRateLimit", "CLP", "u32"), (28, "MaxConnRate", "MMP", "u32"), (29, "SessRate", "MRP", "u32"),
    (30, "SessRateLimit", "CLP", "u32"), (31, "MaxSessRate", "MRP", "u32"), (32, "SslRate", "MRP", "u32"),
    (33, "SslRateLimit", "CLP", "u32"), (34, "MaxSslRate", "MMP", "u32"), (35, "SslFrontendKeyRate", "MGP", "u32"),
    (36, "SslFrontendMaxKeyRate", "MMP", "u32"), (37, "SslFrontendSessionReuse_pct", "MGP", "u32"),
    (38, "SslBackendKeyRate", "MRP", "u32"), (39, "SslBackendMaxKeyRate", "MMP", "u32"),
    (40, "SslCacheLookups", "MCP", "u32"), (41, "SslCacheMisses", "MCP", "u32"), (42, "CompressBpsIn", "MRP", "u32"),
    (43, "CompressBpsOut", "MRP", "u32"), (44, "CompressBpsRateLim", "CLP", "u32"), (47, "Tasks", "MGP", "u32"),
    (48, "Run_queue", "MGP", "u32"), (49, "Idle_pct", "MaP", "u32"),
    (50, "node", "COS", "str"), (51, "description", "COS", "str"),
    (52, "Stopping", "MGP", "u32"), (53, "Jobs", "MGP", "u32"), (54, "Unstoppable Jobs", "MGP", "u32"),
    (55, "Listeners", "MGP", "u32"), (56, "ActivePeers", "MGP", "u32"), (57, "ConnectedPeers", "MGP", "u32"),
    (58, "DroppedLogs", "MGP", "u32"), (59, "BusyPolling", "MGP", "u32"), (60, "FailedResolutions", "MGP", "u32"),
    (61, "TotalBytesOut", "MGP", "u64"), (62, "TotalSplicedBytesOut", "MGP", "u64"),
    (63, "BytesOutRate", "MRP", "u64"), (64, "DebugCommandsIssued", "MGP", "u32"), (65, "CumRecvLogs", "MCP", "u32"),
    (66, "Build info", "POS", "str"), (67, "Memmax_bytes", "CLP", "u32"), (68, "PoolAlloc_bytes", "MGP", "u64"),
    (69, "PoolUsed_bytes", "MGP", "u64"), (70, "Start_time_sec", "MDP", "u32"), (71, "Tainted", "SGP", "str"),
)  # fmt: skip


def _facts(snapshot: Snapshot, descriptors: int) -> list[_Fact]:
    process, counters, rate = snapshot.process, snapshot.counters, snapshot.rate
    minutes, seconds = divmod(int(snapshot.uptime), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    values: dict[str, _Value] = {
        # Programs take nobody for one they can talk to who has another name (haproxyadmin).
        "Name": "HAProxy",
        "Version": f"{process.version}-pybalancer",
        "Release_date": RELEASED.replace("-", "/"),
        "Nbthread": process.workers,
        "Nbproc": 1,
        "Process_num": 1,
        "Pid": process.pid,
        "Uptime": f"{days}d {hours}h{minutes:02}m{seconds:02}s",
        "Uptime_sec": int(snapshot.uptime),
        "Ulimit-n": descriptors,
        "Maxsock": descriptors,
        "Maxconn": process.maxconn,
        "Hard_maxconn": process.hard_maxconn or process.maxconn,
        "CurrConns": counters["scur"],
        "CumConns": counters["conn_tot"],
        "CumReq": snapshot.requests,
        "ConnRate": rate.connections,
        "MaxConnRate": rate.connections_max,
        "SessRate": rate.sessions,
        "MaxSessRate": rate.sessions_max,
        "Tasks": counters["scur"],
        "Idle_pct": process.idle,
        "node": process.node,
        "description": process.description,
        "Stopping": int(process.stopping),
        "Jobs": counters["scur"],
        "Listeners": sum(len(row.entry.binds) for row in snapshot.frontends),
        "DroppedLogs": counters["log_dropped"],
        "TotalBytesOut": snapshot.bytes_out,
        "BytesOutRate": snapshot.bytes_out_rate,
        "Build info": f"pybalancer {process.version}",
        "Start_time_sec": int(process.started),
    }
    return [
        _Fact(position, name, tags, type_, values.get(name, "0" if type_ == "str" else 0))
        for position, name, tags, type_ in _FIELDS
        if name != "description" or process.description
    ]


def values(snapshot: Snapshot) -> dict[str, _Value]:
    """By name."""
    return {fact.name: fact.value for fact in _facts(snapshot, snapshot.process.descriptors)}


def plain(snapshot: Snapshot, descriptors: int) -> str:
    """`Name: value`, a line each. `descriptors` is how many file descriptors a worker may have."""
    return "".join(f"{fact.name}: {fact.value}\n" for fact in _facts(snapshot, descriptors))


def typed(snapshot: Snapshot, descriptors: int) -> str:
    """`17.CurrConns.1:MGP:u32:0`, a line each."""
    return "".join(
        f"{fact.position}.{fact.name}.1:{fact.tags}:{fact.type}:{fact.value}\n"
        for fact in _facts(snapshot, descriptors)
    )


def json_(snapshot: Snapshot, descriptors: int) -> str:
    """An array of facts."""
    facts: list[dict[str, Any]] = [
        {
            "field": {"pos": fact.position, "name": fact.name},
            "processNum": 1,
            "tags": in_words(fact.tags),
            "value": {"type": fact.type, "value": fact.value},
        }
        for fact in _facts(snapshot, descriptors)
    ]
    return json.dumps(facts, separators=(",", ":")) + "\n"
