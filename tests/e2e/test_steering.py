"""Servers changed while it runs: what becomes of traffic, what is said, and programs made for HAProxy."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from balancer import __version__
from tests.e2e.bed.clients import curl, get, talk
from tests.e2e.bed.process import PATIENCE, free_port, is_bound, until
from tests.e2e.bed.pybalancer import COMMAND

CONFIG = """
global: {workers: 2, hard_stop_after: 5s, runtime_socket: {path: "${admin}", level: admin}}
frontends:
  ft: {mode: http, bind: "127.0.0.1:${http}", default_backend: web}
  raw: {mode: tcp, bind: "127.0.0.1:${tcp}", default_backend: plain}
backends:
  web:
    cookie: {name: SERVERID}
    check: {type: tcp, interval: 200ms}
    servers:
      web1: {address: "127.0.0.1:${web1}", cookie: c1, weight: 10}
      web2: {address: "127.0.0.1:${web2}", cookie: c2, weight: 10}
  plain:
    servers:
      web3: {address: "127.0.0.1:${web3}"}
"""


@pytest.fixture
def admin(tmp_path) -> str:
    return str(tmp_path / "admin.sock")


@pytest.fixture
def running(balancer, web, admin):
    running = balancer(CONFIG, admin=admin, web1=web[0].port, web2=web[1].port, web3=web[2].port)
    running.wait_until_up("web/web1", "web/web2")
    return running


def say(admin: str, line: str) -> str:
    """One command to a runtime socket, as socat would give it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(admin)
        sock.sendall(line.encode() + b"\n")
        return b"".join(iter(lambda: sock.recv(65536), b"")).decode()


def stat(admin: str) -> dict[tuple[str, str], dict[str, str]]:
    rows = csv.DictReader(io.StringIO(say(admin, "show stat").removeprefix("# ").strip()))
    return {(row["pxname"], row["svname"]): row for row in rows}


def served(running, times: int = 8) -> set[str]:
    """Who answers clients without a cookie; both workers are asked."""
    return {get(running.ports["http"])["server"] for _ in range(times)}


def test_nothing_new_comes_to_a_server_that_is_drained(running, admin) -> None:
    assert served(running) == {"web1", "web2"}
    assert say(admin, "set server web/web1 state drain") == "\n"
    until(lambda: served(running) == {"web2"}, "new clients go elsewhere")
    assert get(running.ports["http"], Cookie="SERVERID=c1")["server"] == "web1", "who holds its cookie does not"
    assert stat(admin)["web", "web1"]["status"] == "DRAIN"
    assert say(admin, "set server web/web1 state ready") == "\n"
    until(lambda: "web1" in served(running), "it is back")
    lines = [line.partition(": ")[2] for line in running.log if "web/web1" in line]
    wanted = [
        "at the runtime socket: set server web/web1 state drain",
        "Server web/web1 enters drain state. 1 active and 0 backup servers online. "
        "0 sessions requeued, 0 total in queue.",
        "at the runtime socket: set server web/web1 state ready",
        "Server web/web1 is UP (leaving forced drain).",
    ]
    assert [line for line in lines if line.endswith(tuple(wanted))][-4:] == [
        next(line for line in lines if line.endswith(end)) for end in wanted
    ]


def test_nobody_comes_to_a_server_in_maintenance(running, admin) -> None:
    say(admin, "set server web/web1 state maint")
    until(lambda: get(running.ports["http"], Cookie="SERVERID=c1")["server"] == "web2", "not even who holds its cookie")
    row = stat(admin)["web", "web1"]
    assert (row["status"], row["check_status"]) == ("MAINT", "")
    say(admin, "enable server web/web1")
    until(lambda: get(running.ports["http"], Cookie="SERVERID=c1")["server"] == "web1", "it is back")


def test_weights_change_the_shares(running, admin) -> None:
    assert say(admin, "get weight web/web1") == "10 (initial 10)\n\n"
    say(admin, "set server web/web1 weight 0")
    until(lambda: served(running) == {"web2"}, "a weight of 0 gets nothing new")
    say(admin, "set server web/web1 weight 300%")
    assert say(admin, "get weight web/web1") == "30 (initial 10)\n\n"

    def share() -> bool:
        found = [get(running.ports["http"])["server"] for _ in range(32)]
        return 20 <= found.count("web1") <= 28

    until(share, "three of four")


def test_the_health_that_was_said_holds_until_checks_say_otherwise(running, admin) -> None:
    say(admin, "disable health web/web1; set server web/web1 health down")
    until(lambda: served(running) == {"web2"}, "down")
    row = stat(admin)["web", "web1"]
    assert row["status"].startswith("DOWN")
    running.wait_for_line("Server web/web1 is DOWN, changed from CLI. 1 active and 0 backup servers left.")
    say(admin, "enable health web/web1")
    until(lambda: "web1" in served(running), "checks bring it back")


def test_sessions_are_ended(running, admin) -> None:
    """A tunnel through TCP and one request at a server that is slow to answer."""
    with socket.create_connection(("127.0.0.1", running.ports["tcp"]), timeout=PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(1) == b"H"
        until(lambda: stat(admin)["plain", "web3"]["scur"] == "1", "its session counts")
        say(admin, "shutdown sessions server plain/web3")
        with pytest.raises(ConnectionError):
            while client.recv(65536):
                pass
            raise ConnectionResetError
    line = running.wait_for_line(" raw plain/web3 ")
    assert " KD " in line
    until(lambda: stat(admin)["plain", "web3"]["scur"] == "0", "it is gone")
    assert talk(running.ports["tcp"], b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


@contextlib.contextmanager
def going_on(ports: dict[str, int]):
    """A request whose body is not whole, a tunnel, and a connection that asks nothing."""
    with contextlib.ExitStack() as stack:
        web, raw, idle = (
            stack.enter_context(socket.create_connection(("127.0.0.1", ports[name]), timeout=PATIENCE))
            for name in ("http", "tcp", "http")
        )
        web.sendall(b"PUT /upload/x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        raw.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert raw.recv(1) == b"H"
        yield web, raw, idle


def sessions(admin: str, words: str = "") -> list[str]:
    """Without HAProxy's own for the one who asks."""
    return [line for line in say(admin, f"show sess {words}").splitlines() if line and "fe=GLOBAL" not in line]


def test_what_goes_on_is_shown_and_can_be_ended(running, admin) -> None:
    with going_on(running.ports) as (web, _, _):
        lines = until(lambda: len(found := sessions(admin)) == 2 and found, "both are shown, of whichever worker")
        port = web.getsockname()[1]
        (request,) = sessions(admin, "frontend ft")
        assert f" src=127.0.0.1:{port} fe=ft be=web srv=web" in request
        number = request.partition(":")[0]
        (tunnel,) = set(lines) - {request}
        assert " fe=raw be=plain srv=web3 " in tunnel
        assert sessions(admin, "server plain/web3 older 0s")[0].partition(":")[0] == tunnel.partition(":")[0]
        assert sessions(admin, "older 1h") == []
        whole = say(admin, f"show sess {number}")
        assert whole.startswith(f"{number}: [") and f"addr=127.0.0.1:{running.ports['http']}" in whole
        assert 'req="PUT /upload/x HTTP/1.1"' in whole
        assert say(admin, "show sess all").count("\n  frontend=") == 2
        assert say(admin, f"show sess {number[:-1]}") == "Session not found.\n\n"
        at = len(running.log)
        running.process.signal(signal.SIGHUP)
        running.wait_for_line("reloaded", after=at)
        until(lambda: Path(admin).is_socket() and len(sessions(admin)) == 2, "those of before a reload are shown too")
        assert say(admin, f"shutdown session {number}") == "\n"
        with pytest.raises(ConnectionError):
            web.recv(1)
            raise ConnectionResetError
        assert " KD" in (line := running.wait_for_line(" ft web/web")) or " KH" in line
        assert say(admin, f"shutdown session {number}") == "No such session (use 'show sess').\n\n"
        running.wait_for_line(f"at the runtime socket: shutdown session {number}")
        assert [line.partition(":")[0] for line in sessions(admin)] == [tunnel.partition(":")[0]]


def test_what_was_said_outlives_control_and_a_reload(running, admin) -> None:
    say(admin, "set server web/web1 state drain; set server web/web2 weight 7")
    (control,) = running.control
    os.kill(control, signal.SIGKILL)
    until(lambda: running.control not in ([], [control]), "another one is there")
    until(lambda: Path(admin).is_socket() and say(admin, "get weight web/web2") == "7 (initial 10)\n\n", "it knows")
    assert stat(admin)["web", "web1"]["status"] == "DRAIN"
    at = len(running.log)
    running.process.signal(signal.SIGHUP)
    running.wait_for_line("reloaded", after=at)
    until(lambda: stat(admin)["web", "web1"]["status"] == "DRAIN", "after a reload too")
    assert say(admin, "get weight web/web2") == "7 (initial 10)\n\n"
    assert served(running) == {"web2"}


def test_counters_are_cleared(running, admin) -> None:
    """Also what workers of before a reload have counted, and for whoever takes control's place."""

    def numbers(name: str) -> tuple[int, ...]:
        rows = stat(admin)
        return tuple(int(rows[key][name]) for key in (("ft", "FRONTEND"), ("web", "web1"), ("web", "BACKEND")))

    for _ in range(4):
        get(running.ports["http"])
    until(lambda: numbers("req_tot") == (4, 2, 4), "all are counted")
    at = len(running.log)
    running.process.signal(signal.SIGHUP)
    running.wait_for_line("reloaded", after=at)
    until(lambda: Path(admin).is_socket() and numbers("req_tot") == (4, 2, 4), "after a reload too")
    assert max(numbers("smax")) > 0
    assert say(admin, "clear counters") == "\n"
    until(lambda: numbers("smax") == (0, 0, 0), "maxima are forgotten")
    assert numbers("req_tot") == (4, 2, 4)
    say(admin, "clear counters all")
    for name in ("req_tot", "hrsp_2xx", "bout"):
        assert numbers(name) == (0, 0, 0)
    for _ in range(2):
        get(running.ports["http"])
    until(lambda: numbers("req_tot") == (2, 1, 2), "counted anew")
    (control,) = running.control
    os.kill(control, signal.SIGKILL)
    until(lambda: running.control not in ([], [control]), "another one is there")
    until(lambda: Path(admin).is_socket() and numbers("req_tot") == (2, 1, 2), "it knows")
    at = len(running.log)
    running.process.signal(signal.SIGHUP)
    running.wait_for_line("reloaded", after=at)
    until(lambda: numbers("req_tot") == (2, 1, 2), "and after another reload")


def test_an_operator_sees_and_changes_by_the_command_line(running, admin) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [COMMAND, *words, "--socket", admin], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        return done.returncode, done.stdout, done.stderr

    drained = "".join(f"web/web{i}: DRAIN (was UP), no sessions left\n" for i in (1, 2))
    assert run("drain", "web/*") == (0, drained, "")
    assert stat(admin)["web", "web2"]["status"] == "DRAIN"
    assert run("ready", "web/web2") == (0, "web/web2: UP (was DRAIN)\n", "")
    assert run("maint", "web/web1", "web/nobody") == (
        1, "web/web1: MAINT (was DRAIN), no sessions left\n", "web/nobody: No such server.\n"
    )  # fmt: skip
    assert run("weight", "50%", "web/web1") == (0, "web/web1: weight 5 (was 10)\n", "")
    assert say(admin, "get weight web/web1") == "5 (initial 10)\n\n"


def test_a_script_asks_how_it_is(running, admin) -> None:
    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [COMMAND, "status", *words, "--socket", admin], capture_output=True, text=True, timeout=PATIENCE
        )
        return done.returncode, done.stdout

    assert run("--quiet") == (0, "")
    assert run()[1].startswith("IP Virtual Server version ")
    get(running.ports["http"])

    def traffic() -> int:
        (backend,) = json.loads(run("--json", "web")[1])["backends"]
        return sum(server["traffic"]["requests_total"] for server in backend["servers"])

    until(lambda: traffic() == 1, "the request that was sent counts")
    say(admin, "disable health web/web1; set server web/web1 health down")
    found, said = run("web")
    assert found == 3 and re.search(r"^  web1 +DOWN ", said, re.MULTILINE), "a server is down"
    say(admin, "set server web/web2 state maint")
    assert run("--quiet", "web") == (4, ""), "none is left"
    assert run("--quiet", "plain") == (0, ""), "but of others there are"


def test_what_happened_is_told_whatever_has_died_since(running, admin) -> None:
    def told() -> list[str]:
        done = subprocess.run(
            [COMMAND, "events", "-n", "1000", "--json", "--socket", admin],
            capture_output=True, text=True, timeout=PATIENCE, check=True,
        )  # fmt: skip
        return [f"{event['source']}: {event['message']}" for event in map(json.loads, done.stdout.splitlines())]

    words = [COMMAND, "events", "-f", "--socket", admin]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as following:
        assert following.stdout is not None
        say(admin, "set server web/web1 state drain")
        while "set server web/web1 state drain" not in following.stdout.readline():
            assert following.poll() is None
        running.process.signal(signal.SIGHUP)
        while "reloaded: nothing has changed" not in following.stdout.readline():
            assert following.poll() is None
        (control,) = running.control
        os.kill(control, signal.SIGKILL)
        until(lambda: running.control not in ([], [control]), "another one is there")
        say(admin, "set server web/web1 state ready")
        while "Server web/web1 is UP (leaving forced drain)." not in following.stdout.readline():
            assert following.poll() is None
        following.kill()
    events = told()
    assert events.count("supervisor: pybalancer starts, 2 workers") == 1
    who = [event for event in events if ": set server web/web1 state " in event]
    assert [event.rsplit(" ", 1)[1] for event in who] == ["drain", "ready"]
    assert all(event.startswith("control: ") and " at the runtime socket: " in event for event in who)
    assert any(event.startswith("supervisor: control ") for event in events), "who died is told too"
    until(lambda: "pybalancer starts, 2 workers" in running.stats("/haproxy?stats"), "and on the page")


def test_a_script_waits_until_a_server_is_empty(running, admin) -> None:
    words = [COMMAND, "drain", "plain/web3", "--wait", "--socket", admin]
    with socket.create_connection(("127.0.0.1", running.ports["tcp"]), timeout=PATIENCE) as client:
        until(lambda: stat(admin)["plain", "web3"]["scur"] == "1", "its session counts")
        late = subprocess.run([*words, "--timeout", "200ms"], capture_output=True, text=True, timeout=PATIENCE)
        assert (late.returncode, late.stdout) == (3, "plain/web3: DRAIN (was no check), 1 session left\n")
        assert late.stderr.startswith("plain/web3: 1 session left after ")
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as waiting:
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == "plain/web3: DRAIN already, 1 session left\n"
            # It goes on where control dies and the file is read anew meanwhile.
            (control,) = running.control
            os.kill(control, signal.SIGKILL)
            until(lambda: running.control not in ([], [control]), "another one is there")
            running.process.signal(signal.SIGHUP)
            running.wait_for_line("reloaded")
            assert waiting.poll() is None
            client.close()
            assert waiting.stdout.readline().startswith("plain/web3: empty after ")
    assert waiting.returncode == 0


# The second opinion

HAPROXY = """
global
  stats socket {admin} level admin
frontend ft
  mode http
  bind 127.0.0.1:{http}
  default_backend web
frontend raw
  mode tcp
  bind 127.0.0.1:{tcp}
  default_backend plain
backend web
  mode http
  cookie SERVERID insert
  server web1 127.0.0.1:{web1} cookie c1 weight 10 check inter 200
  server web2 127.0.0.1:{web2} cookie c2 weight 10 check inter 200
backend plain
  mode tcp
  server web3 127.0.0.1:{web3}
"""
COMMANDS = (
    "show backend", "show servers state nobody", "show stat 99 7 -1 typed",
    "set server", "set server web", "set server web/nobody state drain", "set server nobody/web1 state drain",
    "set server web/web1 state", "set server web/web1 state off", "set server web/web1 state drain",
    "set server web/web1 weight", "set server web/web1 weight 257", "set server web/web1 weight -1",
    "set server web/web1 weight x", "set server web/web1 weight 50%", "get weight web/web1",
    "set weight web/web1 300%", "get weight web/web1", "get weight", "get weight nobody/web1", "get weight web/nobody",
    "set weight web/web1", "disable server", "disable server web/web1", "enable server web/web1",
    "enable server web/nobody", "disable health web/web1", "enable health web/web1",
    "shutdown sessions server web/web1", "shutdown sessions server web/nobody",
    "set timeout cli 10", "set timeout cli", "set timeout x",
    "clear counters", "clear counters all",
    "set severity-output number; get weight web/nobody; get weight web/web1",
    "set severity-output string; set weight web/web1 x",
    "show cli level", "operator; show cli level; clear counters all",
    "user x; show cli level; operator; show cli level", "user; set weight web/web1 2",
    "set maxconn global", "set maxconn global 1000000000", "set maxconn global 50", "set maxconn global 0",
    "set maxconn frontend", "set maxconn frontend nobody 3", "set maxconn frontend web 3", "set maxconn frontend ft",
    "set maxconn frontend ft -3", "set maxconn frontend ft 7", "set maxconn server", "set maxconn server web",
    "set maxconn server web/nobody 3", "set maxconn server web/web1", "set maxconn server web/web1 x",
    "set maxconn server web/web1 3x", "disable frontend", "disable frontend nobody", "disable frontend web",
    "disable frontend ft", "disable frontend ft", "enable frontend ft", "enable frontend ft",
    "enable frontend", "enable frontend nobody", "shutdown frontend", "shutdown frontend nobody",
    "shutdown frontend raw", "shutdown frontend raw", "enable frontend raw", "disable frontend raw",
    "operator; set maxconn global 3", "operator; disable frontend ft", "operator; shutdown frontend ft",
    "quit", "quit; show cli level", "prompt; quit", "prompt\nprompt\nshow cli level",
    "prompt\nshow cli level\nshow cli level\nquit", "get weight web/web1 <<\nshow backend\n",
    "get weight web/web1 <<\n\nget weight web/web2", "get weight web/web1\r", "get weight web/web1\0x",
    r"get weight web\/web1", "get weight web/web1; get weight web/web2",
)  # fmt: skip
# What we have not, or know better.
OURS = {"slim", "idle_conn_cur", "need_conn_est", "check_duration", "check_code", "pid", "weight", "uweight"}


@pytest.fixture
def other(haproxy, tmp_path, web) -> tuple[str, dict[str, int]]:
    admin, ports = str(tmp_path / "haproxy.sock"), {"http": free_port(), "tcp": free_port()}
    names = {server.name: server.port for server in web}
    haproxy(HAPROXY.format(admin=admin, **ports, **names), ports=tuple(ports.values()))
    until(lambda: stat(admin)["web", "web2"]["check_status"] == "L4OK", "HAProxy has checked")
    return admin, ports


def test_its_answers_are_haproxys(running, admin, other) -> None:
    differing = {}
    for command in COMMANDS:
        ours, theirs = say(admin, command), say(other[0], command)
        # HAProxy forgets the line's end of some errors.
        if ours not in (theirs, theirs + "\n"):
            differing[command] = (ours, theirs)
    assert not differing


def test_sessions_are_told_as_haproxy_tells_them(running, admin, other) -> None:
    """What it tells of its own inside, and of where it is, is another's; the words and their order are not."""

    def told(admin: str, ports: dict[str, int]) -> list[str]:
        with going_on(ports):
            lines = until(lambda: len(found := sessions(admin)) == 2 and found, "both are shown")
        masks = {
            r"^0x[0-9a-f]+": "0x", r"\[f=[0-9a-f]+h": "[f=", r"an=[0-9a-f]+h": "an=", r",[0-9a-f]+h,fd=[0-9]+": ",fd=",
            r":[0-9]+ fe": ": fe", r"(epoch|calls|rate|cpu|lat)=[0-9a-fx]+": r"\1=", r"srv=web[12]": "srv=web",
            r"(rx|wx|exp|age)=[0-9hms]*": r"\1=",
        }  # fmt: skip
        for mask, by in masks.items():
            lines = [re.sub(mask, by, line) for line in lines]
        return sorted(lines)

    assert told(admin, running.ports) == told(*other)
    both = [(path, say(path, "show cli sockets")) for path in (admin, other[0])]
    assert len({said.replace(path, "PATH") for path, said in both}) == 1
    for command in ("show sess 0x12", "shutdown session", "shutdown session x", "shutdown session 0x12"):
        assert say(admin, command) == say(other[0], command)
    for command in ("show sess", "shutdown session 0x12"):
        assert say(admin, f"user; {command}") == say(other[0], f"user; {command}")


def test_the_same_traffic_gives_the_same_numbers(running, admin, other) -> None:
    """As many requests and connections through both; then every cell is there or not as with HAProxy, and what was
    counted is the same."""
    for ports in (running.ports, other[1]):
        for _ in range(4):
            get(ports["http"])
        get(ports["http"], Cookie="SERVERID=c2")
        talk(ports["http"], b"GET /\x01 HTTP/1.1\r\n\r\n")
        talk(ports["tcp"], b"GET / HTTP/1.0\r\n\r\n")
    counted = {
        "stot", "dreq", "dresp", "ereq", "econ", "eresp", "wretr", "wredis", "status", "act", "bck", "chkdown",
        "type", "hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "hrsp_other", "req_tot", "cli_abrt",
        "srv_abrt", "check_status", "check_desc", "check_rise", "check_fall", "check_health", "addr", "cookie", "mode",
        "algo", "conn_tot", "dcon", "dses", "scur", "sid", "lbtot",
    }  # fmt: skip

    def compare() -> dict[tuple[str, str, str], tuple[str, str]]:
        ours, theirs = stat(admin), stat(other[0])
        assert ours.keys() == theirs.keys()
        wrong = {}
        for key, row in theirs.items():
            for name, value in row.items():
                if name == "-":
                    break
                mine = ours[key][name]
                if name not in OURS and (bool(mine) != bool(value) or (name in counted and mine != value)):
                    wrong[*key, name] = (mine, value)
        return wrong

    deadline = time.monotonic() + 5
    while (found := compare()) and time.monotonic() < deadline:
        pass
    assert not found


# Programs


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    assert found, f"{name} is not installed"
    return found


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.stdout + done.stderr


def test_haproxyadmin(running, admin) -> None:
    script = f"""
from haproxyadmin import haproxy
all_ = haproxy.HAProxy(socket_file={admin!r})
print(sorted(each.name for each in all_.frontends()), sorted(each.name for each in all_.backends()))
server = all_.server("web1", backend="web")[0]
print(server.weight, server.status, server.address, server.port)
server.setweight("50%")
server.setstate("drain")
print(server.weight, server.status)
server.setstate("disable")
print(server.status)
server.setstate("enable")
print(server.status, all_.maxconn > 0, all_.version)
front = all_.frontend("ft")
print(front.setmaxconn(33), front.maxconn, all_.setmaxconn(44), all_.maxconn)
print(front.disable(), front.status, front.enable(), front.status, front.shutdown(), front.status)
print(all_.errors()[0][1][0].endswith(" : 0"), all_.command("show sess")[0][1])
"""
    said = run(sys.executable, "-W", "ignore", "-c", script)
    port = running.config["backends"]["web"]["servers"]["web1"]["address"].partition(":")[2]
    assert said.splitlines() == [
        "['ft', 'raw'] ['plain', 'web']",
        f"10 UP 127.0.0.1 {port}",
        "5 DRAIN",
        "MAINT",
        f"UP True {__version__}-pybalancer",
        "True 33 True 44",
        "True PAUSED True OPEN True STOP",
        "True ['']",
    ]


def test_haproxy_cli(running, admin) -> None:
    cli = program("haproxy-cli")
    assert run(cli, "-k", admin, "-c", "get-weight", "-b", "web", "-s", "web1").startswith("10 (initial 10)")
    run(cli, "-k", admin, "-c", "set-weight", "-b", "web", "-s", "web1", "-w", "7")
    run(cli, "-k", admin, "-c", "disable", "-b", "web", "-s", "web2")
    assert "web1" in run(cli, "-k", admin, "-c", "servers", "-b", "web")
    rows = stat(admin)
    assert rows["web", "web1"]["weight"] == "7" and rows["web", "web2"]["status"] == "MAINT"


def test_prometheus_haproxy_exporter(running, admin) -> None:
    port = free_port()
    command = [program("prometheus-haproxy-exporter"), f"--web.listen-address=127.0.0.1:{port}"]
    with subprocess.Popen(
        [*command, f"--haproxy.scrape-uri=unix:{admin}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as exporter:
        try:
            until(lambda: is_bound(port), "the exporter listens")
            page = curl("-s", f"http://127.0.0.1:{port}/metrics").stdout.decode()
        finally:
            exporter.kill()
    for line in (
        "haproxy_up 1",
        "haproxy_exporter_csv_parse_failures_total 0",
        'haproxy_server_up{backend="web",server="web1"} 1',
        'haproxy_server_up{backend="plain",server="web3"} 1',
    ):
        assert line in page.splitlines()


def test_hatop(running, admin) -> None:
    """It needs a terminal, and talks at the prompt."""
    tmux, name = program("tmux"), f"hatop-{os.getpid()}"
    subprocess.run(
        [tmux, "-L", name, "-f", "/dev/null", "new-session", "-d", "-x", "160", "-y", "40",
         f"TERM=screen {program('hatop')} -s {admin}"],
        check=True, timeout=PATIENCE,
    )  # fmt: skip
    try:
        screen = until(
            lambda: (said := run(tmux, "-L", name, "capture-pane", "-p")) and "web3" in said and said, "hatop shows it"
        )
        assert re.search(r"^web1 +10 UP +L4OK", screen, re.MULTILINE)
        assert re.search(r"^FRONTEND +0 OPEN", screen, re.MULTILINE)
    finally:
        run(tmux, "-L", name, "kill-server")


def test_the_page_gives_the_table_to_programs(running) -> None:
    text = running.stats("/haproxy?stats;csv;norefresh")
    assert text.startswith("# pxname,svname,") and "\nweb,BACKEND," in text
    assert '"name":"pxname"' in running.stats("/haproxy?stats;json")
    assert ">web1<" in running.stats("/haproxy?stats;up")
    assert ">web1<" not in running.stats("/haproxy?stats;scope=plain")
