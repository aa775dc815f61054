"""A reload that does not come up: those of before go on, as if nothing had been asked of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.bed.clients import Load, get, say
from tests.e2e.bed.process import PATIENCE, Process, free_port, is_bound, until
from tests.e2e.test_reload import Datagrams, Echo, talking

CONFIG = """
global: {workers: 2, hard_stop_after: 2s, runtime_socket: {path: "${socket}", level: admin}}
frontends:
  http: {mode: http, bind: "127.0.0.1:${http}", default_backend: web}
  tcp: {mode: tcp, bind: "127.0.0.1:${tcp}", default_backend: echo}
  udp: {mode: udp, bind: "127.0.0.1:${udp}", udp: {protocol: generic}, default_backend: datagrams}
backends:
  web:
    servers:
      web1: {address: "127.0.0.1:${web1}"}
      web2: {address: "127.0.0.1:${web2}"}
  echo: {servers: {e: {address: "127.0.0.1:${echo}"}}}
  datagrams: {servers: {d1: {address: "127.0.0.1:${d1}"}, d2: {address: "127.0.0.1:${d2}"}}}
"""
# Where there is something that is called `bad`, control comes to nothing, once its workers take clients.
PATCHED = """
import asyncio, os, signal, sys, time
from balancer import cli
from balancer.daemon import changeover, control
changeover._UNTIL_READY = 1.5
serve = control.Control._serve
async def _serve(self):
    if "bad" in self._plan.config.frontends or "bad" in self._plan.config.backends["web"].servers:
        {what}
    await serve(self)
control.Control._serve = _serve
sys.exit(cli.main())
"""
WAYS = {
    "a defect": ("raise KeyError(7)", "control ended with status 1"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "control killed by signal 9 (Killed)"),
    "hangs": ("time.sleep(60)", "new control was not ready within 2 s"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


@pytest.fixture
def start(balancer, web, tmp_path, path) -> Iterator[Callable[[str], tuple[Process, dict[str, int], Path]]]:
    """The daemon with a control process that fails in one of these ways; its ports and its file."""
    echo, first, second = Echo(), Datagrams("d1"), Datagrams("d2")
    servers = {"echo": echo.port, "d1": first.port, "d2": second.port}
    running: list[Process] = []

    def begin(what: str) -> tuple[Process, dict[str, int], Path]:
        it = balancer(CONFIG, wait=False, web1=web[0].port, web2=web[1].port, socket=path, **servers)
        it.process.kill()
        it.expected_status = -signal.SIGKILL
        again = Process([sys.executable, "-c", PATCHED.format(what=what), "-c", it.file], cwd=tmp_path)
        running.append(again)
        again.wait_until(lambda: is_bound(it.ports["http"]) and len(again.children) == 3, "it serves")
        return again, it.ports, it.file

    yield begin
    try:
        for each in running:
            each.signal(signal.SIGTERM)
            assert each.wait() == 0, each.said()
    finally:
        for each in running:
            each.end()
        for server in (echo, first, second):
            server.close()


def write(file: Path, change: Callable[[dict], object]) -> None:
    config = yaml.safe_load(file.read_text())
    change(config)
    file.write_text(yaml.safe_dump(config, sort_keys=False))


def held(daemon: Process) -> Counter[str]:
    """The supervisor's descriptors, by what they are, but for memory: what was counted is kept until the next one."""
    found: Counter[str] = Counter()
    for link in Path(f"/proc/{daemon.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[link.readlink().name.partition(":")[0]] += 1
    del found["memfd"]
    return found


def ask(port: int, clients: list[socket.socket]) -> list[bytes]:
    answers = []
    for client in clients:
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", port))
        client.send(b"x")
        answers.append(client.recv(100))
    return answers


@pytest.mark.parametrize("way", ["killed", "hangs"])
def test_control_that_does_not_come_up(start, way, path):
    what, said = WAYS[way]
    daemon, ports, file = start(what)
    good, mine = file.read_text(), free_port()
    workers = set(daemon.children)
    before = held(daemon)
    bad = {"mode": "tcp", "bind": f"127.0.0.1:{mine}", "default_backend": "echo"}
    write(file, lambda config: config["frontends"].update(bad=bad))
    with contextlib.ExitStack() as at_the_end:
        clients = [at_the_end.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(10)]
        flows = ask(ports["udp"], clients)
        tell = at_the_end.enter_context(talking(ports["tcp"]))
        with Load(ports["http"], clients=4, keep_alive=False) as load, Load(ports["http"], clients=2) as kept:
            load.wait_for(20)
            done = json.loads(say(path, "reload json"))
            load.wait_for(20)
            kept.wait_for(20)
        assert (load.failed, load.cut, kept.failed, kept.cut) == ([], [], [], [])
        assert (done["outcome"], done["why"]) == ("rolled back", [said])
        daemon.wait_for_line("is not loaded, all goes on as before")
        daemon.wait_for_line("NOTICE: those of before the reload have taken over again")
        assert tell(b"still") == b"still"
        assert ask(ports["udp"], clients) == flows
        # All that is left is what there was, with another control process.
        until(lambda: len(daemon.children) == 3 and len(set(daemon.children) & workers) == 2, "those of before")
        until(lambda: not is_bound(mine), "what was new is closed")
        until(lambda: held(daemon) == before, f"no descriptor is left over: {held(daemon)} instead of {before}")
        # The next one works, and flows go over to it.
        file.write_text(good)
        assert json.loads(say(path, "reload json"))["outcome"] == "reloaded"
        assert tell(b"still") == b"still"
        assert ask(ports["udp"], clients) == flows
    assert get(ports["http"])


def test_a_worker_of_before_that_dies_meanwhile_has_one_follow_it(start):
    daemon, ports, file = start(WAYS["hangs"][0])
    before = set(daemon.children)
    bad = {"mode": "tcp", "bind": f"127.0.0.1:{free_port()}", "default_backend": "echo"}
    write(file, lambda config: config["frontends"].update(bad=bad))
    daemon.signal(signal.SIGHUP)
    # Old control is told to end once the new workers take clients.
    until(lambda: len(before & set(daemon.children)) == 2, "they take over")
    os.kill(min(before & set(daemon.children)), signal.SIGKILL)
    daemon.wait_for_line("NOTICE: those of before the reload have taken over again")
    until(lambda: len(daemon.children) == 3, "there are two workers and control")
    with Load(ports["http"], clients=4, keep_alive=False) as load:
        load.wait_for(20)
    assert (load.failed, load.cut) == ([], [])


def test_a_server_that_is_added_and_does_not_come_to_be(start, path):
    """A reload without a file goes back too, is not tried for ever, and whoever has asked is told."""
    daemon, ports, _ = start(WAYS["killed"][0])

    assert say(path, "add server web/bad 127.0.0.1:9") == "control killed by signal 9 (Killed)\n\n"
    daemon.wait_for_line("web/bad stays as it is: control killed by signal 9")
    assert "bad" not in say(path, "show servers state")
    assert say(path, "show overrides").count("\n") <= 3
    assert say(path, "add server web/good 127.0.0.1:9") == "New server registered.\n\n"
    assert "good" in say(path, "show servers state")
    assert sum("killed by signal 9" in line for line in daemon.out + daemon.err) <= 3
    assert get(ports["http"])


def test_what_was_counted_meanwhile_is_not_lost(start, path):
    _, ports, file = start(WAYS["a defect"][0])
    bad = {"mode": "tcp", "bind": f"127.0.0.1:{free_port()}", "default_backend": "echo"}
    write(file, lambda config: config["frontends"].update(bad=bad))

    def total() -> int:
        names, *rows = (line.split(",") for line in say(path, "show stat").splitlines())
        return next(int(row[names.index("req_tot")]) for row in rows if row[:2] == ["http", "FRONTEND"])

    with Load(ports["http"], clients=4) as load:
        for _ in range(2):
            load.wait_for(20)
            assert json.loads(say(path, "reload json"))["outcome"] == "rolled back"
    assert (load.failed, load.cut) == ([], [])
    done = load.done.total()
    until(lambda: total() == done, f"{done} requests")
