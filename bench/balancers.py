"""The contestants: one task, written as HAProxy's, dnsdist's and pybalancer's configuration."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Contestant", "Frontend", "Mode", "Task", "dnsdist", "haproxy", "pybalancer"]

Mode = Literal["http", "tcp", "udp"]
# Long enough that no connection of a measurement times out, the idle ones included.
IDLE = 300
CHECK_INTERVAL_MS = 2000
MAXCONN = 5000


@dataclass(frozen=True)
class Frontend:
    """Where clients come in, and the ports of 127.0.0.1 that serve them."""

    mode: Mode
    port: int
    servers: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """What a balancer has to do in one measurement, the same for all."""

    frontends: tuple[Frontend, ...]
    workers: int = 1
    reuse: Literal["safe", "always"] = "safe"
    """When an idle server connection may serve another client (HAProxy's http-reuse)."""
    log_port: int | None = None
    """UDP port of a syslog sink for access records; None logs nothing."""
    stats_port: int | None = None
    maxconn: int = MAXCONN

    @property
    def port(self) -> int:
        return self.frontends[0].port


@dataclass(frozen=True)
class Contestant:
    """A balancer program: how it is configured and started."""

    name: str
    suffix: str
    render: Callable[[Task], str]
    command: Callable[[str], Sequence[str]]
    """From the path of its configuration to its command line."""


def haproxy(program: str, name: str) -> Contestant:
    """In the foreground, one process (-db)."""
    return Contestant(name, "cfg", render_haproxy, lambda path: [program, "-db", "-f", path])


def dnsdist(program: str, name: str) -> Contestant:
    """In the foreground without its console."""
    return Contestant(
        name, "lua", render_dnsdist, lambda path: [program, "--supervised", "--disable-syslog", "-C", path]
    )


def pybalancer(command: Sequence[str], name: str) -> Contestant:
    """`command` is what comes before `-c FILE`."""
    return Contestant(name, "yaml", render_pybalancer, lambda path: [*command, "-c", path])


def render_haproxy(task: Task) -> str:
    """haproxy.cfg. UDP frontends are left out: HAProxy has none."""
    log = "" if task.log_port is None else f"    log 127.0.0.1:{task.log_port} local0\n"
    lines = [
        "global\n",
        f"    maxconn {task.maxconn}\n    nbthread {task.workers}\n{log}",
        "defaults\n",
        f"    timeout connect 5s\n    timeout client {IDLE}s\n    timeout server {IDLE}s\n",
        f"    timeout http-request {IDLE}s\n    timeout http-keep-alive {IDLE}s\n",
        "    retries 3\n    option redispatch\n",
        "    log global\n" if log else "",
    ]
    for frontend in task.frontends:
        if frontend.mode == "udp":
            continue
        http = frontend.mode == "http"
        lines += [
            f"frontend {frontend.mode}\n    mode {frontend.mode}\n    bind 127.0.0.1:{frontend.port}\n",
            "    option forwardfor\n" if http else "",
            f"    option {frontend.mode}log\n" if log else "",
            f"    default_backend {frontend.mode}-servers\n",
            f"backend {frontend.mode}-servers\n    mode {frontend.mode}\n    balance roundrobin\n",
            f"    http-reuse {task.reuse}\n    cookie SERVERID insert\n" if http else "",
            f"    default-server check inter {CHECK_INTERVAL_MS}ms\n",
            *(
                f"    server s{port} 127.0.0.1:{port}{f' cookie s{port}' if http else ''}\n"
                for port in frontend.servers
            ),
        ]
    if task.stats_port is not None:
        lines.append(
            f"frontend stats\n    mode http\n    bind 127.0.0.1:{task.stats_port}\n    stats enable\n"
            "    stats uri /haproxy?stats\n    stats auth admin:bench\n"
        )
    return "".join(lines)


def render_dnsdist(task: Task) -> str:
    """dnsdist.conf (Lua) for the UDP frontend; no telemetry, no packet cache."""
    (frontend,) = (frontend for frontend in task.frontends if frontend.mode == "udp")
    return "".join(
        [
            'setSecurityPollSuffix("")\n',
            f'setLocal("127.0.0.1:{frontend.port}")\n',
            "setServerPolicy(roundrobin)\n",
            *(
                f'newServer({{address="127.0.0.1:{port}", checkName="bench.test.", checkType="SOA", '
                f"mustResolve=true, checkInterval={CHECK_INTERVAL_MS // 1000}}})\n"
                for port in frontend.servers
            ),
        ]
    )


def render_pybalancer(task: Task) -> str:
    """balancer.yaml."""
    target = "none" if task.log_port is None else f"udp://127.0.0.1:{task.log_port}"
    text = textwrap.dedent(f"""\
        global:
          workers: {task.workers}
          maxconn: {task.maxconn}
          log: {{target: "{target}"}}
          hard_stop_after: 1s
        defaults:
          timeout: {{connect: 5s, client: {IDLE}s, server: {IDLE}s, http_request: {IDLE}s, http_keep_alive: {IDLE}s}}
          retries: 3
          redispatch: true
        """)
    if task.stats_port is not None:
        text += f"stats: {{bind: 127.0.0.1:{task.stats_port}, users: {{admin: bench}}}}\n"
    text += "frontends:\n"
    for frontend in task.frontends:
        text += f"  {frontend.mode}:\n    mode: {frontend.mode}\n    bind: 127.0.0.1:{frontend.port}\n"
        text += {"http": "    forwarded_for: true\n", "tcp": "", "udp": "    udp: {protocol: dns}\n"}[frontend.mode]
        text += f"    default_backend: {frontend.mode}-servers\n"
    text += "backends:\n"
    for frontend in task.frontends:
        http = frontend.mode == "http"
        check = "dns, query: bench.test" if frontend.mode == "udp" else "tcp"
        text += f"  {frontend.mode}-servers:\n    balance: roundrobin\n"
        text += f"    http_reuse: {task.reuse}\n    cookie: {{name: SERVERID, mode: insert}}\n" if http else ""
        text += f"    check: {{type: {check}, interval: {CHECK_INTERVAL_MS}ms}}\n    servers:\n"
        for port in frontend.servers:
            text += f"      s{port}: {{address: 127.0.0.1:{port}{f', cookie: s{port}' if http else ''}}}\n"
    return text
