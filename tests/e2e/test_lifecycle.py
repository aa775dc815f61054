"""Start, stop, and what the daemon weighs in between."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import threading
import time

import pytest

from balancer.observe.upgrades import DRY_RUN
from tests.e2e.bed.clients import get
from tests.e2e.bed.process import PATIENCE, Process, free_port, is_bound, until
from tests.e2e.bed.pybalancer import COMMAND, run

CONFIG = """
global: {workers: 2, hard_stop_after: HARD_STOP}
frontends:
  http: {mode: http, bind: "127.0.0.1:${http}", default_backend: b}
  tcp: {mode: tcp, bind: "127.0.0.1:${tcp}", default_backend: b}
  dns: {mode: udp, bind: "127.0.0.1:${dns}", udp: {protocol: dns}, default_backend: names}
backends:
  b: {check: {type: tcp}, servers: {s: {address: "127.0.0.1:${web}"}}}
  names: {servers: {n: {address: "127.0.0.1:${name}"}}}
"""


@pytest.fixture
def running(balancer, web, names):
    return balancer(CONFIG.replace("HARD_STOP", "20s"), web=web[0].port, name=names[0].port)


class SlowDownload:
    """A download of 300 KiB that takes about three seconds, on a connection that stays open for more."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._thread = threading.Thread(target=self._read)
        self.body = b""
        self.error: Exception | None = None

    def __enter__(self) -> SlowDownload:
        self._connection.request("GET", "/slow/file")
        # The head has come: it is in flight.
        self._response = self._connection.getresponse()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._connection.close()

    def _read(self) -> None:
        try:
            self.body = self._response.read()
        except (OSError, http.client.HTTPException) as error:
            self.error = error

    def wait(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def test_sigterm_lets_a_response_in_flight_finish(running):
    with SlowDownload(running.ports["http"]) as download:
        began = time.monotonic()
        running.process.signal(signal.SIGTERM)
        download.wait()
        assert (len(download.body), download.error) == (300 * 1024, None)
        # The client would use its connection again. Nobody waits for that.
        assert running.process.wait() == 0
        assert time.monotonic() - began < 8


def test_sigterm_lets_a_tcp_connection_finish(running):
    with SlowDownload(running.ports["tcp"]) as download:
        running.process.signal(signal.SIGTERM)
        download.wait()
        assert (len(download.body), download.error) == (300 * 1024, None)
    # What TCP carries is not known: its end is the client's closing.
    assert running.process.wait(within=8) == 0


def test_sigterm_closes_the_ports_at_once(running):
    ports = running.ports["http"], running.ports["tcp"]
    with SlowDownload(running.ports["http"]):
        running.process.signal(signal.SIGTERM)
        until(lambda: not any(map(is_bound, ports)), "the ports are closed")
        assert running.process.status is None, "the download should still go on"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", ports[0]))
        # Whoever comes next finds the port free.
        with socket.create_server(("127.0.0.1", ports[0])):
            pass


def test_an_idle_keep_alive_connection_does_not_delay_the_end(running):
    connection = http.client.HTTPConnection("127.0.0.1", running.ports["http"], timeout=PATIENCE)
    connection.request("GET", "/")
    connection.getresponse().read()
    began = time.monotonic()
    running.process.signal(signal.SIGTERM)
    assert running.process.wait() == 0
    assert time.monotonic() - began < 5
    connection.close()


def test_a_second_sigterm_ends_at_once(running):
    with SlowDownload(running.ports["http"]) as download:
        running.process.signal(signal.SIGTERM)
        until(lambda: not is_bound(running.ports["http"]), "it stops")
        running.process.signal(signal.SIGTERM)
        assert running.process.wait(within=2) == 0
    assert download.error is not None or len(download.body) < 300 * 1024


def test_the_hard_stop_bounds_the_wait(balancer, web, names):
    running = balancer(CONFIG.replace("HARD_STOP", "500ms"), web=web[0].port, name=names[0].port)
    # A TCP connection on which nothing happens: it would stay for as long as its timeouts allow.
    with socket.create_connection(("127.0.0.1", running.ports["tcp"])) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert client.recv(100)
        running.process.signal(signal.SIGTERM)
        assert running.process.wait(within=10) == 0


def test_ctrl_c_ends_it_like_sigterm(running):
    """A terminal sends SIGINT to the whole process group."""
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.process.wait() == 0


def test_two_workers_at_rest_weigh_at_most_100_mib(running):
    get(running.ports["http"])
    running.stats()
    pss = until(lambda: (found := running.pss()) and len(found) == 4 and found, "a supervisor and three children")
    print("PSS in MiB:", {process.split()[0]: round(kib / 1024, 1) for process, kib in pss.items()})
    assert sum(pss.values()) <= 100 * 1024


def test_a_taken_port_is_said_in_one_line(balancer, web, names):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        text = CONFIG.replace("HARD_STOP", "5s")
        running = balancer(text, web=web[0].port, name=names[0].port, http=port, wait=False)
        running.process.wait()
    running.expected_status = 1
    assert len(running.process.err) == 1, running.process.said()
    assert f"cannot bind 127.0.0.1:{port}" in running.process.err[0]


def test_a_second_copy_is_refused(running):
    """SO_REUSEPORT would let it take half of the connections."""
    second = run("-c", running.file)
    assert second.returncode == 1
    assert "Traceback" not in second.stderr
    assert re.search(rf"(?m)cannot bind 127\.0\.0\.1:{running.ports['http']}\b", second.stderr)


def test_it_starts_again_at_once_on_the_same_ports(running):
    get(running.ports["http"])
    running.end()
    again = run("check", "-c", running.file)
    assert (again.returncode, again.stdout) == (0, "OK\n")


def test_a_file_that_will_not_do_starts_nothing(tmp_path):
    port = free_port()
    file = tmp_path / "balancer.yaml"
    file.write_text(f"frontends:\n  f: {{mode: tcp, bind: '127.0.0.1:{port}', default_backend: nowhere}}\n")
    done = run("-c", file)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{file}:2:")
    assert done.stdout == ""


@pytest.fixture
def starting(tmp_path):
    """A daemon that waits for the text of its file, which is to be written into a pipe."""
    file = tmp_path / "balancer.yaml"
    os.mkfifo(file)
    process = Process([COMMAND, "-c", file], cwd=tmp_path)
    try:
        with file.open("w") as pipe:
            yield process, file, pipe
    finally:
        process.end()


def test_what_it_is_told_while_it_starts_is_done_once_it_serves(starting):
    process, file, pipe = starting
    for number in (signal.SIGHUP, DRY_RUN):
        os.kill(process.pid, number)
    text = f"""
        frontends: {{f: {{mode: tcp, bind: "127.0.0.1:{free_port()}", default_backend: b}}}}
        backends: {{b: {{servers: {{s: {{address: "127.0.0.1:{free_port()}"}}}}}}}}
    """
    other = file.with_suffix(".new")
    other.write_text(text)
    other.replace(file)
    pipe.write(text)
    pipe.close()
    process.wait_for_line("NOTICE: reloaded: ")
    process.wait_for_line("an upgrade is possible: ")


def test_what_it_is_told_while_it_starts_does_not_hide_why_it_does_not(starting):
    process, file, pipe = starting
    process.signal(signal.SIGHUP)
    pipe.write("frontends: nonsense\n")
    pipe.close()
    assert process.wait() == 1
    assert any(line.startswith(f"{file}:1:") for line in process.err)


def test_the_command_is_installed():
    assert COMMAND.exists()
    assert run("--version").stdout.startswith("pybalancer ")
