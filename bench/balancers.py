"""The contestants: one task, in the words of each balancer. Their configurations are in peers/, to be read there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jinja2

__all__ = [
    "CHECK_INTERVAL_MS",
    "DNS_NAME",
    "PEERS",
    "Contestant",
    "Engine",
    "Frontend",
    "Mode",
    "Task",
    "dnsdist",
    "haproxy",
    "haproxy_master",
    "ipvs",
    "nginx",
    "pybalancer",
    "stream_module",
]

Mode = Literal["http", "tcp", "udp"]
Engine = Literal["", "nat", "masquerade"]
PEERS = Path(__file__).with_name("peers")
DNS_NAME = "bench.test"
# Long enough that no connection of a measurement times out, the idle ones included.
IDLE = 300
CHECK_INTERVAL_MS = 2000
MAXCONN = 5000
# Where distributions and nginx's own packages have it; nothing where it is built in.
STREAM_MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")


@dataclass(frozen=True)
class Frontend:
    """Where clients come in, and the servers behind it (address:port)."""

    mode: Mode
    port: int
    servers: tuple[str, ...]
    host: str = "127.0.0.1"
    engine: Engine = ""
    """How the kernel forwards; empty: the balancer's processes do it."""
    title: str = ""
    """Where there are more than one of a mode."""
    prefix: str = "s"
    """What the servers' names begin with."""

    @property
    def name(self) -> str:
        return self.title or self.mode

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def named_servers(self) -> list[tuple[str, str]]:
        """Name and address of each."""
        return [(f"{self.prefix}{number}", server) for number, server in enumerate(self.servers, 1)]


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
    template: str
    """Its configuration, a file of peers/."""
    command: Callable[[str], Sequence[str]]
    """From the path of its configuration to its command line."""
    reload: signal.Signals = signal.SIGHUP
    """To the process that was started: read the configuration again."""

    @property
    def suffix(self) -> str:
        return self.template.rpartition(".")[2]

    def render(self, task: Task, *, directory: str = "/nonexistent") -> str:
        """Its configuration. What it keeps in files goes to `directory`."""
        return _TEMPLATES.get_template(self.template).render(
            task=task,
            idle=IDLE,
            check_ms=CHECK_INTERVAL_MS,
            dns_name=DNS_NAME,
            directory=directory,
            number=task.port,
            stream_module=stream_module(),
            is_root=os.geteuid() == 0,
        )


# Of text, not of HTML.
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(PEERS),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
    autoescape=False,
)


def haproxy(program: str, name: str) -> Contestant:
    """In the foreground, one process (-db)."""
    return Contestant(name, "haproxy.cfg", lambda path: [program, "-db", "-f", path])


def haproxy_master(program: str, name: str) -> Contestant:
    """In the foreground, with a master that starts new workers at a reload (-W)."""
    command = [program, "-W", "-db", "-f"]
    return Contestant(name, "haproxy.cfg", lambda path: [*command, path], reload=signal.SIGUSR2)


def dnsdist(program: str, name: str) -> Contestant:
    """In the foreground without its console."""
    return Contestant(name, "dnsdist.lua", lambda path: [program, "--supervised", "--disable-syslog", "-C", path])


def nginx(program: str, name: str) -> Contestant:
    """In the foreground, a master and its workers."""
    return Contestant(name, "nginx.conf", lambda path: [program, "-e", "stderr", "-c", path])


def ipvs(program: str, name: str) -> Contestant:
    """The kernel's tables, filled once; no process stays."""
    return Contestant(name, "ipvs.rules", lambda path: ["sh", "-c", f"{program} --restore <{path}"])


def pybalancer(command: Sequence[str], name: str) -> Contestant:
    """`command` is what comes before `-c FILE`."""
    return Contestant(name, "pybalancer.yaml", lambda path: [*command, "-c", path])


def stream_module() -> str:
    """The path of nginx's module for TCP and UDP; empty where it is no module of its own, or is missing."""
    found = (Path(folder) / "ngx_stream_module.so" for folder in STREAM_MODULES)
    return next((str(path) for path in found if path.exists()), "")
