"""What README's table of faults says, for those rows that no other test is about."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.bed.clients import Load
from tests.e2e.bed.process import Process, until
from tests.e2e.bed.pybalancer import COMMAND, Balancer

CONFIG = """
global: {workers: 1}
frontends:
  web: {mode: http, bind: "127.0.0.1:${front}", default_backend: web, timeout: {http_keep_alive: 2s}}
backends:
  web: {check: {type: tcp, interval: 200ms}, servers: {web1: {address: "127.0.0.1:${web1}"}}}
"""
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def again(balancer: Callable[..., Balancer], web, tmp_path):
    """again(words…, env=…) -> the daemon, started by that command in front of it, and its port."""
    made = []

    def start(*words: str, text: str = CONFIG, env: dict[str, str] | None = None) -> tuple[Process, int]:
        it = balancer(text, wait=False, web1=web[0].port)
        it.process.kill()
        it.expected_status = -signal.SIGKILL
        made.append(Process([*words, COMMAND, "-c", it.file], cwd=tmp_path, env=env))
        port = it.ports["front"]
        made[-1].wait_until(lambda: answer(port) == "200", "it serves")
        return made[-1], port

    yield start
    for process in made:
        process.end()


def answer(port: int) -> str | None:
    """Its status; None where there is none."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(REQUEST)
        return client.recv(65536)[9:12].decode() or None
    return None


def test_out_of_memory_a_worker_is_replaced(balancer, web) -> None:
    it = balancer(CONFIG, web1=web[0].port)
    port = it.ports["front"]
    assert answer(port) == "200"
    (worker,) = it.workers
    size = int(re.findall(r"VmSize:\s+(\d+)", Path(f"/proc/{worker}/status").read_text())[0]) * 1024
    resource.prlimit(worker, resource.RLIMIT_AS, (size + 4 * 2**20, resource.RLIM_INFINITY))
    with contextlib.ExitStack() as clients:
        for _ in range(1500):
            client = clients.enter_context(socket.socket())
            client.settimeout(10)
            with contextlib.suppress(OSError):
                client.connect(("127.0.0.1", port))
                client.sendall(REQUEST[:-2] + b"X: " + os.urandom(2000).hex().encode())
        it.process.wait_for_line("MemoryError")
        it.process.wait_for_line("worker 0 ended with status 71, starting another")
    until(lambda: answer(port) == "200", "it serves again")
    assert worker not in it.workers
    # Who was with it is not counted as there.
    until(lambda: it.metric("haproxy_frontend_current_sessions", proxy="web") == 0, "nobody is left")


def test_a_full_disk_costs_the_log_alone(again) -> None:
    it, port = again("sh", "-c", 'exec "$@" >/dev/full', "sh")
    assert {answer(port) for _ in range(50)} == {"200"}
    it.signal(signal.SIGTERM)
    assert it.wait() == 0
    assert "Traceback" not in it.said()


ON_A_SMALL_DISK = """
mount -t tmpfs -o size=64k,mode=755 tmpfs "$DISK"
mkdir "$DISK/state"
exec "$@"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_full_disk_costs_lines_of_the_log_and_that_changes_are_remembered(again, tmp_path):
    """It takes both again when there is room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    text = CONFIG.replace(
        "workers: 1",
        f"workers: 1, state_directory: {disk}/state, log: [{{target: {disk}/log}}, {{target: stdout, level: warning}}],"
        f" runtime_socket: {{path: {tmp_path}/admin.sock, level: admin}}",
    )
    it, port = again("env", f"DISK={disk}", "unshare", "--mount", "sh", "-ec", ON_A_SMALL_DISK, "sh", text=text)
    seen = Path(f"/proc/{it.pid}/root{disk}")
    until(lambda: " web web/web1 " in (seen / "log").read_text(), "it logs")
    rest = os.open(seen / "all", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(rest, bytes(512)):
            pass
    os.close(rest)
    assert {answer(port) for _ in range(200)} == {"200"}
    assert (seen / "log").stat().st_size <= 8192

    assert order(tmp_path, "set server web/web1 state drain why disk") == ""
    it.wait_for_line("are not kept for after a restart: ")
    assert "cannot be written: No space left on device" in it.said()
    workers = it.children.keys()
    it.signal(signal.SIGHUP)
    it.wait_until(lambda: len(it.children) == 2 and not workers & it.children.keys(), "it is reloaded")
    assert "drain" in order(tmp_path, "show overrides"), "it holds all the same"
    order(tmp_path, "set server web/web1 state ready")
    until(lambda: answer(port) == "200", "it serves again")

    (seen / "all").unlink()
    order(tmp_path, "set server web/web1 state drain why disk")
    kept = seen / "state/overrides.json"
    until(lambda: kept.exists() and '"drain"' in kept.read_text(), "it is kept")
    order(tmp_path, "set server web/web1 state ready")
    until(lambda: answer(port) and "did not take" in (seen / "log").read_text(), "it goes on, and says what is missing")


def order(folder: Path, command: str) -> str:
    """What the runtime socket says to it."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(folder / "admin.sock"))
        client.sendall(command.encode() + b"\n")
        said = b""
        while data := client.recv(65536):
            said += data
    return said.decode().strip()


def test_a_clock_that_jumps_ends_nothing_early_or_late(again, tmp_path) -> None:
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    faked = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    it, port = again(env={**faked, "FAKETIME_DONT_FAKE_MONOTONIC": "1"})
    for jump in ("+1h", "-1h", "+30s", "-30s"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(REQUEST)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
            clock.write_text(jump)
            time.sleep(0.5)  # what the jump would end by mistake ends in this time
            client.sendall(REQUEST)
            assert client.recv(65536).startswith(b"HTTP/1.1 200"), f"{jump} ended it"
            began = time.monotonic()
            assert client.recv(65536) == b""
            assert 1.5 < time.monotonic() - began < 8, "timeout.http_keep_alive: 2s"
    # Its log has the clock's time, so it did jump.
    hours = {line.split("]")[0].split(":")[-3] for line in it.out if " web web/" in line}
    assert len(hours) >= 2
    assert not any("DOWN" in line for line in it.out), it.said()


NOBODY_ANSWERS = """
echo "nameserver 127.9.9.9" >"$FOLDER/resolv.conf"
mount --bind "$FOLDER/resolv.conf" /etc/resolv.conf
exec "$@"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts, and has port 53")
def test_a_resolver_that_never_answers_costs_the_start_a_few_seconds_and_a_reload_nobody(again, tmp_path):
    text = CONFIG.replace("servers: {", 'servers: {named: {address: "www.name.test:80"}, ')
    with socket.socket(type=socket.SOCK_DGRAM) as resolver:
        resolver.bind(("127.9.9.9", 53))
        began = time.monotonic()
        setting = ["env", f"FOLDER={tmp_path}", "unshare", "--mount", "sh", "-ec", NOBODY_ANSWERS, "sh"]
        it, port = again(*setting, text=text)
        assert time.monotonic() - began < 10
        assert asked(resolver)
        it.wait_for_line("no address found for web/named")
        workers = it.children.keys()
        with Load(port, clients=4) as load:
            load.wait_for(20)
            it.signal(signal.SIGHUP)
            it.wait_until(lambda: len(it.children) == 2 and not workers & it.children.keys(), "it is reloaded")
            assert asked(resolver)
            load.wait_for(20)
        assert (load.failed, load.cut) == ([], [])


def asked(resolver: socket.socket) -> bool:
    """Whether it was, since the last look."""
    resolver.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while resolver.recv(512):
            count += 1
    return count > 0


FEW_PORTS = """
ip link set lo up
echo "40000 40019" >/proc/sys/net/ipv4/ip_local_port_range
"$PYTHON" -c "$ECHO" >/dev/null 2>&1 &
exec "$@"
"""
ECHO = """
import socket, sys, threading
def serve(client):
    with client:
        while (data := client.recv(1000)) not in (b"", b"end"):
            client.sendall(data)
listener = socket.create_server(("127.0.0.1", 9000))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
BY_FILE = """
global: {workers: 1, log: {target: stdout}}
frontends: {tcp: {mode: tcp, bind: "FOLDER/tcp.sock", default_backend: echo}}
backends: {echo: {servers: {e: {address: "127.0.0.1:9000"}}}}
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces")
def test_without_ports_towards_servers_clients_are_turned_away_until_there_are_some(tmp_path):
    file = tmp_path / "balancer.yaml"
    file.write_text(BY_FILE.replace("FOLDER", str(tmp_path)))
    setting = ["env", f"PYTHON={sys.executable}", f"ECHO={ECHO}", "unshare", "--net", "sh", "-ec", FEW_PORTS, "sh"]
    it = Process([*setting, COMMAND, "-c", file], cwd=tmp_path)
    try:
        path = tmp_path / "tcp.sock"
        it.wait_until(path.is_socket, "it listens")

        def talks(client: socket.socket) -> bool:
            with contextlib.suppress(OSError):
                client.settimeout(10)
                client.sendall(b"x")
                return client.recv(1) == b"x"
            return False

        def connect() -> socket.socket:
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(path))
            return client

        with contextlib.ExitStack() as clients:
            it.wait_until(lambda: talks(connect()), "the server is there")
            served = [client for client in [connect() for _ in range(40)] if talks(client)]
            assert 10 < len(served) < 20
            assert not any(talks(connect()) for _ in range(5))
            assert all(talks(client) for client in served)
            for client in served:
                # The server is the one to close, so that ports do not wait for a minute (RFC 9293 section 3.6.1).
                client.sendall(b"end")
                assert client.recv(1) == b""
        with contextlib.ExitStack() as clients:
            it.wait_until(lambda: talks(connect()), "there are ports again")
        assert "Traceback" not in it.said()
        it.signal(signal.SIGTERM)
        assert it.wait() == 0
    finally:
        it.end()
