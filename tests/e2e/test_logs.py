"""The access log: a line for each way in which a connection ends, as HAProxy writes it, and where lines go."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.bed.clients import talk
from tests.e2e.bed.origin import Hole, Origin
from tests.e2e.bed.process import PATIENCE, free_port, until
from tests.e2e.bed.provoke import (
    CASES,
    FRONTENDS,
    GROUPS,
    HAPROXY,
    OURS,
    Case,
    Scene,
    group_of,
    masked,
    provoke,
)

PAGE = Path(__file__).parents[2] / "balancer" / "observe" / "LOGS.md"
BEGIN = "<!-- lines: begin -->\n"
END = "<!-- lines: end -->\n"


@pytest.fixture
def origin() -> Iterator[Callable[[], Origin]]:
    """Starts one."""
    started: list[Origin] = []

    def start() -> Origin:
        started.append(Origin())
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def hole() -> Iterator[Hole]:
    hole = Hole()
    yield hole
    hole.close()


def test_each_line_is_haproxys(balancer, haproxy, origin, hole, tmp_path):
    ports = {name.replace("-", "_"): free_port() for name in FRONTENDS}
    given = {"hole_": hole.port, "closed": free_port()}
    here, there = (Scene(ports, {group: origin() for group in GROUPS}, str(tmp_path / name), []) for name in "ab")
    scenes = []
    for scene in (here, there):
        own = {f"origin_{group}": each.port for group, each in scene.origins.items()} | {"admin": scene.admin} | given
        if scene is here:
            running = balancer(OURS, **own)
            scenes.append(replace(scene, ports=running.ports, lines=running.process.out))
        else:
            running = haproxy(HAPROXY.format(**own, **ports), ports=tuple(ports.values()))
            scenes.append(replace(scene, lines=running.process.out))
        until(Path(scene.admin).is_socket, "the runtime socket is there")

    def lines(scene: Scene, group: str) -> dict[Case, str]:
        found = {}
        for case in CASES:
            code = case.code if scene is scenes[0] else case.theirs or case.code
            if code != "-" and group_of(case.frontend) == group:
                found[case] = masked(provoke(case, code, scene))
        return found

    with concurrent.futures.ThreadPoolExecutor() as pool:
        work = [(pool.submit(lines, scenes[0], group), pool.submit(lines, scenes[1], group)) for group in GROUPS]
        told: dict[Case, str] = {}
        for mine, others in work:
            told |= mine.result()
            for case, line in others.result().items():
                code = case.theirs or case.code
                assert f" {code} " in line
                assert told[case] == line.replace(f" {code} ", f" {case.code} "), case.what
    bar = r"\|"
    rows = [f"| `{case.code}` | {case.what} | `{told[case].replace('|', bar)}` |\n" for case in CASES]
    compare_with_page("".join(rows), tmp_path)


def compare_with_page(rows: str, tmp_path: Path) -> None:
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = f"{before}{BEGIN}\n| code | what happened | line |\n|---|---|---|\n{rows}\n{END}{after}"
    if page != made:
        new = tmp_path / PAGE.name
        new.write_text(made)
        pytest.fail(f"{PAGE} is not what happens any more; {new} is")


# Where lines go

WEB = """
global:
  workers: 2
  runtime_socket: {path: ${admin}, level: admin}
  log: ${log}
defaults: {retries: 3, redispatch: true}
frontends:
  web: {mode: http, bind: "127.0.0.1:${web}", default_backend: web, http_request: {deny: 403, if: {path: /deny}}}
backends:
  web: {balance: first, servers: {s1: {address: "127.0.0.1:${closed}"}, s2: {address: "127.0.0.1:${origin}"}}}
"""


def ask(port: int, path: str) -> int:
    answer = talk(port, f"GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode())
    return int(answer.split()[1])


def command(path: str, text: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(path)
        sock.sendall(text.encode() + b"\n")
        return b"".join(iter(lambda: sock.recv(65536), b"")).decode()


@pytest.fixture
def serving(balancer, origin, tmp_path):
    """Starts it with these log targets."""

    def start(*targets: dict[str, object], text: str = WEB):
        admin = str(tmp_path / "admin.sock")
        given = {"origin": origin().port, "closed": free_port(), "admin": admin, "log": json.dumps(targets)}
        return balancer(text, **given)

    return start


def test_haproxy_log_analysis_reads_our_log(serving, tmp_path):
    file = tmp_path / "web.log"
    running = serving({"target": "stdout"}, {"target": str(file), "header": "rfc3164", "content": "traffic"})
    port = running.ports["web"]
    assert [ask(port, path) for path in ["/a"] * 5 + ["/deny", "/garbage", "/a?b=c"]] == [200] * 5 + [403, 502, 200]
    assert talk(port, b"it is not you\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    until(lambda: file.exists() and len(file.read_text().splitlines()) == 9, "all lines are there")

    tool = Path(sys.executable).with_name("haproxy_log_analysis")
    wanted = "counter,status_codes_counter,server_load,queue_peaks,connection_type,http_methods,request_path_counter"
    done = subprocess.run(
        [tool, "-l", file, "--invalid", "--json", "-c", wanted], capture_output=True, text=True, timeout=60, check=True
    )
    # A line that it does not understand would be printed.
    assert "pybalancer[" not in done.stdout
    found: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            for name, value in json.loads(line).items():
                found[name] = {k: v for each in value for k, v in each.items()} if isinstance(value, list) else value
    assert found["COUNTER"] == 9
    assert found["STATUS_CODES_COUNTER"] == {"200": 6, "403": 1, "502": 1, "400": 1}
    assert found["SERVER_LOAD"] == {"s2": 7, "<NOSRV>": 2}
    assert found["QUEUE_PEAKS"] == {}
    assert found["CONNECTION_TYPE"] == {"https": 0, "http": 9}
    assert found["HTTP_METHODS"] == {"GET": 8, "invalid": 1}
    assert found["REQUEST_PATH_COUNTER"]["/a"] == 5


def test_targets_that_do_not_work_slow_nobody_and_losses_are_told(serving, tmp_path):
    fifo, deaf, file = tmp_path / "fifo", tmp_path / "deaf", tmp_path / "file"
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unread, socket.create_server(("127.0.0.1", 0)) as hung:
        unread.bind(str(deaf))
        running = serving(
            {"target": "stdout"},
            {"target": "/dev/full"},
            {"target": str(fifo)},
            {"target": f"unix:{deaf}"},
            {"target": f"tcp://127.0.0.1:{hung.getsockname()[1]}"},
            {"target": f"tcp://127.0.0.1:{free_port()}"},
            {"target": str(file), "content": "traffic"},
        )
        connections = [http.client.HTTPConnection("127.0.0.1", running.ports["web"], timeout=5) for _ in range(4)]
        slowest = 0.0
        for _ in range(250):
            for connection in connections:
                began = time.monotonic()
                connection.request("GET", "/ok")
                assert connection.getresponse().read() == b"ok\n"
                slowest = max(slowest, time.monotonic() - began)
        for connection in connections:
            connection.close()
        assert slowest < 1
        until(lambda: len(file.read_text().splitlines()) == 1000, "who can be told is told")
        until(lambda: running.metric("haproxy_process_dropped_logs_total") >= 2000, "losses are counted")
        admin = running.config["global"]["runtime_socket"]["path"]
        found = re.search(r"^DroppedLogs: (\d+)$", command(admin, "show info"), re.MULTILINE)
        assert found and int(found[1]) >= 2000
        # It opens again.
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(reader, "rb") as opened:
            told = b""

            def read() -> bool:
                nonlocal told
                assert ask(running.ports["web"], "/ok") == 200
                told += opened.read() or b""
                return re.search(rb"WARNING: log target %b did not take \d+ lines" % bytes(fifo), told) is not None

            until(read, "the loss is told")


def test_a_file_goes_on_after_it_was_rotated(serving, ground):
    folder = ground / "logs"
    folder.mkdir(exist_ok=True)
    text = WEB
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        text = WEB.replace("  workers: 2", "  workers: 2\n  user: nobody").replace(
            "runtime_socket: {path: ${admin}, level: admin}", f"runtime_socket: {{path: {folder}/admin.sock}}"
        )
    file = folder / "web.log"
    running = serving({"target": "stdout"}, {"target": str(file)}, text=text)
    assert ask(running.ports["web"], "/before") == 200
    until(lambda: "/before" in file.read_text(), "it is written")
    file.rename(folder / "web.log.1")
    asked = 0

    def is_anew() -> bool:
        nonlocal asked
        asked += 1
        ask(running.ports["web"], f"/after{asked}")
        return file.exists() and "/after" in file.read_text()

    until(is_anew, "there is a new one")
    running.process.signal(signal.SIGHUP)
    running.wait_for_line("NOTICE: reloaded")
    assert ask(running.ports["web"], "/reloaded") == 200
    until(lambda: "/reloaded" in file.read_text(), "the next workers write to it too")
    both = (folder / "web.log.1").read_text() + file.read_text()
    assert len(re.findall(r"/after\d+ ", both)) == asked


@pytest.mark.skipif(os.getuid() != 0, reason="the workers drop root")
def test_files_of_a_directory_of_root_are_made_anew_without_a_line(serving, ground):
    folder = ground / "roots-logs"
    folder.mkdir()
    traffic, own = folder / "traffic.log", folder / "own.log"
    text = WEB.replace("  workers: 2", "  workers: 2\n  user: nobody").replace(
        "default_backend: web,", f"default_backend: web, log: [{{target: {traffic}}}, {{target: {own}}}],"
    )
    text = text.replace("  log: ${log}", f"  log: [{{target: stdout}}, {{target: {traffic}, content: traffic}}]")
    running = serving(text=text)
    port = running.ports["web"]
    assert ask(port, "/before") == 200
    for file in (traffic, own):
        until(lambda file=file: "/before" in file.read_text(), "it is written")
        file.rename(f"{file}.1")
    for file in (traffic, own):
        until(file.exists, "nobody asks, and it is there")
        assert file.owner() == "nobody"
    asked = 0

    def is_anew() -> bool:
        nonlocal asked
        asked += 1
        ask(port, f"/after{asked}")
        return all("/after" in file.read_text() for file in (traffic, own))

    until(is_anew, "the workers write to the new ones")
    both = Path(f"{own}.1").read_text() + own.read_text()
    assert "did not take" not in both
