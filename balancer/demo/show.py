"""`pybalancer demo`: servers, a balancer in front of them, and what to try."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import re
import shlex
import signal
import socket
import string
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from balancer.config import read
from balancer.config.model import Config
from balancer.daemon import supervisor
from balancer.demo import nameserver, ports, process, webserver
from balancer.errors import StartError

__all__ = ["configuration", "run"]

_FILE = Path(__file__).with_name("demo.yaml")
# mDNS responders hold 5353, the usual choice of a DNS server without root.
_PORTS = {"HTTP_PORT": 8000, "TCP_PORT": 8080, "DNS_PORT": 5300, "STATS_PORT": 7000}
# The whole of 127.0.0.0/8 is this machine: a server an address, as in a cluster.
_WEB = {"web1": "127.0.0.2", "web2": "127.0.0.3", "web3": "127.0.0.4"}
_DNS = {"dns1": "127.0.0.5", "dns2": "127.0.0.6", "dns3": "127.0.0.7"}
# On loopback alone, and printed.
_PASSWORD = "123"  # noqa: S105 (no secret)
# A start takes well under a second; a machine that swaps gets its time.
_LONGEST_START = 20.0
# unix(7): sun_path.
_LONGEST_PATH = 107
_AUTHORIZATION = "Basic " + base64.b64encode(f"admin:{_PASSWORD}".encode()).decode()
_IS_UP = re.compile(r'^haproxy_server_status\{[^}]*state="UP"[^}]*\} 1', re.MULTILINE)

_WHAT_TO_TRY = """
pybalancer balances three web servers and three DNS servers on this machine. Ctrl-C ends everything.

  HTTP   curl http://127.0.0.1:{HTTP_PORT}/                   a server in turn: web1, web2, web3
         curl -c jar -b jar http://127.0.0.1:{HTTP_PORT}/     again and again: the cookie keeps you on one
         browser: http://127.0.0.1:{HTTP_PORT}/
  TCP    curl http://127.0.0.1:{TCP_PORT}/                   no cookie, no X-Forwarded-For
  DNS    dig @127.0.0.1 -p {DNS_PORT} server.lab.local TXT +short
  Stats  browser: http://127.0.0.1:{STATS_PORT}/haproxy?stats     user admin, password {PASSWORD}
         curl -u admin:{PASSWORD} http://127.0.0.1:{STATS_PORT}/metrics

  Look   {COMMAND} status --socket {SOCKET}
         {COMMAND} top --socket {SOCKET}
  Steer  {COMMAND} drain web-http/web1 --socket {SOCKET}
         {COMMAND} ready web-http/web1 --socket {SOCKET}

  A server falls silent, the checks take it out:   kill -STOP {web2}
  It speaks again and is put back:                 kill -CONT {web2}

Each access is logged below, as HAProxy would.
"""


@dataclass(frozen=True)
class _Stage:
    """Ports chosen and the servers' sockets bound; nothing runs yet."""

    ports: dict[str, int]
    web: dict[str, socket.socket]
    dns: dict[str, socket.socket]

    @property
    def environ(self) -> dict[str, str]:
        """What the configuration's ${NAME}s stand for."""
        servers = {f"{name.upper()}_PORT": sock.getsockname()[1] for name, sock in (self.web | self.dns).items()}
        numbers = {name: str(port) for name, port in (self.ports | servers).items()}
        return numbers | {"PASSWORD": _PASSWORD, "SOCKET": _socket(self.ports["HTTP_PORT"])}


def configuration(*, first_port: int | None = None) -> str:
    """The demonstration's configuration with ports that are free now."""
    with _stage(first_port) as stage:
        return string.Template(_FILE.read_text()).substitute(stage.environ)


def run(*, first_port: int | None = None) -> int:
    """Show it until SIGINT, SIGTERM or SIGHUP; returns the exit status. A second signal does not wait.

    Listens on the well-known ports of the cluster or the next free ones, or on those from `first_port` on.
    Raises StartError when the balancer does not come up.
    """
    with _stage(first_port) as stage, contextlib.ExitStack() as running:
        config = read.load(_FILE, node="demo", environ=stage.environ)
        pids = {}
        for name, sock in stage.web.items():
            pids[name] = process.fork(partial(webserver.serve, name, sock))
            running.callback(process.end, pids[name])
        for name, sock in stage.dns.items():
            pids[name] = process.fork(partial(nameserver.serve, name, sock))
            running.callback(process.end, pids[name])
        return _balance(config, stage, pids)


def _balance(config: Config, stage: _Stage, pids: dict[str, int]) -> int:
    """The balancer in a child of its own, from its start to its end."""
    balancer = process.fork(partial(supervisor.run, config))
    asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        asked = True
        os.kill(balancer, signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        if _comes_up(balancer, config, stage.ports["STATS_PORT"]):
            environ = {name: shlex.quote(value) for name, value in stage.environ.items()}
            print(_WHAT_TO_TRY.format(**environ, **pids, COMMAND=_command()), flush=True)
        # Not reaped yet, so that `stop` never meets another process under its number.
        ended = os.waitid(os.P_PID, balancer, os.WEXITED | os.WNOWAIT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        process.end(balancer)
    if not asked:
        raise StartError(f"the balancer ended by itself, status {ended.si_status if ended else 'unknown'}")
    return 0


def _comes_up(balancer: int, config: Config, port: int) -> bool:
    """Wait until the checks have found every server up; False when the balancer ends instead."""
    expected = sum(len(backend.servers) for backend in config.backends.values())
    deadline = time.monotonic() + _LONGEST_START
    while os.waitid(os.P_PID, balancer, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if len(_IS_UP.findall(_metrics(port))) == expected:
            return True
        if time.monotonic() > deadline:
            raise StartError(f"the balancer does not come up within {_LONGEST_START:.0f} seconds")
        time.sleep(0.02)
    return False


def _metrics(port: int) -> str:
    """The metrics page as it is now; empty while nobody answers."""
    page = http.client.HTTPConnection("127.0.0.1", port, timeout=_LONGEST_START)
    try:
        page.request("GET", "/metrics", headers={"Authorization": _AUTHORIZATION})
        return page.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        page.close()


def _socket(port: int) -> str:
    """Where commands are taken: another place for each demonstration, and one that its user may write to, who need
    not be root."""
    name = f"pybalancer-demo-{port}.sock"
    for place in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir()):
        path = f"{place}/{name}"
        if place.startswith("/") and len(os.fsencode(path)) <= _LONGEST_PATH and os.access(place, os.W_OK | os.X_OK):
            return path
    return f"/tmp/{name}"  # noqa: S108 (bound as a socket; nothing of that name is followed or replaced)


def _command() -> str:
    """As it was typed."""
    command = sys.argv[0]
    return shlex.quote(command) if os.access(command, os.X_OK) else f"{shlex.quote(sys.executable)} -m balancer"


@contextlib.contextmanager
def _stage(first_port: int | None) -> Iterator[_Stage]:
    with contextlib.ExitStack() as sockets:
        web = {name: sockets.enter_context(socket.create_server((host, 0))) for name, host in _WEB.items()}
        dns = {name: sockets.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for name in _DNS}
        for name, sock in dns.items():
            sock.bind((_DNS[name], 0))
        yield _Stage(_choose_ports(first_port), web, dns)


def _choose_ports(first_port: int | None) -> dict[str, int]:
    chosen: dict[str, int] = {}
    for name, usual in _PORTS.items():
        wanted = usual if first_port is None else first_port + len(chosen)
        chosen[name] = ports.next_free(wanted, reserved=chosen.values())
        if first_port is None and chosen[name] != usual:
            print(f"port {usual} is taken, {chosen[name]} serves instead", file=sys.stderr)
    return chosen
