"""Sockets that somebody else has bound for us."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from balancer.config.model import Config
from balancer.daemon.passed import Passed
from balancer.daemon.sockets import Sockets
from balancer.errors import StartError
from tests.e2e.bed.process import free_port, is_bound
from tests.e2e.bed.pybalancer import COMMAND

# Puts sockets where sd_listen_fds(3) wants them, and becomes the command.
LAUNCHER = """
import os, sys
files = [int(each) for each in sys.argv[1].split(",")]
import fcntl
copies = [fcntl.fcntl(file, fcntl.F_DUPFD, 100) for file in files]
for i, copy in enumerate(copies):
    os.dup2(copy, 3 + i)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(files)), "LISTEN_FDNAMES": sys.argv[2]}
os.execv(sys.argv[3], sys.argv[3:])
"""


def config(**frontends) -> Config:
    made = {name: {"default_backend": "b", **each} for name, each in frontends.items()}
    whole = {"frontends": made, "backends": {"b": {"servers": {"s": {"address": "127.0.0.1:9"}}}}}
    return Config.model_validate(whole, strict=False)


def listening(family=socket.AF_INET, host="127.0.0.1", kind=socket.SOCK_STREAM, v6only=True):
    sock = socket.socket(family, kind)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only))
    sock.bind((host, 0))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


def port_of(sock):
    return sock.getsockname()[1]


@pytest.fixture
def opened():
    made: list[Sockets] = []

    def run(text, workers, *sockets, before=None):
        passed = Passed((f"n{i}", sock) for i, sock in enumerate(sockets))
        made.append(Sockets.open(text, workers, passed=passed, before=before))
        return made[-1]

    yield run
    for each in made:
        each.close()


def test_tcp_is_used_and_each_worker_has_one_beside_it(opened):
    sock = listening()
    port = port_of(sock)
    found = opened(config(f={"mode": "tcp", "bind": f"127.0.0.1:{port}"}), 3, sock)
    mine = [pairs[0][1] for pairs in found.frontends["f"]]
    assert sock in mine
    assert len(set(mine)) == 3
    assert {port_of(each) for each in mine} == {port}
    assert not found.warnings
    with socket.create_connection(("127.0.0.1", port), 5):
        pass


def test_where_no_more_can_be_bound_all_workers_share_it(opened, monkeypatch):
    """As where it is another user's."""

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("balancer.daemon.sockets._bind_ip", refuse)
    tcp, udp = listening(), listening(kind=socket.SOCK_DGRAM)
    text = config(
        f={"mode": "tcp", "bind": f"127.0.0.1:{port_of(tcp)}"},
        u={"mode": "udp", "bind": f"127.0.0.1:{port_of(udp)}", "udp": {"protocol": "generic"}},
    )
    found = opened(text, 2, tcp, udp)
    assert [[sock for _, sock in pairs] for pairs in found.frontends["f"]] == [[tcp], [tcp]]
    assert [[sock for _, sock in pairs] for pairs in found.frontends["u"]] == [[udp], []], "a flow is of one worker"
    # A reload, with more workers.
    after = opened(text, 3, before=found)
    assert [[sock for _, sock in pairs] for pairs in after.frontends["f"]] == [[tcp]] * 3
    assert [[sock for _, sock in pairs] for pairs in after.frontends["u"]] == [[udp], [], []]


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ipv6_udp_stats_and_the_runtime_socket(opened, tmp_path):
    path = tmp_path / "run.sock"
    six, udp, page = listening(socket.AF_INET6, "::1"), listening(kind=socket.SOCK_DGRAM), listening()
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(path))
    unix.listen()
    path.chmod(0o640)
    text = config(
        f={"mode": "tcp", "bind": f"[::1]:{port_of(six)}"},
        u={"mode": "udp", "bind": f"127.0.0.1:{port_of(udp)}", "udp": {"protocol": "generic"}},
    )
    more = {"stats": {"bind": f"127.0.0.1:{port_of(page)}"}, "global": {"runtime_socket": {"path": str(path)}}}
    others = Config.model_validate(more, strict=False)
    text = text.model_copy(update={"stats": others.stats, "global_": others.global_})
    found = opened(text, 1, six, udp, page, unix)
    assert found.all == {six, udp, page, unix}
    assert (found.stats, found.runtime) == ([page], unix)
    found.close()
    found.unlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640, "it is whose it was, and stays"


def test_what_is_of_no_bind_is_closed_and_told_of(opened):
    sock, port = listening(), free_port()
    found = opened(config(f={"mode": "tcp", "bind": f"127.0.0.1:{port}"}), 1, sock)
    (warning,) = found.warnings
    assert warning.startswith("a socket that was passed to us (n0, stream 127.0.0.1:")
    assert sock.fileno() == -1
    assert is_bound(port), "what was not passed we bind"


def test_a_socket_in_the_way_is_closed_before_we_bind(opened):
    """Of all addresses, where the configuration has one."""
    sock = listening(host="0.0.0.0")
    found = opened(config(f={"mode": "tcp", "bind": f"127.0.0.1:{port_of(sock)}"}), 1, sock)
    assert len(found.warnings) == 1


@pytest.mark.parametrize(
    ("mode", "kind", "is_"), [("tcp", socket.SOCK_DGRAM, "datagram"), ("udp", socket.SOCK_STREAM, "stream")]
)
def test_one_of_the_wrong_type_is_an_error(mode, kind, is_):
    sock = listening(kind=kind)
    with pytest.raises(StartError, match=rf"frontends\.f\.bind: 127\.0\.0\.1:.* was passed to us as a {is_} socket"):
        Sockets.open(config(f={"mode": mode, "bind": f"127.0.0.1:{port_of(sock)}"}), 1, passed=Passed([("x", sock)]))
    sock.close()


def test_one_that_does_not_listen_is_an_error():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(StartError, match="does not listen; with systemd, Accept= has to be no"):
            Sockets.open(
                config(f={"mode": "tcp", "bind": f"127.0.0.1:{port_of(sock)}"}), 1, passed=Passed([("", sock)])
            )


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
@pytest.mark.parametrize("both", [True, False])
def test_ipv4_through_a_socket_of_ipv6_is_as_configured(opened, both):
    sock = listening(socket.AF_INET6, "::", v6only=not both)
    bind = {"address": f"[::]:{port_of(sock)}", "v4v6": both}
    assert opened(config(f={"mode": "tcp", "bind": bind}), 1, sock).all == {sock}
    sock = listening(socket.AF_INET6, "::", v6only=both)
    bind = {"address": f"[::]:{port_of(sock)}", "v4v6": both}
    with sock, pytest.raises(StartError, match="BindIPv6Only="):
        Sockets.open(config(f={"mode": "tcp", "bind": bind}), 1, passed=Passed([("x", sock)]))


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"LISTEN_FDS": "x"}, "LISTEN_FDS: 'x' is no number"),
        ({"LISTEN_FDS": "999999"}, "is no number from 0 to 4096"),
        ({"LISTEN_FDS": "1"}, r"descriptor 3 \(unknown\) is no socket"),
        ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}, r"descriptor 3 \(web\) is no socket"),
    ],
)
def test_what_the_environment_says_wrongly(variables, why):
    program = (
        "import os; os.closerange(3, 20); os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "from balancer.daemon.passed import Passed\n"
        "try:\n    Passed.of_environment()\nexcept Exception as error:\n    print(error)\n"
        "assert not [name for name in os.environ if name.startswith('LISTEN')]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **variables}, capture_output=True, text=True, timeout=30
    )
    assert re.search(why, done.stdout), done


def test_what_is_for_another_process_is_not_ours(monkeypatch):
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert not len(Passed.of_environment())
    assert "LISTEN_FDS" not in os.environ


def test_the_command_uses_them(tmp_path: Path):
    """As a socket unit has it: who connects before the daemon is there is served by it."""
    with listening() as one, listening() as stranger:
        file = tmp_path / "balancer.yaml"
        file.write_text(
            f"frontends: {{f: {{mode: http, bind: '127.0.0.1:{port_of(one)}', default_backend: b}}}}\n"
            "backends: {b: {servers: {s: {address: '127.0.0.1:9'}}}}\n"
            "global: {log: {target: stdout, level: notice}}\n"
        )
        with socket.create_connection(("127.0.0.1", port_of(one)), 20) as early:
            early.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            words = [sys.executable, "-c", LAUNCHER, f"{one.fileno()},{stranger.fileno()}", "web:other"]
            for sock in (one, stranger):
                sock.set_inheritable(True)
            process = subprocess.Popen(
                [*words, COMMAND, "-c", file],
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=[one.fileno(), stranger.fileno()],
            )
            try:
                one.close()
                assert early.recv(100).startswith(b"HTTP/1.1 503 ")
            finally:
                process.terminate()
                said, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "a socket that was passed to us (other, stream 127.0.0.1:" in said
