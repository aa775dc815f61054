"""Servers that come, go and move while it runs: traffic that does not notice, and HAProxy's answers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from tests.e2e.bed.clients import get, talk
from tests.e2e.bed.process import PATIENCE, free_port, until
from tests.e2e.test_steering import run, say, served, stat

CONFIG = """
global:
  {workers: 2, hard_stop_after: 1s, runtime_socket: {path: "${admin}", level: admin}, state_directory: "${state}"}
frontends:
  ft: {mode: http, bind: "127.0.0.1:${http}", default_backend: web}
  raw: {mode: tcp, bind: "127.0.0.1:${tcp}", default_backend: plain}
  udp: {mode: udp, bind: "127.0.0.1:${udp}", udp: {protocol: generic}, default_backend: datagrams}
backends:
  web:
    check: {type: tcp, interval: 200ms}
    servers:
      web1: {address: "127.0.0.1:${web1}", weight: 10}
      web2: {address: "127.0.0.1:${web2}", weight: 10}
  plain:
    servers: {web3: {address: "127.0.0.1:${web3}"}}
  datagrams:
    servers: {echo: {address: "127.0.0.1:${echo}"}}
"""
HAPROXY = """
  mode http
global
  stats socket {admin} level admin
listen web
  bind 127.0.0.1:{http}
  server web1 127.0.0.1:{web1} weight 10
  server web2 127.0.0.1:{web2} weight 10
"""
WEB2 = "127.0.0.1:{web2}"
# In this order; {name} is a server's port.
COMMANDS = [
    "add server",
    "add server web",
    "add server web/",
    "add server nobody/new 127.0.0.1:80",
    "add server web/new",
    "add server web/web1 127.0.0.1:80",
    "add server web/n/w 127.0.0.1:80",
    "add server web/new 127.0.0.1:80 colour red",
    "del server",
    "del server web",
    "del server web/nobody",
    "del server nobody/web1",
    "del server web/web1",
    "set server web/web1 addr",
    "set server web/web1 addr nonsense",
    "set server web/web1 addr 127.0.0.1",
    "set server web/nobody addr 127.0.0.1",
    "set server web/web1 addr 127.0.0.1 port {web1}",
    "set server web/web1 addr 127.0.0.1 colour red",
    "set server web/web1 addr 127.0.0.1 port abc",
    "set server web/web1 addr 127.0.0.1 port",
    "set server web/web1 fqdn",
    "set server web/web1 addr 127.0.0.1 port {web2}",
    "set server web/web1 addr 127.0.0.2",
    "set server web/web1 addr 127.0.0.1 port {web1}",
    "set severity-output number; set server web/web1 addr 127.0.0.1 port {web2}",
    "add server web/new 127.0.0.1:{web3}",
    "add server web/new 127.0.0.1:{web3}",
    "set severity-output number; add server web/other 127.0.0.1:{web3} weight 7 check",
    "get weight web/other",
    "del server web/new; disable server web/other; del server web/other",
    "show backend",
]


class Echo(threading.Thread):
    """Sends datagrams back, with its name."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.start()

    def run(self) -> None:
        while (octets := (answer := self.socket.recvfrom(100))[0]) != b"end":
            self.socket.sendto(octets + str(self.port).encode(), answer[1])

    def close(self) -> None:
        self.socket.sendto(b"end", ("127.0.0.1", self.port))
        self.join()
        self.socket.close()


@pytest.fixture
def echoes():
    made = Echo(), Echo()
    yield made
    for echo in made:
        echo.close()


@pytest.fixture
def admin(tmp_path) -> str:
    return str(tmp_path / "admin.sock")


@pytest.fixture
def start(balancer, web, echoes, admin, tmp_path):
    def start(wanted: str = "web/web1", **more):
        ports = {server.name: server.port for server in web} | {"echo": echoes[0].port, **more}
        running = balancer(CONFIG, admin=admin, state=tmp_path / "state", **ports)
        running.ports = {**ports, **running.ports}
        if wanted:
            running.wait_until_up(wanted)
        return running

    return start


@pytest.fixture
def running(start):
    return start()


def overrides(admin: str) -> set[str]:
    return {f"{row['target']} {row['kind']}" for row in json.loads(say(admin, "show overrides json"))}


def test_the_answers_are_haproxys(running, admin, haproxy, tmp_path, web) -> None:
    other, names = str(tmp_path / "haproxy.sock"), {server.name: server.port for server in web}
    port = free_port()
    haproxy(HAPROXY.format(admin=other, http=port, **names), ports=(port,))
    differing = {}
    for command in COMMANDS:
        line = command.format(**names)
        ours, theirs = say(admin, line), say(other, line)
        # HAProxy forgets the line's end of some errors.
        if command != "show backend" and re.sub("\n+", "\n", ours) != re.sub("\n+", "\n", theirs):
            differing[command] = (ours, theirs)
    assert not differing


def test_a_server_comes_and_goes_under_traffic(running, admin, web) -> None:
    """No request fails, a tunnel goes on, and who says so on the same line is answered by whoever takes over."""
    failed: list[object] = []
    ended = threading.Event()

    def traffic() -> None:
        while not ended.is_set():
            try:
                get(running.ports["http"])
            except Exception as error:
                failed.append(error)

    clients = [threading.Thread(target=traffic) for _ in range(3)]
    for client in clients:
        client.start()
    with socket.create_connection(("127.0.0.1", running.ports["tcp"]), timeout=PATIENCE) as tunnel:
        tunnel.sendall(b"GET / HT")
        said = say(
            admin, f"add server web/new 127.0.0.1:{web[2].port} weight 10 check; enable server web/new; show backend"
        )
        assert said == "New server registered.\n\n\n# name\nweb\nplain\ndatagrams\n\n"
        until(lambda: "web3" in served(running), "it gets its share")
        assert stat(admin)["web", "new"]["check_status"] == "L4OK"
        assert running.metric("haproxy_server_weight", proxy="web", server="new") == 10
        assert ">new<" in running.stats("/haproxy?stats")
        said = say(admin, "disable server web/new; del server web/new")
        assert said == "\nServer deleted.\n\n" or said.endswith(
            "Server still has connections attached to it, cannot remove it.\n\n"
        )
        until(lambda: say(admin, "del server web/new") in ("Server deleted.\n\n", "No such server.\n\n"), "it goes")
        assert ("web", "new") not in stat(admin)
        assert overrides(admin) == set()
        # Longer than hard_stop_after: only servers are others.
        until(lambda: "web3" not in served(running), "nobody comes to it")
        at = len(running.log)
        say(admin, "set server web/web2 state drain; set server web/web2 state ready")
        running.wait_for_line("leaving forced drain", after=at)
        tunnel.settimeout(0.1)
        with pytest.raises(TimeoutError):
            for _ in range(15):
                assert tunnel.recv(1) == b"never"
        tunnel.settimeout(PATIENCE)
        tunnel.sendall(b"TP/1.0\r\n\r\n")
        assert tunnel.recv(12) == b"HTTP/1.1 200"
    ended.set()
    for client in clients:
        client.join()
    assert failed == []


def test_what_was_said_of_servers_outlives_control_a_reload_and_a_restart(running, start, admin, web) -> None:
    port = web[2].port
    say(admin, f"add server web/new 127.0.0.1:{port} weight 4; enable server web/new")
    say(admin, f"set server web/web1 addr 127.0.0.1 port {port} why moved")
    say(admin, "disable server web/web2; del server web/web2")
    wanted = {"web/new added", "web/web1 address", "web/web2 deleted"}

    def all_is_so(admin: str = admin) -> bool:
        rows = stat(admin)
        names = [name for backend, name in rows if backend == "web" and name != "BACKEND"]
        assert names == ["web1", "new"] and rows["web", "web1"]["addr"] == f"127.0.0.1:{port}"
        assert overrides(admin) == wanted and say(admin, "get weight web/new") == "4 (initial 4)\n\n"
        return True

    assert all_is_so() and served(running) == {"web3"}
    (control,) = running.control
    os.kill(control, signal.SIGKILL)
    until(lambda: running.control not in ([], [control]), "another control is there")
    until(lambda: Path(admin).is_socket() and all_is_so(), "it knows")
    at = len(running.log)
    running.process.signal(signal.SIGHUP)
    running.wait_for_line("reloaded: nothing has changed", after=at)
    until(all_is_so, "after a reload too")
    running.end()
    again = start(**{name: running.ports[name] for name in ("http", "tcp", "udp")})
    assert all_is_so() and served(again) == {"web3"}
    # What has a server of that name now wins, as does what was written anew.
    for name in ("new", "web2"):
        again.config["backends"]["web"]["servers"][name] = {"address": f"127.0.0.1:{web[1].port}", "weight": 3}
    again.file.write_text(json.dumps(again.config))
    again.process.signal(signal.SIGHUP)
    again.wait_for_line("web/new: added at ")
    again.wait_for_line("web/web2: deleted (by ")
    until(lambda: overrides(admin) == {"web/web1 address"}, "the configuration has won")
    assert say(admin, "clear override web/web1") == "\n", again.process.said()
    assert stat(admin)["web", "web1"]["addr"] == f"127.0.0.1:{web[0].port}"


def test_datagrams_and_connections_go_to_where_a_server_is_now(running, admin, web, echoes) -> None:
    def asked() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE)
            client.sendto(b"at ", ("127.0.0.1", running.ports["udp"]))
            return client.recv(100)

    assert asked() == f"at {echoes[0].port}".encode()
    say(admin, f"set server datagrams/echo addr 127.0.0.1 port {echoes[1].port}")
    until(lambda: asked() == f"at {echoes[1].port}".encode(), "datagrams go elsewhere")
    assert b"web3" in talk(running.ports["tcp"], b"GET / HTTP/1.0\r\n\r\n")
    assert "changed its FQDN from 127.0.0.1 to localhost" in say(admin, "set server plain/web3 fqdn localhost")
    say(admin, f"set server plain/web3 addr 127.0.0.1 port {web[0].port}")
    until(lambda: b"web1" in talk(running.ports["tcp"], b"GET / HTTP/1.0\r\n\r\n"), "connections do")


def test_the_last_server_of_a_backend_goes_and_another_comes(running, start, admin, web, echoes) -> None:
    def deleted(name: str) -> bool:
        return say(admin, f"disable server {name}; del server {name}").strip() in ("Server deleted.", "No such server.")

    def said(port: str) -> bytes:
        with contextlib.suppress(ConnectionResetError):
            return talk(running.ports[port], b"GET / HTTP/1.0\r\n\r\n")
        return b""

    def asked() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.2)
            client.sendto(b"at ", ("127.0.0.1", running.ports["udp"]))
            return client.recv(100)

    def is_so() -> bool:
        # Workers of before have gone, or take nobody.
        until(lambda: b" 503 " in said("http") and said("tcp") == b"", "there is no server")
        with pytest.raises(TimeoutError):
            asked()
        return {name for _, name in stat(admin)} <= {"FRONTEND", "BACKEND"}

    for name in ("web/web1", "web/web2", "plain/web3", "datagrams/echo"):
        until(lambda name=name: deleted(name), "it has nobody any more")
    assert is_so()
    assert "web" in running.stats("/haproxy?stats")
    assert running.metric("haproxy_backend_active_servers", proxy="web") == 0
    (control,) = running.control
    os.kill(control, signal.SIGKILL)
    until(lambda: running.control not in ([], [control]), "another control is there")
    at = len(running.log)
    running.process.signal(signal.SIGHUP)
    running.wait_for_line("reloaded: nothing has changed", after=at)
    assert is_so()
    running.end()
    running = start(wanted="", **{name: running.ports[name] for name in ("http", "tcp", "udp")})
    assert is_so(), "after a restart too"
    for name, port in (("web/web1", web[0].port), ("plain/new", web[2].port), ("datagrams/new", echoes[1].port)):
        assert say(admin, f"add server {name} 127.0.0.1:{port}; enable server {name}") == "New server registered.\n\n\n"
    until(lambda: served(running) == {"web1"} and b"web3" in said("tcp"), "others are there")
    assert asked() == f"at {echoes[1].port}".encode()


def test_what_cannot_be_is_refused_and_changes_nothing(running, admin) -> None:
    before = say(admin, "show servers state").split("\n")[2:]
    said = {
        "set server web/web1 fqdn nobody.invalid": "no address found for nobody.invalid",
        "add server web/new [fe80::1%nowhere]:80": "there is no interface 'nowhere'",
        "add server web/new *:80": "nobody is there",
        "add server web/new 127.0.0.1:99999": "port '99999' is not a number from 1 to 65535",
        "add server web/new 127.0.0.1:80 weight 999": "weight of server new is not within 0 and 256 (999).",
        "add server web/new 127.0.0.1:80 inter 2s": "'inter' cannot be said of one server",
        "add server datagrams/new /run/new.sock": "backends.datagrams.servers.new",
    }
    for line, why in said.items():
        assert why in say(admin, line), line
    assert overrides(admin) == set()
    assert [line.split()[:4] for line in say(admin, "show servers state").split("\n")[2:] if line] == [
        line.split()[:4] for line in before if line
    ]


def test_a_prompt_stays_open(running, admin, web) -> None:
    with socket.socket(socket.AF_UNIX) as operator:
        operator.settimeout(PATIENCE)
        operator.connect(admin)

        def told(line: str) -> str:
            operator.sendall(line.encode() + b"\n")
            text = b""
            while not text.endswith(b"\n> "):
                octets = operator.recv(65536)
                assert octets, text
                text += octets
            return text.decode()

        told("prompt")
        assert told(f"add server web/new 127.0.0.1:{web[2].port}") == "New server registered.\n\n> "
        assert told("get weight web/new") == "1 (initial 1)\n\n> "
        at = len(running.log)
        running.process.signal(signal.SIGHUP)
        running.wait_for_line("reloaded", after=at)
        assert told("get weight web/new") == "1 (initial 1)\n\n> "


def test_haproxyadmin_moves_a_server(running, admin, web) -> None:
    script = f"""
from haproxyadmin import haproxy
server = haproxy.HAProxy(socket_file={admin!r}).server("web1", backend="web")[0]
server.address = "127.0.0.2"
print(server.address)
server.port = {web[2].port}
print(server.port)
"""
    assert run(sys.executable, "-W", "ignore", "-c", script).split() == ["127.0.0.2", str(web[2].port)]
